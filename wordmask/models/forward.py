"""How a batch goes through a model: where it predicts, what keeps documents apart, how large micro-batches are."""

from __future__ import annotations

import contextlib
import inspect
import logging
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedModel
from transformers.trainer_pt_utils import LabelSmoother

from wordmask.config.arguments import Arguments
from wordmask.config.attention_checks import is_varlen_available
from wordmask.config.model_arguments import VARLEN
from wordmask.config.run_arguments import RunArguments
from wordmask.masking import IGNORED
from wordmask.models.loss_head import LossHead, find_loss_head, mean_cross_entropy
from wordmask.models.packed_attention import FlatAttention, PackedAttention, flat_attention, packed_attention
from wordmask.models.padding_mask import PaddingMask, padding_mask
from wordmask.models.sparse_prediction import SparsePrediction, find_sparse_prediction, labelled_positions
from wordmask.models.varlen_attention import AttentionDropoutError
from wordmask.utils.errors import InputError

logger = logging.getLogger(__name__)

WITH_MASKS = ("sdpa", "eager", "flex_attention")  # implementations of attention that take no bounds of documents
TOKENS_ON_CPU = 2048  # in a micro-batch; more are no faster there


class Prediction(NamedTuple):
    """What a model gives for a batch.

    Attributes:
        loss: the mean over the labels of the batch; 0, with a gradient of 0, if it has no label.
        outputs: the model's own outputs.
        positions: (kept,) the flat positions of (batch × length) that `logits` are for; `None` for all of them.
    """

    loss: torch.Tensor
    outputs: Any
    positions: torch.Tensor | None

    @property
    def logits(self) -> torch.Tensor:
        """(1, kept, vocabulary) or, if all positions are kept, (batch, length, vocabulary)."""
        return self.outputs["logits"] if isinstance(self.outputs, dict) else self.outputs[-1]


