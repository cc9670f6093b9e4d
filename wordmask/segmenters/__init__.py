"""Segmenters split text into words: their interface, and a registry that finds one by name.

Write your own segmenter as a subclass of `Segmenter`. On the command line, name it as `package.module:Class`. In
Python, you can also register it under a short name:

    @register("characters")
    class CharacterSegmenter(Segmenter):
        def segment(self, lines):
            return [list(line) for line in lines]

If a library finds the words, `wordmask.segmenters.libraries.LineSegmenter` gives it lines that it can read.

Override `identity` if the words depend on a model, an option or the version of a library: the cache keeps tokens by
it. Set `any_script = True` if your words also count in scripts that are written with spaces.

`--segmenter_options name=value` passes parameters of your class. `registry.py` lists the segmenters of this package.
Importing this package imports no library such as jieba. A segmenter imports its library when you make one.
"""

from __future__ import annotations

from wordmask.segmenters.base import Segmenter, identity_of, words_of
from wordmask.segmenters.registry import available, check_segmenter, load_segmenter, make_segmenter, register

__all__ = [
    "Segmenter",
    "available",
    "check_segmenter",
    "identity_of",
    "load_segmenter",
    "make_segmenter",
    "register",
    "words_of",
]
