"""Positions of references: what is written from words is read back as the same words."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import character_tokenizer
from wordmask.references.positions import LineReferences, continuations, line_positions
from wordmask.segmenters import Segmenter
from wordmask.tokenization.backend import Backend
from wordmask.tokenization.encoding import set_apart
from wordmask.tokenization.segmented import segmented
from wordmask.tokenization.special_tokens import special_ids
from wordmask.tokenization.tokenize import tokenize

CHINESE, OTHERS = "研究生命起源", "Tk9。 "
TOKENIZER = character_tokenizer([CHINESE, "tk9。"])


class Given(Segmenter):
    """Gives these words."""

    name = "given"

    def __init__(self, words: list[list[str]]):
        self.words = words

    def segment(self, lines):
        return self.words


def words(characters: str) -> st.SearchStrategy[list[list[str]]]:
    """Lines of words."""
    return st.lists(st.lists(st.text(characters, min_size=1, max_size=4), max_size=6), max_size=5)


def round_trip(words: list[list[str]], mixed: bool) -> list[bool]:
    """Which tokens continue a word by the references that are written for lines of these words."""
    lines = ["".join(line) for line in words]
    positions = line_positions(TOKENIZER, Given(words), lines, mixed)
    tokens = tokenize(TOKENIZER, lines)
    of_lines = (np.full(len(lines), value) for value in (False, mixed, True))
    references = LineReferences(positions, str, *of_lines, "--ref")
    continues, left_out = continuations(tokens, references, 1, np.zeros(len(tokens.ids), bool))
    assert not len(left_out)
    return continues.tolist()


@given(words(CHINESE))
def test_words_of_chinese_characters_are_read_back(words):
    """Each character is a token, so all characters of a word but the first one continue it."""
    expected = [place > 0 for line in words for word in line for place in range(len(word))]
    assert round_trip(words, mixed=False) == expected


@given(words(CHINESE + OTHERS), st.booleans())
def test_words_of_any_characters_are_read_back(words, mixed):
    tokens = tokenize(TOKENIZER, ["".join(line) for line in words])
    assert round_trip(words, mixed) == tokens.continuations(segmented(tokens.characters, words, mixed)).tolist()


def test_words_that_underscores_join_count_on_lines_without_chinese_alone():
    """As in Vietnamese. In a Chinese text `a_b` is no word, and the references of its other lines stay empty."""
    words = [["ab_ab"], ["研究", "ab_ab"], ["ab", "ab"]]
    lines = ["ab_ab", "研究 ab_ab", "ab ab"]
    segmenter = Given(words)
    segmenter.any_script = True
    tokenizer = character_tokenizer(["研究ab_"])
    assert line_positions(tokenizer, segmenter, lines) == [[2, 3, 4, 5], [2], []]


@pytest.mark.parametrize("words", [["ab_ab", " ", "[MASK]_ab"], ["研究", "生命者起源"]])
def test_special_tokens_in_a_text_belong_to_no_word(words):
    """Neither they nor what follows gets a position, which training would refuse, also as a worker makes them."""
    tokenizer, segmenter, line = character_tokenizer(["研究生命起源ab_"]), Given([words]), "".join(words)
    tokenizer.add_special_tokens({"additional_special_tokens": ["者"]})
    segmenter.any_script = True
    tokens = tokenize(tokenizer, [line])
    special = np.isin(tokens.ids, special_ids(tokenizer))
    [positions] = line_positions(tokenizer, segmenter, [line])
    assert line_positions(Backend(tokenizer, special_ids(tokenizer)), segmenter, [line]) == [positions]
    of_lines = (np.array([value]) for value in (False, True, True))
    continues, left_out = continuations(tokens, LineReferences([positions], str, *of_lines, "--ref"), 1, special)
    assert special.any() and len(positions) and not len(left_out)
    assert continues.tolist() == set_apart(continues, special).tolist()
