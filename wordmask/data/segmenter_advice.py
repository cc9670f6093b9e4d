"""Advice for text without spaces, where no segmenter or a wrong one finds its words: which one would find them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from wordmask.data.findings import Findings

SUBSTANTIAL = 0.1  # a text with this share of its characters in a language counts as of this language


class Language(NamedTuple):
    """A language that is written without spaces.

    Attributes:
        scripts: its scripts, see `SCRIPTS`.
        masked: what is masked if only the rule for text makes words of it.
        segmenter: what `--segmenter` can find words.
    """

    scripts: Sequence[str]
    masked: str
    segmenter: str


_PHRASES = "all that stands between two spaces is masked as one word"
LANGUAGES = {
    "Chinese": Language(["Han"], "single characters are masked", "jieba (or ltp)"),
    "Japanese": Language(
        ["Han", "Hiragana", "Katakana"], "single kanji and whole rows of kana are masked", "sudachi (or mecab)"
    ),
    "Thai": Language(["Thai"], _PHRASES, "pythainlp (or icu)"),
    "Lao": Language(["Lao"], _PHRASES, "icu"),
    "Khmer": Language(["Khmer"], _PHRASES, "icu"),
    "Burmese": Language(["Myanmar"], _PHRASES, "icu"),
    "Tibetan": Language(["Tibetan"], "single syllables are masked", "package.module:Class, a class of your own"),
}
SEVERAL = "icu"  # finds words in all of them but Tibetan
KANA = 0.1  # a text with this share of kana among kana and Chinese characters counts as Japanese, not as Chinese


def languages_without_words(findings: Findings) -> dict[str, int]:
    """The number of characters of each language without words that is a substantial part of a text, largest first."""
    found = findings.unsegmented
    kana = found["Hiragana"] + found["Katakana"]
    other = "Chinese" if kana >= max(KANA * (kana + found["Han"]), 1) else "Japanese"
    counts = {name: sum(found[script] for script in language.scripts) for name, language in LANGUAGES.items()}
    substantial = {
        name: count
        for name, count in counts.items()
        if name != other and count >= max(SUBSTANTIAL * findings.characters, 1)
    }
    return dict(sorted(substantial.items(), key=lambda item: -item[1]))


def without_words(findings: Findings, flag: str, given: str = "") -> list[str]:
    """The sentence about text that is written without spaces and has no words, if this is much of the text.

    Args:
        findings: of the text.
        flag: the flag that names it.
        given: the segmenter, if there is one; it was made for other languages.
    """
    found = languages_without_words(findings)
    if not found:
        return []
    shares = [
        f"{count / findings.characters:.0%} of the characters are {name} ({count:,})" for name, count in found.items()
    ]
    # With much other text, the segmenter for one language would not be made for the rest.
    is_one = len(found) == 1 and (not given or sum(found.values()) >= findings.characters / 2)
    one = "Tibetan" if "Tibetan" in found else next(iter(found)) if is_one else None
    segmenter = LANGUAGES[one].segmenter if one else SEVERAL
    remedy = f"give --segmenter {segmenter}"
    if flag == "--prepared_dir":
        remedy = f"prepare the text again with --segmenter {segmenter} or --train_ref_file"
    elif flag.endswith("_file") and not given:
        remedy += f", or {flag.removesuffix('_file')}_ref_file with references that run_chinese_ref.py makes"
    if given:
        return [f"{flag}: {', '.join(shares)}, and {given} is not made for them; {remedy}"]
    masked = dict.fromkeys(LANGUAGES[name].masked for name in found)
    return [
        f"{flag}: {', '.join(shares)} and nothing says which of them form words, so {', and '.join(masked)}; {remedy}"
    ]
