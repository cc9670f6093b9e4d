"""One run, from arguments to results."""

from __future__ import annotations

import logging
import math
import os
import sys
from collections.abc import Sequence
from typing import Any

import datasets
import transformers
from rich.console import Console
from rich.table import Table
from transformers import TrainerState, set_seed

from wordmask.config.arguments import Arguments, DataArguments, RunArguments, parse_arguments
from wordmask.data.collator import MaskingCollator
from wordmask.data.findings import Found, report
from wordmask.data.prepared_dir import load_prepared, prepare, tokens_of
from wordmask.data.sequences import Rows, StagedRows, StreamedRows, special_count
from wordmask.data.sources import load_texts
from wordmask.models.forward import choose_forward
from wordmask.models.loading import choose_length, load_model, load_tokenizer, longest_row
from wordmask.references.writer import Work
from wordmask.tokenization.vocabulary import Vocabulary
from wordmask.training.model_card import Card
from wordmask.training.output_dir import claim, find_checkpoint, warn_of_changes, write_record
from wordmask.training.preview import preview
from wordmask.training.trainer import MlmTrainer
from wordmask.utils.errors import InputError, one_line

logger = logging.getLogger(__name__)

REPORTED = {
    "train_samples": "training rows",
    "train_loss": "training loss",
    "eval_samples": "evaluation rows",
    "eval_loss": "evaluation loss",
    "perplexity": "perplexity",
    "eval_accuracy": "masked tokens right",
    "eval_whole_word_accuracy": "masked words right",
}


def run(script: str, argv: Sequence[str] | None, **defaults: Any) -> dict[str, float]:
    """Train and evaluate a masked language model as a command line says.

    Args:
        script: the name of the script, for the record.
        argv: its arguments, `sys.argv[1:]` if `None`.
        defaults: what the script does differently from others.

    Returns:
        The metrics of training and evaluation.

    Raises:
        InputError: for a user's mistake, before anything is trained.
    """
    arguments = parse_arguments(argv, **defaults)
    training = arguments.training
    _set_up_logging(training)
    if arguments.data.prepare_only:
        return _prepare_only(arguments)
    _refuse_data_parallel(training, script)
    checkpoint = None if arguments.masking.preview_masking else find_checkpoint(training)
    set_seed(training.seed)

    texts = _load_texts(arguments)
    with training.main_process_first(desc="loading the tokenizer"):
        tokenizer = load_tokenizer(arguments.model, texts.get("train"), checkpoint)
    vocabulary = Vocabulary.of(tokenizer)
    model = load_model(arguments.model, tokenizer)
    lengths = _lengths(arguments, model, tokenizer)
    rows = _prepare(texts, tokenizer, arguments, lengths)

    if arguments.masking.preview_masking:
        shown, collator = arguments.masking.preview_masking, _collator(arguments, vocabulary, words=True)
        first = rows.get("train") or rows["validation"]
        preview(first, shown, collator, tokenizer, arguments.masking.rates[0], Console())
        return {}
    trainer = _trainer(arguments, model, tokenizer, vocabulary, rows)
    if trainer.is_world_process_zero():
        claim(training)
        if checkpoint:
            warn_of_changes(arguments.given, training)
        write_record(script, arguments.given, training)
    trainer.accelerator.wait_for_everyone()

    metrics: dict[str, float] = {}
    if training.do_train:
        metrics |= _train(trainer, checkpoint)
    if training.do_eval:
        metrics |= _evaluate(trainer)
    trainer.card.metrics = {
        name: value for name, value in metrics.items() if name in REPORTED and name != "eval_samples"
    }
    if training.push_to_hub:
        trainer.push_to_hub()
    elif training.do_train:
        trainer.create_model_card()
    if trainer.is_world_process_zero():
        _report(metrics, trainer, training)
    return metrics


def _set_up_logging(training: RunArguments) -> None:
    level = training.get_process_log_level()
    logging.getLogger("wordmask").setLevel(min(level, logging.WARNING) if training.should_log else logging.ERROR)
    transformers.utils.logging.set_verbosity(max(level, logging.WARNING))
    datasets.utils.logging.set_verbosity(logging.CRITICAL)  # its errors come as ours, in one sentence
    if not (training.should_log and sys.stderr.isatty()):  # bars that nobody watches fill log files
        training.disable_tqdm = True
        datasets.disable_progress_bars()
        transformers.utils.logging.disable_progress_bar()


def _prepare_only(arguments: Arguments) -> dict[str, float]:
    """Tokenize the splits that this run would use into --prepared_dir; no model is loaded, no --output_dir made."""
    training, data = arguments.training, arguments.data
    if training.world_size > 1:
        raise InputError(
            f"--prepare_only: {training.world_size} processes of a launcher do not share this work; start with plain "
            "python, and divide it with --preprocessing_num_workers, or with --num_shards and --shard_index"
        )
    work = Work(data.preprocessing_num_workers or 1, data.part_lines, data.num_shards, data.shard_index)
    texts = _load_texts(arguments)
    tokenizer = load_tokenizer(arguments.model, None)
    Vocabulary.of(tokenizer)  # so that a tokenizer without a mask token is refused now
    used = {"train": training.do_train, "validation": training.do_eval}
    print(prepare({split: own for split, own in texts.items() if used[split]}, tokenizer, arguments, work))
    return {}


