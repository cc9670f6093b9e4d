"""Started by torchrun: one run after the other in one process group, since starting it costs more than the runs.

    torchrun --nproc_per_node 2 two_processes.py commands.json

The file holds a list of command lines. In each, `{rank}` stands for the process's rank, so that what each process
writes can be told apart. One that begins with `--stop 4` gets a SIGTERM in its fourth step. Beside the file,
`tokenized-0` and `tokenized-1` say how often a process tokenized, and `seen-0.json` and `seen-1.json` hold, for each
command, the step and the tokens of each sequence that it trained on.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import torch

from wordmask.tokenization import tokenize as module

calls = []
tokenize = module.tokenize


def counted(*args, **kwargs):
    calls.append(1)
    time.sleep(0.5)  # so that another process that does not wait is not too late to be seen here
    return tokenize(*args, **kwargs)


module.tokenize = counted  # before the modules that import it

import run_mlm_wwm  # noqa: E402
from conftest import run_until, sequences_in  # noqa: E402
from wordmask.training.trainer.mlm_trainer import MlmTrainer  # noqa: E402
from wordmask.utils.launch import leave  # noqa: E402

seen: list[list[tuple[int, tuple[int, ...]]]] = []
training_step = MlmTrainer.training_step


def noted(self, model, inputs, *more):
    seen[-1] += [(self.state.global_step, sequence) for sequence in sequences_in(inputs)]
    return training_step(self, model, inputs, *more)


MlmTrainer.training_step = noted


def main(path: Path) -> None:
    """Run all command lines of a file."""
    rank = os.environ["RANK"]
    for argv in json.loads(path.read_text(encoding="utf-8")):
        seen.append([])
        words = [word.replace("{rank}", rank) for word in argv]
        if words[0] == "--stop":
            run_until(int(words[1]), words[2:])
        else:
            run_mlm_wwm.main(words)
        assert torch.distributed.get_world_size() == 2
    path.with_name(f"seen-{rank}.json").write_text(json.dumps(seen))
    path.with_name(f"tokenized-{rank}").write_text(str(len(calls)))
    leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
