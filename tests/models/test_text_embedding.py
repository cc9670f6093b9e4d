"""Embeddings are the mean of the encoder's last hidden states, whatever else the model does."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

from conftest import sample_lines, sample_tokenizer
from models.test_types import QUICK, TRAINED
from training.trainer.test_fsdp import group, shard  # noqa: F401  # a fixture
from wordmask.config.arguments import ModelArguments
from wordmask.models.configuration import load_config, make_config
from wordmask.models.forward import Forward
from wordmask.models.text_embedding import Embedder, hook_hidden_states

TEXTS = ["", *sample_lines("english", 6)]
ALONE = SimpleNamespace(num_processes=1, process_index=0, reduce=lambda share, how: share)  # an accelerator


def by_hand(encoder, tokenizer, text: str, length: int, **padding) -> np.ndarray:
    """The embedding of one text, which is alone in its batch."""
    inputs = tokenizer(text, truncation=True, max_length=length, return_tensors="pt", **padding)
    with torch.no_grad():
        hidden = encoder(**{name: inputs[name] for name in ("input_ids", "attention_mask")})[0]
    return hidden[0, inputs["attention_mask"][0] == 1].mean(0).numpy()


def embed(model, embedder: Embedder, forward: Forward, batch_size: int = 2, accelerator=ALONE) -> np.ndarray:
    with torch.no_grad():
        return embedder.embed(lambda batch: forward(model, batch), batch_size, accelerator)


@pytest.fixture
def model(english_model):
    return AutoModelForMaskedLM.from_pretrained(english_model).eval()


@pytest.fixture
def tokenizer(english_model):
    return AutoTokenizer.from_pretrained(english_model)


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("sparse", [False, True])
def test_embeddings_are_those_of_each_text_alone(model, tokenizer, sparse, fixed):
    """Sparse prediction cuts the hidden states, and a batch of a fixed shape is filled."""
    forward = Forward.of(model, sparse=sparse, fixed=fixed)
    assert (forward.sparse is not None) == sparse
    embedder = Embedder(hook_hidden_states(model, 8), TEXTS, tokenizer, 24, tokenizer.pad_token_id, fixed)
    assert max(map(len, embedder.ids)) == 24, "a text that is cut"
    expected = [by_hand(model.bert, tokenizer, text, 24) for text in TEXTS]
    np.testing.assert_allclose(embed(model, embedder, forward, 3), expected, atol=2e-6)


def test_embeddings_are_those_of_sentence_transformers(english_model, model, tokenizer):
    library = pytest.importorskip("sentence_transformers")
    embedder = Embedder(hook_hidden_states(model, 8), TEXTS[1:], tokenizer, 64, tokenizer.pad_token_id)
    expected = library.SentenceTransformer(english_model, device="cpu").encode(TEXTS[1:])
    np.testing.assert_allclose(embed(model, embedder, Forward.of(model, sparse=True)), expected, atol=2e-6)


# These see padding or neighbours in a batch, by their nature or by how they approximate attention.
NEAR = ("convbert", "fnet", "funnel", "nystromformer", "reformer", "yoso")


@pytest.mark.parametrize(
    "model_type", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in TRAINED]
)
def test_each_type_has_embeddings_or_is_refused(model_type):
    overrides, *flags = TRAINED[model_type]
    torch.manual_seed(0)
    tokenizer, length = sample_tokenizer("bert", 200), 64 if flags else 20
    arguments = ModelArguments(model_type=model_type, config_overrides=overrides)
    model = AutoModelForMaskedLM.from_config(make_config(arguments, load_config(arguments), tokenizer)).eval()
    hidden_states = hook_hidden_states(model, length if flags else 8)
    if model_type == "perceiver":  # a few latents stand for all tokens
        assert isinstance(hidden_states, Exception)
        return
    forward = Forward.of(model, sparse=True, fixed=bool(flags))
    embedder = Embedder(hidden_states, TEXTS[1:4], tokenizer, length, tokenizer.pad_token_id, forward.fixed)
    padding = {"padding": "max_length"} if flags else {}
    found = embed(model, embedder, forward, 1)
    expected = [by_hand_of(model, forward, tokenizer, text, length, padding) for text in TEXTS[1:4]]
    drawn = 1e-2 if model_type == "reformer" else 1e-5  # it draws how it hashes
    np.testing.assert_allclose(found, expected, atol=drawn)
    if model_type not in NEAR:
        np.testing.assert_allclose(embed(model, embedder, forward, 3), found, atol=1e-4)


def by_hand_of(model, forward: Forward, tokenizer, text: str, length: int, padding: dict) -> np.ndarray:
    def encoder(input_ids, attention_mask):
        mask = {"attention_mask": attention_mask} if forward.takes_attention_mask else {}
        return model.base_model(input_ids=input_ids, **mask)

    return by_hand(encoder, tokenizer, text, length, **padding)


@pytest.mark.parametrize("batch_size", [1, 3, 4, 20])
def test_each_process_embeds_its_share_in_equally_many_passes(model, tokenizer, batch_size):
    """With FSDP, a process that has one pass less than the others leaves them waiting for ever."""
    forward = Forward.of(model)
    embedder = Embedder(hook_hidden_states(model, 8), TEXTS, tokenizer, 24, tokenizer.pad_token_id)
    passes, shares = [], []
    for process in range(3):
        calls: list[int] = []

        def counted(batch, calls=calls):
            calls.append(len(batch["input_ids"]))
            return forward(model, batch)

        launch = SimpleNamespace(num_processes=3, process_index=process, reduce=lambda share, how: share)
        with torch.no_grad():
            shares.append(embedder.embed(counted, batch_size, launch))
        passes.append(len(calls))
    assert len(set(passes)) == 1
    np.testing.assert_allclose(sum(shares), embed(model, embedder, forward, batch_size), atol=1e-6)
    assert sum((share != 0).any(1).sum() for share in shares) == len(TEXTS), "each text once"


def test_a_model_that_fsdp_divides_has_the_same_embeddings(english_model, model, tokenizer, group):  # noqa: F811
    embedder = Embedder(hook_hidden_states(model, 8), TEXTS, tokenizer, 24, tokenizer.pad_token_id)
    expected = embed(model, embedder, Forward.of(model))
    divided = AutoModelForMaskedLM.from_pretrained(english_model).eval()
    forward, hidden_states = Forward.of(divided, sparse=True), hook_hidden_states(divided, 8)
    shard(divided, together=True)
    embedder.hidden_states = hidden_states
    np.testing.assert_allclose(embed(divided, embedder, forward), expected, atol=1e-6)
