"""The probe's figures are scikit-learn's, they choose the best checkpoint, and a mistake is refused at the start."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from rich.console import Console
from scipy.stats import binomtest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.preprocessing import StandardScaler
from transformers import AutoModel, AutoTokenizer

import run_mlm
import run_mlm_wwm
from conftest import free_port, refusal, sample_lines
from wordmask.config.probe_arguments import ProbeArguments
from wordmask.data.labelled_examples import LabelledExamples, read_labelled
from wordmask.models.text_embedding import Embedder
from wordmask.training.evaluation.probe import Probe, scores, standardized
from wordmask.training.evaluation.probe_display import ProbeResults

ROOT = Path(__file__).parents[3]


def label(text: str) -> str:
    """A label that depends on the words of a text: whether it has `the`, and whether it is long."""
    return f"{'the' if ' the ' in text else 'none'}-{'long' if len(text) > 70 else 'short'}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Training, validation and labelled text."""
    folder = tmp_path_factory.mktemp("folder")
    lines = sample_lines("english", 160)
    (folder / "train.txt").write_text("\n".join(lines[:24]), encoding="utf-8")
    (folder / "dev.txt").write_text("\n".join(lines[24:32]), encoding="utf-8")
    texts = [part[: 40 + 13 * (number % 5)] for number, part in enumerate(lines[32:])]
    for name, part in (("labelled.csv", texts[:80]), ("held_out.csv", texts[80:])):
        with open(folder / name, "w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("text", "label"), *((text, label(text)) for text in part)])
    return folder


@pytest.fixture
def command(folder, english_model):
    """A command line of four steps that learn something."""

    def command(out: Path, *more: str, model: str = english_model) -> list[str]:
        return [
            *("--model_name_or_path", model, "--cache_dir", str(folder / "cache"), "--output_dir", str(out)),
            *("--train_file", str(folder / "train.txt"), "--validation_file", str(folder / "dev.txt")),
            *("--probe_file", str(folder / "labelled.csv"), "--use_cpu", "--max_seq_length", "32"),
            *"--max_steps 4 --learning_rate 0.03 --save_steps 2 --per_device_train_batch_size 6".split(),
            *more,
        ]

    return command


def held_out(folder: Path) -> tuple[str, str]:
    return "--probe_validation_file", str(folder / "held_out.csv")


def read(path: Path) -> tuple[list[str], list[str]]:
    with open(path, encoding="utf-8", newline="") as file:
        _, *rows = csv.reader(file)
    texts, labels = zip(*rows, strict=True)
    return list(texts), list(labels)


def results(out: Path, name: str = "all_results.json") -> dict:
    return json.loads((out / name).read_text(encoding="utf-8"))


def measured(features, labels: list[str], held_out_labels: list[str]) -> tuple[float, float]:
    """Accuracy and macro-F1, by scikit-learn alone."""
    classifier = LogisticRegression(C=10, max_iter=1000).fit(features[: len(labels)], labels)
    predicted = classifier.predict(features[len(labels) :])
    return accuracy_score(held_out_labels, predicted), f1_score(held_out_labels, predicted, average="macro")


@pytest.fixture
def embedded(monkeypatch) -> list[np.ndarray]:
    """The embeddings of each measurement so far, which tests compare with a tolerance.

    A logistic regression makes a large difference of a rounding: where a text lies near the border of two labels, its
    label, and so accuracy and macro-F1, is another one.
    """
    kept, original = list[np.ndarray](), Embedder.embed

    def embed(self, *args):
        kept.append(original(self, *args))
        return kept[-1]

    monkeypatch.setattr(Embedder, "embed", embed)
    return kept


def by_hand(model: str, texts: list[str]) -> np.ndarray:
    """The mean hidden state of each text, alone in its batch."""
    encoder, tokenizer = AutoModel.from_pretrained(model).eval(), AutoTokenizer.from_pretrained(model)
    found = []
    for text in texts:
        with torch.no_grad():
            inputs = tokenizer(text, truncation=True, max_length=32, return_tensors="pt")
            found.append(encoder(**inputs).last_hidden_state[0].mean(0).numpy())
    return np.array(found)


@pytest.mark.slow
def test_the_figures_are_those_of_scikit_learn_by_hand(command, folder, tmp_path, english_model, embedded):
    out = tmp_path / "out"
    metrics = run_mlm_wwm.main(command(out, *held_out(folder)))
    (texts, labels), (others, other_labels) = read(folder / "labelled.csv"), read(folder / "held_out.csv")
    for found, model, end in zip(embedded, (english_model, str(out)), ("_before", ""), strict=True):
        np.testing.assert_allclose(found, by_hand(model, [*texts, *others]), atol=1e-5)
        features = found.astype(np.float64)
        scaler = StandardScaler().fit(features[: len(texts)])
        expected = measured(scaler.transform(features) / 4, labels, other_labels)  # 4 is the root of 16 dimensions
        assert (metrics[f"eval_probe_accuracy{end}"], metrics[f"eval_probe_f1{end}"]) == pytest.approx(expected)
    assert np.abs(embedded[0] - embedded[1]).max() > 1e-3, "else the training changed nothing"

    vectorizer = TfidfVectorizer(analyzer="char", ngram_range=(1, 4), max_features=30_000, sublinear_tf=True).fit(
        texts
    )
    expected = measured(vectorizer.transform([*texts, *others]), labels, other_labels)
    assert (metrics["probe_tfidf_accuracy"], metrics["probe_tfidf_f1"]) == pytest.approx(expected)
    most = max(sorted({*labels}), key=labels.count)
    assert metrics["probe_majority_accuracy"] == other_labels.count(most) / len(other_labels)

    saved = results(out, "eval_results.json")
    assert {name: saved[name] for name in metrics if "probe" in name} == {
        name: value for name, value in metrics.items() if "probe" in name
    }
    before, after = results(out, "wordmask_evaluations.json")["evaluations"]
    assert before["metrics"]["probe_f1"] == metrics["eval_probe_f1_before"] and before["probe"] == after["probe"]
    assert "| probe macro-F1 |" in (out / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_intervals_are_wilsons_and_a_bootstraps():
    random = np.random.default_rng(0)
    labels = random.choice(["a", "b", "c"], 200, p=[0.6, 0.3, 0.1])
    predicted = np.where(random.random(200) < 0.7, labels, random.permutation(labels))
    found = scores(labels, predicted)
    wilson = binomtest(int((labels == predicted).sum()), 200).proportion_ci(method="wilson")
    assert (found["accuracy_low"], found["accuracy_high"]) == (wilson.low, wilson.high)
    drawn = []
    for _ in range(1000):
        chosen = random.integers(0, 200, 200)
        drawn.append(f1_score(labels[chosen], predicted[chosen], average="macro"))
    assert (found["f1_low"], found["f1_high"]) == pytest.approx(np.quantile(drawn, (0.025, 0.975)), abs=0.01)
    assert found["f1"] == f1_score(labels, predicted, average="macro") and found == scores(labels, predicted)
    perfect = scores(labels, labels)
    assert perfect["accuracy_high"] == perfect["f1_low"] == 1 and perfect["accuracy_low"] < 0.99


@pytest.mark.slow
def test_a_training_that_has_diverged_ends_with_its_figures(command, tmp_path):
    """scikit-learn refuses embeddings that are not numbers, at the end of what may have taken days."""
    metrics = run_mlm_wwm.main(
        command(tmp_path / "out", "--allow_nan", "--learning_rate", "1e30", "--max_grad_norm", "1e30")
    )
    assert math.isnan(metrics["eval_probe_f1"]) and metrics["eval_probe_f1_before"] > 0
    assert metrics["probe_tfidf_f1"] > 0


def test_a_label_that_only_the_prediction_has_counts_as_in_scikit_learn():
    labels, predicted = np.array(["a", "b", "a", "b"]), np.array(["a", "c", "a", "b"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = scores(labels, predicted)
    assert found["f1"] == pytest.approx(f1_score(labels, predicted, average="macro", zero_division=0))
    assert found["f1_low"] <= found["f1"] <= found["f1_high"]


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["--no_text_in_results"]], ids=["", "without text"])
def test_the_best_checkpoint_is_chosen_by_the_probe(more, command, folder, tmp_path, capsys):
    """Here the lowest macro-F1 counts as the best. Which step has it differs between machines."""
    out = tmp_path / "out"
    flags = "--eval_strategy steps --eval_steps 1 --save_steps 1 --metric_for_best_model probe_f1".split()
    chosen = ("--load_best_model_at_end", "--greater_is_better", "false")
    metrics = run_mlm_wwm.main(command(out, *held_out(folder), *flags, *chosen, *more))
    evaluations = results(out, "wordmask_evaluations.json")["evaluations"]
    by_step = {one["step"]: one["metrics"] for one in evaluations if one["step"]}
    best = min(by_step, key=lambda step: by_step[step]["probe_f1"])
    state = results(out, "trainer_state.json")
    assert (state["best_global_step"], state["best_metric"]) == (best, by_step[best]["probe_f1"])
    assert metrics["eval_probe_f1"] == by_step[best]["probe_f1"] and metrics["eval_loss"] == by_step[best]["loss"]
    shown, card = capsys.readouterr().err, (out / "README.md").read_text(encoding="utf-8")
    is_last = best == 4
    assert (f"saved model: that of step {best}, which was the best one" in shown) != is_last
    assert (f"| this model | that of step {best}, which was the best one |" in card) != is_last
    assert is_last or re.search(rf"evaluation after step {best}: [^()]*$", shown, re.MULTILINE), (
        "not compared with later"
    )


@pytest.mark.slow
def test_a_signal_leaves_a_probe(command, tmp_path, monkeypatch):
    """In the evaluation after step 2, at the second batch of the labelled texts. The one before training has ten."""
    out, batches, original = tmp_path / "out", [], Embedder._batch

    def batch(self, *args):
        batches.append(1)
        if len(batches) == 12:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, *args)

    monkeypatch.setattr(Embedder, "_batch", batch)
    flags = "--eval_strategy steps --eval_steps 2 --per_device_eval_batch_size 8"
    with pytest.raises(SystemExit) as ended:
        run_mlm_wwm.main(command(out, *flags.split()))
    assert ended.value.code == 143 and (out / "checkpoint-2").exists() and len(batches) == 12
    assert [one["step"] for one in results(out, "wordmask_evaluations.json")["evaluations"]] == [0]


@pytest.mark.slow
@pytest.mark.parametrize("flags", [("--pack_sequences",), ("--no_sparse_prediction",), ("--pad_to_max_length",)])
def test_how_the_model_is_trained_does_not_change_the_embeddings_before(command, tmp_path, flags, embedded):
    run_mlm_wwm.main(command(tmp_path / "plain", "--do_eval"))
    run_mlm_wwm.main(command(tmp_path / "other", "--do_eval", *flags))
    np.testing.assert_allclose(*embedded, atol=1e-5)


@pytest.mark.slow
def test_bfloat16_gives_nearly_the_same(command, tmp_path, embedded):
    for name, flags in (("plain", ()), ("half", ("--bf16",))):
        run_mlm_wwm.main(command(tmp_path / name, "--do_eval", *flags))
    plain, half = embedded
    assert 1e-5 < np.abs(half - plain).max() < 0.05


@pytest.mark.slow
def test_the_training_is_the_same_with_a_probe(command, folder, tmp_path):
    with_probe = run_mlm_wwm.main(command(tmp_path / "with", *held_out(folder)))
    argv = command(tmp_path / "without")
    place = argv.index("--probe_file")
    without = run_mlm_wwm.main([*argv[:place], *argv[place + 2 :]])
    assert with_probe["train_loss"] == without["train_loss"] and with_probe["eval_loss"] == without["eval_loss"]
    assert not any("probe" in name for name in without)


@pytest.mark.slow
def test_a_probe_evaluates_although_only_training_is_asked_for(command, tmp_path):
    metrics = run_mlm.main(command(tmp_path / "out", "--do_train"))
    assert {"eval_probe_f1", "eval_probe_f1_before", "eval_loss"} <= metrics.keys()


@pytest.mark.slow
def test_figures_before_are_those_of_the_same_examples(command, folder, tmp_path):
    """A run that is started again with another probe cannot be compared with what was measured before."""
    out = tmp_path / "out"
    run_mlm_wwm.main(command(out))
    again = run_mlm_wwm.main(command(out, "--num_train_epochs", "9"))
    assert "eval_probe_f1_before" in again
    other = run_mlm_wwm.main(command(out, *held_out(folder)))
    assert "eval_probe_f1" in other and "eval_loss_before" in other and "eval_probe_f1_before" not in other


def shown(results: ProbeResults) -> str:
    console = Console(file=io.StringIO(), width=100)
    console.print(results)
    return console.file.getvalue()


@pytest.mark.slow
def test_the_table_says_what_was_measured_and_how(command, folder, tmp_path):
    metrics = run_mlm_wwm.main(command(tmp_path / "out", *held_out(folder)))
    found = ProbeResults(metrics, read_labelled(ProbeArguments(*(str(folder / name) for name in FILES)), 42))
    names = ["most frequent label", "character n-grams (TF-IDF)", "model before training", "model after training"]
    for text in (found.line(), shown(found)):
        assert "frozen" in text and "not fine-tuning" in text and "48 held-out examples, 80 to learn from" in text
        assert [text.index(name) for name in names] == sorted(text.index(name) for name in names)
        for name in ("eval_probe_accuracy_before", "eval_probe_f1"):
            low, high = (
                f"{100 * metrics[name.replace('_before', '') + end + '_before' * ('_before' in name)]:.1f}"
                for end in ("_low", "_high")
            )
            assert f"{metrics[name]:.1%} ({low} to {high})" in text
    assert "\n" not in found.line()
    evaluated = ProbeResults({name: value for name, value in metrics.items() if "before" not in name}, found.examples)
    assert "training" not in shown(evaluated) and "model " in shown(evaluated)


FILES = ("labelled.csv", "held_out.csv")


@pytest.mark.slow
def test_two_processes_measure_what_one_does(command, folder, tmp_path):
    """The same models, before and after a training of two processes, each measured by one.

    A text alone in its batch has the same embedding to the last bit in both. See `embedded` for why this matters.
    """
    alone = (*held_out(folder), "--per_device_eval_batch_size", "1")
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", free_port()]
    argv = command(tmp_path / "two", *alone)
    done = subprocess.run([*launch, str(ROOT / "run_mlm_wwm.py"), *argv], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stderr.count("not fine-tuning") == 1, done.stderr[-3000:]
    two = results(tmp_path / "two")
    before = run_mlm_wwm.main(command(tmp_path / "before", *alone, "--do_eval"))
    after = run_mlm_wwm.main(command(tmp_path / "after", *alone, "--do_eval", model=str(tmp_path / "two")))
    names = [name for name in after if "probe" in name]
    assert len(names) == 18 and {name: two[name] for name in names} == pytest.approx(
        {name: after[name] for name in names}
    )
    compared = [name for name in names if name.startswith("eval_")]
    assert [two[f"{name}_before"] for name in compared] == pytest.approx([before[name] for name in compared])


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("missing.csv", None, ("--probe_file: ", "does not exist")),
        ("a.csv", "text,class\na,b\n", ("--probe_file: ", "no label", "text, class")),
        ("a.csv", "text,label\n" + "a,b\n" * 40, ("--probe_file: every example", "'b'", "two labels")),
        ("a.csv", "text,label\n" + "a,b\nc,d\n" * 9, ("--probe_file: ", "18 examples", "give 40 or more")),
        ("a.csv", "text,label\n" + "a,b\n,d\n" * 30, ("--probe_file: example 2 ", "no text")),
    ],
)
def test_a_file_that_is_wrong_is_refused_before_the_text_is_read(
    name, content, words, command, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("wordmask.training.inputs.load_texts", None)
    if content is not None:
        (tmp_path / name).write_text(content, encoding="utf-8")
    sentence = refusal(capsys, run_mlm_wwm.main, *command(tmp_path / "out", "--probe_file", str(tmp_path / name)))
    assert all(word in sentence for word in words), sentence
    assert not (tmp_path / "out").exists()


def test_labels_that_cannot_be_learned_are_refused(command, folder, tmp_path, capsys):
    text = (folder / "held_out.csv").read_text(encoding="utf-8")
    (tmp_path / "dev.csv").write_text(text + "a text,unheard\n", encoding="utf-8")
    argv = command(tmp_path / "out", "--probe_validation_file", str(tmp_path / "dev.csv"))
    sentence = refusal(capsys, run_mlm_wwm.main, *argv)
    assert sentence.startswith("--probe_validation_file: ") and "'unheard', which" in sentence


def test_flags_that_need_the_probe_or_what_it_needs(command, folder, tmp_path, capsys, monkeypatch):
    argv = command(tmp_path / "out")
    place = argv.index("--probe_file")
    without = [*argv[:place], *argv[place + 2 :]]
    for flags, words in (
        (("--metric_for_best_model", "probe_f1"), "needs --probe_file"),
        (held_out(folder), "--probe_validation_file needs --probe_file"),
    ):
        assert words in refusal(capsys, run_mlm_wwm.main, *without, *flags)
    assert "probe_f1, " not in refusal(capsys, run_mlm_wwm.main, *argv, "--probe_fil", "x")
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None if name == "sklearn" else 1)
    sentence = refusal(capsys, run_mlm_wwm.main, *argv)
    assert sentence == "--probe_file needs scikit-learn: pip install scikit-learn"


