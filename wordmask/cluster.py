"""Run the shards of a script on an executor of datatrove: local processes, Slurm, or Ray.

    python -m wordmask.cluster --executor slurm --tasks 200 --partition cpu \\
        -- run_chinese_ref.py --file_name corpus.txt --ltp LTP/small --bert bert-base-chinese --save_path corpus.ref

    python -m wordmask.cluster --executor slurm --tasks 200 --partition cpu \\
        -- run_mlm_wwm.py --model_name_or_path roberta-base --train_file text.txt --prepare_only --prepared_dir tokens

Each task runs the script with `--num_shards TASKS --shard_index RANK`. When all tasks are done, the script runs once
more: it joins the parts of a reference file, or checks that no part of the tokenized text is missing. All machines
must share the directories of the output and of the logs. A second call runs only what is not finished.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from wordmask.utils.script import reports_input_errors, while_importing

with while_importing(__name__):
    from wordmask.config.parser import Parser, argument, build
    from wordmask.utils.errors import InputError
    from wordmask.utils.terminal import clean, use
    from wordmask.utils.write_errors import write_reported

DESCRIPTION = (
    "Run the shards of a script on several processes or machines: of run_chinese_ref.py, or of run_mlm.py and "
    "run_mlm_wwm.py with --prepare_only."
)


@dataclass
class ClusterArguments:
    """Where the shards run."""

    tasks: int = argument("The number of shards; each shard is one task.")
    executor: Literal["local", "slurm", "ray"] = argument("What runs the tasks.", default="local")
    workers: int = argument("How many tasks may run at the same time; -1 for all.", default=-1)
    logging_dir: str | None = argument(
        "The directory for the logs of the tasks; without it, one in the cache of datasets.", default=None
    )
    partition: str = argument("Slurm: the partition that the tasks run in.", default="")
    time: str = argument("Slurm: the time limit of a task, as hours:minutes:seconds.", default="24:00:00")
    cpus_per_task: int = argument("Slurm and Ray: the CPU cores of a task.", default=1)
    mem_per_cpu_gb: int = argument("Slurm and Ray: the memory for each core, in GB.", default=4)

    def __post_init__(self) -> None:
        for name in ("tasks", "cpus_per_task", "mem_per_cpu_gb"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name}: {getattr(self, name)} is not a positive number; give 1 or more")
        if self.workers < 1 and self.workers != -1:
            raise InputError(
                f"--workers: {self.workers} is not possible; give 1 or more, or -1 to run all tasks at once"
            )
        if not re.fullmatch(r"(\d+-)?\d+(:\d+){0,2}", self.time):
            raise InputError(f"--time: {self.time} is no time limit; write hours:minutes:seconds")
        if self.executor == "ray" and importlib.util.find_spec("ray") is None:
            raise InputError("--executor ray needs its package: pip install ray")
        if self.executor == "slurm" and not self.partition:
            raise InputError("--partition is missing; name the Slurm partition that the tasks run in")
        if self.executor == "slurm" and shutil.which("sbatch") is None:
            raise InputError(
                "--executor slurm: this machine has no command sbatch; start on a machine that submits Slurm jobs, or "
                "give --executor local"
            )


def check_command(command: Sequence[str]) -> None:
    """Raise an `InputError` if what shall run is neither a file nor a module. Each task would fail."""
    script, *others = command
    if script == "-m":
        module = others[0] if others else ""
        try:
            is_there = bool(module) and importlib.util.find_spec(module) is not None
        except (ImportError, ValueError):
            is_there = False
        if not is_there:
            raise InputError(f"-- -m {module}: there is no such module; give wordmask, for example -- -m wordmask ref")
    elif not os.path.isfile(script):
        raise InputError(
            f"-- {script}: there is no such script; give the path of run_chinese_ref.py or of another one"
        )


def run_shard(command: Sequence[str], data: Any, rank: int, world_size: int) -> None:
    """One task: a shard of the script's work.

    Args:
        command: the script and its flags.
        data: nothing; datatrove passes it to every step.
        rank, world_size: which of how many shards this is.
    """
    shard = ["--num_shards", str(world_size), "--shard_index", str(rank)]
    status = subprocess.run([sys.executable, *command, *shard], check=False).returncode
    if status:  # not `CalledProcessError`, which pickle cannot send: the pool of a local executor would wait forever
        raise InputError(f"shard {rank} failed with status {status}")


def finish(command: Sequence[str], data: Any = None, rank: int = 0, world_size: int = 1) -> None:
    """The last task: the script without a shard. It finds all parts done, and completes the output."""
    makes_references = Path(command[0]).name == "run_chinese_ref.py" or [*command[:3]] == ["-m", "wordmask", "ref"]
    resume = ["--resume"] if makes_references else []  # training scripts resume by themselves
    status = subprocess.run([sys.executable, *command, *resume], check=False).returncode
    if status:
        raise InputError(f"the run that completes the output failed with status {status}")


def executor(arguments: ClusterArguments, step: Any, tasks: int, logging_dir: Path, **options: Any) -> Any:
    """The datatrove executor that runs a step in a number of tasks.

    Args:
        arguments: the flags.
        step: a function like `run_shard`.
        tasks: the number of tasks.
        logging_dir: the directory for the logs of this step.
        options: more options of the executor.

    Raises:
        InputError: if datatrove is not installed.
    """
    try:
        from datatrove import executor as datatrove
    except ImportError as error:
        raise InputError(f"wordmask.cluster needs datatrove ({error}): pip install datatrove") from None
    options |= {"pipeline": [step], "tasks": tasks, "logging_dir": str(logging_dir)}
    # datatrove only knows that some command ran; the scripts know which parts are done.
    options |= {"skip_completed": False, "workers": min(arguments.workers, tasks)}
    if arguments.executor == "local":
        return datatrove.LocalPipelineExecutor(**options)
    options |= {"cpus_per_task": arguments.cpus_per_task, "mem_per_cpu_gb": arguments.mem_per_cpu_gb}
    if arguments.executor == "ray":
        return datatrove.RayPipelineExecutor(**options)
    return datatrove.SlurmPipelineExecutor(
        **options, time=arguments.time, partition=arguments.partition, job_name=f"wordmask_{logging_dir.name}"
    )


@reports_input_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Run the script after `--` on an executor."""
    given = list(sys.argv[1:] if argv is None else argv)
    end = given.index("--") if "--" in given else len(given)
    flags, command = given[:end], given[end + 1 :]
    if not command and not {"--help", "-h"} & {*flags}:
        raise InputError("the script to run is missing; give it and its flags after --")
    usage = "python -m wordmask.cluster [ARGUMENT_FILE] --tasks N ... -- script.py --flag value ..."
    parser = Parser(ClusterArguments, usage=usage, description=DESCRIPTION)
    arguments = build(ClusterArguments, parser.parse(flags))
    use(None)
    check_command(command)
    logs = Path(arguments.logging_dir or _logs_in_cache(command))
    with write_reported(f"--logging_dir: {logs}", "give another directory"):
        logs.mkdir(parents=True, exist_ok=True)
    print(clean(f"logs of the tasks: {logs}"))
    shards = executor(arguments, partial(run_shard, command), arguments.tasks, logs / "shards")
    if arguments.executor == "slurm":
        executor(arguments, partial(finish, command), 1, logs / "whole", depends=shards).run()
        return
    try:
        shards.run()
        finish(command)
    except InputError as error:
        raise InputError(f"{error}; what it said stands above, or in its log in {logs}") from None


def _logs_in_cache(command: Sequence[str]) -> Path:
    """A directory for the logs of this command, outside of the working directory."""
    from wordmask.utils.cache import cache_directory, hashed  # imports datasets, which --help does not need

    return cache_directory(None) / "cluster_logs" / hashed(os.getcwd(), *command)


if __name__ == "__main__":
    main()
