"""What a compiled layer keeps for its backward pass, by --activation_memory_budget and --residual_in_fp32.

    python benchmarks/activation_memory.py

Kilobytes (1,024 bytes) for each token and layer of the base models, in bfloat16 and with varlen attention, as in
configs/gpu.yaml, without the weights. Graphs are made and divided as for training, and not compiled, and attention
computes nothing, so this runs on any machine, in one to two minutes.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from typing import Any
from unittest.mock import patch

import torch
from rich.console import Console
from rich.table import Table
from torch.nn.attention import varlen
from transformers import AutoConfig, AutoModel

from wordmask.config.model_arguments import VARLEN
from wordmask.models import varlen_attention
from wordmask.models.compilation import compile_layers, repeated_layers
from wordmask.models.half_residual import halve_residual

BACKEND = "aot_eager_decomp_partition"  # makes graphs and divides them as inductor does
# Enough that the activations of a layer take more memory than its weights. 511 = 7 × 73 divides the size of no weight.
DOCUMENTS, LENGTH = 16, 511
SPECIAL = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 0)
SETTINGS = {"bert": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}, "modernbert": {}}
NO_MASK = {"bert": None, "modernbert": {"full_attention": None, "sliding_attention": None}}


def attends_to_nothing(query: torch.Tensor, *others: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tensors as the operation of varlen attention gives them: outputs, normalizers, and the state of dropout."""
    normalizers = query.new_zeros(query.shape[1::-1], dtype=torch.float32)
    return torch.zeros_like(query).contiguous(), normalizers, torch.zeros(2, dtype=torch.uint64)


def kept_bytes(output: torch.Tensor, tokens: int) -> int:
    """The bytes of the activations that compiled graphs keep for the backward pass.

    Args:
        output: comes from these graphs.
        tokens: of the batch. What has a multiple of so many numbers is no weight.
    """
    found, waiting, seen = {}, [output.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [before for before, _ in node.next_functions]
            tensors = node.saved_tensors if "Compiled" in node.name() else ()  # type: ignore[attr-defined]
            for tensor in (tensor for tensor in tensors if tensor.numel() % tokens == 0):
                found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    return sum(found.values())


def kept_by_layer(model_type: str, budget: float, in_fp32: bool) -> float:
    """The bytes that each of two layers of a base model keeps for a token, with the sums between layers in single
    precision or not."""
    torch._dynamo.reset()
    config = AutoConfig.for_model(model_type, vocab_size=100, num_hidden_layers=2, **SPECIAL, **SETTINGS[model_type])
    model = AutoModel.from_config(config, attn_implementation=VARLEN).train()
    if not in_fp32:
        halve_residual(model)
    compile_layers(model, None, BACKEND, None, budget)
    tokens = DOCUMENTS * LENGTH
    bounds = torch.arange(0, tokens + 1, LENGTH, dtype=torch.int32)
    batch = {
        "input_ids": torch.arange(tokens)[None] % 90 + 5,
        "position_ids": torch.arange(LENGTH).repeat(DOCUMENTS)[None],
        "attention_mask": NO_MASK[model_type],
        **{f"cu_seq_lens_{side}": bounds for side in "qk"},
        **{f"max_length_{side}": LENGTH for side in "qk"},
    }
    with torch.autocast("cpu", torch.bfloat16):
        kept = kept_bytes(model(**batch)[0], tokens)
    return kept / tokens / len(repeated_layers(model))


def main(argv: Sequence[str] | None = None) -> dict[tuple[bool, float], dict[str, float]]:
    """Print the table, and return its kilobytes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budgets", nargs="+", type=float, default=[1.0, 0.8, 0.6, 0.5, 0.3])
    budgets = parser.parse_args(argv).budgets
    table = Table("residual in fp32", "budget", *(f"{name}, KB" for name in SETTINGS))
    found = {}
    varlen._varlen_attn.register_kernel("cpu")(attends_to_nothing)
    for in_fp32, budget in itertools.product((True, False), budgets):
        kernel = patch.object(varlen_attention, "_has_kernel", lambda query: True)
        with kernel, torch._functorch.config.patch(activation_memory_budget=1.0):
            kept = {name: kept_by_layer(name, budget, in_fp32) / 1024 for name in SETTINGS}
        table.add_row("yes" if in_fp32 else "no", f"{budget:g}", *(f"{kilobytes:.1f}" for kilobytes in kept.values()))
        found[in_fp32, budget] = kept
    Console(width=118).print(table)
    return found


if __name__ == "__main__":
    main()