def test_a_model_without_hidden_states_of_tokens_is_refused(command, tmp_path, capsys):
    overrides = "d_model=32,d_latents=32,num_latents=4,num_self_attends_per_block=1,max_position_embeddings=64"
    argv = command(tmp_path / "out", "--pad_to_max_length", "--max_seq_length", "64")
    argv[:2] = ["--model_type", "perceiver", "--tokenizer_name", argv[1], "--config_overrides", overrides]
    sentence = refusal(capsys, run_mlm_wwm.main, *argv)
    assert sentence.startswith("--probe_file: the encoder of a PerceiverForMaskedLM (--config_overrides ")


def test_figures_without_a_model_are_computed_once_from_what_is_learned_alone(monkeypatch):
    """Of all labels b is the most frequent, and of those to learn from it is a."""
    labels = np.array(["a"] * 3 + ["b"] * 2 + ["b"] * 4)
    examples = LabelledExamples([f"{label} {number}" for number, label in enumerate(labels)], labels, 5)
    embedder = SimpleNamespace(embed=lambda *_: np.arange(18, dtype=np.float32).reshape(9, 2))
    probe = Probe(examples, embedder, 2)
    assert "probe_accuracy" in probe.measure(None, Accelerator(cpu=True))
    assert probe.baselines["probe_majority_accuracy"] == 0
    monkeypatch.setattr(Probe, "_baselines", None)
    probe.measure(None, Accelerator(cpu=True))


def test_dimensions_are_standardized_by_what_is_learned_and_one_that_is_constant_is_0():
    found = standardized(np.array([[1, 5, 2], [3, 5, 4], [9, 5, 5]], np.float32), 2)
    np.testing.assert_allclose(found * 3**0.5, [[-1, 0, -1], [1, 0, 1], [7, 0, 2]])
