"""Words of tokens as a person reads them: without `##`, `Ġ` and `▁`, and without spaces between Chinese characters."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedTokenizerBase

from wordmask.tokenization.surfaces import Surfaces, shows_spaces

BLANK = "␣"  # what is shown for a word of nothing but white space
_CLOSING, _OPENING, _APOSTROPHES = set(".,;:!?)]}%…”’"), set("([{“‘"), set("'’")


class ReadableTokens:
    """Turns the tokens of a word, or of a line of words, into text.

    Args:
        tokenizer: any tokenizer of transformers, fast or not.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self._tokenizer, self._surfaces = tokenizer, Surfaces(tokenizer, np.zeros(0, np.int64))
        self._shows_spaces = shows_spaces(tokenizer)

    def word(self, ids: Sequence[int]) -> str:
        """The text of a word: `un ##seen` is `unseen`, and the Chinese characters 面 包 are 面包.

        Of a part of a character it is the bytes: a half of 插 is `\\xe6\\x8f`.
        """
        parts = self._raw(ids).split()
        text = ""
        for part in parts:
            text += f" {part}" if _apart(text, part) else part
        return text or BLANK

    def has_text(self, ids: Sequence[int]) -> bool:
        """Whether the tokenizer knows all of a word. `[UNK]` stands for text that nobody can tell."""
        return self._tokenizer.unk_token_id not in ids

    def token(self, index: int) -> str:
        """The text of a token, also of a part of a character."""
        return self._raw([index]).strip() or BLANK

    def line(self, words: Sequence[Sequence[int]]) -> list[tuple[str, bool]]:
        """The text of each word of a line, and whether a space stands before it.

        With `Ġ` and `▁`, a tokenizer shows where spaces were. With `##` it does not, so the space before a full stop
        and around an apostrophe goes: `don ' t .` is `don't.`.
        """
        line: list[tuple[str, bool]] = []
        before, trailing = "", False
        for ids in words:
            raw, text = self._raw(ids), self.word(ids)
            space = bool(before) and (trailing or raw[:1].isspace()) and _apart(before, text)
            if space and not self._shows_spaces:
                space = not (text[0] in _CLOSING or before[-1] in _OPENING or _in_word(line, text))
            line.append((text, space))
            before, trailing = text, raw[-1:].isspace()
        return line

    def names(self, ids: Sequence[int]) -> str:
        """The names of tokens in the vocabulary, as `Ġthe`, where their text does not say what they are."""
        return "".join(str(self._tokenizer.convert_ids_to_tokens(index) or f"[{index}]") for index in ids)

    def _raw(self, ids: Sequence[int]) -> str:
        """The text of tokens, with the white space that their surfaces show."""
        surfaces = self._surfaces
        # An embedding may have more ids than the tokenizer.
        known = [index for index in ids if index < len(surfaces.sizes)]
        pieces = [surfaces.text[surfaces.starts[index] :][: surfaces.sizes[index]].tobytes() for index in known]
        return b"".join(pieces).decode("utf-8", "backslashreplace")


def _apart(before: str, after: str) -> bool:
    """Whether a space may stand between two texts: not beside Chinese, Japanese and full-width characters."""
    return bool(before) and not (_is_wide(before[-1]) or _is_wide(after[0]))


def _is_wide(character: str) -> bool:
    if unicodedata.east_asian_width(character) not in "WF":
        return False
    name = unicodedata.name(character, "")
    return not name.startswith("HANGUL") and unicodedata.category(character) != "So"  # Korean and emoji have spaces


def _in_word(line: Sequence[tuple[str, bool]], text: str) -> bool:
    """Whether a text goes on with a word after an apostrophe, or is the apostrophe behind a word."""
    before = line[-1][0]
    if text in _APOSTROPHES:
        return before[-1].isalnum()
    return before in _APOSTROPHES and len(line) > 1 and not line[-1][1] and text[0].isalnum()
