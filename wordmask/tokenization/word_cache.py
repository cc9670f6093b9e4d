"""The word cache: each distinct pre-token is encoded once, and its tokens are kept.

We split a text at dividers, characters that its tokenizer never looks beyond. recipes.py says for which tokenizers we
know dividers, and why. What stands between two dividers is called a pre-token here. A text has few distinct
pre-tokens, so we look them up: of `the cat the` the second `the` is not encoded again. Tests check that the result
equals encoding whole texts.
"""

from __future__ import annotations

import re
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, count, repeat
from string import ascii_letters
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from wordmask.tokenization.backend import Tokenizer, untruncated
from wordmask.tokenization.encoding import Encodings, encode_lines
from wordmask.tokenization.per_tokenizer import PerTokenizer
from wordmask.tokenization.recipes import Components, Divider, divider_of
from wordmask.tokenization.words import CHINESE, LETTER, SYMBOL, Characters, CodePointTable, character_class
from wordmask.utils.arrays import BoolArray, IntArray, places_of, starts_of
from wordmask.utils.batches import divided

if TYPE_CHECKING:
    import tokenizers

# Chinese characters that BERT splits off as single tokens, but the library `tokenizers` does not.
_NOT_SPLIT = range(0x2B820, 0x2B920)


class _Tokens(NamedTuple):
    """Tokens with the characters they cover, see `Encodings`."""

    ids: NDArray[np.int32]
    first: NDArray[Any]
    last: NDArray[Any]


_SEPARATOR = "\0"  # stands between pre-tokens while we split; a text that contains it is encoded whole
_LINE_START = "\n"  # marks a pre-token at the start of a line, where the tokenizer treats that differently
_TOGETHER = 100  # pre-tokens in one text, if we can encode them together: three times as fast as one by one


class WordCache(ABC):
    """The tokens of each pre-token that one tokenizer has met. A subclass knows the dividers."""

    _most = 200_000  # characters that we keep, and one more for each pre-token

    def __init__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        """Empty the memory.

        `numbers` gives each pre-token a number, `memory` holds the tokens of all pre-tokens one after the other, and
        `edges` says where the tokens of each begin and end. With the pre-tokens `walked` (walk ##ed) and `he`,
        `numbers` is {walked: 0, he: 1}, `memory.ids` is [walk, ##ed, he] and `edges` is [0, 2, 3].
        """
        self.numbers: dict[str, int] = {}
        self.memory = _Tokens(*(np.zeros(0, np.int32) for _ in _Tokens._fields))
        self.edges = np.zeros(1, np.int64)
        self.size = 0  # see `_most`

    def __call__(self, tokenizer: Tokenizer, characters: Characters) -> Encodings:
        tokens = None if _SEPARATOR in characters.text else self._encode(tokenizer, characters)
        # A token that covers only a space belongs to what follows, which may be another pre-token.
        if tokens is None or not characters.visible[tokens.first].all():
            return encode_lines(tokenizer, characters)
        ids, first, last = tokens
        line_edges = np.searchsorted(first, np.append(characters.line_starts, len(characters.text)))
        return Encodings(ids, np.diff(line_edges), first, last, characters)

    @abstractmethod
    def _encode(self, tokenizer: Tokenizer, characters: Characters) -> _Tokens | None:
        """The tokens of all lines; `None` if encoding whole lines would be as fast."""

    def _group(self, pre_tokens: Sequence[str]) -> list[list[str]]:
        """The same pre-tokens in groups. We join each group with spaces and encode it as one text."""
        return divided(pre_tokens, _TOGETHER)

    def _recall(self, tokenizer: Tokenizer, pre_tokens: Sequence[str], starts: IntArray) -> _Tokens:
        """The tokens of pre-tokens that begin at these characters."""
        if self.size > self._most:
            self._forget()
        numbers = np.fromiter(map(self.numbers.get, pre_tokens, repeat(-1)), np.int64, len(pre_tokens))
        if (numbers < 0).any():
            self._remember(tokenizer, [new for new in dict.fromkeys(pre_tokens) if new not in self.numbers])
            numbers = np.fromiter(map(self.numbers.__getitem__, pre_tokens), np.int64, len(pre_tokens))
        # Where each token stands in the memory. With `edges` [0, 2, 3], the pre-tokens `he walked` have the numbers
        # [1, 0] and the counts [1, 2]. Their tokens stand at [2, 0, 1].
        counts = np.diff(self.edges)[numbers]
        places = places_of(self.edges[numbers], counts)
        ids, first, last = (array[places] for array in self.memory)
        shift = np.repeat(starts, counts)
        return _Tokens(ids, first + shift, last + shift)

    def _remember(self, tokenizer: Tokenizer, pre_tokens: Sequence[str]) -> None:
        """Encode pre-tokens and keep their tokens, with characters counted from the start of the pre-token.

        For the pre-tokens `he`, `ran` in one text `he ran`: lengths [2, 3], starts [0, 3]. A token whose first
        character is 3 belongs to the pre-token 1, and there it begins at 0.
        """
        groups = self._group(pre_tokens)
        tokens = encode_lines(tokenizer, Characters([" ".join(group).removeprefix(_LINE_START) for group in groups]))
        ordered = [*chain.from_iterable(groups)]
        lengths = np.fromiter(
            (len(pre_token.removeprefix(_LINE_START)) for pre_token in ordered), np.int64, len(ordered)
        )
        starts = starts_of(lengths + 1)  # one more for the space or the line end after each pre-token
        owner = np.searchsorted(starts, tokens.first, "right") - 1  # (tokens,) the pre-token of each token
        first, last = ((places - starts[owner]).astype(np.int32) for places in (tokens.first, tokens.last))
        edges = self.edges[-1] + np.cumsum(np.bincount(owner, minlength=len(ordered)))
        self.size += int(lengths.sum()) + len(ordered)
        self.numbers |= zip(ordered, count(len(self.edges) - 1))
        self.edges = np.append(self.edges, edges)
        self.memory = _Tokens(*map(np.append, self.memory, (tokens.ids, first, last)))