def _refuse_data_parallel(training: RunArguments, script: str) -> None:
    """`DataParallel`, which the Trainer would use, is slow and gives another loss."""
    if training.n_gpu > 1:
        raise InputError(
            f"{training.n_gpu} GPUs under plain python; start with "
            f"torchrun --nproc_per_node {training.n_gpu} {script}, or choose one GPU with CUDA_VISIBLE_DEVICES=0"
        )


def _load_texts(arguments: Arguments) -> dict[str, Any]:
    """The texts that this run needs; without --do_train and --do_eval, it does both as far as there is data."""
    training, data, model = arguments.training, arguments.data, arguments.model
    texts: dict[str, Any]
    if data.is_prepared:
        texts = load_prepared(data, arguments.segmentation)
    else:
        with training.main_process_first(desc="reading the text"):
            texts = load_texts(data, model.cache_dir, model.token, training.do_eval, training.neither)
    if training.neither:
        training.do_train = "train" in texts
        training.do_eval = "validation" in texts
    for split, wanted in (("train", training.do_train), ("validation", training.do_eval)):
        if wanted and split not in texts and data.is_prepared:
            raise InputError(
                f"--prepared_dir: {data.prepared_dir} holds no {split} text; prepare it with the same flags"
            )
    if training.do_train and "train" not in texts:
        raise InputError("--do_train needs training text; give --train_file, or a --dataset_name with a split train")
    if training.do_eval and "validation" not in texts:
        raise InputError(
            "--do_eval needs validation text; give --validation_file, or --validation_split_percentage above 0 "
            "without --streaming"
        )
    if data.streaming and training.do_train and training.max_steps <= 0 and not arguments.masking.preview_masking:
        raise InputError("--streaming needs --max_steps, since the length of a stream is not known")
    return texts


def _lengths(arguments: Arguments, model: Any, tokenizer: Any) -> list[int]:
    """The length of the rows of each stage, in tokens; the longest is that of evaluation."""
    data, limit, specials = arguments.data, longest_row(model, tokenizer), special_count(tokenizer)
    if data.stages:
        return [choose_length(length, limit, specials, "--length_schedule") for length, _ in data.stages]
    return [choose_length(data.max_seq_length, limit, specials, "--max_seq_length")]


def _prepare(texts: dict[str, Any], tokenizer, arguments: Arguments, lengths: list[int]) -> dict[str, Any]:
    """Rows for the splits that are used."""
    training, data, words, cache_dir = arguments.training, arguments.data, arguments.words, arguments.model.cache_dir
    rows: dict[str, Rows | StagedRows | StreamedRows] = {}
    found: list[Found] = []
    with training.main_process_first(desc="tokenizing"):
        if "train" in texts and (training.do_train or arguments.masking.preview_masking):
            if data.streaming:
                more = words, arguments.masking.rates[0], training.world_size, training.process_index
                streamed = StreamedRows(texts["train"], tokenizer, data, lengths[0], *more)
                rows["train"] = streamed
                found += [streamed.found()] if training.should_log else []
            else:
                stream, limit = tokens_of(texts["train"], tokenizer, data, words, cache_dir), data.max_train_samples
                found.append(stream.found)
                stages = [Rows.of(stream, tokenizer, data, length, data.pack_sequences, limit) for length in lengths]
                rows["train"] = StagedRows(stages, [share for _, share in data.stages] or [1.0])
        if "validation" in texts and (training.do_eval or not rows):
            stream, limit = tokens_of(texts["validation"], tokenizer, data, words, cache_dir), data.max_eval_samples
            found.append(stream.found)
            rows["validation"] = Rows.of(stream, tokenizer, data, max(lengths), limit=limit)
    report(found, masks_words=words is not None)
    for split, own in rows.items():
        if not isinstance(own, StreamedRows) and not len(own):
            raise InputError(
                f"{texts[split].flag}: the tokenizer finds no token in this text; give text that it was made for"
            )
    return rows


def _collator(
    arguments: Arguments, vocabulary: Vocabulary, packed: bool = False, words: bool = False
) -> MaskingCollator:
    training, masking = arguments.training, arguments.masking
    return MaskingCollator(
        vocabulary,
        masking.masking_strategy,
        training.mask_seed,
        masking.mask_replace_prob,
        masking.random_replace_prob,
        fixed=arguments.data.pad_to_max_length,
        multiple_of=8 if training.fp16 or training.bf16 else 1,  # tensor cores take whole tiles
        packed=packed,
        words=words,
        highest_rate=max(masking.rates) if arguments.data.pad_to_max_length else None,
    )


