"""What a run has to say about its text: counted while it is tokenized, and kept beside the tokens.

A warning that is only logged while tokenizing is lost when the next run takes its tokens from the cache, and comes
several times from several processes. So a batch is counted, counts lie in the file with the tokens of the batch, and
each run adds them up and says in one sentence what they come to.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from wordmask.tokenization.words import CHINESE, Characters

logger = logging.getLogger(__name__)

SUBSTANTIAL = 0.1  # the share of Chinese characters from which on a text counts as Chinese
_KEY = b"wordmask.findings"  # in the metadata of each batch of a file of tokens


@dataclass(frozen=True)
class Findings:
    """Counts of texts, to be added up.

    Attributes:
        characters: the characters, white space left aside.
        single: the Chinese ones among them for which no reference and no segmenter gives words.
        positions, left_out: the positions of classic references, and those that join what does not stand together.
        first: where the first of these is.
    """

    characters: int = 0
    single: int = 0
    positions: int = 0
    left_out: int = 0
    first: str = ""

    @classmethod
    def of(cls, characters: Characters, has_words: bool) -> Findings:
        """Those of a batch of lines; `has_words` says whether a reference or a segmenter gives its Chinese words."""
        single = 0 if has_words else int(np.count_nonzero(characters.classes == CHINESE))
        return cls(int(np.count_nonzero(characters.visible)) - len(characters.lines), single)

    def __add__(self, other: Findings) -> Findings:
        return Findings(
            self.characters + other.characters,
            self.single + other.single,
            self.positions + other.positions,
            self.left_out + other.left_out,
            self.first or other.first,
        )


class TokenBatch(NamedTuple):
    """A batch of texts: the tokens of each, as `wordmask.data.collator.Example` has them, and what was found."""

    tokens: pa.ListArray
    findings: Findings

    def write(self, stream: pa.ipc.RecordBatchStreamWriter) -> None:
        """Write the tokens as the column `tokens`, with the findings in the metadata of the batch."""
        batch = pa.record_batch({"tokens": self.tokens})
        stream.write_batch(batch, custom_metadata={_KEY: json.dumps(asdict(self.findings))})


def findings_in(path: str | Path) -> Findings:
    """All findings in a file of tokens."""
    with pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as stream:
        kept = (json.loads(metadata[_KEY]) for _, metadata in stream.iter_batches_with_custom_metadata())
        return total(Findings(**counts) for counts in kept)


def total(findings: Iterable[Findings]) -> Findings:
    """The sum of findings."""
    return reduce(Findings.__add__, findings, Findings())


def left_out(findings: Findings, flag: str, others: str = "") -> list[str]:
    """The sentence on positions that are left out, if there are any; `others` says what becomes of other texts."""
    if not findings.left_out:
        return []
    return [
        f"{flag}: {findings.left_out} of {findings.positions} positions join what does not stand together and are "
        f"left out of the masks{others}; the first is {findings.first}; run_chinese_ref.py makes exact references"
    ]


def single_characters(findings: Findings, flag: str) -> list[str]:
    """The sentence on Chinese text without words, if it is such."""
    if not findings.single or findings.single < SUBSTANTIAL * findings.characters:
        return []
    remedy = "give --segmenter jieba (or ltp)"
    if flag == "--prepared_dir":
        remedy = "prepare the text again with --segmenter jieba (or ltp) or --train_ref_file"
    elif flag.endswith("_file"):
        remedy += f", or {flag.removesuffix('_file')}_ref_file with references that run_chinese_ref.py makes"
    return [
        f"{flag}: {findings.single / findings.characters:.0%} of the characters are Chinese and nothing says which of "
        f"them form words, so single characters are masked; {remedy}"
    ]


class Found(NamedTuple):
    """The findings of a split, with the flags that name its text and its references."""

    findings: Findings
    flag: str
    reference_flag: str


NOTHING = Found(Findings(), "", "")


def warn_of_findings(splits: Sequence[Found], masks_words: bool) -> None:
    """Log what is to be said of the text of a run, each once; `masks_words` says whether words are masked."""
    sentences = [sentence for split in splits for sentence in left_out(split.findings, split.reference_flag)]
    if masks_words:
        sentences += [sentence for split in splits for sentence in single_characters(split.findings, split.flag)][:1]
    for sentence in sentences:
        logger.warning(sentence)
