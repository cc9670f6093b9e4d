"""Named entities of sentences: reading them, scoring them, and a linear model of characters that finds them.

A sentence is its characters and their labels, `B-PER`, `I-PER`, …, `O`.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

Sentence = tuple[list[str], list[str]]  # characters, labels
Entity = tuple[str, int, int]  # type, first character, last character


def read_sentences(path: str) -> list[Sentence]:
    """The sentences of a CoNLL file: a character and its label in each line, blank lines between sentences."""
    sentences: list[Sentence] = []
    for block in re.split(r"\n[ \t\r]*\n", Path(path).read_text(encoding="utf-8")):
        pairs = [line.split() for line in block.splitlines() if line.strip()]
        if pairs:
            sentences.append(([first for first, *_ in pairs], [last for *_, last in pairs]))
    return sentences


def entities_of(labels: Sequence[str]) -> set[Entity]:
    """The entities that labels name, strictly: one begins with B, and goes on with I of the same type."""
    found: set[Entity] = set()
    begin, kind = 0, ""
    for place, label in enumerate([*labels, "O"]):
        if kind and label != f"I-{kind}":
            found.add((kind, begin, place - 1))
            kind = ""
        if label.startswith("B-"):
            begin, kind = place, label[2:]
    return found


def f1(gold: Iterable[Sequence[str]], predicted: Iterable[Sequence[str]]) -> float:
    """F1 over all entities of all sentences; an entity is right if its type and both ends are."""
    right = named = there = 0
    for true, guessed in zip(gold, predicted, strict=True):
        one, other = entities_of(true), entities_of(guessed)
        right, there, named = right + len(one & other), there + len(one), named + len(other)
    return 2 * right / (named + there) if right else 0.0


def crf_score(learned: Sequence[Sentence], held_out: Sequence[Sentence]) -> float:
    """F1 of a conditional random field over characters and pairs of them, which no text without labels helps."""
    import pycrfsuite  # only this needs it

    trainer = pycrfsuite.Trainer(algorithm="lbfgs", verbose=False)
    trainer.set_params({"c1": 0.1, "c2": 0.01, "max_iterations": 100, "feature.possible_transitions": True})
    for characters, labels in learned:
        trainer.append(_features(characters), labels)
    with tempfile.TemporaryDirectory() as folder:
        trainer.train(str(Path(folder, "crf")))
        tagger = pycrfsuite.Tagger()
        tagger.open(str(Path(folder, "crf")))
        predicted = [tagger.tag(_features(characters)) for characters, _ in held_out]
        tagger.close()
    return f1([labels for _, labels in held_out], predicted)


def _features(characters: Sequence[str]) -> list[list[str]]:
    """The characters up to two places away, and the pairs of neighbours among them, for each place."""
    padded = ["<", "<", *characters, ">", ">"]
    features = []
    for place in range(2, len(padded) - 2):
        window = padded[place - 2 : place + 3]
        singles = [f"{offset}={character}" for offset, character in enumerate(window)]
        pairs = [f"{offset}:{one}{other}" for offset, (one, other) in enumerate(zip(window, window[1:], strict=False))]
        features.append([*singles, *pairs, f"skip={window[1]}{window[3]}", f"digit={window[2].isdigit()}"])
    return features
