"""What a training does, measured from outside, the same for our Trainer and for that of transformers."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any
from unittest.mock import patch

import torch
from torch.utils.data.dataloader import _BaseDataLoaderIter
from transformers import Trainer, TrainerCallback
from transformers.trainer import DEFAULT_CALLBACKS

from sides import forget_peak, peak_megabytes

IGNORED = -100


def now() -> float:
    """Seconds, after all work of the GPU has ended."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def matrix_rate() -> float:
    """Operations per second of large matrix products alone, in bfloat16 on a GPU and in single precision on a CPU."""
    on_gpu = torch.cuda.is_available()
    size, options = (8192, {"device": "cuda", "dtype": torch.bfloat16}) if on_gpu else (1024, {})
    one = torch.randn(size, size, **options)  # type: ignore[arg-type]
    for _ in range(3):
        one @ one
    start = now()
    for _ in range(20):
        one @ one
    return 20 * 2 * size**3 / (now() - start)


def gpu_facts() -> dict[str, Any]:
    """The name of the GPU and its rate. Run it in a process that ends, since each process holds memory of the GPU."""
    return {"card": torch.cuda.get_device_name(), "matrix_rate": matrix_rate()}


def compilations() -> int:
    """The graphs that torch.compile has made in this process."""
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


@contextmanager
def counted_captures() -> Iterator[list[int]]:
    """The CUDA graphs that torch.compile captures meanwhile, in a list that grows by one for each."""
    captures: list[int] = []
    if not torch.cuda.is_available():
        yield captures
        return
    from torch._inductor.cudagraph_trees import CUDAGraphTreeManager

    record = CUDAGraphTreeManager.record_function

    def counting(manager: Any, *arguments: Any, **options: Any) -> Any:
        captures.append(1)
        return record(manager, *arguments, **options)

    with patch.object(CUDAGraphTreeManager, "record_function", counting):
        yield captures


@contextmanager
def watching(callback: TrainerCallback, see: Callable[[dict[str, torch.Tensor]], None]) -> Iterator[None]:
    """Give a callback to each Trainer that is made here, and show each batch of its steps to `see`."""
    get_batch_samples = Trainer.get_batch_samples

    def showing(trainer: Trainer, *arguments: Any, **options: Any) -> Any:
        batches, labels = get_batch_samples(trainer, *arguments, **options)
        for batch in batches:
            see(batch)
        return batches, labels

    callbacks = patch("transformers.trainer.DEFAULT_CALLBACKS", [*DEFAULT_CALLBACKS, callback])
    with callbacks, patch.object(Trainer, "get_batch_samples", showing):
        yield


class Meter(TrainerCallback):
    """Counts the tokens of any Trainer that is made inside `attached`, and times its steps.

    The GPU is waited for three times only: after the first step, at the end of the warm-up, and after the last step.

    Args:
        warmup: the steps that are not timed.
        pad: the id of padding.
        turn: a file for all that are measured at once. After its first step, in which most is compiled, a training
            waits for its turn, which lasts until the end of `with meter`.
    """

    def __init__(self, warmup: int, pad: int, turn: str | None = None):
        self.warmup, self.pad, self.turn = warmup, pad, turn
        self.began = 0.0
        self.times: dict[int, float] = {}  # seconds at the end of a step
        self.counts: list[torch.Tensor] = []  # (real tokens, labels) of each batch after the warm-up
        self.seen: list[torch.Tensor] = []  # real tokens of each batch
        self.positions = 0
        self.waited = 0.0
        self.compiled = self.captured = 0
        self.captures: list[int] = []
        self.last = 0
        self.model: Any = None
        self.locked: IO[str] | None = None

    def __enter__(self) -> Meter:
        return self

    def __exit__(self, *exception: Any) -> None:
        if self.locked:
            self.locked.close()

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Measure each Trainer that is made and run here."""
        get_next = _BaseDataLoaderIter.__next__

        def waiting(iterator: Any) -> Any:
            begin = time.perf_counter()
            batch = get_next(iterator)  # of the CPU: to copy it to a GPU may also wait for that
            self.waited += time.perf_counter() - begin if self.timed else 0.0
            return batch

        loader = patch.object(_BaseDataLoaderIter, "__next__", waiting)
        with watching(self, self._count), loader, counted_captures() as self.captures:
            self.began = time.perf_counter()
            yield

    @property
    def timed(self) -> bool:
        """Whether the warm-up is over."""
        return self.warmup in self.times

    def _count(self, batch: dict[str, torch.Tensor]) -> None:
        ids, labelled = batch["input_ids"], batch["labels"].ne(IGNORED)
        real = ids.ne(self.pad)
        if labelled.shape == real.shape:  # a masked token may have become padding
            real = real | labelled
        self.seen.append(real.sum())
        if not self.timed:
            return
        self.counts.append(torch.stack([real.sum(), labelled.sum()]))
        self.positions += real.numel()

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **options: Any) -> None:
        """The last step is known now."""
        self.model, self.last = model, state.max_steps
        if self.last <= self.warmup:
            raise ValueError(f"a training of {self.last} steps, of which {self.warmup} are warm-up")
        if not torch.cuda.is_available():
            self.memory = forget_peak()

    def on_step_end(self, args: Any, state: Any, control: Any, **options: Any) -> None:
        """Take the time after those steps that matter."""
        step, on_gpu = state.global_step, torch.cuda.is_available()
        if step in (1, self.warmup, self.last):
            self.times[step] = now()
        if step == 1 and self.turn:
            self.locked = open(self.turn, "w")  # noqa: SIM115 - for its turn
            fcntl.flock(self.locked, fcntl.LOCK_EX)
        if step == self.warmup - 1 and on_gpu:  # what checks and compilation took does not count
            torch.cuda.empty_cache()  # before the last step of the warm-up, which asks the card for memory again
            torch.cuda.reset_peak_memory_stats()
        if step == self.warmup:
            self.compiled, self.captured = compilations(), len(self.captures)
        if step == self.last:
            self.compiled, self.captured = compilations() - self.compiled, len(self.captures) - self.captured
            # Memory of CUDA graphs is reserved, and never allocated.
            self.memory = torch.cuda.max_memory_reserved() / 2**20 if on_gpu else peak_megabytes() - self.memory
            self.allocated = torch.cuda.max_memory_allocated() / 2**20 if on_gpu else self.memory

    def figures(self, flops: float, rate: float, tokens: int) -> dict[str, float]:
        """What was measured after the warm-up.

        Args:
            flops: the operations that one real token takes.
            rate: the operations per second of matrix products alone.
            tokens: those of the text, which is seen once. What is more are copies that fill up the last batch.
        """
        real, labels = torch.stack(self.counts).sum(0).tolist()
        real -= max(0, int(torch.stack(self.seen).sum()) - tokens)
        seconds = self.times[self.last] - self.times[self.warmup]
        speed = real / seconds
        return {
            "tokens_per_second": speed,
            "utilisation": speed * flops / rate,
            "peak_memory_mb": self.memory,
            "allocated_memory_mb": self.allocated,
            "seconds_to_first_step": self.times[1] - self.began,
            "compilations_after_warmup": self.compiled,
            "captures_after_warmup": self.captured,
            "padding": 1 - real / self.positions,
            "labelled": labels / real,
            "waiting_for_data": self.waited / seconds,
            "timed_steps": self.last - self.warmup,
            "timed_tokens": real,
            "timed_seconds": seconds,
        }
