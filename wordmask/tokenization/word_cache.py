"""The word cache: each distinct pre-token is encoded once, however often it comes.

A text is cut at dividers, characters that its tokenizer never sees beyond; recipes.py says for which tokenizers these
are known, and why. What stands between two dividers is a pre-token here. There are few distinct ones, so they are
looked up: of `the cat the` the second `the` is not encoded again. Tests hold the result equal to encoding whole texts.

The environment variable WORDMASK_WORD_CACHE=off turns the cache off: the same tokens and words, but slower.
"""

from __future__ import annotations

import os
import re
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, count, repeat
from string import ascii_letters
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from wordmask.tokenization.encoding import TokenizedLines, encode_lines, require_fast, whole
from wordmask.tokenization.recipes import Divider, Parts, divider_of
from wordmask.tokenization.words import (
    CHINESE,
    CHINESE_BLOCKS,
    LETTER,
    SYMBOL,
    Characters,
    character_class,
)

# The characters of these blocks that `tokenizers` does not set apart, though BERT does.
_LEFT_TOGETHER = range(0x2B820, 0x2B920)


def tokenize(tokenizer, lines: Sequence[str]) -> TokenizedLines:
    """Tokenize lines as they stand, uncut and without special tokens, and find each token's word.

    Args:
        tokenizer: a fast tokenizer of transformers.
        lines: the text.

    Raises:
        InputError: where the tokenizer gives no offsets.
    """
    require_fast(tokenizer, "--tokenizer_name", ", or use --masking_strategy token")
    characters = Characters(lines)
    cache = None if os.environ.get(SWITCH, "").lower() in ("off", "0", "no", "false") else WordCache.of(tokenizer)
    return cache(tokenizer, characters) if cache else encode_lines(tokenizer, characters)


def _added_tokens(tokenizer) -> Any:
    """What tells when tokens were added to a tokenizer, also such as its vocabulary had already."""
    return {index: repr(token) for index, token in tokenizer.added_tokens_decoder.items()}


class _Tokens(NamedTuple):
    """Tokens of pre-tokens, see `TokenizedLines`."""

    ids: NDArray[np.int32]
    first: NDArray[Any]
    last: NDArray[Any]


SWITCH = "WORDMASK_WORD_CACHE"
_BETWEEN = "\0"  # what pre-tokens are divided by; a text that holds it is encoded as it is
_BEGINS = "\n"  # marks a pre-token that begins a line, where its kind takes that for something else
_TOGETHER = 100  # pre-tokens in a text, where they can be encoded together: three times as fast as one by one