def _split(characters: Characters, divides: BoolArray) -> tuple[list[str], IntArray]:
    """The pre-tokens between dividers, and the index of each one's first character.

    We keep the characters of pre-tokens and the first divider after each: `he  ran⏎` becomes he␀ran␀, which splits
    into `he` and `ran`, at 0 and 4.

    Args:
        characters: the characters.
        divides: (characters,) which are dividers; the line ends must be.
    """
    inside = ~divides
    after_inside = np.append([False], inside[:-1])
    kept = np.where(divides, np.uint32(ord(_SEPARATOR)), characters.code_points)[inside | after_inside]
    pre_tokens = kept.tobytes().decode("utf-32-le", "surrogatepass").split(_SEPARATOR)[:-1]
    return pre_tokens, np.flatnonzero(inside & ~after_inside)


class ChineseApart(WordCache):
    """For tokenizers that make each Chinese character a token, as BERT's do.

    Dividers are Chinese characters and spaces: 我ok了 is 我 | ok | 了. We keep the token of each Chinese character by
    its code point.

    Args:
        backend: the backend of the tokenizer.
    """

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        super().__init__()

        def ids(code_points: list[int]) -> list[int]:
            with untruncated(backend):
                return backend.encode("".join(map(chr, code_points)), add_special_tokens=False).ids

        self.chinese_ids = CodePointTable(ids, np.int32)

    def _encode(self, tokenizer: Tokenizer, characters: Characters) -> _Tokens:
        code_points = characters.code_points
        chinese = characters.classes == CHINESE
        chinese &= (code_points < _NOT_SPLIT.start) | (code_points >= _NOT_SPLIT.stop)
        divides = chinese | (code_points == ord("\n")) | (code_points == ord(" "))
        tokens = self._recall(tokenizer, *_split(characters, divides))
        places = np.flatnonzero(chinese)
        of_chinese = _Tokens(self.chinese_ids[code_points[places]], places, places)
        # Both kinds in the order of the text: in 我ok了 `ok` begins at 1, and 我 and 了 at 0 and 3. So [1, 0, 3] gives
        # the order 1 0 2. A stable sort is a merge here, since each kind is in order.
        order = np.argsort(np.append(tokens.first, places), kind="stable")
        return _Tokens(*(np.append(*arrays)[order] for arrays in zip(tokens, of_chinese, strict=True)))


_KEEPS, _CHANGES, _LOSES = range(3)  # what a normalizer does to a character, see _effect_on
_LONG = 16  # mean length of pre-tokens, in characters, from which on most of them are new