def _trainer(
    arguments: Arguments, model: Any, tokenizer: Any, vocabulary: Vocabulary, rows: dict[str, Any]
) -> MlmTrainer:
    """The Trainer, with what its arguments ask for checked."""
    training, data = arguments.training, arguments.data
    if not (training.fsdp or training.deepspeed):
        model.to(training.device)  # where flash attention can be tried
    forward = choose_forward(arguments, model)
    try:
        trainer = MlmTrainer(
            model,
            training,
            rows.get("train"),
            rows.get("validation"),
            tokenizer,
            _collator(arguments, vocabulary, packed=data.pack_sequences),
            _collator(arguments, vocabulary, words=True),
            arguments.masking.rates,
            forward,
            _card(arguments, model),
        )
        if training.do_train:
            trainer.get_optimizer_cls_and_kwargs(training, model)  # may lack a package
    except (ValueError, ImportError) as error:
        raise InputError(f"--optim, --report_to or another flag cannot be met: {one_line(error)}") from None
    if training.do_train:
        _check_stages(trainer, data)
    return trainer


def _check_stages(trainer: MlmTrainer, data: DataArguments) -> None:
    """Raise an `InputError` where a stage, or the training itself, would be without a single step."""
    if not isinstance(trainer.train_rows, StagedRows):
        return
    batches = trainer.batches(trainer.train_rows)
    for stage in batches.stages:
        if not stage.steps(batches.drop_last):
            raise InputError(
                f"--dataloader_drop_last: {stage.rows} rows do not fill a batch of {stage.layout.batch_size} on "
                f"{stage.layout.processes} processes; drop it, or lower --per_device_train_batch_size"
            )
    for (length, share), begin, end in zip(data.stages, [0, *batches.ends], batches.ends, strict=False):
        if begin == end:
            raise InputError(
                f"--length_schedule: {length}:{share:g} of {batches.ends[-1]} steps is not one step; give it a larger "
                "share"
            )


def _card(arguments: Arguments, model: Any) -> Card:
    training = arguments.training
    return Card(
        base=arguments.model.model_name_or_path,
        model_type=model.config.model_type,
        strategy=arguments.masking.masking_strategy.value,
        datasets=[arguments.data.dataset_name] if arguments.data.dataset_name else [],
        settings={
            "masking": f"{arguments.masking.masking_strategy.value}, {arguments.masking.mlm_probability}",
            "learning rate": training.learning_rate,
            "rows in a step": training.train_batch_size * training.gradient_accumulation_steps * training.world_size,
            "epochs": training.num_train_epochs if training.max_steps < 0 else f"{training.max_steps} steps",
            "seed": training.seed,
        },
    )


def _train(trainer: MlmTrainer, checkpoint: str | None) -> dict[str, float]:
    if checkpoint:
        done = TrainerState.load_from_json(os.path.join(checkpoint, "trainer_state.json")).global_step
        if done >= trainer.planned_steps():
            logger.warning("%s holds the end of this run; --overwrite_output_dir trains it again", checkpoint)
            _take_over(trainer, checkpoint)
            return {}
        logger.warning("going on from %s", checkpoint)
    metrics = trainer.train(resume_from_checkpoint=checkpoint).metrics
    if not trainer.state.global_step:
        raise InputError("--train_file: the tokenizer finds no token in this text; give text that it was made for")
    if isinstance(trainer.train_rows, StagedRows):
        metrics["train_samples"] = trainer.train_rows.stages[-1].lines
    trainer.save_model()
    trainer.log_metrics("train", metrics)
    trainer.save_metrics("train", metrics)
    trainer.save_state()
    return metrics


def _take_over(trainer: MlmTrainer, checkpoint: str) -> None:
    """Give the Trainer the model of a finished run, as that run saved it, or else as its last checkpoint has it."""
    directory = str(trainer.args.output_dir)
    saved = os.path.exists(os.path.join(directory, "train_results.json"))
    transformers.utils.logging.set_verbosity_error()  # weights that are tied are reported as missing
    trainer._load_from_checkpoint(directory if saved else checkpoint)
    trainer.state = TrainerState.load_from_json(os.path.join(checkpoint, "trainer_state.json"))
    if not saved:
        trainer.save_model()


def _evaluate(trainer: MlmTrainer) -> dict[str, float]:
    metrics = trainer.evaluate()
    metrics["eval_samples"] = len(trainer.eval_rows or ())
    if "eval_perplexity" in metrics:
        metrics["perplexity"] = metrics.pop("eval_perplexity")  # the name that readers of eval_results.json know
    trainer.log_metrics("eval", metrics)
    trainer.save_metrics("eval", metrics)
    return metrics


def _report(metrics: dict[str, float], trainer: MlmTrainer, training: RunArguments) -> None:
    """Say what was done, and where to look."""
    table = Table(title=f"wordmask, {trainer.collator.strategy.value} masking")
    table.add_column("")
    table.add_column("", justify="right")
    for name, label in REPORTED.items():
        if name in metrics:
            value = metrics[name]
            share = name.endswith("accuracy")
            whole = isinstance(value, int) or not math.isfinite(value)
            table.add_row(label, f"{value:.1%}" if share else f"{value:,}" if whole else f"{value:.4f}")
    console = Console(stderr=True)
    console.print(table)
    console.print(f"model and results: {training.output_dir}", soft_wrap=True)