class WordCache(ABC):
    """The tokens of each pre-token that was met, for one tokenizer; a subclass knows the dividers."""

    _known: WeakKeyDictionary[Any, tuple[Any, WordCache | None]] = WeakKeyDictionary()
    _most = 200_000  # characters that are remembered, at least one for a pre-token

    def __init__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        """Begin an empty memory.

        `numbers` gives each pre-token its number, `memory` holds the tokens of all, one behind the other, and `edges`
        says where those of each begin and end: with the pre-tokens `walked` (walk ##ed) and `he`, `numbers` is
        {walked: 0, he: 1}, `memory.ids` [walk, ##ed, he] and `edges` [0, 2, 3].
        """
        self.numbers: dict[str, int] = {}
        self.memory = _Tokens(*(np.zeros(0, kind) for kind in [np.int32] * 3))
        self.edges = np.zeros(1, np.int64)
        self.held = 0

    @classmethod
    def of(cls, tokenizer) -> WordCache | None:
        """The cache of a tokenizer, with what it remembers; `None` where it is not known how far that one sees."""
        known, added = cls._known.get(tokenizer), _added_tokens(tokenizer)
        if known is None or known[0] != added:
            known = cls._known[tokenizer] = added, _cache_for(tokenizer)
        return known[1]

    def __call__(self, tokenizer, characters: Characters) -> TokenizedLines:
        tokens = None if _BETWEEN in characters.text else self._encode(tokenizer, characters)
        # A token that stands at a space stands for what follows its pre-token.
        if tokens is None or not characters.visible[tokens.first].all():
            return encode_lines(tokenizer, characters)
        ids, first, last = tokens
        edges = np.searchsorted(first, np.append(characters.line_starts, len(characters.text)))
        return TokenizedLines(ids, np.diff(edges), first, last, characters)

    @abstractmethod
    def _encode(self, tokenizer, characters: Characters) -> _Tokens | None:
        """The tokens of all lines; `None` where that would be no quicker than to encode them whole."""

    @abstractmethod
    def _texts(self, pre_tokens: Sequence[str]) -> list[list[str]]:
        """Texts in which pre-tokens can be encoded: each a list, to be joined by spaces."""

    def _recall(self, tokenizer, pre_tokens: Sequence[str], starts: NDArray[np.int64]) -> _Tokens:
        """The tokens of pre-tokens that begin at these characters."""
        if self.held > self._most:
            self._forget()
        numbers = np.fromiter(map(self.numbers.get, pre_tokens, repeat(-1)), np.int64, len(pre_tokens))
        if (numbers < 0).any():
            self._remember(tokenizer, [new for new in dict.fromkeys(pre_tokens) if new not in self.numbers])
            numbers = np.fromiter(map(self.numbers.__getitem__, pre_tokens), np.int64, len(pre_tokens))
        # Where each token lies in the memory. With `edges` [0, 2, 3] and `numbers` [1, 0], counts are [1, 2], ends
        # [1, 3], and the places 2 + [0], 0 + [0, 1]: what is repeated is a start less the tokens that come before.
        counts = np.diff(self.edges)[numbers]
        ends = np.cumsum(counts)
        places = np.repeat(self.edges[numbers] - ends + counts, counts) + np.arange(counts.sum())
        ids, first, last = (array[places] for array in self.memory)
        shift = np.repeat(starts, counts)
        return _Tokens(ids, first + shift, last + shift)

    def _remember(self, tokenizer, pre_tokens: Sequence[str]) -> None:
        """Encode pre-tokens, and count the characters of each token from the start of its pre-token."""
        texts = self._texts(pre_tokens)
        tokens = encode_lines(tokenizer, Characters([" ".join(text).removeprefix(_BEGINS) for text in texts]))
        ordered = [*chain.from_iterable(texts)]
        lengths = np.fromiter((len(one.removeprefix(_BEGINS)) for one in ordered), np.int64, len(ordered))
        starts = np.cumsum(lengths + 1) - lengths - 1  # behind each pre-token is a space or the end of a text
        owner = np.searchsorted(starts, tokens.first, "right") - 1  # the pre-token that each token lies in
        first, last = ((places - starts[owner]).astype(np.int32) for places in (tokens.first, tokens.last))
        edges = self.edges[-1] + np.cumsum(np.bincount(owner, minlength=len(ordered)))
        self.held += int(lengths.sum()) + len(ordered)
        self.numbers |= zip(ordered, count(len(self.edges) - 1))
        self.edges = np.append(self.edges, edges)
        self.memory = _Tokens(*map(np.append, self.memory, (tokens.ids, first, last)))


def _divided(characters: Characters, divides: NDArray[np.bool_]) -> tuple[list[str], NDArray[np.int64]]:
    """The pre-tokens between dividers, among which the ends of lines have to be, and where they begin."""
    inside = ~divides
    behind = np.append([False], inside[:-1])
    kept = np.where(divides, np.uint32(ord(_BETWEEN)), characters.code_points)[inside | behind]
    pre_tokens = kept.tobytes().decode("utf-32-le", "surrogatepass").split(_BETWEEN)[:-1]
    return pre_tokens, np.flatnonzero(inside & ~behind)


def _groups(pre_tokens: Sequence[str], size: int) -> list[list[str]]:
    return [[*pre_tokens[at : at + size]] for at in range(0, len(pre_tokens), size)]


