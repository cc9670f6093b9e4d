"""The loss belongs to the whole effective batch, and evaluation to the exact rows."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer, DataCollatorWithPadding, Trainer, TrainingArguments

import run_mlm_wwm
import wordmask
from conftest import sample_tokenizer, save_model, training_steps, uneven_text

LAYOUTS = ((1, 16), (4, 4), (16, 1))  # accumulation, batch size
STEPS = 3
NO_DROPOUT = {
    "bert": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},  # its head ignores num_items_in_batch
    "modernbert": {"embedding_dropout": 0.0, "mlp_dropout": 0.0, "attention_dropout": 0.0},  # its head honours it
}


@pytest.fixture(scope="module", params=list(NO_DROPOUT))
def model(request, tmp_path_factory) -> str:
    directory = tmp_path_factory.mktemp("model")
    return save_model(directory, sample_tokenizer("bert"), request.param, **NO_DROPOUT[request.param])


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> str:
    """Lines of very different lengths."""
    return uneven_text(tmp_path_factory.mktemp("text"), 60)


def run(model: str, text: str, directory, accumulation: int, batch_size: int, *more: str) -> list[dict[str, float]]:
    """What each step logs; with SGD, since Adam makes whole steps of a gradient that is nothing but rounding."""
    run_mlm_wwm.main(
        f"--model_name_or_path {model} --train_file {text} --validation_split_percentage 0 --output_dir {directory} "
        f"--max_steps {STEPS} --logging_steps 1 --optim sgd --learning_rate 0.1 --save_strategy no "
        f"--per_device_train_batch_size {batch_size} --gradient_accumulation_steps {accumulation} --use_cpu "
        "--mlm_probability 0.3".split()
        + list(more)
    )
    return training_steps(directory)


@pytest.fixture(scope="module")
def runs(model, text, tmp_path_factory) -> list[list[dict[str, float]]]:
    directory = tmp_path_factory.mktemp("runs")
    return [run(model, text, directory / f"{layout[0]}x{layout[1]}", *layout) for layout in LAYOUTS]


def test_loss_and_gradients_do_not_depend_on_how_a_batch_is_divided(runs):
    whole, *divided = runs
    assert len(whole) == STEPS
    for other in divided:
        for name in ("loss", "grad_norm"):
            assert [step[name] for step in other] == pytest.approx([step[name] for step in whole], rel=1e-5, abs=1e-5)


def test_the_loss_of_a_step_is_the_mean_over_its_masked_tokens(runs):
    # An untrained model's loss is near log(600) = 6.4; a sum, or a multiple by the accumulation steps, is far away.
    for steps in runs:
        assert 6 < steps[0]["loss"] < 7
    assert len({step["loss"] for step in runs[0]}) == STEPS, "the steps must differ, or their order was not compared"


def test_a_last_step_with_fewer_rows_agrees_too(model, text, tmp_path):
    # 60 rows in steps of 16: the fourth step has 12, and with batches of 16 no second part.
    steps = [
        run(model, text, tmp_path / f"{accumulation}", accumulation, 16 // accumulation, "--max_steps", "4")
        for accumulation in (1, 4)
    ]
    assert len(steps[0]) == 4
    for name in ("loss", "grad_norm"):
        first, second = ([step[name] for step in run] for run in steps)
        assert first == pytest.approx(second, rel=1e-5, abs=1e-5)


def test_parts_without_any_label_do_no_harm(model, text, tmp_path):
    # At this rate most single lines have no masked token, whose mean would be NaN.
    few = ("--mlm_probability", "0.01")
    whole, divided = (
        run(model, text, tmp_path / f"{layout[0]}", *layout, *few) for layout in (LAYOUTS[0], LAYOUTS[2])
    )
    for name in ("loss", "grad_norm"):
        assert [step[name] for step in divided] == pytest.approx([step[name] for step in whole], rel=1e-5, abs=1e-5)
        assert all(0 <= step[name] < 100 for step in whole)


def test_a_step_without_any_label_changes_nothing_and_its_loss_is_zero(model, tmp_path):
    """Such as lines without text: a sum over no label, divided by their number, is NaN."""
    loaded, tokenizer = AutoModelForMaskedLM.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    before = {name: weight.clone() for name, weight in loaded.state_dict().items()}
    options = {"use_cpu": True, "report_to": "none", "max_steps": 2, "logging_steps": 1, "save_strategy": "no"}
    args = wordmask.RunArguments(output_dir=str(tmp_path), gradient_accumulation_steps=2, optim="sgd", **options)
    nothing = {"input_ids": [tokenizer.cls_token_id, tokenizer.sep_token_id]}
    trainer = wordmask.MlmTrainer(loaded, args, [nothing] * 8, processing_class=tokenizer)
    with pytest.raises(wordmask.InputError, match="^training: no token of the text can be masked"):
        trainer.train()
    steps = [(entry["loss"], entry["grad_norm"]) for entry in trainer.state.log_history if "grad_norm" in entry]
    assert steps == [(0.0, 0.0)] * 2
    assert all(torch.equal(weight, before[name]) for name, weight in loaded.state_dict().items())


@pytest.fixture(scope="module")
def evaluations(model, text, tmp_path_factory) -> list[dict[str, float]]:
    directory = tmp_path_factory.mktemp("evaluations")
    argv = f"--model_name_or_path {model} --validation_file {text} --do_eval --use_cpu --per_device_eval_batch_size"
    return [
        run_mlm_wwm.main([*argv.split(), f"{size}", "--output_dir", str(directory / f"{size}")]) for size in (1, 7, 64)
    ]


@pytest.mark.parametrize(
    "name", ["eval_loss", "perplexity", "eval_accuracy", "eval_whole_word_accuracy", "eval_samples"]
)
def test_evaluation_does_not_depend_on_its_batch_size(evaluations, name):
    first, *others = (metrics[name] for metrics in evaluations)
    for other in others:
        assert other == pytest.approx(first, rel=1e-5)


@pytest.fixture
def bert(tmp_path) -> str:
    return save_model(tmp_path / "bert", sample_tokenizer("bert"), "bert", **NO_DROPOUT["bert"])


def test_the_trainer_alone_would_fail_these_tests(bert, text, tmp_path):
    """A guard: the head, the rows and the tolerance are such that a plain Trainer does not pass for nothing."""
    model_losses, norms = [], []
    tokenizer = AutoTokenizer.from_pretrained(bert)
    rows = []
    for line in Path(text).read_text(encoding="utf-8").split("\n"):
        ids = tokenizer(line)["input_ids"]
        labels = [token if index % 5 == 1 else -100 for index, token in enumerate(ids)]
        rows.append({"input_ids": ids, "labels": labels})

    def collate(parts):
        batch = DataCollatorWithPadding(tokenizer)([{"input_ids": part["input_ids"]} for part in parts])
        labels = [torch.tensor(part["labels"]) for part in parts]
        batch["labels"] = torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=-100)
        return batch

    for accumulation, batch_size in LAYOUTS:
        settings = {"max_steps": 1, "logging_steps": 1, "use_cpu": True, "report_to": "none", "save_strategy": "no"}
        settings |= {"per_device_train_batch_size": batch_size, "gradient_accumulation_steps": accumulation}
        trainer = Trainer(
            AutoModelForMaskedLM.from_pretrained(bert),
            TrainingArguments(str(tmp_path / f"{accumulation}"), disable_tqdm=True, **settings),
            train_dataset=rows,
            data_collator=collate,
        )
        trainer.train()
        model_losses.append(trainer.state.log_history[0]["loss"])
        norms.append(trainer.state.log_history[0]["grad_norm"])
    assert model_losses[1] > 3 * model_losses[0] and model_losses[2] > 12 * model_losses[0]
    assert norms[1] > 2 * norms[0]
