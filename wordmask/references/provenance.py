"""What a reference file was made from. The file `<name>.meta.json` next to it keeps this, and readers check it."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wordmask.tokenization.backend import tokenizer_digest
from wordmask.tokenization.words import SCRIPTS
from wordmask.utils.errors import InputError
from wordmask.utils.files import COMPRESSED, is_blank, read_json, write_json
from wordmask.utils.quantities import first_of_many
from wordmask.utils.readers.paths import SIDECAR

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


@dataclass
class Provenance:
    """What a reference file was made from.

    Attributes:
        lines: the number of lines of the text, with blank lines.
        text_sha256: the digest of the lines. Line ends, compression and file format do not change it.
        tokenizer_sha256: see `tokenizer_digest` of tokenization/backend.py.
        tokenizer, segmenter: names and versions, for messages.
        mixed_words: whether words of mixed script count.
        any_script: whether words without a character of `SCRIPTS` count.
        decides: the scripts in which the file decides every border between words: there, a token without a position
            begins a word. Files that do not say so decide none: they only join.
        contents: the digest of the reference file, or of each part of a directory, see `content.py`.
    """

    lines: int = 0
    text_sha256: str = ""
    tokenizer_sha256: str = ""
    tokenizer: str = ""
    segmenter: dict[str, str] = field(default_factory=dict)
    mixed_words: bool = False
    any_script: bool = False
    decides: list[str] = field(default_factory=list)
    contents: list[str] = field(default_factory=list)

    @property
    def words(self) -> str:
        """Where the words come from: `jieba (hmm true, jieba 0.42.1) with mixed words`. A digest is shortened."""
        short = {name: re.sub("(?<=^[0-9a-f]{12})[0-9a-f]{52}$", "", value) for name, value in self.segmenter.items()}
        details = ", ".join(f"{name} {value}" for name, value in short.items() if name != "name")
        words = self.segmenter.get("name", "an unknown segmenter")
        if details:
            words += f" ({details})"
        return f"{words} with mixed words" if self.mixed_words else words


def sidecar(path: str | Path) -> Path:
    """The file that holds the provenance of a reference file, or of a directory, which may be `.` or `..`.

    `gzip x.ref` leaves `x.ref.meta.json` as it is. So for `x.ref.gz` this is that file, if there is no other one.
    """
    name = str(path).rstrip("/")
    name = os.path.abspath(name) if os.path.basename(name) in ("", ".", "..") else name
    plain, ending = os.path.splitext(name)
    own, of_plain = Path(f"{name}{SIDECAR}"), Path(f"{plain}{SIDECAR}")
    return of_plain if ending.lower() in COMPRESSED and not own.exists() and of_plain.exists() else own


def read_provenance(path: str | Path, flag: str) -> Provenance | None:
    """The provenance of a reference file; `None` for a classic file, which has none.

    Raises:
        InputError: if its sidecar cannot be read, or the file decides other words than this version can read.
    """
    try:
        values = dict(read_json(sidecar(path)))
        known = {each.name for each in fields(Provenance)}
        if not known & values.keys():
            raise ValueError("it says nothing of what we know")
        if wrong := [name for name, one in values.items() if name in known and not _is_value(name, one)]:
            raise ValueError(f"{wrong[0]} is {str(values[wrong[0]])[:40]!r}")
        provenance = Provenance(**{name: value for name, value in values.items() if name in known})
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, OSError) as error:
        raise InputError(
            f"{flag}: {sidecar(path)} is not a provenance file ({error}); make the references again, or remove it"
        ) from None
    if provenance.decides not in ([], [*SCRIPTS]):
        raise InputError(
            f"{flag}: {sidecar(path)} says that the file decides the words of {provenance.decides}, and this version "
            f"knows only files that decide those of {', '.join(SCRIPTS)}; make the references again with "
            "run_chinese_ref.py"
        )
    return provenance


def _is_value(name: str, value: Any) -> bool:
    """Whether a field of a provenance can have this value, from JSON."""
    default = getattr(Provenance(), name)
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return type(value) is type(default) and all(isinstance(part, str) for part in parts)


def write_provenance(path: str | Path, provenance: Provenance) -> None:
    """Write the provenance of a reference file next to it."""
    write_json(sidecar(path), asdict(provenance))


class TextDigest:
    """A digest of the lines that were added so far.

    Attributes:
        lines: the number of these lines.
        blank: the number of blank lines among them.
    """

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self.lines = self.blank = 0

    def add(self, lines: Sequence[str]) -> None:
        """Add the next lines."""
        encoded = "\n".join([*lines, ""]).encode("utf-8", "surrogatepass")
        if encoded.count(b"\n") > len(lines):
            # The text of a table may have a line end inside. It becomes a byte that UTF-8 does not have.
            each = (line.encode("utf-8", "surrogatepass").replace(b"\n", b"\xff") for line in lines)
            encoded = b"".join(line + b"\n" for line in each)
        self._hash.update(encoded)
        self.lines += len(lines)
        self.blank += sum(map(is_blank, lines))

    def hexdigest(self) -> str:
        """The digest of all lines so far."""
        return self._hash.hexdigest()


def check_text(
    provenance: Provenance,
    digest: TextDigest,
    text_path: str,
    reference_path: str,
    flag: str,
    advice: str = "make the references again with run_chinese_ref.py",
) -> None:
    """Raise an `InputError` if the references were made from another text."""
    if provenance.text_sha256 != digest.hexdigest():
        difference = (
            f"{provenance.lines} lines where this one has {digest.lines}"
            if provenance.lines != digest.lines
            else f"of as many lines, {digest.lines}, but these are others, or in another order"
        )
        raise InputError(
            f"{flag}: {reference_path} was made from another text than {text_path} ({difference}); {advice}"
        )


def check_tokenizer(provenance: Provenance, tokenizer: PreTrainedTokenizerBase, path: str, flag: str) -> None:
    """Raise an `InputError` if references were made with a tokenizer that splits text differently."""
    if provenance.tokenizer_sha256 != tokenizer_digest(tokenizer):
        name = tokenizer.name_or_path
        made_with = (
            f"another tokenizer ({provenance.tokenizer}) than the one given ({name})"
            if provenance.tokenizer != name
            else "the tokenizer given here, but that has changed since (for instance, tokens were added)"
        )
        raise InputError(f"{flag}: {path} was made with {made_with}; make the references again with --bert {name}")


def warn_of_other_words(files: Iterable[tuple[str, str, Provenance]]) -> None:
    """Log a warning if the words of reference files come from several segmenters, as only several languages need.

    Args:
        files: of each file the flag that names it, its path and its provenance.
    """
    paths: dict[str, list[str]] = {}
    flags: dict[str, None] = {}
    for flag, path, provenance in files:
        flags[flag] = None
        paths.setdefault(provenance.words, []).append(path)
    if len(paths) > 1:
        places = [f"{words} in {first_of_many(names, 1)}" for words, names in paths.items()]
        logger.warning(
            "%s: the words come from %d segmenters (%s); make these references again with one of them, unless the "
            "texts are in several languages",
            " and ".join(flags),
            len(paths),
            "; ".join(places),
        )
