"""Sparse prediction gives the loss and the gradients of the full head, whatever the architecture."""

from __future__ import annotations

import contextlib
import copy
import logging
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import CONFIG_MAPPING, AutoModelForMaskedLM, BertConfig
from transformers.modeling_outputs import MaskedLMOutput

import run_mlm_wwm
from conftest import SMALL, sample_lines, sample_tokenizer, save_model, slow_after, trajectory
from wordmask.models.forward import Forward
from wordmask.models.sparse_prediction import (
    SparsePrediction,
    find_sparse_prediction,
    labelled_positions,
    sparse_prediction,
)
from wordmask.utils.errors import InputError

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


@pytest.mark.parametrize("in_double", [False, True], ids=["as it is", "without a cast to float32"])
@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_loss_and_all_gradients_are_those_of_the_full_head(model_type, in_double, monkeypatch):
    """Some heads cast logits to float32 for the loss, which rounds the gradients, too."""
    if in_double:
        monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    full, model = tiny(model_type), tiny(model_type)
    inputs, positions = batch()
    sparse = find_sparse_prediction(model)
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
    assert found.loss.dtype == torch.float64 or not in_double
    tolerance = 1e-10 if found.loss.dtype == torch.float64 else 1e-6
    for name, gradient in wanted.items():
        torch.testing.assert_close(given[name], gradient, rtol=0, atol=tolerance)


def test_what_is_saved_and_what_is_predicted_outside_carry_no_trace():
    model = tiny("bert")
    before, names = copy.deepcopy(model.state_dict()), set(vars(model.config))
    inputs, positions = batch()
    sparse = find_sparse_prediction(model)
    with sparse.at(positions):
        model(input_ids=inputs["input_ids"])
    assert model(input_ids=inputs["input_ids"]).logits.shape == (ROWS, LENGTH, WORDS)
    assert model.state_dict().keys() == before.keys() and set(vars(model.config)) == names


def test_a_label_of_0_is_a_label():
    """In some vocabularies, 0 is a word as any other."""
    assert labelled_positions(torch.tensor([[-100, 0], [-100, 9]])).tolist() == [1, 3]


def test_an_error_inside_leaves_the_model_as_it_is_outside():
    model, (inputs, positions) = tiny("bert"), batch()
    sparse = find_sparse_prediction(model)
    with pytest.raises(RuntimeError, match="too little memory"), sparse.at(positions):
        raise RuntimeError("too little memory")
    assert model(input_ids=inputs["input_ids"]).logits.shape == (ROWS, LENGTH, WORDS)


def with_forward(forward) -> torch.nn.Module:
    """A tiny model with a forward pass of its own."""
    model = tiny("bert")
    model.__class__ = type("Own", (type(model),), {"forward": forward})
    return model


def test_an_encoder_may_give_a_tuple():
    """As those of programs of one's own do; all but the states is left as it is."""

    def forward(self, input_ids, labels=None):
        hidden, *others = self.bert(input_ids, output_hidden_states=True, return_dict=False)
        assert len(others[-1]) == self.config.num_hidden_layers + 1
        logits = self.cls(hidden)
        loss = None if labels is None else nn.functional.cross_entropy(logits.view(-1, WORDS), labels.view(-1))
        return MaskedLMOutput(loss=loss, logits=logits)

    model, (inputs, positions) = with_forward(forward), batch()
    sparse, expected = find_sparse_prediction(model), model(**inputs)
    assert sparse is not None
    with sparse.at(positions):
        found = model(inputs["input_ids"], inputs["labels"].view(-1)[positions][None])
    torch.testing.assert_close(found.loss, expected.loss)
    torch.testing.assert_close(found.logits[0], expected.logits.view(-1, WORDS)[positions])


