"""Words from LTP: the legacy perceptron and the neural models, from a directory or the Hugging Face Hub.

Neither is loaded through `ltp.LTP`: it passes the hub an argument that today's huggingface_hub refuses, reads a path
with "@" as a revision, and keeps random weights where the names in the file are wrong. The first of these is mended by
https://github.com/HIT-SCIR/ltp/pull/738, which no release up to 4.2.14 contains. `ltp.LTP` can be used when a release
does, and when it also loads weights with `strict=True`.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import textwrap
import unicodedata
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from wordmask.segmenters import Segmenter, import_package, replace_surrogates, restore
from wordmask.utils.errors import InputError

TOKENS_ON_CPU = 1024  # in a batch, padding included: more leave its caches
TOKENS_ON_GPU = 2**14


class LTPSegmenter(Segmenter):
    """Words by an LTP model.

    A neural model reads lines of similar length together and sorts only the lines of one call: thousands at a time
    cost a fraction of what a few at a time do.

    Args:
        model: a directory in LTP's format (`config.json` beside the weights), or a hub id such as `LTP/small`,
            optionally with a revision: `LTP/small@main`.
        device: where a neural model runs, in torch's words; the GPU if there is one.
        batch_size: lines that a neural model reads at once; if not given, as many as make 1,024 tokens on a CPU and
            16,384 elsewhere.

    Raises:
        InputError: where a package is missing, the hub out of reach, the model unreadable or without word
            segmentation, or `device` or `batch_size` given for a legacy model.
    """

    def __init__(
        self, model: str | os.PathLike[str], device: str | None = None, batch_size: int | None = None
    ) -> None:
        self._source = f"--ltp {os.fspath(model)}"
        directory = _find_directory(os.fspath(model), self._source)
        config = _read_config(directory, self._source)
        self._model: _Model
        if config["nerual"]:
            self._model = _Neural(directory, config, self._source, device, batch_size)
        elif device is not None or batch_size is not None:
            raise InputError(f"{self._source} is a legacy model, which can use neither device nor batch_size")
        else:
            self._model = _Legacy(directory, config, self._source)

    def segment(self, lines: Sequence[str]) -> list[list[str]]:
        return self._model.segment(lines)

    @property
    def identity(self) -> dict[str, str]:
        return {"name": "ltp", **self._model.identity}


class _Model(Protocol):
    identity: dict[str, str]

    def segment(self, lines: Sequence[str]) -> list[list[str]]: ...


def _find_directory(model: str, source: str) -> Path:
    """The directory of a model, fetched from the hub where `model` is no directory of this machine."""
    path = Path(os.path.expanduser(model))
    if model and path.is_dir():
        return path
    hub_id, _, revision = model.partition("@")
    if path.exists() or not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", hub_id):
        raise InputError(f"{source}: neither a directory nor a hub id such as LTP/small")
    hub = import_package("huggingface_hub", segmenter="ltp", distribution="huggingface_hub")
    try:
        return Path(hub.snapshot_download(hub_id, revision=revision or None))
    except Exception as error:  # connection, name, revision, access, disk: they share no other class
        raise InputError(
            f"{source}: no such directory, and fetching it from the hub failed ({_brief(error)}); "
            "download it where there is a network, then give the directory"
        ) from error


def _read_config(directory: Path, source: str) -> dict[str, Any]:
    try:
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{source}: cannot read its config.json ({_brief(error)})") from error
    # "nerual" is how LTP spells it.
    if not isinstance(config, dict) or not isinstance(config.get("nerual"), bool):
        raise InputError(f"{source}: its config.json is not that of an LTP model (no entry 'nerual')")
    return config


def _brief(error: BaseException) -> str:
    """An error in a piece of a line: torch and the hub write paragraphs, LTP adds a backtrace."""
    return textwrap.shorten(str(error).split("Stack backtrace", 1)[0], width=240, placeholder=" …") or repr(error)


def _restore(line: str, words: list[str], source: str) -> list[str]:
    """LTP leaves out the start of a line: legacy models white space, neural ones control characters too."""
    try:
        return restore(line, words)
    except ValueError as error:
        raise InputError(f"{source}: {error}; does its config.json belong to its weights?") from error


class _Legacy:
    """The averaged perceptron of `ltp_extension`, on all cores."""

    def __init__(self, directory: Path, config: dict[str, Any], source: str) -> None:
        tasks = config.get("tasks")
        name = tasks.get("cws") if isinstance(tasks, dict) else None
        if not isinstance(name, str):
            raise InputError(f"{source}: this model has no word segmentation (no task 'cws' in its config.json)")
        file = directory / name
        try:
            content = file.read_bytes()
        except OSError as error:
            raise InputError(f"{source}: cannot read {name} ({error.strerror or error})") from error
        if not _is_whole(content):
            raise InputError(f"{source}: {name} is damaged or no legacy model; download it again")
        perceptron = import_package("ltp_extension.perceptron", segmenter="ltp", distribution="ltp")
        try:
            self._model = perceptron.CWSModel.load(str(file))
        except (RuntimeError, ValueError) as error:
            raise InputError(f"{source}: cannot load {name} ({_brief(error)})") from error
        self._source = source
        self.identity = {
            "kind": "legacy",
            "ltp_extension": version("ltp_extension"),
            "sha256": hashlib.sha256(content).hexdigest(),
        }

    def segment(self, lines: Sequence[str]) -> list[list[str]]:
        found = self._model.batch_predict([replace_surrogates(line) for line in lines], True)
        return [_restore(line, words, self._source) for line, words in zip(lines, found, strict=True)]


def _is_whole(content: bytes) -> bool:
    """Whether a legacy model, an Avro file, ends as its header says: with the 16 bytes that end the header too.

    Needed because `CWSModel.load` ends the process, not with an exception, on a file that was cut off.
    """
    stream = io.BytesIO(content)
    if stream.read(4) != b"Obj\x01":
        return False
    try:
        while pairs := _read_number(stream):  # the header: parts of a map, the last one empty
            if pairs < 0:
                _read_number(stream)
            for _ in range(2 * abs(pairs)):
                stream.seek(max(0, _read_number(stream)), io.SEEK_CUR)
    except (EOFError, OverflowError):  # too short, or a length that no file has
        return False
    mark = stream.read(16)
    return stream.tell() + 16 < len(content) and content.endswith(mark)


def _read_number(stream: io.BytesIO) -> int:
    """The next number: seven bits to a byte, low ones first, and the sign in the lowest (Avro's zigzag code)."""
    number = shift = 0
    while True:
        byte = stream.read(1)
        if not byte:
            raise EOFError
        number |= (byte[0] & 0x7F) << shift
        shift += 7
        if byte[0] < 0x80:
            return number >> 1 ^ -(number & 1)


# A config names what to call, and LTP calls it, whatever it is. A prefix would not do: ltp_core's modules hold torch,
# importlib and functools as attributes.
_ALLOWED_TARGETS = frozenset(
    {
        "ltp_core.models.ltp_model.LTPModule",
        "ltp_core.models.utils.load_transformers",
        "ltp_core.models.utils.transformer.load_transformers",
        "ltp_core.models.processor.ClsOnly",
        "ltp_core.models.processor.NOP",
        "ltp_core.models.processor.TokenOnly",
        "ltp_core.models.processor.WordsOnly",
        "ltp_core.models.processor.WordsWithHead",
        "ltp_core.models.components.graph.BiaffineClassifier",
        "ltp_core.models.components.sent.MLPClassifier",
        "ltp_core.models.components.token.BiaffineTokenClassifier",
        "ltp_core.models.components.token.MLPTokenClassifier",
        "ltp_core.models.components.token.RelTransformerTokenClassifier",
    }
)

_WEIGHTS = "pytorch_model.bin"
_VOCABULARIES = ("tokenizer.json", "vocab.txt")
_MAX_TOKENS = 512  # where LTP itself truncates, special tokens included


class _Neural:
    """A transformer with a tag for each token.

    Lines are read in batches of similar length, and a line that is too long in parts.
    """

    def __init__(
        self, directory: Path, config: dict[str, Any], source: str, device: str | None, batch_size: int | None
    ) -> None:
        self._batch_size = batch_size
        if batch_size is not None and batch_size < 1:
            raise InputError(f"batch_size={batch_size}: a neural LTP model has to read at least 1 line at once")
        _check_neural_config(config, source)
        self._ltp = _build(directory, config, source)
        on_cpu = _move(self._ltp, device).type == "cpu"
        self._tokens = TOKENS_ON_CPU if on_cpu else TOKENS_ON_GPU
        try:
            self._ltp.pipeline(["试一试。"], tasks=["cws"])
        except Exception as error:  # parts that do not fit each other; what they raise shares no class
            raise InputError(f"{source}: this model cannot segment a word ({_brief(error)})") from error
        positions = getattr(self._ltp.model.backbone.config, "max_position_embeddings", None) or _MAX_TOKENS
        self._special_tokens = self._ltp.tokenizer.num_special_tokens_to_add()
        self._max_length = min(positions, _MAX_TOKENS) - self._special_tokens
        self._source = source
        self.identity = {
            "kind": "neural",
            **{package: version(package) for package in ("ltp", "ltp_core", "torch", "transformers")},
            "sha256": _digest(directory, ("config.json", _WEIGHTS, "tokenizer_config.json", *_VOCABULARIES)),
        }

    def segment(self, lines: Sequence[str]) -> list[list[str]]:
        parts = [split_long(line, self._max_length) for line in lines]
        words = self._segment_parts({part for line in parts for part in line})
        return [[word for part in line for word in words[part]] for line in parts]

    def _segment_parts(self, parts: set[str]) -> dict[str, list[str]]:
        # By length, then by text: what is read together depends on what the lines are, not on their order. Longest
        # first, so that memory runs out at the start or not at all.
        order = sorted(filter(self._has_tokens, parts), key=lambda part: (-len(part), part))
        found: dict[str, list[str]] = {part: [] for part in parts}
        while order:
            rows = self._batch_size or max(1, self._tokens // (len(order[0]) + self._special_tokens))
            batch, order = order[:rows], order[rows:]
            copies = [replace_surrogates(part) for part in batch]
            found.update(zip(batch, self._ltp.pipeline(copies, tasks=["cws"]).cws, strict=True))
        return {part: _restore(part, words, self._source) for part, words in found.items()}

    def _has_tokens(self, part: str) -> bool:
        """Whether the tokenizer finds anything: a model with a CRF fails on white space and control characters."""
        return bool(_SURELY_A_TOKEN.search(part) or self._ltp.tokenizer.tokenize(replace_surrogates(part)))


_SURELY_A_TOKEN = re.compile(r"[0-9A-Za-z\u4e00-\u9fa5]")


def _check_neural_config(config: dict[str, Any], source: str) -> None:
    model = config.get("model")
    heads = model.get("heads") if isinstance(model, dict) else None
    if not isinstance(heads, dict):
        raise InputError(f"{source}: its config.json describes no model (no entry 'model' with 'heads')")
    if "cws" not in heads:
        raise InputError(f"{source}: this model has no word segmentation (no head 'cws' in its config.json)")
    foreign = _foreign_target(model)
    if foreign is not None:
        raise InputError(f"{source}: refused, since its config.json would call {foreign}, which is not a part of LTP")


def _foreign_target(node: Any) -> str | None:
    """The first callable, in a config, that LTP would call and that is not LTP's."""
    if isinstance(node, list):
        node = dict(enumerate(node))
    if not isinstance(node, dict):
        return None
    target = node.get("_ltp_target_")
    if target is not None and not (isinstance(target, str) and target in _ALLOWED_TARGETS):
        return str(target)
    return next((found for child in node.values() if (found := _foreign_target(child)) is not None), None)


def _build(directory: Path, config: dict[str, Any], source: str) -> Any:
    """An `ltp.nerual.LTP` with its weights and its tokenizer."""
    nerual = import_package("ltp.nerual", segmenter="ltp", distribution="ltp")
    torch = import_package("torch", segmenter="ltp", distribution="torch")
    transformers = import_package("transformers", segmenter="ltp", distribution="transformers")
    # What LTP, torch and transformers raise on a wrong config or a damaged file shares no class but Exception.
    try:
        ltp = nerual.LTP(config=config)
        labels = config["model"]["heads"]["cws"]["num_labels"]
    except Exception as error:
        raise InputError(f"{source}: its config.json describes no model LTP can build ({_brief(error)})") from error
    if labels != len(ltp.cws_vocab):
        raise InputError(f"{source}: its config.json has {labels} labels for {len(ltp.cws_vocab)} tags of 'cws'")
    try:
        weights = torch.load(directory / _WEIGHTS, map_location="cpu", weights_only=True)
        # A buffer that transformers once saved and does no more; it holds 0, 1, 2, …
        weights = {name: tensor for name, tensor in weights.items() if not name.endswith(".position_ids")}
        ltp.load_state_dict(weights, strict=True)
    except Exception as error:
        raise InputError(f"{source}: cannot load its weights from {_WEIGHTS} ({_brief(error)})") from error
    # Without either, transformers makes a tokenizer that knows no character, and says nothing.
    if not any((directory / name).is_file() for name in _VOCABULARIES):
        raise InputError(f"{source}: it has no tokenizer (neither {' nor '.join(_VOCABULARIES)})")
    backbone = ltp.model.backbone.config
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(directory, config=backbone, local_files_only=True)
    except Exception as error:
        raise InputError(f"{source}: cannot load its tokenizer ({_brief(error)})") from error
    largest = max(tokenizer.get_vocab().values())
    if largest >= backbone.vocab_size:
        raise InputError(f"{source}: its tokenizer has ids up to {largest}, its model up to {backbone.vocab_size - 1}")
    # transformers 5 removed this method, and ltp 4.2.14 calls it. The line can go when ltp calls the tokenizer itself.
    if not hasattr(tokenizer, "batch_encode_plus"):
        tokenizer.batch_encode_plus = tokenizer.__call__
    ltp.tokenizer = tokenizer
    ltp.eval()
    return ltp


def _move(ltp: Any, name: str | None) -> Any:
    """Take a model to a device, the GPU if there is one, and return that."""
    import torch

    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        ltp.to(device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device={name}: torch cannot use it ({_brief(error)})") from error
    return device


def _digest(directory: Path, names: Sequence[str]) -> str:
    """SHA-256 over those of the files that exist, by name and content."""
    digest = hashlib.sha256()
    for name in names:
        if (directory / name).is_file():
            with (directory / name).open("rb") as file:
                digest.update(f"{name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


# Ends of sentences, with the quotes and brackets that close after them; then what parts clauses.
_BORDERS = (re.compile(r"[。！？!?；;…\n]+[”’」』）)】\]\"']*|\.(?=\s)"), re.compile(r"[，,、：:]+|\s+"))


def split_long(line: str, limit: int) -> list[str]:
    """Cut a line into parts of at most `limit` tokens; joined, they are the line.

    Cuts fall at the end of a sentence, else of a clause, else anywhere, as near the middle as can be. A token counts
    as one character of the line in Unicode's form NFD: BERT's tokenizers, which all of LTP's models use, make no more
    than that, and more than one of a Korean syllable.
    """
    if len(line) < 2 or len(unicodedata.normalize("NFD", line)) <= limit:
        return [line]
    middle = len(line) // 2
    cut = middle
    for border in _BORDERS:
        ends = [match.end() for match in border.finditer(line) if match.end() < len(line)]
        if ends:
            cut = min(ends, key=lambda end: abs(end - middle))
            break
    return split_long(line[:cut], limit) + split_long(line[cut:], limit)
