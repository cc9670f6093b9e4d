"""One run, from its arguments to its results: `run` calls the steps in order; read it first."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import transformers
from huggingface_hub.errors import HfHubHTTPError
from rich.console import Console
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from wordmask.config.arguments import Arguments, DataArguments, RunArguments, parse_arguments
from wordmask.data.collator import MaskingCollator
from wordmask.data.findings import Found, warn_of_findings
from wordmask.data.prepared_dir import load_prepared, prepare, tokens_of
from wordmask.data.sequences import Sequences, StagedSequences, StreamedSequences, special_count
from wordmask.data.sources import load_texts
from wordmask.data.token_store import Tokenization
from wordmask.models.configuration import load_config
from wordmask.models.forward import Forward
from wordmask.models.loading import choose_length, load_model, load_tokenizer, longest_row
from wordmask.models.trial import place_and_try
from wordmask.tokenization.vocabulary import Vocabulary
from wordmask.training.model_card import Card
from wordmask.training.output_dir import check_owner, evaluates_another, find_checkpoint, remove_older_run
from wordmask.training.preview import preview
from wordmask.training.results import evaluate, publish, report, train
from wordmask.training.run_record import Identity, read_run, write_run
from wordmask.training.trainer import MlmTrainer
from wordmask.utils.errors import InputError, one_line
from wordmask.utils.hub import check_push
from wordmask.utils.parts import Work

logger = logging.getLogger(__name__)


def run(script: str, argv: Sequence[str] | None, **defaults: Any) -> dict[str, float]:
    """Train and evaluate a masked language model as a command line says.

    Args:
        script: the script's name, for the record.
        argv: its arguments; `None` for `sys.argv[1:]`.
        defaults: the defaults of the script that differ from those of the dataclasses.

    Returns:
        The metrics of training and evaluation.

    Raises:
        InputError: for a user's mistake, before training begins.
    """
    arguments = parse_arguments(argv, **defaults)
    training, previews = arguments.training, arguments.masking.preview_masking > 0
    _set_up_logging(training)
    if arguments.data.prepare_only:
        return _prepare_only(arguments)
    _check_start(training, script)
    checkpoint = None if previews else find_checkpoint(arguments)
    set_seed(training.seed)

    load_config(arguments.model)  # refuses a wrong name before the text is read
    texts = _load_texts(arguments)
    checkpoint = checkpoint if training.do_train else None  # an evaluation is of the model that was asked for
    with training.main_process_first(desc="loading the tokenizer"):
        tokenizer = load_tokenizer(arguments.model, texts.get("train"), checkpoint)
    vocabulary = Vocabulary.of(tokenizer)
    model, head_is_new = load_model(arguments.model, tokenizer)
    tokenization = Tokenization(tokenizer, arguments.data, arguments.words, arguments.model.cache_dir)
    if previews:
        rows = _prepare(texts, tokenization, arguments, _lengths(arguments, model, tokenizer))
        return _preview(arguments, rows, vocabulary, tokenizer)

    identity = Identity.of(arguments, model, tokenizer, texts)
    changed_settings = check_owner(arguments, identity, checkpoint)
    lengths = _lengths(arguments, model, tokenizer)
    forward = place_and_try(arguments, model, len(vocabulary.maskable), max(lengths))
    rows = _prepare(texts, tokenization, arguments, lengths)
    trainer = _trainer(arguments, model, head_is_new, tokenizer, vocabulary, rows, forward)
    changed_steps = trainer.go_on_from(checkpoint, read_run(Path(checkpoint).parent)) if checkpoint else ""
    writes_card = _begin(script, arguments, identity, trainer, checkpoint, changed_settings)

    metrics: dict[str, float] = {}
    if training.do_train:
        metrics |= train(trainer, checkpoint, changed_steps)
    if training.do_eval:
        metrics |= evaluate(trainer, combined=not evaluates_another(arguments))
    if writes_card:
        publish(trainer, metrics)
    elif training.push_to_hub:
        logger.warning("--push_to_hub: this run trained nothing, so it pushes nothing")
    if trainer.is_world_process_zero():
        report(metrics, trainer)
    return metrics


def _check_start(training: RunArguments, script: str) -> None:
    """Raise an `InputError` if this run can neither use its GPUs nor push its model."""
    if training.n_gpu > 1:  # the Trainer would use `DataParallel`, which is slow and has another loss
        raise InputError(
            f"{training.n_gpu} GPUs under plain python; start with "
            f"torchrun --nproc_per_node {training.n_gpu} {script}, or choose one GPU with CUDA_VISIBLE_DEVICES=0"
        )
    if training.push_to_hub and training.process_index == 0:
        check_push(training.hub_model_id, training.hub_token)


def _preview(arguments: Arguments, rows: dict[str, Any], vocabulary: Vocabulary, tokenizer: Any) -> dict[str, float]:
    count, collator = arguments.masking.preview_masking, _collator(arguments, vocabulary, word_ids=True)
    preview(rows.get("train") or rows["validation"], count, collator, tokenizer, arguments.masking.rates[0], Console())
    return {}


def _begin(
    script: str,
    arguments: Arguments,
    identity: Identity,
    trainer: MlmTrainer,
    checkpoint: str | None,
    changed_settings: Sequence[str],
) -> bool:
    """Log what changed since the checkpoint, and make the output directory this run's.

    Returns:
        Whether to write the model card. If a finished training is started again, its record and its card stay, unless
        there are new results for the card.
    """
    for line in changed_settings:
        logger.warning("this run was started with other settings: %s", line)
    training, card = arguments.training, Path(arguments.training.output_dir, "README.md")
    writes_card = training.do_train
    if writes_card and trainer.is_finished():
        writes_card = not card.exists() or training.do_eval and not changed_settings
    trainer.accelerator.wait_for_everyone()  # all have read the record of the earlier run
    if trainer.is_world_process_zero():
        remove_older_run(arguments, checkpoint)
        if writes_card or not training.do_train:
            write_run(script, arguments, identity)
    trainer.accelerator.wait_for_everyone()
    return writes_card


def _set_up_logging(training: RunArguments) -> None:
    level = training.get_process_log_level()
    logging.getLogger("wordmask").setLevel(min(level, logging.WARNING) if training.should_log else logging.ERROR)
    transformers.utils.logging.set_verbosity(max(level, logging.WARNING))
    datasets.utils.logging.set_verbosity(logging.CRITICAL)  # its errors become ours, of one sentence
    if not (training.should_log and sys.stderr.isatty()):  # progress bars would fill log files
        training.disable_tqdm = True
        datasets.disable_progress_bars()
        transformers.utils.logging.disable_progress_bar()


def _prepare_only(arguments: Arguments) -> dict[str, float]:
    """Tokenize the splits that this run needs into --prepared_dir, without a model or an --output_dir."""
    training, data = arguments.training, arguments.data
    if training.world_size > 1:
        raise InputError(
            f"--prepare_only: {training.world_size} processes of a launcher cannot divide this work; start with plain "
            "python, and divide it with --preprocessing_num_workers, or with --num_shards and --shard_index"
        )
    work = Work(data.preprocessing_num_workers or 1, data.part_lines, data.num_shards, data.shard_index)
    texts = _load_texts(arguments)
    tokenizer = load_tokenizer(arguments.model, None)
    Vocabulary.of(tokenizer)  # refuses a tokenizer without a mask token
    needed = {"train": training.do_train, "validation": training.do_eval}
    tokenization = Tokenization(tokenizer, data, arguments.words, arguments.model.cache_dir)
    needed_texts = {split: text for split, text in texts.items() if needed[split]}
    print(prepare(needed_texts, tokenization, arguments.segmentation, work))
    return {}


def _load_texts(arguments: Arguments) -> dict[str, Any]:
    """Load the texts that this run needs. Without --do_train and --do_eval, it does what it has data for."""
    training, data, model = arguments.training, arguments.data, arguments.model
    texts: dict[str, Any]
    if data.is_prepared:
        texts = load_prepared(data, arguments.segmentation)
    else:
        with training.main_process_first(desc="reading the text"):
            texts = load_texts(data, model.cache_dir, model.token, training.do_eval, arguments.no_task_given)
    if arguments.no_task_given:
        training.do_train = "train" in texts
        training.do_eval = "validation" in texts
    for split, wanted in (("train", training.do_train), ("validation", training.do_eval)):
        if wanted and split not in texts and data.is_prepared:
            raise InputError(
                f"--prepared_dir: {data.prepared_dir} has no {split} text; run --prepare_only with the same flags"
            )
    if training.do_train and "train" not in texts:
        raise InputError("--do_train needs training text; give --train_file, or a --dataset_name with a split train")
    if training.do_eval and "validation" not in texts:
        raise InputError(
            "--do_eval needs validation text; give --validation_file, or --validation_split_percentage above 0 "
            "without --streaming"
        )
    if data.streaming and training.do_train and training.max_steps <= 0 and not arguments.masking.preview_masking:
        raise InputError("--streaming needs --max_steps, since a stream has no known length; add it")
    return texts


def _lengths(arguments: Arguments, model: Any, tokenizer: Any) -> list[int]:
    """The longest sequence of each stage, in tokens; evaluation uses the longest of all."""
    data, limit, specials = arguments.data, longest_row(model, tokenizer), special_count(tokenizer)
    if data.stages:
        return [choose_length(length, limit, specials, "--length_schedule") for length, _ in data.stages]
    return [choose_length(data.max_seq_length, limit, specials, "--max_seq_length")]


def _prepare(
    texts: dict[str, Any], tokenization: Tokenization, arguments: Arguments, lengths: list[int]
) -> dict[str, Any]:
    """Sequences for the splits that are used."""
    training, data = arguments.training, arguments.data
    rows: dict[str, Sequences | StagedSequences | StreamedSequences] = {}
    found: list[Found] = []
    with training.main_process_first(desc="tokenizing"):
        if "train" in texts and (training.do_train or arguments.masking.preview_masking):
            if data.streaming:
                processes = training.world_size, training.process_index
                rate = arguments.masking.rates[0]
                streamed = StreamedSequences(texts["train"], tokenization, lengths[0], rate, *processes)
                rows["train"] = streamed
                found += [streamed.found()] if training.should_log else []
            else:
                stream, limit = tokens_of(texts["train"], tokenization), data.max_train_samples
                found.append(stream.found)
                packed = data.pack_sequences
                stages = [Sequences.of(stream, tokenization, length, packed, limit) for length in lengths]
                rows["train"] = StagedSequences(stages, [share for _, share in data.stages] or [1.0])
        if "validation" in texts and (training.do_eval or not rows):
            stream, limit = tokens_of(texts["validation"], tokenization), data.max_eval_samples
            found.append(stream.found)
            rows["validation"] = Sequences.of(stream, tokenization, max(lengths), limit=limit)
    warn_of_findings(found, masks_words=tokenization.words is not None)
    for split, own in rows.items():
        if not isinstance(own, StreamedSequences) and not len(own):
            raise InputError(
                f"{texts[split].flag}: the tokenizer finds no token in this text; give text that it was made for"
            )
    return rows


def _collator(
    arguments: Arguments, vocabulary: Vocabulary, packed: bool = False, word_ids: bool = False
) -> MaskingCollator:
    training, masking = arguments.training, arguments.masking
    return MaskingCollator(
        vocabulary,
        masking.masking_strategy,
        training.mask_seed,
        masking.mask_replace_prob,
        masking.random_replace_prob,
        fixed=arguments.data.pad_to_max_length,
        multiple_of=8 if training.fp16 or training.bf16 else 1,  # tensor cores work on tiles of 8
        packed=packed,
        word_ids=word_ids,
        highest_rate=max(masking.rates) if arguments.data.pad_to_max_length else None,
    )


def _trainer(
    arguments: Arguments,
    model: PreTrainedModel,
    head_is_new: bool,
    tokenizer: PreTrainedTokenizerBase,
    vocabulary: Vocabulary,
    rows: dict[str, Any],
    forward: Forward,
) -> MlmTrainer:
    """Make the Trainer, and check that it can do what its arguments ask for."""
    training, data = arguments.training, arguments.data
    try:
        trainer = MlmTrainer(
            model,
            training,
            rows.get("train"),
            rows.get("validation"),
            tokenizer,
            _collator(arguments, vocabulary, packed=data.pack_sequences),
            _collator(arguments, vocabulary, word_ids=True),
            arguments.masking.rates,
            forward,
            _card(arguments, model, head_is_new),
        )
        if training.do_train:
            trainer.get_optimizer_cls_and_kwargs(training, model)  # may lack a package
    except (HfHubHTTPError, ConnectionError) as error:
        raise InputError(f"--push_to_hub: the hub cannot make the repository ({one_line(error)})") from None
    except (ValueError, ImportError) as error:
        raise InputError(f"--optim, --report_to or another flag fails ({one_line(error)}); change it") from None
    if training.do_train:
        _check_stages(trainer, data)
    return trainer


def _check_stages(trainer: MlmTrainer, data: DataArguments) -> None:
    """Raise an `InputError` if a stage, or the whole training, has no step."""
    if not isinstance(trainer.train_rows, StagedSequences):
        return
    batches = trainer.batches(trainer.train_rows)
    for stage in batches.stages:
        if not stage.steps(batches.drop_last):
            raise InputError(
                f"--dataloader_drop_last: {stage.sequences} rows do not fill a batch of {stage.layout.batch_size} on "
                f"{stage.layout.processes} processes; drop it, or lower --per_device_train_batch_size"
            )
    for (length, share), begin, end in zip(data.stages, [0, *batches.ends], batches.ends, strict=False):
        if begin == end:
            raise InputError(
                f"--length_schedule: {length}:{share:g} of {batches.ends[-1]} steps is not one step; give it a larger "
                "share"
            )


def _card(arguments: Arguments, model: PreTrainedModel, head_is_new: bool) -> Card:
    training = arguments.training
    return Card(
        base=arguments.model.model_name_or_path,
        model_type=model.config.model_type,
        strategy=arguments.masking.masking_strategy.value,
        datasets=[arguments.data.dataset_name] if arguments.data.dataset_name else [],
        settings={
            "masking": f"{arguments.masking.masking_strategy.value}, {arguments.masking.mlm_probability}",
            "learning rate": training.learning_rate,
            "examples in a step": training.train_batch_size
            * training.gradient_accumulation_steps
            * training.world_size,
            "epochs": training.num_train_epochs if training.max_steps < 0 else f"{training.max_steps} steps",
            "seed": training.seed,
        },
        head_is_new=head_is_new,
    )
