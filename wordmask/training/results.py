"""Training and evaluation, and what is kept and told of them."""

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
    "train_samples": "training rows",
    "train_loss": "training loss",
    "eval_samples": "evaluation rows",
    "eval_loss": "evaluation loss",
    "perplexity": "perplexity",
    "eval_accuracy": "masked tokens right",
    "eval_whole_word_accuracy": "masked words right",
}


def train(trainer: MlmTrainer, checkpoint: str | None, change: str) -> dict[str, float]:
    """Train and save, or take over what a finished run has saved.

    Args:
        trainer: knows what was done.
        checkpoint: where it goes on, if anywhere.
        change: what changes with that, as the end of a sentence.
    """
    if checkpoint:
        if trainer.is_finished():
            logger.warning("%s holds the end of this run; --overwrite_output_dir trains it again", checkpoint)
            _take_over(trainer, checkpoint)
            return {}
        logger.warning("going on from %s%s", checkpoint, change)
    metrics = trainer.train(resume_from_checkpoint=checkpoint).metrics
    if not trainer.state.global_step:
        raise InputError("--train_file: the tokenizer finds no token in this text; give text that it was made for")
    if isinstance(trainer.train_rows, StagedSequences):
        metrics["train_samples"] = trainer.train_rows.stages[-1].documents
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
    trainer.state = read_state(checkpoint)
    if not saved:
        trainer.save_model()


def evaluate(trainer: MlmTrainer, combined: bool) -> dict[str, float]:
    """Evaluate the model as it is now; where `combined`, its results stand beside those of the training."""
    metrics = trainer.evaluate()
    metrics["eval_samples"] = len(trainer.eval_rows or ())
    if "eval_perplexity" in metrics:
        metrics["perplexity"] = metrics.pop("eval_perplexity")  # the name that readers of eval_results.json know
    trainer.log_metrics("eval", metrics)
    trainer.save_metrics("eval", metrics, combined)
    return metrics


def publish(trainer: MlmTrainer, metrics: dict[str, float]) -> None:
    """Write the model card, with the results of the training and of this evaluation, and push both if asked for."""
    path = Path(str(trainer.args.output_dir), "train_results.json")
    if trainer.is_world_process_zero() and path.exists():
        metrics = json.loads(path.read_text(encoding="utf-8")) | metrics
    shown = {name: metrics[name] for name in REPORTED if name in metrics and name != "eval_samples"}
    trainer.card = replace(
        trainer.card, metrics=shown, settings={**trainer.card.settings, "rows in a step": trainer.division.step}
    )
    if trainer.args.push_to_hub:
        with pushing(trainer.args.output_dir):
            trainer.push_to_hub()
    else:
        trainer.create_model_card()


def report(metrics: dict[str, float], trainer: MlmTrainer) -> None:
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
    what = "model and results" if trainer.args.do_train else "results"
    console.print(f"{what}: {trainer.args.output_dir}", soft_wrap=True)