@dataclass(frozen=True)
class Forward:
    """One forward pass, with what a model needs for it. The defaults predict at every position.

        prediction = Forward.of(model)(model, batch)
        prediction.loss.backward()

    Attributes:
        sparse: the model's hook for sparse prediction; `None` predicts at every position.
        attention: keeps the documents of packed sequences or of flat batches apart; `None` for neither.
        label_smoother: computes the loss of a model in training mode, instead of the model. In evaluation mode, the
            loss is the plain cross-entropy, by which runs with different smoothing can be compared.
        padding: makes the mask of padding, so that nothing looks at it; `None` leaves that to the model.
        head: computes the loss of a model in training mode in its last layer, in single precision. In evaluation mode
            the loss is computed from the logits then, in single precision, too.
        takes_attention_mask: whether the model's forward has this parameter.
        micro_batch_tokens: the most tokens in a micro-batch, padding included; `None` for no limit.
        fixed: whether every batch has the same shape.
    """

    sparse: SparsePrediction | None = None
    attention: PackedAttention | FlatAttention | None = None
    label_smoother: LabelSmoother | None = None
    padding: PaddingMask | None = None
    head: LossHead | None = None
    takes_attention_mask: bool = True
    micro_batch_tokens: int | None = None
    fixed: bool = False

    @property
    def flat(self) -> bool:
        """Whether training needs flat batches."""
        return isinstance(self.attention, FlatAttention)

    @classmethod
    def of(
        cls,
        model: PreTrainedModel,
        sparse: bool = False,
        label_smoothing: float = 0.0,
        half: bool = False,
        **settings: Any,
    ) -> Forward:
        """The forward pass of a model.

        Args:
            model: a masked language model, in any mode, which is left as it is.
            sparse: whether it predicts at labelled positions only, if it can.
            label_smoothing: the label smoothing factor; 0 for none.
            half: whether it computes in half precision; then it gets a `head`, if it can and labels are not smoothed.
            settings: other attributes.
        """
        if half and not label_smoothing and settings.get("head") is None:
            found = find_loss_head(model)
            settings["head"] = found if isinstance(found, LossHead) else None
        return cls(
            sparse=find_sparse_prediction(model) if sparse else None,
            label_smoother=LabelSmoother(epsilon=label_smoothing) if label_smoothing else None,
            takes_attention_mask="attention_mask" in inspect.signature(model.forward).parameters,
            **settings,
        )

    def __call__(self, model: torch.nn.Module, batch: dict[str, Any]) -> Prediction:
        """Send a batch through a model.

        Args:
            model: the model that this was made for, or a wrapper of it for several processes.
            batch: tensors (batch, length): `input_ids`, `attention_mask`, `labels`, and `sequence_ids` if packed, or
                what `flatten` in data/collator.py adds; maybe `positions`, (kept,), the flat positions to predict at,
                and `is_padded`, whether it has padding.
        """
        inputs = dict(batch)
        labels, positions = inputs.pop("labels"), inputs.pop("positions", None)
        if not self.takes_attention_mask:
            inputs.pop("attention_mask", None)
        is_padded = inputs.pop("is_padded", None)
        if is_padded is not None and self.padding is not None:
            inputs["attention_mask"] = self.padding.of(inputs["attention_mask"]) if is_padded else None
        places = inputs.pop("sequence_ids", inputs.get("position_ids"))
        if places is not None and self.attention is not None:
            inputs |= self.attention.inputs(places)
        if "cu_seq_lens_q" in inputs:
            # The number of documents differs between batches of one shape, and needs no other graph.
            for side in "qk":
                torch._dynamo.maybe_mark_dynamic(inputs[f"cu_seq_lens_{side}"], 0)
        # A mean over no label is NaN, and 0 times NaN is NaN. So such a batch gets one label, and its loss weight 0.
        has_labels = labels.ne(IGNORED).any()
        labels = labels.clone()
        labels[0, 0] = torch.where(has_labels, labels[0, 0], inputs["input_ids"][0, 0])
        here: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        if self.sparse is None:
            positions = None
        else:
            positions = labelled_positions(labels) if positions is None else positions
            labels = labels.view(-1)[positions][None]
            here = self.sparse.at(positions)
        with here:
            outputs, loss = self._loss(model, inputs, labels)
        return Prediction(loss * has_labels, outputs, positions)

    def _loss(self, model: torch.nn.Module, inputs: dict[str, Any], labels: torch.Tensor) -> tuple[Any, torch.Tensor]:
        """The outputs of a model, and its loss."""
        if self.head is not None:
            with self.head.at(labels) if model.training else contextlib.nullcontext():
                outputs = model(**inputs)
            logits = outputs["logits"] if isinstance(outputs, dict) else outputs[0]
            return outputs, logits if model.training else mean_cross_entropy(logits, labels)
        if self.label_smoother is not None and model.training:
            outputs = model(**inputs)
            return outputs, self.label_smoother(outputs, labels)
        outputs = model(**inputs, labels=labels)
        return outputs, outputs["loss"] if isinstance(outputs, dict) else outputs[0]


def computes_in_half(training: RunArguments, model: PreTrainedModel) -> bool:
    """Whether a model computes in half precision, by autocast or since its weights have it."""
    return training.half_dtype is not None or model.dtype.itemsize == 2


def choose_forward(arguments: Arguments, model: PreTrainedModel) -> Forward:
    """The forward pass that the flags ask for.

    Raises:
        InputError: if the model cannot do it, or if flags exclude each other.
    """
    attention: PackedAttention | FlatAttention | None = _flat_attention(arguments, model)
    micro_batch_tokens = _micro_batch_tokens(arguments, flat=attention is not None)
    pads, device = attention is None and not arguments.data.pack_sequences, arguments.training.device.type
    waits = device == "cuda" or device == "cpu" and micro_batch_tokens is None  # so that a CPU can test it
    with _trying(arguments.training, model):
        return Forward.of(
            model,
            arguments.model.sparse_prediction,
            arguments.training.label_smoothing_factor,
            half=computes_in_half(arguments.training, model),
            head=_chunked_head(model) if arguments.training.chunked_head else None,
            attention=attention or (_packed_attention(model) if arguments.data.pack_sequences else None),
            padding=padding_mask(model) if pads and waits else None,
            micro_batch_tokens=micro_batch_tokens,
            fixed=arguments.data.pad_to_max_length,
        )


def _trying(training: RunArguments, model: PreTrainedModel) -> torch.autocast:
    """What a model can do is tried in full precision; only flash attention has none."""
    return _half(training, "flash" in str(model.config._attn_implementation))


