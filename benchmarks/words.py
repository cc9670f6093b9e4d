"""Which words a run masks, beside words by hand: exact for gold words, and how many of them real segmenters find.

    python benchmarks/words.py --japanese gsd-dev.seg.txt --thai pud-first.seg.txt --chinese gsd-dev.seg.txt

Each file has a sentence in each line, with its words separated by one space. Without files, small samples stand in.

The first table takes the gold words as the words of a segmenter, and counts the borders between two tokens in such
scripts at which the run agrees with them, on the spot and through a reference file. We judge by the tokenizer's own
offsets. A token that spans the border of two words joins them; the table counts such tokens. The second table has the
real segmenters that are installed: how many words are those of the gold (F1), and lines per second of one core.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import regex
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from sides import use_one_core
from wordmask.segmenters import Segmenter, make_segmenter
from wordmask.utils.errors import InputError
from wordmask.utils.files import is_blank
from wordmask.utils.readers import read_lines

SAMPLES = {
    "chinese": ["我 喜欢 研究 生命 的 起源 。", "他 在 北京 的 大学 学习 中文 ， 已经 三 年 了 。"],
    "japanese": [
        "私 は 毎朝 パン を 食べ て い ます 。",
        "東京 の 大学 で 日本 語 を 勉強 し た こと が あり ます 。",
    ],
    "thai": ["ฉัน ชอบ กิน ข้าวผัด", "วันนี้ อากาศ ดี มาก เรา ไป เดิน เล่น ที่ สวน"],
}
# For each language the real segmenters with their options. A model is given by a flag.
SEGMENTERS: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "chinese": [("jieba", {}), ("jieba", {"hmm": False}), ("ltp", {}), ("pkuseg", {}), ("icu", {})],
    "japanese": [
        *(("sudachi", {"mode": mode, "dictionary": size}) for size in ("small", "core") for mode in "ABC"),
        ("mecab", {}),
        ("icu", {}),
    ],
    "thai": [("pythainlp", {"engine": engine}) for engine in ("newmm", "nlpo3", "deepcut")] + [("icu", {})],
}
TOKENIZERS = {"characters": "bert", "WordPiece": "bert", "byte-level BPE": "roberta", "Unigram": "xlm-roberta"}
IN_SCRIPTS = regex.compile(
    r"[\p{L}\p{M}\p{N}&&[\p{scx=Han}\p{scx=Hiragana}\p{scx=Katakana}\p{scx=Thai}\p{scx=Lao}\p{scx=Khmer}"
    r"\p{scx=Myanmar}\p{scx=Tibetan}]]",
    regex.V1,
)


class Gold(Segmenter):
    """Gives the words that stand in a file, as `--segmenter words:Gold --segmenter_options file=FILE`."""

    def __init__(self, file: str):
        self.known = {"".join(words): words for words in read_gold(file)}

    def segment(self, lines: Sequence[str]) -> list[list[str]]:
        return [self.known[line] for line in lines]


class Borders(NamedTuple):
    """How a run agrees with gold words.

    Attributes:
        tokens: the number of tokens.
        spanning: the number of tokens that cover characters of two words.
        borders: the number of borders between two tokens at which both are in such scripts.
        on_the_spot, by_references: at how many of them the run joins or divides as the gold does.
        others: the gold words at which it does not.
    """

    tokens: int
    spanning: int
    borders: int
    on_the_spot: int
    by_references: int
    others: set[str]


def main(argv: Sequence[str] | None = None) -> tuple[dict[tuple[str, str], Borders], dict[tuple[str, str], float]]:
    """Print the tables; return the borders for each language and tokenizer, and F1 for each language and segmenter."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for language in SAMPLES:
        parser.add_argument(f"--{language}", help="text whose words are separated by one space")
    parser.add_argument("--lines", type=int, help="no more than the first so many lines of each file")
    parser.add_argument("--vocab_size", type=int, default=3000, help="of tokenizers that are trained on given files")
    parser.add_argument("--ltp", help="a directory with an LTP model")
    parser.add_argument("--pkuseg", help="a directory with a model of pkuseg")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(argv)
    given = {language: getattr(options, language) for language in SAMPLES}
    borders, scores = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        texts = {}
        for language in [name for name in SAMPLES if given[name] or not any(given.values())]:
            gold = read_gold(given[language])[: options.lines] if given[language] else sample(language)
            gold = [*{"".join(words): words for words in gold}.values()]  # a line twice has the words of one
            texts[language] = Path(folder, language)
            texts[language].mkdir()
            (texts[language] / "gold.txt").write_text("\n".join(map(" ".join, gold)) + "\n", encoding="utf-8")
            (texts[language] / "text.txt").write_text("\n".join(map("".join, gold)) + "\n", encoding="utf-8")
        for language, directory in texts.items():
            for kind in TOKENIZERS:
                borders[language, kind] = count_borders(directory, kind, options.vocab_size if given[language] else 0)
        print_borders(borders)
        use_one_core()
        rows = []
        for language, directory in texts.items():
            gold = read_gold(directory / "gold.txt")
            for name, segmenter in installed(language, options):
                f1, speed = score(segmenter, gold, options.repeats)
                scores[language, name] = f1
                rows.append((language, name, f1, speed))
        print_scores(rows)
    return borders, scores


