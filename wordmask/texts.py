"""The text of a run: from files of any format, from the hub, or from a dataset on disk."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import datasets
import pyarrow as pa
import pyarrow.compute as pc
from filelock import FileLock

from wordmask.arguments import DataArguments
from wordmask.errors import InputError, one_line
from wordmask.hub import quiet_hub
from wordmask.references import (
    Provenance,
    TextDigest,
    batches,
    check_text,
    pair_tables,
    pairs_blank_lines,
    read_provenance,
)
from wordmask.textfiles import (
    COMPRESSED,
    DECOMPRESSION_ERRORS,
    expand_files,
    is_blank,
    open_binary,
    read_lines,
    write_atomically,
)

Lines = TypeVar("Lines", pa.Table, list[str])

FORMATS = {"csv": "csv", "tsv": "tsv", "json": "json", "jsonl": "json", "parquet": "parquet", "txt": "txt"}


@dataclass(frozen=True)
class FileTexts:
    """The texts of text files, of which no copy is made: they are read from the beginning whenever they are needed.

    Attributes:
        files, references, flags: as `_text_tables` takes them.
        numbers: which of the texts in the files these are.
        digest: that of all texts in the files, with their references.
    """

    files: tuple[str, ...]
    references: tuple[str, ...]
    flags: tuple[str, str]
    numbers: range
    digest: str

    def __len__(self) -> int:
        return len(self.numbers)

    def select(self, span: range) -> FileTexts:
        """Some of the texts, one behind the other."""
        return replace(self, numbers=self.numbers[span.start : span.stop])

    def tables(self, spans: Iterable[range]) -> Iterator[pa.Table]:
        """The texts of each span, of which none begins before the end of the one before it.

        Raises:
            InputError: where there are fewer texts than were counted.
        """
        read = _text_tables(self.files, self.references, self.flags)
        try:
            held, first = next(read), 0  # some texts, and the number of the first of them
            for span in spans:
                own = self.numbers[span.start : span.stop]
                while first + len(held) < own.stop:
                    kept = held[own.start - first :]
                    first += len(held) - len(kept)
                    held = pa.concat_tables([kept, next(read)])
                yield held[own.start - first : own.stop - first]
        except StopIteration:
            raise InputError(
                f"{self.flags[0]}: {', '.join(self.files)} was cut while it was read; run again when it is whole"
            ) from None


def add_texts(digest: Any, batch: pa.Table) -> None:
    """Add texts, and their references where there are any, to a digest."""
    texts = pc.fill_null(batch["text"].cast(pa.large_binary()), b"").combine_chunks()
    digest.update(pc.binary_length(texts).to_numpy(zero_copy_only=False).tobytes())
    digest.update(b"".join(texts.to_pylist()))
    if "chinese_ref" in batch.column_names:
        digest.update(json.dumps(batch["chinese_ref"].to_pylist()).encode())


@dataclass
class Texts:
    """The text of one split before it is tokenized.

    Attributes:
        rows: a `datasets.Dataset`, when streaming an `IterableDataset`, or `FileTexts`; with the columns `text`, where
            there are references `chinese_ref`, and where they come from a file `line`.
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

    def tables(self, spans: Iterable[range]) -> Iterator[pa.Table]:
        """The rows of each span, of which none begins before the end of the one before it. Not for streams."""
        if isinstance(self.rows, FileTexts):
            return self.rows.tables(spans)
        rows = self.rows.with_format("arrow")
        return (rows[span.start : span.stop] for span in spans)


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
    features = datasets.Features({"text": datasets.Value("string")})
    if references:
        features["chinese_ref"] = datasets.List(datasets.Value("int32"))
        features["line"] = datasets.Value("int64")
        features["file"] = datasets.Value("int16")
    keywords: dict[str, Any] = {
        "files": tuple(files),  # no lists, since those would be taken for shards
        "references": tuple(references),
        "flags": (flag, reference_flag),
    }
    if next(_text_tables(**keywords), None) is None:
        raise InputError(f"{flag}: {', '.join(files)} has no text in it; give a file with one text to a line")
    if arguments.text_column_name not in (None, "text"):
        raise InputError(
            f"--text_column_name: {files[0]} is no table and has no column {arguments.text_column_name}; drop the flag"
        )
    if streaming and references:
        _check_pairs(files, references, flag, reference_flag)
    if streaming:  # lists, so that each file can be read by another process
        shards = {"positions": list(range(len(files))), "files": list(files), "references": list(references or files)}
        settings = {"flags": (flag, reference_flag), "paired": bool(references)}
        return datasets.IterableDataset.from_generator(_text_rows, features=features, gen_kwargs=shards | settings)
    if arguments.prepare_only:
        digest, count = hashlib.sha256(), 0
        for table in _tracked(_text_tables(**keywords), "Counting"):
            add_texts(digest, table)
            count += len(table)
        return FileTexts(**keywords, numbers=range(count), digest=digest.hexdigest())
    sidecars = [f"{path}.meta.json" for path in references if os.path.exists(f"{path}.meta.json")]
    cache = _cache(cache_dir)
    contents = [_content(file, cache) for file in [*files, *references, *sidecars]]
    path = cache / f"texts-{datasets.fingerprint.Hasher.hash([contents, bool(references)])}.arrow"
    with FileLock(f"{path}.lock"):  # of runs that start together, one writes
        if arguments.overwrite_cache or not path.exists():
            with (
                write_atomically(path, binary=True) as file,
                datasets.arrow_writer.ArrowWriter(stream=file, features=features) as writer,
            ):
                for table in _tracked(_text_tables(**keywords), "Reading"):
                    writer.write_table(table.select(list(features)))
                writer.finalize(close_stream=False)
    return datasets.Dataset.from_file(str(path))


