"""Run the shards of a script on the executors of datatrove: local processes, Slurm, or Ray.

    python -m wordmask.cluster --executor slurm --tasks 200 --partition cpu --logging_dir logs \
        -- run_chinese_ref.py --file_name corpus.txt --ltp LTP/small --bert bert-base-chinese --save_path corpus.ref

    python -m wordmask.cluster --executor slurm --tasks 200 --partition cpu --logging_dir logs \
        -- run_mlm_wwm.py --model_name_or_path roberta-base --train_file text.txt --prepare_only --prepared_dir tokens

Each task runs the script with `--num_shards TASKS --shard_index RANK`; when all are done, the script runs once more
and puts the parts of references together, or sees that no part of prepared text is missing. All machines must share
the output's directory. A second call runs only what is not finished.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from wordmask.config.parser import Parser, argument, build
from wordmask.utils.errors import InputError, reports_input_errors


@dataclass
class ClusterArguments:
    """Where the shards run."""

    tasks: int = argument("The number of shards.")
    executor: Literal["local", "slurm", "ray"] = argument("What runs them.", default="local")
    workers: int = argument("Tasks that run at the same time; all of them if -1.", default=-1)
    logging_dir: str = argument("Where datatrove keeps its logs.", default="cluster_logs")
    partition: str = argument("Slurm: the partition.", default="")
    time: str = argument("Slurm: the longest that a task may take.", default="24:00:00")
    cpus_per_task: int = argument("Slurm and Ray: cores for a task.", default=1)
    mem_per_cpu_gb: int = argument("Slurm and Ray: memory for a core.", default=4)

    def __post_init__(self) -> None:
        if self.tasks < 1:
            raise InputError(f"--tasks: {self.tasks} is not a positive number")
        if self.executor == "slurm" and not self.partition:
            raise InputError("--partition is missing; name the Slurm partition that the tasks run in")


def run_shard(command: Sequence[str], data: Any, rank: int, world_size: int) -> None:
    """One task: a shard of the script's work."""
    shard = ["--num_shards", str(world_size), "--shard_index", str(rank)]
    subprocess.run([sys.executable, *command, *shard], check=True)


def finish(command: Sequence[str], data: Any = None, rank: int = 0, world_size: int = 1) -> None:
    """The last task: the script by itself, which finds all parts done."""
    makes_references = Path(command[0]).name == "run_chinese_ref.py" or [*command[:3]] == ["-m", "wordmask", "ref"]
    resume = ["--resume"] * makes_references  # the training scripts always go on
    subprocess.run([sys.executable, *command, *resume], check=True)


def executor(arguments: ClusterArguments, step: Any, tasks: int, name: str, **options: Any) -> Any:
    """The datatrove executor that runs a step as so many tasks.

    Raises:
        InputError: where datatrove is not installed.
    """
    try:
        from datatrove import executor as datatrove
    except ImportError as error:
        raise InputError(f"wordmask.cluster needs datatrove ({error}): pip install 'wordmask[cluster]'") from None
    options |= {"pipeline": [step], "tasks": tasks, "logging_dir": f"{arguments.logging_dir}/{name}"}
    options["skip_completed"] = False  # the scripts know what is done; datatrove only that some command was run there
    options["workers"] = min(arguments.workers, tasks)
    if arguments.executor == "local":
        return datatrove.LocalPipelineExecutor(**options)
    options |= {"cpus_per_task": arguments.cpus_per_task, "mem_per_cpu_gb": arguments.mem_per_cpu_gb}
    if arguments.executor == "ray":
        return datatrove.RayPipelineExecutor(**options)
    return datatrove.SlurmPipelineExecutor(
        **options, time=arguments.time, partition=arguments.partition, job_name=f"wordmask_{name}"
    )


@reports_input_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Run the script behind `--` on an executor."""
    words = list(sys.argv[1:] if argv is None else argv)
    end = words.index("--") if "--" in words else len(words)
    own, command = words[:end], words[end + 1 :]
    if not command and not {"--help", "-h"} & {*own}:
        raise InputError("the script to run is missing; give it and its flags behind --")
    parser = Parser(ClusterArguments, usage="python -m wordmask.cluster --tasks N ... -- script.py --flag value ...")
    arguments = build(ClusterArguments, parser.parse(own))
    shards = executor(arguments, partial(run_shard, command), arguments.tasks, "shards")
    if arguments.executor == "slurm":
        executor(arguments, partial(finish, command), 1, "whole", depends=shards).run()
        return
    try:
        shards.run()
        finish(command)
    except subprocess.CalledProcessError as error:
        raise InputError(
            f"a shard failed with status {error.returncode}; its log lies in {arguments.logging_dir}"
        ) from None


if __name__ == "__main__":
    main()
