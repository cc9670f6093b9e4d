"""Choose how batches go through a model: what the flags ask for, and what the model is found to do."""

from __future__ import annotations

import logging
from typing import Any

import torch
from transformers import PreTrainedModel

from wordmask.config.arguments import Arguments
from wordmask.config.attention_checks import is_varlen_available
from wordmask.config.flag_checks import needs_whole_batches
from wordmask.config.model_arguments import VARLEN
from wordmask.config.run_arguments import RunArguments
from wordmask.models.forward import Forward
from wordmask.models.half_residual import halve_residual, restore_residual
from wordmask.models.loss_head import LossHead, find_loss_head
from wordmask.models.packed_attention import FlatAttention, PackedAttention, flat_attention, packed_attention
from wordmask.models.padding_mask import padding_mask
from wordmask.models.probing import named, or_none
from wordmask.models.varlen_attention import AttentionDropoutError
from wordmask.utils.errors import InputError, kind_of

logger = logging.getLogger(__name__)

WITH_MASKS = ("sdpa", "eager", "flex_attention")  # implementations of attention that take no bounds of documents
AMPERE = 8  # the compute capability of the oldest cards with such kernels
TOKENS_ON_CPU = 2048  # in a micro-batch; more are no faster there


def computes_in_half(training: RunArguments, model: PreTrainedModel) -> bool:
    """Whether a model computes in half precision, by autocast or since its weights have it."""
    return training.half_dtype is not None or model.dtype.itemsize == 2


def default_forward(training: RunArguments, model: PreTrainedModel) -> Forward:
    """The forward pass of a program of one's own: sparse prediction, if the model can, and no waits."""
    with _trying(training, model):
        # Elsewhere there is nothing to wait for.
        padding = or_none(padding_mask(model)) if training.device.type == "cuda" else None
        return _forward(training, model, sparse=True, padding=padding)


def choose_forward(arguments: Arguments, model: PreTrainedModel, longest: int) -> Forward:
    """The forward pass that the flags ask for.

    Args:
        arguments, model: of the run.
        longest: the tokens of the longest sequence.

    Raises:
        InputError: if the model cannot do it, or if flags exclude each other.
    """
    attention: PackedAttention | FlatAttention | None = _flat_attention(arguments, model)
    micro_batch_tokens = _micro_batch_tokens(arguments, flat=attention is not None)
    pads, device = attention is None and not arguments.data.pack_sequences, arguments.training.device.type
    waits = device == "cuda" or device == "cpu" and micro_batch_tokens is None  # so that a CPU can test it
    with _trying(arguments.training, model):
        return _forward(
            arguments.training,
            model,
            arguments.model.sparse_prediction,
            attention=attention or (_packed_attention(model, longest) if arguments.data.pack_sequences else None),
            padding=or_none(padding_mask(model, longest)) if pads and waits else None,
            micro_batch_tokens=micro_batch_tokens,
            fixed=arguments.data.pad_to_max_length,
        )


def _forward(training: RunArguments, model: PreTrainedModel, sparse: bool, **settings: Any) -> Forward:
    if training.residual_in_fp32:
        restore_residual(model)  # it may have been halved for another training
    else:
        _halve_residual(model)
    return Forward.of(
        model,
        sparse,
        training.label_smoothing_factor,
        half=computes_in_half(training, model),
        head=_chunked_head(model) if training.chunked_head else None,
        **settings,
    )


def _trying(training: RunArguments, model: PreTrainedModel) -> torch.autocast:
    """What a model can do is tried in full precision; only flash attention has none."""
    return _half(training, "flash" in str(model.config._attn_implementation))


def _half(training: RunArguments, enabled: bool = True) -> torch.autocast:
    return torch.autocast(training.device.type, training.half_dtype or torch.bfloat16, enabled=enabled)