def read_gold(path: str | Path) -> list[list[str]]:
    """The words of each line of a file."""
    return [line.split(" ") for line in read_lines(str(path), "--gold") if not is_blank(line)]


def sample(language: str) -> list[list[str]]:
    """The words of a small sample."""
    return [line.split(" ") for line in SAMPLES[language]]


def make_tokenizer(kind: str, lines: Sequence[str], vocab_size: int) -> Any:
    """A tokenizer of a kind, trained on lines, which knows all their characters."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    from wordmask.tokenization.train_tokenizer import train_tokenizer

    characters = sorted({character for line in lines for character in line if not character.isspace()})
    if kind == "characters":  # not WordPiece, which makes [UNK] of more than 100 characters without a space
        special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        vocabulary = {piece: number for number, piece in enumerate([*special, *characters])}
        backend = Tokenizer(models.WordLevel(vocabulary, "[UNK]"))
        backend.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
        ends = [(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")]
        backend.post_processor = processors.TemplateProcessing(single="[CLS] $0 [SEP]", special_tokens=ends)
        roles = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special, strict=True))
        return PreTrainedTokenizerFast(tokenizer_object=backend, **roles)
    smallest = 280 if kind == "byte-level BPE" else 2 * len(characters) + 10
    return train_tokenizer(TOKENIZERS[kind], lines, max(vocab_size, smallest))


def count_borders(directory: Path, kind: str, vocab_size: int) -> Borders:
    """Tokenize the text in a directory, find words by its gold in both ways, and compare.

    Args:
        directory: has the text, `text.txt`, and its words, `gold.txt`.
        kind: a key of `TOKENIZERS`.
        vocab_size: of a tokenizer that is trained; it has more if it needs more to know all characters.
    """
    import run_chinese_ref

    text, gold = str(directory / "text.txt"), read_gold(directory / "gold.txt")
    tokenizer = make_tokenizer(kind, [*read_lines(text, "--text")], vocab_size)
    model, references = str(directory / kind), str(directory / f"{kind}.ref")
    tokenizer.save_pretrained(model)
    tokenizer.name_or_path = model
    segmenter, file = "words:Gold", f"file={directory / 'gold.txt'}"
    flags = ["--segmenter", segmenter, "--segmenter_options", file, "--mixed_words"]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        run_chinese_ref.main(["--file_name", text, "--bert", model, "--save_path", references, *flags])
        on_the_spot = bits(tokenizer, text, None, segmenter=segmenter, segmenter_options=file, mixed_words=True)
        by_references = bits(tokenizer, text, references)
    joined, inside, words_at, spanning = judge(tokenizer, gold)
    right = [inside & (found == joined) for found in (on_the_spot, by_references)]
    others = {words_at[token] for token in np.flatnonzero(inside & ~(right[0] & right[1]))}
    return Borders(len(joined), spanning, int(inside.sum()), int(right[0].sum()), int(right[1].sum()), others)


def bits(tokenizer: Any, text: str, references: str | None, **segmentation: Any) -> NDArray[np.bool_]:
    """(tokens,) Which tokens of a text continue a word, as a training run has them."""
    from wordmask.config.data_arguments import DataArguments
    from wordmask.config.segmenter_arguments import SegmentationArguments
    from wordmask.data.sources import load_texts
    from wordmask.data.text_tokenizer import TextTokenizer

    data = DataArguments(train_file=[text], train_ref_file=[references] if references else None)
    texts = load_texts(data, str(Path(text).parent), None, False)["train"]
    tokenize = TextTokenizer(tokenizer, texts, None, SegmentationArguments(**segmentation))
    return np.concatenate([tokenize(table).tokens.values.to_numpy() % 2 == 1 for table in texts.batches()])


def judge(
    tokenizer: Any, gold: Sequence[Sequence[str]]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], list[str], int]:
    """What the gold words say about the borders between tokens, by the tokenizer's own offsets.

    Returns:
        (tokens,) whether a token and the one before it meet inside a word; (tokens,) whether both are in such scripts
        where they meet; (tokens,) the word at the start of each; and the number of tokens that cover characters of two
        words.
    """
    joined, inside, words_at, spanning = [], [], [], 0
    for words in gold:
        line = "".join(words)
        word_of = [number for number, word in enumerate(words) for _ in word]
        offsets = tokenizer(line, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        # An empty token, such as the space that Unigram puts before a line, stands at the character behind it.
        spans = [(start, max(end, start + 1)) for start, end in offsets]
        for number, (start, end) in enumerate(spans):
            last = spans[number - 1][1] - 1 if number else -1
            joined.append(number > 0 and word_of[last] == word_of[start])
            inside.append(number > 0 and all(IN_SCRIPTS.match(line[place]) for place in (last, start)))
            words_at.append(words[word_of[start]])
            spanning += word_of[start] != word_of[end - 1]
    return np.array(joined, bool), np.array(inside, bool), words_at, spanning


def installed(language: str, options: argparse.Namespace) -> Iterator[tuple[str, Segmenter]]:
    """The real segmenters of a language, each with its name and options; a line says which ones cannot be used."""
    models = {"ltp": options.ltp, "pkuseg": options.pkuseg}
    for name, settings in SEGMENTERS[language]:
        shown = " ".join([name, *(f"{option}={value}" for option, value in settings.items())])
        if name in models:
            settings = settings | {"model": models[name]}
            if models[name] is None:
                continue
        try:
            yield shown, make_segmenter(name, **settings)
        except InputError as error:
            print(f"{language}, {shown}: left out: {error}", file=sys.stderr)


def score(segmenter: Segmenter, gold: Sequence[Sequence[str]], repeats: int) -> tuple[float, float]:
    """F1 of a segmenter's words, and lines per second of one core: the median, once its dictionary is loaded."""
    lines = ["".join(words) for words in gold]
    found, seconds = segmenter.segment(lines), []
    for _ in range(repeats):
        start = time.process_time()
        segmenter.segment(lines)
        seconds.append(time.process_time() - start)
    right = sum(len(spans(one) & spans(other)) for one, other in zip(gold, found, strict=True))
    total = sum(len(spans(words)) for words in (*gold, *found))
    return 2 * right / total, len(lines) / max(statistics.median(seconds), 1e-9)


