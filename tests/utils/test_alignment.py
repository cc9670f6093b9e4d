"""What a piece covers is found through any normalization, or not at all; it is never guessed."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wordmask.utils.alignment import align

MIXED = st.text(st.sampled_from("aBcÉßİ 中文食べるｶﾞ㌔Ａ１①がกินมี㍿…“’_-ﷺ🙂👍🏽한국\u0301\u200b\u3000\x07"), max_size=24)


@pytest.mark.parametrize(
    "text, pieces, spans",
    [
        ("Éa  xyz!", ["e", "a", None, "!"], [(0, 1), (1, 2), (4, 7), (7, 8)]),
        ("ｶﾞ㌔", ["ガ", "キ", "ロ"], [(0, 2), (2, 3), (2, 3)]),
        ("“a…", ['"', "a", "..."], [(0, 1), (1, 2), (2, 3)]),
        ("中a", [*map(chr, "中a".encode())], [(0, 1)] * 3 + [(1, 2)]),
        ("亮，", [*map(chr, "亮".encode()), ","], [(0, 1)] * 3 + [(1, 2)]),
        ("กิน\x00", ["ก", "ิ", "น"], [(0, 1), (1, 2), (2, 3)]),
        ("ℋ", ["h"], [(0, 1)]),  # it has no small letter of its own: it becomes H first
        ("a\tb", ["a", " ", "b"], [(0, 1), (1, 2), (2, 3)]),
        ("中\x0cb", [*map(chr, "中".encode()), "b"], [(0, 1)] * 3 + [(2, 3)]),
        ("a b", ["a", " ", "b"], [(0, 1), (1, 2), (2, 3)]),
        ("axyb", ["a", None, None, "b"], [(0, 1), (1, 2), (2, 3), (3, 4)]),
        ("axyzb", ["a", None, None, "b"], [(0, 1), (1, 4), (1, 4), (4, 5)]),
        ("axbxb", ["a", None, "b"], [(0, 1), (1, 4), (4, 5)]),
        ("", [], []),
        ("\x00", [], []),
    ],
)
def test_the_characters_of_normalized_pieces(text, pieces, spans):
    assert align(text, pieces) == spans


@pytest.mark.parametrize(
    "text, pieces",
    [
        ("abc", ["a", "b"]),
        ("ab", ["a", "b", "c"]),
        ("a link", ["a", "HTTPURL"]),
        ("xbybz", [None, "b", None]),  # b is at 1 or at 3
        ("x  y", [None, " ", None]),  # so is the space that is a piece, at 1 or at 2
        ("aba", ["ab", None, "ba"]),  # they would share the b
        ("", [None]),
        ("a", ["a", None]),
        ("a", []),
    ],
)
def test_what_is_not_certain_is_not_said(text, pieces):
    assert align(text, pieces) is None


def normalized(text: str, form: str, lower: bool, accents: bool) -> str:
    text = unicodedata.normalize(form, text)
    text = text.lower() if lower else text
    if not accents:
        text = "".join(one for one in unicodedata.normalize("NFD", text) if unicodedata.category(one) != "Mn")
    return text


def is_visible(character: str) -> bool:
    return unicodedata.category(character)[0] not in "CMZ"


def test_what_nothing_is_left_of_stays_behind_the_white_space_before_it():
    assert align("B \u200bÉ", ["B", " ", "\u200b", "E"]) == [(0, 1), (3, 3), (3, 3), (3, 4)]


@given(MIXED, st.sampled_from(["NFC", "NFD", "NFKC", "NFKD"]), st.booleans(), st.booleans(), st.data())
def test_every_normalization_is_undone(text, form, lower, accents, data):
    """Cut a normalized text anywhere: the spans are in order, in the text, and cover all that was kept."""
    changed = normalized(text, form, lower, accents)
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(changed) - 1)), max_size=6)))
    pieces = [changed[start:end] for start, end in zip([0, *cuts], [*cuts, len(changed)], strict=True)]
    spans = align(text, pieces)
    assert spans is not None
    assert all(0 <= start <= end <= len(text) for start, end in spans)
    assert [*map(min, spans)] == sorted(map(min, spans)) and [*map(max, spans)] == sorted(map(max, spans))
    covered = {index for start, end in spans for index in range(start, end)}
    kept = [index for index, one in enumerate(text) if any(map(is_visible, unicodedata.normalize("NFKD", one)))]
    assert covered.issuperset(kept)
    for piece, (start, end) in zip(pieces, spans, strict=True):
        letters = {one for one in normalized(text[start:end], "NFKD", True, False) if one.isalpha()}
        assert {one for one in normalized(piece, "NFKD", True, False) if one.isalpha()} <= letters


@given(MIXED, st.data())
def test_an_unknown_piece_covers_what_its_neighbours_leave(text, data):
    """Pieces of the text itself, some of them unknown: their gaps, and nothing else, are theirs."""
    text = "".join(one for one in text if is_visible(one))
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(text) - 1)), max_size=5))) if len(text) > 1 else []
    spans = [*zip([0, *cuts], [*cuts, len(text)], strict=True)] if text else []
    unknown = [data.draw(st.booleans()) for _ in spans]
    found = align(
        text, [None if hidden else text[start:end] for (start, end), hidden in zip(spans, unknown, strict=True)]
    )
    if found is not None:
        for hidden, span, (start, end) in zip(unknown, spans, found, strict=True):
            assert (start, end) == span if not hidden else start <= span[0] and end >= span[1]


def test_a_space_inside_of_what_one_character_became_belongs_to_it():
    """The spans stay in order. ﷺ becomes four words."""
    words = unicodedata.normalize("NFKC", "ﷺ").split()
    assert align("aﷺ", ["a", words[0], " ", " ".join(words[1:])]) == [(0, 1), (1, 2), (1, 2), (1, 2)]
