"""The tasks of a run: report on the data, train, evaluate, write report and model card, and show the results."""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from accelerate.utils import broadcast_object_list
from transformers import TrainerState

from wordmask.config.metric_table import METRICS
from wordmask.data.data_report import DATA_REPORT, DataReport, SplitReport
from wordmask.data.sequences import StagedSequences, no_tokens
from wordmask.training.evaluation.before_after import ImprovedWords, Results
from wordmask.training.evaluation.probe_display import ProbeResults
from wordmask.training.padding import padding_share
from wordmask.training.records.evaluation_record import EvaluationRecord, read_evaluations
from wordmask.training.records.file_names import REPORT, STATE
from wordmask.training.records.progress_record import read_state, saved_step
from wordmask.training.records.run_record import evaluates_a_training
from wordmask.training.report.html_report import write_report
from wordmask.training.report.pages import only_warned
from wordmask.training.trainer.mlm_trainer import MlmTrainer
from wordmask.utils.errors import InputError
from wordmask.utils.files import damage_is_warned, read_json, write_json
from wordmask.utils.hub import pushing
from wordmask.utils.signals import deferred
from wordmask.utils.terminal import Fact, terminal
from wordmask.utils.workers import loader_workers

logger = logging.getLogger(__name__)

# The numbers that stand below the figures before and after.
OTHERS = {
    "train_samples": "training samples",
    "eval_samples": "evaluation samples",
    "eval_masked_tokens": "masked tokens",
}


def leave_text_out(directory: str | Path) -> None:
    """Take lines and words of the text out of what earlier runs have left in a directory."""
    if evaluations := read_evaluations(directory, sys.maxsize):
        EvaluationRecord(directory, [one.without_text() for one in evaluations]).write()
    path = Path(directory, DATA_REPORT)
    if path.exists():
        with damage_is_warned(path, "it is written again"):
            splits = read_json(path)
            del splits["advice"]  # it may name characters
            without = {split: asdict(SplitReport.read(report).without_text()) for split, report in splits.items()}
            write_json(path, without | {"advice": []})


def show_data_report(report: DataReport, trainer: MlmTrainer) -> None:
    """Show the report, and write it to the output directory. An evaluation leaves the report of a training there."""
    args, is_over = trainer.args, trainer.args.do_train and trainer.is_finished()  # that of the training stays
    if args.do_train and not is_over:
        report = report.with_padding(padding_share(trainer))
    report.show()
    keeps = is_over or evaluates_a_training(args)
    if report.splits and trainer.is_world_process_zero() and not keeps:
        write_json(Path(str(args.output_dir), DATA_REPORT), report.to_json())


def train(trainer: MlmTrainer, checkpoint: str | None, change: str) -> dict[str, float]:
    """Train and save, or load the result if the run is already finished.

    Args:
        trainer: the trainer, which has read the checkpoint.
        checkpoint: the checkpoint to continue from, if any.
        change: what is different from before the checkpoint, as the end of a sentence.
    """
    if checkpoint:
        if trainer.is_finished() and (results := _take_over(trainer, checkpoint)):
            return results
        logger.warning("going on from %s%s", checkpoint, change)
        if trainer.history:
            trainer.history.record.write()  # those of a checkpoint that lies elsewhere
    with deferred(), loader_workers(trainer.args.dataloader_num_workers, reads=False):
        metrics = trainer.train(resume_from_checkpoint=checkpoint).metrics
    if isinstance(trainer.train_sequences, StagedSequences):
        metrics["train_samples"] = trainer.train_sequences.stages[-1].document_count
    elif trainer.train_sequences is not None and not trainer.state.global_step:
        raise no_tokens(trainer.train_sequences.flags[0])
    step = saved_step(trainer.args, trainer.state)
    if step != trainer.state.global_step:
        terminal().show(Fact("saved model", f"that of step {step:,}, which was the best one"))
    terminal().doing("saving the model")
    _save_model(trainer)
    if trainer.is_world_process_zero():
        _results(trainer, "all")  # the Trainer adds to a file that can be read
    trainer.save_state()
    trainer.save_metrics("train", metrics)  # last, since it makes the run finished
    return metrics


def _take_over(trainer: MlmTrainer, checkpoint: str) -> dict[str, float]:
    """Load the model of a finished run, or of its last checkpoint, and return its results.

    Returns:
        The results; none if the run was stopped or killed before it had saved them.

    Raises:
        InputError: with --fsdp.
    """
    [results] = broadcast_object_list([_results(trainer, "train")])  # so that all processes decide the same
    if not results:
        return {}
    if trainer.is_fsdp_enabled:  # FSDP2 takes no model without an optimizer
        raise InputError(
            f"--fsdp: {checkpoint} holds the end of this run, and --fsdp cannot divide a model that is not trained; "
            "drop --fsdp and start with plain python to evaluate it, or give --overwrite_output_dir to train it again"
        )
    done, asked = trainer.done.step, trainer.planned_steps
    fewer = f" and more: {done:,} steps, of which this command asks for {asked:,}" if done > asked else ""
    logger.warning(
        "%s holds the end of this run%s; its results stay; give --overwrite_output_dir to train it again",
        checkpoint,
        fewer,
    )
    trainer.state = _final_state(str(trainer.args.output_dir), checkpoint)
    if not _load_saved(trainer):
        trainer._load_from_checkpoint(checkpoint)
        _save_model(trainer)
    return results


