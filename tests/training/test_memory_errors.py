"""A run that is short of memory ends with one sentence, which names the flag that lowers it.

The encoder says for too large a batch what a GPU says. Nothing else is made up.
"""

from __future__ import annotations

import functools

import pytest
import torch
from transformers import AutoModelForMaskedLM
from transformers.models.bert.modeling_bert import BertModel

import run_mlm_wwm
from conftest import refusal
from wordmask.models.probing import why_not
from wordmask.training.memory_errors import lacks_memory
from wordmask.utils.errors import InputError


@pytest.fixture
def room(monkeypatch):
    """A function that says how many sequences fit, in training and in evaluation."""
    forward, most = BertModel.forward, {True: 1000, False: 1000}

    @functools.wraps(forward)
    def limited(self, input_ids=None, *more, **options):
        if len(input_ids) > most[self.training]:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return forward(self, input_ids, *more, **options)

    monkeypatch.setattr(BertModel, "forward", limited)
    return lambda training=1000, evaluation=1000: most.update({True: training, False: evaluation})


@pytest.fixture
def refused(capsys, english_model, english_file, tmp_path):
    def call(flags: str) -> str:
        argv = f"--model_name_or_path {english_model} --train_file {english_file} --output_dir {tmp_path / 'out'}"
        flags += " --use_cpu --max_seq_length 16 --overwrite_output_dir"
        return refusal(capsys, run_mlm_wwm.main, *argv.split(), *flags.split())

    return call


@pytest.mark.parametrize(
    "flags, sentence",
    [
        ("", "--per_device_train_batch_size 8: a step does not fit into "),
        ("", "; give 4 --gradient_accumulation_steps 2, which trains the same; --dry_run finds the largest that fits"),
        ("--gradient_accumulation_steps 3", "; give 4 --gradient_accumulation_steps 6, which trains the same; "),
        ("--per_device_train_batch_size 7", "; give 1 --gradient_accumulation_steps 7, which trains the same; "),
        ("--per_device_train_batch_size 9", "; give 3 --gradient_accumulation_steps 3, which trains the same; "),
        (
            "--per_device_train_batch_size 5 --gradient_accumulation_steps 4",
            "; give 2 --gradient_accumulation_steps 10, which trains the same; ",
        ),
        ("--tokens_per_pass 128", "--tokens_per_pass 128: a step does not fit into "),
        ("--tokens_per_pass 128", "; give 64, which trains the same"),
        ("--tokens_per_step 90", "--tokens_per_step 90: a step does not fit into "),
        ("--tokens_per_step 90", "; give --gradient_accumulation_steps 2, which trains the same"),
    ],
)
def test_a_step_that_is_too_large(room, refused, flags, sentence):
    room(training=3)
    assert sentence in refused(f"--do_train {flags}")


def test_a_single_sequence_that_is_too_large(room, refused, monkeypatch):
    sizes = []

    def fail(self, model, inputs, *more, **options):
        sizes.append(len(inputs["input_ids"]))
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr("wordmask.training.trainer.mlm_trainer.MlmTrainer.compute_loss", fail)
    assert "give a smaller --max_seq_length or model" in refused("--do_train --per_device_train_batch_size 1")
    found = refused("--do_train --per_device_train_batch_size 4 --auto_find_batch_size")
    assert "no smaller batch does" in found and sizes[0] == 1 and sizes[-1] == 1


@pytest.mark.parametrize(
    "when",
    [
        "--do_eval",
        "--do_train --eval_strategy steps --eval_steps 1 --no_eval_on_start",
        # A smaller batch of training does not help. The search would go on without the figures before training.
        "--do_train --eval_strategy epoch --auto_find_batch_size",
    ],
)
def test_an_evaluation_that_is_too_large(room, refused, when):
    room(evaluation=5)
    found = refused(f"{when} --validation_split_percentage 50")
    assert found.startswith("--per_device_eval_batch_size 8: the batches of an evaluation do not fit into ")
    assert found.endswith("; give 4")


def test_a_model_that_is_too_large(room, refused, english_model):
    room(training=1)
    found = refused("--do_train")
    assert found.startswith(f"--model_name_or_path: {english_model} and its text do not fit into ")


def test_other_errors_keep_their_traceback(room, english_model, english_file, tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise RuntimeError("a bug")

    monkeypatch.setattr("wordmask.training.trainer.mlm_trainer.MlmTrainer.compute_loss", fail)
    argv = f"--model_name_or_path {english_model} --train_file {english_file} --output_dir {tmp_path / 'out'}"
    with pytest.raises(RuntimeError, match="a bug"):
        run_mlm_wwm.main([*argv.split(), "--do_train", "--use_cpu"])
    assert not lacks_memory(RuntimeError("a bug"))


@pytest.mark.parametrize(
    "message",
    [
        "CUDA out of memory. Tried to allocate 2.00 GiB.",
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "Triton Error [CUDA]: out of memory",
        "NCCL error: unhandled cuda error. Last error:\nCuda failure 2 'out of memory'",
    ],
)
def test_all_messages_of_a_gpu_are_known(message):
    assert lacks_memory(RuntimeError(message))


def test_an_error_that_follows_from_too_little_memory_is_one():
    """As at the end of a CUDA graph's recording. What hides its reason has dealt with it."""
    for hides, expected in ((False, True), (True, False)):
        error = RuntimeError("operation failed due to a previous error during capture")
        error.__context__, error.__suppress_context__ = torch.OutOfMemoryError("CUDA out of memory"), hides
        assert lacks_memory(error) == expected


def test_a_sentence_that_quotes_a_text_is_none_of_them():
    assert not lacks_memory(InputError("--train_file: out of memory.txt does not exist; give another"))


def test_a_check_of_the_model_that_lacks_memory_says_nothing_about_the_model(english_model):
    model = AutoModelForMaskedLM.from_pretrained(english_model)

    def check() -> bool:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(torch.OutOfMemoryError):
        why_not(model, check)