@pytest.mark.parametrize("what", ["loss", "logits"])
def test_both_loss_and_logits_must_stay_the_same(what):
    """A loss that is divided by all positions, or logits that all rise by as much, which leaves the loss as it is."""

    def forward(self, input_ids, labels=None):
        output = type(tiny("bert")).forward(self, input_ids, labels=labels)
        if what == "loss":
            output.loss = output.loss / output.logits.shape[1]
        else:
            output.logits = output.logits + output.logits.shape[1]
        return output

    assert find_sparse_prediction(with_forward(forward)) is None


def test_in_a_loop_of_ones_own_inputs_may_come_in_any_form():
    model, (inputs, positions) = tiny("bert"), batch()
    ids, labels = inputs["input_ids"], inputs["labels"]
    expected, of_trainer = model(**inputs).loss, Forward(find_sparse_prediction(model))
    with sparse_prediction(torch.nn.DataParallel(model)):
        by_place = model(ids, labels=labels)
        embedded = model(inputs_embeds=model.get_input_embeddings()(ids), labels=labels)
        by_trainer = of_trainer(model, inputs)  # gives labels at these positions alone
        by_later_trainer = Forward(find_sparse_prediction(model))(model, inputs)
    for found in (by_place, embedded, by_trainer, by_later_trainer):
        assert found.logits.shape == (1, len(positions), WORDS)
        torch.testing.assert_close(found.loss, expected)


def test_a_copy_that_is_made_inside_predicts_so_too_and_is_one_that_can_be_saved():
    """As a moving average of the weights is. It failed in each later pass."""
    model, (inputs, positions) = tiny("bert"), batch()
    expected = model(**inputs)
    with sparse_prediction(model):
        average = torch.optim.swa_utils.AveragedModel(model)
        saved = pickle.loads(pickle.dumps(model))
        with pytest.raises(InputError, match="predicts at labelled positions already"), sparse_prediction(model):
            pass
    assert model(**inputs).logits.shape == expected.logits.shape
    for copied in (average, saved):
        found = copied(**inputs)
        torch.testing.assert_close(found.loss, expected.loss)
        assert found.logits.shape == (1, len(positions), WORDS)


@pytest.mark.parametrize("half", [False, True])
def test_a_model_that_cannot_take_it_falls_back_with_one_warning(caplog, half):
    class Pooled(type(tiny("bert"))):
        """A head that needs all positions."""

        def forward(self, input_ids=None, labels=None, **kwargs):
            output = super().forward(input_ids=input_ids, **kwargs)
            logits = output.logits + output.logits.mean(1, keepdim=True)
            loss = torch.nn.functional.cross_entropy(logits.view(-1, WORDS), labels.view(-1))
            return type(output)(loss=loss, logits=logits)

    model = tiny("bert").float()
    model.__class__ = Pooled
    with caplog.at_level(logging.WARNING), torch.autocast("cpu", torch.bfloat16, enabled=half):
        assert find_sparse_prediction(model) is None
    assert [record.name for record in caplog.records] == ["wordmask.models.sparse_prediction"]
    assert model(batch()[0]["input_ids"], batch()[0]["labels"]).logits.shape == (ROWS, LENGTH, WORDS)


@pytest.mark.parametrize("model_type", sorted(ARCHITECTURES.keys() - {"fnet"}))  # which has no transform in it
def test_half_precision_is_no_reason_to_fall_back(model_type):
    """As flash attention has it."""
    assert find_sparse_prediction(tiny(model_type).bfloat16()) is not None


@pytest.mark.parametrize("has_compiled", [False, True])
def test_what_a_model_can_take_is_tried_without_tf32(has_compiled):
    """Whoever has compiled something with TF32 in this process has written it down for products of matrices alone."""
    seen, products, before = [], torch.backends.cuda.matmul, torch.backends.fp32_precision
    torch.backends.fp32_precision = "tf32"
    try:
        if has_compiled:
            torch.compile(torch.neg, backend="eager")(torch.ones(1))
        model = tiny("bert")
        model.register_forward_hook(lambda *_: seen.append((torch.backends.fp32_precision, products.fp32_precision)))
        assert find_sparse_prediction(model)
        assert torch.backends.fp32_precision == products.fp32_precision == "tf32"
        torch.backends.fp32_precision = "ieee"
        assert has_compiled or products.fp32_precision == "ieee", "it still follows"
    finally:
        torch.backends.fp32_precision, products.fp32_precision = before, "none"
    assert set(seen) == {("ieee", "ieee")}


