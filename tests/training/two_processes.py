"""Started by torchrun: one run after the other in one process group, since starting it costs more than the runs.

    torchrun --nproc_per_node 2 two_processes.py commands.json

The file holds a list of command lines. In each, `{rank}` stands for the process's rank, so that what each process
writes can be told apart. Beside the file, `tokenized-0` and `tokenized-1` say how often a process tokenized.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import torch

from wordmask.tokenization import word_cache

calls = []
tokenize = word_cache.tokenize


def counted(*args, **kwargs):
    calls.append(1)
    time.sleep(0.5)  # so that another process that does not wait is not too late to be seen here
    return tokenize(*args, **kwargs)


word_cache.tokenize = counted  # before the modules that import it

import run_mlm_wwm  # noqa: E402
from wordmask.config.launch_checks import leave  # noqa: E402


def main(path: Path) -> None:
    """Run all command lines of a file."""
    rank = os.environ["RANK"]
    for argv in json.loads(path.read_text(encoding="utf-8")):
        run_mlm_wwm.main([word.replace("{rank}", rank) for word in argv])
        assert torch.distributed.get_world_size() == 2
    path.with_name(f"tokenized-{rank}").write_text(str(len(calls)))
    leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