class ChineseApart(WordCache):
    """For tokenizers that make every Chinese character a word of its own, as BERT's do.

    Dividers are Chinese characters, whose tokens are known by their code points, and spaces: 我ok了 is 我 | ok | 了.

    Args:
        spaced: whether there are added tokens with white space in them, which spaces may not divide.
    """

    def __init__(self, spaced: bool) -> None:
        super().__init__()
        self.spaced = spaced
        self.characters = np.full(CHINESE_BLOCKS[-1][1] + 1, -1, np.int32)  # tokens by code point

    def _encode(self, tokenizer, characters: Characters) -> _Tokens:
        points = characters.code_points
        alone = characters.classes == CHINESE
        alone &= (points < _LEFT_TOGETHER.start) | (points >= _LEFT_TOGETHER.stop)
        divides = alone | (points == ord("\n")) | (points == ord(" ")) & (not self.spaced)
        tokens = self._recall(tokenizer, *_divided(characters, divides))
        places = np.flatnonzero(alone)
        # The tokens of pre-tokens stand behind those before them and behind the Chinese characters before them: in
        # 我ok了 the token of ok has the index 0 + 1, so that 我 and 了 get the places that are left, 0 and 2.
        index = np.arange(len(tokens.ids)) + (np.cumsum(alone, dtype=np.int32) - alone)[tokens.first]
        others = np.ones(len(places) + len(index), bool)
        others[index] = False
        rest = np.flatnonzero(others)

        def merge(of_pre_tokens: NDArray[Any], of_characters: NDArray[Any]) -> NDArray[Any]:
            merged = np.empty(len(others), of_pre_tokens.dtype)
            merged[index], merged[rest] = of_pre_tokens, of_characters
            return merged

        ids = merge(tokens.ids, self._ids(tokenizer, points[places]))
        return _Tokens(ids, merge(tokens.first, places), merge(tokens.last, places))

    def _ids(self, tokenizer, code_points: NDArray[np.uint32]) -> NDArray[np.int32]:
        """The token of each Chinese character."""
        ids = self.characters[code_points]
        if (ids < 0).any():
            unknown = [*{*code_points[ids < 0].tolist()}]
            text = "".join(map(chr, unknown))
            self.characters[unknown] = whole(tokenizer).encode(text, add_special_tokens=False).ids
            ids = self.characters[code_points]
        return ids

    def _texts(self, pre_tokens: Sequence[str]) -> list[list[str]]:
        return _groups(pre_tokens, 1 if self.spaced else _TOGETHER)


_SOLID, _OTHER, _LOST = 1, 2, 3  # see _kind
_LONG = 16  # characters in the mean pre-token, from where on few are met again


