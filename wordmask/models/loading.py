"""The tokenizer and the model: from a directory, from the hub, or from scratch."""

from __future__ import annotations

import contextlib
import inspect
import logging
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer, PreTrainedConfig, PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from wordmask.config.model_arguments import VARLEN, ModelArguments
from wordmask.data.sources import Texts
from wordmask.models.configuration import hub_options, make_config, making, origin, with_dropout
from wordmask.models.positions import position_limits
from wordmask.models.probing import Unfit, close, embedded_ids, why_not
from wordmask.tokenization.special_tokens import vocabulary_size
from wordmask.tokenization.train_tokenizer import VERSION, train_tokenizer
from wordmask.utils.cache import cache_directory, hashed, made_once
from wordmask.utils.errors import InputError, kind_of, reported
from wordmask.utils.files import make_directory_atomically
from wordmask.utils.hub import load_pretrained_tokenizer, loading
from wordmask.utils.quantities import counted, first_of_many
from wordmask.utils.write_errors import write_reported

logger = logging.getLogger(__name__)

TOKENIZER_FLAGS = ("tokenizer_name", "model_name_or_path", "config_name")  # each can name the tokenizer
OTHERS = 0.1  # a larger share of tokens with other ids needs a warning; some tokenizers only fill unused places


def load_tokenizer(
    arguments: ModelArguments,
    config: PreTrainedConfig | None = None,
    texts: object = None,
    checkpoint: str | None = None,
) -> PreTrainedTokenizerBase:
    """Load the tokenizer, or train one.

    A trained tokenizer is cached by its text and size, for other processes and later runs, since a second training
    would give another one (pieces of equal count come in any order). A resumed run loads that of its checkpoint.

    Args:
        arguments: the flags that name the tokenizer.
        config: the configuration that these flags name, see `load_config`.
        texts: the training text; `None` if there is none. If it is already tokenized, it trains no tokenizer.
        checkpoint: the checkpoint to continue from, if any.

    Raises:
        InputError: if there is no tokenizer of that name, or none can be trained.
    """
    flag = next((flag for flag in TOKENIZER_FLAGS if getattr(arguments, flag)), None)
    if flag and not (flag == "config_name" and arguments.vocab_size):  # then it names the model alone
        options = {"use_fast": arguments.use_fast_tokenizer, **hub_options(arguments)}
        tokenizer = load_pretrained_tokenizer(f"--{flag}", getattr(arguments, flag), **options)
        if flag == "tokenizer_name" and arguments.model_name_or_path:
            _compare_with_own(tokenizer, arguments.model_name_or_path, options)
        return tokenizer
    if arguments.vocab_size:
        return AutoTokenizer.from_pretrained(checkpoint or _trained_tokenizer(arguments, config, texts))
    raise InputError(
        "--tokenizer_name is missing; give a tokenizer, or --vocab_size to train one on the training text"
    )


def _compare_with_own(tokenizer: PreTrainedTokenizerBase, model: str, options: Mapping[str, Any]) -> None:
    """Warn if a tokenizer gives other ids to the tokens of a model's own tokenizer, so that its embeddings mislead."""
    try:
        found = AutoTokenizer.from_pretrained(model, **options)
    except Exception:  # of any kind: the model may have no tokenizer
        return
    # For a model without a tokenizer, transformers may make one of special tokens alone.
    own = {token: number for token, number in found.get_vocab().items() if token not in found.all_special_tokens}
    ids = tokenizer.get_vocab()
    moved = sum(ids.get(token) != number for token, number in own.items())
    if moved > OTHERS * len(own):
        logger.warning(
            "--tokenizer_name: %d of the %d tokens of %s have another id there, or none, so its embeddings mean other "
            "tokens; drop the flag, unless you want to train them anew",
            moved,
            len(own),
            model,
        )


def _trained_tokenizer(arguments: ModelArguments, config: PreTrainedConfig | None, texts: object) -> str:
    """The directory in the cache of a tokenizer trained on a text."""
    if not isinstance(texts, Texts) or texts.is_stream:
        raise InputError(
            "--vocab_size trains a tokenizer on the training text, and there is none, or it is streamed; give "
            "--tokenizer_name"
        )
    model_type = arguments.model_type or config.model_type  # type: ignore[union-attr]
    key = hashed(model_type, arguments.vocab_size, texts.fingerprint, VERSION)
    directory = cache_directory(arguments.cache_dir) / f"tokenizer-{key}"

    def train() -> None:
        lines = chain.from_iterable(texts.lines("training a tokenizer"))
        tokenizer = train_tokenizer(model_type, lines, int(arguments.vocab_size or 0))
        with make_directory_atomically(directory) as whole:
            tokenizer.save_pretrained(whole)

    with write_reported(f"--cache_dir: {directory.parent}", "give another"):
        made_once(directory, train)
    return str(directory)


