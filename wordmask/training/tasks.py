"""The tasks of a run: train, evaluate, write the model card, and print the results."""

from __future__ import annotations

import json
import logging
import math
import os
from dataclasses import replace
from pathlib import Path

import transformers
from rich.console import Console
from rich.table import Table

from wordmask.data.sequences import StagedSequences
from wordmask.training.progress_record import read_state
from wordmask.training.trainer import MlmTrainer
from wordmask.utils.errors import InputError
from wordmask.utils.hub import pushing

logger = logging.getLogger(__name__)

REPORTED = {
    "train_samples": "training examples",
    "train_loss": "training loss",
    "eval_samples": "evaluation examples",
    "eval_loss": "evaluation loss",
    "perplexity": "perplexity",
    "eval_accuracy": "masked tokens right",
    "eval_whole_word_accuracy": "masked words right",
}


def train(trainer: MlmTrainer, checkpoint: str | None, change: str) -> dict[str, float]:
    """Train and save, or load the result if the run is already finished.

    Args:
        trainer: the trainer, which has read the checkpoint.
        checkpoint: the checkpoint to continue from, if any.
        change: what is different from before the checkpoint, as the end of a sentence.
    """
    if checkpoint:
        if trainer.is_finished():
            logger.warning("%s holds the end of this run; give --overwrite_output_dir to train it again", checkpoint)
            _take_over(trainer, checkpoint)
            return {}
        logger.warning("going on from %s%s", checkpoint, change)
    metrics = trainer.train(resume_from_checkpoint=checkpoint).metrics
    if not trainer.state.global_step:
        raise InputError(
            "--train_file: the tokenizer finds no token in this text; give text in a language that it knows"
        )
    if isinstance(trainer.train_sequences, StagedSequences):
        metrics["train_samples"] = trainer.train_sequences.stages[-1].document_count
    trainer.save_model()
    trainer.log_metrics("train", metrics)
    trainer.save_metrics("train", metrics)
    trainer.save_state()
    return metrics


def _take_over(trainer: MlmTrainer, checkpoint: str) -> None:
    """Load the model of a finished run, or of its last checkpoint if the run did not save it."""
    directory = str(trainer.args.output_dir)
    saved = os.path.exists(os.path.join(directory, "train_results.json"))
    # A work-around; no thread known. It can go when `_load_from_checkpoint` does not call tied weights missing.
    transformers.utils.logging.set_verbosity_error()
    trainer._load_from_checkpoint(directory if saved else checkpoint)
    trainer.state = read_state(checkpoint)
    if not saved:
        trainer.save_model()


def evaluate(trainer: MlmTrainer, combined: bool) -> dict[str, float]:
    """Evaluate the model; `combined` adds the results to `all_results.json`, with those of training."""
    metrics = trainer.evaluate()
    metrics["eval_samples"] = len(trainer.eval_sequences or ())
    if "eval_perplexity" in metrics:
        metrics["perplexity"] = metrics.pop(
            "eval_perplexity"
        )  # its name in eval_results.json of transformers' scripts
    trainer.log_metrics("eval", metrics)
    trainer.save_metrics("eval", metrics, combined)
    return metrics


def publish(trainer: MlmTrainer, metrics: dict[str, float]) -> None:
    """Write the model card, with the results of training and evaluation; with --push_to_hub, push it and the model."""
    path = Path(str(trainer.args.output_dir), "train_results.json")
    if trainer.is_world_process_zero() and path.exists():
        metrics = json.loads(path.read_text(encoding="utf-8")) | metrics
    shown = {name: metrics[name] for name in REPORTED if name in metrics and name != "eval_samples"}
    trainer.card = replace(
        trainer.card, metrics=shown, settings={**trainer.card.settings, "examples in a step": trainer.division.step}
    )
    if trainer.args.push_to_hub:
        with pushing(trainer.args.output_dir):
            trainer.push_to_hub()
    else:
        trainer.create_model_card()


def report(metrics: dict[str, float], trainer: MlmTrainer) -> None:
    """Print the results, and where the files are."""
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
    what = "model and results" if trainer.args.do_train else "results"
    console.print(f"{what}: {trainer.args.output_dir}", soft_wrap=True)
