"""Parse the command line of a training script into one `Arguments`, and check its flags against each other."""

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
    """Raise an `InputError` for a model with a decoder; `config` is its configuration, or the class of it."""
    if config.is_encoder_decoder:
        raise InputError(
            f"{flag}: {name} is an encoder-decoder, whose decoder would be fed the words that it has to predict; give "
            "an encoder, for example bert or roberta"
        )
    if getattr(config, "is_decoder", False):
        raise InputError(
            f"{flag}: {name} has is_decoder=true, and a decoder sees only the tokens before a mask; set it to false"
        )


@dataclass
class Arguments:
    """One run, as its command line and its argument file describe it.

    Attributes:
        model, data, masking, segmentation, training: the flags by their concern.
        given: every flag with its value, as an argument file could hold them.
    """

    model: ModelArguments
    data: DataArguments
    masking: MaskingArguments
    segmentation: SegmentationArguments
    training: RunArguments
    given: dict[str, Any]

    @property
    def needed_segmentation(self) -> SegmentationArguments | None:
        """The segmenter's flags; `None` if whole words are not needed."""
        return None if self.masking.masking_strategy is Strategy.TOKEN else self.segmentation

    @property
    def no_task_given(self) -> bool:
        """Whether neither `--do_train` nor `--do_eval` is given, so that the run does what it has data for."""
        return not (self.given.get("do_train") or self.given.get("do_eval"))


def parse_arguments(argv: Sequence[str] | None, **defaults: Any) -> Arguments:
    """Parse the command line of a training script.

    Args:
        argv: the arguments, `sys.argv[1:]` if `None`: an argument file, if any, then flags.
        defaults: the defaults of this script that differ from those of the dataclasses.

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
    if data.line_by_line and namespace.train_sampling_strategy is None:
        namespace.train_sampling_strategy = "group_by_length"
    arguments = Arguments(model, data, masking, segmentation, build(RunArguments, namespace), given)
    _check_words(arguments)
    _check_streaming(arguments)
    _check_prepared(arguments)
    if data.pack_sequences and model.attn_implementation == "flex_attention":
        raise InputError(
            "--pack_sequences with --attn_implementation flex_attention trains on few devices, and without dropout "
            "only; give sdpa or eager"
        )
    return arguments


def _check_model(model: ModelArguments) -> None:
    """Raise an `InputError` if transformers has no such model or no such attention."""
    if model.model_name_or_path and model.model_type:  # as in the commands of run_language_modeling.py
        logger.warning(
            "--model_type %s is for training from scratch; the model has a type, which is used", model.model_type
        )
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
    """Parse a switch that may also name the tokens to count."""
    return value if value in ("all", "non_padding", "no") else is_true(value)


def _fsdp(value: str) -> str | bool:
    """Parse a switch that earlier versions took as a list of options."""
    try:
        return is_true(value)
    except argparse.ArgumentTypeError:
        return value


def _check_words(arguments: Arguments) -> None:
    """Raise an `InputError` if words come from two sources, or from one that is not used."""
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
        raise InputError(f"{references[0]} and --segmenter both define the words; drop one of them")


def _check_streaming(arguments: Arguments) -> None:
    """Raise an `InputError` if other flags need more of the text than a stream shows."""
    if arguments.data.streaming and "train_sampling_strategy" in arguments.given:
        raise InputError(
            "--train_sampling_strategy needs the whole text before training, and a stream has its own order; drop it, "
            "or --streaming"
        )
    if arguments.data.streaming and arguments.masking.rates[0] != arguments.masking.rates[1]:
        raise InputError("--mlm_probability: a schedule needs the length of training in advance; drop --streaming")


def _check_prepared(arguments: Arguments) -> None:
    """Raise an `InputError` if other flags do not go with prepared text."""
    data, vocab_size = arguments.data, arguments.model.vocab_size
    if data.prepared_dir and vocab_size:
        raise InputError(
            f"--vocab_size {vocab_size} trains a tokenizer for one run and --prepared_dir needs one for several; give "
            "--tokenizer_name, for example the --output_dir of a run with --vocab_size"
        )
    exits = {
        "--prepare_only": data.prepare_only,
        "--preview_masking": arguments.masking.preview_masking > 0,
        "--dry_run": arguments.training.dry_run,
    }
    asked = [flag for flag, is_given in exits.items() if is_given]
    if len(asked) > 1:
        raise InputError(f"{asked[0]} and {asked[1]} each do one thing and exit; drop one of them")