def _flat_attention(arguments: Arguments, model: PreTrainedModel) -> FlatAttention | None:
    """How documents of flat batches are kept apart: if the attention that is asked for takes these, or on a GPU.

    Raises:
        InputError: if varlen attention is asked for, and this model or this device cannot do it.
    """
    asked, training = arguments.model.attn_implementation, arguments.training
    has_varlen = training.device.type == "cuda" and is_varlen_available()
    if asked == VARLEN or asked is None and has_varlen and model.config._attn_implementation == "sdpa":
        return _varlen_attention(arguments, model, is_asked=asked == VARLEN)
    if asked in (None, *WITH_MASKS) or training.tokens_per_pass:
        return None
    return or_none(_try_flat(training, model))


def _varlen_attention(arguments: Arguments, model: PreTrainedModel, is_asked: bool) -> FlatAttention | None:
    """Give a model varlen attention; `None`, with a message, if it keeps its own, since flags or dropout exclude it.

    Raises:
        InputError: if it is asked for, and this model or this device cannot do it.
    """
    name, before, reason = type(model).__name__, model.config._attn_implementation, _excluded(arguments, model)
    if reason is None:
        model.set_attn_implementation(VARLEN)
        found = _try_flat(arguments.training, model)
        if not isinstance(found, Exception):
            return found
        model.set_attn_implementation(before)
        if isinstance(found, AttentionDropoutError):
            reason = "the model has attention dropout; --dropout 0 drops it"
        elif is_asked:
            raise InputError(
                f"--attn_implementation varlen: the attention of {name} does not take the bounds of documents on this "
                f"device ({named(found)}); give {before}"
            )
        else:
            reason = named(found)
    level = logging.WARNING if is_asked else logging.INFO
    logger.log(level, "%s uses %s attention with masks instead of varlen: %s", name, before, reason)
    return None


def _excluded(arguments: Arguments, model: PreTrainedModel) -> str | None:
    """Why a run cannot use varlen attention, whatever the architecture; `None` if it can."""
    training = arguments.training
    if training.device.type not in ("cpu", "cuda"):
        return "it needs a GPU"
    if training.device.type == "cuda" and not computes_in_half(training, model):
        return "it needs --bf16 or --fp16"
    if training.device.type == "cuda" and torch.cuda.get_device_capability(training.device)[0] < AMPERE:
        return "it needs a newer card (Ampere or later)"
    return "--tokens_per_pass divides batches by their lengths" if training.tokens_per_pass else None


def _try_flat(training: RunArguments, model: PreTrainedModel) -> FlatAttention | Exception:
    """What `flat_attention` finds: on a GPU in full precision, without a kernel, and then in half, with one."""
    with _trying(training, model):
        found = flat_attention(model)
    if isinstance(found, Exception) or model.device.type != "cuda":
        return found
    with _half(training):
        return flat_attention(model)


def _halve_residual(model: PreTrainedModel) -> None:
    if (reason := halve_residual(model)) is not None:
        raise InputError(
            f"--no_residual_in_fp32: {kind_of(model)} cannot have its sums between layers in half precision "
            f"({named(reason)}); drop the flag"
        )


def _chunked_head(model: PreTrainedModel) -> LossHead:
    found = find_loss_head(model, chunked=True)
    if isinstance(found, Exception):
        raise InputError(
            f"--chunked_head: the head of {kind_of(model)} does not give the same loss in chunks "
            f"({named(found)}); drop the flag"
        )
    return found


def _packed_attention(model: PreTrainedModel, longest: int) -> PackedAttention:
    attention = packed_attention(model, longest)
    if isinstance(attention, Exception):
        has_other = model._supports_sdpa and model.config._attn_implementation != "sdpa"
        or_sdpa = ", or try --attn_implementation sdpa" if has_other else ""
        raise InputError(
            f"--pack_sequences: {type(model).__name__} with {model.config._attn_implementation} attention cannot keep "
            f"the documents of a sequence apart; drop the flag{or_sdpa}"
        )
    return attention


def _micro_batch_tokens(arguments: Arguments, flat: bool) -> int | None:
    asked = arguments.training.tokens_per_pass
    if asked is not None:
        return asked or None
    whole = flat or needs_whole_batches(arguments) is not None
    return TOKENS_ON_CPU if arguments.training.device.type == "cpu" and not whole else None
