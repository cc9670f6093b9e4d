"""--train_weights: each corpus has its share, a resume goes on exactly, and each has its own loss wherever one is."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

import run_mlm_wwm
from conftest import refusal, sample_lines, sample_tokenizer, save_model, trajectory
from wordmask.training.trainer.mlm_trainer import MlmTrainer

NEWS, WIKI = 30, 12  # lines of each corpus


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two corpora, with as many lines to evaluate on, and a model without dropout."""
    path = tmp_path_factory.mktemp("mixing")
    lines = [f"{line[: 12 + 9 * (number % 4)]} {number}" for number, line in enumerate(sample_lines("english", 90))]
    for name, own in (("news", lines[:NEWS]), ("wiki", lines[60 : 60 + WIKI])):
        (path / f"{name}.txt").write_text("\n".join(own), encoding="utf-8")
    (path / "news_dev.txt").write_text("\n".join(lines[30:45]), encoding="utf-8")
    (path / "wiki_dev.txt").write_text("\n".join(lines[80:88]), encoding="utf-8")
    settings = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    save_model(path / "model", sample_tokenizer("bert"), "bert", **settings)
    return path


def command(folder: Path, out: Path, *more: str, weights: str = "0.5 0.5") -> list[str]:
    return [
        *("--model_name_or_path", str(folder / "model"), "--cache_dir", str(folder / "cache")),
        *("--train_file", str(folder / "news.txt"), str(folder / "wiki.txt"), "--train_weights", *weights.split()),
        *"--use_cpu --max_seq_length 48 --per_device_train_batch_size 6 --logging_steps 1 --do_train".split(),
        *("--save_strategy", "no", "--output_dir", str(out), *more),
    ]


def validation(folder: Path) -> list[str]:
    return ["--do_eval", "--validation_file", str(folder / "news_dev.txt"), str(folder / "wiki_dev.txt")]


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture
def seen(monkeypatch) -> list[list[tuple[tuple[int, ...], tuple[int, ...]]]]:
    """For each step the sequences that were trained on, each as its tokens and its labels."""
    steps: list[list[tuple[tuple[int, ...], tuple[int, ...]]]] = []
    plain = MlmTrainer.training_step

    def spied(self, model, inputs, *more):
        if self.state.global_step >= len(steps):
            steps.append([])
        labels = inputs["labels"]
        tokens = torch.where(labels == -100, inputs["input_ids"], labels)
        for row, label, real in zip(tokens, labels, inputs["attention_mask"].bool(), strict=True):
            steps[-1].append((tuple(row[real].tolist()), tuple(label[real].tolist())))
        return plain(self, model, inputs, *more)

    monkeypatch.setattr(MlmTrainer, "training_step", spied)
    return steps


@pytest.mark.parametrize("weights, shares", [("0.5 0.5", (21, 21)), ("0.9 0.1", (38, 4))])
def test_each_corpus_has_its_share_and_what_comes_again_has_new_masks(weights, shares, folder, tmp_path, seen):
    run_mlm_wwm.main(
        command(folder, tmp_path / "out", "--num_train_epochs", "3", "--mlm_probability", "0.5", weights=weights)
    )
    drawn = [sequence for step in seen for sequence in step]
    times, tokenizer = Counter(tokens for tokens, _ in drawn), AutoTokenizer.from_pretrained(folder / "model")
    for name, share in zip(("news", "wiki"), shares, strict=True):
        lines = (folder / f"{name}.txt").read_text(encoding="utf-8").split("\n")
        own = [times[tuple(tokenizer(line, truncation=True, max_length=48)["input_ids"])] for line in lines]
        assert sum(own) == 3 * share and max(own) - min(own) <= 1, "each line comes as often as the others"
    assert len({*drawn}) > 0.8 * len(drawn) and len(drawn) == 3 * (NEWS + WIKI)


