"""The configuration of a model, loaded or from scratch, with the user's overrides."""

from __future__ import annotations

import re
from argparse import ArgumentTypeError
from contextlib import AbstractContextManager
from dataclasses import MISSING, fields
from typing import Any

import yaml
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.hf_argparser import string_to_bool

from wordmask.config.flag_checks import MODEL_TYPES, refuse_encoder_decoder
from wordmask.config.model_arguments import ModelArguments
from wordmask.tokenization.special_tokens import vocabulary_size
from wordmask.utils.errors import InputError, one_line, reported, with_article
from wordmask.utils.hub import loading

ROLES = ("pad", "bos", "eos", "cls", "sep", "mask", "unk")
OTHER_HEADS = ("classifier", "pooler", "qa", "seq_classif", "summary")  # whose dropout masked-LM training does not use


def hub_options(arguments: ModelArguments) -> dict[str, Any]:
    """The parameters of `from_pretrained` that concern the hub."""
    return {
        "cache_dir": arguments.cache_dir,
        "revision": arguments.model_revision,
        "token": arguments.token,
        "trust_remote_code": arguments.trust_remote_code,
    }


def origin(arguments: ModelArguments) -> tuple[str, str]:
    """The flag that names the model, and its value, for error messages."""
    for name in ("model_name_or_path", "config_overrides", "config_name"):
        if getattr(arguments, name):
            return f"--{name}", getattr(arguments, name)
    return "--model_type", str(arguments.model_type)


def making(flag: str, settings: str) -> AbstractContextManager[None]:
    """Turn any error while a model is made from settings into one sentence that names the flag."""
    return reported(f"{flag}: {settings} makes no masked language model")


def load_config(arguments: ModelArguments) -> PreTrainedConfig | None:
    """Load the configuration from a directory or the hub; `None` if only the type of the model is given.

    Raises:
        InputError: if there is none of that name, or if it is that of an encoder-decoder, or of a type without a
            masked language model.
    """
    source = arguments.config_name or arguments.model_name_or_path
    if not source:
        return None
    flag = "--config_name" if arguments.config_name else "--model_name_or_path"
    with loading(flag, source, "a configuration", is_model=True):
        config = AutoConfig.from_pretrained(source, **hub_options(arguments))
    refuse_encoder_decoder(flag, source, config)
    is_known = config.model_type in CONFIG_MAPPING and not _has_code(config)
    if is_known and config.model_type not in MODEL_TYPES:
        raise InputError(
            f"{flag}: {source} is of the type {config.model_type}, which has no masked language model; docs/adapt.md "
            "lists all types, such as bert"
        )
    return config


def _has_code(config: PreTrainedConfig) -> bool:
    """Whether a model brings code of its own for a masked language model."""
    return "AutoModelForMaskedLM" in (getattr(config, "auto_map", None) or {})


def make_config(
    arguments: ModelArguments, loaded: PreTrainedConfig | None, tokenizer: PreTrainedTokenizerBase
) -> PreTrainedConfig:
    """The configuration of a model from scratch: a type's or a loaded one, for this tokenizer, with the overrides.

    Raises:
        InputError: if the overrides do not fit.
    """
    flag, value = origin(arguments)
    with making(flag, value):
        base = CONFIG_MAPPING[str(arguments.model_type)]() if loaded is None else loaded
        roles = {f"{role}_token_id": getattr(tokenizer, f"{role}_token_id") for role in ROLES}
        ids = {"vocab_size": vocabulary_size(tokenizer)} | roles
        values = {name: value for name, value in ids.items() if hasattr(base, name)}
        if loaded is None and "vocab_size" not in values:
            raise InputError(
                f"--model_type: {arguments.model_type} consists of several models, {' and '.join(_parts(base))}, so "
                "no tokenizer fits it; give --config_name with a configuration that has the vocabulary"
            )
        values |= _overrides(base, arguments.config_overrides or "")
        config = _changed(base, values)
        config.validate()
    _check_sizes(config, flag, value, ids["vocab_size"])
    refuse_encoder_decoder(flag, value, config)
    return config


