"""How a batch goes through a model: what the model gets, and which loss and logits come out."""

from __future__ import annotations

import pytest
import torch
from test_sparse_prediction import WORDS, batch, tiny, with_forward
from torch import nn
from transformers.modeling_outputs import MaskedLMOutput

from wordmask.models.forward import Forward
from wordmask.models.loss_head import LossHead, find_loss_head
from wordmask.models.sparse_prediction import find_sparse_prediction


@pytest.mark.parametrize("takes_mask", [True, False])
def test_a_model_gets_nothing_that_it_does_not_know(takes_mask):
    """What a batch says of itself is for the forward pass, and some models take no mask."""

    def forward(self, input_ids, attention_mask=None, labels=None):
        assert attention_mask is not None
        return type(tiny("bert")).forward(self, input_ids, attention_mask, labels=labels)

    def without_mask(self, input_ids, labels=None):
        return type(tiny("bert")).forward(self, input_ids, labels=labels)

    model, (inputs, positions) = with_forward(forward if takes_mask else without_mask), batch()
    ids = inputs["input_ids"]
    given = {**inputs, "attention_mask": torch.ones_like(ids), "sequence_ids": torch.ones_like(ids)}
    given |= {"positions": positions, "is_padded": torch.tensor(False)}
    assert Forward.of(model)(model, given).loss == tiny("bert")(**inputs).loss


@pytest.mark.parametrize("sparse", [False, True])
def test_a_batch_without_labels_has_a_loss_of_0_and_stays_as_it_is(sparse):
    model, (inputs, _) = tiny("bert"), batch()
    inputs["labels"].fill_(-100)
    prediction = Forward(find_sparse_prediction(model) if sparse else None)(model, inputs)
    prediction.loss.backward()
    assert prediction.loss == 0 and inputs["labels"].eq(-100).all()
    assert not any(weight.grad.any() for weight in model.parameters() if weight.grad is not None)


@pytest.mark.parametrize("training", [True, False])
def test_labels_are_smoothed_in_training_alone(training):
    """By a share of 0.2 over all words: so runs with different smoothing can be compared."""
    model, (inputs, _) = tiny("bert").train(training), batch()
    logits, labels = model(input_ids=inputs["input_ids"]).logits.view(-1, WORDS), inputs["labels"].view(-1)
    share = 0.2 if training else 0.0
    expected = nn.functional.cross_entropy(logits, labels, label_smoothing=share)
    forward = Forward.of(model, label_smoothing=0.2, half=True)
    assert forward.head is None
    assert forward(model, inputs).loss.item() == pytest.approx(expected.item(), abs=1e-6)


def test_a_head_that_is_given_is_the_one_that_computes_the_loss():
    model = tiny("bert")
    head = find_loss_head(model)
    assert isinstance(head, LossHead) and Forward.of(model, half=True, head=head).head is head


@pytest.mark.parametrize("in_head", [False, True])
def test_a_model_may_give_a_tuple_with_hidden_states(in_head):
    """As a configuration with `return_dict` and `output_hidden_states` says."""
    whole, model, (inputs, _) = tiny("bert"), tiny("bert"), batch()
    head = find_loss_head(model) if in_head else None
    model.config.return_dict, model.config.output_hidden_states = False, True
    expected, found = whole(**inputs), Forward(head=head)(model, inputs)
    assert isinstance(expected, MaskedLMOutput) and isinstance(found.outputs, tuple)
    torch.testing.assert_close(found.logits, expected.logits)
    assert found.loss.item() == pytest.approx(expected.loss.item(), abs=1e-6)
