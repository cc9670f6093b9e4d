"""How much of a GPU a training uses: the FLOPs of its model against the peak rate of the card, and its memory."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from wordmask.config.run_arguments import RunArguments
from wordmask.utils.quantities import size

# Dense bfloat16 or float16 rates with float32 sums, in FLOP/s, from the makers' data sheets.
_PEAKS = {
    r"B200": 2250e12,
    r"H200": 989e12,
    r"H100 NVL": 835e12,
    r"H100 PCIe": 756e12,
    r"H100": 989e12,
    r"A100": 312e12,
    r"L40S": 362e12,
    r"L4\b": 121e12,
    r"A40\b": 150e12,
    r"A10\b": 125e12,
    r"RTX A6000": 155e12,
    r"RTX 4090": 165e12,
    r"RTX 3090": 71e12,
    r"V100": 125e12,
    r"T4\b": 65e12,
    r"MI300X": 1307e12,
}


def peak_rate(device: str, precision: torch.dtype | None) -> float | None:
    """The peak rate of a card in FLOP/s; `None` where it is not known, as for float32."""
    if precision not in (torch.bfloat16, torch.float16):
        return None
    return next((rate for name, rate in _PEAKS.items() if re.search(rf"\b{name}", device)), None)


def flops_per_token(model: PreTrainedModel, length: float, predicted: float) -> float:
    """The FLOPs of a forward and backward step for one token.

    These are six for each weight that multiplies it, and those of attention (PaLM, arXiv 2204.02311, appendix B).
    Recomputed activations do not count.

    Args:
        model: any masked language model.
        length: the tokens that a token attends to.
        predicted: the share of the tokens that the output embeddings see: 1 without sparse prediction.
    """
    config, output = model.config, model.get_output_embeddings()
    head: Any = getattr(output, "weight", None)  # may be tied to the input embeddings, which only look up
    tables = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)} | {id(head)}
    weights = sum(weight.numel() for weight in model.parameters() if weight.ndim > 1 and id(weight) not in tables)
    weights += 0 if head is None else predicted * head.numel()
    layers, hidden = getattr(config, "num_hidden_layers", 0), getattr(config, "hidden_size", 0)
    return 6 * weights + 12 * layers * hidden * length


@dataclass(frozen=True)
class Utilisation:
    """The use of a GPU.

    Attributes:
        device: the GPU.
        flops: those of a token.
        peak: the peak rate of the card in FLOP/s; `None` where it is not known.
    """

    device: torch.device
    flops: float
    peak: float | None

    @classmethod
    def of(cls, args: RunArguments, model: Any, predicted: float) -> Utilisation | None:
        """The use of the device of a run; `None` if that is no GPU."""
        if args.device.type != "cuda" or model is None:
            return None
        # Attention is left out, since its length differs from step to step; it is small at the usual lengths.
        flops = flops_per_token(model, 0.0, predicted)
        return cls(args.device, flops, peak_rate(torch.cuda.get_device_name(args.device), args.half_dtype))

    def figures(self, tokens_per_second: float) -> list[str]:
        """MFU and memory, for a bar; does not wait for the GPU."""
        used = torch.cuda.max_memory_reserved(self.device)
        whole = torch.cuda.get_device_properties(self.device).total_memory
        share = f"MFU {tokens_per_second * self.flops / self.peak:.0%}" if self.peak and tokens_per_second else ""
        return [figure for figure in (share, f"{size(used)} of {size(whole)}") if figure]