def _check_sizes(config: PreTrainedConfig, flag: str, settings: str, entries: int) -> None:
    """Raise an `InputError` for a size that cannot be. Some models are made with it, and others fail much later.

    Args:
        config: of the model.
        flag, settings: what it was made from, for the message.
        entries: the number of tokens that need an embedding.
    """
    for name, value in config.to_dict().items():
        if name.startswith("num_") and isinstance(value, int) and value < 0:
            raise InputError(f"{flag}: {settings}: {name} is {value}; give 0 or more")
    if 0 <= getattr(config, "vocab_size", entries) < entries:
        raise InputError(
            f"{flag}: {settings}: vocab_size is {config.vocab_size}, and the tokenizer has {entries} entries; drop "
            "vocab_size, or give a larger one"
        )


def is_dropout(setting: str) -> bool:
    """Whether a setting of a configuration is a dropout: it is no part of the architecture."""
    return "dropout" in setting


def with_dropout(arguments: ModelArguments, config: PreTrainedConfig) -> PreTrainedConfig:
    """The configuration with the dropout that the user asks for, in attention and elsewhere; BERT has two settings.

    Raises:
        InputError: if the architecture has no dropout.
    """
    if arguments.dropout is None:
        return config
    names = [
        name
        for name, value in config.to_dict().items()
        if is_dropout(name) and type(value) in (float, int) and not name.startswith(OTHER_HEADS)
    ]
    if not names:
        raise InputError(f"--dropout: {with_article(config.model_type)} model has no dropout to set; drop the flag")
    return _changed(config, dict.fromkeys(names, arguments.dropout))


def _parts(config: PreTrainedConfig) -> list[str]:
    """The configurations inside a configuration."""
    return [name for name, value in vars(config).items() if isinstance(value, PreTrainedConfig)]


def _overrides(config: PreTrainedConfig, text: str) -> dict[str, Any]:
    """The values of `name=value,name=value`; a list is written `[1,2]`."""
    values = {}
    try:
        for setting in re.split(r",(?![^\[]*\])", text) if text else []:
            name, equals, value = (part.strip() for part in setting.partition("="))
            if not equals:
                raise ValueError(f"{setting} has no =")
            if name.split(".")[0] in _parts(config):
                raise ValueError(f"{name} is a configuration by itself; edit config.json and give --config_name")
            if not hasattr(config, name) or callable(getattr(config, name)):
                raise ValueError(f"{name} is not one of its settings")
            values[name] = _parsed(value, getattr(config, name))
    except (ValueError, TypeError, ArgumentTypeError, yaml.YAMLError) as error:
        raise InputError(
            f"--config_overrides: {text} does not fit {type(config).__name__} ({one_line(error)}); write "
            "name=value,name=value with names of that configuration"
        ) from None
    return values


def _parsed(value: str, like: Any) -> Any:
    """A value of the same type as `like`; YAML reads lists, and values of settings that have none yet."""
    if isinstance(like, bool):
        return string_to_bool(value)
    if isinstance(like, int | float | str):
        return type(like)(value)
    parsed = yaml.safe_load(value)
    if like is not None and not isinstance(parsed, list):
        raise ValueError(f"{value} is no list such as [1,2]")
    return parsed


def _changed(config: PreTrainedConfig, values: dict[str, Any]) -> PreTrainedConfig:
    """A configuration with other values, where settings that follow from these are computed again.

    Example: ModernBERT saves `layer_types`. Without them it computes the same ones from `num_hidden_layers`. So they
    follow from it, and with another `num_hidden_layers` they are computed again.
    """
    config_class, saved = type(config), config.to_dict()
    # The names that the configuration stores, such as DistilBERT's `dim` for `hidden_size`.
    values = {config.attribute_map.get(name, name): value for name, value in values.items()}
    defaults = {field.name: field.default for field in fields(config_class)}
    without_default = {name for name in saved if defaults.get(name) in (None, MISSING)} - values.keys()
    kept = {name: value for name, value in saved.items() if name not in without_default}
    try:
        computed = config_class(**kept).to_dict()
    except Exception:  # each configuration class fails in its own way without a setting that it needs
        computed = {}
    chosen = {name: saved[name] for name in without_default if name not in computed or computed[name] != saved[name]}
    return config_class(**kept | chosen | values)
