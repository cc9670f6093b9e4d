"""A training step on a card never waits for it, outside of logs."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForMaskedLM, TrainerCallback

import run_mlm_wwm
from conftest import sample_tokenizer, save_model, uneven_text
from wordmask.config.run_arguments import RunArguments
from wordmask.models import loss_head
from wordmask.training.trainer.mlm_trainer import MlmTrainer

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")]
MODERNBERT = {"hidden_size": 64, "num_attention_heads": 2, "local_attention": 16, "num_hidden_layers": 3}


class RefuseWaits(TrainerCallback):
    """Makes an error of each wait in the steps 3 and 4."""

    steps = 0

    def on_step_end(self, args, state, control, **kwargs):
        torch.cuda.set_sync_debug_mode("error" if state.global_step in (2, 3) else "default")
        self.steps += state.global_step in (3, 4)


@pytest.mark.parametrize(
    "model_type, more",
    [
        ("modernbert", ""),
        ("modernbert", "--pack_sequences --pad_to_max_length --gradient_accumulation_steps 2"),
        ("bert", "--pack_sequences"),
        ("bert", ""),
        ("bert", "--torch_compile --pad_to_max_length"),
        ("bert", "--tokens_per_pass 64 --attn_implementation eager"),
        ("bert", "--length_schedule 30:0.5,60:0.5 --pack_sequences"),
        ("bert", "--optim muon"),
        pytest.param(
            *("bert", "--chunked_head --per_device_train_batch_size 16"),
            marks=pytest.mark.skipif(not hasattr(torch.nn, "LinearCrossEntropyOptions"), reason="needs torch 2.13"),
        ),
    ],
)
def test_a_step_waits_for_nothing(tmp_path, monkeypatch, model_type, more):
    callback, make, chunks = RefuseWaits(), MlmTrainer.__init__, []
    chunked_loss = loss_head.chunked_loss
    monkeypatch.setattr(loss_head, "chunked_loss", lambda *given: chunks.append(1) or chunked_loss(*given))

    def with_callback(self, *args, **kwargs):
        make(self, *args, **kwargs)
        self.add_callback(callback)

    monkeypatch.setattr(MlmTrainer, "__init__", with_callback)
    model = save_model(
        tmp_path / "model", sample_tokenizer("bert"), model_type, **(MODERNBERT if model_type == "modernbert" else {})
    )
    text = uneven_text(tmp_path, 90)
    try:
        run_mlm_wwm.main(
            f"--model_name_or_path {model} --train_file {text} --output_dir {tmp_path / 'out'} --max_steps 6 --bf16 "
            "--logging_steps 6 --do_train --save_strategy no --per_device_train_batch_size 4".split()
            + ([] if "--length_schedule" in more else ["--max_seq_length", "60"])
            + more.split()
        )
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert callback.steps == 2
    assert bool(chunks) == ("--chunked_head" in more)


@pytest.mark.parametrize("model_type, settings", [("bert", {}), ("modernbert", MODERNBERT)])
def test_a_step_of_a_program_of_your_own_waits_for_nothing(tmp_path, model_type, settings):
    callback, tokenizer = RefuseWaits(), sample_tokenizer("bert")
    model = save_model(tmp_path / "model", tokenizer, model_type, **settings)
    ids = [tokenizer("walk " * 70)["input_ids"][: 40 + number] for number in range(24)]
    args = RunArguments(
        str(tmp_path), max_steps=6, logging_steps=6, per_device_train_batch_size=4, bf16=True, save_strategy="no"
    )
    loaded, dataset = AutoModelForMaskedLM.from_pretrained(model), Dataset.from_dict({"input_ids": ids})
    try:
        MlmTrainer(loaded, args, dataset, processing_class=tokenizer, callbacks=[callback]).train()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert callback.steps == 2


def test_a_wait_is_an_error_there():
    """Guards the test above."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        with pytest.raises(RuntimeError, match="synchroniz"):
            torch.ones(1, device="cuda").item()
    finally:
        torch.cuda.set_sync_debug_mode("default")
