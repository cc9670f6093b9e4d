"""Text whose words are separated by white space already."""

from __future__ import annotations

from collections.abc import Sequence

from wordmask.segmenters import Segmenter


class WhitespaceSegmenter(Segmenter):
    """Words are what stands between white space, in Unicode's sense (the ideographic space U+3000 included)."""

    any_script = True

    def segment(self, lines: Sequence[str]) -> list[list[str]]:
        return [line.split() for line in lines]

    @property
    def identity(self) -> dict[str, str]:
        return {"name": "whitespace"}