class SpacesBefore(WordCache):
    """For tokenizers that begin a pre-token at each space between two characters: byte-level BPE and Metaspace.

    What follows such a space is encoded with it, behind another word, and the beginning of each line as it stands: in
    `he walked`, `he` is encoded as `he` and `walked` as `a walked`, of which the tokens of `a` are left out.

    Args:
        normalize: what the tokenizer does to a text first.
        before: the word that stands before what is encoded.
        never: characters beside which no space divides.
        alone: what a pre-token may hold that is not encoded together with others.
    """

    def __init__(
        self, normalize: Callable[[str], str], before: str, never: Iterable[str], alone: re.Pattern[str] | None
    ) -> None:
        super().__init__()
        self.normalize, self.before, self.alone = normalize, _BEGINS + before, alone
        self.kinds = np.zeros(0x110000, np.int8)  # by code point, of the characters that were met
        self.kinds[[*map(ord, never)]] = _OTHER

    def _encode(self, tokenizer, characters: Characters) -> _Tokens | None:
        points = characters.code_points
        kinds = self._kinds(points)
        divides = np.zeros(len(points), bool)
        divides[1:-1] = (points[1:-1] == ord(" ")) & (kinds[:-2] == _SOLID) & (kinds[2:] == _SOLID)
        lost = kinds == _LOST
        if lost.any():
            whole = np.logical_or.reduceat(lost, characters.line_starts)
            divides &= ~np.repeat(whole, characters.line_lengths + 1)
        divides[characters.line_starts + characters.line_lengths] = True
        if len(points) > _LONG * np.count_nonzero(divides):
            return None
        pre_tokens, starts = _divided(characters, divides)
        for number in np.flatnonzero(points[starts - 1] != ord(" ")).tolist():
            pre_tokens[number] = _BEGINS + pre_tokens[number]
        return self._recall(tokenizer, pre_tokens, starts)

    def _kinds(self, code_points: NDArray[np.uint32]) -> NDArray[np.int8]:
        """The kind of each character."""
        kinds = self.kinds[code_points]
        if not kinds.all():
            for point in {*code_points[kinds == 0].tolist()}:
                self.kinds[point] = _kind(self.normalize, chr(point))
            kinds = self.kinds[code_points]
        return kinds

    def _texts(self, pre_tokens: Sequence[str]) -> list[list[str]]:
        beginnings, alone, others = [], [], []
        for one in pre_tokens:
            if one.startswith(_BEGINS):
                beginnings.append([one])
            elif self._ends_line(one) or self.alone and self.alone.search(f"{one} {self.normalize(one)}"):
                alone.append([one])
            else:
                others.append(one)
        return beginnings + [[self.before, *group] for group in alone + _groups(others, _TOGETHER)]

    def _ends_line(self, pre_token: str) -> bool:
        """Whether no space that divides can follow."""
        return self.kinds[ord(pre_token[-1])] != _SOLID


def _kind(normalize: Callable[[str], str], character: str) -> int:
    """What a normalizer makes of a character.

    Returns:
        `_SOLID` where it may stand beside a space that divides: neither white space nor a mark, and the normalizer
        makes neither of it. `_LOST` where nothing is left of it, or it takes others with it: the offsets of all that
        follows may be wrong then, and only the whole line has the same. `_OTHER` else.
    """
    inside = normalize(f"a{character}a")
    if inside == normalize("aa") or not normalize(f"{character}a").endswith("a"):
        return _LOST
    solid = (
        character_class(ord(character)) in (LETTER, SYMBOL, CHINESE)
        and character not in _LETTERS_LIKE_MARKS
        and unicodedata.category(character) != "Cn"  # newer than Python: perhaps a mark
        and re.fullmatch(r"a[^\s▁]+a", inside)
        and normalize(f"a{character} {character}a") == f"{inside[:-1]} {inside[1:]}"
    )
    return _SOLID if solid else _OTHER


_LETTERS_LIKE_MARKS = "\u0e33\u0eb3\uff9e\uff9f"  # Unicode joins them to the character before


def _cache_for(tokenizer) -> WordCache | None:
    """An empty cache for a tokenizer; `None` where no recipe is known to hold for it."""
    parts = Parts.of(tokenizer)
    divider = divider_of(parts) if parts else None
    if parts is None or not isinstance(divider, Divider):
        return None
    if divider is Divider.CHINESE:
        return ChineseApart(spaced=any(re.search(r"\s", token.content) for token in parts.added))
    # What follows an added token is normalized by itself, so that a space may be stripped there.
    stripped = any(step.get("strip_left") for step in parts.normalizer)
    never = {token.content[-1] for token in parts.added if stripped and not token.normalized}
    before = next((letter for letter in ascii_letters if letter not in never), "")
    if {*encode_lines(tokenizer, Characters([before])).first.tolist()} != {0}:
        return None
    # It may get a prefix, too. Where that is trimmed away again, a token may have nothing left and stand for the next.
    prefixed = parts.trims and parts.pre_tokenizer[-1]["add_prefix_space"]
    alone = re.compile("|".join(map(re.escape, parts.contents))) if prefixed and parts.contents else None
    return SpacesBefore(parts.normalize, before, never, alone)
