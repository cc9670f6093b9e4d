"""What may gain on a GPU, tried by gpu.py before it becomes a default or a part of wordmask.

A trial changes one side: ours_gpu, by flags or for its process, or plain, so that this is as fast as it can be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any
from unittest.mock import patch

import torch
from packaging.version import Version

from wordmask.data import collator
from wordmask.models import varlen_attention


@dataclass(frozen=True)
class Trial:
    """A change.

    Attributes:
        flags: of our script, in addition to configs/gpu.yaml.
        passes: into which a step is divided.
        times: how many times as many tokens a step has; there are fewer steps then.
        change: what holds while the side trains.
        packs: whether documents are packed.
        since: the oldest PyTorch that has it.
        module: what must be installed.
        only_gpu: whether a CPU cannot run it.
        side: what is changed.
        workers: of plain's data loader; `None` as without the trial.
        compiles: whether plain has `torch_compile`.
        mode: of plain's `torch_compile`.
        settings: of the configuration of plain's model.
    """

    flags: tuple[str, ...] = ()
    passes: int = 1
    times: int = 1
    change: Callable[[], AbstractContextManager[None]] = nullcontext
    packs: bool = True
    since: str = "2.11"
    module: str = ""
    only_gpu: bool = False
    side: str = "ours_gpu"
    workers: int | None = None
    compiles: bool = True
    mode: str | None = None
    settings: tuple[tuple[str, bool], ...] = ()

    def lacks(self) -> str | None:
        """Why it cannot be tried here, as a sentence; `None` if it can."""
        if Version(torch.__version__) < Version(self.since):
            return f"it needs PyTorch {self.since}, and this is {torch.__version__}"
        if self.only_gpu and not torch.cuda.is_available():
            return "it needs an NVIDIA GPU"
        if self.module and find_spec(self.module.partition(".")[0]) is None:
            return f"it needs the module {self.module}"
        return None


@contextmanager
def _flash_attention_4() -> Iterator[None]:
    """The kernels of FlashAttention 4 in place of those that PyTorch has, of FlashAttention 2."""
    import flash_attention_4

    with patch.object(varlen_attention, "_kernel", flash_attention_4.attention):
        yield


def _few_shapes() -> AbstractContextManager[Any]:
    """Fewer numbers of bounds, so that fewer CUDA graphs are captured, for more empty documents."""
    return patch.object(collator, "BOUNDS", 256)


TRIALS = {
    "unpacked": Trial(
        ("--no_pack_sequences", "--no_pad_to_max_length", "--torch_compile_mode", "default"), packs=False
    ),
    "chunked": Trial(("--chunked_head",), since="2.13", only_gpu=True),
    "budget": Trial(("--activation_memory_budget", "0.8"), only_gpu=True),
    "passes": Trial(passes=2),
    "double": Trial(times=2),
    "residual": Trial(("--no_residual_in_fp32",)),
    "flash4": Trial(change=_flash_attention_4, module="flash_attn.cute", only_gpu=True),
    "bounds": Trial(change=_few_shapes),
    "launched": Trial(("--torch_compile_mode", "default"), only_gpu=True),
    "uncompiled": Trial(side="plain", compiles=False),
    "graphs": Trial(side="plain", mode="reduce-overhead", only_gpu=True),  # as configs/gpu.yaml has it
    "workerless": Trial(side="plain", workers=0),
    "sparse": Trial(side="plain", settings=(("sparse_prediction", True),)),  # only ModernBERT has this setting
}
