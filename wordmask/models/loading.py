"""The tokenizer and the model: from a directory, from the hub, or from scratch."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForMaskedLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from wordmask.config.arguments import ModelArguments
from wordmask.data.sources import Texts
from wordmask.models.packed_attention import first_position, position_embeddings
from wordmask.tokenization.vocabulary import train_tokenizer
from wordmask.utils.cache import cache_directory, hashed
from wordmask.utils.errors import InputError
from wordmask.utils.files import make_directory_atomically
from wordmask.utils.hub import load_pretrained_tokenizer, loading, making
from wordmask.utils.progress import tracked

LONGEST = 1024  # tokens in a row where neither the user nor the model says how many


def _hub_options(arguments: ModelArguments) -> dict[str, Any]:
    return {
        "cache_dir": arguments.cache_dir,
        "revision": arguments.model_revision,
        "token": arguments.token,
        "trust_remote_code": arguments.trust_remote_code,
    }


def load_tokenizer(arguments: ModelArguments, texts: Any, checkpoint: str | None = None) -> PreTrainedTokenizerBase:
    """Load the tokenizer, or train one on the spot.

    One that is trained is kept in the cache by its text and size, so that other processes and later runs find it: to
    train it again would not give the same (pieces of equal count come in any order). A run that goes on takes the one
    that lies in its checkpoint.

    Args:
        arguments: which tokenizer.
        texts: the training text, as far as there is any that is not tokenized.
        checkpoint: where the run goes on.

    Raises:
        InputError: where there is no tokenizer of that name, or none can be trained.
    """
    name = arguments.tokenizer_name or arguments.model_name_or_path
    if arguments.vocab_size and not name:
        return AutoTokenizer.from_pretrained(checkpoint or _trained_tokenizer(arguments, texts))
    name = name or arguments.config_name
    if not name:
        raise InputError(
            "--tokenizer_name is missing; give a tokenizer, or --vocab_size to train one on the training text"
        )
    flag = "--tokenizer_name" if arguments.tokenizer_name else "--model_name_or_path"
    return load_pretrained_tokenizer(flag, name, use_fast=arguments.use_fast_tokenizer, **_hub_options(arguments))


def _trained_tokenizer(arguments: ModelArguments, texts: Any) -> str:
    """The directory in the cache of a tokenizer trained on a text."""
    if not isinstance(texts, Texts) or texts.is_stream:
        raise InputError(
            "--vocab_size trains a tokenizer on the training text, which must be there and not be streamed; give "
            "--tokenizer_name"
        )
    kind = arguments.model_type
    if kind is None:
        with loading("--config_name", str(arguments.config_name), "a configuration"):
            kind = AutoConfig.from_pretrained(str(arguments.config_name), **_hub_options(arguments)).model_type
    key = hashed(kind, arguments.vocab_size, texts.fingerprint)
    directory = cache_directory(arguments.cache_dir) / f"tokenizer-{key}"
    if not directory.exists():
        tables = tracked(texts.batches(), "Training a tokenizer", " texts", len(texts.rows))
        lines = (text or "" for table in tables for text in table["text"].to_pylist())
        tokenizer = train_tokenizer(kind, lines, int(arguments.vocab_size or 0))
        with make_directory_atomically(directory) as whole:
            tokenizer.save_pretrained(whole)
    return str(directory)


def load_model(arguments: ModelArguments, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """Load the model in the type asked for, or make one from scratch; its vocabulary covers the tokenizer's.

    Raises:
        InputError: where there is no such model, or the settings are not its own.
    """
    source = arguments.config_name or arguments.model_name_or_path
    options = _hub_options(arguments)
    if source:
        with loading("--config_name" if arguments.config_name else "--model_name_or_path", source, "a configuration"):
            config = AutoConfig.from_pretrained(source, **options)
    else:
        config = CONFIG_MAPPING[str(arguments.model_type)]()
    if arguments.attn_implementation:
        options["attn_implementation"] = arguments.attn_implementation

    if arguments.model_name_or_path:
        with loading("--model_name_or_path", arguments.model_name_or_path, "a masked language model"):
            model = AutoModelForMaskedLM.from_pretrained(
                arguments.model_name_or_path, config=config, dtype=arguments.dtype, **options
            )
    else:
        _adopt_vocabulary(config, tokenizer)
        _override(config, arguments.config_overrides)
        flag = "--config_overrides" if arguments.config_overrides else "--config_name" if source else "--model_type"
        what = arguments.config_overrides or source or str(arguments.model_type)
        with making(flag, what):
            dtype = torch.float32 if arguments.dtype == "auto" else getattr(torch, arguments.dtype)
            attention = {name: options[name] for name in ("attn_implementation",) if name in options}
            model = AutoModelForMaskedLM.from_config(
                config, dtype=dtype, trust_remote_code=arguments.trust_remote_code, **attention
            )
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(len(tokenizer))
    return model


def _adopt_vocabulary(config: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """Give a configuration the tokenizer's size and special tokens."""
    config.vocab_size = len(tokenizer)
    for name in ("pad", "bos", "eos", "cls", "sep", "mask", "unk"):
        index, attribute = getattr(tokenizer, f"{name}_token_id"), f"{name}_token_id"
        if hasattr(config, attribute):
            setattr(config, attribute, index)


def _override(config: Any, overrides: str | None) -> None:
    """Apply `name=value,name=value`."""
    if overrides:
        try:
            config.update_from_string(overrides)
        except (ValueError, KeyError, AttributeError) as error:
            raise InputError(
                f"--config_overrides: {overrides} does not fit {type(config).__name__} ({error}); write "
                "name=value,name=value with names of that configuration"
            ) from None


def longest_row(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The most tokens in a row that a model can place, special ones included; `None` where nothing limits it.

    RoBERTa's 514 positions place 512 tokens. Relative and rotary positions set no limit.
    """
    limits = [tokenizer.model_max_length] if tokenizer.model_max_length < 10**6 else []
    limits += [table.num_embeddings - first_position(table) for table in position_embeddings(model)]
    return min(limits, default=None)


def choose_length(asked: int | None, limit: int | None, specials: int, flag: str) -> int:
    """The most tokens in a row.

    Args:
        asked: how many the user wants.
        limit: the most that the model can place, if anything limits it.
        specials: the special tokens around a line.
        flag: where the user says so.

    Raises:
        InputError: where more is asked for than the model can place, or too little for any text.
    """
    if asked is None:
        return min(limit or LONGEST, LONGEST)
    if limit is not None and asked > limit:
        raise InputError(
            f"{flag}: {asked} tokens are more than the {limit} that this model and its tokenizer can place; "
            f"give {limit} or less"
        )
    if asked <= specials:
        raise InputError(f"{flag}: {asked} leaves no room for text beside {specials} special tokens; give more")
    return asked
