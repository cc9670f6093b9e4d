"""A run that is stopped and goes on with another number of processes, or with other accumulation.

If its steps stay as large, it trains as a run that was never stopped. The models have no dropout: each process draws
its own, so with dropout one process and two train differently from the first step on.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

import run_mlm_wwm
from conftest import run_two_processes, run_until, sample_lines, sample_tokenizer, save_model, sequences_in, trajectory
from wordmask.training.trainer.mlm_trainer import MlmTrainer

pytestmark = pytest.mark.slow  # processes start twice
SEQUENCES = 37  # the last step of an epoch is not full
EPOCHS = 3


class Leg(NamedTuple):
    """A part of a training: the step that it stops after (`None` for the end), and how its steps are divided."""

    last: int | None
    processes: int
    batch_size: int
    accumulation: int = 1


ONE_TO_TWO, TWO_TO_ONE = (Leg(3, 1, 8), Leg(None, 2, 4)), (Leg(3, 2, 4), Leg(None, 1, 8))
THERE_AND_BACK = (Leg(4, 1, 8), Leg(7, 2, 2, 2), Leg(None, 1, 2, 4))
BLOCKS = "--no_line_by_line"  # one after the other
# What a training is made of, and the legs that have as large steps as a run of one leg.
SAME = {
    "one to two": ((), ONE_TO_TWO),
    "two to one": ((), TWO_TO_ONE),
    "one to two to one": ((), THERE_AND_BACK),
    "at the end of an epoch": ((), (Leg(5, 1, 8), Leg(None, 2, 4))),
    "accumulation": ((), (Leg(3, 1, 8), Leg(7, 1, 2, 4), Leg(None, 1, 4, 2))),
    "accumulation on two": ((), (Leg(3, 2, 4), Leg(None, 2, 1, 4))),
    "grouped by length": (("--train_sampling_strategy", "group_by_length"), THERE_AND_BACK),
    "packed": (("--pack_sequences",), (Leg(2, 1, 2), Leg(3, 2, 1), Leg(None, 1, 1, 2))),
    "length schedule": (
        (BLOCKS, "--length_schedule", "16:0.5,32:0.5"),
        (Leg(4, 1, 4), Leg(8, 2, 2), Leg(None, 1, 2, 2)),
    ),
    "masking rate": (("--mlm_probability", "0.3:0.15"), THERE_AND_BACK),
    "workers": (("--dataloader_num_workers", "1"), (Leg(3, 1, 8), Leg(None, 2, 4))),
}
# With steps of other sizes, each sequence is seen once an epoch.
OTHER = {
    "one to two": (Leg(3, 1, 8), Leg(None, 2, 3)),
    "two to one": (Leg(3, 2, 3), Leg(None, 1, 5)),
    "there and back": (Leg(3, 1, 8), Leg(9, 2, 3), Leg(None, 1, 2, 2)),
    "twice in an epoch": (Leg(2, 2, 4), Leg(4, 1, 3), Leg(None, 2, 1, 3)),
}


class Journey(NamedTuple):
    """A training in several legs."""

    name: str
    more: tuple[str, ...]
    legs: tuple[Leg, ...]


JOURNEYS = [Journey(f"same {name}", *of) for name, of in SAME.items()]
JOURNEYS += [Journey(f"other {name}", (), legs) for name, legs in OTHER.items()]


class Travelled:
    """All journeys, with what each leg has trained on: the step and the tokens of each sequence.

    Legs on two processes share a start of these: all that can be made is made, then those on two processes, and so on.
    """

    def __init__(self, folder: Path):
        self.folder, self.seen = folder, dict[tuple[str, int], list]()
        self.text = folder / "text.txt"
        lines = [
            f"{line[: 20 + 9 * (number % 7)]} {number}"
            for number, line in enumerate(sample_lines("english", SEQUENCES))
        ]
        self.text.write_text("\n".join(lines), encoding="utf-8")
        save_model(
            folder / "model", sample_tokenizer("bert"), hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
        )
        for starts in itertools.count():
            coming = [(journey, number) for journey in JOURNEYS if (number := self._next(journey)) is not None]
            if not coming:
                break
            self._alone([each for each in coming if each[0].legs[each[1]].processes == 1])
            self._together([each for each in coming if each[0].legs[each[1]].processes == 2], starts)

    def _next(self, journey: Journey) -> int | None:
        return next((number for number in range(len(journey.legs)) if (journey.name, number) not in self.seen), None)

    def output(self, name: str) -> Path:
        return self.folder / name.replace(" ", "_")

    def command(self, journey: Journey, leg: Leg, output: Path) -> list[str]:
        return [
            *(["--stop", str(leg.last)] if leg.last else []),
            *("--model_name_or_path", str(self.folder / "model"), "--cache_dir", str(self.folder / "cache")),
            *("--train_file", str(self.text), "--output_dir", str(output), "--num_train_epochs", str(EPOCHS)),
            *"--use_cpu --do_train --logging_steps 1 --save_strategy no --report_to none".split(),
            *([] if "--length_schedule" in journey.more else ["--max_seq_length", "48"]),
            *("--per_device_train_batch_size", str(leg.batch_size)),
            *("--gradient_accumulation_steps", str(leg.accumulation), *journey.more),
        ]

    def _alone(self, legs: list[tuple[Journey, int]]) -> None:
        original = MlmTrainer.training_step
        for journey, number in legs:
            seen = self.seen[journey.name, number] = []

            def noted(self, model, inputs, *more, seen=seen):
                seen += [(self.state.global_step, sequence) for sequence in sequences_in(inputs)]
                return original(self, model, inputs, *more)

            leg = journey.legs[number]
            words = self.command(journey, leg, self.output(journey.name))
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(MlmTrainer, "training_step", noted)
                if leg.last:
                    run_until(leg.last, words[2:])
                else:
                    run_mlm_wwm.main(words)

    def _together(self, legs: list[tuple[Journey, int]], starts: int) -> None:
        if not legs:
            return
        folder = self.folder / f"start-{starts}"
        folder.mkdir()
        commands = [self.command(journey, journey.legs[number], self.output(journey.name)) for journey, number in legs]
        run_two_processes(commands, folder / "commands.json")
        seen = [json.loads((folder / f"seen-{rank}.json").read_text()) for rank in (0, 1)]
        for (journey, number), *of_ranks in zip(legs, *seen, strict=True):
            both = sorted(itertools.chain(*of_ranks), key=lambda each: each[0])
            self.seen[journey.name, number] = [(step, tuple(tokens)) for step, tokens in both]

    def all_seen(self, name: str) -> list[tuple[int, tuple[int, ...]]]:
        return [each for (of, _), seen in sorted(self.seen.items()) if of == name for each in seen]


@pytest.fixture(scope="module")
def travelled(tmp_path_factory) -> Travelled:
    return Travelled(tmp_path_factory.mktemp("elastic"))


@pytest.mark.parametrize(
    "journey", [one for one in JOURNEYS if one.name.startswith("same ")], ids=lambda one: one.name
)
def test_steps_as_large_train_the_same_however_they_are_divided(journey, travelled):
    first, whole = journey.legs[0], travelled.output(f"whole {journey.name}")
    leg = Leg(None, 1, first.batch_size * first.processes)
    run_mlm_wwm.main(travelled.command(journey, leg, whole))
    found, expected = trajectory(travelled.output(journey.name)), trajectory(whole)
    assert len(found) == len(expected) > journey.legs[-2].last
    for step, (pair, other) in enumerate(zip(found, expected, strict=True), 1):
        assert pair == pytest.approx(other, rel=1e-5), step


@pytest.mark.parametrize("name", [one.name for one in JOURNEYS if one.name.startswith("other ")])
def test_with_steps_of_another_size_each_sequence_is_seen_once_an_epoch(name, travelled):
    sequences = [tokens for _, tokens in travelled.all_seen(name)]
    assert len(sequences) == EPOCHS * SEQUENCES
    for begin in range(0, len(sequences), SEQUENCES):
        of_epoch = Counter(sequences[begin : begin + SEQUENCES])
        assert len(of_epoch) == SEQUENCES and {*of_epoch.values()} == {1}
