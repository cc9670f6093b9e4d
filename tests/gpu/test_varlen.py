"""The kernels of varlen attention on a card: the numbers of documents alone, within half precision."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForMaskedLM

import run_mlm_wwm
from conftest import sample_tokenizer, save_model, uneven_text
from wordmask.config.attention_checks import is_varlen_available
from wordmask.models.forward import Forward
from wordmask.models.packed_attention import FlatAttention, flat_attention
from wordmask.models.varlen_attention import by_document, varlen_attention

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
    pytest.mark.skipif(not is_varlen_available(), reason="needs torch 2.11"),
]
SIZES = (300, 5, 64, 17, 2)
SMALL = {"hidden_size": 128, "num_attention_heads": 2, "intermediate_size": 128, "vocab_size": 1000}
MODELS = {
    "bert": {"attention_probs_dropout_prob": 0.0, "hidden_dropout_prob": 0.0},
    "roberta": {"attention_probs_dropout_prob": 0.0, "hidden_dropout_prob": 0.0},
    "modernbert": {"local_attention": 32, "num_hidden_layers": 4, "global_attn_every_n_layers": 3},
}


def difference(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """The size of the difference, as a share of what is expected."""
    return float((actual.double() - expected.double()).norm() / expected.double().norm())


def bounds_of(sizes) -> torch.Tensor:
    return torch.tensor([0, *sizes]).cumsum(0).int().cuda()


def model_of(model_type: str) -> torch.nn.Module:
    torch.manual_seed(0)
    special = {f"{name}_token_id": 0 for name in ("pad", "bos", "eos", "cls", "sep")}
    config = CONFIG_MAPPING[model_type](**{"num_hidden_layers": 2, **SMALL, **special, **MODELS[model_type]})
    model = AutoModelForMaskedLM.from_config(config).cuda()
    model.set_attn_implementation("varlen")
    return model


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("window", [None, 17])
def test_the_kernel_gives_what_the_loop_gives(dtype, window):
    torch.manual_seed(0)
    states = [torch.randn(1, 4, sum(SIZES), 64, device="cuda", requires_grad=True) for _ in range(3)]
    bounds, reach = bounds_of(SIZES), None if window is None else (window - 1,) * 2
    options = {"cu_seq_lens_q": bounds, "max_length_q": max(SIZES), "sliding_window": window, "scaling": 64**-0.5}
    half = [part.detach().to(dtype).requires_grad_() for part in states]
    found, _ = varlen_attention(torch.nn.Module(), *half, None, **options)
    expected = by_document(*(part.transpose(1, 2)[0] for part in states), bounds, max(SIZES), 64**-0.5, reach)[None]
    assert found.dtype == dtype and found.shape == expected.shape
    assert difference(found, expected) < 0.02
    gradient = torch.randn_like(expected)
    found.backward(gradient.to(dtype))
    expected.backward(gradient)
    for one, other in zip(half, states, strict=True):
        assert difference(one.grad, other.grad) < 0.03


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("model_type", MODELS)
def test_losses_and_gradients_are_those_of_the_documents_alone(model_type, compiled):
    """Against the documents one by one with full attention in float32."""
    model = model_of(model_type).train()
    attention = flat_attention(model)
    assert isinstance(attention, FlatAttention)
    ids = torch.randint(10, 1000, (1, sum(SIZES)), device="cuda")
    labels = torch.where(torch.rand(ids.shape, device="cuda") < 0.3, ids, -100)
    total, count = torch.zeros((), device="cuda"), (labels != -100).sum()
    for one, answer in zip(ids.split(SIZES, 1), labels.split(SIZES, 1), strict=True):
        if (answer != -100).any():
            total = total + model(input_ids=one, labels=answer).loss * (answer != -100).sum() / count
    total.backward()
    expected = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()
    bounds, positions = bounds_of(SIZES), torch.cat([torch.arange(size) for size in SIZES])[None].cuda()
    lengths = {f"max_length_{side}": max(SIZES) for side in "qk"}
    batch = {"input_ids": ids, "labels": labels, "position_ids": positions, **lengths}
    batch |= {f"cu_seq_lens_{side}": bounds for side in "qk"}
    run = torch.compile(model) if compiled else model
    with torch.autocast("cuda", torch.bfloat16):
        prediction = Forward(attention=attention)(run, batch)
    prediction.loss.backward()
    assert float(prediction.loss) == pytest.approx(float(total), rel=0.01)
    found = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    assert found.keys() == expected.keys()
    whole = [torch.cat([part.flatten() for part in parts.values()]) for parts in (found, expected)]
    assert difference(*whole) < 0.05


@pytest.mark.parametrize(
    "model_type, more, is_flat",
    [
        ("modernbert", "--bf16", True),
        ("modernbert", "--fp16", True),
        ("bert", "--bf16 --dropout 0 --pack_sequences", True),
        ("bert", "--bf16", False),
        ("modernbert", "", False),
        ("modernbert", "--bf16 --attn_implementation sdpa", False),
    ],
)
def test_a_run_uses_the_kernel_where_it_can(tmp_path, monkeypatch, model_type, more, is_flat):
    seen, forward = set(), Forward.__call__

    def recorded(self, model, batch):
        if model.training:
            seen.add("cu_seq_lens_q" in batch)
        return forward(self, model, batch)

    monkeypatch.setattr(Forward, "__call__", recorded)
    settings = {"hidden_size": 64, "num_attention_heads": 2} if model_type == "modernbert" else {}
    model = save_model(tmp_path / "model", sample_tokenizer("bert"), model_type, **settings)
    metrics = run_mlm_wwm.main(
        f"--model_name_or_path {model} --train_file {uneven_text(tmp_path, 60)} --output_dir {tmp_path / 'out'} "
        f"--max_steps 3 --max_seq_length 60 --save_strategy no --validation_split_percentage 0 {more}".split()
    )
    # The trial before training has padding.
    assert seen == {False, is_flat} and math.isfinite(metrics["train_loss"])
