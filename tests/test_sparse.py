"""Sparse prediction gives the loss and the gradients of the full head, whatever the architecture."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForMaskedLM

from conftest import SMALL
from wordmask.sparse import sparse_prediction

ARCHITECTURES = {
    "bert": {},
    "roberta": {},
    "xlm-roberta": {},
    "camembert": {},
    "electra": {"embedding_size": 16},
    "albert": {"embedding_size": 16, "num_attention_heads": 2},
    "distilbert": {"dim": 16, "n_heads": 2, "n_layers": 1, "hidden_dim": 32},
    "deberta": {},
    "deberta-v2": {},
    "mpnet": {},
    "modernbert": {"hidden_size": 32},
    "roformer": {"embedding_size": 16},
    "ernie": {},
    "convbert": {"embedding_size": 16},
    "megatron-bert": {},
    "nystromformer": {},
    "fnet": {},
}
ROWS, LENGTH, WORDS = 3, 12, 90


def tiny(model_type: str, **settings) -> torch.nn.Module:
    """A tiny model in double precision, without dropout."""
    torch.manual_seed(0)
    config = CONFIG_MAPPING[model_type](vocab_size=WORDS, **{**SMALL, **ARCHITECTURES[model_type], **settings})
    config.pad_token_id = 0
    model = AutoModelForMaskedLM.from_config(config).double()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model.eval()


def batch() -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Inputs of which some positions have a label, and those positions."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, WORDS, (ROWS, LENGTH), generator=generator)
    labels = torch.where(torch.rand(ids.shape, generator=generator) < 0.2, ids, -100)
    return {"input_ids": ids, "labels": labels}, labels.ne(-100).view(-1).nonzero()[:, 0]


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_loss_and_all_gradients_are_those_of_the_full_head(model_type):
    full, model = tiny(model_type), tiny(model_type)
    inputs, positions = batch()
    sparse = sparse_prediction(model)
    assert sparse is not None
    expected = full(**inputs)
    expected.loss.backward()
    with sparse.at(positions):
        found = model(**{**inputs, "labels": inputs["labels"].view(-1)[positions][None]})
    found.loss.backward()
    assert 0 < len(positions) < ROWS * LENGTH and found.logits.shape == (1, len(positions), WORDS)
    assert found.loss.item() == pytest.approx(expected.loss.item(), abs=1e-6)
    wanted, given = gradients(full), gradients(model)
    assert given.keys() == wanted.keys() and any(gradient.abs().max() > 1e-4 for gradient in wanted.values())
    tolerance = 1e-10 if found.loss.dtype == torch.float64 else 1e-6
    for name, gradient in wanted.items():
        torch.testing.assert_close(given[name], gradient, rtol=0, atol=tolerance)


def test_what_is_saved_and_what_is_predicted_outside_carry_no_trace():
    model = tiny("bert")
    before, names = copy.deepcopy(model.state_dict()), set(vars(model.config))
    inputs, positions = batch()
    sparse = sparse_prediction(model)
    with sparse.at(positions):
        model(input_ids=inputs["input_ids"])
    assert model(input_ids=inputs["input_ids"]).logits.shape == (ROWS, LENGTH, WORDS)
    assert model.state_dict().keys() == before.keys() and set(vars(model.config)) == names


def test_a_model_that_cannot_take_it_falls_back_with_one_warning(caplog):
    class Pooled(type(tiny("bert"))):
        """A head that needs all positions."""

        def forward(self, input_ids=None, labels=None, **kwargs):
            output = super().forward(input_ids=input_ids, **kwargs)
            logits = output.logits + output.logits.mean(1, keepdim=True)
            loss = torch.nn.functional.cross_entropy(logits.view(-1, WORDS), labels.view(-1))
            return type(output)(loss=loss, logits=logits)

    model = tiny("bert")
    model.__class__ = Pooled
    with caplog.at_level(logging.WARNING):
        assert sparse_prediction(model) is None
    assert [record.name for record in caplog.records] == ["wordmask.sparse"]
    assert model(batch()[0]["input_ids"], batch()[0]["labels"]).logits.shape == (ROWS, LENGTH, WORDS)