def _bar(description: str, unit: str, total: int | None = None) -> Any:
    """A progress bar of what takes over two seconds."""
    return datasets.utils.tqdm(desc=description, unit=unit, unit_scale=True, total=total, delay=2)


def _tracked(tables: Iterable[Lines], description: str) -> Iterator[Lines]:
    """The same tables or lists of lines, with a bar that shows how many lines have passed."""
    with _bar(description, " lines") as progress:
        for table in tables:
            yield table
            progress.update(len(table))


def _cache(cache_dir: str | None) -> Path:
    """Where what is read is kept."""
    cache = Path(cache_dir or datasets.config.HF_DATASETS_CACHE, "wordmask")
    cache.mkdir(parents=True, exist_ok=True)
    return cache


def _content(file: str, cache: Path) -> str:
    """The digest of a file's content, so that a copy of it is known again; read once as long as the file stays."""
    status = os.stat(file)
    stamp = datasets.fingerprint.Hasher.hash([os.path.abspath(file), status.st_size, status.st_mtime_ns])
    known = cache / f"content-{stamp}.txt"
    if not known.exists():
        digest = hashlib.sha256()
        with open(file, "rb") as source, _bar("Looking for a copy", "B", status.st_size) as progress:
            for part in iter(partial(source.read, 2**20), b""):
                digest.update(part)
                progress.update(len(part))
        with write_atomically(known) as target:
            target.write(digest.hexdigest())
    return known.read_text(encoding="utf-8")


def _text_tables(
    files: Sequence[str], references: Sequence[str], flags: tuple[str, str], first: int = 0
) -> Iterator[pa.Table]:
    """The lines of text files, blank ones passed over, with their references where there are any.

    The files, the number of the first of which is given, are counted in the column `file` if there are references.
    """
    flag, reference_flag = flags
    for position, file in enumerate(files, first):
        if references:
            for table in pair_tables(file, references[position - first], flag, reference_flag):
                yield table.append_column("file", pa.array([position] * len(table), pa.int16()))
        else:
            for batch in batches(line for line in read_lines(file, flag) if not is_blank(line)):
                yield pa.table({"text": pa.array(batch, pa.string())})


def _check_pairs(files: Sequence[str], references: Sequence[str], flag: str, reference_flag: str) -> None:
    """Check before a stream begins what else would be known only when a file has been read to its end.

    Raises:
        InputError: where a text is not the one that its references were made from, as far as that is known, or differs
            from them in number.
    """
    for file, reference in zip(files, references, strict=True):
        provenance = read_provenance(reference, reference_flag)
        if provenance is None:
            pairs_blank_lines(file, reference, flag, reference_flag)
            continue
        digest = TextDigest()
        for batch in _tracked(batches(read_lines(file, flag)), "Checking"):
            digest.add(batch)
        check_text(provenance, digest, file, reference, reference_flag)


def _text_rows(
    positions: Sequence[int], files: Sequence[str], references: Sequence[str], flags: tuple[str, str], paired: bool
) -> Iterator[dict[str, Any]]:
    """The same, row by row, for a stream of some of the files."""
    for position, file, reference in zip(positions, files, references, strict=True):
        for table in _text_tables([file], [reference] if paired else [], flags, position):
            yield from table.to_pylist()


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
        rows = _text_columns(rows, arguments.text_column_name, flag, source)
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
    cache = _cache(cache_dir)
    plain = cache / _content(file, cache)[:32] / Path(file).stem
    if not plain.exists():
        try:
            with open_binary(file) as source, write_atomically(plain, binary=True) as target:
                shutil.copyfileobj(source, target)
        except DECOMPRESSION_ERRORS as error:
            raise InputError(f"{flag}: {file} cannot be decompressed ({error})") from None
    return str(plain)


def _text_columns(rows: Any, name: str | None, flag: str, source: str) -> Any:
    """A dataset with the column `text` and, where there is one, `chinese_ref`."""
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
    rows = rows.select_columns(kept)
    return rows if name == "text" else rows.rename_column(name, "text")
