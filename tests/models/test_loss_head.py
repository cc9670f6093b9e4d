"""The loss that the last layer computes, whole or in chunks: the loss and the gradients of the model."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from test_sparse_prediction import WORDS, batch, gradients, tiny
from torch import nn

import run_mlm_wwm
from conftest import refusal, sample_tokenizer, save_model, slow_after, uneven_text
from wordmask.models import loss_head
from wordmask.models.forward import Forward
from wordmask.models.loss_head import LossHead, chunked_loss, find_loss_head, whole_loss
from wordmask.models.probing import named
from wordmask.models.sparse_prediction import find_sparse_prediction

CHUNKED = pytest.param(
    True, marks=pytest.mark.skipif(not hasattr(nn, "LinearCrossEntropyOptions"), reason="needs torch 2.13")
)
ENDS_LINEAR = (
    "bert",
    "roberta",
    "xlm-roberta",
    "electra",
    "albert",
    "distilbert",
    "modernbert",
    "deberta-v2",
    "mpnet",
)


@pytest.mark.parametrize("chunked", [False, CHUNKED])
@pytest.mark.parametrize("is_sparse", [False, True])
@pytest.mark.parametrize("model_type", slow_after(3, ENDS_LINEAR))
def test_loss_and_gradients_are_those_of_the_model(model_type, is_sparse, chunked, monkeypatch):
    """Some heads cast logits to float32 for the loss; without that, all is exact."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    whole, model = tiny(model_type).train(), tiny(model_type).train()
    inputs, _ = batch()
    head, logits = find_loss_head(model, chunked), []
    assert isinstance(head, LossHead) and model.training
    head.chunks_from = 0 if chunked else math.inf
    head.linear.register_forward_hook(lambda module, given, output: logits.append(output.shape))
    expected = Forward()(whole, inputs)
    found = Forward(find_sparse_prediction(model) if is_sparse else None, head=head)(model, inputs)
    assert logits[-1] == (), "the logits of the batch were computed"
    for prediction in (expected, found):
        prediction.loss.backward()
    assert found.loss.item() == pytest.approx(expected.loss.item(), abs=1e-12)
    wanted, given = gradients(whole), gradients(model)
    assert given.keys() == wanted.keys() and any(gradient.abs().max() > 1e-4 for gradient in wanted.values())
    for name, gradient in wanted.items():
        torch.testing.assert_close(given[name], gradient, rtol=0, atol=1e-12)


def test_evaluation_has_logits_and_the_same_loss():
    whole, model = tiny("bert"), tiny("bert")
    head, (inputs, _) = find_loss_head(model), batch()
    assert isinstance(head, LossHead)
    found = Forward(head=head)(model, inputs)
    assert found.logits.shape[-1] == WORDS
    assert found.loss == Forward()(whole, inputs).loss


@pytest.mark.skipif(not hasattr(nn, "LinearCrossEntropyOptions"), reason="needs torch 2.13")
def test_chunks_are_tried_and_then_used_where_they_save_memory(monkeypatch):
    head, chunked, used = find_loss_head(tiny("bert"), chunked=True), loss_head.chunked_loss, []
    assert isinstance(head, LossHead) and head.linear.in_features < head.linear.out_features
    monkeypatch.setattr(loss_head, "chunked_loss", lambda *given: used.append(len(given[0])) or chunked(*given))
    for positions in (head.linear.in_features - 1, head.linear.in_features):
        with head.at(torch.ones(1, positions, dtype=torch.long)):
            head.linear(torch.randn(1, positions, head.linear.in_features).double())
    assert used == [head.linear.in_features]
    monkeypatch.setattr(loss_head, "chunked_loss", lambda *given: whole_loss(*given) * 1.01)
    assert named(find_loss_head(tiny("bert"), chunked=True)) == "the numbers differ"


@pytest.mark.skipif(not hasattr(nn, "LinearCrossEntropyOptions"), reason="needs torch 2.13")
@pytest.mark.parametrize("dtype, is_half", [("float32", 0), ("float32", 1), ("bfloat16", 0), ("float16", 0)])
def test_chunks_are_found_right_in_every_precision(dtype, is_half):
    with torch.autocast("cpu", torch.bfloat16, enabled=bool(is_half)):
        assert isinstance(find_loss_head(tiny("bert").to(getattr(torch, dtype)), chunked=True), LossHead)


@pytest.mark.skipif(not hasattr(nn, "LinearCrossEntropyOptions"), reason="needs torch 2.13")
def test_a_small_vocabulary_is_not_divided():
    model = tiny("bert")
    model.set_output_embeddings(nn.Linear(WORDS, WORDS).double())
    model.cls.predictions.transform = nn.Linear(model.config.hidden_size, WORDS).double()
    head = find_loss_head(model, chunked=True)
    assert isinstance(head, LossHead) and head.chunks_from == math.inf


@pytest.mark.parametrize("is_training", [True, False])
def test_logits_in_half_precision_have_a_precise_loss(is_training):
    """The model's own loss rounds each log-probability to bfloat16."""
    own, model = (tiny("bert").float().bfloat16().train(is_training) for _ in range(2))
    for module in (*own.modules(), *model.modules()):
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    inputs, _ = batch()
    head = find_loss_head(model)
    assert isinstance(head, LossHead)
    expected = Forward()(own, inputs)
    logits = expected.logits.detach().reshape(-1, WORDS).double()
    precise = nn.functional.cross_entropy(logits, inputs["labels"].reshape(-1)).item()
    found = Forward(head=head)(model, inputs).loss
    assert found.dtype == torch.float32 and found.item() == pytest.approx(precise, rel=1e-5)
    assert expected.loss.item() != pytest.approx(precise, rel=1e-5), "the model is precise, so this shows nothing"