def _final_state(directory: str, checkpoint: str) -> TrainerState:
    """The state of the model that a finished run has saved. Its last checkpoint may be older, or of more steps."""
    with damage_is_warned(Path(directory, STATE), "the state in the last checkpoint is taken"):
        return read_state(directory)
    return read_state(checkpoint)


def _load_saved(trainer: MlmTrainer) -> bool:
    """Load the model that a finished run has saved; `False` with a warning if it cannot be read."""
    directory = str(trainer.args.output_dir)
    try:
        trainer._load_from_checkpoint(directory)
        return True
    except InputError as error:
        logger.warning("the model in %s is saved again: %s", directory, error)
        return False


def _save_model(trainer: MlmTrainer) -> None:
    """Save the model with its tokenizer. It replaces an earlier one when all of it is written."""
    directory = Path(str(trainer.args.output_dir))
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled or not trainer.args.should_save:
        trainer.save_model(_internal_call=True)  # of a model that is divided, several processes may write
        return
    for left in directory.glob(".model.*"):  # by a run that was killed here
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=".model.", dir=directory) as whole:
        trainer.save_model(whole, _internal_call=True)  # `publish` pushes it
        for path in sorted(Path(whole).iterdir()):
            os.replace(path, directory / path.name)


def evaluate(trainer: MlmTrainer, combined: bool) -> dict[str, float]:
    """Evaluate the model; `combined` adds the results to `all_results.json`, with those of training.

    If not, they are those of another model, or of a finished training with other settings.
    """
    if trainer.args.do_train and not combined:
        logger.warning(
            "this evaluation has other settings than the training had, so it replaces eval_results.json alone; "
            "all_results.json, the report and the model card stay"
        )
    metrics = trainer.evaluate_trained()
    if combined and not trainer.args.do_train and trainer.history and not trainer.history.compares_with_last():
        combined = False
        logger.warning(
            "text, masks or probe are not those of the last evaluation of the training here, so this one replaces "
            "eval_results.json alone; all_results.json and the report stay"
        )
    if not trainer.args.do_train:
        metrics.pop("epoch", None)  # 0, beside the epochs of the training
    metrics.pop("eval_model_preparation_time", None)  # which an evaluation after a training has not
    metrics["eval_samples"] = len(trainer.eval_sequences or ())
    metrics |= trainer.probe.baselines if trainer.probe else {}
    for metric in METRICS.values():
        if metric.trainer_name in metrics:
            metrics[metric.result] = metrics.pop(metric.trainer_name)
    before = trainer.history.compare() if trainer.history else {}
    metrics |= before
    if combined and not before and trainer.is_world_process_zero() and (results := _results(trainer, "all")):
        # Figures before training, of an earlier evaluation, are not those of this one.
        others = {name: value for name, value in results.items() if not name.endswith("_before")}
        write_json(Path(str(trainer.args.output_dir), "all_results.json"), others)
    trainer.save_metrics("eval", metrics, combined)
    return metrics


def _results(trainer: MlmTrainer, split: str) -> dict[str, float]:
    """Earlier results of `train`, `eval` or `all`; none without a file. One that cannot be read is removed."""
    path = Path(str(trainer.args.output_dir), f"{split}_results.json")
    try:
        content = path.read_bytes()
    except FileNotFoundError:  # also if another process has just removed it
        return {}
    with damage_is_warned(path, "earlier results are lost"):
        return dict(json.loads(content))
    path.unlink(missing_ok=True)
    return {}


def publish(trainer: MlmTrainer, writes_card: bool) -> None:
    """Write the report, and the model card if asked; with --push_to_hub, push them and the model."""
    directory = str(trainer.args.output_dir)
    if trainer.is_world_process_zero():
        with only_warned(f"the report of {directory}"):
            write_report(directory)
    if not writes_card:
        if trainer.args.push_to_hub:
            logger.warning("--push_to_hub: this run trained nothing, so it pushes nothing")
    elif trainer.args.push_to_hub:
        with pushing(directory):
            trainer.push_to_hub()
    else:
        trainer.create_model_card()


def show_results(metrics: dict[str, float], trainer: MlmTrainer) -> None:
    """Show the figures before and after, the words that improved most, and where the files are."""
    terminal().close()
    if any(name.endswith("_before") for name in metrics):  # else the last evaluation has shown all figures
        others = [(label, f"{int(metrics[name]):,}") for name, label in OTHERS.items() if name in metrics]
        terminal().show(Results(metrics, others))
    before = metrics.get("eval_loss_before", math.nan)
    if not math.isnan(before) and not round(metrics["eval_loss"] - before, 3) <= 0:  # also where it is NaN now
        logger.warning(
            "the evaluation loss is higher than before training, or no number, so the saved model predicts this text "
            'worse than the one it started from: see docs/adapt.md, "The loss stays high"'
        )
    if trainer.probe and "eval_probe_f1" in metrics:
        terminal().show(ProbeResults(metrics, str(trainer.probe.examples)))
    if trainer.history and trainer.history.improved:
        terminal().show(ImprovedWords(trainer.history.improved))
    what = "model and results" if trainer.args.do_train else "output"
    terminal().show(Fact(what, str(trainer.args.output_dir)))
    if (page := Path(str(trainer.args.output_dir), REPORT)).exists():
        terminal().show(Fact("report", str(page)))