class SpacesBefore(WordCache):
    """For tokenizers that begin a pre-token at each space between two characters: byte-level BPE and Metaspace.

    We encode a pre-token after a space together with that space, behind another word. The start of a line is encoded
    as it is. In `he walked`, we encode `he` as `he`, and `walked` as `a walked` without the tokens of `a`.

    Args:
        normalize: what the tokenizer does to a text first.
        filler: the word that we put before a pre-token.
        never: characters beside which a space is not a divider.
        together: the most pre-tokens that we can encode together.
    """

    def __init__(self, normalize: Callable[[str], str], filler: str, never: Iterable[str], together: int) -> None:
        super().__init__()
        self.filler, self.together = _LINE_START + filler, together
        self.effects = CodePointTable(lambda code_points: [_effect_on(chr(point), normalize) for point in code_points])
        self.effects.values[[*map(ord, never)]] = _CHANGES

    def _encode(self, tokenizer: Tokenizer, characters: Characters) -> _Tokens | None:
        code_points = characters.code_points
        effects = self.effects[code_points]
        # A space between two characters that the normalizer keeps. The slices shift the text by one to each side.
        divides = np.zeros(len(code_points), bool)
        divides[1:-1] = (code_points[1:-1] == ord(" ")) & (effects[:-2] == _KEEPS) & (effects[2:] == _KEEPS)
        loses = effects == _LOSES
        if loses.any():  # such lines are encoded whole
            undivided = np.logical_or.reduceat(loses, characters.line_starts)
            divides &= ~np.repeat(undivided, characters.line_lengths + 1)
        divides[characters.line_starts + characters.line_lengths] = True
        if len(code_points) > _LONG * np.count_nonzero(divides):
            return None
        pre_tokens, starts = _split(characters, divides)
        for number in np.flatnonzero(code_points[starts - 1] != ord(" ")).tolist():
            pre_tokens[number] = _LINE_START + pre_tokens[number]
        return self._recall(tokenizer, pre_tokens, starts)

    def _group(self, pre_tokens: Sequence[str]) -> list[list[str]]:
        line_starts, line_ends, others = [], [], []
        for pre_token in pre_tokens:
            if pre_token.startswith(_LINE_START):
                line_starts.append([pre_token])
            elif self.effects.values[ord(pre_token[-1])] != _KEEPS:  # a space after it would be no divider
                line_ends.append([self.filler, pre_token])
            else:
                others.append(pre_token)
        return line_starts + line_ends + [[self.filler, *group] for group in divided(others, self.together)]


def _effect_on(character: str, normalize: Callable[[str], str]) -> int:
    """What a normalizer does to a character.

    Returns:
        `_KEEPS` if a space beside the character can be a divider: the character is neither white space nor a mark, and
        the normalizer makes neither out of it. `_LOSES` if the normalizer removes the character, or other characters
        with it. Then the offsets of everything after it may be wrong, in a way that only the whole line repeats.
        `_CHANGES` otherwise.
    """
    inside = normalize(f"a{character}a")
    if inside == normalize("aa") or not normalize(f"{character}a").endswith("a"):
        return _LOSES
    keeps = (
        character_class(ord(character)) in (LETTER, SYMBOL, CHINESE)
        and unicodedata.category(character) != "Cn"  # not assigned in this Python's Unicode: it may be a mark
        and re.fullmatch(r"a[^\s▁]+a", inside)
        and normalize(f"a{character} {character}a") == f"{inside[:-1]} {inside[1:]}"
    )
    return _KEEPS if keeps else _CHANGES


def _cache_for(tokenizer: Tokenizer) -> WordCache | None:
    """An empty cache for a tokenizer; `None` if it keeps the rules of no recipe."""
    components = Components(tokenizer)
    divider = divider_of(components)
    if not isinstance(divider, Divider):
        return None
    if divider is Divider.CHINESE:
        return ChineseApart(tokenizer.backend_tokenizer)
    # What follows an added token is normalized on its own, so the normalizer may strip a space there.
    strips = any(step.get("strip_left") for step in components.normalizer)
    never = {token.content[-1] for token in components.added if strips and not token.normalized}
    filler = next((letter for letter in ascii_letters if letter not in never), "")
    if {*encode_lines(tokenizer, Characters([filler])).first.tolist()} != {0}:
        return None
    # It may also get a prefix. If trimming removes this again, a token may be left with nothing, and stand for the
    # next visible character. That must not be one of another pre-token.
    trims_prefix = components.trims and components.pre_tokenizer[-1]["add_prefix_space"]
    return SpacesBefore(components.normalize, filler, never, 1 if trims_prefix else _TOGETHER)


# The cache of a tokenizer, with what it keeps already; `None` if we know no divider for this tokenizer.
word_cache_of = PerTokenizer(_cache_for)
