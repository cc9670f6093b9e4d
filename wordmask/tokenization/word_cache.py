"""Tokenizing with a memory: what a tokenizer sees by itself is encoded once, however often it comes."""

from __future__ import annotations

import json
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
from wordmask.tokenization.words import (
    CHINESE,
    CHINESE_BLOCKS,
    LETTER,
    SYMBOL,
    Characters,
    character_class,
    is_chinese,
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
    characters, runs = Characters(lines), Runs.of(tokenizer)
    return runs(tokenizer, characters) if runs else encode_lines(tokenizer, characters)


def _added_tokens(tokenizer) -> Any:
    """What tells when tokens were added to a tokenizer, also such as its vocabulary had already."""
    return {index: repr(token) for index, token in tokenizer.added_tokens_decoder.items()}


class _Tokens(NamedTuple):
    """Tokens of runs, see `TokenizedLines`."""

    ids: NDArray[np.int32]
    first: NDArray[Any]
    last: NDArray[Any]


_BETWEEN = "\0"  # what runs are divided by; a text that holds it is encoded as it is
_BEGINS = "\n"  # marks a run that begins a line, where its kind takes that for something else
_TOGETHER = 100  # runs in a text, where they can be encoded together: three times as fast as one by one


class Runs(ABC):
    """Encoding for tokenizers that never see beyond certain characters.

    What stands between two of these, a run, is encoded once and remembered: there are few distinct ones. A test holds
    it equal to encoding whole lines.
    """

    _known: WeakKeyDictionary[Any, tuple[Any, Runs | None]] = WeakKeyDictionary()
    _most = 200_000  # characters that are remembered, at least one for a run

    def __init__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        """Begin an empty memory: each run's number, the tokens of all runs, and where those of each begin and end."""
        self.numbers: dict[str, int] = {}
        self.memory = _Tokens(*(np.zeros(0, kind) for kind in [np.int32] * 3))
        self.edges = np.zeros(1, np.int64)
        self.held = 0

    @classmethod
    def of(cls, tokenizer) -> Runs | None:
        """The encoder of a tokenizer, with what it remembers; `None` where it is not known how far that one sees."""
        known, added = cls._known.get(tokenizer), _added_tokens(tokenizer)
        if known is None or known[0] != added:
            known = cls._known[tokenizer] = added, _runs_for(tokenizer)
        return known[1]

    def __call__(self, tokenizer, characters: Characters) -> TokenizedLines:
        tokens = None if _BETWEEN in characters.text else self._encode(tokenizer, characters)
        # A token that stands at a space stands for what follows its run.
        if tokens is None or not characters.visible[tokens.first].all():
            return encode_lines(tokenizer, characters)
        ids, first, last = tokens
        edges = np.searchsorted(first, np.append(characters.line_starts, len(characters.text)))
        return TokenizedLines(ids, np.diff(edges), first, last, characters)

    @abstractmethod
    def _encode(self, tokenizer, characters: Characters) -> _Tokens | None:
        """The tokens of all lines; `None` where that would be no quicker than to encode them whole."""

    @abstractmethod
    def _texts(self, runs: Sequence[str]) -> list[list[str]]:
        """Texts in which runs can be encoded: each a list, to be joined by spaces."""

    def _recall(self, tokenizer, runs: Sequence[str], starts: NDArray[np.int64]) -> _Tokens:
        """The tokens of runs that begin at these characters."""
        if self.held > self._most:
            self._forget()
        numbers = np.fromiter(map(self.numbers.get, runs, repeat(-1)), np.int64, len(runs))
        if (numbers < 0).any():
            self._remember(tokenizer, [run for run in dict.fromkeys(runs) if run not in self.numbers])
            numbers = np.fromiter(map(self.numbers.__getitem__, runs), np.int64, len(runs))
        counts = np.diff(self.edges)[numbers]
        ends = np.cumsum(counts)
        places = np.repeat(self.edges[numbers] - ends + counts, counts) + np.arange(counts.sum())
        ids, first, last = (array[places] for array in self.memory)
        shift = np.repeat(starts, counts)
        return _Tokens(ids, first + shift, last + shift)

    def _remember(self, tokenizer, runs: Sequence[str]) -> None:
        """Encode runs, and count the characters of each token from the start of its run."""
        texts = self._texts(runs)
        tokens = encode_lines(tokenizer, Characters([" ".join(text).removeprefix(_BEGINS) for text in texts]))
        runs = [*chain.from_iterable(texts)]
        lengths = np.fromiter((len(run.removeprefix(_BEGINS)) for run in runs), np.int64, len(runs))
        starts = np.cumsum(lengths + 1) - lengths - 1  # behind each run is a space or the end of a text
        run = np.searchsorted(starts, tokens.first, "right") - 1
        first, last = ((places - starts[run]).astype(np.int32) for places in (tokens.first, tokens.last))
        new = tokens.ids, first, last
        edges = self.edges[-1] + np.cumsum(np.bincount(run, minlength=len(runs)))
        self.held += int(lengths.sum()) + len(runs)
        self.numbers |= zip(runs, count(len(self.edges) - 1))
        self.edges = np.append(self.edges, edges)
        self.memory = _Tokens(*map(np.append, self.memory, new))


def _divided(characters: Characters, divides: NDArray[np.bool_]) -> tuple[list[str], NDArray[np.int64]]:
    """The runs between dividing characters, among which the ends of lines have to be, and where they begin."""
    inside = ~divides
    behind = np.append([False], inside[:-1])
    kept = np.where(divides, np.uint32(ord(_BETWEEN)), characters.code_points)[inside | behind]
    runs = kept.tobytes().decode("utf-32-le", "surrogatepass").split(_BETWEEN)[:-1]
    return runs, np.flatnonzero(inside & ~behind)


def _groups(runs: Sequence[str], size: int) -> list[list[str]]:
    return [[*runs[at : at + size]] for at in range(0, len(runs), size)]


class _ChineseApart(Runs):
    """For tokenizers that make every Chinese character a word of its own, as BERT's do.

    Such a tokenizer never sees beyond a Chinese character or a space.

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
        # The tokens of runs stand behind those before them and behind the Chinese characters before them.
        index = np.arange(len(tokens.ids)) + (np.cumsum(alone, dtype=np.int32) - alone)[tokens.first]
        others = np.ones(len(places) + len(index), bool)
        others[index] = False
        rest = np.flatnonzero(others)

        def merge(of_runs: NDArray[Any], of_characters: Any) -> NDArray[Any]:
            merged = np.empty(len(others), of_runs.dtype)
            merged[index], merged[rest] = of_runs, of_characters
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

    def _texts(self, runs: Sequence[str]) -> list[list[str]]:
        return _groups(runs, 1 if self.spaced else _TOGETHER)


_SOLID, _OTHER, _LOST = 1, 2, 3  # see _kind
_LONG = 16  # characters in the mean run, from where on few are met again


class _SpacesBefore(Runs):
    """For tokenizers that begin a word at each space between two characters: byte-level BPE and Metaspace.

    What follows such a space is encoded with it, behind another word, and the beginning of each line as it stands.

    Args:
        normalize: what the tokenizer does to a text first.
        before: the word that stands before what is encoded.
        never: characters beside which no space divides.
        alone: what a run may hold that is not encoded together with others.
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
        runs, starts = _divided(characters, divides)
        for run in np.flatnonzero(points[starts - 1] != ord(" ")).tolist():
            runs[run] = _BEGINS + runs[run]
        return self._recall(tokenizer, runs, starts)

    def _kinds(self, code_points: NDArray[np.uint32]) -> NDArray[np.int8]:
        """The kind of each character."""
        kinds = self.kinds[code_points]
        if not kinds.all():
            for point in {*code_points[kinds == 0].tolist()}:
                self.kinds[point] = _kind(self.normalize, chr(point))
            kinds = self.kinds[code_points]
        return kinds

    def _texts(self, runs: Sequence[str]) -> list[list[str]]:
        beginnings, alone, others = [], [], []
        for run in runs:
            if run.startswith(_BEGINS):
                beginnings.append([run])
            elif self._ends_line(run) or self.alone and self.alone.search(f"{run} {self.normalize(run)}"):
                alone.append([run])
            else:
                others.append(run)
        return beginnings + [[self.before, *group] for group in alone + _groups(others, _TOGETHER)]

    def _ends_line(self, run: str) -> bool:
        """Whether no space that divides can follow."""
        return self.kinds[ord(run[-1])] != _SOLID


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


class _Parts(NamedTuple):
    """The steps of a tokenizer, sequences taken apart, its model and its added tokens."""

    normalizer: list[dict[str, Any]]
    pre_tokenizer: list[dict[str, Any]]
    processor: list[dict[str, Any]]
    model: Any
    added: list[Any]


def _steps(part: Any) -> list[dict[str, Any]]:
    """What a part of a tokenizer's backend consists of."""

    def flat(state: dict[str, Any]) -> list[dict[str, Any]]:
        if state["type"] != "Sequence":
            return [state]
        (steps,) = (value for name, value in state.items() if name != "type")
        return [*chain.from_iterable(map(flat, steps))]

    return flat(json.loads(part.__getstate__())) if part else []


def _runs_for(tokenizer) -> Runs | None:
    """A fresh encoder for a tokenizer; `None` where a part of it is of a kind of which nothing is proved."""
    backend = tokenizer.backend_tokenizer
    try:
        normalizer, pre_tokenizer = _steps(backend.normalizer), _steps(backend.pre_tokenizer)
    except Exception as error:  # see `backend_state`
        if "serialized" not in str(error):
            raise
        return None
    added = [*tokenizer.added_tokens_decoder.values()]
    parts = _Parts(normalizer, pre_tokenizer, _steps(backend.post_processor), backend.model, added)
    if _sets_chinese_apart(parts):
        return _ChineseApart(spaced=any(re.search(r"\s", token.content) for token in parts.added))
    normalize = backend.normalizer.normalize_str if backend.normalizer else str
    contents = [token.content for token in added]
    contents += [normalize(token.content) for token in added if token.normalized]
    if not _begins_words_at_spaces(parts, contents):
        return None
    # What follows an added token is normalised by itself, so that a space may be stripped there.
    stripped = any(step.get("strip_left") for step in normalizer)
    never = {token.content[-1] for token in added if stripped and not token.normalized}
    before = next((letter for letter in ascii_letters if letter not in never), "")
    if {*encode_lines(tokenizer, Characters([before])).first.tolist()} != {0}:
        return None
    # It may get a prefix, too. Where that is trimmed away again, a token may have nothing left and stand for the next.
    prefixed = _trims(parts) and pre_tokenizer[-1]["add_prefix_space"]
    alone = re.compile("|".join(map(re.escape, contents))) if prefixed and contents else None
    return _SpacesBefore(normalize, before, never, alone)


def _trims(parts: _Parts) -> bool:
    """Whether white space is left out of a token's offsets."""
    return any(step["type"] not in ("BertProcessing", "TemplateProcessing") for step in parts.processor)


def _sets_chinese_apart(parts: _Parts) -> bool:
    """Whether every Chinese character is a word and one token, and a space belongs to none."""
    contents = [token.content for token in parts.added]
    return (
        [step["type"] for step in parts.normalizer + parts.pre_tokenizer] == ["BertNormalizer", "BertPreTokenizer"]
        and parts.normalizer[0]["handle_chinese_chars"]
        and parts.normalizer[0]["clean_text"]  # no token is white space or U+200B, which would count with the next run
        and type(parts.model).__name__ == "WordPiece"
        and parts.model.token_to_id(parts.model.unk_token) is not None
        and not _trims(parts)
        and not any(token.lstrip or token.rstrip or token.single_word for token in parts.added)
        and all(content == content.strip() for content in contents)
        and not any(character == "\n" or is_chinese(character) for character in "".join(contents))
    )


def _begins_words_at_spaces(parts: _Parts, contents: Sequence[str]) -> bool:
    """Whether a space between two characters always begins a word, and belongs to it alone.

    Args:
        parts: the tokenizer.
        contents: its added tokens, as they stand in texts and in normalised texts.
    """
    types, trims = [step["type"] for step in parts.pre_tokenizer], _trims(parts)
    last = parts.pre_tokenizer[-1] if types else {}
    if types == ["ByteLevel"] or types == ["Digits", "ByteLevel"] and not last["add_prefix_space"]:
        divides = last["use_regex"] and {step["type"] for step in parts.processor} <= _PROCESSORS
    elif types in (["Metaspace"], ["WhitespaceSplit", "Metaspace"]):
        divides = last["split"] and last["replacement"] == "▁" and not trims
    else:
        return False
    return (
        divides
        and all(map(_keeps_spaces, parts.normalizer))
        and type(parts.model).__name__ in ("BPE", "Unigram")
        and not any(getattr(parts.model, chance, None) for chance in ("dropout", "alpha", "nbest_size"))
        and not any(token.rstrip for token in parts.added)
        and not any(not content or re.search(r"(?<!\s) (?!\s)", content) for content in contents)
        and not (trims and any("Ġ" in content for content in contents))
    )


_PROCESSORS = {"ByteLevel", "RobertaProcessing", "BertProcessing", "TemplateProcessing"}


def _keeps_spaces(step: dict[str, Any]) -> bool:
    """Whether a step of a normalizer keeps a space between two characters, and sees no further."""
    if step["type"] == "Replace":
        pattern, content = step["pattern"], step["content"]
        if "Regex" in pattern:
            return pattern["Regex"] in (" {2,}", r"\s{2,}|[\n\r\t]") and content in (" ", "▁")
        return all(re.fullmatch("[!-~]+", text) for text in (pattern["String"], content))
    return step["type"] in {"NFC", "NFD", "NFKC", "NFKD", "Nmt", "Lowercase", "StripAccents", "Strip", "Precompiled"}