@pytest.mark.parametrize("rows", [17, 24])
def test_rows_that_a_gpu_gets_do_not_change_the_loss(rows, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    torch.manual_seed(0)
    linear, states, labels = nn.Linear(5, rows).double(), torch.randn(7, 5).double(), torch.arange(7)
    expected = nn.functional.cross_entropy(linear(states), labels)
    weights, given, layer = list(linear.parameters()), [], nn.functional.linear
    monkeypatch.setattr(nn.functional, "linear", lambda *inputs: given.append(len(inputs[1])) or layer(*inputs))
    wanted = torch.autograd.grad(expected, weights)
    found = whole_loss(states, linear.weight, linear.bias, labels)
    assert given == [24], "a multiple of 8"
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(torch.autograd.grad(found, weights), wanted, rtol=0, atol=1e-12)


def test_a_compiled_loss_has_one_graph_for_all_numbers_of_positions():
    torch._dynamo.reset()
    linear = nn.Linear(8, 30)
    head, graphs = LossHead(linear), []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    head.compile(backend)
    for positions in (5, 9, 2, 30):
        states, labels = torch.randn(1, positions, 8, requires_grad=True), torch.arange(positions)[None]
        with head.at(labels):
            found = linear(states)
        expected = nn.functional.cross_entropy(linear(states)[0], labels[0])
        torch.testing.assert_close(found, expected)
    assert len(graphs) == 1


@pytest.mark.parametrize("chunked", [False, CHUNKED])
def test_half_precision_rounds_the_loss_no_more_than_the_layer_does(chunked):
    torch.manual_seed(0)
    linear = nn.Linear(64, 3000)
    states, labels = torch.randn(600, 64), torch.randint(0, 3000, (600,))
    head = LossHead(linear)
    head.chunks_from = 0 if chunked else math.inf
    with torch.autocast("cpu", torch.bfloat16), head.at(labels):
        found = linear(states)
    expected = nn.functional.cross_entropy(linear(states), labels)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(expected.item(), rel=1e-3)


@pytest.mark.skipif(not hasattr(nn, "LinearCrossEntropyOptions"), reason="needs torch 2.13")
def test_chunks_are_computed_in_the_precision_of_autocast(monkeypatch):
    """As all other layers are, whose kernels are the fast ones."""
    types, function = [], nn.functional.linear_cross_entropy
    monkeypatch.setattr(
        nn.functional,
        "linear_cross_entropy",
        lambda *given, **more: types.append({given[0].dtype, given[1].dtype}) or function(*given, **more),
    )
    linear, states, labels = nn.Linear(8, 30), torch.randn(5, 8), torch.arange(5)
    chunked_loss(states, linear.weight, None, labels)
    with torch.autocast("cpu", torch.bfloat16):
        chunked_loss(states, linear.weight, None, labels)
    assert types == [{torch.float32}, {torch.bfloat16}]


def test_an_error_inside_leaves_the_layer_as_it_is_outside():
    linear = nn.Linear(8, 30)
    with pytest.raises(RuntimeError, match="too little memory"), LossHead(linear).at(torch.arange(5)):
        raise RuntimeError("too little memory")
    assert linear(torch.randn(5, 8)).shape == (5, 30)


def test_weights_that_are_frozen_or_not_used_are_no_reason_against_it():
    model = tiny("bert")
    model.bert.embeddings.requires_grad_(False)
    model.not_used = nn.Linear(2, 2).double()
    assert isinstance(find_loss_head(model), LossHead)


def test_a_head_with_another_loss_and_the_same_gradients_is_found_out():
    """Such as one that adds a constant."""
    model = tiny("bert")
    model.register_forward_hook(
        lambda module, given, output: replace(output, loss=None if output.loss is None else output.loss + 1)
    )
    assert str(find_loss_head(model)) == "the numbers differ"


def test_a_head_with_something_after_its_last_layer_is_found_out():
    model = tiny("bert")
    model.cls.register_forward_hook(lambda module, given, output: output * 2)
    found = find_loss_head(model)
    assert isinstance(found, Exception)
    model(input_ids=torch.tensor([[20, 30]]))  # has its own forward again


def test_a_head_with_the_same_loss_and_other_gradients_is_found_out():
    """Such as one that scales the gradient of its logits: the numbers of a forward pass alone do not show it."""
    model = tiny("bert")
    reversed_gradient = model.cls.register_forward_hook(
        lambda module, given, output: 2 * output.detach() - output if output.ndim else output
    )
    assert str(find_loss_head(model)) == "the numbers differ"
    reversed_gradient.remove()
    assert isinstance(find_loss_head(model), LossHead)


def test_it_is_refused_where_it_does_not_gain(tmp_path, capsys):
    model = save_model(tmp_path / "model", sample_tokenizer("bert"))
    argv = f"--model_name_or_path {model} --train_file {uneven_text(tmp_path, 9)} --use_cpu --chunked_head".split()
    sentence = refusal(capsys, run_mlm_wwm.main, *argv, "--output_dir", str(tmp_path / "out"))
    assert sentence == "--chunked_head is for a GPU, since it is many times slower on a CPU; drop the flag"