def load_model(
    arguments: ModelArguments, config: PreTrainedConfig | None, tokenizer: PreTrainedTokenizerBase
) -> tuple[PreTrainedModel, bool]:
    """Load the model, or make one from scratch, with embeddings for all tokens of the tokenizer.

    Args:
        arguments: the flags that name the model.
        config: the configuration that these flags name, see `load_config`.
        tokenizer: the tokenizer.

    Returns:
        The model, and whether it was loaded without all weights of its head, which are then random.

    Raises:
        InputError: if there is no such model, or if its settings do not fit.
    """
    # `choose_forward` lets a model have varlen attention, once it has tried it.
    head_is_new, asked = False, arguments.attn_implementation
    attention = None if asked == VARLEN else asked
    if arguments.model_name_or_path:
        config = config and with_dropout(arguments, config)
        with (
            loading("--model_name_or_path", arguments.model_name_or_path, "a masked language model", is_model=True),
            no_report(),
        ):
            model, info = AutoModelForMaskedLM.from_pretrained(
                arguments.model_name_or_path,
                config=config,
                dtype=arguments.dtype,
                output_loading_info=True,
                attn_implementation=attention,
                ignore_mismatched_sizes=True,  # they are reported below, with the names of the flags
                **hub_options(arguments),
            )
        head_is_new = _check_weights(arguments, model, info)
    else:
        config = with_dropout(arguments, make_config(arguments, config, tokenizer))
        with making(*origin(arguments)):
            dtype = torch.float32 if arguments.dtype == "auto" else getattr(torch, arguments.dtype)
            model = AutoModelForMaskedLM.from_config(
                config, dtype=dtype, attn_implementation=attention, trust_remote_code=arguments.trust_remote_code
            )
        _set_length(tokenizer, model)
    size = vocabulary_size(tokenizer)
    if size > embedded_ids(model):
        flag, name = origin(arguments)
        sentence = f"{flag}: {name} has embeddings for {embedded_ids(model)} tokens, and cannot get those of {size}"
        with reported(sentence, "; give the tokenizer of this model, and no --add_words"):
            if not arguments.add_words:  # which sets its own afterwards, and says so
                drawn = "%s: %s has embeddings for %d tokens; those of %d more are drawn around their mean"
                logger.warning(drawn, flag, name, embedded_ids(model), size - embedded_ids(model))
            model.resize_token_embeddings(size)
    if size > (embedded := embedded_ids(model)):
        raise InputError(
            f"--tokenizer_name: its ids go up to {size - 1}, the model has embeddings for {embedded} tokens, and no "
            "more can be added; give the tokenizer of this model"
        )
    _compare_inputs(origin(arguments)[0], model, tokenizer)
    return model, head_is_new


def _compare_inputs(flag: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Warn if what a tokenizer gives beside ids and mask, which are all that we train on, changes the predictions.

    RoCBert takes the shape and the sound of each character, and XLM adds the embedding of a word for each token type.
    """
    taken = inspect.signature(model.forward).parameters

    def agree() -> bool:
        given = {column: value.to(model.device) for column, value in tokenizer("a 一", return_tensors="pt").items()}
        given = {column: value for column, value in given.items() if column in taken}
        others.extend(given.keys() - {"input_ids", "attention_mask"})
        ids = {column: value for column, value in given.items() if column not in others}
        if not others:
            return True
        alone, again, together = (model(**inputs).logits for inputs in (ids, ids, given))
        return not close(alone, again) or close(together, alone)  # numbers that are not finite tell nothing

    others: list[str] = []
    if isinstance(why_not(model, agree), Unfit):
        logger.warning(
            "%s: %s is trained on input_ids and attention_mask alone, and its tokenizer also gives %s, which change "
            "its predictions; when you use the trained model, leave them out",
            *(flag, kind_of(model), ", ".join(sorted(others))),
        )


@contextlib.contextmanager
def no_report() -> Iterator[None]:
    """Hide transformers' table of missing and unused weights, since `_check_weights` logs what matters.

    We also hide its warning that a checkpoint without a head seems corrupted. This is a work-around; we know no
    upstream thread. It can go when `from_pretrained` can be told to log no table.
    """

    def is_other(record: logging.LogRecord) -> bool:
        return not any(words in record.getMessage() for words in (" LOAD REPORT", "checkpoint seem corrupted"))

    log = logging.getLogger("transformers.modeling_utils")
    log.addFilter(is_other)
    try:
        yield
    finally:
        log.removeFilter(is_other)


def _check_weights(arguments: ModelArguments, model: PreTrainedModel, info: Mapping[str, Any]) -> bool:
    """Log which weights a checkpoint lacks, and return whether weights of the head are among them.

    A masked-LM head needs no pooler, so this is not missing. Nor are tied weights, which are stored once, for
    transformers. Unused weights are not logged.

    Raises:
        InputError: if shapes differ from those of the configuration, or if no weight belongs to the encoder.
    """
    name = arguments.model_name_or_path
    if info["mismatched_keys"]:
        key, stored, expected = min(info["mismatched_keys"])
        config = "--config_name" if arguments.config_name else "its config.json"
        raise InputError(
            f"--model_name_or_path: {name} holds {key} with the shape {tuple(stored)}, and {config} expects "
            f"{tuple(expected)}; give the configuration that the weights were saved with"
        )
    absent = {key for key in info["missing_keys"] if "pooler" not in key.split(".")}
    prefix = f"{model.base_model_prefix}."
    encoder = {key for key, _ in model.named_parameters() if key.startswith(prefix) and "pooler" not in key.split(".")}
    if encoder and encoder <= absent:
        raise InputError(
            f"--model_name_or_path: {name} holds no weight of {kind_of(model)}; give a checkpoint of that architecture"
        )
    lost = sorted(key for key in absent if key.startswith(prefix))
    if lost:
        logger.warning(
            "--model_name_or_path: %s lacks %s of its encoder: %s; what it lacks is new",
            *(name, counted(len(lost), "weight"), first_of_many(lost, 3)),
        )
    if len(lost) < len(absent):
        logger.warning(
            "--model_name_or_path: %s has no masked-LM head, or not all of it; the head of this %s is new",
            name,
            type(model).__name__,
        )
    return len(lost) < len(absent)


def _set_length(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> None:
    """Save the model's longest sequence with the tokenizer of a model from scratch; a trained one has no limit."""
    limit = min(position_limits(model), default=getattr(model.config, "max_position_embeddings", None))
    if limit and limit > 0:
        tokenizer.model_max_length = limit
