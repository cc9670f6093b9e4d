"""A Trainer with the loop of an evaluation: it sends batches through the model, and sums up the metrics."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from transformers.trainer_utils import EvalLoopOutput, SaveStrategy

from wordmask.data.corpora import InTurn
from wordmask.masking import IGNORED, original_ids
from wordmask.models.choose_forward import default_forward
from wordmask.models.forward import Forward, Prediction
from wordmask.tokenization.special_tokens import special_ids
from wordmask.tokenization.surfaces import Surfaces
from wordmask.training.evaluation.history import EvaluationHistory
from wordmask.training.evaluation.masked_words import MaskedWords, WordCounts
from wordmask.training.evaluation.metrics import MaskedLMMetric, mask_digest
from wordmask.training.evaluation.probe import Probe
from wordmask.training.records.evaluation_record import Evaluation
from wordmask.training.records.progress_record import best_by, saved_step
from wordmask.training.records.run_record import RunRecord
from wordmask.training.trainer.resuming import ResumableTrainer
from wordmask.utils.arrays import BoolArray, IntArray
from wordmask.utils.errors import InputError
from wordmask.utils.terminal import terminal
from wordmask.utils.workers import loader_workers

logger = logging.getLogger(__name__)


@dataclass
class _Running:
    """An evaluation in progress.

    Attributes:
        corpora: the corpus of each batch to come; an empty name where corpora are not told apart.
        words: counts masked words; `None` if the evaluation is not reported.
        metric: sums over its batches.
        model: the model as it is run, from the first batch on.
    """

    corpora: Iterator[str]
    words: WordCounts | None
    metric: MaskedLMMetric = field(default_factory=MaskedLMMetric)
    model: Any = None


@dataclass(frozen=True)
class _FlatBatch:
    """A batch of an evaluation: (positions,) tensors, on the CPU, since a TPU would compile each number of labels.

    Attributes:
        seen: what the model sees: the tokens after masking.
        labels: the tokens before masking where they are to be predicted, else `IGNORED`.
        words: the number of each token's word.
        attended: 0 for padding.
    """

    seen: torch.Tensor
    labels: torch.Tensor
    words: torch.Tensor
    attended: torch.Tensor

    @classmethod
    def of(cls, inputs: Mapping[str, torch.Tensor], words: torch.Tensor) -> _FlatBatch:
        """The batch that a model has seen, and the numbers of its words."""
        tensors = (inputs["input_ids"], inputs["labels"], words, inputs["attention_mask"])
        return cls(*(tensor.cpu().view(-1) for tensor in tensors))

    @cached_property
    def masked(self) -> torch.Tensor:
        """Whether a token is to be predicted."""
        return self.labels != IGNORED

    def best(self, prediction: Prediction) -> torch.Tensor:
        """The most probable token at each position; where none is predicted, a number that equals no label."""
        # With 8 positions and labels at 1 and 6, sparse prediction keeps 1 6, and maybe more as filling: 1 6 0.
        positions = slice(None) if prediction.positions is None else prediction.positions.cpu()
        best = torch.full_like(self.labels, IGNORED - 1)
        best[positions] = prediction.logits.argmax(-1).cpu().view(-1)
        return best

    def masked_words(self, best: torch.Tensor, maskable: BoolArray) -> MaskedWords:
        """The masked words, of which those are right whose tokens are the best ones.

        Args:
            best: see `best`.
            maskable: (ids,) whether a token may be masked.
        """
        tokens = original_ids(self.seen.numpy(), self.labels.numpy())
        inside = maskable[tokens] & (self.attended > 0).numpy()
        columns = tokens, self.words.numpy(), self.masked.numpy(), (best == self.labels).numpy()
        return MaskedWords.of_batch(*(column[inside] for column in columns))


class EvaluatingTrainer(ResumableTrainer):
    """A `Trainer` with the evaluation of masked language modelling.

    Args:
        eval_collator: makes batches with `word_ids`.
        forward: the forward pass; `None` for one with sparse prediction, if the model can.
        history: keeps and shows evaluations; `None` if only their metrics are returned.
        probe: measures the model on labelled text in each evaluation that is reported; `None` for no probe.
        args, options: those of the Trainer.
    """

    _reported = False  # whether `history` gets the evaluation that comes, or is in progress
    _running: _Running  # while there is one
    _begun_from: str | None = None  # the checkpoint that the training goes on from
    _latest: tuple[int, dict[str, float]] = (-1, {})  # the step and the metrics of the latest evaluation

    def __init__(
        self,
        *args: Any,
        eval_collator: Any,
        forward: Forward | None = None,
        history: EvaluationHistory | None = None,
        probe: Probe | None = None,
        **options: Any,
    ):
        super().__init__(*args, **options)
        model: Any = self.model  # the Trainer lets it be `None`
        self.forward = forward or default_forward(self.args, model)
        self.eval_collator, self.history, self.probe = eval_collator, history, probe

    def _evaluate(self, trial: Any, ignore_keys_for_eval: Any, skip_scheduler: bool = False) -> dict[str, float]:
        """Evaluate in training. The first evaluation is before training, so a resumed training skips it."""
        if skip_scheduler and (self.done.step or self._attempts > 1):
            return {}
        return super()._evaluate(trial, ignore_keys_for_eval, skip_scheduler)

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """The metrics of an evaluation, as the Trainer returns them."""
        history = self.history if eval_dataset is None else None
        self._reported = history is not None
        try:
            metrics = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        finally:
            self._reported = False
        if history is not None:
            history.show_predictions()
            self._latest = self._model_step, metrics
        return metrics

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Whether an evaluation is the best one of those that have its text, masks and probe.

        If the best model is loaded at the end, only evaluations of a model that is in a checkpoint count. A checkpoint
        that a signal made does not, so that a run that is stopped and goes on keeps the same model as another one.
        """
        state, saved = self.state, self._saved_checkpoint
        if self.history is not None and not self.history.compares_with(state.best_global_step):
            logger.warning(
                "the evaluation of step %s, the best one so far, had another text, other masks or another probe; the "
                "best step is one from step %s on",
                state.best_global_step,
                state.global_step,
            )
            state.best_metric = state.best_model_checkpoint = state.best_global_step = None
        is_saved = saved is not None or self.control.should_save or self.args.save_strategy == SaveStrategy.BEST
        if saved is not None and self.args.save_strategy == SaveStrategy.STEPS:
            is_saved = state.global_step % state.save_steps == 0 or state.global_step >= state.max_steps
        if self.args.load_best_model_at_end and not is_saved:
            return False
        is_best = super()._determine_best_metric(metrics, trial)
        if is_best and saved is not None:  # else the Trainer notes it when it saves
            state.best_model_checkpoint = saved
        return is_best

    @property
    def _saved_checkpoint(self) -> str | None:
        """The checkpoint that holds the model of this step, if it is saved already."""
        if self.state.global_step == self._saved_step:
            return str(self._checkpoint_of_step)
        return self._begun_from if self.state.global_step == self.done.step else None

    def _init_training_state(
        self, max_steps: int, steps: int, epochs: int, checkpoint: str | None, trial: Any
    ) -> tuple[int, int]:
        """The state to continue from. Find its best checkpoint again, since the directory of a run may have moved."""
        place = super()._init_training_state(max_steps, steps, epochs, checkpoint, trial)
        self._begun_from, state = checkpoint, self.state
        if checkpoint and Path(checkpoint).resolve() == self._checkpoint_of_step.resolve():
            self._saved_step = state.global_step  # to save it again would remove it first
        if checkpoint and self._best_done_by and best_by(self.args) not in (None, self._best_done_by):
            self._choose_best_again(Path(checkpoint).parent)
        if checkpoint and self.args.load_best_model_at_end and state.best_global_step:
            best = Path(checkpoint).with_name(f"checkpoint-{state.best_global_step}")
            if best.is_dir():
                state.best_model_checkpoint = str(best)
            elif Path(state.best_model_checkpoint or "").name != best.name:
                state.best_model_checkpoint = None  # that of another step
            self.forget_damaged_best(f"the best step is one from step {state.global_step} on")
        return place

    def _choose_best_again(self, directory: Path) -> None:
        """Choose the best step by today's `--metric_for_best_model`, among the evaluations before a resume.

        Those of another text, with other masks or another probe than the last one do not count.
        """
        state, args, chosen_by = self.state, self.args, str(best_by(self.args))
        name = chosen_by.split(", ")[0]
        found = {int(entry["step"]): entry[name] for entry in state.log_history if name in entry and entry["step"]}
        if self.history is not None:
            others = self.history.others_than_last()
            found = {step: value for step, value in found.items() if step not in others}
        if args.load_best_model_at_end:
            found = {step: value for step, value in found.items() if (directory / f"checkpoint-{step}").is_dir()}
        best = (max if args.greater_is_better else min)(found, key=found.__getitem__, default=None)
        state.best_global_step, state.best_metric = best, None if best is None else found[best]
        path = directory / f"checkpoint-{best}"
        state.best_model_checkpoint = str(path) if path.is_dir() else None
        logger.warning(
            "--metric_for_best_model: the best step was chosen by %s, and is by %s now: %s",
            self._best_done_by,
            chosen_by,
            f"step {best} so far" if best else "none so far",
        )

    def evaluate_trained(self) -> dict[str, float]:
        """The metrics of the model as it is now, which need no evaluation if training ended with one."""
        step, metrics = self._latest
        converted = self.args.fp16_full_eval or self.args.bf16_full_eval  # but not in training
        if step == self._model_step and not converted:
            return dict(metrics)
        terminal().doing("evaluating")
        return self.evaluate()

    def continue_from(self, checkpoint: str, run: RunRecord | None = None) -> str:
        """Take over the progress of a checkpoint, and the evaluations before it."""
        change = super().continue_from(checkpoint, run)
        if self.history is not None:
            self.history.continue_from(checkpoint, self.done.step, bool(self.args.eval_on_start))
        return change

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """The Trainer's loop, with sums of our metric, over all processes, instead of stored predictions.

        It changes no random number: a training is the same with any number of evaluations.
        """
        sampler = dataloader.batch_sampler
        corpora = sampler.corpora() if isinstance(sampler, InTurn) else repeat("")
        running = self._running = _Running(corpora, WordCounts() if self._reported else None)
        try:
            # A loader draws random numbers on the CPU; a model in evaluation draws none, on any device.
            with torch.random.fork_rng(devices=[]), loader_workers(self.args.dataloader_num_workers):
                output = super().evaluation_loop(
                    dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix
                )
        finally:
            del self._running
        metric = running.metric
        if self.args.world_size > 1:
            sums = torch.from_numpy(metric.sums_as_array()).to(self.args.device)
            metric.replace_sums(self.accelerator.reduce(sums, "sum").cpu().numpy())
        figures = metric.compute()
        if not figures:
            raise InputError("evaluation: no token of the text can be masked, so it has no loss; give another text")
        if running.words is not None and self.history is not None:
            words = running.words.over_all(self.accelerator)
            step, epoch = self._model_step, float(self.state.epoch or 0.0)
            digest = self.probe.examples.digest if self.probe else ""
            figures |= self.measure_probe(running.model)
            evaluation = Evaluation(step, epoch, figures, metric.masks, probe=digest)
            self.history.add(evaluation, words, partial(self._predict, running.model))
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in figures.items()}
        return output._replace(metrics={**(output.metrics or {}), **metrics})

    def measure_probe(self, model: Any) -> dict[str, float]:
        """The figures of the probe for a model as it runs; none without a probe."""

        def predict(inputs: dict[str, torch.Tensor]) -> Prediction:
            self.leave_evaluation()
            return self._predict(model, inputs)

        return self.probe.measure(predict, self.accelerator) if self.probe else {}

    def prediction_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[None, None, None]:
        """Add a batch to the sums of the evaluation; nothing else of it is kept."""
        running = self._running
        running.model = model
        words = inputs.pop("word_ids")
        prediction = self._predict(model, inputs)
        batch = _FlatBatch.of(inputs, words)
        masked, references = batch.masked, batch.labels[batch.masked]
        found: dict[str, torch.Tensor] = {}
        if len(references) and not self.args.prediction_loss_only:
            best = batch.best(prediction)
            found = {"predictions": best[masked], "references": references, "words": batch.words[masked]}
            if running.words is not None:
                running.words.add(batch.masked_words(best, self.eval_collator.vocabulary.maskable))
        masks = mask_digest(references.numpy(), batch.seen[masked].numpy())
        loss, corpus = float(prediction.loss) * len(references), next(running.corpora)
        running.metric.add_batch(loss=loss, tokens=len(references), masks=masks, corpus=corpus, **found)
        running.metric.add_characters(int(self._characters.take(references.numpy(), mode="clip").sum()))
        self.leave_evaluation()
        return None, None, None

    @cached_property
    def _characters(self) -> IntArray:
        """(ids,) The number of characters of each token; zeros without a tokenizer."""
        tokenizer: Any = self.processing_class
        if tokenizer is None:
            return np.zeros(1, np.int64)
        textless = [*special_ids(tokenizer), *([] if tokenizer.unk_token_id is None else [tokenizer.unk_token_id])]
        return Surfaces(tokenizer, np.array(textless, np.int64)).characters

    def _predict(self, model: Any, inputs: dict[str, torch.Tensor]) -> Prediction:
        """Send a batch through a model that is evaluated."""
        with torch.no_grad(), self.compute_loss_context_manager():
            return self.forward(model, self._prepare_inputs(inputs))

    @property
    def _model_step(self) -> int:
        """The step of the model: the last one, or that of the best checkpoint, if that was loaded at the end."""
        return self.state.global_step if self.is_in_train else saved_step(self.args, self.state)
