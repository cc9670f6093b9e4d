"""How a batch goes through a model: where it predicts, what keeps documents apart, how large micro-batches are."""

from __future__ import annotations

import contextlib
import inspect
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedModel
from transformers.trainer_pt_utils import LabelSmoother

from wordmask.masking import IGNORED
from wordmask.models.loss_head import LossHead, find_loss_head, mean_cross_entropy
from wordmask.models.packed_attention import FlatAttention, PackedAttention
from wordmask.models.padding_mask import PaddingMask
from wordmask.models.probing import or_none
from wordmask.models.sparse_prediction import SparsePrediction, find_sparse_prediction, labelled_positions

_NO_INPUTS = ("labels", "positions", "is_padded", "sequence_ids")  # of a batch, that the model does not get


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
        if isinstance(self.outputs, dict):
            return self.outputs["logits"]
        # A tuple may begin with the loss, and go on with hidden states.
        return next(output for output in self.outputs if output.ndim)


@dataclass(frozen=True)
class Forward:
    """One forward pass, with what a model needs for it. The defaults predict at every position.

        prediction = Forward.of(model)(model, batch)
        prediction.loss.backward()

    Attributes:
        sparse: the model's hook for sparse prediction; `None` predicts at every position.
        attention: keeps the documents of packed sequences or of flat batches apart; `None` for neither.
        label_smoother: computes the loss of a model in training mode, instead of the model. In evaluation mode, the
            loss is the plain cross-entropy, so that runs with different smoothing can be compared.
        padding: makes the mask of padding, so that nothing looks at it; `None` leaves that to the model.
        head: computes the loss of a model in training mode in its last layer, in single precision. In evaluation mode,
            the loss is then computed from the logits, in single precision, too.
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
            settings["head"] = or_none(find_loss_head(model))
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
        inputs = self._inputs(batch)
        # A mean over no label is NaN, and 0 times NaN is NaN. So such a batch gets one label, and its loss weight 0.
        labels = batch["labels"].clone()
        has_labels = labels.ne(IGNORED).any()
        labels[0, 0] = torch.where(has_labels, labels[0, 0], batch["input_ids"][0, 0])
        if self.sparse is None:
            outputs, loss = self._loss(model, inputs, labels)
            return Prediction(loss * has_labels, outputs, None)
        positions = batch["positions"] if "positions" in batch else labelled_positions(labels)
        with self.sparse.at(positions):
            outputs, loss = self._loss(model, inputs, labels.view(-1)[positions][None])
        return Prediction(loss * has_labels, outputs, positions)

    def _inputs(self, batch: dict[str, Any]) -> dict[str, Any]:
        """What the model gets of a batch, beside labels."""
        inputs = {name: value for name, value in batch.items() if name not in _NO_INPUTS}
        if not self.takes_attention_mask:
            inputs.pop("attention_mask", None)
        elif self.padding is not None and "is_padded" in batch:
            inputs |= self.padding.inputs(batch["attention_mask"], batch["is_padded"])
        documents = batch.get("sequence_ids", batch.get("position_ids"))
        if self.attention is not None and documents is not None:
            inputs |= self.attention.inputs(documents)
        if "cu_seq_lens_q" in inputs:
            # The number of documents differs between batches of one shape, and needs no other graph.
            for side in "qk":
                torch._dynamo.maybe_mark_dynamic(inputs[f"cu_seq_lens_{side}"], 0)
        return inputs

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
