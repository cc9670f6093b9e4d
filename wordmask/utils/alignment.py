"""Find which characters of a text its pieces cover, although a tokenizer has normalized them.

A tokenizer that runs in Python gives the surfaces of its tokens, and no offsets. It may have changed the text before:
Ａ to a, é to e, ㌔ to キロ. We *fold* both sides, character by character, so that such forms become equal, and
remember which character of the text each folded one comes from:

    text         Ａ  é  ㌔          surfaces   ae  キロ
    folded       a  e  キ ロ       folded     ae  キロ
    comes from   0  1  2  2        spans      0-2  2-3

If the folded surfaces, one after the other, are the folded text, we know what each of them covers.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from functools import cache
from itertools import accumulate, groupby, pairwise
from typing import TypeAlias

Span: TypeAlias = tuple[int, int]  # the index of the first character, and the index after the last one
Fold: TypeAlias = Callable[[str], str]  # what a character becomes
_ASCII_SPACE = " \t\n\r\x0b\x0c"


def _forgetting(categories: str) -> Fold:
    """A fold that forgets case, width and composition, and characters of these categories (Z: white space).

    With the marks (M), it also forgets which punctuation it is.
    """

    def fold(character: str) -> str:
        text = unicodedata.normalize("NFKD", character).casefold()
        spaced = (" " if one.isspace() else one for one in text)
        kept = [one for one in spaced if unicodedata.category(one)[0] not in categories]
        if "M" in categories:
            kept = ["." if unicodedata.category(one)[0] == "P" else one for one in kept if one not in "\ufffd▁"]
        return "".join(kept)

    return fold


def _as_bytes(character: str) -> str:
    """The bytes of a text, each written as a character; white space is left out."""
    kept = "".join(one for one in character if one not in _ASCII_SPACE)
    return kept.encode("utf-8", "surrogatepass").decode("latin-1")


def _as_compatible_bytes(character: str) -> str:
    """The same for the form of a character that SentencePiece makes of it first: `，` is `,`."""
    return _as_bytes(unicodedata.normalize("NFKC", character))


def _without_space(character: str) -> str:
    return "" if character in _ASCII_SPACE else character


# How we fold the text and the pieces, from the fold that forgets least. Some tokenizers make tokens of white space.
# Others remove it, and control characters, and accents, and write “ as ". Pieces of byte tokenizers are bytes already.
_FOLDS: list[tuple[Fold, Fold]] = [
    *((fold, fold) for fold in map(cache, map(_forgetting, ("", "Z", "ZC", "ZCM")))),
    *((cache(fold), _without_space) for fold in (_as_bytes, _as_compatible_bytes)),
]


def align(text: str, pieces: Sequence[str | None]) -> list[Span] | None:
    """The span of each piece of a text.

    A piece without a known surface is `None`. It covers what stands between its neighbours. Several such pieces side
    by side cover a character each if these are as many. If not, they all cover the same.

        >>> align("Éa  xyz!", ["e", "a", None, "!"])
        [(0, 1), (1, 2), (4, 7), (7, 8)]

    Args:
        text: the text.
        pieces: the normalized pieces, in order. They may have other white space than the text.

    Returns:
        (pieces,) The spans. A piece of which nothing is left has the character before it; one of white space that is
        not in the text is empty. `None` if the pieces do not match the text to its end, or do so in several ways.
    """
    known = [piece for piece in pieces if piece is not None]
    if len(known) == len(pieces) and "".join(known) == text:  # mostly so, and many times as fast
        return [*pairwise(accumulate(map(len, known), initial=0))]
    for of_text, of_piece in _FOLDS:
        folded = [*map(of_text, text)]
        comes_from = [index for index, characters in enumerate(folded) for _ in characters]
        surfaces = [None if piece is None else "".join(map(of_piece, piece)) for piece in pieces]
        groups = [[*group] for _, group in groupby(surfaces, lambda surface: surface is None)]
        borders = _borders("".join(folded), groups)
        if borders is None:
            continue
        if not borders:
            break
        spans: list[Span] = []  # in the folded text
        for group, (start, end) in zip(groups, pairwise(borders), strict=True):
            spans += _in_group(group, start, comes_from[start:end])
        in_text = [_in_text(span, piece, comes_from, len(text)) for span, piece in zip(spans, pieces, strict=True)]
        # A piece of which nothing is left may look back behind white space. It joins that, so that spans are in order.
        return [*accumulate(in_text, lambda before, span: (max(before[0], span[0]), max(before[1], span[1])))]
    return None


def _borders(text: str, groups: Sequence[Sequence[str | None]]) -> list[int] | None:
    """(groups + 1,) Where groups of pieces begin in a folded text; groups of known and of unknown pieces take turns.

    We place the known groups as far to the left as they can be, and as far to the right. If both agree, there is only
    one way: in `a??b` of the text `axyb`, the borders are 0, 1, 3, 4. In `?b?` of `xbybz` there are two ways.

    Returns:
        The borders; `None` if the pieces are not those of the text; an empty list if there are several ways.
    """
    known = [None if group[0] is None else "".join(filter(None, group)) for group in groups]
    leftmost = _leftmost(text, known)
    mirrored = _leftmost(text[::-1], [surface and surface[::-1] for surface in known[::-1]])
    if leftmost is None or mirrored is None:
        return None
    return leftmost if leftmost == [len(text) - border for border in mirrored[::-1]] else []


def _leftmost(text: str, known: Sequence[str | None]) -> list[int] | None:
    """(known + 1,) The borders if each known surface stands as far to the left as it can; the last one at the end."""
    borders = [0]
    for number, surface in enumerate(known):
        if surface is None:
            continue  # its border is set by what follows it
        least = borders[-1] + (number > 0)  # an unknown piece before it covers something
        is_last = number == len(known) - 1
        start = len(text) - len(surface) if is_last else text.find(surface, least) if number else 0
        if start < least or not text.startswith(surface, start):
            return None
        borders += [start, start + len(surface)] if number else [len(surface)]
    if known and known[-1] is None:
        if borders[-1] == len(text):
            return None  # an unknown piece covers something
        borders.append(len(text))
    return borders if borders[-1] == len(text) else None


def _in_group(group: Sequence[str | None], start: int, comes_from: Sequence[int]) -> list[Span]:
    """The span of each piece of a group in the folded text.

    Args:
        group: folded pieces, all known or all unknown.
        start: where the group begins.
        comes_from: (characters of the group,) the index of the character that each folded one comes from.
    """
    if group[0] is not None:
        lengths = [len(piece or "") for piece in group]
    else:
        # How many folded characters come from each character: 4 4 5 gives 2 1.
        lengths = [len([*same]) for _, same in groupby(comes_from)]
        if len(lengths) != len(group):
            return [(start, start + len(comes_from))] * len(group)
    return [*pairwise(accumulate(lengths, initial=start))]


def _in_text(span: Span, piece: str | None, comes_from: Sequence[int], length: int) -> Span:
    """A span of the text, from one of the folded text."""
    start, end = span
    if start < end:
        return comes_from[start], comes_from[end - 1] + 1
    if start and piece and piece.strip():  # nothing is left of an accent, say: it belongs to what is before it
        return comes_from[start - 1], comes_from[start - 1] + 1
    place = comes_from[start] if start < len(comes_from) else length
    return place, place
