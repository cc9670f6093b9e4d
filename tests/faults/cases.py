"""The table: to which run what happens, where, in which process, and what is damaged before the run starts again."""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

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
    """A row of the table.

    Attributes:
        run: the name of a run of `RUNS`.
        event, place, number: what happens where, see `events.inject`.
        rank: the process that it happens in.
        damaged: a file that is cut off afterwards, as a pattern below the folder of the case; of several, the newest.
        share: how much of it is left, from 0 to 1.
    """

    run: str
    event: str
    place: str
    number: int
    rank: int = 0
    damaged: str = ""
    share: float = 0.0

    def __str__(self) -> str:
        damage = f", {self.damaged} cut to {self.share:.0%}" if self.damaged else ""
        rank = f" of rank {self.rank}" if self.run == "two processes" else ""
        return f"{self.run}: {self.event} in {self.place} {self.number}{rank}{damage}"


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


def table() -> list[Case]:
    """All cases."""
    trained = ("plain", "packed", "streamed", "staged", "workers")
    cases = [Case(run, "SIGKILL", "step", step) for run, step in product(trained, (1, 2, 3, 4, 5, 6, 7, 8))]
    cases += [Case(run, event, "step", step) for run, event, step in product(trained, SIGNALS, (3, 4, 5))]
    saving = product(("plain", "packed", "staged"), ("weights", "state", "manifest", "rotation"), (1, 2, 3, 4))
    cases += [Case(run, "SIGKILL", place, number) for run, place, number in saving]
    cases += [Case(run, event, "ending", 1) for run, event in product(trained, ("SIGKILL", *SIGNALS))]
    cases += [
        Case("plain", event, *place)
        for event, place in product(("SIGKILL", *SIGNALS), (("weights", 5), ("results", 1)))
    ]
    cases += [
        Case("plain", "full disk", *place) for place in (*product(("weights", "state"), (1, 2, 3)), ("weights", 5))
    ]
    evaluated = product(("plain", "packed", "streamed"), ("SIGKILL", *SIGNALS), (1, 2, 3))
    cases += [Case(run, event, "evaluation", number) for run, event, number in evaluated]
    cases += [Case("workers", "dead worker", "step", step) for step in (2, 5)]
    cases += [Case(run, "SIGKILL", "update", step) for run, step in product(("plain", "accumulated"), (3, 5))]
    cases += [Case("accumulated", event, "step", batch) for event, batch in product(("SIGKILL", *SIGNALS), (6, 9))]
    for run, place, number in (("plain", "step", 6), ("references", "stamp", 4), ("prepared", "stamp", 4)):
        damages = product(READ_AGAIN[run], SHARES)
        cases += [Case(run, "SIGKILL", place, number, damaged=name, share=share) for name, share in damages]
    saved = [*product(("weights", "state", "manifest", "rotation"), (1, 3)), ("weights", 5)]
    parts = [*product(("part", "stamp"), (2, 4))]
    cases += [Case("from scratch", event, "step", step) for event, step in product(("SIGKILL", *SIGNALS), (2, 6))]
    places = (("beginning", 1), ("step", 3), ("step", 5), ("weights", 2), ("evaluation", 1))
    two = product(("SIGKILL", *SIGNALS), places, (0, 1))
    cases += [
        Case("two processes", event, *place, rank) for event, place, rank in two if place[0] != "weights" or not rank
    ]
    written = product(("references", "prepared"), ("SIGKILL", "SIGTERM", "SIGINT"), ("part", "stamp"), (2, 4))
    cases += [Case(run, event, place, number) for run, event, place, number in written]
    cases += [Case("references", "SIGKILL", place, 1) for place in ("joining", "sidecar")]
    cases += [Case(run, "dead worker", "part", 2) for run in ("references by workers", "prepared by workers")]
    cases += [
        Case("plain", "read-only disk", *place) for place in (("step", 1), ("step", 5), *saved, ("evaluation", 2))
    ]
    cases += [Case("two processes", event, "step", 3, rank) for event, rank in product(DISKS, (0, 1))]
    written_last = {"references": (("joining", 1), ("sidecar", 1)), "prepared": (("report", 1),)}
    for run, last in written_last.items():
        cases += [Case(run, event, *place) for event, place in product(DISKS, (*parts, *last))]
    return cases


# What `make test` plays: a kill, a signal in an evaluation, a cut file.
SAMPLE = (
    Case("plain", "SIGKILL", "manifest", 2),
    Case("packed", "SIGINT", "evaluation", 1),
    Case("plain", "SIGKILL", "step", 6, damaged="checkpoint-*/optimizer.pt", share=0.5),
)
