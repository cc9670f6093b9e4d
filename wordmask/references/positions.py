"""The reference of a line: the positions of the tokens that continue the word of the token before them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain, pairwise
from typing import Any

import numpy as np

from wordmask.references.format import batches
from wordmask.segmenters import Segmenter, load_segmenter, words_of
from wordmask.tokenization.encoding import special_affixes
from wordmask.tokenization.word_cache import tokenize
from wordmask.tokenization.words import segmented
from wordmask.utils.errors import naming_parameters


def line_positions(
    tokenizer, segmenter: Segmenter, lines: Sequence[str], mixed: bool = False, numbers: Sequence[int] | None = None
) -> list[list[int]]:
    """The reference of each line, for tokens that a tokenizer and words that a segmenter gives.

    Args:
        tokenizer: a fast tokenizer.
        segmenter: the source of the words.
        lines: text, taken as it stands.
        mixed: whether words of mixed script (T恤) count, see `wordmask.tokenization.words.segmented`.
        numbers: the number of each line in its file, for an error message.

    Raises:
        InputError: where the words are not those of the lines.
    """
    tokens = tokenize(tokenizer, lines)
    joined = tokens.joined(segmented(tokens.characters, words_of(segmenter, lines), mixed, numbers))
    places = np.flatnonzero(joined)
    edges = np.searchsorted(places, np.append(tokens.line_first, len(joined)))
    before_line = np.repeat(tokens.line_first - len(special_affixes(tokenizer)[0]), np.diff(edges))
    positions = (places - before_line).tolist()
    return [positions[first:end] for first, end in pairwise(edges.tolist())]


def make_references(
    lines: Iterable[str], tokenizer: Any, segmenter: str | Segmenter = "jieba", mixed_words: bool = False
) -> list[list[int]]:
    """The Chinese references of lines, one list of positions for each.

    With the words 我 / 喜欢 / 你 and a tokenizer that makes a token of each character, `[CLS]` being position 0:

        >>> wordmask.make_references(["我喜欢你"], tokenizer, "jieba")
        [[3]]

    Args:
        lines: the text, tokenized later as it stands here.
        tokenizer: a fast tokenizer.
        segmenter: `jieba`, `whitespace`, `package.module:Class`, or an object, such as
            `wordmask.load_segmenter("ltp", model="LTP/small")`.
        mixed_words: whether words of Chinese and letters or digits (T恤) count, too.

    Raises:
        InputError: (a `ValueError`) where the segmenter or the tokenizer cannot be used.
    """
    with naming_parameters():
        source = load_segmenter(segmenter) if isinstance(segmenter, str) else segmenter
        parts = (line_positions(tokenizer, source, batch, mixed_words) for batch in batches(lines))
        return [*chain.from_iterable(parts)]
