"""What the data report counts in examples while they are tokenized. The counts of batches can be added."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from wordmask.tokenization.encoding import Encodings
from wordmask.tokenization.words import CHINESE
from wordmask.utils.arrays import BoolArray, IntArray

COUNTS = 1  # the version of these counts
REPORTED = "reported"  # the column of a table of texts that says which of them are counted
STRETCH = 500  # examples that are counted together, so that most batches have none
LEAST, MOST = 20, 200  # stretches of a split that are counted: a twentieth, but not fewer or more than these
KEPT = 5000  # different words of a batch that are kept
LONGEST = 40  # characters; what is longer is hardly a word, but text without spaces, or an address
_SUMS, _COUNTERS = ("examples", "tokens", "words", "unknown"), ("split", "unknown_words")


def spread(first: int, count: int, total: int) -> BoolArray:
    """(count,) Which of the examples `first`, `first + 1`, ... of `total` are counted: stretches, spread evenly.

    If 2 of 5 stretches are counted, these are 0 and 3: 0 2 4 6 8 are 0 2 4 1 3 modulo 5, and 0 and 1 are below 2.
    """
    stretches = -(-total // STRETCH)
    counted = min(max(stretches // 20, LEAST), MOST)
    return np.arange(first, first + count) // STRETCH * counted % max(stretches, 1) < counted


def no_hashes() -> NDArray[np.uint64]:
    """No hash of a text."""
    return np.zeros(0, np.uint64)


@dataclass(frozen=True)
class TextCounts:
    """Counts over some examples.

    Attributes:
        examples: the number of examples.
        tokens: the number of their tokens, without those that a run adds.
        words: the number of their words, as masking sees them; 0 if the tokenizer does not show words.
        unknown: the number of unknown tokens.
        split: how often each split word occurs, with its number of tokens. A word is split if it has several tokens; a
            word that begins or ends with a Chinese character is split if it has more tokens than characters.
        unknown_words: how often each text stands behind an unknown token.
        hashes: (examples with a token,) the hash of each text.
    """

    examples: int = 0
    tokens: int = 0
    words: int = 0
    unknown: int = 0
    split: Counter[tuple[str, int]] = field(default_factory=Counter)
    unknown_words: Counter[str] = field(default_factory=Counter)
    hashes: NDArray[np.uint64] = field(default_factory=no_hashes)

    def to_json(self) -> dict[str, Any]:
        """The counts as JSON can hold them."""
        return vars(self) | {
            "split": [[*word, count] for word, count in self.split.items()],
            "hashes": base64.b64encode(self.hashes.astype("<u8").tobytes()).decode("ascii"),
        }

    @classmethod
    def from_json(cls, counts: dict[str, Any]) -> TextCounts:
        """The counts that `to_json` gave."""
        split = Counter({(word, tokens): count for word, tokens, count in counts["split"]})
        hashes = np.frombuffer(base64.b64decode(counts["hashes"]), "<u8")
        return cls(**counts | {"split": split, "unknown_words": Counter(counts["unknown_words"]), "hashes": hashes})

    @classmethod
    def total(cls, parts: Sequence[TextCounts]) -> TextCounts:
        """The sum of counts."""
        examples, tokens, words, unknown = (sum(getattr(part, name) for part in parts) for name in _SUMS)
        counters: dict[str, Counter[Any]] = {name: Counter() for name in _COUNTERS}
        for part in parts:
            for name, counter in counters.items():
                counter.update(getattr(part, name))
        hashes = np.concatenate([no_hashes(), *(part.hashes for part in parts)])
        return cls(examples, tokens, words, unknown, counters["split"], counters["unknown_words"], hashes)


def count_texts(texts: Sequence[str], ids: NDArray[np.integer], lengths: IntArray, unknown: int) -> TextCounts:
    """The counts that need no words.

    Args:
        texts: the examples that are counted.
        ids: (tokens,) the tokens of all of them.
        lengths: (examples,) the number of tokens of each.
        unknown: the id of the unknown token, or -1.
    """
    hashed = [text.encode() for text, length in zip(texts, lengths.tolist(), strict=True) if length]
    hashes = np.fromiter(map(xxhash.xxh3_64_intdigest, hashed), np.uint64, len(hashed))
    return TextCounts(len(texts), len(ids), unknown=int(np.count_nonzero(ids == unknown)), hashes=hashes)


def count_words(
    tokens: Encodings, counted: IntArray, continues: BoolArray, special: BoolArray, unknown: int
) -> dict[str, Any]:
    """The number of words, the split words and the unknown words, as `TextCounts` has them.

    Args:
        tokens: the tokens of a batch.
        counted: (counted tokens,) the indices of those that are counted.
        continues, special: (counted tokens,) which of them continue a word, and which are special, and no word.
        unknown: the id of the unknown token, or -1.
    """
    inside = np.flatnonzero(continues)
    words = len(counted) - len(inside) - np.count_nonzero(special)
    # A word of several tokens begins before the first token that continues it. Of tokens that continue [0 1 1 0 0 1],
    # the numbers 1 2 5 continue. They make words that begin at 0 and 4, and that end at 2 and 5.
    starts, ends = inside[np.diff(inside, prepend=-2) > 1] - 1, inside[np.diff(inside, append=-1) != 1]
    sizes = ends - starts + 1
    first, stops = tokens.first[counted[starts]], tokens.last[counted[ends]] + 1
    classes = tokens.characters.classes
    is_chinese = (classes[first] == CHINESE) | (classes[stops - 1] == CHINESE)
    is_split = sizes > np.where(is_chinese, stops - first, 1)
    split = Counter(zip(_texts(tokens, first[is_split], stops[is_split]), sizes[is_split].tolist(), strict=True))
    of_unknown = counted[tokens.ids[counted] == unknown]
    unknown_words = Counter(_texts(tokens, tokens.first[of_unknown], tokens.last[of_unknown] + 1))
    return {"words": int(words), "split": _largest(split), "unknown_words": _largest(unknown_words)}


def _texts(tokens: Encodings, starts: IntArray, stops: IntArray) -> list[str]:
    """The text of spans of characters, but not of long ones: those become empty."""
    stops = np.where(stops - starts > LONGEST, starts, stops)
    text = tokens.characters.text
    return [text[start:stop] for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)]


def _largest(counts: Counter[Any]) -> Counter[Any]:
    """The most frequent entries, if there are many. An empty text does not count."""
    return (
        counts
        if len(counts) <= KEPT
        else Counter(dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:KEPT]))
    )
