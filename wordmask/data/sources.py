"""The text of a run: from files of any format, from the hub, or from a dataset on disk."""

from __future__ import annotations

import glob
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa

from wordmask.config.arguments import DataArguments
from wordmask.data.text_files import FileTexts, count_texts, stream_texts
from wordmask.references.format import BATCH, Provenance, read_provenance
from wordmask.utils.cache import cache_directory, content, hashed
from wordmask.utils.errors import InputError, one_line
from wordmask.utils.files import (
    COMPRESSED,
    DECOMPRESSION_ERRORS,
    expand_files,
    is_blank,
    open_binary,
    write_atomically,
)
from wordmask.utils.hub import quiet_hub

FORMATS = {"csv": "csv", "tsv": "tsv", "json": "json", "jsonl": "json", "parquet": "parquet", "txt": "txt"}


def divided(numbers: range, size: int) -> list[range]:
    """Ranges of `size` numbers, the last one shorter."""
    return [numbers[first : first + size] for first in range(0, len(numbers), size)]


@dataclass
class Texts:
    """The text of one split before it is tokenized.

    Attributes:
        rows: `FileTexts`, a `datasets.Dataset`, or when streaming an `IterableDataset`; with the columns `text`, where
            there are references `chinese_ref`, and where those come from a file `line` and `file`.
        flag: the flag that names the text, for error messages.
        reference_flag: the flag that names the references.
        references: the reference files.
    """

    rows: Any
    flag: str
    reference_flag: str = ""
    references: Sequence[str] = ()

    @cached_property
    def provenance(self) -> dict[str, Provenance]:
        """What each reference file says that it was made from, where it says so."""
        found = {path: read_provenance(path, self.reference_flag) for path in self.references}
        return {path: provenance for path, provenance in found.items() if provenance}

    @property
    def fingerprint(self) -> str:
        """What tells these texts from others. Not for streams."""
        return self.rows.fingerprint if isinstance(self.rows, FileTexts) else self.rows._fingerprint

    def tables(self, spans: Iterable[range]) -> Iterator[pa.Table]:
        """The rows of each span, of which none begins before the end of the one before it. Not for streams."""
        if isinstance(self.rows, FileTexts):
            tables = self.rows.tables(spans)
        else:
            rows = self.rows.with_format("arrow")
            tables = (rows[span.start : span.stop] for span in spans)
        for table in tables:  # copied, since a slice goes to another process with all that it was cut from
            yield table.take(np.arange(len(table)))

    def batches(self) -> Iterator[pa.Table]:
        """All rows in order, a thousand at a time. Not for streams."""
        return self.tables(divided(range(len(self.rows)), BATCH))


def load_texts(
    arguments: DataArguments, cache_dir: str | None, token: str | None, evaluate: bool, if_possible: bool = False
) -> dict[str, Texts]:
    """The text of the splits `train` and `validation`, as far as there are any.

    Args:
        arguments: where the text is.
        cache_dir: where what is read is kept.
        token: the hub's access token.
        evaluate: whether validation data is wanted, so that a part of the training text stands in for it.
        if_possible: the same, but a text too short for that is only trained on.

    Raises:
        InputError: naming the flag, where text is missing or cannot be read.
    """
    if arguments.dataset_name:
        texts = _from_dataset(arguments, cache_dir, token)
    else:
        texts = {
            split: _from_files(arguments, split, cache_dir)
            for split in ("train", "validation")
            if getattr(arguments, f"{split}_file")
        }
    percentage = arguments.validation_split_percentage
    splits = percentage and "train" in texts and "validation" not in texts and not arguments.streaming
    if splits and (evaluate or if_possible and len(texts["train"].rows) > 1):
        texts |= _split(texts["train"], percentage)
    return texts