def passes(model: torch.nn.Module) -> list[int]:
    """A list that grows by one at every forward of the model's first layer, recomputations included."""
    calls: list[int] = []
    first = next(module for name, module in model.base_model.named_modules() if name.endswith(("layer.0", "layers.0")))
    next(module for module in first.modules() if isinstance(module, nn.Linear)).register_forward_hook(
        lambda *_: calls.append(1)
    )
    return calls


SOME = ["bert", "roberta", "electra", "modernbert", "deberta-v2"]


@pytest.mark.parametrize("model_type", SOME)
def test_gradients_are_those_of_the_full_head_under_activation_checkpointing(model_type):
    # The layers run again in the backward pass, when the positions are no longer set.
    full, model = tiny(model_type).train(), tiny(model_type).train()
    sparse = find_sparse_prediction(model)
    model.activation_checkpointing_enable()
    calls, (inputs, positions) = passes(model), batch()
    full(**inputs).loss.backward()
    with sparse.at(positions):
        loss = model(input_ids=inputs["input_ids"], labels=inputs["labels"].view(-1)[positions][None]).loss
    assert len(calls) == 1
    loss.backward()
    assert len(calls) == 2, "nothing was computed again"
    tolerance = 1e-10 if loss.dtype == torch.float64 else 1e-6
    for name, gradient in gradients(full).items():
        torch.testing.assert_close(gradients(model)[name], gradient, rtol=0, atol=tolerance)


@pytest.mark.parametrize("model_type", SOME)
def test_gradients_are_those_of_the_full_head_under_autocast(model_type):
    # bfloat16 keeps 8 bits: a product of other shape may add in another order, and round other than before.
    full, model = tiny(model_type).float(), tiny(model_type).float()
    sparse, (inputs, positions) = find_sparse_prediction(model), batch()
    with torch.autocast("cpu", torch.bfloat16):
        expected = full(**inputs)
        with sparse.at(positions):
            found = model(input_ids=inputs["input_ids"], labels=inputs["labels"].view(-1)[positions][None])
    assert found.logits.dtype == torch.bfloat16 and found.logits.shape == (1, len(positions), WORDS)
    assert found.loss.item() == pytest.approx(expected.loss.item(), rel=2**-8)
    expected.loss.backward()
    found.loss.backward()
    for name, gradient in gradients(full).items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(gradients(model)[name], gradient, rtol=0, atol=2**-6 * scale + 1e-6, msg=name)


# Whole runs


@pytest.fixture(scope="module", params=["bert", "modernbert"])
def command(request, tmp_path_factory) -> list[str]:
    """A run without dropout, SGD so that weights can be compared."""
    folder = tmp_path_factory.mktemp("runs")
    dropout = {
        "bert": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
        "modernbert": {"embedding_dropout": 0.0, "mlp_dropout": 0.0, "attention_dropout": 0.0},
    }
    model = save_model(folder / "model", sample_tokenizer("bert"), request.param, **dropout[request.param])
    text = folder / "text.txt"
    text.write_text("\n".join(sample_lines("english", 24)), encoding="utf-8")
    return [
        *("--model_name_or_path", model, "--train_file", str(text), "--validation_file", str(text)),
        *"--use_cpu --max_steps 3 --logging_steps 1 --optim sgd --learning_rate 0.5 --report_to none".split(),
        *"--do_train --do_eval --per_device_train_batch_size 4 --save_strategy steps --save_steps 2".split(),
    ]


