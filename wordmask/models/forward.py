"""How a batch goes through a model: where it predicts, what keeps documents apart, how large micro-batches are."""

from __future__ import annotations

import contextlib
import inspect
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedModel
from transformers.trainer_pt_utils import LabelSmoother

from wordmask.config.arguments import Arguments
from wordmask.masking import IGNORED
from wordmask.models.packed_attention import PackedAttention, packed_attention
from wordmask.models.sparse_prediction import SparsePrediction, find_sparse_prediction, labelled_positions
from wordmask.utils.errors import InputError

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
        attention: keeps the documents of packed sequences apart; `None` if sequences are not packed.
        label_smoother: computes the loss of a model in training mode, instead of the model. In evaluation mode, the
            loss is the plain cross-entropy, by which runs with different smoothing can be compared.
        takes_attention_mask: whether the model's forward has this parameter.
        micro_batch_tokens: the most tokens in a micro-batch, padding included; `None` for no limit.
        fixed: whether every batch has the same shape.
    """

    sparse: SparsePrediction | None = None
    attention: PackedAttention | None = None
    label_smoother: LabelSmoother | None = None
    takes_attention_mask: bool = True
    micro_batch_tokens: int | None = None
    fixed: bool = False

    @classmethod
    def of(
        cls, model: PreTrainedModel, sparse: bool = False, label_smoothing: float = 0.0, **settings: Any
    ) -> Forward:
        """The forward pass of a model.

        Args:
            model: a masked language model, in any mode, which is left as it is.
            sparse: whether it predicts at labelled positions only, if it can.
            label_smoothing: the label smoothing factor; 0 for none.
            settings: other attributes.
        """
        return cls(
            sparse=find_sparse_prediction(model) if sparse else None,
            label_smoother=LabelSmoother(epsilon=label_smoothing) if label_smoothing else None,
            takes_attention_mask="attention_mask" in inspect.signature(model.forward).parameters,
            **settings,
        )

    def __call__(self, model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> Prediction:
        """Send a batch through a model.

        Args:
            model: the model that this was made for, or a wrapper of it for several processes.
            batch: tensors (batch, length): `input_ids`, `attention_mask`, `labels`, and `sequence_ids` if packed;
                maybe `positions`, (kept,), the flat positions to predict at.
        """
        inputs = dict(batch)
        labels, positions = inputs.pop("labels"), inputs.pop("positions", None)
        if not self.takes_attention_mask:
            inputs.pop("attention_mask", None)
        if "sequence_ids" in inputs and self.attention is not None:
            inputs |= self.attention.inputs(inputs.pop("sequence_ids"))
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
            if self.label_smoother is not None and model.training:
                outputs = model(**inputs)
                loss = self.label_smoother(outputs, labels)
            else:
                outputs = model(**inputs, labels=labels)
                loss = outputs["loss"] if isinstance(outputs, dict) else outputs[0]
        return Prediction(loss * has_labels, outputs, positions)


def choose_forward(arguments: Arguments, model: PreTrainedModel) -> Forward:
    """The forward pass that the flags ask for.

    Raises:
        InputError: if the model cannot do it, or if flags exclude each other.
    """
    training, sparse = arguments.training, arguments.model.sparse_prediction
    # What a model can do is tried in full precision; only flash attention has none.
    flash = "flash" in str(model.config._attn_implementation)
    half = torch.float16 if training.fp16 else torch.bfloat16
    with torch.autocast(training.device.type, half, enabled=flash):
        return Forward.of(
            model,
            sparse,
            training.label_smoothing_factor,
            attention=_attention(model) if arguments.data.pack_sequences else None,
            micro_batch_tokens=_micro_batch_tokens(arguments),
            fixed=arguments.data.pad_to_max_length,
        )


def _attention(model: PreTrainedModel) -> PackedAttention:
    attention = packed_attention(model)
    if attention is None:
        or_sdpa = ", or try --attn_implementation sdpa" * model._supports_sdpa
        raise InputError(
            f"--pack_sequences: {type(model).__name__} with {model.config._attn_implementation} attention cannot keep "
            f"the documents of a sequence apart; drop the flag{or_sdpa}"
        )
    return attention


def _micro_batch_tokens(arguments: Arguments) -> int | None:
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
    default = TOKENS_ON_CPU if training.device.type == "cpu" and flag is None else None
    return default if asked is None else asked or None
