"""A trial of training and saving before the text is tokenized, since a failure after that costs hours."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import PreTrainedModel

from wordmask.config.arguments import Arguments
from wordmask.config.launch_checks import tpu_package
from wordmask.masking import IGNORED
from wordmask.models.configuration import origin
from wordmask.models.forward import Forward, choose_forward
from wordmask.models.probing import some_ids, unchanged
from wordmask.utils.errors import InputError, one_line

SHORT = 8  # tokens in a sequence of the trial


def place_and_try(arguments: Arguments, model: Any, size: int, length: int) -> Forward:
    """Move a model to its device, try it, and make its forward pass.

    Args:
        arguments, model, size, length: see `try_model`.

    Raises:
        InputError: if the model cannot be trained or saved, or cannot do what the flags ask for.
    """
    training = arguments.training
    divided, on_tpu = training.fsdp or training.deepspeed, tpu_package() is not None
    if not (divided or on_tpu):  # on a TPU, the trial would compile shapes that training does not use
        model.to(training.device)  # flash attention runs only there
    try_model(arguments, model, size, length)
    if on_tpu and not divided:
        model.to(training.device)
    return choose_forward(arguments, model)


def try_model(arguments: Arguments, model: PreTrainedModel, size: int, length: int) -> None:
    """Train a model on two short sequences, save its configuration, and undo both.

    With --fsdp or --deepspeed, the model is not on one device, so only its configuration is tried.

    Args:
        arguments: those of the run. Without training, no gradient is computed.
        model: the model, on the device that trains it.
        size: the number of ids of the tokenizer, see `vocabulary_size`.
        length: the length of all sequences with --pad_to_max_length, which some architectures need.

    Raises:
        InputError: if one of these fails, since the architecture needs other inputs or its settings do not fit.
    """
    training = arguments.training
    flag, what = origin(arguments.model)
    fixed, name = arguments.data.pad_to_max_length, type(model).__name__
    if not (training.fsdp or training.deepspeed):
        sentence = f"{flag}: {what} makes a {name} that text alone does not train; two short sequences gave"
        with _failing(sentence, fixed), unchanged(model):
            model.train(training.do_train)
            half = torch.float16 if training.fp16 else torch.bfloat16
            with torch.autocast(model.device.type, half, enabled=training.fp16 or training.bf16):
                logits, loss = _pass(model, size, length if fixed else min(SHORT, length))
            if training.do_train:
                loss.backward()
                _say_what_is_used(training, model)
            if logits.shape[-1] < size:
                raise ValueError(f"predictions of {logits.shape[-1]} tokens, and the tokenizer has {size}")
    saving = _failing(f"{flag}: the configuration of {what} cannot be saved and loaded again; that gave")
    with saving, TemporaryDirectory() as directory:
        model.config.save_pretrained(directory)
        type(model.config).from_pretrained(directory)


def _say_what_is_used(training: Any, model: PreTrainedModel) -> None:
    """Tell DDP that every weight has a gradient, so that it need not look for others in each step, and warn of it.

    With LayerDrop (Flaubert), steps differ.
    """
    all_used = all(weight.grad is not None for weight in model.parameters() if weight.requires_grad)
    if training.ddp_find_unused_parameters is None and all_used and not getattr(model.config, "layerdrop", 0):
        training.ddp_find_unused_parameters = False


def _pass(model: Any, size: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and loss of two sequences with one label each. The second one has padding, and the largest id."""
    ids = some_ids(model, 2, length)
    ids[1, 0] = size - 1
    mask = torch.ones_like(ids)
    mask[1, length // 2 :] = 0
    labels = torch.full_like(ids, IGNORED)
    labels[:, 0] = ids[:, 0]
    inputs = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    prediction = Forward.of(model)(model, inputs)
    return prediction.logits, prediction.loss


@contextlib.contextmanager
def _failing(sentence: str, fixed: bool = True) -> Iterator[None]:
    """Turn any exception into one sentence, since architectures fail in different ways."""
    try:
        yield
    except Exception as error:
        advice = "give other settings" if fixed else "give other settings, such as --pad_to_max_length"
        raise InputError(
            f"{sentence} {type(error).__name__} ({one_line(error)[:200]}); {advice}, or another model"
        ) from None
