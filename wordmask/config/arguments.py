"""The flags of the training scripts, all together."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import CONFIG_MAPPING, MODEL_FOR_MASKED_LM_MAPPING
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import is_flash_attn_2_available

from wordmask.config.data_arguments import DataArguments
from wordmask.config.masking_arguments import MaskingArguments
from wordmask.config.model_arguments import ModelArguments
from wordmask.config.own_flags import OWN, training_parser
from wordmask.config.parser import build, is_true, suggest
from wordmask.config.run_arguments import RunArguments
from wordmask.config.segmenter_arguments import SegmentationArguments
from wordmask.masking import Strategy
from wordmask.utils.errors import InputError

logger = logging.getLogger(__name__)

MODEL_TYPES = tuple(
    sorted({config.model_type for config in MODEL_FOR_MASKED_LM_MAPPING if not config.is_encoder_decoder})
)


def refuse_encoder_decoder(flag: str, name: str, config: Any) -> None:
    """Raise an `InputError` for an encoder-decoder; `config` is its configuration, or the class of it."""
    if config.is_encoder_decoder:
        raise InputError(
            f"{flag}: {name} is an encoder-decoder, whose decoder would be fed the words that it has to predict; give "
            "an encoder, for example bert or roberta"
        )


@dataclass
class Arguments:
    """One run, as the command line and the argument file describe it.

    Attributes:
        model, data, masking, segmentation, training: the flags by their concern.
        given: every flag with its value, as a new run could take them from a file.
    """

    model: ModelArguments
    data: DataArguments
    masking: MaskingArguments
    segmentation: SegmentationArguments
    training: RunArguments
    given: dict[str, Any]

    @property
    def words(self) -> SegmentationArguments | None:
        """Where words come from besides the tokenizer; `None` where none are needed."""
        return None if self.masking.masking_strategy is Strategy.TOKEN else self.segmentation


def parse_arguments(argv: Sequence[str] | None, **defaults: Any) -> Arguments:
    """Parse the command line of a training script.

    Args:
        argv: the arguments, `sys.argv[1:]` if `None`: an argument file, if any, then flags.
        defaults: what this script does differently from the dataclasses.

    Raises:
        InputError: naming the flag that is wrong.
    """
    concerns: tuple[Any, ...] = (*OWN[:-1], RunArguments)
    parser = training_parser(concerns)
    parser.flags["include_num_input_tokens_seen"].type = _tokens_seen
    parser.flags["fsdp"].type = _fsdp
    parser.set_defaults(**defaults)
    namespace = parser.parse(sys.argv[1:] if argv is None else argv)
    given = {name: value for name, value in vars(namespace).items() if value is not None}

    model, data, masking, segmentation = (build(concern, namespace) for concern in concerns[:-1])
    _check_model(model)
    training = build(RunArguments, namespace)
    arguments = Arguments(model, data, masking, segmentation, training, given)
    _check_words(arguments)
    _check_prepared(arguments)
    if data.pack_sequences and model.attn_implementation == "flex_attention":
        raise InputError(
            "--pack_sequences with --attn_implementation flex_attention: that trains on few devices, and without "
            "dropout only; give sdpa or eager"
        )
    if data.line_by_line and not training.sampling_is_given:
        training.train_sampling_strategy = "group_by_length"
    return arguments


def _check_model(model: ModelArguments) -> None:
    """Raise an `InputError` where transformers has no such model or no such attention."""
    if model.model_name_or_path and model.model_type:  # as in the lines of run_language_modeling.py
        logger.warning("--model_type %s is for training from scratch; the model says its own type", model.model_type)
        model.model_type = None
    if model.model_type and model.model_type in CONFIG_MAPPING:
        refuse_encoder_decoder("--model_type", model.model_type, CONFIG_MAPPING[model.model_type])
    if model.model_type and model.model_type not in MODEL_TYPES:
        raise InputError(
            f"--model_type: {model.model_type} has no masked language model"
            f"{suggest(model.model_type, MODEL_TYPES)}; "
            f"known types are {', '.join(MODEL_TYPES)}"
        )
    implementations = ["eager", *ALL_ATTENTION_FUNCTIONS.valid_keys()]
    asked = model.attn_implementation
    if asked and asked not in implementations and "/" not in asked:  # a kernel of the hub has a slash
        raise InputError(f"--attn_implementation: {asked} is not known{suggest(asked, implementations)}")
    if asked == "flash_attention_2" and not is_flash_attn_2_available():
        raise InputError("--attn_implementation flash_attention_2 needs a GPU and flash-attn; give sdpa instead")


def _tokens_seen(value: str) -> str | bool:
    """A switch that may also say which tokens are counted."""
    return value if value in ("all", "non_padding", "no") else is_true(value)


def _fsdp(value: str) -> str | bool:
    """A switch that was once a list of options."""
    try:
        return is_true(value)
    except argparse.ArgumentTypeError:
        return value


def _check_words(arguments: Arguments) -> None:
    """Raise an `InputError` where words have two sources, or a source and no use."""
    references = [
        f"--{name}_ref_file" for name in ("train", "validation") if getattr(arguments.data, f"{name}_ref_file")
    ]
    sources = references + ["--segmenter"] * bool(arguments.segmentation.segmenter)
    if sources and arguments.masking.masking_strategy is Strategy.TOKEN:
        raise InputError(
            f"{sources[0]} marks whole words and --masking_strategy token masks tokens; use run_mlm_wwm.py, or "
            "--masking_strategy whole_word"
        )
    if references and arguments.segmentation.segmenter:
        raise InputError(f"{references[0]} and --segmenter both say what the words are; give one of the two")
    if arguments.data.streaming and arguments.training.sampling_is_given:
        raise InputError(
            "--train_sampling_strategy needs to know the text beforehand, and a stream comes in its own order; drop "
            "it, or --streaming"
        )
    if arguments.data.streaming and arguments.masking.rates[0] != arguments.masking.rates[1]:
        raise InputError("--mlm_probability: a schedule needs to know the length of training; drop --streaming")


def _check_prepared(arguments: Arguments) -> None:
    """Raise an `InputError` where other flags do not go with prepared text."""
    data, vocab_size = arguments.data, arguments.model.vocab_size
    if data.prepared_dir and vocab_size:
        raise InputError(
            f"--vocab_size {vocab_size} trains a tokenizer for one run and --prepared_dir needs one that stays; give "
            "--tokenizer_name, for example the --output_dir of a run with --vocab_size"
        )
    if data.prepare_only and arguments.masking.preview_masking:
        raise InputError("--prepare_only and --preview_masking both do one thing and exit; drop one of them")
