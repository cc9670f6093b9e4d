"""How batches go through a model: at which positions it predicts, how lines are kept apart, how much at a time."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import torch

from wordmask.config.arguments import Arguments
from wordmask.models.packed_attention import PackedAttention, packed_attention
from wordmask.models.sparse_prediction import SparsePrediction, find_sparse_prediction
from wordmask.utils.errors import InputError

logger = logging.getLogger(__name__)

PASS_ON_CPU = 2048  # tokens: more at once is no faster there


@dataclass(frozen=True)
class Forward:
    """How batches go through a model; as they are where nothing is said.

    Attributes:
        sparse: the model's hook for sparse prediction; it predicts at every position if `None`.
        attention: how it keeps the lines of a row apart; `None` where each row is one.
        tokens_per_pass: the most tokens at once; all of a batch if `None`.
        fixed: whether every batch has the same shape.
    """

    sparse: SparsePrediction | None = None
    attention: PackedAttention | None = None
    tokens_per_pass: int | None = None
    fixed: bool = False


def choose_forward(arguments: Arguments, model: Any) -> Forward:
    """What the flags ask for, as far as the model can take it.

    Raises:
        InputError: where it cannot, or where flags exclude each other.
    """
    # What a model can take is tried in full precision, but for flash attention, which has none.
    training, flash = arguments.training, "flash" in str(model.config._attn_implementation)
    half = torch.float16 if training.fp16 else torch.bfloat16
    with torch.autocast(training.device.type, half, enabled=flash):
        sparse = _sparse(arguments, model)
        attention = _attention(model) if arguments.data.pack_sequences else None
    return Forward(
        sparse=sparse,
        attention=attention,
        tokens_per_pass=_tokens_per_pass(arguments),
        fixed=arguments.data.pad_to_max_length,
    )


def _sparse(arguments: Arguments, model: Any) -> SparsePrediction | None:
    if not arguments.model.sparse_prediction:
        return None
    if arguments.training.label_smoothing_factor:
        logger.warning("--sparse_prediction: label smoothing needs every position, so none is left out")
        return None
    return find_sparse_prediction(model)


def _attention(model: Any) -> PackedAttention:
    attention = packed_attention(model)
    if attention is None:
        raise InputError(
            f"--pack_sequences: {type(model).__name__} with {model.config._attn_implementation} attention cannot keep "
            f"the lines of a row apart; drop the flag{', or try --attn_implementation sdpa' * model._supports_sdpa}"
        )
    return attention


def _tokens_per_pass(arguments: Arguments) -> int | None:
    training, asked = arguments.training, arguments.training.tokens_per_pass
    whole = {"--pad_to_max_length": arguments.data.pad_to_max_length}
    whole |= {"--deepspeed": bool(training.deepspeed), "--fsdp": bool(training.fsdp)}
    if any(whole.values()):
        if asked:
            other = next(flag for flag, is_given in whole.items() if is_given)
            raise InputError(
                f"--tokens_per_pass divides batches by their lengths, and {other} needs them whole; raise "
                "--gradient_accumulation_steps instead"
            )
        return None
    return (PASS_ON_CPU if training.device.type == "cpu" else None) if asked is None else asked or None