@pytest.mark.slow
def test_a_killed_run_goes_on_as_if_nothing_had_happened(folder, tmp_path, seen):
    """With all that is drawn; in the middle of an epoch, at the end of one, and with workers that load batches."""
    drawn = [
        "--masking_strategy",
        "whole_word:0.6,span:0.4",
        "--mlm_probability",
        "0.1..0.8",
        "--num_train_epochs",
        "3",
    ]
    out = tmp_path / "whole"
    run_mlm_wwm.main(command(folder, out, *drawn, "--save_strategy", "steps", "--save_steps", "1"))
    whole = [*seen]
    assert len(whole) == 21
    for at, workers in ((4, "1"), (14, "0")):
        part = tmp_path / f"part{at}"
        part.mkdir()
        shutil.copytree(out / f"checkpoint-{at}", part / f"checkpoint-{at}")
        shutil.copy(out / "wordmask_run.json", part)
        seen[:] = whole[:at]
        more = ["--save_strategy", "steps", "--save_steps", "21", "--dataloader_num_workers", workers]
        run_mlm_wwm.main(command(folder, part, *drawn, *more))
        assert seen == whole, "the same sequences with the same masks in each step"
        assert trajectory(part) == trajectory(out)
        one, other = (load_file(path / "checkpoint-21" / "model.safetensors") for path in (out, part))
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_other_weights_on_the_way_are_told_and_taken(folder, tmp_path, caplog, seen):
    often = ["--save_strategy", "steps", "--save_steps", "2", "--max_steps"]
    run_mlm_wwm.main(command(folder, tmp_path, *often, "2", weights="0.7 0.3"))
    run_mlm_wwm.main(command(folder, tmp_path, *often, "4", weights="0.3 0.7"))
    assert "--train_weights: 0.7 0.3 -> 0.3 0.7" in caplog.text and len(seen) == 4


def test_the_losses_of_corpora_are_shown_wherever_the_total_is(folder, tmp_path, capsys):
    out = tmp_path / "out"
    argv = command(folder, out, *validation(folder), "--num_train_epochs", "2", "--eval_strategy", "epoch")
    metrics = run_mlm_wwm.main([*argv, "--log_format", "plain"])
    names = ["eval_news_dev_loss", "eval_wiki_dev_loss"]
    assert min(metrics[name] for name in names) < metrics["eval_loss"] < max(metrics[name] for name in names)
    assert {f"{name}_before" for name in names} <= {*metrics}
    assert all(read(out / "all_results.json")[name] == metrics[name] for name in names)
    shown = "".join(capsys.readouterr())
    assert shown.count(", loss of news_dev ") >= 2 and "evaluation loss of wiki_dev" in shown
    mixture = "mixture: news: 50.0% of the sequences, "
    assert (
        mixture in shown and "0.7 times in an epoch; wiki: 50.0% of the sequences, " in shown and "1.75 times" in shown
    )
    record = read(out / "wordmask_run.json")
    assert record["arguments"]["train_weights"] == [0.5, 0.5] and f"mixture: {record['described']['mixture']}" in shown
    for page in ("report.html", "README.md"):
        text = (out / page).read_text(encoding="utf-8")
        assert "evaluation loss of news_dev" in text.replace("\n", " ") and "1.75 times in an epoch" in text, page
        assert "train_weights" in text.replace("<wbr>", ""), page
    logged = [entry for entry in read(out / "trainer_state.json")["log_history"] if names[1] in entry]
    assert len(logged) >= 2, "trackers get them, too"


def test_the_loss_of_a_corpus_is_that_of_its_own_evaluation(folder, tmp_path):
    """The first corpus has the masks that it has alone. The total is the mean over all masked tokens."""
    both, first = (tmp_path / name for name in ("both", "first"))
    argv = ["--model_name_or_path", str(folder / "model"), "--use_cpu", "--do_eval", "--max_seq_length", "48"]
    of_both = run_mlm_wwm.main([*argv, *validation(folder)[1:], "--output_dir", str(both)])
    alone = run_mlm_wwm.main([*argv, "--validation_file", str(folder / "news_dev.txt"), "--output_dir", str(first)])
    assert of_both["eval_news_dev_loss"] == pytest.approx(alone["eval_loss"], rel=1e-5)
    assert "eval_news_dev_loss" not in alone, "one corpus is the total"
    share = (of_both["eval_loss"] - of_both["eval_wiki_dev_loss"]) / (
        of_both["eval_news_dev_loss"] - of_both["eval_wiki_dev_loss"]
    )
    assert 0.3 < share < 0.9, "about as many masked tokens as its lines say: 15 of 23"


