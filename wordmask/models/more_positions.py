"""More positions for a model whose training continues: a longer table of positions, or a higher base of RoPE."""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from wordmask.models.loading import no_report
from wordmask.models.positions import first_position
from wordmask.models.probing import Unfit, close, some_ids, unchanged, why_not
from wordmask.tokenization.special_tokens import length_limit
from wordmask.utils.errors import InputError, kind_of, reported

logger = logging.getLogger(__name__)

FLAG = "--max_position_embeddings"
SLIDING = "sliding_attention"  # layers that see a window of the same size, however long the text is
_UNKNOWN = 512  # tokens in a long text for a model that says nothing of its positions
_CAUTION = "the model is good at long text only after training on it"


def with_more_positions(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, length: int | None
) -> PreTrainedModel:
    """Let a model and its tokenizer take longer sequences, and log how, see --max_position_embeddings.

    Args:
        model: a masked language model with its weights.
        tokenizer: its tokenizer, whose limit is raised.
        length: the tokens of the longest sequence, special ones included; `None` to change nothing.

    Returns:
        The model, which may be a new one with the same weights, but for those of the new positions.

    Raises:
        InputError: if the model takes so many tokens already, or cannot take more.
    """
    if length is None:
        return model
    tables, name = _tables(model), type(model).__name__
    of_rope = getattr(model.config, "max_position_embeddings", None) if _bases(model.config) else None
    own = min((table.positions for table in tables.values()), default=of_rope)
    limit = min(filter(None, [own, length_limit(tokenizer)]), default=None)
    if limit is not None and length <= limit:
        raise InputError(f"{FLAG}: {length} tokens are not more than the {limit} of this model; drop it, or give more")
    if own is None:
        _check_without_positions(model, limit, length)
    if own is not None and length > own:
        model, how = _lengthened(model, tables, length - own)
        logger.warning("%s: positions for %s tokens instead of %s; %s", FLAG, f"{length:,}", f"{own:,}", how)
    else:
        logger.warning(
            "%s: the tokenizer allows %s tokens instead of %s; the %s itself takes them and stays as it is",
            *(FLAG, f"{length:,}", f"{limit:,}", name),
        )
    tokenizer.model_max_length = length
    return model


def _check_without_positions(model: PreTrainedModel, limit: int | None, length: int) -> None:
    """Raise an `InputError` if a model has relative positions and needs no flag, or cannot take more tokens."""
    long = some_ids(model, 1, (limit or getattr(model.config, "max_position_embeddings", None) or _UNKNOWN) + 1)
    if why_not(model, lambda: len(model(input_ids=long).logits) == 1) is not None:
        raise InputError(f"{FLAG}: the positions of {kind_of(model)} cannot become more; drop the flag")
    if limit is None:
        unlimited = f"{kind_of(model)} has positions without a limit"
        raise InputError(f"{FLAG}: {unlimited}; drop the flag, and give --max_seq_length {length}")


# Tables


@dataclass(frozen=True)
class _Table:
    """An entry of a model's state that has a part for each position.

    Attributes:
        first: the first position of a text.
        positions: the number of positions, from the first one.
        is_learned: whether it is trained, and not computed (sinusoids, numbers of positions).
    """

    first: int
    positions: int
    is_learned: bool


def _tables(model: PreTrainedModel) -> dict[str, _Table]:
    """The tables of a model by name, found by their size: a model with one more position has one more of each."""
    known = getattr(model.config, "max_position_embeddings", None)
    if not known:
        return {}
    config = _copied(model.config, 1)
    with reported(f"{FLAG}: {type(model).__name__} cannot be made with more positions"), torch.device("meta"):
        larger = type(model)(config)
    learned = {name for name, parameter in larger.named_parameters() if parameter.requires_grad}
    new, tables = larger.state_dict(), {}
    for name, old in model.state_dict().items():
        if name not in new or new[name].shape == old.shape:
            continue
        if name in learned and new[name].shape != (len(old) + 1, *old.shape[1:]):
            raise InputError(f"{FLAG}: the positions of {kind_of(model)} cannot become more; drop the flag")
        padding = getattr(model.get_submodule(name.rpartition(".")[0]), "padding_idx", None)
        first = first_position(padding, old.shape[0], known) if name in learned else 0
        positions = len(old) - first if name in learned else known
        tables[name] = _Table(first, positions, name in learned)
    return tables


