"""Embeddings of added tokens, compared with means computed by hand."""

from __future__ import annotations

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForMaskedLM

from conftest import SMALL
from wordmask.models.token_embeddings import start_at_means
from wordmask.utils.errors import InputError

OWN = {
    "bert": {},
    "roberta": {},
    "modernbert": {"hidden_size": 32, "pad_token_id": 0},
    "distilbert": {"dim": 16, "hidden_dim": 32, "n_layers": 1, "n_heads": 2},
    "albert": {"embedding_size": 8},
    "electra": {"embedding_size": 8},
    "deberta-v2": {},
    "mpnet": {},
}


def model_of(model_type: str, **settings):
    """A model of 90 tokens whose head has a bias that is not zero, if it has one."""
    torch.manual_seed(0)
    given = {**SMALL, **OWN[model_type], **settings}
    model = AutoModelForMaskedLM.from_config(CONFIG_MAPPING[model_type](vocab_size=90, **given)).eval()
    bias = getattr(model.get_output_embeddings(), "bias", None)
    if bias is not None:
        torch.nn.init.normal_(bias)
    return model


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("model_type", OWN)
def test_new_tokens_are_the_means_of_their_pieces(model_type, tied):
    """The score of a new token is the mean of its pieces' scores; the scores of other tokens stay."""
    model, pieces = model_of(model_type, tie_word_embeddings=tied), {91: [12, 15, 15], 92: [20]}
    ids = torch.arange(10, 30)[None]
    before, inputs = model(ids).logits, model.get_input_embeddings().weight.detach().clone()
    model.resize_token_embeddings(93, mean_resizing=False)
    start_at_means(model, pieces)
    found = model.get_input_embeddings().weight
    assert torch.equal(found[:90], inputs)
    torch.testing.assert_close(found[91], (inputs[12] + inputs[15] + inputs[15]) / 3)
    assert torch.equal(found[92], inputs[20])
    after = model(ids).logits
    torch.testing.assert_close(after[..., :90], before)
    torch.testing.assert_close(after[..., 91], (before[..., 12] + 2 * before[..., 15]) / 3)
    torch.testing.assert_close(after[..., 92], before[..., 20])


def test_half_precision_sums_in_single_precision():
    model = model_of("bert").to(torch.bfloat16)
    expected = model.get_input_embeddings().weight[10:80].float().mean(0).to(torch.bfloat16)
    start_at_means(model, {89: range(10, 80)})
    assert torch.equal(model.get_input_embeddings().weight[89], expected)


def test_a_model_without_a_place_for_a_token_is_refused():
    with pytest.raises(InputError, match="--add_words: the embeddings of a BertForMaskedLM have no place"):
        start_at_means(model_of("bert"), {90: [1]})
