"""What a run says about its text: counted while the text is tokenized, and kept with the tokens.

A warning that is only logged would be lost when the next run takes its tokens from the cache, and several processes
would log it several times. So each batch of tokens is stored with counts. Each run adds up the counts and logs one
sentence about the sum.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from wordmask.data.text_counts import TextCounts
from wordmask.tokenization.words import CHINESE, Characters
from wordmask.utils.quantities import counted

SUBSTANTIAL = 0.1  # a text with this share of Chinese characters counts as Chinese
_KEY = b"wordmask.findings"  # in the metadata of each batch of a file of tokens


@dataclass(frozen=True)
class Findings:
    """What was counted in texts. Findings can be added, see `total`.

    Attributes:
        characters: the number of characters that are not white space.
        single: the number of Chinese characters among them, if neither a reference nor a segmenter gives words.
        positions: the number of positions in references.
        left_out: the number of positions that we leave out, because white space is before their token.
        example: the place of the first position that we leave out.
        counts: what the data report counts, in a part of the texts.
    """

    characters: int = 0
    single: int = 0
    positions: int = 0
    left_out: int = 0
    example: str = ""
    counts: TextCounts = field(default_factory=TextCounts)

    @classmethod
    def of(cls, characters: Characters, has_words: bool) -> Findings:
        """The findings in a batch of lines; `has_words`: whether a reference or a segmenter gives Chinese words."""
        single = 0 if has_words else int(np.count_nonzero(characters.classes == CHINESE))
        # The line end after each line counts as visible, but is no character of the text.
        return cls(int(np.count_nonzero(characters.visible)) - len(characters.lines), single)

    def to_json(self) -> str:
        """The findings as JSON."""
        return json.dumps(vars(self) | {"counts": self.counts.to_json()}, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: bytes) -> Findings:
        """The findings that `to_json` gave. Those of an older version have no counts."""
        findings = json.loads(text)
        counts = TextCounts.from_json(findings.pop("counts", {}))
        return cls(**findings, counts=counts)


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
    names = ("characters", "single", "positions", "left_out")
    sums = {name: sum(getattr(part, name) for part in parts) for name in names}
    example = next((part.example for part in parts if part.example), "")
    return Findings(**sums, example=example, counts=TextCounts.total([part.counts for part in parts]))


def left_out(findings: Findings, flag: str, others: str = "") -> list[str]:
    """The sentence about positions that we leave out, if any; `others` says what happens to other texts."""
    if not findings.left_out:
        return []
    join, are = ("joins", "is") if findings.left_out == 1 else ("join", "are")
    return [
        f"{flag}: {findings.left_out:,} of {counted(findings.positions, 'position')} {join} what does not stand "
        f"together and {are} left out of the masks{others}; "
        f"the first is {findings.example}; run_chinese_ref.py makes exact references"
    ]


def single_characters(findings: Findings, flag: str) -> list[str]:
    """The sentence about Chinese text without words, if much of the text is Chinese."""
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


class SplitFindings(NamedTuple):
    """The findings of a split, with the flags that name its text and its references."""

    findings: Findings = Findings()
    flag: str = ""
    reference_flag: str = ""
