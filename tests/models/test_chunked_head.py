"""--chunked_head: the loss and the gradients of the whole head, without its logits."""

from __future__ import annotations

import pytest
import torch
from test_sparse_prediction import WORDS, batch, gradients, tiny
from torch import nn

import run_mlm_wwm
from conftest import refusal, save_model, train_tokenizer, uneven_text
from wordmask.models.chunked_head import ChunkedHead, find_chunked_head
from wordmask.models.forward import Forward
from wordmask.models.sparse_prediction import find_sparse_prediction

pytestmark = pytest.mark.skipif(not hasattr(nn, "LinearCrossEntropyOptions"), reason="needs torch 2.13")
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


@pytest.mark.parametrize("is_sparse", [False, True])
@pytest.mark.parametrize("model_type", ENDS_LINEAR)
def test_loss_and_gradients_are_those_of_the_whole_head(model_type, is_sparse, monkeypatch):
    """Some heads cast logits to float32 for the loss; without that, all is exact."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    whole, model = tiny(model_type).train(), tiny(model_type).train()
    inputs, _ = batch()
    head, logits = find_chunked_head(model), []
    assert isinstance(head, ChunkedHead) and model.training
    monkeypatch.setattr(ChunkedHead, "suits", lambda self, labels: True)
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


def test_evaluation_and_small_batches_have_logits():
    model = tiny("bert")
    head, (inputs, _) = find_chunked_head(model), batch()
    assert isinstance(head, ChunkedHead)
    assert Forward(head=head)(model, inputs).logits.shape[-1] == WORDS
    assert head.suits(torch.zeros(1, head.linear.in_features)) and not head.suits(torch.zeros(1, 1))


def test_half_precision_rounds_the_loss_no_more_than_the_whole_head_does():
    torch.manual_seed(0)
    linear = nn.Linear(64, 3000)
    states, labels = torch.randn(600, 64), torch.randint(0, 3000, (600,))
    head = ChunkedHead(linear)
    with torch.autocast("cpu", torch.bfloat16), head.at(labels):
        found = linear(states)
    expected = nn.functional.cross_entropy(linear(states), labels)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(expected.item(), rel=1e-3)


def test_a_head_with_something_after_its_last_layer_is_found_out():
    model = tiny("bert")
    model.cls.register_forward_hook(lambda module, given, output: output * 2)
    found = find_chunked_head(model)
    assert isinstance(found, str)
    model(input_ids=torch.tensor([[20, 30]]))  # has its own forward again


def test_it_is_refused_where_it_does_not_gain(tmp_path, capsys):
    model = save_model(tmp_path / "model", train_tokenizer("bert"))
    argv = f"--model_name_or_path {model} --train_file {uneven_text(tmp_path, 9)} --use_cpu --chunked_head".split()
    sentence = refusal(capsys, run_mlm_wwm.main, *argv, "--output_dir", str(tmp_path / "out"))
    assert sentence == "--chunked_head is for a GPU, since it is many times slower on a CPU; drop the flag"
