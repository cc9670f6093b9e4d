"""Check our own flags against each other.

All that is known from flags alone is checked in this folder, before the text is read:

- one flag: in `__post_init__` of the dataclass that has it;
- several of our flags: here;
- what the Trainer's flags ask for: trainer_checks.py, optimizer_checks.py, schedule_checks.py, tracker_checks.py, and
  number_checks.py for numbers;
- --attn_implementation: attention_checks.py;
- how the processes were started, and their GPUs: launch_checks.py.

`parse_arguments` and `RunArguments` call them. What needs the hub or the output directory is checked at the beginning
of `wordmask.training.run`, by `check_push` in utils/hub.py and `find_checkpoint` in training/records/output_dir.py.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from transformers import CONFIG_MAPPING, MODEL_FOR_MASKED_LM_MAPPING, PreTrainedConfig
from transformers.trainer_utils import IntervalStrategy

from wordmask.config.attention_checks import check_attention, check_flash
from wordmask.config.metric_table import METRICS
from wordmask.config.model_arguments import ModelArguments
from wordmask.config.trainer_checks import lacks_bf16
from wordmask.utils.errors import InputError, first_of, suggest
from wordmask.utils.quantities import plain

if TYPE_CHECKING:
    from wordmask.config.arguments import Arguments

logger = logging.getLogger(__name__)

MODEL_TYPES = tuple(
    sorted({config.model_type for config in MODEL_FOR_MASKED_LM_MAPPING if not config.is_encoder_decoder})
)


def check_model(model: ModelArguments) -> None:
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
            f"{suggest(model.model_type.lower(), MODEL_TYPES, most=3)}; docs/adapt.md lists all types, such as bert"
        )
    check_attention(model.attn_implementation)


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


def check_flags(arguments: Arguments) -> None:
    """Raise an `InputError` if flags contradict each other. A task that they ask for is turned on."""
    _choose_other_task(arguments)
    _check_precision(arguments)
    _check_words(arguments)
    if arguments.needed_segmentation is not None and not arguments.data.is_prepared:  # there it is only compared
        arguments.needed_segmentation.check()
    _check_probe(arguments)
    _check_evaluation(arguments)
    _check_streaming(arguments)
    _check_prepared(arguments)
    _check_exits(arguments)
    _check_token_steps(arguments)
    _check_graphs(arguments)
    _say_what_has_no_effect(arguments)
    whole = needs_whole_batches(arguments)
    if whole and arguments.training.tokens_per_pass:
        raise InputError(
            f"--tokens_per_pass divides batches by their lengths, and {whole} needs them whole; raise "
            "--gradient_accumulation_steps instead"
        )
    dividing = first_of({"--fsdp": arguments.training.fsdp, "--deepspeed": arguments.training.deepspeed})
    if arguments.model.keep_optimizer and dividing:
        raise InputError(f"--keep_optimizer: {dividing} divides this state over processes; drop one of them")
    if arguments.model.keep_optimizer and arguments.only_evaluates:
        raise InputError("--keep_optimizer has no effect in an evaluation; drop it, or add --do_train")
    if arguments.training.fsdp and arguments.only_evaluates:  # FSDP2 divides a model together with its optimizer
        raise InputError("--fsdp divides a model to train it, and an evaluation does not; drop it, or add --do_train")
    if arguments.data.pack_sequences and arguments.model.attn_implementation == "flex_attention":
        raise InputError(
            "--pack_sequences with --attn_implementation flex_attention trains on few devices, and without dropout "
            "only; give sdpa or eager"
        )


def _choose_other_task(arguments: Arguments) -> None:
    """If one of the tasks is turned off, turn the other one on; raise an `InputError` if both are turned off."""
    tasks = ("do_train", "do_eval")
    off = [name for name in tasks if name in arguments.named and not arguments.given[name]]
    if len(off) == 2:
        raise InputError("--do_train and --do_eval are both false, so there is nothing to do; drop one of them")
    for name in tasks if off else ():
        arguments.given[name] = name not in off
        setattr(arguments.training, name, name not in off)


def _check_precision(arguments: Arguments) -> None:
    """Raise an `InputError` if weights or attention need a precision that this run or its device has not."""
    model, training = arguments.model, arguments.training
    if arguments.masking.preview_masking or arguments.data.prepare_only:  # no model computes
        return
    if model.dtype == "bfloat16" and training.device.type != "cpu" and lacks_bf16(training):
        raise InputError("--dtype bfloat16: this needs a newer GPU (NVIDIA's Ampere or later); give --dtype float32")
    is_half = training.half_dtype is not None or model.dtype != "float32" or bool(training.deepspeed)
    check_flash(model.attn_implementation, training.device, is_half)


def _check_words(arguments: Arguments) -> None:
    """Raise an `InputError` if words come from two sources, or from one that is not used."""
    references = [
        f"--{name}_ref_file" for name in ("train", "validation") if getattr(arguments.data, f"{name}_ref_file")
    ]
    sources = [*references, "--segmenter"] if arguments.segmentation.segmenter else references
    if sources and not arguments.masking.needs_words:
        raise InputError(
            f"{sources[0]} marks whole words and --masking_strategy token masks tokens; give --masking_strategy "
            f"whole_word, or drop {sources[0]}"
        )
    if references and arguments.segmentation.segmenter:
        raise InputError(f"{references[0]} and --segmenter both define the words; drop one of them")


def _check_probe(arguments: Arguments) -> None:
    """Raise an `InputError` if the best model is chosen by a probe that there is not."""
    metric = (arguments.training.metric_for_best_model or "").removeprefix("eval_")
    if metric in METRICS and metric.startswith("probe_") and not arguments.probe.probe_file:
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
    if arguments.data.streaming and arguments.model.words_to_find:
        raise InputError(
            f"--add_words {arguments.model.add_words} needs the whole text before training; give a file with the "
            "words, or drop --streaming"
        )
    if arguments.data.streaming and arguments.masking.rates.needs_length:
        raise InputError("--mlm_probability: a schedule needs the length of training in advance; drop --streaming")


def _say_what_has_no_effect(arguments: Arguments) -> None:
    """Warn of numbers of steps that another flag turns off."""
    for what in ("eval", "save"):
        strategy = getattr(arguments.training, f"{what}_strategy")
        if f"{what}_steps" in arguments.named and strategy != IntervalStrategy.STEPS:
            flag = f"--{what}_strategy"
            logger.warning("--%s_steps has no effect with %s %s; add %s steps", what, flag, plain(strategy), flag)


def _check_token_steps(arguments: Arguments) -> None:
    """Raise an `InputError` if steps of so many tokens do not go with other flags."""
    data = arguments.data
    reasons = {
        "--pad_to_max_length gives every batch the same number of sequences": data.pad_to_max_length,
        "--streaming does not know the lengths of all sequences before training": data.streaming,
        "--length_schedule gives all steps a similar number of tokens already": data.stages,
    }
    if arguments.training.tokens_per_step and (reason := first_of(reasons)):
        raise InputError(f"--tokens_per_step: {reason}; drop one of them")
    if arguments.training.tokens_per_step and "per_device_train_batch_size" in arguments.named:
        logger.warning("--per_device_train_batch_size has no effect with --tokens_per_step")


def _check_graphs(arguments: Arguments) -> None:
    """Raise an `InputError` if CUDA graphs do not go with other flags."""
    training = arguments.training
    if not training.captures_graphs:
        return
    mode, other = f"--torch_compile_mode {training.torch_compile_mode}", "--torch_compile_mode default"
    if training.torch_compile_backend == "cudagraphs":
        mode, other = "--torch_compile_backend cudagraphs", "--torch_compile_backend inductor"
    if training.fsdp:
        raise InputError(f"{mode} makes CUDA graphs, which are not tried with --fsdp; drop one of them")
    if not arguments.data.pad_to_max_length:
        raise InputError(f"{mode} makes a CUDA graph for each shape of a batch; give --pad_to_max_length, or {other}")


def needs_whole_batches(arguments: Arguments) -> str | None:
    """The flag that forbids to divide batches into micro-batches; `None` without one."""
    training, padded = arguments.training, arguments.data.pad_to_max_length
    return first_of({"--pad_to_max_length": padded, "--deepspeed": training.deepspeed, "--fsdp": training.fsdp})


def _check_prepared(arguments: Arguments) -> None:
    """Raise an `InputError` if other flags do not go with prepared text."""
    data, vocab_size = arguments.data, arguments.model.vocab_size
    if data.prepared_dir and vocab_size:
        raise InputError(
            f"--vocab_size {vocab_size} trains a tokenizer for one run and --prepared_dir needs one for several; give "
            "--tokenizer_name, for example the --output_dir of a run with --vocab_size"
        )
    if data.prepared_dir and arguments.model.words_to_find:
        raise InputError(
            f"--add_words {arguments.model.add_words} finds words in the training text for one run and --prepared_dir "
            "needs one tokenizer for several; give a file with the words"
        )


def _check_exits(arguments: Arguments) -> None:
    """Raise an `InputError` for two flags that each do one thing and exit."""
    exits = {
        "--prepare_only": arguments.data.prepare_only,
        "--preview_masking": arguments.masking.preview_masking > 0,
        "--dry_run": arguments.training.dry_run,
    }
    asked = [flag for flag, is_given in exits.items() if is_given]
    if len(asked) > 1:
        raise InputError(f"{asked[0]} and {asked[1]} each do one thing and exit; drop one of them")
