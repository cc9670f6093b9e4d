"""The embeddings of tokens that are added to a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from wordmask.utils.errors import InputError, kind_of


@torch.no_grad()
def start_at_means(model: PreTrainedModel, pieces: Mapping[int, Sequence[int]]) -> None:
    """Set the input and output embeddings of new tokens, and their bias, to the means of those of their pieces.

    So the score of a new token is at first the mean of the scores of its pieces: scores are linear in both.

    Args:
        model: a masked language model that has embeddings for all of these tokens.
        pieces: for the id of each new token, the ids of its pieces, none of them new.

    Raises:
        InputError: if the model has no embeddings for single tokens.
    """
    if not pieces:
        return
    inputs: Any = model.get_input_embeddings()
    outputs: Any = model.get_output_embeddings()
    weights = [getattr(inputs, "weight", None), getattr(outputs, "weight", None), getattr(outputs, "bias", None)]
    size = max(pieces) + 1
    if weights[0] is None or any(weight is not None and len(weight) < size for weight in weights):
        raise InputError(
            f"--add_words: the embeddings of {kind_of(model)} have no place for each token; drop the flag"
        )
    for weight in {id(weight): weight for weight in weights if weight is not None}.values():  # tied ones once
        for token, of_token in pieces.items():
            weight[token] = weight[list(of_token)].float().mean(0).to(weight.dtype)
