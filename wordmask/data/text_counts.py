"""What the data report counts in examples while they are tokenized. The counts of batches can be added."""

from __future__ import annotations

import base64
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from wordmask.tokenization.encoding import Encodings
from wordmask.tokenization.words import CHINESE, Characters
from wordmask.utils.arrays import BoolArray, IntArray, places_of
from wordmask.utils.batches import BATCH

COUNTS = 5  # the version of these counts
REPORTED = "reported"  # the column of a table of texts that says which of them are counted
STRETCH = BATCH  # examples that are counted together, so that most batches are counted as a whole or not at all
# One of so many stretches of a split is counted: to count all would take 4 to 19 % of the time, as
# benchmarks/prepare.py measures. But not fewer or more stretches than these.
SHARE, LEAST, MOST = 20, 5, 100
KEPT = 500  # different words of a batch that are kept
LONGEST = 40  # characters; what is longer is hardly a word, but text without spaces, or an address
_SUMS = ("examples", "characters", "tokens", "words", "unknown", "unknown_length")
_COUNTERS = ("split", "split_tokens", "unknown_words", "special", "letters")
SAMPLED, BEGINNING = 50, 200  # texts of a batch, spread evenly, and characters of each, whose scripts are counted


def spread(first: int, count: int, total: int) -> BoolArray:
    """(count,) Which of the examples `first`, `first + 1`, ... of `total` are counted: stretches, spread evenly.

    If 2 of 5 stretches are counted, these are 0 and 3: 0 2 4 6 8 are 0 2 4 1 3 modulo 5, and 0 and 1 are below 2.
    """
    stretches = -(-total // STRETCH)
    counted = min(max(-(-stretches // SHARE), LEAST), MOST, stretches)
    return np.arange(first, first + count) // STRETCH * counted % max(stretches, 1) < counted


def no_hashes() -> NDArray[np.uint64]:
    """No hash of a text."""
    return np.zeros(0, np.uint64)


@dataclass(frozen=True)
class TextCounts:
    """Counts over some examples.

    Attributes:
        examples: the number of examples.
        characters: the number of their characters.
        tokens: the number of their tokens, without those that a run adds.
        words: the number of their words, as masking sees them; 0 if the tokenizer does not show words.
        unknown: the number of unknown tokens.
        unknown_length: the number of characters behind them; 0 if the tokenizer does not show words.
        split: how often each split word occurs. A word is split if it has several tokens; a word that begins or ends
            with a Chinese character is split if it has more tokens than characters.
        split_tokens: the tokens of all occurrences of each split word.
        unknown_words: how often each text stands behind an unknown token.
        letters: how many letters of some texts are in each script, see `letters_in`.
        special: how often each special token stands in the text, by its id, such as `"103"` for a written `[MASK]`.
        hashes: (examples with a token,) the hash of each text.
    """

    examples: int = 0
    characters: int = 0
    tokens: int = 0
    words: int = 0
    unknown: int = 0
    unknown_length: int = 0
    split: Counter[str] = field(default_factory=Counter)
    split_tokens: Counter[str] = field(default_factory=Counter)
    unknown_words: Counter[str] = field(default_factory=Counter)
    special: Counter[str] = field(default_factory=Counter)
    letters: Counter[str] = field(default_factory=Counter)
    hashes: NDArray[np.uint64] = field(default_factory=no_hashes)

    def to_json(self) -> dict[str, Any]:
        """The counts as JSON can hold them."""
        hashes = base64.b64encode(self.hashes.astype("<u8").tobytes()).decode("ascii")
        return vars(self) | {"hashes": hashes, "version": COUNTS}

    @classmethod
    def from_json(cls, counts: dict[str, Any]) -> TextCounts:
        """The counts that `to_json` gave; none if they are of another version."""
        if counts.pop("version") != COUNTS:
            return cls()
        hashes = np.frombuffer(base64.b64decode(counts["hashes"]), "<u8")
        return cls(**counts | {name: Counter(counts[name]) for name in _COUNTERS} | {"hashes": hashes})

    @classmethod
    def total(cls, parts: Sequence[TextCounts]) -> TextCounts:
        """The sum of counts."""
        sums = {name: sum(getattr(part, name) for part in parts) for name in _SUMS}
        counters: dict[str, Any] = {name: Counter() for name in _COUNTERS}
        for part in parts:
            for name, counter in counters.items():
                counter.update(getattr(part, name))
        hashes = np.concatenate([no_hashes(), *(part.hashes for part in parts)])
        return cls(**sums, **counters, hashes=hashes)


def counts_of_texts(
    texts: Sequence[str], ids: NDArray[np.integer], lengths: IntArray, special: BoolArray, unknown: int
) -> TextCounts:
    """The counts that need no words.

    Args:
        texts: the examples that are counted.
        ids: (tokens,) the tokens of all of them.
        lengths: (examples,) the number of tokens of each.
        special: (tokens,) which are special tokens.
        unknown: the id of the unknown token, or -1.
    """
    hashed = map(xxhash.xxh3_64_intdigest, map(str.encode, texts))
    hashes = np.fromiter(hashed, np.uint64, len(texts))[lengths > 0]
    unknown_tokens = int(np.count_nonzero(ids == unknown))
    return TextCounts(
        examples=len(texts),
        characters=sum(map(len, texts)),
        tokens=len(ids),
        unknown=unknown_tokens,
        special=Counter(map(str, ids[special].tolist())),
        letters=letters_in(texts),
        hashes=hashes,
    )


def letters_in(texts: Sequence[str]) -> Counter[str]:
    """How many letters of some texts, spread evenly, are in each script, by its name in Unicode, such as `LATIN`.

    Chinese characters are `CJK`, and `KANJI` in a text that has kana, too, and so is Japanese. It is empty only if no
    text has a letter.
    """
    counts: Counter[str] = Counter()
    for text in texts[:: -(-len(texts) // SAMPLED) or 1]:
        counts.update(_scripts_in(text[:BEGINNING]))
    return counts or next(filter(None, map(_scripts_in, texts)), counts)


def _scripts_in(text: str) -> Counter[str]:
    found = Counter(map(_script_of, filter(str.isalpha, text)))
    if found["HIRAGANA"] or found["KATAKANA"]:
        found["KANJI"] = found.pop("CJK", 0)
    return +found


@cache
def _script_of(letter: str) -> str:
    """The first word of its name; `KATAKANA` also for KATAKANA-HIRAGANA PROLONGED SOUND MARK, and in half width."""
    name = unicodedata.name(letter, "OTHER").removeprefix("HALFWIDTH ").removeprefix("FULLWIDTH ")
    return name.replace("-", " ").split()[0]


def count_words(
    tokens: Encodings, counted: IntArray | slice, continues: BoolArray, special: BoolArray, unknown: int
) -> dict[str, Any]:
    """The words, the split words, and what stands behind unknown tokens, as `TextCounts` has them.

    Args:
        tokens: the tokens of a batch.
        counted: the indices of those that are counted.
        continues, special: (tokens,) which tokens continue a word, and which are special, and no word.
        unknown: the id of the unknown token, or -1.
    """
    continues, first, last = continues[counted], tokens.first[counted], tokens.last[counted]
    inside = np.flatnonzero(continues)
    words = len(continues) - len(inside) - np.count_nonzero(special[counted])
    # A word of several tokens begins before the first token that continues it. Of tokens that continue [0 1 1 0 0 1],
    # the numbers 1 2 5 continue. They make words that begin at 0 and 4, and that end at 2 and 5.
    starts, ends = inside[np.diff(inside, prepend=-2) > 1] - 1, inside[np.diff(inside, append=-1) != 1]
    sizes = ends - starts + 1
    starts, stops = first[starts], last[ends] + 1
    classes = tokens.characters.classes
    is_chinese = (classes[starts] == CHINESE) | (classes[stops - 1] == CHINESE)
    is_split = sizes > np.where(is_chinese, stops - starts, 1)
    split, split_tokens = _counted(tokens.characters, starts[is_split], stops[is_split], sizes[is_split])
    of_unknown = np.flatnonzero(tokens.ids[counted] == unknown)
    starts, stops = first[of_unknown], last[of_unknown] + 1
    unknown_words, _ = _counted(tokens.characters, starts, stops, np.ones(len(of_unknown), np.int64))
    return {
        "words": int(words),
        "split": split,
        "split_tokens": split_tokens,
        "unknown_words": unknown_words,
        "unknown_length": int((stops - starts).sum()),
    }


def _with_marks(characters: Characters, stops: IntArray) -> IntArray:
    """(stops,) The stops, behind the marks that follow. Many tokenizers remove marks, so that no token covers them."""
    marks = characters.marks
    if not len(marks.places):
        return stops
    nearest = np.minimum(np.searchsorted(marks.places, stops), len(marks.places) - 1)
    return np.where(marks.places[nearest] == stops, marks.behind[nearest], stops)


def _counted(
    characters: Characters, starts: IntArray, stops: IntArray, sizes: IntArray
) -> tuple[Counter[str], Counter[str]]:
    """How often each text occurs, and the tokens of all its occurrences; of many texts, those with the most tokens.

    We number different texts without making strings of them: that takes a third of the time.

    Args:
        characters: the characters of a batch.
        starts, stops: (occurrences,) where each occurrence begins, and the index after its end.
        sizes: (occurrences,) its number of tokens.
    """
    stops = _with_marks(characters, stops)
    short = stops - starts <= LONGEST
    starts, stops, sizes = starts[short], stops[short], sizes[short]
    lengths = stops - starts
    code_points = characters.code_points[places_of(starts, lengths)]
    edges = 4 * np.concatenate([[0], np.cumsum(lengths)])  # each code point has four bytes
    texts = pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), len(starts), [None, pa.py_buffer(edges), pa.py_buffer(code_points)]
    )
    # The occurrences `he it he ox` have the numbers 0 1 0 2. A number is new where the highest so far rises: 0, 1, 3.
    numbers = texts.dictionary_encode().indices.to_numpy()
    new = np.flatnonzero(np.diff(np.maximum.accumulate(numbers), prepend=-1))
    counts, tokens = np.bincount(numbers), np.bincount(numbers, sizes).astype(np.int64)
    most = np.argsort(-tokens, kind="stable")[:KEPT]
    spans = zip(starts[new[most]].tolist(), stops[new[most]].tolist(), strict=True)
    words = [characters.text[start:stop] for start, stop in spans]
    of_words, tokens_of_words = (
        Counter(dict(zip(words, values[most].tolist(), strict=True))) for values in (counts, tokens)
    )
    return of_words, tokens_of_words