def _half(training: RunArguments, enabled: bool = True) -> torch.autocast:
    return torch.autocast(training.device.type, training.half_dtype or torch.bfloat16, enabled=enabled)


def _flat_attention(arguments: Arguments, model: PreTrainedModel) -> FlatAttention | None:
    """How documents of flat batches are kept apart: if the attention that is asked for takes these, or on a GPU.

    If varlen attention is asked for and these flags or this model's dropout exclude it, the model gets sdpa.

    Raises:
        InputError: if it is asked for, and this model or this device cannot do it.
    """
    asked, training, name = arguments.model.attn_implementation, arguments.training, type(model).__name__
    if asked not in (None, VARLEN, *WITH_MASKS) and not training.tokens_per_pass:
        found = _try_flat(training, model)
        return found if isinstance(found, FlatAttention) else None
    before = model.config._attn_implementation
    suits = asked is None and before == "sdpa" and training.device.type == "cuda" and is_varlen_available()
    if not (asked == VARLEN or suits):
        return None
    reason = _excluded(arguments, model)
    if reason is None:
        model.set_attn_implementation(VARLEN)
        found = _try_flat(training, model)
        if isinstance(found, FlatAttention):
            return found
        model.set_attn_implementation(before)
        has_dropout = found == AttentionDropoutError.__name__
        if asked == VARLEN and not has_dropout:
            raise InputError(
                f"--attn_implementation varlen: the attention of {name} does not take the bounds of documents on this "
                f"device ({found}); give {before}"
            )
        reason = "the model has attention dropout; --dropout 0 drops it" if has_dropout else found
    level = logging.WARNING if asked == VARLEN else logging.INFO
    logger.log(level, "%s uses %s attention with masks instead of varlen: %s", name, before, reason)
    return None


def _excluded(arguments: Arguments, model: PreTrainedModel) -> str | None:
    """Why a run cannot use varlen attention, whatever the architecture; `None` if it can."""
    training = arguments.training
    if training.device.type not in ("cpu", "cuda"):
        return "it needs a GPU"
    if training.device.type == "cuda" and not computes_in_half(training, model):
        return "it needs --bf16 or --fp16"
    return "--tokens_per_pass divides batches by their lengths" if training.tokens_per_pass else None


def _try_flat(training: RunArguments, model: PreTrainedModel) -> FlatAttention | str:
    """What `flat_attention` finds: on a GPU in full precision, without a kernel, and then in half, with one."""
    with _trying(training, model):
        found = flat_attention(model)
    if isinstance(found, str) or model.device.type != "cuda":
        return found
    with _half(training):
        return flat_attention(model)


def _chunked_head(model: PreTrainedModel) -> LossHead:
    found = find_loss_head(model, chunked=True)
    if isinstance(found, str):
        raise InputError(
            f"--chunked_head: the head of a {type(model).__name__} does not give the same loss in chunks ({found}); "
            "drop the flag"
        )
    return found


def _packed_attention(model: PreTrainedModel) -> PackedAttention:
    attention = packed_attention(model)
    if attention is None:
        or_sdpa = ", or try --attn_implementation sdpa" * model._supports_sdpa
        raise InputError(
            f"--pack_sequences: {type(model).__name__} with {model.config._attn_implementation} attention cannot keep "
            f"the documents of a sequence apart; drop the flag{or_sdpa}"
        )
    return attention


def _micro_batch_tokens(arguments: Arguments, flat: bool) -> int | None:
    training, asked = arguments.training, arguments.training.tokens_per_pass
    need_whole_batches = {
        "--pad_to_max_length": arguments.data.pad_to_max_length,
        "--deepspeed": bool(training.deepspeed),
        "--fsdp": bool(training.fsdp),
    }
    flag = next((flag for flag, is_given in need_whole_batches.items() if is_given), None)
    if flag and asked:
        raise InputError(
            f"--tokens_per_pass divides batches by their lengths, and {flag} needs them whole; raise "
            "--gradient_accumulation_steps instead"
        )
    default = TOKENS_ON_CPU if training.device.type == "cpu" and flag is None and not flat else None
    return default if asked is None else asked or None