def test_the_best_model_can_be_that_of_one_corpus(folder, tmp_path, capsys):
    argv = command(folder, tmp_path / "out", *validation(folder), "--max_steps", "2", "--eval_strategy", "steps")
    argv += ["--eval_steps", "1", "--save_strategy", "steps", "--save_steps", "1", "--load_best_model_at_end"]
    run_mlm_wwm.main([*argv, "--metric_for_best_model", "eval_wiki_dev_loss"])
    state = read(tmp_path / "out" / "trainer_state.json")
    losses = [entry.get("eval_wiki_dev_loss") for entry in state["log_history"] if entry["step"]]
    assert state["best_metric"] == min(filter(None, losses))
    argv[argv.index(str(tmp_path / "out"))] = str(tmp_path / "other")
    sentence = refusal(capsys, run_mlm_wwm.main, *argv, "--metric_for_best_model", "news_loss")
    assert "--metric_for_best_model: an evaluation here gives no news_loss; choose from" in sentence
    assert "wiki_dev_loss" in sentence


def test_without_validation_text_each_corpus_is_split(folder, tmp_path):
    metrics = run_mlm_wwm.main(
        command(folder, tmp_path / "out", "--do_eval", "--validation_split_percentage", "10", "--max_steps", "1")
    )
    assert {"eval_news_loss", "eval_wiki_loss"} <= {*metrics}
    assert (metrics["eval_samples"], metrics["train_samples"]) == (3 + 1, 27 + 11)


@pytest.mark.parametrize("more", ["--no_line_by_line", "--pack_sequences --length_schedule 24:0.5,48:0.5"])
def test_prepared_text_is_mixed_as_text_is(more, folder, tmp_path):
    argv = command(folder, tmp_path / "plain", *more.split(), *validation(folder), "--max_steps", "5")
    if "schedule" in more:
        del argv[argv.index("--max_seq_length") : argv.index("--max_seq_length") + 2]
    plain = run_mlm_wwm.main(argv)
    directory = str(tmp_path / "prepared")
    layout = [flag for flag in argv if flag == "--no_line_by_line"]
    texts = argv[argv.index("--train_file") : argv.index("--train_weights")] + validation(folder)[1:]
    model = ["--model_name_or_path", str(folder / "model"), "--use_cpu"]
    run_mlm_wwm.main([*model, *texts, *layout, "--prepare_only", "--prepared_dir", directory])
    begin, end = argv.index("--train_file"), argv.index("--train_weights")
    prepared = argv[:begin] + argv[end:]
    place = prepared.index("--validation_file")
    prepared = prepared[:place] + prepared[place + 3 :]
    prepared[prepared.index("--output_dir") + 1] = str(tmp_path / "from_prepared")
    found = run_mlm_wwm.main([*prepared, "--prepared_dir", directory])
    for name in ("train_loss", "eval_loss", "eval_news_dev_loss", "eval_wiki_dev_loss"):
        assert found[name] == plain[name]


