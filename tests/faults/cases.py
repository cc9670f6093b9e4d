"""The table: to which run what happens, where, in which process, and what is damaged before the run starts again."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import product
from typing import NamedTuple

from faults.events import Event

# Trained for 8 steps: an epoch of 4 batches, twice, with checkpoints at 2, 4, 6 and 8, and evaluations at 4 and 8.
TRAINING = (
    "wwm --model_name_or_path {inputs}/model --train_file {inputs}/text.txt --validation_file {inputs}/dev.txt "
    "--output_dir {out} --use_cpu --max_steps 8 --per_device_train_batch_size 4 --per_device_eval_batch_size 4 "
    "--logging_steps 1 --save_steps 2 --save_total_limit 2 --eval_strategy steps --eval_steps 4 --max_seq_length 32 "
    "--eval_on_start false --cache_dir {out}/../cache"
)
REFERENCES = "ref --file_name {inputs}/text.txt --bert {inputs}/model --segmenter whitespace --save_path {out}/ref.txt"
PREPARING = (
    "wwm --model_name_or_path {inputs}/model --train_file {inputs}/text.txt --prepare_only "
    "--prepared_dir {out}/tokens "
    "--part_lines 3 --validation_split_percentage 0"
)
SMALL = "hidden_size=16,num_hidden_layers=1,num_attention_heads=2,intermediate_size=32"
RUNS = {
    "plain": TRAINING,
    "workers": f"{TRAINING} --dataloader_num_workers 1",
    "three epochs": f"{TRAINING} --dataloader_num_workers 1 --max_steps 12",
    "packed": f"{TRAINING} --pack_sequences --per_device_train_batch_size 2",
    "streamed": f"{TRAINING} --streaming",
    "staged": f"{TRAINING} --no_line_by_line --max_seq_length= --length_schedule 8:0.5,16:0.5",
    "accumulated": f"{TRAINING} --per_device_train_batch_size 2 --gradient_accumulation_steps 2",
    "from scratch": TRAINING.replace(
        "--model_name_or_path {inputs}/model", f"--model_type bert --vocab_size 300 --config_overrides {SMALL}"
    ),
    "two processes": TRAINING,
    "references": f"{REFERENCES} --part_lines 3",
    "references by workers": f"{REFERENCES} --part_lines 3 --num_workers 2",
    "prepared": PREPARING,
    "prepared by workers": f"{PREPARING} --preprocessing_num_workers 2",
}
RUNS["staged"] = RUNS["staged"].replace(" --max_seq_length 32", "").replace(" --max_seq_length=", "")


class Case(NamedTuple):
    """A row of the table: a run, and what happens to it. It is launched until all has happened, and once more."""

    run: str
    events: tuple[Event, ...]

    def __str__(self) -> str:
        return f"{self.run}: {'; '.join(map(str, self.events))}"

    @property
    def without_damage(self) -> Case:
        """The same, but no file is cut off."""
        return Case(self.run, tuple(event._replace(damaged="", share=0.0) for event in self.events))


# What a run reads again: all that is there, but the text and the model. The record of its settings is the only place
# that says what the earlier run was: if that is cut, it says so.
READ_AGAIN = {
    "plain": (
        *("checkpoint-*/model.safetensors", "checkpoint-*/optimizer.pt", "checkpoint-*/scheduler.pt"),
        *("checkpoint-*/rng_state.pth", "checkpoint-*/trainer_state.json", "checkpoint-*/config.json"),
        *("checkpoint-*/wordmask_manifest.json", "checkpoint-*/wordmask_progress.json", "checkpoint-*/tokenizer.json"),
        *("checkpoint-*/tokenizer_config.json", "checkpoint-*/training_args.bin", "wordmask_run.json"),
        *("wordmask_evaluations.json", "wordmask_speed.json", "data_report.json", "../cache/wordmask/content-*.json"),
        *("../cache/wordmask/counts-*.json", "../cache/wordmask/tokens-*.arrow"),
    ),
    "references": ("ref.txt.parts/*.part", "ref.txt.parts/0*.json", "ref.txt.parts/made_from.json"),
    "prepared": ("tokens/*.arrow", "tokens/*[0-9].json", "tokens/wordmask_prepared.json"),
}
SHARES = tuple(tenth / 10 for tenth in range(10))
SIGNALS, DISKS = ("SIGTERM", "SIGINT"), ("full disk", "read-only disk")
SAVING = ("weights", "state", "manifest", "rotation")  # of a checkpoint, in this order


kill, term, interrupt, fill, lock, kill_worker = (
    partial(Event, name) for name in ("SIGKILL", "SIGTERM", "SIGINT", "full disk", "read-only disk", "dead worker")
)
# What happens to one run, also in one launch: after SIGTERM it saves a checkpoint, and is killed as it does. Of two
# equal events, the second one hits the step again after the next launch.
SEVERAL = (
    ("three epochs", kill("update", 3), term("weights", 6), kill_worker("step", 9)),
    ("workers", interrupt("step", 2), kill("step", 4), kill_worker("step", 5)),
    ("plain", kill("step", 3), kill("step", 3), kill("step", 3)),
    ("plain", kill("manifest", 2), kill("manifest", 4), kill("manifest", 6), kill("manifest", 8)),
    ("plain", term("step", 3), kill("weights", 3), interrupt("evaluation", 4)),
    ("plain", interrupt("step", 3), interrupt("weights", 3), kill("results")),
    ("plain", fill("weights", 2), lock("state", 4), fill("weights", 8, 2)),
    (
        "plain",
        kill("step", 5, damaged="checkpoint-*/optimizer.pt", share=0.5),
        kill("step", 6, damaged="checkpoint-*/model.safetensors"),
        kill("step", 8, damaged="checkpoint-*/trainer_state.json", share=0.9),
    ),
    ("packed", interrupt("step", 2), term("step", 5), kill("ending")),
    ("streamed", kill("step", 2), kill("step", 4), kill("step", 7), term("evaluation", 8)),
    ("staged", kill("state", 2), term("step", 4), interrupt("step", 5), kill("rotation", 8)),
    ("accumulated", kill("step", 3, 2), term("step", 3, 2), kill("update", 5)),
    ("from scratch", kill("step", 1), kill("step", 1), term("step", 2), fill("weights", 4)),
    ("two processes", kill("step", 3), term("weights", 6), kill("step", 8, rank=1)),
    ("two processes", term("step", 3), interrupt("step", 3, rank=1), kill("evaluation", 4, rank=1)),
    ("two processes", fill("step", 3), kill("step", 5, rank=1), lock("step", 7, rank=1)),
    ("two processes", kill("update", 4, rank=1), kill("update", 4, rank=1), kill("update", 4)),
    ("references", kill("part", 1), term("stamp", 2), kill("joining"), kill("sidecar")),
    ("references", fill("part", 0), kill("part", 0), lock("stamp", 3)),
    ("references by workers", kill_worker("part", 1), interrupt("part", 3), kill("stamp", 4)),
    ("prepared", kill("part", 1), kill("part", 1), fill("part", 3), term("report")),
    ("prepared by workers", kill_worker("part", 1), kill("part", 2), term("stamp", 3)),
)
TRAINED = ("plain", "packed", "streamed", "staged", "workers")


def table() -> list[Case]:
    """All cases."""
    single = [*_killed(), *_stopped(), *_full(), *_damaged(), *_of_two_processes(), *_of_parts()]
    return [Case(run, tuple(events)) for run, *events in [*single, *SEVERAL]]


def _killed() -> Iterator[tuple[str, Event]]:
    """A training run that is killed, or whose worker is."""
    for run, step in product(TRAINED, range(1, 9)):
        yield run, Event("SIGKILL", "step", step)
    for run, place, step in product(("plain", "packed", "staged"), SAVING, (2, 4, 6, 8)):
        yield run, Event("SIGKILL", place, step)
    for run, step in product(("plain", "accumulated"), (3, 5)):
        yield run, Event("SIGKILL", "update", step)
    for step in (2, 5):
        yield "workers", Event("dead worker", "step", step)


def _stopped() -> Iterator[tuple[str, Event]]:
    """A training run that gets a signal, SIGKILL among others, where a checkpoint may not be written at once."""
    for run, name, step in product(TRAINED, SIGNALS, (3, 4, 5)):
        yield run, Event(name, "step", step)
    for run, name in product(TRAINED, (*SIGNALS, "SIGKILL")):
        yield run, Event(name, "ending")
    for name in (*SIGNALS, "SIGKILL"):
        yield "plain", Event(name, "weights", 8, call=2)  # the final model
        yield "plain", Event(name, "results")
        for run, (step, batch) in product(("plain", "packed", "streamed"), ((4, 1), (4, 2), (8, 1))):
            yield run, Event(name, "evaluation", step, batch)
        for step, micro_batch in ((3, 2), (5, 1)):
            yield "accumulated", Event(name, "step", step, micro_batch)
        for step in (2, 6):
            yield "from scratch", Event(name, "step", step)


def _full() -> Iterator[tuple[str, Event]]:
    """A training run on a disk that takes no more."""
    for name in DISKS:
        yield "plain", Event(name, "weights", 8, call=2)
    for place, step in product(("weights", "state"), (2, 4, 6)):
        yield "plain", Event("full disk", place, step)
    for place, step in product(SAVING, (2, 6)):
        yield "plain", Event("read-only disk", place, step)
    for step in (1, 5):
        yield "plain", Event("read-only disk", "step", step)
    yield "plain", Event("read-only disk", "evaluation", 4, call=2)


def _damaged() -> Iterator[tuple[str, Event]]:
    """A run of which a file is cut off after it was killed."""
    for run, place, step in (("plain", "step", 6), ("references", "stamp", 2), ("prepared", "stamp", 2)):
        for name, share in product(READ_AGAIN[run], SHARES):
            yield run, Event("SIGKILL", place, step, damaged=name, share=share)


def _of_two_processes() -> Iterator[tuple[str, Event]]:
    places = (("beginning", 0), ("step", 3), ("step", 5), ("weights", 4), ("evaluation", 4))
    for name, (place, step), rank in product(("SIGKILL", *SIGNALS), places, (0, 1)):
        if place != "weights" or not rank:
            yield "two processes", Event(name, place, step, rank=rank)
    for name, rank in product(DISKS, (0, 1)):
        yield "two processes", Event(name, "step", 3, rank=rank)


def _of_parts() -> Iterator[tuple[str, Event]]:
    """References and prepared text."""
    parts = (("part", 1), ("part", 3), ("stamp", 0), ("stamp", 2))
    written_last = {"references": (("joining", 0), ("sidecar", 0)), "prepared": (("report", 0),)}
    for run, last in written_last.items():
        for name, place in product(("SIGKILL", *SIGNALS), parts):
            yield run, Event(name, *place)
        for name, place in product(DISKS, (*parts, *last)):
            yield run, Event(name, *place)
    for place in ("joining", "sidecar"):
        yield "references", Event("SIGKILL", place)
    for run in ("references by workers", "prepared by workers"):
        yield run, Event("dead worker", "part", 1)


# What `make test` plays: a kill, a signal in an evaluation, a cut file; and several, two of them in one launch.
SAMPLE = (
    Case("plain", (kill("manifest", 4),)),
    Case("packed", (interrupt("evaluation", 4),)),
    Case("plain", (kill("step", 6, damaged="checkpoint-*/optimizer.pt", share=0.5),)),
    Case("plain", (term("step", 3), kill("weights", 3), kill("step", 3))),
)
