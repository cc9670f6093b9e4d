"""The positions that a model has: how many, which one is the first of a text, and how long a sequence may be."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from wordmask.config.data_arguments import LONGEST
from wordmask.tokenization.special_tokens import length_limit
from wordmask.utils.errors import InputError

# Tables of positions are found in two ways. Here they are found by name: each run asks for them, and a name needs no
# second model. To make them longer, more_positions.py has to find everything that grows with them, whatever its name:
# sinusoids, numbers of positions, relative positions. So it compares the sizes with those of a model with one more.


def position_embeddings(model: PreTrainedModel) -> list[nn.Module]:
    """The absolute position embeddings of a model: `nn.Embedding`, or what is like it (I-BERT's `QuantEmbedding`)."""
    return [
        module
        for name, module in model.base_model.named_modules()
        if name.split(".")[-1] in ("position_embeddings", "embed_positions") and hasattr(module, "padding_idx")
    ]


def first_position(padding: int | None, entries: int, positions: int) -> int:
    """The first position of a text in a table.

    RoBERTa and similar models count from padding_idx + 1. Nyströmformer, YOSO and MRA have two entries more than
    positions, and count from 2.

    Args:
        padding: the table's padding_idx, if it has one.
        entries: of the table.
        positions: the model's `max_position_embeddings`.
    """
    return max(entries - positions, 0) if padding is None else padding + 1


def _first_positions(model: PreTrainedModel) -> list[tuple[int, int]]:
    """The entries of each table of positions of a model, and the first position of a text in it."""
    positions = getattr(model.config, "max_position_embeddings", None)
    tables: list[Any] = [*position_embeddings(model)]
    sizes = [(len(table.weight), table.padding_idx) for table in tables]
    return [(size, first_position(padding, size, positions or size)) for size, padding in sizes]


def position_limits(model: PreTrainedModel) -> list[int]:
    """The most tokens that each of a model's position embeddings has positions for."""
    return [entries - first for entries, first in _first_positions(model)]


def beyond_window(model: PreTrainedModel, longest: int | None = None) -> int:
    """A number of tokens that layers with sliding or sparse attention do not see as a whole; at most `longest`."""
    config = model.config
    tokens = 2 * (getattr(config, "sliding_window", None) or 4) + 3
    if getattr(config, "attention_type", None) == "block_sparse":  # BigBird: shorter sequences get full attention
        tokens = max(tokens, (5 + 2 * config.num_random_blocks) * config.block_size + 1)
    return tokens if longest is None else min(tokens, longest)


def first_position_of(model: PreTrainedModel) -> int:
    """The first position of a text in a model; 0 without position embeddings."""
    return max((first for _, first in _first_positions(model)), default=0)


def longest_sequence(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The longest sequence that a model has positions for, in tokens, special ones included; `None` without a limit.

    RoBERTa's 514 positions are for 512 tokens. Relative and rotary positions set no limit.
    """
    return min([*filter(None, [length_limit(tokenizer)]), *position_limits(model)], default=None)


MORE = "a larger model: --max_position_embeddings for a loaded one, --config_overrides for a new one"


def choose_length(asked: int | None, limit: int | None, specials: int, flag: str) -> int:
    """The longest sequence, in tokens.

    Args:
        asked: the value of the flag; `None` without one.
        limit: the limit of the model; `None` without one.
        specials: the number of special tokens around a text.
        flag: the flag, for error messages.

    Raises:
        InputError: if the value is above the limit, or leaves no room for text.
    """
    if asked is None:
        return min(limit or LONGEST, LONGEST)
    if limit is not None and asked > limit:
        raise InputError(
            f"{flag}: {asked} tokens are more than the {limit} that this model and its tokenizer can take; "
            f"give {limit} or less, or {MORE}"
        )
    if asked <= specials:
        raise InputError(f"{flag}: {asked} tokens leave no room for text next to {specials} special tokens; give more")
    return asked