def test_reference_files_go_with_patterns_and_weights(chinese_model, tmp_path, capsys):
    """A pattern is one corpus: two files of `books`, each with its references."""
    lines = sample_lines("chinese", 30)
    (tmp_path / "books").mkdir()
    for name, own in (("books/1", lines[:6]), ("books/2", lines[6:11]), ("web", lines[11:15])):
        (tmp_path / f"{name}.txt").write_text("\n".join(own), encoding="utf-8")
        (tmp_path / f"{name}.ref").write_text("[2]\n" * len(own), encoding="utf-8")
    argv = ["--model_name_or_path", chinese_model, "--use_cpu", "--output_dir", str(tmp_path / "out")]
    argv += ["--train_file", str(tmp_path / "books/*.txt"), str(tmp_path / "web.txt"), "--train_weights", "0.2", "0.8"]
    argv += ["--train_ref_file", str(tmp_path / "books/*.ref"), str(tmp_path / "web.ref"), "--save_strategy", "no"]
    run_mlm_wwm.main([*argv, "--do_train", "--max_steps", "2", "--log_format", "plain"])
    shown = "".join(capsys.readouterr())
    assert "mixture: books: 20.0% of the sequences" in shown and "; web: 80.0% of the sequences" in shown
    assert "3 times in an epoch" in shown, "12 of 15 sequences come from 4 lines"


@pytest.mark.parametrize(
    "weights, more, words",
    [
        ("1", "", ["1 weight for 2 of --train_file"]),
        ("0 1", "", ["are not all above 0"]),
        ("0.999 0.001", "", ["an epoch has 42 sequences", "wiki is not one of them"]),
        ("0.5 0.5", "--do_eval --validation_split_percentage 99", ["30 texts of news", "too few to set 99 % apart"]),
    ],
)
def test_weights_that_cannot_be_are_one_sentence(weights, more, words, folder, tmp_path, capsys):
    sentence = refusal(capsys, run_mlm_wwm.main, *command(folder, tmp_path / "out", *more.split(), weights=weights))
    assert all(word in sentence for word in words), sentence


def test_weights_that_do_not_fit_prepared_text_are_one_sentence(folder, tmp_path, capsys):
    directory, model = str(tmp_path / "prepared"), ["--model_name_or_path", str(folder / "model"), "--use_cpu"]
    run_mlm_wwm.main([*model, "--train_file", str(folder / "*.txt"), "--prepare_only", "--prepared_dir", directory])
    argv = [*model, "--prepared_dir", directory, "--train_weights", "0.5", "0.5", "--do_train"]
    sentence = refusal(capsys, run_mlm_wwm.main, *argv, "--output_dir", str(tmp_path / "out"))
    assert "2 weights for 1 of the corpora in --prepared_dir" in sentence


def test_prepared_text_that_was_not_split_by_corpus_is_one_sentence(folder, tmp_path, capsys):
    directory, model = str(tmp_path / "prepared"), ["--model_name_or_path", str(folder / "model"), "--use_cpu"]
    files = ["--train_file", str(folder / "news.txt"), str(folder / "wiki.txt")]
    weights, out = ["--train_weights", "0.5", "0.5"], ["--output_dir", str(tmp_path / "out")]
    run_mlm_wwm.main([*model, *files, "--prepare_only", "--prepared_dir", directory])
    run = [*model, "--prepared_dir", directory, *weights, "--do_train", "--do_eval", "--max_steps", "1", *out]
    sentence = refusal(capsys, run_mlm_wwm.main, *run)
    assert "the validation text in" in sentence and "is a part of the first corpus alone" in sentence
    again = str(tmp_path / "again")
    run_mlm_wwm.main([*model, *files, *weights, "--prepare_only", "--prepared_dir", again])
    run[run.index(directory)] = again
    assert {"eval_news_loss", "eval_wiki_loss"} <= {*run_mlm_wwm.main(run)}


def test_a_limit_counts_in_each_of_many_corpora(folder, tmp_path):
    """Eleven have no losses of their own, and are evaluated all the same."""
    line = (folder / "news_dev.txt").read_text(encoding="utf-8")
    files = [tmp_path / f"part{number}.txt" for number in range(11)]
    for file in files:
        file.write_text(line, encoding="utf-8")
    argv = ["--model_name_or_path", str(folder / "model"), "--use_cpu", "--do_eval", "--max_eval_samples", "3"]
    argv += ["--output_dir", str(tmp_path / "out"), "--validation_file"]
    metrics = run_mlm_wwm.main([*argv, *map(str, files)])
    assert metrics["eval_samples"] == 33 and "eval_part1_loss" not in metrics
    assert "eval_part1_loss" in run_mlm_wwm.main([*argv[:-3], *argv[-1:], *map(str, files[:10]), *argv[-3:-1]])


