"""The mask of padding that nothing looks at: the loss and the gradients that `attention_mask` gives."""

from __future__ import annotations

import pytest
import torch
from test_sparse_prediction import gradients, tiny
from transformers import AutoModelForMaskedLM, BertConfig

from conftest import SMALL
from wordmask.models.forward import Forward
from wordmask.models.padding_mask import PaddingMask, padding_mask
from wordmask.models.probing import Unfit

WINDOWS = {"local_attention": 8, "num_hidden_layers": 3, "global_attn_every_n_layers": 3}


def padded(*lengths: int) -> dict[str, torch.Tensor]:
    ids = torch.arange(len(lengths) * max(lengths)).reshape(len(lengths), -1) % 80 + 5
    attended = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
    labels = torch.where(attended & (ids % 3 == 1), ids, -100)
    return {"input_ids": ids * attended, "attention_mask": attended.long(), "labels": labels}


@pytest.mark.parametrize("lengths", [(30, 12, 7), (30, 30)])
@pytest.mark.parametrize(
    "model_type, settings, implementation",
    [("bert", {}, "sdpa"), ("bert", {}, "eager"), ("roberta", {}, "sdpa"), ("modernbert", WINDOWS, "sdpa")],
)
def test_loss_and_gradients_are_those_of_the_attention_mask(model_type, settings, implementation, lengths):
    model, batch = tiny(model_type, **settings), padded(*lengths)
    model.set_attn_implementation(implementation)
    mask = padding_mask(model)
    assert isinstance(mask, PaddingMask)
    found = []
    for forward, more in ((Forward(), {}), (Forward(padding=mask), {"is_padded": len({*lengths}) > 1})):
        model.zero_grad()
        prediction = forward(model, {**batch, **more})
        prediction.loss.backward()
        found.append((prediction.loss.item(), {name: part.clone() for name, part in gradients(model).items()}))
    (loss, expected), (same_loss, same) = found
    assert same_loss == pytest.approx(loss, abs=1e-12) and same.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(same[name], gradient, rtol=0, atol=1e-10)


def test_a_mask_that_hides_nothing_is_noticed(monkeypatch):
    """Guards the check."""
    assert isinstance(padding_mask(tiny("bert")), PaddingMask)
    no_padding = lambda self, mask: {"attention_mask": torch.ones_like(mask)}  # noqa: E731
    monkeypatch.setattr("wordmask.models.padding_mask.PaddingMask.inputs", no_padding)
    assert isinstance(padding_mask(tiny("bert")), Unfit)


def test_a_model_that_needs_its_mask_where_nothing_is_padded_is_noticed():
    """Without one, this model sees no last token: a batch without padding would have other logits."""
    model = tiny("bert")
    forward = model.forward

    def without_the_last(input_ids, attention_mask=None, **others):
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
            attention_mask[:, -1] = 0
        return forward(input_ids=input_ids, attention_mask=attention_mask, **others)

    model.forward = without_the_last
    assert isinstance(padding_mask(model), Unfit)


def test_a_batch_without_padding_gets_no_mask():
    model = AutoModelForMaskedLM.from_config(BertConfig(vocab_size=50, **SMALL))
    assert padding_mask(model).inputs(torch.ones(2, 8), is_padded=False) == {"attention_mask": None}
