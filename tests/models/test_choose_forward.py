"""Which forward pass the flags of a run choose for a model; the runs themselves are in the tests of each part."""

from __future__ import annotations

import pytest
import torch
from test_sparse_prediction import tiny
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from wordmask.config.arguments import parse_arguments
from wordmask.models import choose_forward, varlen_attention
from wordmask.models.forward import Forward
from wordmask.models.loss_head import LossHead
from wordmask.models.packed_attention import FlatAttention
from wordmask.models.probing import Unfit
from wordmask.utils.errors import InputError

LENGTH = 32


def chosen(model: torch.nn.Module, *flags: str, **more: object) -> Forward:
    """The forward pass for these flags, and for settings that a CPU does not let one give."""
    needed = "--model_type bert --train_file text.txt --output_dir out --use_cpu --line_by_line".split()
    arguments = parse_arguments([*needed, "--masking_strategy", "token", *flags])
    for name, value in more.items():
        setattr(arguments.training, name, value)
    return choose_forward.choose_forward(arguments, model, LENGTH)


@pytest.mark.parametrize(
    ("flags", "dtype", "precise"),
    [([], torch.float32, False), (["--bf16"], torch.float32, True), ([], torch.bfloat16, True)],
)
def test_half_precision_has_a_precise_loss(flags, dtype, precise):
    """Of autocast, and of the weights."""
    assert isinstance(chosen(tiny("bert").to(dtype), *flags).head, LossHead) == precise


def test_labels_are_smoothed_as_it_is_asked_for():
    assert chosen(tiny("bert").float()).label_smoother is None
    smoothed = chosen(tiny("bert").float(), "--label_smoothing_factor", "0.2", "--bf16")
    assert smoothed.label_smoother.epsilon == 0.2 and smoothed.head is None, "a head would compute another loss"


def test_packed_sequences_need_no_mask_of_padding():
    """What keeps documents apart keeps padding apart, too."""
    whole = chosen(tiny("bert").float(), "--tokens_per_pass", "0")
    assert whole.padding is not None and whole.attention is None
    packed = chosen(tiny("bert").float(), "--pack_sequences", "--tokens_per_pass", "0")
    assert packed.padding is None and packed.attention is not None


@pytest.mark.parametrize(("tokens", "flat"), [("0", True), ("64", False)])
def test_batches_that_are_divided_are_not_flat(tokens, flat):
    """Also for another implementation of attention that takes the bounds of documents, such as flash attention."""
    AttentionInterface.register("own_kernel", varlen_attention.varlen_attention)
    AttentionMaskInterface.register("own_kernel", sdpa_mask)
    model = tiny("bert").float()
    model.set_attn_implementation("own_kernel")
    forward = chosen(model, "--attn_implementation", "own_kernel", "--tokens_per_pass", tokens)
    assert isinstance(forward.attention, FlatAttention) == forward.flat == flat
    assert forward.micro_batch_tokens == (None if flat else 64)


def test_a_model_that_varlen_attention_does_not_suit_gets_its_own_back():
    """Varlen attention has no dropout in it."""
    model = tiny("bert").float()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.1
    assert model.config._attn_implementation == "sdpa"
    assert not chosen(model, "--attn_implementation", "varlen").flat
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize(
    ("attention", "has_sdpa", "advises"), [("eager", True, True), ("sdpa", True, False), ("eager", False, False)]
)
def test_sdpa_is_advised_where_another_attention_cannot_keep_documents_apart(
    monkeypatch, attention, has_sdpa, advises
):
    monkeypatch.setattr(choose_forward, "packed_attention", lambda *given: Unfit("the numbers differ"))
    model = tiny("bert").float()
    model.set_attn_implementation(attention)
    model._supports_sdpa = has_sdpa
    with pytest.raises(InputError, match=f"with {attention} attention cannot keep the documents") as refused:
        chosen(model, "--pack_sequences")
    assert ("try --attn_implementation sdpa" in str(refused.value)) == advises


def test_small_parts_of_a_batch_are_as_fast_on_a_cpu_and_fixed_shapes_stay_whole():
    assert chosen(tiny("bert").float()).micro_batch_tokens == 2048
    fixed = chosen(tiny("bert").float(), "--pad_to_max_length")
    assert fixed.micro_batch_tokens is None and fixed.fixed


@pytest.mark.skipif(not hasattr(nn, "LinearCrossEntropyOptions"), reason="needs torch 2.13")
def test_a_loss_in_chunks_is_used_where_the_model_can_and_refused_where_not():
    """As on a GPU, for which it is."""
    forward = chosen(tiny("bert").float(), chunked_head=True)
    assert forward.head is not None and forward.head.chunks_from == 16
    model = tiny("bert").float()
    model.cls.register_forward_hook(lambda module, given, output: output * 2)
    with pytest.raises(InputError, match="--chunked_head: the head of a BertForMaskedLM does not give the same loss"):
        chosen(model, chunked_head=True)
