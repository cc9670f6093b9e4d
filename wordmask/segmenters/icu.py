"""Words of Thai, Lao, Khmer, Burmese, Japanese and Chinese from ICU, which has a dictionary for each."""

from __future__ import annotations

from importlib.metadata import version
from itertools import pairwise

from wordmask.segmenters.libraries import LineSegmenter, import_package
from wordmask.segmenters.options import FLAG
from wordmask.utils.errors import InputError


class ICUSegmenter(LineSegmenter):
    """Words between the word borders of ICU. It chooses the dictionary by the script of the text.

    Args:
        locale: a language, such as th or ja. Some locales have rules of their own for the rest of the text.

    Raises:
        InputError: if PyICU is missing, or ICU does not know `locale`.
    """

    scripts = ("Han", "Hiragana", "Katakana", "Thai", "Lao", "Khmer", "Myanmar")

    def __init__(self, locale: str = "") -> None:
        icu = import_package(
            "icu", segmenter="icu", distribution="PyICU", before="apt-get install libicu-dev pkg-config g++"
        )
        chosen = icu.Locale(locale)
        if locale and chosen.getLanguage() not in icu.Locale.getISOLanguages():
            raise InputError(f"{FLAG}: locale={locale} is no language that ICU knows; give one such as th, lo or km")
        self._iterator = icu.BreakIterator.createWordInstance(chosen)
        self._identity = {"name": "icu", "PyICU": version("PyICU"), "ICU": icu.ICU_VERSION, "locale": chosen.getName()}

    def cut(self, text: str) -> list[str]:
        self._iterator.setText(text)
        # ICU counts units of UTF-16, which have two bytes: 𠮷 counts twice.
        units = text.encode("utf-16-le")
        borders = pairwise([0, *self._iterator])
        return [units[2 * start : 2 * end].decode("utf-16-le") for start, end in borders]