def test_a_corpus_may_have_a_name_that_begins_like_a_probe(folder, tmp_path):
    shutil.copy(folder / "wiki_dev.txt", tmp_path / "probe_dev.txt")
    argv = command(folder, tmp_path / "out", "--do_eval", "--validation_file", str(folder / "news_dev.txt"))
    argv += [str(tmp_path / "probe_dev.txt"), "--max_steps", "1", "--eval_strategy", "steps", "--eval_steps", "1"]
    argv[argv.index("--save_strategy") + 1] = "steps"
    run_mlm_wwm.main([*argv, "--save_steps", "1", "--metric_for_best_model", "probe_dev_loss"])
    assert read(tmp_path / "out" / "trainer_state.json")["best_metric"] > 0


@pytest.mark.parametrize("metric", ["eval_wiki_loss", "eval_eval_wiki_loss"])
def test_a_corpus_may_have_a_name_that_begins_like_a_metric(metric, folder, tmp_path):
    """The list of metrics that a sentence gives has `eval_wiki_loss`, so that name is taken, too."""
    shutil.copy(folder / "wiki_dev.txt", tmp_path / "eval_wiki.txt")
    argv = command(folder, tmp_path / "out", "--do_eval", "--validation_file", str(folder / "news_dev.txt"))
    argv += [str(tmp_path / "eval_wiki.txt"), "--max_steps", "1", "--eval_strategy", "steps", "--eval_steps", "1"]
    argv[argv.index("--save_strategy") + 1] = "steps"
    metrics = run_mlm_wwm.main([*argv, "--save_steps", "1", "--metric_for_best_model", metric])
    assert read(tmp_path / "out" / "trainer_state.json")["best_metric"] == metrics["eval_eval_wiki_loss"]


def test_the_loss_of_a_corpus_without_text_chooses_no_model(folder, tmp_path, capsys):
    (tmp_path / "blank.txt").write_text("\n\n", encoding="utf-8")
    argv = command(folder, tmp_path / "out", *validation(folder), str(tmp_path / "blank.txt"), "--max_steps", "1")
    sentence = refusal(capsys, run_mlm_wwm.main, *argv, "--metric_for_best_model", "blank_loss")
    assert "gives no blank_loss; choose from" in sentence and sentence.endswith("news_dev_loss, wiki_dev_loss")


@pytest.mark.parametrize("more", ["", "--tokens_per_step 120"])
def test_each_step_has_the_mixture_although_lengths_are_grouped(more, tmp_path, folder, seen):
    """Short and long corpora, half of the sequences each: by length alone, steps would have one of them."""
    lines = sample_lines("english", 200)
    (tmp_path / "short.txt").write_text("\n".join(line[:14] for line in lines[:80]), encoding="utf-8")
    (tmp_path / "long.txt").write_text("\n".join(line[:60] for line in lines[80:160]), encoding="utf-8")
    argv = command(folder, tmp_path / "out", "--train_sampling_strategy", "group_by_length", *more.split())
    place = argv.index("--train_file")
    argv[place + 1 : place + 3] = [str(tmp_path / "short.txt"), str(tmp_path / "long.txt")]
    run_mlm_wwm.main([*argv, "--num_train_epochs", "1"])
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    short = {
        tuple(tokenizer(line)["input_ids"])
        for line in (tmp_path / "short.txt").read_text(encoding="utf-8").split("\n")
    }
    shares = [sum(tokens in short for tokens, _ in step) / len(step) for step in seen[:-1]]
    assert len(shares) > 15 and all(0.3 <= share <= 0.7 for share in shares), shares