def _tiled(old: torch.Tensor, table: _Table, more: int) -> torch.Tensor:
    """A table whose new places repeat the old ones, as Longformer does (arXiv 2004.05150).

    Example: with places 0 to 5, where a text begins at 2, six more are 2 3 4 5 2 3.
    """
    places = torch.arange(table.positions + more, device=old.device) % table.positions + table.first
    return torch.cat([old[: table.first], old[places]])


# RoPE


def _bases(config: PreTrainedConfig) -> list[tuple[str, dict[str, Any]]]:
    """The settings of RoPE of each kind of layer with its name, which is empty if all have the same."""
    parameters = getattr(config, "rope_parameters", None)
    if not parameters:
        return [("", vars(config))] if hasattr(config, "rope_theta") else []
    kinds = [(kind, of_kind) for kind, of_kind in parameters.items() if isinstance(of_kind, dict)]
    return kinds or [("", parameters)]


def _raise_base(config: PreTrainedConfig, factor: float) -> str:
    """Raise the base of RoPE in a configuration, and say how.

    The rule is called NTK-aware: base * factor ** (d / (d - 2)) for d dimensions. It divides the lowest frequency,
    base ** -((d - 2) / d), by this factor, and leaves the highest one, so that near tokens look as near as before.

    Args:
        config: the configuration, which is changed.
        factor: by how much the text becomes longer.
    """
    said = []
    for kind, parameters in _bases(config):
        if (scaling := parameters.get("rope_type", "default")) != "default":
            raise InputError(
                f"{FLAG}: RoPE of this model is scaled already (rope_type {scaling}); change its rope_parameters in a "
                "copy of config.json, and give that with --config_name"
            )
        if kind == SLIDING:
            continue
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        size = int(size * parameters.get("partial_rotary_factor", 1.0))
        old = parameters["rope_theta"]
        parameters["rope_theta"] = old * factor ** (size / (size - 2))
        in_layers = f" in layers of {kind}" if kind else ""
        said.append(f"{parameters['rope_theta']:,.0f} instead of {old:,.0f}{in_layers}")
    return f"the base of RoPE is {', '.join(said)}, so the loss is higher at first, and {_CAUTION}"


# Both


def _copied(config: PreTrainedConfig, more: int) -> PreTrainedConfig:
    """A configuration with more positions. DeBERTa's relative positions would grow with them, so they are fixed."""
    config = copy.deepcopy(config)
    if getattr(config, "max_relative_positions", 1) < 1:
        config.max_relative_positions = config.max_position_embeddings
    config.max_position_embeddings += more
    return config


def _lengthened(model: PreTrainedModel, tables: dict[str, _Table], more: int) -> tuple[PreTrainedModel, str]:
    """A model with more positions, and how it got them.

    It is loaded again from its weights, as from a directory, so that all that follows from the configuration fits.
    """
    config = _copied(model.config, more)
    if tables:
        is_learned = any(table.is_learned for table in tables.values())
        how = f"the new ones {'repeat' if is_learned else 'are computed like'} the old ones, so {_CAUTION}"
    else:
        how = _raise_base(config, config.max_position_embeddings / model.config.max_position_embeddings)
    # ESM saves the frequencies of its RoPE, too.
    weights = {name: tensor for name, tensor in model.state_dict().items() if not name.endswith("inv_freq")}
    for name, table in tables.items():
        if table.is_learned:
            weights[name] = _tiled(weights[name], table, more)
        else:
            del weights[name]
    with no_report():
        longer = type(model).from_pretrained(None, config=config, state_dict=weights, dtype=model.dtype)
    short = min((table.positions for table in tables.values()), default=0)
    reason = why_not(model, lambda: _same_logits(model, longer, min(short, 64))) if tables else None
    if isinstance(reason, Unfit):
        raise InputError(
            f"{FLAG}: with more positions, {kind_of(model)} gives other logits for short text; drop the flag"
        )
    return longer, how


def _same_logits(model: PreTrainedModel, longer: PreTrainedModel, length: int) -> bool:
    ids = some_ids(model, 1, length)
    with unchanged(longer):
        return close(longer(input_ids=ids).logits, model(input_ids=ids).logits)
