"""--attn_implementation: refuse one that this machine lacks, before a model is loaded."""

from __future__ import annotations

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available, is_flash_attn_4_available
from transformers.utils.import_utils import is_kernels_available, is_torch_greater_or_equal

from wordmask.config.model_arguments import VARLEN
from wordmask.utils.errors import InputError, suggest

# Whether each package of flash attention is there, with a GPU that it knows.
FLASH = {
    "flash_attention_2": ("flash-attn", is_flash_attn_2_available),
    "flash_attention_3": ("flash-attn-3", is_flash_attn_3_available),
    "flash_attention_4": ("flash-attn-4", is_flash_attn_4_available),
}


def is_varlen_available() -> bool:
    """Whether this version of PyTorch has attention by the bounds of documents, with windows and a scale."""
    return is_torch_greater_or_equal("2.11", accept_dev=True)


def check_attention(asked: str | None) -> None:
    """Raise an `InputError` if transformers has no such attention, or if what it needs is not installed."""
    # Those with a bar are for generation.
    known = sorted({"eager", VARLEN, *(name for name in ALL_ATTENTION_FUNCTIONS.valid_keys() if "|" not in name)})
    if asked is None:
        return
    if "/" in asked:  # a kernel of the hub
        if not is_kernels_available():
            raise InputError(
                f"--attn_implementation {asked} is a kernel of the hub and needs its package: pip install kernels; or "
                "give sdpa"
            )
    elif asked not in known:
        raise InputError(
            f"--attn_implementation: {asked} is not known{suggest(asked, known)}; the usual ones are sdpa, "
            "eager, varlen and flash_attention_2"
        )
    elif asked == VARLEN and not is_varlen_available():
        raise InputError("--attn_implementation varlen needs torch 2.11 or newer; give sdpa instead")
    elif asked in FLASH:
        package, is_available = FLASH[asked]
        if not is_available():
            raise InputError(f"--attn_implementation {asked} needs a GPU and {package}; give sdpa instead")


def check_flash(asked: str | None, device: torch.device, is_half: bool) -> None:
    """Raise an `InputError` if this is flash attention, and this device or precision is not for it.

    Args:
        asked: the name of the attention.
        device: of the run.
        is_half: whether the model computes in half precision.
    """
    if asked not in FLASH:
        return
    if device.type == "cpu":
        raise InputError(f"--attn_implementation {asked} needs a GPU, and this run is on a CPU; give sdpa instead")
    if device.type == "cuda" and torch.version.hip is None and torch.cuda.get_device_capability(device) < (8, 0):
        raise InputError(
            f"--attn_implementation {asked} needs a newer GPU (NVIDIA's Ampere or later); give sdpa instead"
        )
    if not is_half:
        raise InputError(f"--attn_implementation {asked} computes in half precision only; add --bf16, or give sdpa")