def spans(words: Sequence[str]) -> set[tuple[int, int]]:
    """The first character of each word and the end of it, in a line without white space."""
    ends = np.cumsum([len("".join(word.split())) for word in words]).tolist()
    return {(start, end) for start, end in zip([0, *ends], ends, strict=False) if end > start}


def print_borders(borders: dict[tuple[str, str], Borders]) -> None:
    """The first table."""
    table = Table(
        title="gold words: borders between two tokens in such scripts, and at how many of them the run agrees"
    )
    for column in ("", "tokens", "across two words", "borders", "right on the spot", "by references"):
        table.add_column(column, justify="right" if column else "left")
    for (language, kind), found in borders.items():
        table.add_row(f"{language}, {kind}", *(f"{count:,}" for count in found[:-1]))
    Console(width=120).print(table)
    others = sorted(set[str]().union(*(found.others for found in borders.values())))
    if others:
        print(f"it disagrees at these words: {', '.join(others)}")


def print_scores(rows: Sequence[tuple[str, str, float, float]]) -> None:
    """The second table."""
    table = Table(title="real segmenters")
    for column in ("", "F1", "lines/s"):
        table.add_column(column, justify="right" if column else "left")
    for language, name, f1, speed in rows:
        table.add_row(f"{language}, {name}", f"{f1:.3f}", f"{speed:,.0f}")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
