"""Too little memory: notice it, and say in one sentence which flag lowers what a run needs."""

from __future__ import annotations

import contextlib
import os
import traceback
from collections.abc import Iterator

import torch
from accelerate.utils.memory import should_reduce_batch_size

from wordmask.config.arguments import Arguments
from wordmask.config.run_arguments import RunArguments
from wordmask.models.configuration import origin
from wordmask.utils.errors import InputError
from wordmask.utils.memory import available_memory, limited_memory
from wordmask.utils.quantities import size

_SIGNS = (  # of too little memory, in messages
    *("bad_alloc", "could not create a primitive", "could not create a memory"),  # of C++, and of oneDNN on a CPU
    *("out of memory", "STATUS_ALLOC_FAILED"),  # of CUDA, Triton and NCCL, and of cuBLAS and cuDNN
    "No executable batch size found",  # of --auto_find_batch_size
)


def lacks_memory(error: BaseException | None) -> bool:
    """Whether an exception, or one that it comes from, says that memory is short.

    The sentence of an `InputError` does not count: it may quote a text. When memory is short while a CUDA graph is
    recorded, the end of the recording fails, too.
    """
    while error is not None:
        if isinstance(error, MemoryError | torch.OutOfMemoryError):
            return True
        is_of_library = isinstance(error, Exception) and not isinstance(error, InputError)
        if is_of_library and (any(sign in str(error) for sign in _SIGNS) or should_reduce_batch_size(error)):
            return True
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return False


def free_memory(device: torch.device, room: int | None = None) -> str:
    """How a sentence names the memory that a run can use.

    Args:
        device: has the memory.
        room: the bytes on a CPU; `None` for all that are free.
    """
    if device.type != "cpu":
        return "the GPU's memory"
    return f"the {size(available_memory() if room is None else room)} of memory that are free"


@contextlib.contextmanager
def memory_errors_reported(arguments: Arguments) -> Iterator[None]:
    """Report too little memory in one sentence; in a dry run on a CPU, before the system kills the process."""
    training, room = arguments.training, None
    limited: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    if training.dry_run and training.device.type == "cpu":
        # A fifth stays free for a long run, whose memory fragments.
        room = available_memory() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")) * 4 // 5
        limited = limited_memory(room)
    try:
        with limited:
            yield
    except Exception as error:
        if not lacks_memory(error):
            raise
        raise InputError(_sentence(error, arguments, free_memory(training.device, room))) from None


@contextlib.contextmanager
def smaller_batches_tried(training: RunArguments) -> Iterator[None]:
    """With --auto_find_batch_size, say too little memory in the words with which accelerate's search goes on.

    Raises:
        InputError: instead, if it is an evaluation that does not fit: it has batches of its own, and the search would
            go on without its figures.
    """
    try:
        yield
    except Exception as error:
        if not training.auto_find_batch_size or not lacks_memory(error):
            raise
        if "_evaluate" in _passed(error):  # the Trainer says it in other words, which name no flag
            raise InputError(_evaluation(training, free_memory(training.device))) from None
        if should_reduce_batch_size(error):
            raise
        if "could not create a" in str(error):  # said by oneDNN, which does not recover from it
            torch.backends.mkldnn.set_flags(False)
        raise RuntimeError(f"{error}: out of memory.") from error


def _sentence(error: BaseException, arguments: Arguments, free: str) -> str:
    """What does not fit, and what to do. The functions that the error went through tell what the run was doing."""
    training, (flag, value) = arguments.training, origin(arguments.model)
    passed = _passed(error)
    if "evaluation_loop" in passed:
        return _evaluation(training, free)
    if "train" in passed:
        return f"{_step(arguments)} does not fit into {free}; {_smaller_step(arguments)}"
    return f"{flag}: {value} and its text do not fit into {free}; give a smaller model, or free memory"


def _passed(error: BaseException) -> set[str]:
    """The names of the functions that an error went through."""
    return {frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__)}


def _evaluation(training: RunArguments, free: str) -> str:
    batch = training.per_device_eval_batch_size
    advice = f"give {batch // 2}" if batch > 1 else "give a smaller --max_seq_length or model"
    return f"--per_device_eval_batch_size {batch}: the batches of an evaluation do not fit into {free}; {advice}"


def _step(arguments: Arguments) -> str:
    training = arguments.training
    if training.tokens_per_pass:
        return f"--tokens_per_pass {training.tokens_per_pass}: a step"
    name = "tokens_per_step" if training.tokens_per_step else "per_device_train_batch_size"
    return f"--{name} {getattr(training, name)}: a step"


def _smaller_step(arguments: Arguments) -> str:
    training = arguments.training
    tokens, batch = training.tokens_per_pass, training.per_device_train_batch_size
    if training.auto_find_batch_size:
        return f"no smaller batch does, so {need_less(training)}"
    if tokens and tokens > 1:
        return f"give {tokens // 2}, which trains the same"
    if training.tokens_per_step:
        return f"give --gradient_accumulation_steps {2 * training.gradient_accumulation_steps}, which trains the same"
    if batch == 1:
        return need_less(training)
    in_step = batch * training.gradient_accumulation_steps
    smaller = batch_sizes(batch, in_step)[1]
    return (
        f"give {smaller} --gradient_accumulation_steps {in_step // smaller}, which trains the same; --dry_run finds "
        "the largest that fits"
    )


def need_less(training: RunArguments) -> str:
    """What lowers the memory of a step where a smaller batch does not help."""
    compiler = training.torch_compile_backend if training.torch_compile else None
    is_whole = compiler == "inductor" and training.activation_memory_budget == 1
    again = "--activation_memory_budget 0.5" if is_whole else "--activation_checkpointing"
    return f"give a smaller --max_seq_length or model, --optim adafactor or {again}"


def batch_sizes(batch: int, in_step: int) -> list[int]:
    """A batch size and smaller ones that divide a step, so that each trains the same: 12 6 3 1 of 12, and 5 1 of 5."""
    sizes = [batch]
    while sizes[-1] > 1:
        sizes.append(next(size for size in range(sizes[-1] // 2, 0, -1) if in_step % size == 0))
    return sizes
