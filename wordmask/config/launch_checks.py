"""How the processes of a run were started: check what a launcher has set, and whether it can divide a model.

flag_checks.py says where else flags are checked.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch
from transformers.integrations import is_deepspeed_available

from wordmask.utils.errors import InputError
from wordmask.utils.launch import tpu_package

LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # what torchrun sets for each process
# What `accelerate launch` sets where its own configuration asks for more, and the flag that asks for it here.
LAUNCHED_SETTINGS = {
    "ACCELERATE_DYNAMO_BACKEND": "--torch_compile",
    "ACCELERATE_USE_FSDP": "--fsdp",
    "ACCELERATE_USE_DEEPSPEED": "--deepspeed",
    "ACCELERATE_FP8_BACKEND": "",
    "ACCELERATE_USE_MEGATRON_LM": "",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "",
}
MPI = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


def check_environment(use_cpu: bool, backend: str | None) -> None:
    """Check the variables that a launcher sets for this process.

    Args:
        use_cpu, backend: the values of --use_cpu and --ddp_backend.

    Raises:
        InputError: if some of the variables are missing or contradict each other, or if the processes would not
            find each other and each would train alone.
    """
    size, rank = _number("WORLD_SIZE", 1), _number("RANK", 0)
    if not is_launched():
        if rank:
            raise InputError(
                f"the environment has RANK={rank}, and no other process; start with torchrun, or unset it to train in "
                "one process"
            )
        # What accelerate sets for several processes. Clusters that start one process name a host and a WORLD_SIZE.
        host = os.environ.get("MASTER_ADDR")
        is_of_accelerate = host == "127.0.0.1" or (host and "WORLD_SIZE" not in os.environ)
        simple = "ACCELERATE_MIXED_PRECISION" in os.environ and is_of_accelerate
        if simple and not any(name in os.environ for name in MPI) and tpu_package() is None:
            raise InputError(
                "accelerate launch started one process, whatever its --num_processes, as it does without several "
                "GPUs; start with torchrun --nproc_per_node instead, and with --use_cpu for CPUs"
            )
        return
    missing = [name for name in LAUNCHER if not os.environ.get(name)]
    if missing:
        found = [f"{name}={os.environ[name]}" for name in LAUNCHER if os.environ.get(name)]
        raise InputError(
            f"the environment has {', '.join(found)} without {', '.join(missing)}; start with torchrun, which sets "
            "them all, or unset them to train in one process"
        )
    _number("MASTER_PORT", 0)
    if not 0 <= rank < size:
        raise InputError(f"the environment has RANK={rank} and WORLD_SIZE={size}; ranks count from 0 to {size - 1}")
    if on_cpu(use_cpu):
        if backend not in (None, "gloo", "mpi"):
            raise InputError(f"--ddp_backend {backend} does not connect CPUs; give gloo, or drop the flag")
        return
    accelerator = torch.accelerator.current_accelerator(True)
    if size > 1 and tpu_package() is None and (accelerator is None or accelerator.type == "mps"):
        raise InputError(
            f"{size} processes were started and there is no GPU for them, so each would train alone; add --use_cpu to "
            "train on CPUs together"
        )


def check_one_gpu(gpus: int, script: str) -> None:
    """Check that this process has no more than one GPU.

    With more, the Trainer would use `DataParallel`, which is slow and has another loss.

    Args:
        gpus: the GPUs of this process.
        script: what the user started.

    Raises:
        InputError: with the command that uses them all.
    """
    if gpus > 1:
        raise InputError(
            f"{gpus} GPUs under plain python; start with torchrun --nproc_per_node {gpus} {script}, or choose one GPU "
            "with CUDA_VISIBLE_DEVICES=0"
        )


def check_sharding(fsdp: object, fsdp_config: object, deepspeed: object, use_cpu: bool) -> None:
    """Check that --fsdp or --deepspeed can divide a model here.

    Raises:
        InputError: without a launcher, a GPU or the package, or if the flags contradict each other.
    """
    if fsdp_config and not fsdp:
        raise InputError("--fsdp_config has no effect without --fsdp; add it")
    if fsdp and deepspeed:
        raise InputError("--fsdp and --deepspeed both divide the model; drop one of them")
    if not (fsdp or deepspeed):
        return
    flag = "--fsdp" if fsdp else "--deepspeed"
    if deepspeed and not is_deepspeed_available():
        raise InputError("--deepspeed needs the package deepspeed: pip install deepspeed")
    if on_cpu(use_cpu):
        raise InputError(f"{flag} divides a model over GPUs, and CPUs train without it; drop it or --use_cpu")
    if not is_launched() and tpu_package() is None:
        raise InputError(
            f"{flag} divides a model over processes and plain python starts one; start with torchrun "
            "--nproc_per_node, or accelerate launch"
        )


def check_launched_precision(is_asked: bool) -> None:
    """Check that `accelerate launch` sets no precision that no flag names: header and record would not have it.

    Args:
        is_asked: whether a flag names the precision.

    Raises:
        InputError: with the flag to add.
    """
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION") or "no"
    if precision != "no" and not is_asked:
        add = f"add --{precision}, or " if precision in ("bf16", "fp16") else ""
        raise _not_asked("ACCELERATE_MIXED_PRECISION", precision, f"{add}give accelerate launch --mixed_precision no")


def check_launched_settings(asked: Mapping[str, bool]) -> None:
    """Check that `accelerate launch` asks for nothing that no flag names: header, checks and record would not have it.

    Args:
        asked: whether each of the flags in `LAUNCHED_SETTINGS` is given.

    Raises:
        InputError: with the flag to add.
    """
    for variable, flag in LAUNCHED_SETTINGS.items():
        value = os.environ.get(variable) or "no"
        if value.lower() in ("no", "false", "0") or asked.get(flag):
            continue
        add = f"add {flag}, or " if flag else ""
        raise _not_asked(variable, value, f"{add}change that configuration, or start with torchrun")


def _not_asked(variable: str, value: str, advice: str) -> InputError:
    """The error for what `accelerate launch` sets and no flag asks for."""
    return InputError(
        f"the environment has {variable}={value}, maybe from accelerate's own configuration, and no flag asks for it; "
        f"{advice}"
    )


def is_launched() -> bool:
    """Whether a launcher started this process, maybe as the only one of its group."""
    return _number("LOCAL_RANK", -1) >= 0 or _number("WORLD_SIZE", 1) > 1


def on_cpu(use_cpu: bool) -> bool:
    """Whether a run with this value of --use_cpu is on CPUs."""
    return use_cpu or os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true"


def _number(name: str, otherwise: int) -> int:
    """An environment variable as a number; an `InputError` if it is not one."""
    value = os.environ.get(name) or otherwise
    try:
        return int(value)
    except ValueError:
        raise InputError(f"the environment has {name}={value}, which is not a number; start with torchrun") from None
