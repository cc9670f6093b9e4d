"""Split lines that are too long for a model or a library."""

from __future__ import annotations

import re
import unicodedata

import regex

# Where we may split: first the ends of sentences, with closing quotes and brackets; then the ends of clauses.
_BORDERS = (re.compile(r"[。！？!?；;…\n]+[”’」』）)】\]\"']*|\.(?=\s)"), re.compile(r"[，,、：:]+|\s+"))
_CLUSTER = regex.compile(r"\X")


def split_long(line: str, limit: int) -> list[str]:
    """Split a line into pieces of at most `limit` tokens. Joined, the pieces are the line.

    We split at the end of a sentence; if there is none, at the end of a clause; if there is none, between grapheme
    clusters; if there is only one, anywhere; each time as near the middle as possible, and again until every piece is
    short enough. We count one token for each character of the line in Unicode's form NFD. The BERT tokenizers that all
    LTP models use never make more. (Of a Korean syllable they make several tokens, and NFD several characters.)
    """
    if len(line) < 2 or len(unicodedata.normalize("NFD", line)) <= limit:
        return [line]
    middle = len(line) // 2
    split = _CLUSTER.match(line, middle - 1).end()
    if split == len(line):
        split = middle
    for border in _BORDERS:
        ends = [match.end() for match in border.finditer(line) if match.end() < len(line)]
        if ends:
            split = min(ends, key=lambda end: abs(end - middle))
            break
    return split_long(line[:split], limit) + split_long(line[split:], limit)
