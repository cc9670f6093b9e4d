"""benchmarks/time_to_loss.py and benchmarks/downstream.py: what they measure is right. Nothing here judges a time."""

from __future__ import annotations

import csv
import json
import math
import sys
from pathlib import Path

import pytest
import torch
import transformers
from transformers import AutoTokenizer, BertForMaskedLM

from conftest import character_tokenizer, sample_lines

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch):
    """The programs, whose trainings run in this process: to start one takes seconds."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    import downstream
    import time_to_loss

    threads, verbosity = torch.get_num_threads(), transformers.logging.get_verbosity()
    for module in (time_to_loss, downstream):
        monkeypatch.setattr(module, "apart", lambda work: work())
    for name in ("OMP_NUM_THREADS", "RAYON_NUM_THREADS", "TOKENIZERS_PARALLELISM"):
        monkeypatch.setenv(name, "1")
    yield
    torch.set_num_threads(threads)
    transformers.logging.set_verbosity(verbosity)
    transformers.utils.logging.enable_progress_bar()


@pytest.mark.parametrize("first", [1, 7, 50, 180])
def test_the_shortest_training_is_found_from_either_side_and_interpolated(first):
    from time_to_loss import STEP, shortest

    tried = []

    def run(steps: int) -> dict[str, float]:
        tried.append(steps)
        return {
            "steps": steps,
            "seconds": 2 * steps,
            "wall": 3 * steps,
            "tokens": 10 * steps,
            "loss": 9 - math.log(steps),
        }

    found = shortest(run, 9 - math.log(60), first, 400)
    assert found["steps"] == pytest.approx(60) and found["seconds"] == pytest.approx(120), "a line over log(steps)"
    assert found["tokens"] == pytest.approx(600) and found["loss"] == 9 - math.log(60)
    short, long = max(steps for steps in tried if steps < 60), min(steps for steps in tried if steps >= 60)
    assert long <= math.ceil(short * STEP)


def test_a_side_that_never_has_the_loss_is_not_said_to_have_it():
    from time_to_loss import shortest

    run = dict.fromkeys(("seconds", "wall", "steps", "tokens"), 5.0)
    assert shortest(lambda steps: run | {"loss": 3.0}, 2.0, 10, 40)["seconds"] == math.inf
    assert shortest(lambda steps: run | {"loss": 1.0}, 2.0, 10, 40) == run | {"loss": 1.0}, "one step is enough"


def test_the_loss_of_the_evaluation_is_that_of_the_model_under_the_written_masks(english_model, tmp_path):
    from trained import evaluate, write_evaluation

    lines = sample_lines("english", 20)
    path = write_evaluation(lines, english_model, 32, tmp_path / "masks.pt")
    tokenizer, model = AutoTokenizer.from_pretrained(english_model), BertForMaskedLM.from_pretrained(english_model)
    total = count = labelled = 0
    for ids, attention, chosen, labels in torch.load(path):
        assert (ids[chosen] == tokenizer.mask_token_id).all() and attention[chosen].all()
        whole = torch.full_like(ids, -100).masked_scatter(chosen, labels)
        with torch.no_grad():
            total += float(model.eval()(input_ids=ids, attention_mask=attention, labels=whole).loss) * len(labels)
        count, labelled = count + int(attention.sum()), labelled + len(labels)
    assert evaluate(model, path) == pytest.approx(total / labelled, rel=1e-5)
    assert 0.05 < labelled / count < 0.25
    again = write_evaluation(lines, english_model, 32, tmp_path / "again.pt")
    assert all(torch.equal(one[0], other[0]) for one, other in zip(torch.load(path), torch.load(again), strict=True))


def test_the_loss_by_frequency_is_that_of_counts(tmp_path):
    from trained import loss_by_frequency

    tokenizer = character_tokenizer(["ab"])
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "text.txt").write_text("a a\na b\n", encoding="utf-8")
    a, b = tokenizer.convert_tokens_to_ids(["a", "b"])
    torch.save([(0, 0, 0, torch.tensor([a])), (0, 0, 0, torch.tensor([b]))], tmp_path / "evaluated.pt")
    size = len(tokenizer)
    expected = -(math.log((3 + 1) / (4 + size)) + math.log((1 + 1) / (4 + size))) / 2
    found = loss_by_frequency(str(tmp_path / "text.txt"), str(tmp_path), 8, str(tmp_path / "evaluated.pt"))
    assert found == pytest.approx(expected)


def test_both_sides_begin_with_the_same_weights_and_are_counted_alike(english_model, tmp_path):
    from trained import Side, Training, new_model, train, write_evaluation

    lines = sample_lines("english", 12)
    (tmp_path / "text.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    masks = write_evaluation(lines, english_model, 32, tmp_path / "masks.pt")
    model = new_model(english_model, 1, 16, 32, 0, str(tmp_path / "model"))
    case = Training(model, str(tmp_path / "text.txt"), masks, 32, 4, 1, str(tmp_path / "cache"), 0)
    tokens = sum(len(AutoTokenizer.from_pretrained(model)(line)["input_ids"][:32]) for line in lines)
    for side in (Side(True), Side(False)):
        found = train(side, case, 3, 0.0, str(tmp_path / "saved"))  # one epoch, in which nothing is learned
        assert found["tokens"] == tokens and found["steps"] == 3 and found["seconds"] > 0
        saved, given = (BertForMaskedLM.from_pretrained(path).state_dict() for path in (tmp_path / "saved", model))
        assert all(torch.equal(saved[name], given[name]) for name in given)


@pytest.mark.slow
def test_time_to_loss_prints_its_tables_and_repeats_no_training_of_its_results(
    english_model, tmp_path, monkeypatch, capsys
):
    import time_to_loss

    text = tmp_path / "text.txt"
    text.write_text("".join(f"{line}\n" for line in sample_lines("english", 30)), encoding="utf-8")
    flags = [
        "--tiny",
        "--tokenizer",
        english_model,
        "--text",
        str(text),
        "--results",
        str(tmp_path / "results"),
        "--sides",
        "ours, defaults",
    ]
    flags += ["--add_side", "ours, warm-up=--warmup_steps 0.1"]
    results = time_to_loss.main(flags)
    assert list(results) == ["plain Trainer", "ours, defaults", "ours, warm-up"]
    [plain] = results["plain Trainer"]
    assert plain["steps"] == 3 and math.isfinite(plain["loss"])
    for [found] in list(results.values())[1:]:
        assert found["seconds"] > 0
    printed = capsys.readouterr().out
    assert "times as fast" in printed and "after the same seconds" in printed

    monkeypatch.setattr(time_to_loss, "train", lambda *arguments: pytest.fail("trained again"))
    monkeypatch.setattr(time_to_loss.Comparison, "_warm_up", lambda self: None)
    assert time_to_loss.main(flags) == results


@pytest.mark.slow
def test_all_sides_start_from_the_model_of_the_other_text_and_train_on_their_own(english_model, tmp_path):
    """Both files have the same name, and the other text is a new one in the second call."""
    import time_to_loss
    from kept import digest

    lines, results = sample_lines("english", 40), tmp_path / "results"
    text, before = tmp_path / "own" / "text.txt", tmp_path / "other" / "text.txt"
    for path in (text, before):
        path.parent.mkdir()
    text.write_text("\n".join(lines[:20]), encoding="utf-8")
    flags = f"--tiny --tokenizer {english_model} --text {text} --before {before} --results {results} --sides"
    more = ["--plain_rates", "1", "--threads", "2", "--equal_seconds"]
    for other, rate in ((lines[20:30], "1e-3"), (lines[30:], "1e-3"), (lines[30:], "1e-2")):
        before.write_text("\n".join(other), encoding="utf-8")
        time_to_loss.main([*flags.split(), "ours, defaults", "--learning_rate", rate, *more])
    assert set((results / "text-train.txt").read_text(encoding="utf-8").split("\n")) <= {*lines[:20], ""}
    kept = [json.loads(line)[0] for line in (results / "trainings.jsonl").read_text(encoding="utf-8").splitlines()]
    trained = [training[2] for training in map(json.loads, kept) if not training[-1]]  # model, text, evaluation
    first, own = digest(str(results / "model0")), digest(str(results / "text-train.txt"))
    started = [digest(str(path)) for path in (results / "before").iterdir() if path.is_dir()]
    assert len({first, *started}) == 4, "two texts, and a second rate"
    assert {model for model, _, _ in trained} == {*started} and {text for _, text, _ in trained} == {own}


def test_time_to_loss_names_a_side_that_does_not_exist(capsys):
    import time_to_loss

    with pytest.raises(SystemExit):
        time_to_loss.main(["--sides", "theirs"])
    assert "theirs: there is none of that name" in capsys.readouterr().err


@pytest.mark.parametrize(
    "labels, entities",
    [
        ("O B-PER I-PER O", {("PER", 1, 2)}),
        ("B-PER B-PER", {("PER", 0, 0), ("PER", 1, 1)}),
        ("B-PER I-LOC", {("PER", 0, 0)}),  # an I of another type ends it, and begins none
        ("I-ORG I-ORG O", set()),
        ("B-LOC I-LOC", {("LOC", 0, 1)}),
    ],
)
def test_entities_are_read_strictly(labels, entities):
    from entities import entities_of

    assert entities_of(labels.split()) == entities


def test_f1_counts_entities_whose_type_and_ends_are_right():
    from entities import f1

    gold = [["B-PER", "I-PER", "O"], ["B-LOC", "O", "B-ORG"]]
    assert f1(gold, gold) == 1.0
    # Two entities are named, one of three is right: precision 1/2, recall 1/3.
    assert f1(gold, [["B-PER", "O", "O"], ["B-LOC", "O", "O"]]) == pytest.approx(0.4)
    assert f1(gold, [["O"] * 3] * 2) == 0.0


def write_conll(path: Path, number: int) -> str:
    """Sentences in which 李 and the character after it are a person."""
    sentences = []
    for place in range(number):
        name = "明华强"[place % 3]
        labelled = [("我", "O"), ("见", "O"), ("李", "B-PER"), (name, "I-PER"), ("了", "O")][place % 2 :]
        sentences.append("".join(f"{character} {label}\n" for character, label in labelled))
    path.write_text("\n".join(sentences), encoding="utf-8")
    return str(path)


def test_the_random_field_finds_what_neighbours_tell(tmp_path):
    pytest.importorskip("pycrfsuite")
    from entities import crf_score, read_sentences

    sentences = read_sentences(write_conll(tmp_path / "a.conll", 20))
    assert len(sentences) == 20 and sentences[0] == (list("我见李明了"), ["O", "O", "B-PER", "I-PER", "O"])
    assert crf_score(sentences[:15], sentences[15:]) == 1.0


def test_a_character_without_a_token_of_its_own_keeps_its_place(chinese_model):
    import numpy as np

    from downstream import encode_sentence, score_entities

    tokenizer = AutoTokenizer.from_pretrained(chinese_model)
    sentence = (["我", "\u200b", "李", "明"], ["O", "O", "B-PER", "I-PER"])
    encoded = encode_sentence(sentence, tokenizer, ["B-PER", "I-PER", "O"], 8)
    labels = np.array(encoded["labels"])
    kept = [number for number in encoded["labels"] if number != -100]
    assert len(encoded["labels"]) == len(encoded["input_ids"]) and kept[-2:] == [0, 1]
    right = transformers.trainer_utils.PredictionOutput(
        np.eye(3)[np.where(labels == -100, 2, labels)][None], labels[None], None
    )
    assert score_entities([sentence], right, ["B-PER", "I-PER", "O"]) == 1.0


def test_each_prediction_is_scored_with_its_own_sentence(tmp_path):
    """The sentences have different lengths, by which the Trainer would order its predictions."""
    pytest.importorskip("pycrfsuite")
    import downstream

    blocks = ["".join(f"{one} O\n" for one in "我" * length) + "李 B-PER\n明 I-PER\n" for length in range(1, 17)]
    learned = tmp_path / "a.conll"
    learned.write_text("\n".join(blocks), encoding="utf-8")
    fine_tuning = "--sizes 16 --fewest_steps 60 --fine_tuning_rate 1e-2 --batch 8"
    given = ["--labelled", str(learned), "--held_out", str(learned), "--arms", "no pretraining"]
    scores = downstream.main(["--tiny", *fine_tuning.split(), *given])
    assert scores["no pretraining"][16][0] > 0.9


def test_a_digest_is_of_names_and_content(tmp_path):
    from kept import digest

    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for folder, name, text in (("a", "x", "1"), ("b", "x", "1")):
        (tmp_path / folder / name).write_text(text, encoding="utf-8")
    assert digest(str(tmp_path / "a")) == digest(str(tmp_path / "b"))
    before = digest(str(tmp_path / "a")), digest(str(tmp_path / "a" / "x"))
    (tmp_path / "a" / "x").write_text("2", encoding="utf-8")
    (tmp_path / "b" / "x").rename(tmp_path / "b" / "y")
    found = digest(str(tmp_path / "a")), digest(str(tmp_path / "a" / "x")), digest(str(tmp_path / "b"))
    assert len({*before, *found}) == 5
    both = digest(str(tmp_path / "a"), str(tmp_path / "b"))
    (tmp_path / "b" / "y.pyc").write_text("compiled", encoding="utf-8")
    assert digest(str(tmp_path / "a"), str(tmp_path / "b")) == both not in found


def test_downstream_goes_on_where_it_ended(tmp_path, monkeypatch):
    pytest.importorskip("pycrfsuite")
    import downstream

    learned = write_conll(tmp_path / "a.conll", 8)
    given = ["--tiny", "--labelled", learned, "--held_out", learned, "--results", str(tmp_path / "results")]
    first = downstream.main([*given, "--arms", "tokens"])
    for where, name in ((downstream, "train"), (downstream.Task, "fine_tuned")):
        monkeypatch.setattr(where, name, lambda *arguments: pytest.fail("trained again"))
    assert downstream.main([*given, "--arms", "tokens"]) == first


@pytest.mark.slow
@pytest.mark.parametrize("task", ["entities", "texts"])
def test_downstream_fine_tunes_every_arm_beside_a_baseline(task, tmp_path, capsys):
    import downstream

    if task == "entities":
        pytest.importorskip("pycrfsuite")
        learned, held_out = write_conll(tmp_path / "a.conll", 8), write_conll(tmp_path / "b.conll", 4)
    else:
        learned, held_out = str(tmp_path / "a.csv"), str(tmp_path / "b.csv")
        for path in (learned, held_out):
            with open(path, "w", encoding="utf-8", newline="") as file:
                csv.writer(file).writerows([("text", "label"), *[("很好", "good"), ("太差", "bad")] * 4])
    tried = [*downstream.ARMS] if task == "entities" else ["no pretraining", "tokens"]
    scores = downstream.main(["--tiny", "--labelled", learned, "--held_out", held_out, "--arms", *tried])
    baseline, *arms = scores
    assert arms == tried and scores[baseline][6][0] > 0.9
    assert all(0 <= score <= 1 for found in scores.values() for score in found[6])
    printed = capsys.readouterr().out
    assert "entity F1" in printed if task == "entities" else "accuracy" in printed
