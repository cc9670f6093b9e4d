"""What a GPU reaches with the plain Trainer, with our defaults, and with configs/gpu.yaml.

    python benchmarks/gpu.py --output_dir results --text wikitext2-train.txt

The most telling part comes first. Each result is written as it comes, to gpu.json and gpu.md, and a second call goes
on where the first one stopped: after --minutes, what still runs is stopped. `--only modernbert-1024 tests` chooses
parts. `--at_once 3` measures three parts at a time: they load and compile side by side, and one after the other is
timed. That is for a first look, since others then compile while one is timed. `--tiny` runs the same program with
small models on a CPU, where its figures mean nothing.

Each side has a process of its own and starts from the same random weights. Tokens per second are those without
padding, after the warm-up. Utilisation is the share of what matrix products alone reach on this card (8192 × 8192 in
bfloat16, random numbers). The operations of a real token are the same for all sides: 6 for each weight of the layers
and of the dense layer before the output, 6 for each weight of the output embeddings at 15 % of the tokens, and 12 ×
hidden size for each token that it attends to, in each layer. The loss is that of 15 % masked tokens of other
documents, after the same text.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer

from bundled import given_or_bundled
from gpu_results import Results, markdown
from gpu_sides import SIDES, GpuTraining
from gpu_text import operations, write_model, write_text
from gpu_trials import TRIALS, Trial
from kept import digest
from meter import gpu_facts, matrix_rate
from sides import Process
from wordmask.utils.errors import InputError
from wordmask.utils.files import is_blank
from wordmask.utils.readers import read_lines
from wordmask.utils.script import reports_input_errors

ROOT = Path(__file__).parent.parent
CODE = [ROOT / "wordmask", ROOT / "configs/gpu.yaml", *sorted((ROOT / "benchmarks").glob("*.py"))]
MODULE = "wordmask.training.run"  # what each side imports, and what takes longest
SECONDS, TEST_SECONDS = 480, 420  # that one side may take, and the tests
# What a side takes at least on an H100. It does not begin where less is left: its time would be lost.
LEAST_SECONDS = {"plain": 110, "ours": 25, "ours_gpu": 45}
TOKENS = 32_768  # in a step, where documents are full
LINES = 128  # in a step, where lines are documents
EVALUATED_TOKENS = 65_536
VOCABULARIES = {"bert": 30_522, "modernbert": 50_368}  # of the base models
# All sides train the same model, and varlen attention takes no dropout; ModernBERT has none.
NO_DROPOUT = {"bert": ",hidden_dropout_prob=0,attention_probs_dropout_prob=0", "modernbert": ""}
TINY = {
    "bert": "hidden_size=32,num_hidden_layers=2,num_attention_heads=2,intermediate_size=64",
    "modernbert": "hidden_size=32,num_hidden_layers=3,num_attention_heads=2,intermediate_size=64,local_attention=16",
}


@dataclass(frozen=True)
class Part:
    """One measurement, of all sides or, with trials, of the one that they change.

    Attributes:
        model_type: the base model of this type.
        length: of the longest sequence, in tokens.
        full: whether documents have this length; if not, they are the lines of the text.
        trials: names of what is tried, all at once.
    """

    model_type: str
    length: int
    full: bool = True
    trials: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Its key in gpu.json, such as bert-512-lines-unpacked."""
        lines = [] if self.full else ["lines"]
        return "-".join([self.model_type, str(self.length), *lines, *self.trials])

    @property
    def sides(self) -> tuple[str, ...]:
        """What is measured, in this order: of lines, plain comes last, since it compiles them for minutes."""
        return tuple({TRIALS[name].side: None for name in self.trials} or (SIDES if self.full else reversed(SIDES)))

    @property
    def packs(self) -> bool:
        """Whether our script with configs/gpu.yaml packs documents."""
        return all(TRIALS[name].packs for name in self.trials)

    def lacks(self) -> str | None:
        """Why it cannot be measured here, as a sentence; `None` if it can."""
        trials = Trial(), *(TRIALS[name] for name in self.trials)  # the first needs what each part needs
        return next(filter(None, (trial.lacks() for trial in trials)), None)

    def sized(self, tiny: bool) -> Sizes:
        """How much this part trains."""
        length = max(32, self.length // 8) if tiny else self.length
        batch = (max(2, 512 // length) if tiny else TOKENS // length) if self.full else (8 if tiny else LINES)
        evaluated = max(4, 512 // length) if tiny else max(4, EVALUATED_TOKENS // length)
        warmup = 10 if self.full else 30  # lines have several shapes, and CUDA graphs of the usual ones come first
        return Sizes(length, batch, 2 if tiny else warmup, 3 if tiny else 60, evaluated)


@dataclass(frozen=True)
class Sizes:
    """The longest sequence, the documents in a step, the steps of the warm-up, those that are timed, and the documents
    that are evaluated."""

    length: int
    batch: int
    warmup: int
    timed: int
    evaluated: int


OF_LINES = ("unpacked", "uncompiled", "launched", "bounds")  # what is tried with lines alone
OF_FEW = ("unpacked", "uncompiled", "bounds", "double")
# The most telling first.
PARTS = [
    Part("modernbert", 1024),
    Part("bert", 512),
    Part("bert", 512, full=False),
    Part("modernbert", 8192),
    Part("modernbert", 512),
    Part("bert", 128),
    *(Part("bert", 512, full=False, trials=(name,)) for name in OF_LINES),
    *(Part("modernbert", 1024, trials=(name,)) for name in TRIALS if name not in OF_FEW),
    Part("modernbert", 1024, trials=("budget", "residual")),
    Part("modernbert", 1024, trials=("residual", "flash4")),
    Part("modernbert", 1024, trials=("budget", "residual", "flash4")),
    Part("bert", 512, trials=("graphs",)),
    Part("bert", 512, trials=("residual",)),
    Part("bert", 512, trials=("residual", "flash4")),
    Part("bert", 512, trials=("residual", "flash4", "double")),
]
TESTS = "tests"


@reports_input_errors
def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print the table, and return what gpu.json holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", required=True, help="for gpu.json and gpu.md; a second call goes on there")
    parser.add_argument(
        "--only", nargs="+", choices=[*(part.name for part in PARTS), TESTS], help="some parts, in this order"
    )
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--at_once", type=int, default=1, help="so many parts at a time; default 1")
    parser.add_argument("--minutes", type=float, default=9, help="after these, what still runs is stopped; default 9")
    options = parse(parser, argv)
    deadline = time.monotonic() + 60 * options.minutes
    kept = Path(options.output_dir, "tokenizer")  # a second training on the same text would give another one
    if options.tokenizer is None and kept.exists():
        options.tokenizer = str(kept)
    ahead = 3 * options.at_once  # the card, a model and a side come before the first one that waits for its turn
    parts_by_name = {part.name: part for part in PARTS}
    wanted = options.only or [*parts_by_name, TESTS]
    with given_or_bundled(options, "english") as filled, Sides(ahead) as sides:
        results = Results(options.output_dir, facts(filled, sides))
        if options.tokenizer is None:
            shutil.copytree(filled.tokenizer, kept)
        parts = [parts_by_name[name] for name in dict.fromkeys(wanted) if name != TESTS]
        with ThreadPoolExecutor(options.at_once) as pool:
            futures = [pool.submit(measure, part, filled, results, sides, deadline) for part in parts]
            try:
                for future in futures:
                    future.result()
            finally:
                pool.shutdown(cancel_futures=True)  # after an error, no other part begins
    tests = results.found.get(TESTS, {"ended": False})
    if TESTS in wanted and (not tests["ended"] or tests["failed"]):
        found = run_tests(deadline) if time.monotonic() < deadline else {"ended": False, "counts": {}}
        if found["counts"] or time.monotonic() < deadline:
            results.add(TESTS, None, found)
        else:
            print(f"{TESTS}: not yet run; call again to go on", flush=True)
    print(markdown(results.found))
    return results.found


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """The options, with those that all programs for a GPU have."""
    parser.add_argument("--text", help="by default a bundled sample, again and again in other orders")
    parser.add_argument("--tokenizer", help="a WordPiece tokenizer; by default one trained on the text")
    parser.add_argument("--tiny", action="store_true", help="small models and few steps, also on a CPU")
    options = parser.parse_args(argv)
    if not (options.tiny or torch.cuda.is_available()):
        parser.error("there is no NVIDIA GPU that PyTorch can use here; --tiny runs on a CPU")
    return options


def measure(part: Part, options: argparse.Namespace, results: Results, sides: Sides, deadline: float) -> None:
    """Measure those sides of a part that gpu.json lacks. What failed is tried again where --only names the part."""
    done, case = results.found.get(part.name, {}), None
    enough = {"loss"} if options.only else {"loss", "error"}
    for side in (side for side in part.sides if side in options.sides and not enough & {*done.get(side, {})}):
        if reason := part.lacks():
            results.add(part.name, side, {"skipped": reason})
            continue
        found: dict[str, Any] = {}
        if time.monotonic() + (0 if options.tiny else LEAST_SECONDS[side]) < deadline:
            with sides.preparing:
                case = case or prepare(part, options, results.found["matrix_rate"], sides)
            print(f"{part.name}, {side}", flush=True)
            found = sides.run(partial(SIDES[side], case), deadline)
        if found and ("loss" in found or time.monotonic() < deadline):
            results.add(part.name, side, found)
        else:
            print(f"{part.name}, {side}: not yet measured; call again to go on", flush=True)


def prepare(part: Part, options: argparse.Namespace, rate: float, sides: Sides) -> GpuTraining:
    """Write the model of a part, unless another part has, and its text."""
    sizes, model = part.sized(options.tiny), sides.folder / part.model_type
    overrides = TINY[part.model_type] if options.tiny else f"vocab_size={VOCABULARIES[part.model_type]}"
    overrides += NO_DROPOUT[part.model_type]
    if not model.exists():
        written = sides.run(partial(write_model, part.model_type, overrides, options.tokenizer, model))
        if "error" in written:
            raise InputError(f"{part.name}: the model cannot be made ({written['error']})")
    tokenizer = AutoTokenizer.from_pretrained(model)
    lines = [line for line in read_lines(options.text, "--text") if not is_blank(line)]
    steps = sizes.warmup + sizes.timed
    counts = sizes.evaluated, steps * sizes.batch
    folder = sides.folder / part.name
    folder.mkdir()
    text = write_text(lines, tokenizer, sizes.length, counts, folder, part.full)
    packed = max(1, round(text.lengths.sum() / sizes.length / steps))
    return GpuTraining(
        model=str(model),
        train=text.train,
        evaluated=text.evaluated,
        length=sizes.length,
        batch=sizes.batch,
        packed_batch=sizes.batch if part.full or not part.packs else packed,
        full=part.full,
        warmup=sizes.warmup,
        turn=sides.turn,
        tokens=int(text.lengths.clip(max=sizes.length).sum()),
        flops=operations(AutoConfig.from_pretrained(model), text.lengths, sizes.length),
        rate=rate,
        trials=part.trials,
        on_cpu=not torch.cuda.is_available(),
    )


class Sides:
    """Runs each side in a process of its own. The next process imports while a side runs.

    Args:
        ahead: how many processes import before any is needed. When none of them is left, one more does.

    Attributes:
        folder: for models and texts, as long as this lasts.
        turn: a file that a process locks while it is timed.
        preparing: to be held by who writes there, since parts may share a model.
    """

    def __init__(self, ahead: int = 1):
        self.ahead = ahead

    def __enter__(self) -> Sides:
        self.preparing, self._handing_over = threading.Lock(), threading.Lock()
        self.temporary = tempfile.TemporaryDirectory()
        self.folder = Path(self.temporary.name)
        self.turn = str(self.folder / "turn")
        self.ready = [self._start() for _ in range(self.ahead)]
        return self

    def __exit__(self, *exception: Any) -> None:
        for process in self.ready:
            process.end()
        self.temporary.cleanup()

    def _start(self) -> Process:
        return Process(MODULE, "spawn" if torch.cuda.is_available() else "forkserver", self.turn)

    def run(self, side: Callable[[], dict[str, Any]], deadline: float = math.inf) -> dict[str, Any]:
        """The figures of a side, or its error; it is stopped at the deadline."""
        with self._handing_over:
            process = self.ready.pop()
            self.ready = self.ready or [self._start()]
        try:
            return process.run(side, max(0.0, min(SECONDS, deadline - time.monotonic())))
        except RuntimeError as error:
            return {"error": str(error)}


def facts(options: argparse.Namespace, sides: Sides) -> dict[str, Any]:
    """About the machine and the text."""
    on_gpu = torch.cuda.is_available()
    shown = "nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"
    shows = on_gpu and shutil.which(shown[0])
    printed = subprocess.run(shown, capture_output=True, text=True).stdout.split("\n")[0] if shows else ""
    card, _, driver = printed.partition(", ")
    known = {
        "card": card if on_gpu else "a CPU",
        "driver": driver or None,
        "versions": {name: version(name) for name in ("torch", "transformers", "accelerate")},
        "text": sha256(Path(options.text).read_bytes()).hexdigest()[:12],
        "code": digest(*map(str, CODE), options.tokenizer)[:12],
        "tiny": options.tiny,
    }
    path = Path(options.output_dir, "gpu.json")
    earlier = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if known.items() <= earlier.items():  # an earlier call has measured the rate
        return known | {"matrix_rate": earlier["matrix_rate"]}
    found = sides.run(gpu_facts) if on_gpu else {"matrix_rate": matrix_rate()}
    if "error" in found:
        raise InputError(f"the GPU cannot be used ({found['error']}); check the driver, and PyTorch's CUDA version")
    return known | found


def run_tests(deadline: float) -> dict[str, Any]:
    """Run the tests that need a GPU, until the deadline, and count their outcomes."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rfEs", str(ROOT / "tests/gpu")]
    if find_spec("xdist"):
        command += ["-n", str(min(12, os.cpu_count() or 1))]
    options: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    options["start_new_session"] = True  # so that what the tests have started is stopped with them
    begin = time.monotonic()
    with subprocess.Popen(command, cwd=ROOT, **options) as process:
        left = max(0.0, min(TEST_SECONDS, deadline - begin))
        # After Ctrl-C, pytest still says what has passed and failed; 20 seconds later, it is killed.
        timers = [
            threading.Timer(seconds, os.killpg, (process.pid, number))
            for seconds, number in ((left, signal.SIGINT), (left + 20, signal.SIGKILL))
        ]
        for timer in timers:
            timer.start()
        printed = process.communicate()[0]
        for timer in timers:
            timer.cancel()
    print(printed, flush=True)
    outcomes = re.findall(r"(\d+) (passed|failed|skipped|errors?)", printed.rstrip().split("\n")[-1])
    counts = {outcome: int(number) for number, outcome in outcomes}
    return {
        "counts": counts,
        "failed": re.findall(r"^(?:FAILED|ERROR) (\S+)", printed, re.MULTILINE),
        "ended": bool(counts) and process.returncode in (0, 1, 5),  # 5: all are skipped; none without pytest
        "seconds": time.monotonic() - begin,
    }


if __name__ == "__main__":
    os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")  # the Trainer would divide its batches between several cards
    main()