@contextlib.contextmanager
def counted(monkeypatch):
    """The number of positions that the hook kept, at each time that it did."""
    kept, at = [], SparsePrediction.at
    monkeypatch.setattr(
        SparsePrediction, "at", lambda self, positions: (kept.append(len(positions)), at(self, positions))[1]
    )
    yield kept
    monkeypatch.undo()


def both(command: list[str], folder: Path, monkeypatch, *more: str) -> tuple[Path, Path]:
    """The output directories of a run with sparse prediction and of one without."""
    outputs = folder / "sparse", folder / "full"
    for output, switch in zip(outputs, ("true", "false"), strict=True):
        with counted(monkeypatch) as kept:
            run_mlm_wwm.main([*command, *more, "--output_dir", str(output), "--sparse_prediction", switch])
        assert (len(kept) > 3) == (switch == "true")
    return outputs


@pytest.mark.parametrize(
    "flags, tolerance",
    slow_after(
        1,
        [
            (["--gradient_accumulation_steps", "3"], 1e-5),
            (["--bf16", "--gradient_accumulation_steps", "2", "--activation_checkpointing"], 2**-7),
            (["--pad_to_max_length", "--max_seq_length", "48"], 1e-5),
            (["--activation_checkpointing"], 1e-5),
            (["--bf16"], 2**-7),
        ],
    ),
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_runs_with_and_without_it_train_alike(command, tmp_path, monkeypatch, flags, tolerance):
    sparse, full = both(command, tmp_path, monkeypatch, *flags)
    assert len(trajectory(sparse)) == 3
    for pair, expected in zip(trajectory(sparse), trajectory(full), strict=True):
        assert pair == pytest.approx(expected, rel=tolerance)
    found, wanted = (load_file(output / "model.safetensors") for output in (sparse, full))
    for name, weight in wanted.items():
        torch.testing.assert_close(found[name], weight, rtol=0, atol=tolerance)


def test_models_and_checkpoints_carry_no_trace(command, tmp_path, monkeypatch):
    sparse, full = both(command, tmp_path, monkeypatch)
    files = [
        {path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file()}
        for output in (sparse, full)
    ]
    assert files[0] == files[1] >= {"config.json", "checkpoint-2/config.json", "checkpoint-2/model.safetensors"}
    for directory in ("", "checkpoint-2"):
        found, wanted = (output / directory for output in (sparse, full))
        assert (found / "config.json").read_bytes() == (wanted / "config.json").read_bytes()
        tensors = load_file(found / "model.safetensors"), load_file(wanted / "model.safetensors")
        assert tensors[0].keys() == tensors[1].keys()
    model = AutoModelForMaskedLM.from_pretrained(sparse)
    assert not model.base_model._forward_hooks


def test_label_smoothing_predicts_at_labelled_positions_too_and_trains_alike(command, tmp_path, monkeypatch):
    outputs = tmp_path / "asked", tmp_path / "not"
    for output, switch in zip(outputs, ("true", "false"), strict=True):
        argv = ["--output_dir", str(output), "--sparse_prediction", switch, "--label_smoothing_factor", "0.1"]
        with counted(monkeypatch) as kept:
            run_mlm_wwm.main([*command, *argv])
        assert bool(kept) == (switch == "true")
    for pair, other in zip(*map(trajectory, outputs), strict=True):
        assert pair == pytest.approx(other, rel=1e-5)


def test_a_batch_that_fails_changes_no_later_prediction():
    """Such as one that does not fit into memory, in a loop that goes on with the next batch."""
    model = AutoModelForMaskedLM.from_config(BertConfig(vocab_size=50, **SMALL)).eval()
    ids = torch.arange(16).view(2, 8)
    with sparse_prediction(model):
        with pytest.raises(IndexError):
            model(input_ids=ids + 100, labels=ids)
        assert model(input_ids=ids).logits.shape == (2, 8, 50)
