"""On a card: what is left out or packed changes losses and gradients by rounding only.

Against full attention and the full head. In float32, where TF32 is off, sums in another order differ by less than
1e-4 of the gradient. In bfloat16, whose steps are 2^-8 = 0.4 %, the bounds are those of two ways to compute the same.
"""

from __future__ import annotations

import contextlib
import copy

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForMaskedLM

from wordmask.models.forward import Forward
from wordmask.models.loss_head import LossHead, find_loss_head
from wordmask.models.packed_attention import packed_attention

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")]
SIZES = (40, 3, 21, 9)
IDS = 1000
MODELS = {
    "bert": {"attention_probs_dropout_prob": 0.0, "hidden_dropout_prob": 0.0},
    "roberta": {"attention_probs_dropout_prob": 0.0, "hidden_dropout_prob": 0.0, "max_position_embeddings": 100},
    "modernbert": {"local_attention": 16, "num_hidden_layers": 4, "global_attn_every_n_layers": 3},
}
SMALL = {"hidden_size": 128, "num_attention_heads": 2, "intermediate_size": 256, "vocab_size": IDS}
BOUNDS = {"float32": (1e-5, 1e-4), "bfloat16": (1e-2, 5e-2)}  # of the loss, and of the gradient


@pytest.fixture(autouse=True)
def exact_float32():
    """No TF32, whatever another test has left."""
    before = torch.backends.fp32_precision
    torch.backends.fp32_precision = "ieee"
    yield
    torch.backends.fp32_precision = before


def model_of(model_type: str) -> torch.nn.Module:
    torch.manual_seed(0)
    special = {f"{name}_token_id": 0 for name in ("bos", "eos", "cls", "sep")} | {"pad_token_id": 1}
    config = CONFIG_MAPPING[model_type](**{"num_hidden_layers": 2, **SMALL, **special, **MODELS[model_type]})
    return AutoModelForMaskedLM.from_config(config, attn_implementation="sdpa").cuda().train()


def documents() -> tuple[torch.Tensor, torch.Tensor]:
    """The ids and labels of all documents, one after the other."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(10, IDS, (1, sum(SIZES)), generator=generator)
    labels = torch.where(torch.rand(ids.shape, generator=generator) < 0.3, ids, -100)
    return ids.cuda(), labels.cuda()


def twins(model_type: str) -> tuple[torch.nn.Module, torch.nn.Module, dict[str, torch.Tensor]]:
    """Two models with the same weights, and a batch of all documents for both."""
    model = model_of(model_type)
    ids, labels = documents()
    return model, copy.deepcopy(model), {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def half(precision: str) -> contextlib.AbstractContextManager:
    return torch.autocast("cuda", torch.bfloat16, enabled=precision == "bfloat16")


def learnt(model: torch.nn.Module, loss: torch.Tensor) -> tuple[float, torch.Tensor]:
    """A loss, and its gradients as one vector."""
    loss.backward()
    gradients = [weight.grad.flatten() for weight in model.parameters() if weight.grad is not None]
    return float(loss.detach()), torch.cat(gradients).double()


def assert_close(found: tuple[float, torch.Tensor], expected: tuple[float, torch.Tensor], precision: str) -> None:
    of_loss, of_gradient = BOUNDS[precision]
    assert found[0] == pytest.approx(expected[0], rel=of_loss)
    assert float(expected[1].norm()) > 0
    assert float((found[1] - expected[1]).norm() / expected[1].norm()) < of_gradient


@pytest.mark.parametrize("precision", BOUNDS)
@pytest.mark.parametrize("model_type", MODELS)
def test_sparse_prediction_learns_what_the_full_head_learns(model_type, precision):
    full, model, batch = twins(model_type)
    forward = Forward.of(model, sparse=True)
    assert forward.sparse is not None
    with half(precision):
        expected = full(**batch).loss
        prediction = forward(model, batch)
    assert prediction.logits.shape[1] == int(batch["labels"].ne(-100).sum()), "only labelled positions"
    assert_close(learnt(model, prediction.loss), learnt(full, expected), precision)


@pytest.mark.skipif(not hasattr(torch.nn, "LinearCrossEntropyOptions"), reason="needs torch 2.13")
@pytest.mark.parametrize("precision", BOUNDS)
@pytest.mark.parametrize("model_type", MODELS)
def test_a_head_in_chunks_learns_what_the_whole_head_learns(model_type, precision):
    whole, model, batch = twins(model_type)
    head = find_loss_head(model, chunked=True)
    assert isinstance(head, LossHead)
    head.chunks_from = 0
    with half(precision):
        expected = Forward.of(whole, sparse=True)(whole, batch).loss
        found = Forward(Forward.of(model, sparse=True).sparse, head=head)(model, batch).loss
    assert_close(learnt(model, found), learnt(whole, expected), precision)


@pytest.mark.parametrize("precision", BOUNDS)
@pytest.mark.parametrize("model_type", MODELS)
def test_packed_documents_teach_what_they_teach_alone(model_type, precision):
    """With masks, which every card and precision takes; test_varlen.py has the kernels without."""
    apart = model_of(model_type)
    model = copy.deepcopy(apart)
    ids, labels = documents()
    sequence_ids = torch.arange(1, len(SIZES) + 1).repeat_interleave(torch.tensor(SIZES))[None].cuda()
    forward = Forward.of(model, sparse=True, attention=packed_attention(model))
    assert forward.attention is not None
    batch = {"input_ids": ids, "labels": labels, "attention_mask": torch.ones_like(ids)}
    with half(precision):
        total = torch.zeros((), device="cuda")
        for one, answer in zip(ids.split(SIZES, 1), labels.split(SIZES, 1), strict=True):
            if count := int(answer.ne(-100).sum()):
                total = total + apart(input_ids=one, labels=answer).loss.float() * count
        prediction = forward(model, batch | {"sequence_ids": sequence_ids})
    expected = total / labels.ne(-100).sum()
    assert_close(learnt(model, prediction.loss), learnt(apart, expected), precision)
