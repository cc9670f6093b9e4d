"""A trial of training and saving before the text is tokenized, since a failure after that costs hours."""

from __future__ import annotations

import copy
from tempfile import TemporaryDirectory

import torch
from transformers import PreTrainedModel

from wordmask.config.arguments import Arguments
from wordmask.config.run_arguments import RunArguments
from wordmask.masking import IGNORED
from wordmask.models.choose_forward import choose_forward
from wordmask.models.configuration import origin
from wordmask.models.forward import Forward, Prediction
from wordmask.models.probing import some_ids, unchanged
from wordmask.utils.errors import InputError, kind_of, reported
from wordmask.utils.launch import tpu_package
from wordmask.utils.terminal import terminal

SHORT = 8  # tokens in a sequence of the trial


def place_and_try(arguments: Arguments, model: PreTrainedModel, size: int, length: int) -> Forward:
    """Move a model to its device, try it, and make its forward pass.

    Args:
        arguments, model, size, length: see `try_model`.

    Raises:
        InputError: if the model cannot be trained or saved, or cannot do what the flags ask for.
    """
    terminal().doing("trying the model on two short sequences")
    training = arguments.training
    divided, on_tpu = training.fsdp or training.deepspeed, tpu_package() is not None
    module: torch.nn.Module = model
    if not (divided or on_tpu):  # on a TPU, the trial would compile shapes that training does not use
        module.to(training.device)  # flash attention runs only there
    try_model(arguments, model, size, length)
    if on_tpu and not divided:
        module.to(training.device)
    return choose_forward(arguments, model, length)


def try_model(arguments: Arguments, model: PreTrainedModel, size: int, length: int) -> None:
    """Train a model on two short sequences, save its configuration, and undo both.

    With --fsdp or --deepspeed, the model is not on one device, so only its configuration is tried.

    Args:
        arguments: those of the run. Without training, no gradient is computed.
        model: the model, on the device that trains it.
        size: the number of ids of the tokenizer, see `vocabulary_size`.
        length: of the longest sequence, and of all with --pad_to_max_length, which some architectures need.

    Raises:
        InputError: if one of these fails, since the architecture needs other inputs or its settings do not fit.
    """
    training = arguments.training
    flag, value = origin(arguments.model)
    fixed, kind = arguments.data.pad_to_max_length, kind_of(model)
    tried = length if fixed else min(SHORT, length)
    if training.activation_checkpointing and not model.supports_gradient_checkpointing:
        raise InputError(
            f"--activation_checkpointing: {kind} cannot compute its activations again; drop the flag, and give a "
            "smaller --tokens_per_pass to need less memory"
        )
    if not (training.fsdp or training.deepspeed):
        sentence = f"{flag}: {value} makes {kind} that text alone does not train; two short sequences gave an error"
        such_as = "" if fixed else ", such as --pad_to_max_length,"
        advice = f"; give other settings{such_as} or another model"
        with reported(sentence, advice), unchanged(model):
            model.train(training.do_train)
            with torch.autocast(model.device.type, training.half_dtype, enabled=training.half_dtype is not None):
                prediction = _predict(model, size, tried)
            if training.do_train:
                prediction.loss.backward()
                _set_unused_parameters(training, model)
            if (predicted := prediction.logits.shape[-1]) < size:
                raise ValueError(f"predictions of {predicted} tokens, and the tokenizer has {size}")
        _try_half_evaluation(training, model, size, tried)
    sentence = f"{flag}: the configuration of {value} cannot be saved and loaded again"
    with reported(sentence, "; give other settings or another model"), TemporaryDirectory() as directory:
        model.config.save_pretrained(directory)
        type(model.config).from_pretrained(directory)


def _try_half_evaluation(training: RunArguments, model: PreTrainedModel, size: int, length: int) -> None:
    """Raise an `InputError` if the model, converted to half precision for evaluations, does not compute."""
    asked = {"bf16": (training.bf16_full_eval, torch.bfloat16), "fp16": (training.fp16_full_eval, torch.float16)}
    for precision, (is_asked, dtype) in asked.items():
        sentence = f"--{precision}_full_eval: {kind_of(model)} cannot evaluate in half precision; a trial failed"
        if is_asked and training.do_eval:
            with reported(sentence, "; drop the flag"), unchanged(model), torch.no_grad():
                converted = copy.deepcopy(model).eval()
                converted.to(dtype=dtype)  # type: ignore[call-arg]
                _predict(converted, size, length)


def _set_unused_parameters(training: RunArguments, model: PreTrainedModel) -> None:
    """Tell DDP that every weight has a gradient, so that it need not look for others in each step, and warn of it.

    With LayerDrop (Flaubert), steps differ.
    """
    all_used = all(weight.grad is not None for weight in model.parameters() if weight.requires_grad)
    if training.ddp_find_unused_parameters is None and all_used and not getattr(model.config, "layerdrop", 0):
        training.ddp_find_unused_parameters = False


def _predict(model: PreTrainedModel, size: int, length: int) -> Prediction:
    """Send two sequences with one label each through a model. The second one has padding, and the largest id."""
    ids = some_ids(model, 2, length)
    ids[1, 0] = size - 1
    mask, labels = torch.ones_like(ids), torch.full_like(ids, IGNORED)
    mask[1, length // 2 :] = 0
    labels[:, 0] = ids[:, 0]
    return Forward.of(model)(model, {"input_ids": ids, "attention_mask": mask, "labels": labels})
