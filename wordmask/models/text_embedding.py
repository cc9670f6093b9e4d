"""Embeddings of texts from a masked language model: the mean of the encoder's last hidden states."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from wordmask.masking import IGNORED
from wordmask.models.forward import Forward
from wordmask.models.probing import hooked, some_ids
from wordmask.models.sparse_prediction import last_hidden_state
from wordmask.utils.batches import divided
from wordmask.utils.progress import tracked

Batch = dict[str, torch.Tensor]


def mean_pooled(hidden: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """(batch, hidden) The mean over the tokens of each sequence, special tokens included, padding left out.

    This is what sentence-transformers computes for a model without a configuration of its own.

    Args:
        hidden: (batch, length, hidden)
        attention_mask: (batch, length), 1 for tokens and 0 for padding.
    """
    weights = attention_mask[:, :, None].to(torch.float32)
    return (hidden.float() * weights).sum(1) / weights.sum(1)


class HiddenStates:
    """A hook that keeps the last hidden states of a model's encoder while `wanted`.

    It sees them before the hook of sparse prediction cuts them. Make it before the model is wrapped or compiled.

    Args:
        model: a masked language model of transformers.
    """

    def __init__(self, model: PreTrainedModel):
        self.wanted, self.found = False, torch.empty(0)
        self._handle = model.base_model.register_forward_hook(self._keep, prepend=True)

    def remove(self) -> None:
        """Take the hook away."""
        self._handle.remove()

    def _keep(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if self.wanted:
            self.found = last_hidden_state(output)

    def of(self, forward: Callable[[Batch], object], batch: Batch) -> torch.Tensor:
        """(batch, length, hidden) The hidden states of a batch, which `forward` sends through the whole model."""
        self.wanted = True
        try:
            forward(batch)
            return self.found
        finally:
            self.wanted, self.found = False, torch.empty(0)


class Embedder:
    """Embeds texts. They are tokenized once.

    Args:
        hidden_states: the hook on the model.
        texts: the texts.
        tokenizer: the model's.
        length: the longest sequence, in tokens; longer texts are cut.
        pad_token_id: fills sequences up to the longest one of a batch.
        fixed: whether every batch has the same shape.
    """

    def __init__(
        self,
        hidden_states: HiddenStates,
        texts: Sequence[str],
        tokenizer: PreTrainedTokenizerBase,
        length: int,
        pad_token_id: int = 0,
        fixed: bool = False,
    ):
        ids = tokenizer(list(texts), truncation=True, max_length=length)["input_ids"] if texts else []
        self.ids = [row or [pad_token_id] for row in ids]  # a text may have no token
        self.hidden_states, self.length, self.pad_token_id, self.fixed = hidden_states, length, pad_token_id, fixed

    def embed(
        self, forward: Callable[[Batch], object], batch_size: int, accelerator: Accelerator
    ) -> NDArray[np.float32]:
        """(texts, hidden) The embeddings, on each process.

        Each process embeds every n-th batch. All run the model equally often, since with FSDP they need each other.

        Args:
            forward: sends a batch through the model, without gradients.
            batch_size: texts in a batch.
            accelerator: of the launch.
        """
        lengths = np.array([len(row) for row in self.ids])
        order = np.argsort(-lengths, kind="stable")  # texts of similar length share a batch
        batches = divided(order, batch_size)
        processes, process = accelerator.num_processes, accelerator.process_index
        embeddings: torch.Tensor | None = None
        for round_ in tracked(divided(batches, processes), "embedding the labelled texts", "batches", len(batches)):
            # In the last round, a process without a batch runs the last one, too, and its result is dropped below.
            chosen = round_[min(process, len(round_) - 1)]
            batch = self._batch(chosen, batch_size)
            hidden = self.hidden_states.of(forward, batch)
            means = mean_pooled(hidden, batch["attention_mask"].to(hidden.device))[: len(chosen)]
            if embeddings is None:
                embeddings = means.new_zeros(len(self.ids), means.shape[1])
            if process < len(round_):
                embeddings[torch.from_numpy(chosen).to(means.device)] = means
        return accelerator.reduce(embeddings, "sum").cpu().numpy()

    def _batch(self, chosen: NDArray[np.int64], batch_size: int) -> Batch:
        """A batch of texts, without a label. With a fixed shape, padding and copies of the first text fill it."""
        rows = [self.ids[place] for place in chosen]
        rows += rows[:1] * (batch_size - len(rows) if self.fixed else 0)
        length = self.length if self.fixed else max(map(len, rows))
        lengths = torch.tensor([len(row) for row in rows])
        ids = torch.tensor([row + [self.pad_token_id] * (length - len(row)) for row in rows])
        # Of lengths 3 and 1, padded to 3: 1 1 1 and 1 0 0.
        mask = (torch.arange(length) < lengths[:, None]).long()
        return {"input_ids": ids, "attention_mask": mask, "labels": torch.full_like(ids, IGNORED)}


def hook_hidden_states(model: PreTrainedModel, length: int) -> HiddenStates | Exception:
    """A hook for a model's hidden states; or why its encoder does not give one for each token.

    Args:
        model: a masked language model, in any mode, which is left as it is.
        length: of the sequences to try it on, in tokens.
    """
    hidden_states = HiddenStates(model)

    def gives_one_for_each_token() -> bool:
        ids = some_ids(model, 2, length)
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.full_like(ids, IGNORED)}
        hidden = hidden_states.of(lambda batch: Forward.of(model)(model, batch), batch)
        return hidden.dim() == 3 and hidden.shape[:2] == ids.shape

    return hooked(model, hidden_states, gives_one_for_each_token)
