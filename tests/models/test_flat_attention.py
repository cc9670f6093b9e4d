"""Flat batches, whose documents are kept apart by their bounds: the numbers of masks, and of each document alone."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from test_packed_attention import NO_DROPOUT
from test_sparse_prediction import gradients, tiny
from transformers import CONFIG_MAPPING, AttentionInterface, AttentionMaskInterface, AutoModelForMaskedLM
from transformers.masking_utils import sdpa_mask

import run_mlm_wwm
import varlen_kernel
from conftest import refusal, sample_tokenizer, save_model, slow_after, training_steps, uneven_text
from varlen_kernel import kernel  # noqa: F401  # a fixture
from wordmask.data.collator import flatten
from wordmask.models import varlen_attention
from wordmask.models.compilation import compile_layers
from wordmask.models.forward import Forward
from wordmask.models.packed_attention import FlatAttention, flat_attention
from wordmask.models.probing import Unfit
from wordmask.models.sparse_prediction import find_sparse_prediction
from wordmask.models.varlen_attention import AttentionDropoutError, by_document

FLAT = ("bert", "roberta", "xlm-roberta", "camembert", "electra", "albert", "distilbert", "ernie", "modernbert")
WINDOWS = {"local_attention": 8, "num_hidden_layers": 3, "global_attn_every_n_layers": 3}
SIZES = (9, 4, 13, 3)  # of documents: two in a sequence of 14, with padding, and two in another


def with_varlen(model_type: str, **settings) -> torch.nn.Module:
    model = tiny(model_type, **settings)
    model.set_attn_implementation("varlen")
    return model


def flat_batch(sizes=SIZES, seed: int = 2) -> tuple[dict, list[dict]]:
    """A flat batch of two sequences of two documents each, and these documents by themselves."""
    generator = torch.Generator().manual_seed(seed)
    documents = [torch.randint(5, 90, (size,), generator=generator) for size in sizes]
    labels = [torch.where(torch.rand(len(ids), generator=generator) < 0.4, ids, -100) for ids in documents]
    length = max(sizes[0] + sizes[1], sizes[2] + sizes[3]) + 1
    batch = {name: np.full((2, length), fill) for name, fill in (("input_ids", 0), ("labels", -100))}
    batch["attention_mask"] = np.zeros((2, length), np.int64)
    for sequence in range(2):
        pair = slice(2 * sequence, 2 * sequence + 2)
        for name, values in (("input_ids", documents[pair]), ("labels", labels[pair])):
            whole = torch.cat(values).numpy()
            batch[name][sequence, : len(whole)] = whole
        batch["attention_mask"][sequence, : len(whole)] = 1
    arrays, bounds = flatten(batch, np.array(sizes), length, None)
    alone = [{"input_ids": i[None], "labels": a[None]} for i, a in zip(documents, labels, strict=True)]
    return {name: torch.from_numpy(array) for name, array in arrays.items()} | bounds, alone


def assert_as_alone(model, batch: dict, alone: list[dict], tolerance: float = 1e-10) -> None:
    """The loss and the gradients of a flat batch are those of its documents, weighted by their labels."""
    attention = flat_attention(model)
    assert isinstance(attention, FlatAttention)
    model.zero_grad()
    for sparse in (None, find_sparse_prediction(model)):
        prediction = Forward(sparse, attention)(model, batch)
        prediction.loss.backward()
        found = {name: gradient.clone() for name, gradient in gradients(model).items()}
        model.zero_grad()
        count = int((batch["labels"] != -100).sum())
        total = torch.zeros((), dtype=torch.float64)
        for one in alone:
            if labelled := int((one["labels"] != -100).sum()):
                total = total + model(**one).loss * labelled / count
        total.backward()
        expected = gradients(model)
        assert prediction.loss.item() == pytest.approx(total.item(), abs=1e-6)
        assert found.keys() == expected.keys() and any(gradient.abs().max() > 1e-4 for gradient in found.values())
        for name, gradient in expected.items():
            # Some heads compute their loss in single precision.
            exact = prediction.loss.dtype == torch.float64
            torch.testing.assert_close(found[name], gradient, rtol=0, atol=tolerance if exact else 1e-6)
        model.zero_grad()


@pytest.mark.parametrize("model_type", FLAT)
def test_a_flat_batch_has_the_loss_and_gradients_of_its_documents_alone(model_type):
    assert_as_alone(with_varlen(model_type), *flat_batch())


def test_documents_longer_than_a_sliding_window_see_what_they_see_alone():
    """ModernBERT with a window of 4 positions to each side: one token more or less would be noticed."""
    assert_as_alone(with_varlen("modernbert", **WINDOWS), *flat_batch((30, 4, 21, 9)))


def test_a_wrong_window_or_position_is_noticed(monkeypatch):
    """Guards the check that decides whether a model may use flat batches."""
    narrow = lambda *inputs: by_document(*inputs[:-1], inputs[-1] and (inputs[-1][0] - 1, inputs[-1][1]))  # noqa: E731
    with monkeypatch.context() as patch:
        patch.setattr(varlen_attention, "by_document", narrow)
        assert isinstance(flat_attention(with_varlen("modernbert", **WINDOWS)), Unfit)
        assert isinstance(flat_attention(with_varlen("bert")), FlatAttention)
    monkeypatch.setattr("wordmask.models.positions.first_position", lambda *table: 0)
    assert isinstance(flat_attention(with_varlen("roberta")), Unfit)


def test_a_model_that_counts_mask_tokens_is_found_out():
    """ESM scales embeddings by the share of mask tokens in a sequence, and a flat batch is one sequence."""
    settings = {"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    settings |= {"intermediate_size": 32, "max_position_embeddings": 70, "pad_token_id": 0, "mask_token_id": 4}
    settings |= {"attention_probs_dropout_prob": 0.0, "hidden_dropout_prob": 0.0}
    for drops, expected in ((False, FlatAttention), (True, Unfit)):
        torch.manual_seed(0)
        model = AutoModelForMaskedLM.from_config(CONFIG_MAPPING["esm"](**settings, token_dropout=drops)).double()
        model.set_attn_implementation("varlen")
        assert isinstance(flat_attention(model.eval()), expected)


@pytest.mark.parametrize("model_type", ["deberta-v2", "fnet", "mpnet"])
def test_architectures_that_pass_no_bounds_on_are_found_out(model_type):
    assert isinstance(flat_attention(with_varlen(model_type)), Exception)


def test_attention_dropout_is_found_before_training():
    model = with_varlen("modernbert", attention_dropout=0.1)
    assert isinstance(flat_attention(model), AttentionDropoutError)
    assert not model.training


def test_an_empty_document_changes_nothing():
    states = torch.randn(3, 5, 2, 4).unbind()
    plain = by_document(*states, torch.tensor([0, 3, 5]), 3)
    assert torch.equal(plain, by_document(*states, torch.tensor([0, 3, 3, 5, 5]), 3))


# Training


@pytest.fixture(scope="module")
def tokenizer():
    return sample_tokenizer("bert")


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> str:
    return uneven_text(tmp_path_factory.mktemp("text"), 90)


MODELS = {
    "bert": NO_DROPOUT,
    "roberta": NO_DROPOUT,
    "modernbert": {"hidden_size": 32, "embedding_dropout": 0.0, **WINDOWS},
}


def run(model: str, text: str, directory: Path, *more: str) -> tuple[float, list[dict[str, float]]]:
    """The evaluation loss of a training, and its steps."""
    metrics = run_mlm_wwm.main(
        f"--model_name_or_path {model} --train_file {text} --validation_file {text} --output_dir {directory} "
        "--max_steps 4 --logging_steps 1 --learning_rate 1e-2 --use_cpu --do_train --do_eval --save_strategy no "
        "--per_device_train_batch_size 4 --train_sampling_strategy random".split()  # by default, it differs
        + (["--max_seq_length", "60"] if "--length_schedule" not in more else [])
        + list(more)
    )
    return metrics["eval_loss"], training_steps(directory)


@pytest.mark.parametrize(
    "model_type, more",
    slow_after(
        1,
        [
            ("bert", "--pack_sequences"),
            ("roberta", "--pack_sequences --pad_to_max_length"),
            ("modernbert", "--pack_sequences --pad_to_max_length"),
            ("modernbert", ""),
        ],
    ),
)
def test_training_without_masks_is_training_with_them(tokenizer, text, tmp_path, model_type, more):
    model = save_model(tmp_path / "model", tokenizer, model_type, **MODELS[model_type])
    loss, steps = run(model, text, tmp_path / "masks", *more.split())
    flat_loss, flat_steps = run(model, text, tmp_path / "flat", *more.split(), "--attn_implementation", "varlen")
    assert flat_loss == pytest.approx(loss, rel=1e-4)
    for name in ("loss", "grad_norm"):
        assert [step[name] for step in flat_steps] == pytest.approx([step[name] for step in steps], rel=1e-4)


def test_nothing_of_a_batch_is_computed_on_padding(tokenizer, text, tmp_path, monkeypatch):
    """Lines that are not packed lose their padding, too; no step has masks or more tokens than its lines."""
    seen: list[tuple[int, int]] = []
    forward = Forward.__call__

    def recorded(self, model, batch):
        if "cu_seq_lens_q" in batch:
            seen.append((batch["input_ids"].numel(), int(batch["attention_mask"].sum())))
            assert batch["cu_seq_lens_q"].dtype == batch["cu_seq_lens_k"].dtype == torch.int32
            assert type(batch["max_length_q"]) is type(batch["max_length_k"]) is int
        return forward(self, model, batch)

    monkeypatch.setattr(Forward, "__call__", recorded)
    model = save_model(tmp_path / "model", tokenizer, **NO_DROPOUT)
    run(model, text, tmp_path / "out", "--attn_implementation", "varlen")
    assert len(seen) == 4 and all(tokens == real for tokens, real in seen)


def test_another_implementation_that_takes_bounds_gets_them(tokenizer, text, tmp_path, monkeypatch):
    """It stands for flash attention, which needs a package and a GPU."""
    AttentionInterface.register("own_kernel", varlen_attention.varlen_attention)
    AttentionMaskInterface.register("own_kernel", sdpa_mask)
    bounds, forward = [], Forward.__call__

    def recorded(self, model, batch):
        bounds.append("cu_seq_lens_q" in batch)
        return forward(self, model, batch)

    model = save_model(tmp_path / "model", tokenizer, **NO_DROPOUT)
    loss, steps = run(model, text, tmp_path / "masks", "--pack_sequences")
    monkeypatch.setattr(Forward, "__call__", recorded)
    flash_loss, flash_steps = run(
        model, text, tmp_path / "flash", "--pack_sequences", "--attn_implementation", "own_kernel"
    )
    assert bounds.count(True) == 4
    assert flash_loss == pytest.approx(loss, rel=1e-4)
    assert [step["loss"] for step in flash_steps] == pytest.approx([step["loss"] for step in steps], rel=1e-4)


def test_flags_and_models_that_exclude_it_get_masks_and_a_sentence(tokenizer, text, tmp_path, caplog, capsys):
    argv = f"--train_file {text} --max_steps 1 --use_cpu --attn_implementation varlen --max_seq_length 60".split()
    bert = save_model(tmp_path / "bert", tokenizer)
    plain = save_model(tmp_path / "plain", tokenizer, **NO_DROPOUT)
    for model, more, reason in (
        (bert, [], "the model has attention dropout"),
        (plain, ["--tokens_per_pass", "64"], "--tokens_per_pass divides batches by their lengths"),
    ):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            run_mlm_wwm.main([*argv, "--model_name_or_path", model, "--output_dir", f"{tmp_path / model}-out", *more])
        assert f"uses sdpa attention with masks instead of varlen: {reason}" in caplog.text
    deberta = save_model(tmp_path / "deberta", tokenizer, "deberta-v2")
    output = ["--output_dir", str(tmp_path / "out")]
    sentence = refusal(capsys, run_mlm_wwm.main, *argv, *output, "--model_name_or_path", deberta)
    assert sentence.startswith("--attn_implementation varlen: the attention of DebertaV2ForMaskedLM does not take")


def test_a_torch_without_it_is_refused_in_one_sentence(tokenizer, text, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("wordmask.config.attention_checks.is_varlen_available", lambda: False)
    model = save_model(tmp_path / "model", tokenizer)
    argv = f"--model_name_or_path {model} --train_file {text} --output_dir {tmp_path / 'out'} --use_cpu".split()
    sentence = refusal(capsys, run_mlm_wwm.main, *argv, "--attn_implementation", "varlen")
    assert sentence == "--attn_implementation varlen needs torch 2.11 or newer; give sdpa instead"
    assert not (tmp_path / "out").exists()


# The operation of PyTorch


def test_query_heads_that_share_keys_and_values_are_neighbours():
    """Of 4 query heads and 2 of keys, the first two share the first one, as in transformers' repeat_kv."""
    keys = torch.arange(2.0).reshape(1, 2, 1, 1).expand(1, 2, 3, 1)  # each head has its number
    assert varlen_attention._flat(keys, 4)[:, :, 0].tolist() == [[0, 0, 1, 1]] * 3


