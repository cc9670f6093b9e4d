"""The type in which autocast has a tensor computed."""

from __future__ import annotations

import torch


def autocast_dtype(tensor: torch.Tensor) -> torch.dtype:
    """The type that autocast gives to a multiplication of a tensor; its own type where autocast is off."""
    device = tensor.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else tensor.dtype
