"""The record in --prepared_dir: what the tokens there were made from, and the parts that they are divided into."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from wordmask.data.sources import SPLITS
from wordmask.data.text_tokenizer import VERSION
from wordmask.utils.batches import divided
from wordmask.utils.errors import InputError, one_line

RECORD = "wordmask_prepared.json"
ADVICE = "tokenize the text again into a new directory with --prepare_only"


# How we call what tokens were made with, where that has another name in `TextTokenizer.identity`.
_NAMES = {
    "separator": "--line_by_line",
    "mixed_references": "kind of references",
    "deciding_references": "kind of references",
    "classic_references": "kind of references",
}


class Part(NamedTuple):
    """Some texts of a split. Their tokens are one file.

    Attributes:
        split: the name of the split.
        file: the name of the file.
        label: the name of the part in messages.
        texts: the numbers of its texts.
    """

    split: str
    file: str
    label: str
    texts: range


@dataclass(frozen=True)
class PreparedRecord:
    """What a directory of tokens was made from.

    Attributes:
        tokenizer: the tokenizer's name, for messages.
        flags: the flags about the text and its words that the user gave.
        part_lines: the number of texts in a part.
        texts: the number of texts of each split.
        digests: the digest of the files of each split; `None` for datasets.
        made_with: what else the tokens of each split depend on, see `TextTokenizer.identity`.
        corpora: the number of texts of each corpus of each split, by name.
        words_from: where the words of each split come from, for messages; empty for those of the text itself.
        fingerprints: the fingerprint of the text of each split, see `Source`.
    """

    tokenizer: str
    flags: dict[str, Any]
    part_lines: int
    texts: dict[str, int]
    digests: dict[str, str | None]
    made_with: dict[str, dict[str, Any]]
    corpora: dict[str, dict[str, int]]
    words_from: dict[str, str]
    fingerprints: dict[str, str]

    @property
    def parts(self) -> list[Part]:
        """The parts of all splits, in order."""
        parts = []
        for split, count in self.texts.items():
            spans = divided(range(count), self.part_lines)
            for number, span in enumerate(spans):
                file = f"{split}-{number:05d}-of-{len(spans):05d}.arrow"
                parts.append(Part(split, file, f"part {number + 1} of {len(spans)} of {split}", span))
        return parts

    @property
    def _content(self) -> tuple[Any, ...]:
        return self.texts, self.digests, self.corpora

    def differences(self, earlier: PreparedRecord) -> list[str]:
        """The names of what differs from an earlier record and would give other parts."""
        if self.texts.keys() != earlier.texts.keys():
            return ["choice of splits"]
        names = {name for made in self.made_with.values() for name in made}
        different = []
        if self.part_lines != earlier.part_lines:
            different.append("--part_lines")
        if self._content != earlier._content:
            different.append("text")
        return different + [
            *dict.fromkeys(
                _NAMES.get(name, name)
                for name in sorted(names)
                if any(made.get(name) != earlier.made_with[split].get(name) for split, made in self.made_with.items())
            )
        ]


def checked(record: dict[str, Any], directory: Path) -> PreparedRecord:
    """The record of a directory, from its JSON.

    Raises:
        InputError: if it is not a record, or another version wrote it.
    """
    try:
        prepared = PreparedRecord(**record)
        versions = {made["version"] for made in prepared.made_with.values()}
        splits, counts = prepared.texts.keys(), [prepared.part_lines, *prepared.texts.values()]
        others = prepared.digests, prepared.made_with, prepared.corpora, prepared.words_from, prepared.fingerprints
        if not (
            splits
            and splits <= {*SPLITS}
            and all(other.keys() == splits for other in others)
            and all({"tokenizer", "separator"} <= made.keys() for made in prepared.made_with.values())
            and all(type(count) is int and count > 0 for count in counts)
            and isinstance(prepared.flags, dict)
        ):
            raise TypeError("it has other values than --prepare_only writes")
    except (TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"--prepared_dir: {directory / RECORD} cannot be read ({one_line(error)}); {ADVICE}"
        ) from None
    if versions - {VERSION}:
        raise InputError(f"--prepared_dir: {directory} was made by another version of this suite; {ADVICE}")
    return prepared