@pytest.mark.usefixtures("kernel")
def test_the_operation_of_pytorch_gets_what_our_loop_gets():
    assert_as_alone(with_varlen("modernbert", **WINDOWS), *flat_batch((30, 4, 21, 9)))


@pytest.mark.slow
@pytest.mark.usefixtures("kernel")
def test_attention_is_not_computed_again(monkeypatch):
    """Where less is kept for the backward pass. The budget of the process is given back."""
    calls = []
    monkeypatch.setattr(varlen_kernel, "by_document", lambda *given: calls.append(given) or by_document(*given))
    torch._dynamo.reset()
    model = with_varlen("modernbert", **WINDOWS).float().train()
    batch, _ = flat_batch((300, 40, 210, 90))
    attention = flat_attention(model)
    with torch._functorch.config.patch(activation_memory_budget=1.0):
        compile_layers(model, None, "aot_eager_decomp_partition", None, 0.8)
        calls.clear()
        loss = Forward(attention=attention)(model, batch).loss
        forward = len(calls)
        loss.backward()
    assert len(calls) == forward == WINDOWS["num_hidden_layers"]
    torch._dynamo.reset()


@pytest.mark.usefixtures("kernel")
def test_query_and_key_from_before_their_rotation_are_not_kept():
    """They lie in one tensor with the value, which the backward pass needs."""
    model = with_varlen("modernbert", **WINDOWS).train()
    batch, _ = flat_batch((30, 4, 21, 9))
    projected = batch["input_ids"].numel() * 3 * model.config.hidden_size
    assert model.config.intermediate_size * 2 != 3 * model.config.hidden_size, "else other tensors are as large"
    attention, sizes = flat_attention(model), []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        sizes.append(tensor.untyped_storage().nbytes() // tensor.element_size())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        Forward(attention=attention)(model, batch)
    assert sizes and projected not in sizes


@pytest.mark.slow
@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("model_type, stages", [("bert", ""), ("modernbert", "--length_schedule 32:0.5,64:0.5")])
def test_batches_with_other_numbers_of_documents_need_no_more_graphs(tokenizer, text, tmp_path, model_type, stages):
    """As in configs/gpu.yaml, in each stage; dynamo alone, without a compiler behind it."""
    model = save_model(tmp_path / "model", tokenizer, model_type, **MODELS[model_type])
    flags = f"--pack_sequences --pad_to_max_length --attn_implementation varlen {stages}".split()
    compiled = [*flags, "--torch_compile", "--torch_compile_backend", "eager"]
    counters, graphs = torch._dynamo.utils.counters, []
    for steps in (4, 12):
        torch._dynamo.reset()
        counters.clear()
        number = ["--max_steps", str(steps)]
        _, found = run(model, text, tmp_path / f"{steps}", *compiled, *number)
        graphs.append(counters["stats"]["unique_graphs"])
        assert not counters["graph_break"]
    _, plain = run(model, text, tmp_path / "plain", *flags, *number)
    assert 0 < graphs[0] == graphs[1]
    assert [step["loss"] for step in found] == pytest.approx([step["loss"] for step in plain], rel=1e-4)
