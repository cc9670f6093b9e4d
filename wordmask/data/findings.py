"""What a run finds in its text: counted while the text is tokenized, and kept with the tokens.

A warning that is only logged would be lost when the next run takes its tokens from the cache, and several processes
would log it several times. So each batch of tokens is stored with counts. Each run adds up the counts, and advice.py
makes one sentence of the sum.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from wordmask.data.text_counts import TextCounts
from wordmask.segmenters import Segmenter
from wordmask.tokenization.words import SCRIPTS, Characters
from wordmask.utils.arrays import BoolArray, Integers

PHRASES = {"Thai", "Lao", "Khmer", "Myanmar"}  # what stands between two spaces is a phrase, if not words are separated
WORD_LENGTH = 8  # their words have 4 to 6 characters on average, with marks, and their phrases 20 or more
_KEY = b"wordmask.findings"  # in the metadata of each batch of a file of tokens


@dataclass(frozen=True)
class Findings:
    """What was counted in texts. Findings can be added, see `total`.

    Attributes:
        characters: the number of characters that are not white space.
        unsegmented: how many of them are in each script that is written without spaces, if neither references nor a
            segmenter give words in it.
        positions: the number of positions in references.
        left_out: the number of positions that we leave out, because white space is before their token.
        example: the place of the first position that we leave out.
        counts: what the data report counts, in a part of the texts.
    """

    characters: int = 0
    unsegmented: Counter[str] = field(default_factory=Counter)
    positions: int = 0
    left_out: int = 0
    example: str = ""
    counts: TextCounts = field(default_factory=TextCounts)

    @classmethod
    def of(cls, characters: Characters, without_words: Sequence[str] = SCRIPTS) -> Findings:
        """The findings in a batch of lines, given the scripts in which nothing gives words."""
        scripts = characters.scripts if without_words and not characters.text.isascii() else np.zeros(0, np.int8)
        found = {name: int(np.count_nonzero(scripts == SCRIPTS.index(name) + 1)) for name in without_words}
        for name in PHRASES & found.keys():
            if found[name] and _is_divided(characters, scripts == SCRIPTS.index(name) + 1):
                found[name] = 0
        # The line end after each line counts as visible, but is no character of the text.
        visible = int(np.count_nonzero(characters.visible)) - len(characters.lines)
        return cls(visible, Counter({name: count for name, count in found.items() if count}))

    def to_json(self) -> str:
        """The findings as JSON."""
        return json.dumps(vars(self) | {"counts": self.counts.to_json()}, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: bytes) -> Findings:
        """The findings that `to_json` gave."""
        findings = json.loads(text)
        counts = TextCounts.from_json(findings.pop("counts"))
        return cls(**findings | {"unsegmented": Counter(findings["unsegmented"])}, counts=counts)


def unknown_scripts(segmenter: Segmenter) -> list[str]:
    """The scripts whose words a segmenter was not made to find."""
    return [script for script in SCRIPTS if segmenter.scripts and script not in segmenter.scripts]


def _is_divided(characters: Characters, in_script: BoolArray) -> bool:
    """Whether white space or U+200B separates the words of a script: they are short, and phrases are long.

    Args:
        characters: the characters of a batch of lines.
        in_script: (characters,) which are in the script.
    """
    word_ids = characters.word_ids[in_script]
    words = int(np.count_nonzero(np.diff(word_ids, prepend=0)))
    return len(word_ids) <= WORD_LENGTH * words


class TokenBatch(NamedTuple):
    """The tokens of each text of a batch, as `wordmask.data.collator.Example` has them, and the findings."""

    tokens: pa.ListArray
    findings: Findings

    def write(self, stream: pa.ipc.RecordBatchStreamWriter) -> None:
        """Write the tokens as the column `tokens`, with the findings in the metadata of the batch."""
        batch = pa.record_batch({"tokens": self.tokens})
        stream.write_batch(batch, custom_metadata={_KEY: self.findings.to_json()})


def findings_in(path: str | Path) -> Findings:
    """All findings in a file of tokens."""
    with pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as stream:
        metadata = (metadata for _, metadata in stream.iter_batches_with_custom_metadata())
        return total(Findings.from_json(of_batch[_KEY]) for of_batch in metadata)


def total(findings: Iterable[Findings]) -> Findings:
    """The sum of findings. The first place counts."""
    parts = list(findings)
    sums = {name: sum(getattr(part, name) for part in parts) for name in ("characters", "positions", "left_out")}
    unsegmented: Counter[str] = sum((part.unsegmented for part in parts), Counter())
    example = next((part.example for part in parts if part.example), "")
    return Findings(
        **sums, unsegmented=unsegmented, example=example, counts=TextCounts.total([part.counts for part in parts])
    )


class SplitFindings(NamedTuple):
    """The findings of a split, with the flags that name its text and its references (empty if it has none), and where
    a segmenter's words are from, if it has any."""

    findings: Findings = Findings()
    flag: str = ""
    reference_flag: str = ""
    segmented_by: str = ""


class LongLines(NamedTuple):
    """The lines that are longer than the room, in tokens, of a sequence; the tokens lost, and what is done to them."""

    lines: int
    room: int
    lost: int
    action: str


class SplitText(NamedTuple):
    """The text of a split: what was found, its examples (`None`: a stream), and its long lines, if known."""

    found: SplitFindings
    examples: int | None
    long_lines: LongLines | None = None
    tokens: int = 0  # all tokens of all examples, if known
    lengths: Integers | None = None  # (sequences,) the tokens of each, if known: lines may be cut or joined
