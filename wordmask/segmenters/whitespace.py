"""Words of a text in which white space separates them already."""

from __future__ import annotations

from collections.abc import Sequence

from wordmask.segmenters.base import Segmenter


class WhitespaceSegmenter(Segmenter):
    """A word is what stands between white space. Unicode says what is white space; the ideographic U+3000 is."""

    any_script = True

    def segment(self, lines: Sequence[str]) -> list[list[str]]:
        return [line.split() for line in lines]

    @property
    def identity(self) -> dict[str, str]:
        return {"name": "whitespace"}
