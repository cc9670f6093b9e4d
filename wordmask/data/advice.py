"""What a run tells the user about its text: a sentence for each thing that looks wrong, with what to do about it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from wordmask.data.findings import Findings, SplitFindings, SplitText
from wordmask.data.segmenter_advice import without_words
from wordmask.data.text_counts import LONGEST, TextCounts
from wordmask.tokenization.words import is_chinese
from wordmask.utils.quantities import counted, number, percent, share

if TYPE_CHECKING:
    from wordmask.data.data_report import SplitReport

UNKNOWN, CUT, LOST, COPIES, SEEN = 0.05, 0.5, 0.1, 0.1, 0.05  # shares from which on something looks wrong
MANY_COPIES = 1000
MASKED_MORE = 1.2  # short sequences look wrong if this many times the asked share of their tokens is masked
SHOWN = 5  # characters, or special tokens, in a sentence
LONG_EVALUATION = 100_000  # sequences: the accuracy of fewer is known to a tenth of a point
WRITTEN = 1e-4  # a share of special tokens in the text from which on something looks wrong


def advice_on(
    texts: Mapping[str, SplitText], reports: Mapping[str, SplitReport], masks_words: bool, rate: float
) -> list[str]:
    """A sentence for each thing that looks wrong in the texts of a run.

    Args:
        texts: the text of each split.
        reports: the figures of the splits whose text was counted.
        masks_words: whether words are masked.
        rate: the share of tokens that is masked.
    """
    found = {split: text.found for split, text in texts.items()}
    advice = [sentence for one in found.values() for sentence in left_out(one.findings, one.reference_flag)]
    advice += [*chain.from_iterable(map(_no_position, found.values()))][:1]
    if masks_words:
        unsegmented = (without_words(one.findings, one.flag, one.segmented_by) for one in found.values())
        advice += [*chain.from_iterable(unsegmented)][:1]
    unknown = [_unknown_tokens(report, split, found[split]) for split, report in reports.items()]
    letterless = [_no_letters(one) for one in found.values()]
    written = [_special_tokens(report, found[split].flag) for split, report in reports.items()]
    cut = [_cut_lines(text, split) for split, text in texts.items()]
    for sentences in (letterless, unknown, written, cut):
        advice += [*chain.from_iterable(sentences)][:1]
    if "train" in reports:
        validation = found["validation"].findings.counts if "validation" in found else None
        advice += _copies(reports["train"], found["train"].flag, found["train"].findings.counts, validation)
    masked = {split: _masked_tokens(texts[split], report, masks_words, rate) for split, report in reports.items()}
    if "validation" in reports:
        advice += _few_masked(texts["validation"], reports["validation"], round(masked["validation"]))
    if "validation" in texts:
        advice += _long_evaluation(texts["validation"])
    more = [_masked_more(texts[split], split, tokens, rate) for split, tokens in masked.items()]
    return advice + [*chain.from_iterable(more)][:1]


def left_out(findings: Findings, flag: str, others: str = "") -> list[str]:
    """The sentence about positions that we leave out, if any; `others` says what happens to other texts."""
    if not findings.left_out:
        return []
    join, are = ("joins", "is") if findings.left_out == 1 else ("join", "are")
    return [
        f"{flag}: {findings.left_out:,} of {counted(findings.positions, 'position')} {join} characters that stand "
        f"apart in the text or are not all Chinese, and {are} left out of the masks{others}; the first is "
        f"{findings.example}; run_chinese_ref.py makes exact references, and a .meta.json that belongs beside them"
    ]


def _no_position(found: SplitFindings) -> list[str]:
    """Advice if references join no token at all; those of tokens that were prepared are not known."""
    if not found.reference_flag or found.reference_flag == "--prepared_dir" or found.findings.positions:
        return []
    return [
        f"{found.reference_flag}: no position in the references, so they join no tokens; unless each word is one "
        "token, make them again with run_chinese_ref.py and a segmenter for this language"
    ]


def _unknown_tokens(report: SplitReport, split: str, found: SplitFindings) -> list[str]:
    """Advice if many tokens are unknown, or if much text stands behind few of them."""
    flag, behind = found.flag, report.unknown_text_share * found.findings.counts.characters
    if report.unknown_share < UNKNOWN <= report.unknown_text_share:
        remedy = "add such words with --add_words, or take"
        if behind > LONGEST * report.unknown_tokens:
            remedy = "long text without a space becomes one [UNK] (in WordPiece, over 100 characters); take"
        return [
            f"{flag}: in the {split} text, {percent(report.unknown_text_share)} of the characters stand behind [UNK] "
            f"({counted(report.unknown_tokens, 'token')}), and the model cannot learn them; {remedy} a tokenizer that "
            "knows parts of any word, such as byte-level BPE or Unigram"
        ]
    if report.unknown_share < UNKNOWN:
        return []
    characters = report.unknown_characters
    which = f", most often for {' '.join([*characters][:SHOWN])}" if characters else ""
    said = f"{flag}: in the {split} text, {percent(report.unknown_share)} of the tokens are [UNK]{which}"
    said += ", and the model cannot learn them"
    chinese = sum(count for one, count in characters.items() if is_chinese(one))
    capitals = sum(count for one, count in characters.items() if one != one.lower())
    if 2 * chinese > sum(characters.values()):
        return [f"{said}: the tokenizer is not for Chinese; start from a Chinese model, such as bert-base-chinese"]
    if 2 * capitals > sum(characters.values()):
        return [f'{said}: its vocabulary has no capitals; set "do_lower_case": true in tokenizer_config.json']
    return [f"{said}; start from a model whose --tokenizer_name knows these characters, or take them out of the text"]


def _no_letters(found: SplitFindings) -> list[str]:
    """Advice if a text has no letter, as a column of numbers has none."""
    counts = found.findings.counts
    if not counts.characters or counts.letters:
        return []
    return [f"{found.flag}: the text has no letters; if it is a column of numbers, choose another --text_column_name"]


def _special_tokens(report: SplitReport, flag: str) -> list[str]:
    """Advice if special tokens stand in the text: `[MASK]` in text without names, or `<unk>` in WikiText."""
    count = sum(report.special_tokens.values())
    if count < max(WRITTEN * report.tokens, 1):
        return []
    tokens = [f"{token} {counted(count, 'time')}" for token, count in [*report.special_tokens.items()][:SHOWN]]
    return [
        f"{flag}: the text itself has special tokens of the tokenizer ({', '.join(tokens)}), and the model reads them "
        "as such, not as words; replace them if they stand for words"
    ]


def _cut_lines(text: SplitText, split: str) -> list[str]:
    """Advice if at least half of the examples are cut, or a tenth of the tokens is lost."""
    lines = text.long_lines
    examples = text.examples or text.found.findings.counts.examples
    if lines is None or not lines.lost or lines.lines < CUT * examples and lines.lost < LOST * text.tokens:
        return []
    return [
        f"{text.found.flag}: {share(lines.lines, examples)} of the {split} examples are cut at {lines.room} tokens, "
        f"so {share(lines.lost, text.tokens)} of the tokens are lost; add --long_lines split to keep them"
    ]


def _copies(report: SplitReport, flag: str, train: TextCounts, validation: TextCounts | None) -> list[str]:
    """Advice if training text is repeated, or is also in the validation text."""
    sentences = []
    if report.duplicates >= min(MANY_COPIES, max(COPIES * report.counted, 10)):
        sentences.append(
            f"{flag}: {report.duplicates:,} of {report.counted:,} examples repeat another one, so the model learns "
            "these by heart; remove them (awk '!seen[$0]++' old.txt > new.txt does so, in text files without "
            "references only)"
        )
    known = int(np.isin(validation.hashes, train.hashes).sum()) if validation else 0
    if validation and known >= SEEN * validation.examples > 0:
        sentences.append(
            f"{flag}: {known:,} of {counted(validation.examples, 'validation example')} "
            f"{'is' if known == 1 else 'are'} also in the training text, so the figures look "
            "better than they are; remove them from one of the two"
        )
    return sentences


def _masked_tokens(text: SplitText, report: SplitReport, masks_words: bool, rate: float) -> float:
    """About how many tokens are masked in an epoch: in each sequence one token, or one word, at least.

    Of a long word this is a part: 37 tokens are 4 units of 10 or fewer, so 9 tokens on average.
    """
    from wordmask.masking import MAX_UNIT  # imports Numba, and `wordmask report` does without

    if text.lengths is None or not rate:
        return report.tokens * rate
    of_word = (report.tokens_per_word or 1) if masks_words else 1
    least = np.minimum(text.lengths, of_word / math.ceil(of_word / MAX_UNIT))
    return float(np.maximum(text.lengths * rate, least).sum())


def _long_evaluation(text: SplitText) -> list[str]:
    """Advice if evaluations are on far more text than they need, as the default share of a large text is."""
    if text.lengths is None or len(text.lengths) < LONG_EVALUATION:
        return []
    return [
        f"{text.found.flag}: each evaluation is on {len(text.lengths):,} sequences; --max_eval_samples 10000 makes it "
        "shorter"
    ]


def _masked_more(text: SplitText, split: str, masked: float, rate: float) -> list[str]:
    """Advice if sequences are so short that clearly more of their tokens are masked than the asked share."""
    if text.lengths is None or len(text.lengths) < 2 or masked <= MASKED_MORE * rate * text.lengths.sum():
        return []
    ways = ["--pack_sequences"] if split == "train" else []
    ways += ["--no_line_by_line"] if text.found.flag != "--prepared_dir" else []  # it was prepared for lines
    remedy = f"; give {' or '.join(ways)} to join short lines" if ways else ""
    return [
        f"{text.found.flag}: the {split} sequences have {number(text.lengths.mean(), 2)} tokens on average, and at "
        f"least one word or token of each is masked, so about {masked / text.lengths.sum():.0%} of the tokens are "
        f"masked instead of {percent(rate)}{remedy}"
    ]


def _few_masked(text: SplitText, report: SplitReport, masked: int) -> list[str]:
    """Advice if the validation text has too few masked tokens to tell two models apart."""
    masked = max(masked, 1)
    if masked >= (4000 if report.counted < 50 else 400) or report.counted != report.examples:
        return []
    points = 100 * 1.96 * math.sqrt(0.25 / masked)  # of an accuracy of one half, in 95 of 100 cases
    sequences = report.counted if text.lengths is None else len(text.lengths)
    return [
        f"{text.found.flag}: an evaluation has only about {counted(masked, 'masked token')} in "
        f"{counted(sequences, 'sequence')}, so accuracy is known to ±{points:.0f} points; give more text: a longer "
        "--validation_file, a larger --validation_split_percentage or --max_eval_samples"
    ]
