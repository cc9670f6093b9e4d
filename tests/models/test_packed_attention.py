"""Several lines in one row: every line once, nothing over the edge, and the numbers of the lines by themselves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_sparse_prediction import gradients, tiny

import run_mlm_wwm
from conftest import refusal, sample_tokenizer, save_model, slow_after, training_steps, uneven_text
from wordmask.models.packed_attention import PackedAttention, packed_attention
from wordmask.models.probing import Unfit
from wordmask.models.sparse_prediction import find_sparse_prediction

# The architectures whose layers take a mask for each pair of positions, with the attention that they offer.
PACKABLE = [
    (model_type, attention)
    for model_type in ("bert", "roberta", "xlm-roberta", "camembert", "electra", "albert", "distilbert", "ernie")
    for attention in ("sdpa", "eager")
] + [("modernbert", "sdpa"), ("modernbert", "eager"), ("mpnet", "eager"), ("roformer", "eager")]
UNFIT = ["deberta-v2", "convbert", "fnet", "nystromformer"]  # no such mask, or layers that mix neighbours without one


# Attention


def packed_and_apart(model, attention: PackedAttention, sizes=(9, 4, 13)):
    """The summed loss of three lines, in a row with padding and each by itself, and the gradients of both."""
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(5, 90, (1, sum(sizes)), generator=generator)
    labels = torch.where(torch.rand(ids.shape, generator=generator) < 0.4, ids, -100)
    padding = 5
    row = torch.nn.functional.pad(ids, (0, padding), value=0)
    lines = torch.repeat_interleave(torch.tensor([1, 2, 3, 0]), torch.tensor([*sizes, padding]))[None]
    packed = model(
        input_ids=row, labels=torch.nn.functional.pad(labels, (0, padding), value=-100), **attention.inputs(lines)
    )
    packed.loss.backward()
    found = gradients(model)
    model.zero_grad()
    count = int((labels != -100).sum())
    logits, total = [], torch.zeros((), dtype=torch.float64)
    for line, answer in zip(ids.split(sizes, 1), labels.split(sizes, 1), strict=True):
        output = model(input_ids=line, labels=answer)
        logits.append(output.logits)
        total = total + output.loss * (answer != -100).sum() / count
    total.backward()
    expected = gradients(model)
    return (packed.loss, packed.logits[:, : sum(sizes)], found), (total, torch.cat(logits, 1), expected)


@pytest.mark.parametrize("model_type, implementation", slow_after(8, PACKABLE), ids=lambda value: value)
def test_a_row_gives_the_numbers_of_its_lines_by_themselves(model_type, implementation):
    model = tiny(model_type)
    model.set_attn_implementation(implementation)
    attention = packed_attention(model)
    assert isinstance(attention, PackedAttention)
    (loss, logits, found), (total, apart, expected) = packed_and_apart(model, attention)
    # Some heads compute their loss in single precision, and eager ModernBERT its attention.
    exact = loss.dtype == torch.float64 and (model_type, implementation) != ("modernbert", "eager")
    tolerance = 1e-10 if exact else 1e-6
    torch.testing.assert_close(logits, apart, rtol=0, atol=tolerance)
    assert loss.item() == pytest.approx(total.item(), abs=1e-6)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=tolerance)


def test_a_line_longer_than_a_sliding_window_sees_what_it_sees_by_itself():
    """ModernBERT with a window of 4 positions to each side: a mask of whole lines would show its layers too much."""
    torch.manual_seed(0)
    model = tiny("modernbert", local_attention=8, num_hidden_layers=3, global_attn_every_n_layers=3)
    attention = packed_attention(model)
    assert isinstance(attention, PackedAttention)
    (_, logits, _), (_, apart, _) = packed_and_apart(model, attention, sizes=(30, 4, 21))
    torch.testing.assert_close(logits, apart, rtol=0, atol=1e-10)


@pytest.mark.parametrize("model_type", UNFIT)
def test_architectures_that_cannot_keep_lines_apart_are_found_out(model_type):
    assert isinstance(packed_attention(tiny(model_type)), Exception)


def test_positions_restart_with_each_line_where_the_model_begins_to_count():
    lines = torch.tensor([[1, 1, 1, 2, 2, 0, 0], [1, 2, 3, 3, 3, 3, 3]])
    for model_type, first in (("bert", 0), ("roberta", 1)):
        attention = packed_attention(tiny(model_type))
        positions = attention.inputs(lines)["position_ids"] - first
        assert positions.tolist() == [[0, 1, 2, 0, 1, 0, 1], [0, 0, 0, 1, 2, 3, 4]]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_wrong_position_or_a_leak_is_noticed(monkeypatch, dtype):
    """Guards the check: it must not pass where positions begin elsewhere, or where lines see each other."""
    # With weights as small as those of a new model, a leak is smaller than the rounding of bfloat16.
    models = {name: tiny(name, initializer_range=0.5).to(dtype) for name in ("roberta", "bert")}
    assert all(isinstance(packed_attention(model), PackedAttention) for model in models.values())
    with monkeypatch.context() as patch:
        patch.setattr("wordmask.models.positions.first_position", lambda *table: 0)
        assert isinstance(packed_attention(models["roberta"]), Unfit)
    with monkeypatch.context() as patch:
        mask_function = "wordmask.models.packed_attention.packed_sequence_mask_function"
        patch.setattr(mask_function, lambda lines: lambda batch, head, query, key: key >= 0)
        assert isinstance(packed_attention(models["bert"]), Unfit)


def test_a_wrong_position_in_a_later_document_is_noticed(monkeypatch):
    """The first one alone has right numbers wherever positions go on from document to document."""
    model, inputs = tiny("bert"), PackedAttention.inputs

    def going_on(self, sequence_ids):
        return {**inputs(self, sequence_ids), "position_ids": torch.arange(sequence_ids.shape[1])[None]}

    assert isinstance(packed_attention(model), PackedAttention)
    monkeypatch.setattr(PackedAttention, "inputs", going_on)
    assert isinstance(packed_attention(model), Unfit)


# Training


@pytest.fixture(scope="module")
def tokenizer():
    return sample_tokenizer("bert")


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> str:
    return uneven_text(tmp_path_factory.mktemp("text"), 90)


def run(model: str, text: str, directory: Path, *more: str) -> tuple[dict[str, float], list[dict[str, float]]]:
    """The metrics of a packed run, and its steps."""
    metrics = run_mlm_wwm.main(
        f"--model_name_or_path {model} --train_file {text} --validation_file {text} --output_dir {directory} "
        "--max_steps 4 --logging_steps 1 --learning_rate 1e-2 --pack_sequences --max_seq_length 60 --use_cpu "
        "--save_strategy no --per_device_train_batch_size 4 --do_train --do_eval".split()
        + list(more)
    )
    return metrics, training_steps(directory)


NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


@pytest.mark.parametrize(
    "model_type, settings",
    slow_after(
        1,
        [("modernbert", {"hidden_size": 32, "embedding_dropout": 0.0}), ("bert", NO_DROPOUT), ("roberta", NO_DROPOUT)],
    ),
)
def test_packed_training_is_the_same_however_a_step_is_divided(tokenizer, text, tmp_path, model_type, settings):
    model = save_model(tmp_path / "model", tokenizer, model_type, **settings)
    metrics, whole = run(model, text, tmp_path / "whole")
    assert metrics["train_samples"] == metrics["eval_samples"] == 90
    _, divided = run(
        model, text, tmp_path / "divided", "--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "2"
    )
    _, full_head = run(model, text, tmp_path / "full", "--no_sparse_prediction")
    for name in ("loss", "grad_norm"):
        expected = [step[name] for step in whole]
        assert len(set(expected)) == 4
        assert [step[name] for step in divided] == pytest.approx(expected, rel=1e-4)
        assert [step[name] for step in full_head] == pytest.approx(expected, rel=1e-4)


def test_evaluation_does_not_depend_on_packing(tokenizer, text, tmp_path):
    model = save_model(tmp_path / "model", tokenizer)
    argv = f"--model_name_or_path {model} --validation_file {text} --do_eval --use_cpu --max_seq_length 60".split()
    apart = run_mlm_wwm.main([*argv, "--output_dir", str(tmp_path / "apart")])
    packed = run_mlm_wwm.main([*argv, "--output_dir", str(tmp_path / "packed"), "--pack_sequences"])
    assert packed["eval_loss"] == apart["eval_loss"]


def test_packed_rows_can_be_looked_at(tokenizer, text, tmp_path, capsys):
    model = save_model(tmp_path / "model", tokenizer)
    run_mlm_wwm.main(
        f"--model_name_or_path {model} --train_file {text} --pack_sequences --preview_masking 1 --max_seq_length 60 "
        f"--output_dir {tmp_path / 'out'} --use_cpu".split()
    )
    shown = capsys.readouterr().out.splitlines()[1]
    assert shown.count("CLS") == shown.count("SEP") > 1


def test_mistakes_are_refused_in_one_sentence(tokenizer, text, tmp_path, capsys):
    bert = save_model(tmp_path / "bert", tokenizer)
    deberta = save_model(tmp_path / "deberta", tokenizer, "deberta-v2")
    argv = f"--train_file {text} --output_dir {tmp_path / 'out'} --use_cpu --pack_sequences".split()
    sentence = refusal(capsys, run_mlm_wwm.main, *argv, "--model_name_or_path", deberta)
    assert sentence.startswith("--pack_sequences: DebertaV2ForMaskedLM with eager attention cannot keep")
    sentence = refusal(capsys, run_mlm_wwm.main, *argv, "--model_name_or_path", bert, "--no_line_by_line")
    assert sentence.startswith("--pack_sequences packs lines")


def test_packing_and_sparse_prediction_go_together():
    model = tiny("bert")
    attention, sparse = packed_attention(model), find_sparse_prediction(model)
    lines = torch.tensor([[1] * 5 + [2] * 6])
    ids = torch.arange(11)[None] + 10
    labels = torch.where(torch.arange(11) % 4 == 1, ids, -100)
    positions = (labels[0] != -100).nonzero()[:, 0]
    inputs = {"input_ids": ids, **attention.inputs(lines)}
    whole = model(**inputs, labels=labels)
    with sparse.at(positions):
        part = model(**inputs, labels=labels[:, positions])
    assert part.loss.item() == pytest.approx(whole.loss.item(), abs=1e-12)
