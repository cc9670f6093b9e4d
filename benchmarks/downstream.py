"""What pretraining is good for: a small model from scratch, pretrained in several ways, fine-tuned with few labels.

    python benchmarks/downstream.py --text newspaper.txt --labelled train.conll --held_out test.conll --seconds 120
    python benchmarks/downstream.py --text reviews.txt --labelled train.csv --held_out test.csv

A .conll file has named entities (entities.py), whose strict F1 counts; every other file is a table with the columns
text and label, whose accuracy counts. All arms pretrain for the same steps, as many as token masking does in
`--seconds` of CPU time. The plain Trainer fine-tunes each on `--sizes` of the labelled examples, with the same
settings; a seed chooses the order, dropout and the new layer. The first line needs no pretraining and no network: a
conditional random field over characters (python-crfsuite), or logistic regression on TF-IDF (scikit-learn).
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_callback import PrinterCallback
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

from bundled import given_or_bundled
from entities import crf_score, f1, read_sentences
from kept import Kept, by_content, digest
from trained import (
    Side,
    Training,
    apart,
    new_model,
    split_text,
    train,
    use_threads,
    write_evaluation,
)
from wordmask.utils.readers import read_columns

WIDTH = 118  # of the tables, also in a file
CALIBRATION = 10  # steps that say how long a step takes
EVALUATED = 300  # lines on which the loss of pretraining is measured, by masked tokens for all arms
TOKENS = ("--masking_strategy", "token")
CHINESE_WORDS = ("--segmenter", "jieba")
ARMS: dict[str, tuple[str, ...] | None] = {
    "no pretraining": None,
    "tokens": TOKENS,
    "whole words": ("--masking_strategy", "whole_word", *CHINESE_WORDS),
    "n-grams of words": ("--masking_strategy", "ngram", *CHINESE_WORDS),
}
TINY = "--layers 1 --hidden 16 --length 32 --batch 4 --steps 2 --seeds 1 --sizes 6 --fewest_steps 2 --epochs 1"


def main(argv: Sequence[str] | None = None) -> dict[str, dict[int, list[float]]]:
    """Print the table, and return the scores of each arm by number of labelled examples, one for each seed."""
    options = parse(sys.argv[1:] if argv is None else argv)
    use_threads(1)
    disable_progress_bar()
    set_verbosity_error()  # a new layer has random weights, as it should
    task = Task.of(options)
    scores = {task.baseline: {size: [task.baseline_score(size)] for size in options.sizes}}
    print(f"{task.baseline}: {scores[task.baseline]}", flush=True)
    with given_or_bundled(options, "chinese") as filled, tempfile.TemporaryDirectory() as temporary:
        folder = Path(options.results or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        kept = Kept(folder / "results.jsonl")
        # A tokenizer that is trained here may number its tokens in another way each time, so the first one is kept.
        tokenizer = digest(options.tokenizer) if options.tokenizer else None
        sizes = [digest(filled.text), tokenizer, options.layers, options.hidden, options.length]
        start = kept.once(
            ["random weights", *sizes], partial(random_model, filled, folder / f"model{len(kept.found)}")
        )
        for arm, model in pretrained(filled, start, folder, kept):
            scores[arm] = {size: task.scores(model, size, options, kept) for size in options.sizes}
            print(f"{arm}: {scores[arm]}", flush=True)
    show(options, task, scores)
    return scores


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", help="by default one trained on the text")
    parser.add_argument("--text", help="to pretrain on; by default a bundled sample")
    parser.add_argument("--labelled", required=True, help="examples to learn from")
    parser.add_argument("--held_out", required=True, help="examples to score")
    parser.add_argument("--held_out_limit", type=int, help="score the first N of them")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=120, help="CPU seconds of pretraining")
    parser.add_argument("--steps", type=int, help="of pretraining, instead")
    parser.add_argument("--learning_rate", type=float, default=2e-3, help="of pretraining")
    parser.add_argument("--flags", default="--warmup_steps 0.1", help="more flags of pretraining")
    parser.add_argument("--arms", nargs="*", choices=ARMS, default=list(ARMS))
    parser.add_argument("--ltp", help="a directory of an LTP model: one more arm")
    parser.add_argument("--sizes", nargs="+", type=int, default=[200, 500, 2000], help="labelled examples")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=float, default=5, help="of fine-tuning")
    parser.add_argument("--fewest_steps", type=int, default=150, help="of fine-tuning")
    parser.add_argument("--fine_tuning_rate", type=float, default=5e-4)
    parser.add_argument("--results", help="a directory of all models and scores; those that it has are not made again")
    parser.add_argument("--tiny", action="store_true", help="sizes of seconds, to see that all runs")
    return parser.parse_args([*TINY.split(), *argv] if "--tiny" in argv else argv)


def pretrained(options: argparse.Namespace, start: str, folder: Path, kept: Kept) -> Iterator[tuple[str, str]]:
    """Each arm with the directory of its model, all from the same random weights in `start`."""
    text, lines = split_text(options.text, EVALUATED, folder)
    evaluated = write_evaluation(lines, start, options.length, folder / "evaluated.pt")
    shared = [digest(start), digest(text), options.length, options.batch]
    case = Training(start, text, evaluated, options.length, options.batch, 1, str(folder / "cache"), 0)
    arms = {arm: ARMS[arm] for arm in options.arms}
    if options.ltp:
        arms["whole words, LTP"] = ("--masking_strategy", "whole_word", "--segmenter", "ltp", "--ltp", options.ltp)
    flags = by_content(options.flags.split())
    steps = options.steps or kept.once([options.seconds, flags, *shared], partial(affordable_steps, options, case))
    for arm, masking in arms.items():
        if masking is None:
            yield arm, start
            continue
        side, target = Side(False, (*options.flags.split(), *masking)), str(folder / f"model{len(kept.found)}")
        depends_on = [flags, masking, steps, options.learning_rate, *shared]
        found = kept.once(depends_on, partial(pretrain, side, case, steps, options.learning_rate, target))
        print(f"{arm}: {found}", flush=True)
        yield arm, found["model"]


def random_model(options: argparse.Namespace, folder: Path) -> str:
    """The directory of a model that has learned nothing."""
    return new_model(options.tokenizer, options.layers, options.hidden, options.length, 0, str(folder))


def pretrain(side: Side, case: Training, steps: int, rate: float, target: str) -> dict[str, Any]:
    """What a training took, its loss, and the directory of its model."""
    return {**apart(partial(train, side, case, steps, rate, target)), "model": target}


def affordable_steps(options: argparse.Namespace, case: Training) -> int:
    """How many steps of token masking the CPU seconds pay for."""
    side = Side(False, (*options.flags.split(), *TOKENS))
    for number in (1, CALIBRATION):  # the first one compiles
        tried = apart(partial(train, side, case, number, options.learning_rate))
    return max(1, round(options.seconds / tried["seconds"] * CALIBRATION))


@dataclass(frozen=True)
class Task:
    """What a model is fine-tuned for.

    Attributes:
        learned, held_out: labelled examples.
        labels: their names; a label's number is its place.
        model: the class of models.
        encode: makes the input of an example, with its label or labels.
        collator: makes batches.
        score: of the held-out examples and the logits of each.
        metric: its name.
        baseline: the name of what needs no pretraining.
        score_baseline: its score, after learning from some examples.
    """

    learned: list[Any]
    held_out: list[Any]
    labels: list[str]
    model: Any
    encode: Callable[..., dict[str, Any]]
    collator: Any
    score: Callable[..., float]
    metric: str
    baseline: str
    score_baseline: Callable[[Any, Any], float]

    @classmethod
    def of(cls, options: argparse.Namespace) -> Task:
        """The task of the labelled files."""
        if options.labelled.endswith(".conll"):
            learned, held_out = read_sentences(options.labelled), read_sentences(options.held_out)
            labels = sorted({label for _, named in [*learned, *held_out] for label in named})
            more: tuple[Any, ...] = (
                AutoModelForTokenClassification,
                encode_sentence,
                DataCollatorForTokenClassification,
            )
            more += (score_entities, "entity F1", "CRF over characters", crf_score)
        else:
            learned, held_out = read_texts(options.labelled), read_texts(options.held_out)
            labels = sorted({label for _, label in [*learned, *held_out]})
            more = AutoModelForSequenceClassification, encode_text, DataCollatorWithPadding
            more += (score_texts, "accuracy", "TF-IDF and logistic regression", tfidf_score)
        for examples in learned, held_out:  # neighbours come from one document
            random.Random(0).shuffle(examples)
        return cls(learned, held_out[: options.held_out_limit], labels, *more)

    def scores(self, model: str, size: int, options: argparse.Namespace, kept: Kept) -> list[float]:
        """The score of a model after fine-tuning on so many examples, for each seed."""
        steps = max(options.fewest_steps, round(options.epochs * size / options.batch))
        texts = digest(options.labelled), digest(options.held_out), options.held_out_limit
        settings = [digest(model), *texts, options.length, options.batch, size, steps, options.fine_tuning_rate]
        return [
            kept.once([*settings, seed], partial(self.fine_tuned, model, size, steps, seed, options))
            for seed in range(options.seeds)
        ]

    def fine_tuned(self, model: str, size: int, steps: int, seed: int, options: argparse.Namespace) -> float:
        """The score of a model that the plain Trainer has fine-tuned."""
        tokenizer = AutoTokenizer.from_pretrained(model)
        encode = partial(self.encode, tokenizer=tokenizer, labels=self.labels, length=options.length)
        learned, held_out = (list(map(encode, part)) for part in (self.learned[:size], self.held_out))
        with tempfile.TemporaryDirectory() as folder:
            arguments = TrainingArguments(
                folder,
                max_steps=steps,
                learning_rate=options.fine_tuning_rate,
                warmup_steps=0.1,
                per_device_train_batch_size=options.batch,
                per_device_eval_batch_size=options.batch,
                train_sampling_strategy="group_by_length",
                seed=seed,
                use_cpu=True,
                save_strategy="no",
                logging_strategy="no",
                report_to="none",
                disable_tqdm=True,
            )
            set_seed(seed)
            network = self.model.from_pretrained(model, num_labels=len(self.labels), dtype=torch.float32)
            collator = self.collator(tokenizer)
            trainer = Trainer(network, arguments, collator, train_dataset=learned, processing_class=tokenizer)
            trainer.remove_callback(PrinterCallback)
            trainer.train()
            arguments.train_sampling_strategy = "random"  # else predictions come in an order of lengths, too
            predictions = trainer.predict(held_out)  # type: ignore[arg-type]
        return self.score(self.held_out, predictions, self.labels)

    def baseline_score(self, size: int) -> float:
        """The baseline's score after so many examples."""
        return self.score_baseline(self.learned[:size], self.held_out)