def _split(texts: Texts, percentage: int) -> dict[str, Texts]:
    """Set the first part of a text apart for evaluation."""
    count = len(texts.rows)
    part = max(1, round(count * percentage / 100))
    if part >= count:
        raise InputError(
            f"{texts.flag}: {count} text is too few to set {percentage} % apart for evaluation; give "
            "--validation_file, or --validation_split_percentage 0"
        )

    def cut(start: int, stop: int) -> Texts:
        return Texts(texts.rows.select(range(start, stop)), texts.flag, texts.reference_flag, texts.references)

    return {"train": cut(part, count), "validation": cut(0, part)}


def _from_dataset(arguments: DataArguments, cache_dir: str | None, token: str | None) -> dict[str, Texts]:
    """The splits of a dataset of the hub, or of one saved on disk."""
    name = str(arguments.dataset_name)
    try:
        if os.path.isdir(name) and any(Path(name, mark).exists() for mark in ("dataset_dict.json", "state.json")):
            loaded = datasets.load_from_disk(name)
        else:
            with quiet_hub():
                loaded = datasets.load_dataset(
                    name,
                    arguments.dataset_config_name,
                    cache_dir=cache_dir,
                    token=token,
                    streaming=arguments.streaming,
                )
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(
            f"--dataset_name: {name} cannot be loaded ({one_line(error)}); give a dataset of the hub, with the "
            "network or the cache to reach it, or a directory that save_to_disk wrote"
        ) from None
    splits = loaded if isinstance(loaded, dict) else {"train": loaded}
    flag = "--dataset_name"
    texts = {
        split: Texts(_text_columns(splits[split], arguments.text_column_name, flag, name), flag, flag, [name])
        for split in ("train", "validation")
        if split in splits
    }
    if arguments.streaming and "validation" in texts:  # what is evaluated on is read once and kept
        rows = texts["validation"].rows.take(arguments.max_eval_samples or 10**9)
        texts["validation"].rows = datasets.Dataset.from_list(list(rows))
    if not texts:
        raise InputError(f"--dataset_name: {name} has no split named train or validation, but {', '.join(splits)}")
    return texts


def _from_files(arguments: DataArguments, split: str, cache_dir: str | None) -> Texts:
    """The text of local files, with their references where there are any."""
    flag, reference_flag = f"--{split}_file", f"--{split}_ref_file"
    streaming = arguments.streaming and split == "train"  # what is evaluated on is read once and kept
    files = expand_files(getattr(arguments, f"{split}_file"), flag)
    references = expand_files(getattr(arguments, f"{split}_ref_file") or [], reference_flag)
    kinds = {_format(file, flag) for file in files}
    if len(kinds) > 1:
        raise InputError(f"{flag}: files of one kind are needed, found {', '.join(sorted(kinds))}")
    if references and kinds != {"txt"}:
        raise InputError(
            f"{reference_flag}: goes with .txt files; a {kinds.pop()} file has its references in a column chinese_ref"
        )
    if references and len(references) != len(files):
        raise InputError(
            f"{reference_flag}: {len(references)} reference files for {len(files)} text files; give one for each"
        )
    if kinds == {"txt"}:
        rows = _read_text(files, references, flag, reference_flag, arguments, streaming, cache_dir)
    else:
        rows = _read_table(kinds.pop(), files, flag, arguments, streaming, cache_dir)
        if "chinese_ref" in (rows.column_names or ()):
            return Texts(rows, flag, flag, files)
    return Texts(rows, flag, reference_flag, references)


def _format(file: str, flag: str) -> str:
    """The kind of a file by its name."""
    name = Path(file)
    suffix = Path(name.stem).suffix if name.suffix in COMPRESSED else name.suffix
    if suffix[1:] not in FORMATS:
        raise InputError(
            f"{flag}: {file} is of no known kind; its name must end in {', '.join('.' + known for known in FORMATS)}, "
            f"plain or with {', '.join(COMPRESSED)} behind"
        )
    return FORMATS[suffix[1:]]


def _read_text(
    files: Sequence[str],
    references: Sequence[str],
    flag: str,
    reference_flag: str,
    arguments: DataArguments,
    streaming: bool,
    cache_dir: str | None,
) -> Any:
    """Text files, a text to a line."""
    if arguments.text_column_name not in (None, "text"):
        raise InputError(
            f"--text_column_name: {files[0]} is no table and has no column {arguments.text_column_name}; drop the flag"
        )
    if streaming:
        return stream_texts(files, references, (flag, reference_flag))
    cache = cache_directory(cache_dir)
    return count_texts(files, references, (flag, reference_flag), cache, arguments.overwrite_cache)


