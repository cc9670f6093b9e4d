"""How the processes of a run were started, on what devices, and the mistakes that are made there."""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch
from transformers.integrations import is_deepspeed_available
from transformers.utils import is_torch_tpu_available, is_torch_xla_available

from wordmask.utils.errors import InputError

LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # what torchrun sets for each process
MPI = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


def tpu_package() -> str | None:
    """The package that trains on a TPU here, `torch_xla` or `torch_tpu`, as the Trainer finds it; `None` without."""
    if is_torch_xla_available():
        return "torch_xla"
    return "torch_tpu" if is_torch_tpu_available() else None


def choose_optimizer(asked: str | None, default: str) -> str:
    """The optimizer that was asked for, or else the default where the device has it and `adamw_torch` where not.

    Raises:
        InputError: for the fused AdamW on XLA, which would crash at the first step. To take another one silently
            would make the run's record untrue.
    """
    package = tpu_package()
    if asked == "adamw_torch_fused" and package == "torch_xla":
        raise InputError("--optim adamw_torch_fused: XLA has no fused AdamW; give adamw_torch, or drop the flag")
    return asked or ("adamw_torch" if package else default)


def leave() -> None:
    """Leave the group of processes, if there is one; without that, some processes end before others are done."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def check_environment(use_cpu: bool, backend: str | None, environment: Mapping[str, str] = os.environ) -> None:
    """Check what a launcher said to this process.

    Args:
        use_cpu, backend: what --use_cpu and --ddp_backend say.
        environment: the variables.

    Raises:
        InputError: where the variables of a launcher are there in part or contradict each other, or where the
            processes would not find together and each train on its own.
    """
    size, rank = _number(environment, "WORLD_SIZE", 1), _number(environment, "RANK", 0)
    if not is_launched(environment):
        simple = "ACCELERATE_MIXED_PRECISION" in environment and "MASTER_ADDR" in environment
        if simple and not any(name in environment for name in MPI) and tpu_package() is None:
            raise InputError(
                "accelerate launch started one process, whatever its --num_processes, as it does without several "
                "GPUs; start with torchrun --nproc_per_node instead, and with --use_cpu for CPUs"
            )
        return
    missing = [name for name in LAUNCHER if not environment.get(name)]
    if missing:
        found = [f"{name}={environment[name]}" for name in LAUNCHER if environment.get(name)]
        raise InputError(
            f"the environment has {', '.join(found)} without {', '.join(missing)}; start with torchrun, which sets "
            "them all, or unset them to train in one process"
        )
    _number(environment, "MASTER_PORT", 0)
    if not 0 <= rank < size:
        raise InputError(f"the environment has RANK={rank} and WORLD_SIZE={size}; ranks count from 0 to {size - 1}")
    if _on_cpu(use_cpu, environment):
        if backend not in (None, "gloo", "mpi"):
            raise InputError(f"--ddp_backend {backend} does not join CPUs; give gloo, or drop the flag")
        return
    accelerator = torch.accelerator.current_accelerator(True)
    if size > 1 and tpu_package() is None and (accelerator is None or accelerator.type == "mps"):
        raise InputError(
            f"{size} processes were started and no GPU is found for them, so each would train on its own; add "
            "--use_cpu to train on CPUs together"
        )


def check_sharding(
    fsdp: object, fsdp_config: object, deepspeed: object, use_cpu: bool, environment: Mapping[str, str] = os.environ
) -> None:
    """Check that a model can be divided as --fsdp or --deepspeed say.

    Raises:
        InputError: where there is one process only, no GPU, no DeepSpeed, or nothing that says so.
    """
    if fsdp_config and not fsdp:
        raise InputError("--fsdp_config has no effect without --fsdp; add it")
    if fsdp and deepspeed:
        raise InputError("--fsdp and --deepspeed both say how to divide the model; give one of the two")
    if not (fsdp or deepspeed):
        return
    flag = "--fsdp" if fsdp else "--deepspeed"
    if deepspeed and not is_deepspeed_available():
        raise InputError("--deepspeed needs the package deepspeed: pip install deepspeed")
    if _on_cpu(use_cpu, environment):
        raise InputError(f"{flag} divides a model over GPUs, and CPUs train without it; drop it or --use_cpu")
    if not is_launched(environment) and tpu_package() is None:
        raise InputError(
            f"{flag} divides a model over processes and plain python starts one; start with torchrun "
            "--nproc_per_node, or accelerate launch"
        )


def is_launched(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a launcher started this process as one of a group, maybe of one."""
    return _number(environment, "LOCAL_RANK", -1) >= 0 or _number(environment, "WORLD_SIZE", 1) > 1


def _on_cpu(use_cpu: bool, environment: Mapping[str, str]) -> bool:
    return use_cpu or environment.get("ACCELERATE_USE_CPU", "").lower() == "true"


def _number(environment: Mapping[str, str], name: str, otherwise: int) -> int:
    """A number in the environment.

    Raises:
        InputError: where it is none.
    """
    value = environment.get(name) or otherwise
    try:
        return int(value)
    except ValueError:
        raise InputError(f"the environment has {name}={value}, which is not a number; start with torchrun") from None