def encode_sentence(sentence: Any, tokenizer: Any, labels: list[str], length: int) -> dict[str, Any]:
    """The tokens of a sentence; the first token of each character has its label."""
    characters, named = sentence
    characters = [one if tokenizer.tokenize(one) else tokenizer.unk_token for one in characters]  # such as a space
    encoded = tokenizer(characters, is_split_into_words=True, truncation=True, max_length=length)
    numbers, last = [], None
    for word in encoded.word_ids():
        numbers.append(-100 if word is None or word == last else labels.index(named[word]))
        last = word
    return {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"], "labels": numbers}


def score_entities(held_out: list[Any], predictions: Any, labels: list[str]) -> float:
    """F1; characters that were cut off have no entity."""
    guessed = []
    for (characters, _), logits, numbers in zip(held_out, predictions.predictions, predictions.label_ids, strict=True):
        found = [labels[place] for place in np.argmax(logits, -1)[numbers != -100]]
        guessed.append(found + ["O"] * (len(characters) - len(found)))
    return f1([named for _, named in held_out], guessed)


def read_texts(path: str) -> list[tuple[str, str]]:
    """The texts of a table, with their labels."""
    return [(text, label) for text, label in read_columns(path, "--labelled", ("text", "label"))]


def encode_text(example: tuple[str, str], tokenizer: Any, labels: list[str], length: int) -> dict[str, Any]:
    """The tokens of a text and its label."""
    encoded = tokenizer(example[0], truncation=True, max_length=length)
    return {**{name: encoded[name] for name in ("input_ids", "attention_mask")}, "labels": labels.index(example[1])}


def score_texts(held_out: list[Any], predictions: Any, labels: list[str]) -> float:
    """The share of texts whose label is right."""
    return float((np.argmax(predictions.predictions, -1) == predictions.label_ids).mean())


def tfidf_score(learned: list[tuple[str, str]], held_out: list[tuple[str, str]]) -> float:
    """The accuracy of logistic regression on n-grams of one to four characters."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    words = TfidfVectorizer(analyzer="char", ngram_range=(1, 4), max_features=30_000, sublinear_tf=True)
    model = make_pipeline(words, LogisticRegression(C=10, max_iter=1000))
    (texts, labels), (others, truth) = zip(*learned, strict=True), zip(*held_out, strict=True)
    return float(model.fit(texts, labels).score(others, truth))


def show(options: argparse.Namespace, task: Task, scores: dict[str, dict[int, list[float]]]) -> None:
    """Print the table: means over the seeds, and the lowest and the highest score."""
    table = Table(title=f"{task.metric} after fine-tuning, {options.layers} × {options.hidden}, {options.seeds} seeds")
    table.add_column("pretraining")
    for size in options.sizes:
        table.add_column(f"{size:,} examples", justify="right")
    for arm, found in scores.items():
        cells = []
        for values in found.values():
            spread = f" ({min(values):.1%} to {max(values):.1%})" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.1%}{spread}")
        table.add_row(arm, *cells)
    Console(width=WIDTH).print(table)


if __name__ == "__main__":
    main()
