"""A few steps and evaluations that train nothing: do they fit into memory, are they finite, how long do they take?"""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from accelerate.utils.memory import clear_device_cache

from wordmask.config.arguments import Arguments
from wordmask.data.plan import Draw
from wordmask.data.sequences import Sequences, StagedSequences, StreamedSequences, no_tokens
from wordmask.data.token_steps import TokenBatches
from wordmask.models.configuration import origin
from wordmask.training.dry_run.forecast import steps_from
from wordmask.training.memory_errors import batch_sizes, free_memory, lacks_memory, need_less
from wordmask.training.padding import Lengths
from wordmask.training.trainer.mlm_trainer import MlmTrainer
from wordmask.utils.batches import divided
from wordmask.utils.errors import InputError
from wordmask.utils.memory import children_memory
from wordmask.utils.quantities import counted

# Ordinary steps that are timed, at most, and the seconds after which no other is. Each new shape of a batch takes some
# memory that stays, above all on a CPU, so many different steps are taken where they are short.
TIMED, SECONDS = 256, 20.0
BATCHES = 8  # of an evaluation, that are timed


def _halves(most: int, least: int = 1) -> list[int]:
    """A size, and smaller ones to try: 12, 6, 3, 1."""
    sizes = [most]
    while sizes[-1] > least:
        sizes.append(max(sizes[-1] // 2, least))
    return sizes


class Rehearsal:
    """Takes steps as the Trainer takes them.

    Args:
        arguments: of the run.
        trainer: its model is prepared.
        model: the trainer's model in its wrapper for several processes.
    """

    def __init__(self, arguments: Arguments, trainer: MlmTrainer, model: Any):
        self.arguments, self.args, self.trainer, self.model = arguments, arguments.training, trainer, model
        self.taken = 0  # steps
        self.workers_memory = 0  # bytes of the processes that load batches

    def take_step(self, batches: Sequence[Any]) -> None:
        """One optimizer step. Raises an `InputError` if its loss or its gradient is not finite."""
        trainer, device = self.trainer, self.args.device
        samples, labels = trainer.get_batch_samples(iter(batches), len(batches), device)
        loss = torch.zeros((), device=device)
        for number, batch in enumerate(samples, 1):
            is_last = number == len(samples)
            trainer.accelerator.gradient_state._set_sync_gradients(is_last)
            with contextlib.nullcontext() if is_last else trainer.accelerator.no_sync(self.model):
                loss += trainer.training_step(self.model, batch, labels)
        norm = trainer._clip_grad_norm(self.model) if self.args.max_grad_norm > 0 else loss
        trainer.optimizer.step()  # type: ignore[union-attr]
        self.model.zero_grad()
        # With --fp16, the scaler leaves out the first steps. What follows waits for the device.
        if not math.isfinite(value := float(loss) if self.args.fp16 else float(loss) + float(norm or 0.0)):
            self._refuse(value)
        self.taken += 1
        if device.type not in ("cpu", "xla"):
            torch.accelerator.synchronize()

    def _refuse(self, value: float) -> None:
        if self.taken:
            raise InputError(
                f"--learning_rate {self.args.learning_rate:g}: loss or gradient is {value} after "
                f"{counted(self.taken, 'step')}; give a smaller one, or --warmup_steps"
            )
        flag, name = origin(self.arguments.model)
        or_half = "drop --fp16, or " if self.args.fp16 else ""
        raise InputError(f"{flag}: {name} has a loss or a gradient of {value} at once; {or_half}give another model")

    # Memory

    def find_fit(self) -> None:
        """Try the largest step of each stage. If memory is short, raise an `InputError` with the size that fits."""
        trainer, free, batch = self.trainer, free_memory(self.args.device), self.trainer._train_batch_size
        tokens, longest, accumulated = self._micro_batch, self.longest, self.args.gradient_accumulation_steps
        if in_step := self.args.tokens_per_step:
            batch = -(-in_step // (accumulated * self.args.world_size * longest))  # of the longest sequences
        if tokens:
            flag, tried = "--tokens_per_pass", tokens
            sizes = _halves(min(tokens, batch * longest), min(longest, tokens))
        elif in_step:
            flag, tried, sizes = "--tokens_per_step", in_step, [batch]
        else:
            flag, tried, sizes = "--per_device_train_batch_size", batch, batch_sizes(batch, batch * accumulated)

        def attempt(number: int) -> None:
            if tokens:
                self._micro_batch = number
            else:
                trainer._train_batch_size = number
            for batches in self._largest_steps():
                self.take_step(batches)
                self.take_step(batches)  # the first one makes the optimizer's state, which lies beside the second one

        fits = self._first_that_fits(attempt, sizes)
        self._micro_batch = tokens
        if fits == sizes[0]:
            return
        trainer.optimizer.state.clear()  # type: ignore[union-attr]  # leaves memory for what follows
        if fits:
            more = "" if tokens else f" --gradient_accumulation_steps {batch * accumulated // fits}"
            advice = f"{fits} fits, so give {flag} {fits}{more}, which trains the same"
        elif self.args.world_size > 1 and len(sizes) > 1:
            advice = "give less: --dry_run in one process finds out how much fits"
        elif in_step and not tokens:
            advice = f"give --gradient_accumulation_steps {2 * accumulated}, which trains the same"
        else:
            advice = f"nor do single sequences, so {need_less(self.args)}"
        raise InputError(f"{flag} {tried}: the largest step does not fit into {free}; {advice}")

    @property
    def _micro_batch(self) -> int | None:
        return self.trainer.forward.micro_batch_tokens

    @_micro_batch.setter
    def _micro_batch(self, tokens: int | None) -> None:
        self.trainer.forward = replace(self.trainer.forward, micro_batch_tokens=tokens)

    def _first_that_fits(self, attempt: Callable[[int], None], sizes: Sequence[int]) -> int | None:
        """The first size for which an attempt has enough memory; `None` if there is none.

        Of several processes, each tries the first size alone: where it fails in one, the others wait for that one.
        """
        for number in sizes if self.args.world_size == 1 else sizes[:1]:
            try:
                # oneDNN does not recover from a failed allocation; to set its TF32 would warn.
                with torch.backends.mkldnn.flags(False, allow_tf32=None):  # type: ignore[arg-type]
                    attempt(number)
                return number
            except Exception as error:
                if not lacks_memory(error) or self.args.auto_find_batch_size:
                    raise
            self.model.zero_grad()
            clear_device_cache(garbage_collection=True)
        return None

    @property
    def longest(self) -> int:
        """The longest sequence that can occur, in tokens."""
        sequences = self.trainer.train_sequences or self.trainer.eval_sequences
        return max(stage.length for stage in getattr(sequences, "stages", [sequences]))

    def _largest_steps(self) -> Iterator[list[dict[str, torch.Tensor]]]:
        """For each stage, the batches of its longest sequences; for a stream, of sequences as long as they can be."""
        trainer, sequences = self.trainer, self.trainer.train_sequences
        collator: Any = trainer.collator
        if isinstance(sequences, StreamedSequences):
            example = next(iter(sequences), None)
            if example is None:
                raise no_tokens(sequences.flags[0])
            longest = np.resize(example.documents[0], sequences.length - sequences.special_count)
            batch = collator([example._replace(documents=[longest])] * trainer._train_batch_size)
            yield [batch] * self.args.gradient_accumulation_steps
            return
        assert sequences is not None
        if isinstance(trainer.plan, TokenBatches):
            yield [collator(sequences.__getitems__(batch)) for batch in trainer.plan.largest(trainer.rates.highest)]
            return
        for texts, stage in zip(sequences.stages, trainer.batches(sequences).stages, strict=True):
            layout, order = stage.layout, np.argsort(-texts.lengths, kind="stable")
            own = order[: layout.step_size][layout.process :: layout.processes]
            draws = [
                Draw(stage.offset + number, 0, trainer.rates.highest) for number in (own if len(own) else order[:1])
            ]
            batches = divided(draws, layout.batch_size)
            if trainer.forward.fixed:
                batches[-1] += [draws[0]._replace(rate=0.0)] * (layout.batch_size - len(batches[-1]))
            yield [collator(sequences.__getitems__(batch)) for batch in batches]

    # Time

    def time_steps(self, steps: range) -> tuple[list[float], int]:
        """The seconds of some ordinary steps, and at how many positions the model computed in them."""
        trainer, sequences = self.trainer, self.trainer.train_sequences
        chosen = np.unique(np.linspace(steps.start, steps.stop - 1, TIMED).astype(int))
        positions, seconds, accumulation = [0] * len(chosen), [], self.args.gradient_accumulation_steps
        loader = trainer.get_train_dataloader()
        if isinstance(sequences, StagedSequences):
            made = [next(steps_from(trainer, step)) for step in chosen.tolist()]  # in their order, which is quick
            order = np.random.default_rng(0).permutation(len(made))  # so that fewer steps are of all stages, too
            batches = [made[number] for number in order.tolist()]
            positions = [int(Lengths.of_stages(trainer, sequences.stages).of(step)[1]) for step in batches]
            loader = trainer._loader(sequences, trainer.collator, batch_sampler=[*itertools.chain(*batches)])
        iterator = iter(loader)
        for _ in range(len(chosen)):
            begin = time.monotonic()
            self.take_step([*itertools.islice(iterator, accumulation)])
            seconds.append(time.monotonic() - begin)
            spent = torch.tensor(sum(seconds), device=self.args.device)
            if len(seconds) > 1 and float(trainer.accelerator.reduce(spent, "mean")) > SECONDS:
                break
        self.workers_memory = children_memory()
        return seconds, sum(positions[: len(seconds)])

    def time_evaluation(self) -> float:
        """The seconds of an evaluation. Its largest batch is tried first; an `InputError` says which size fits."""
        trainer, args, sequences = self.trainer, self.args, self.trainer.eval_sequences
        assert isinstance(sequences, Sequences)
        order, sizes = np.argsort(-sequences.lengths, kind="stable"), _halves(args.per_device_eval_batch_size)
        free = free_memory(args.device)

        def attempt(number: int) -> None:
            args.per_device_eval_batch_size = number
            trainer.evaluate(sequences.subset(order[: args.eval_batch_size * args.world_size]))

        fits = self._first_that_fits(attempt, sizes)
        if fits != sizes[0]:
            advice = f"{fits} fits, so give that" if fits else "give a smaller one, or a smaller model"
            raise InputError(
                f"--per_device_eval_batch_size {sizes[0]}: the largest batch does not fit into {free}; {advice}"
            )
        batches = divided(order, args.eval_batch_size * args.world_size)
        chosen = np.unique(np.linspace(0, len(batches) - 1, BATCHES).astype(int))
        some = [batches[number] for number in chosen.tolist()]
        metrics = trainer.evaluate(sequences.subset(np.concatenate(some)))
        lengths = Lengths.of_stages(trainer, [sequences], trains=False)
        computed, timed = (sum(map(lengths.computed, part)) for part in (batches, some))
        return metrics["eval_runtime"] * computed / timed

    def time_probe(self) -> tuple[float, float]:
        """The seconds of a probe in the first evaluation, with what needs no model, and in later ones."""
        seconds = []
        for _ in range(2):
            begin = time.monotonic()
            self.trainer.measure_probe(self.model)
            seconds.append(time.monotonic() - begin)
        return seconds[0], seconds[1]