def _read_table(
    kind: str, files: Sequence[str], flag: str, arguments: DataArguments, streaming: bool, cache_dir: str | None
) -> Any:
    """CSV, JSON or Parquet files."""
    options: dict[str, Any] = {}
    if kind in ("csv", "tsv"):
        options = {"sep": "\t" if kind == "tsv" else ",", "keep_default_na": False}
    source = ", ".join(files)
    try:
        rows = datasets.load_dataset(
            "csv" if kind == "tsv" else kind,
            data_files={"train": [glob.escape(_decompressed(file, flag, cache_dir)) for file in files]},
            split="train",
            cache_dir=cache_dir,
            streaming=streaming,
            download_mode="force_redownload" if arguments.overwrite_cache else None,
            features=_reference_features(kind, files[0]),
            **options,
        )
        cache = cache_directory(cache_dir)
        known = None if streaming else hashed(kind, [content(file, cache) for file in files])
        rows = _text_columns(rows, arguments.text_column_name, flag, source, known)
        some_text = any(not is_blank(row["text"] or "") for row in rows)
    except InputError:
        raise
    except (datasets.exceptions.DatasetGenerationError, OSError, ValueError, StopIteration, RuntimeError) as error:
        raise InputError(
            f"{flag}: {source} cannot be read as {kind} in UTF-8 ({one_line(error.__cause__ or error)})"
        ) from None
    if not some_text:
        raise InputError(f"{flag}: {source} has no text in it; give a file with one text to a row")
    return rows


def _reference_features(kind: str, file: str) -> datasets.Features | None:
    """The features of a JSON file with references: without, an early stretch of empty ones would settle their type."""
    if kind != "json":
        return None
    with open_binary(file) as source:
        try:
            row = json.loads(source.readline())
        except ValueError:
            return None
    if not isinstance(row, dict) or row.keys() != {"text", "chinese_ref"}:
        return None
    return datasets.Features({"text": datasets.Value("string"), "chinese_ref": datasets.List(datasets.Value("int32"))})


def _decompressed(file: str, flag: str, cache_dir: str | None) -> str:
    """The path of a file's plain copy in the cache, or its own where it is plain."""
    if Path(file).suffix not in COMPRESSED:
        return os.path.abspath(file)
    cache = cache_directory(cache_dir)
    plain = cache / content(file, cache)[:32] / Path(file).stem
    if not plain.exists():
        try:
            with open_binary(file) as source, write_atomically(plain, binary=True) as target:
                shutil.copyfileobj(source, target)
        except DECOMPRESSION_ERRORS as error:
            raise InputError(f"{flag}: {file} cannot be decompressed ({error})") from None
    return str(plain)


def _text_columns(rows: Any, name: str | None, flag: str, source: str, known: str | None = None) -> Any:
    """A dataset with the column `text` and, where there is one, `chinese_ref`.

    It is known again by its content, if that is given, or else where it lies.
    """
    columns = rows.column_names or list(next(iter(rows), {}))
    if not columns:
        raise InputError(f"{flag}: {source} has no text in it; give a file with one text to a row")
    if name is None:
        name = "text" if "text" in columns else columns[0]
    elif name not in columns:
        raise InputError(f"--text_column_name: {source} has no column {name}, but {', '.join(columns)}")
    kind = rows.features[name].dtype if rows.features else "string"
    if kind not in ("string", "large_string"):
        raise InputError(f"--text_column_name: column {name} of {source} holds {kind}, not text; name another column")
    kept = [name, *(column for column in ("chinese_ref",) if column in columns)]
    rows = rows.select_columns(kept, new_fingerprint=hashed(known, kept)) if known else rows.select_columns(kept)
    return rows if name == "text" else rows.rename_column(name, "text")
