"""Where the time of a training step goes on a GPU, with configs/gpu.yaml.

    python benchmarks/gpu_profile.py --parts modernbert-1024 bert-512 --text wikitext2-train.txt

It trains as parts of gpu.py do, one after the other. PyTorch's profiler sees the last three steps, and the table has
the milliseconds of a step that each kind of kernel takes; their sum is less than a step where the GPU waits.
`--functions 30` shows what the CPU does meanwhile, which then makes the step slower. `--tiny` runs on a CPU, and
profiles that.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import pstats
import re
import traceback
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from transformers import TrainerCallback
from transformers.trainer import DEFAULT_CALLBACKS

from bundled import given_or_bundled
from gpu import PARTS, Sides, parse, prepare
from gpu_sides import GpuTraining, run_ours_gpu
from meter import matrix_rate, now

PROFILED = 3  # steps, the last ones
KINDS = {  # of kernels, by their names; the first that matches
    "compiled by torch.compile": "triton_",  # whose names tell the operations in it
    "attention": "flash|fmha|varlen|attention",
    "optimizer": "multi_tensor|adam",
    "matrix products": r"gemm|nvjet|cutlass|xmma|splitk|addmm|::mm\b|::bmm|onednn|mkldnn",
    "copies": "memcpy|memset|copy",
}


class Profiler(TrainerCallback):
    """Profiles the last steps of a training, and times those before them."""

    def __init__(self, warmup: int, functions: bool):
        self.warmup = warmup
        self.python = cProfile.Profile() if functions else None
        self.milliseconds = 0.0  # of a step, without the profiler; 0 if all timed steps are profiled
        on_gpu = torch.cuda.is_available()
        on_cpu = [ProfilerActivity.CPU] if functions or not on_gpu else []
        self.profile = profile(activities=[*on_cpu, *([ProfilerActivity.CUDA] if on_gpu else [])])

    def on_step_end(self, args: Any, state: Any, control: Any, **options: Any) -> None:
        """Take the time where a part begins or ends."""
        first = max(self.warmup, state.max_steps - PROFILED - 20)
        if state.global_step == first:
            self.began = now()
        if state.global_step == state.max_steps - PROFILED:
            if state.global_step > first:
                self.milliseconds = (now() - self.began) / (state.global_step - first) * 1e3
            self.profile.start()
            if self.python:
                self.python.enable()
        if state.global_step == state.max_steps:
            if self.python:
                self.python.disable()
            now()
            self.profile.stop()

    def kernels(self) -> Counter[str]:
        """The milliseconds of a step that each kernel takes."""
        found: Counter[str] = Counter()
        on_gpu = torch.cuda.is_available()  # then events of the CPU, such as the start of a kernel, do not count
        for event in self.profile.key_averages():
            if on_gpu == (event.device_type == DeviceType.CUDA):
                taken = event.self_device_time_total if on_gpu else event.self_cpu_time_total
                found[event.key] += taken / 1e3 / PROFILED
        return found

    def operations(self) -> Counter[str]:
        """The milliseconds of a step that each operation takes of the CPU, in all threads, without those inside it."""
        averages = self.profile.key_averages()
        return Counter({event.key: event.self_cpu_time_total / 1e3 / PROFILED for event in averages})


def busiest(profile: cProfile.Profile, number: int) -> list[tuple[str, float]]:
    """The functions of Python that took most themselves, without those that they called, and their ms in a step."""
    stats: dict[Any, Any] = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    own = {
        f"{os.path.basename(file)}:{line} {name}": took[2] * 1e3 / PROFILED
        for (file, line, name), took in stats.items()
    }
    return Counter(own).most_common(number)


def kind_of(kernel: str) -> str:
    """The kind of a kernel."""
    name = kernel.lower()
    return next((kind for kind, pattern in KINDS.items() if re.search(pattern, name)), "others")


def profiled(case: GpuTraining, functions: bool) -> tuple[Profiler, dict[str, float]]:
    """Train, and return the profile and what gpu.py measures, in which the profiled steps are slower."""
    torch._dynamo.reset()  # nothing compiled for an earlier part
    profiler = Profiler(case.warmup, functions)
    DEFAULT_CALLBACKS.append(profiler)  # type: ignore[arg-type]
    try:
        return profiler, run_ours_gpu(case)
    finally:
        DEFAULT_CALLBACKS.remove(profiler)  # type: ignore[arg-type]


def show(part: str, profiler: Profiler, kernels: int, functions: int) -> Counter[str]:
    """Print the tables of a part, and return the milliseconds of each kind of kernel in a step."""
    found, kinds = profiler.kernels(), Counter[str]()
    for kernel, milliseconds in found.items():
        kinds[kind_of(kernel)] += milliseconds
    step = (
        f"{profiler.milliseconds:.1f} ms a step without the profiler"
        if profiler.milliseconds
        else "all steps profiled"
    )
    table = Table("kernels", "ms", title=f"{part}: {step}")
    for name, milliseconds in [*kinds.most_common(), *found.most_common(kernels), ("all", found.total())]:
        table.add_row(name, f"{milliseconds:.2f}")
    tables = [table]
    if profiler.python:
        for title, rows in {
            "functions of Python": busiest(profiler.python, functions),
            "operations of PyTorch, all threads": profiler.operations().most_common(functions),
        }.items():
            tables.append(Table(title, "ms", title="the CPU"))
            for name, milliseconds in rows:
                tables[-1].add_row(name, f"{milliseconds:.2f}")
    Console(width=118).print(*tables)
    return kinds


def main(argv: Sequence[str] | None = None) -> dict[str, Counter[str]]:
    """Print the tables, and return the milliseconds of each kind in a step of each part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = {part.name: part for part in PARTS if "ours_gpu" in part.sides}
    parser.add_argument("--parts", nargs="+", choices=parts, default=[PARTS[0].name])
    parser.add_argument("--kernels", type=int, default=0, help="show so many single kernels, too")
    parser.add_argument("--functions", type=int, default=0, help="show so many functions of Python, too")
    options = parse(parser, argv)
    found, failed = {}, False
    with given_or_bundled(options, "english") as filled, Sides() as sides:
        for name in options.parts:
            if reason := parts[name].lacks():
                print(f"{name}: {reason}", flush=True)
                continue
            try:
                case = prepare(parts[name], filled, rate=matrix_rate(), sides=sides)
                profiler, figures = profiled(case, options.functions > 0)
            except Exception:  # minutes on a GPU are dear: the next part may do
                traceback.print_exc()
                failed = True
                continue
            found[name] = show(name, profiler, options.kernels, options.functions)
            if profiler.milliseconds:
                real = figures["timed_tokens"] / figures["timed_steps"] / profiler.milliseconds * 1e3
                share = f"utilisation {real * case.flops / case.rate:.1%}"
                print(f"{real:,.0f} real tokens/s without the profiler, {share}", flush=True)
            print(f"loss {figures['loss']:.3f}\n", flush=True)
    if failed:
        raise SystemExit(1)
    return found


if __name__ == "__main__":
    os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")  # as in gpu.py
    main()
