"""Parse the command line of a training script into one `Arguments`, and check our own flags against each other.

launch_checks.py checks how the processes were started, and trainer_checks.py what the Trainer's flags ask for.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from accelerate.utils import broadcast_object_list
from transformers import CONFIG_MAPPING, MODEL_FOR_MASKED_LM_MAPPING, PreTrainedConfig
from transformers.trainer_utils import IntervalStrategy

from wordmask.config.added_arguments import AddedArguments
from wordmask.config.attention_checks import check_attention
from wordmask.config.data_arguments import DataArguments
from wordmask.config.masking_arguments import MaskingArguments
from wordmask.config.model_arguments import ModelArguments
from wordmask.config.own_flags import OWN, training_parser
from wordmask.config.parser import build, is_true, suggest
from wordmask.config.probe_arguments import ProbeArguments
from wordmask.config.run_arguments import RunArguments
from wordmask.config.segmenter_arguments import SegmentationArguments
from wordmask.config.short_form import Value, apply_defaults, is_short_form
from wordmask.masking import Strategy
from wordmask.utils.errors import InputError

logger = logging.getLogger(__name__)

MODEL_TYPES = tuple(
    sorted({config.model_type for config in MODEL_FOR_MASKED_LM_MAPPING if not config.is_encoder_decoder})
)


def refuse_encoder_decoder(flag: str, name: str, config: PreTrainedConfig | type[PreTrainedConfig]) -> None:
    """Raise an `InputError` for a model with a decoder; `config` is its configuration, or the class of it."""
    if config.is_encoder_decoder:
        raise InputError(
            f"{flag}: {name} is an encoder-decoder, whose decoder would get as input the words that it has to "
            "predict; give an encoder, for example bert or roberta"
        )
    if getattr(config, "is_decoder", False):
        raise InputError(
            f"{flag}: {name} has is_decoder=true, and a decoder sees only the tokens before a mask; set it to false"
        )


@dataclass
class Arguments:
    """One run, as its command line and its argument file describe it.

    Attributes:
        model, data, masking, segmentation, probe, training: the flags by their concern.
        given: every flag with its value, as an argument file could hold them.
        named: the names of the flags that the user gives.
        short_form: the defaults of the short form that count, with their values; empty for the long form.
    """

    model: ModelArguments
    data: DataArguments
    masking: MaskingArguments
    segmentation: SegmentationArguments
    probe: ProbeArguments
    training: RunArguments
    given: dict[str, object]
    named: Collection[str] = ()
    short_form: dict[str, Value] = field(default_factory=dict)

    @property
    def needed_segmentation(self) -> SegmentationArguments | None:
        """The segmenter's flags; `None` if whole words are not needed."""
        return None if self.masking.masking_strategy is Strategy.TOKEN else self.segmentation

    @property
    def no_task_given(self) -> bool:
        """Whether neither `--do_train` nor `--do_eval` is given, so that the run does what it has data for."""
        return not (self.given.get("do_train") or self.given.get("do_eval"))

    @property
    def only_evaluates(self) -> bool:
        """Whether `--do_eval` is given without `--do_train`."""
        return bool(self.given.get("do_eval") and not self.given.get("do_train"))

    @property
    def evaluation_flag(self) -> str | None:
        """The flag by which the user asks for an evaluation; `None` without one."""
        training = self.training
        asked = {
            "--do_eval": bool(self.given.get("do_eval")),
            "--probe_file": bool(self.probe.probe_file),
            "--eval_on_start": training.eval_on_start,
            "--eval_strategy": training.eval_strategy != "no",
        }
        return next((flag for flag, is_on in asked.items() if is_on and flag[2:] in self.named), None)


def parse_arguments(argv: Sequence[str] | None, **defaults: object) -> Arguments:
    """Parse the command line of a training script.

    Args:
        argv: the arguments, `sys.argv[1:]` if `None`: an argument file, if any, the words of the short form, if any,
            then flags.
        defaults: the defaults of this script that differ from those of the dataclasses.

    Raises:
        InputError: naming the flag that is wrong.
    """
    concerns: list[type] = [RunArguments if concern is AddedArguments else concern for concern in OWN[1:]]
    parser = training_parser(concerns)
    parser.flags["include_num_input_tokens_seen"].type = _tokens_seen
    parser.flags["fsdp"].type = _fsdp
    parser.set_defaults(**defaults)
    argv = sys.argv[1:] if argv is None else argv
    namespace = parser.parse(argv)
    is_short = is_short_form(argv)
    short_form = apply_defaults(namespace, parser.given) if is_short else {}
    given = {name: value for name, value in vars(namespace).items() if value is not None}

    model, data = build(ModelArguments, namespace), build(DataArguments, namespace)
    masking, segmentation = build(MaskingArguments, namespace), build(SegmentationArguments, namespace)
    probe = build(ProbeArguments, namespace)
    _check_model(model)
    if data.line_by_line and namespace.train_sampling_strategy is None:
        namespace.train_sampling_strategy = "group_by_length"
    training = build(RunArguments, namespace)
    if is_short and "output_dir" not in parser.given:
        training.output_dir = given["output_dir"] = _of_first_process(training)
    arguments = Arguments(model, data, masking, segmentation, probe, training, given, parser.given, short_form)
    _check_words(arguments)
    _check_probe(arguments)
    _check_evaluation(arguments)
    _check_streaming(arguments)
    _check_prepared(arguments)
    if data.pack_sequences and model.attn_implementation == "flex_attention":
        raise InputError(
            "--pack_sequences with --attn_implementation flex_attention trains on few devices, and without dropout "
            "only; give sdpa or eager"
        )
    return arguments


def _of_first_process(training: RunArguments) -> str:
    """The output directory that the first of several processes has chosen. They have met when `training` was made."""
    names = [training.output_dir]
    if training.world_size > 1:
        broadcast_object_list(names)
    return str(names[0])


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
    check_attention(model.attn_implementation)


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


def _check_probe(arguments: Arguments) -> None:
    """Raise an `InputError` if the best model is chosen by a probe that there is not."""
    metric = (arguments.training.metric_for_best_model or "").removeprefix("eval_")
    if metric.startswith("probe_") and not arguments.probe.probe_file:
        raise InputError(f"--metric_for_best_model {metric} needs --probe_file, a table of labelled text; add it")


def _check_evaluation(arguments: Arguments) -> None:
    """Evaluate if a flag asks for it; raise an `InputError` if there can be no text to evaluate on."""
    flag, data = arguments.evaluation_flag, arguments.data
    if flag is None:
        return
    arguments.training.do_eval = True
    has_text = data.validation_file or data.dataset_name or data.is_prepared
    if not has_text and (data.streaming or not data.validation_split_percentage):
        raise needs_validation_text(flag)


def needs_validation_text(flag: str) -> InputError:
    """The error if there is nothing to evaluate on."""
    return InputError(
        f"{flag} needs validation text; give --validation_file, or --validation_split_percentage above 0 without "
        "--streaming"
    )


def without_evaluation(arguments: Arguments) -> None:
    """Drop the defaults of the short form that need validation text; raise an `InputError` if a flag needs it."""
    if arguments.evaluation_flag:
        raise needs_validation_text(arguments.evaluation_flag)
    if "eval_strategy" in arguments.short_form:
        arguments.training.eval_strategy = IntervalStrategy.NO
        arguments.training.load_best_model_at_end = False


def _check_streaming(arguments: Arguments) -> None:
    """Raise an `InputError` if other flags need more of the text than a stream shows."""
    if arguments.data.streaming and "train_sampling_strategy" in arguments.named:
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
