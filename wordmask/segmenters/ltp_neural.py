"""LTP's neural models: a transformer that gives each token a tag."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from wordmask.segmenters.libraries import brief, import_package, replace_surrogates, restore
from wordmask.segmenters.long_lines import split_long
from wordmask.utils.errors import InputError

TOKENS_ON_CPU = 1024  # in a batch, padding included: more do not fit into its caches
TOKENS_ON_GPU = 2**14

# A config names callables, and LTP calls them, whatever they are. So we list what may be called. A prefix is not
# enough: torch, importlib and functools are attributes of ltp_core's modules.
ALLOWED_TARGETS = frozenset(
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
_MAX_TOKENS = 512  # LTP itself truncates there; this counts special tokens


class NeuralModel:
    """A neural LTP model. It reads lines of similar length in one batch, and splits a line that is too long.

    Args:
        directory: the model's directory.
        config: its `config.json`.
        source: what the user gave, for error messages: `--ltp DIRECTORY`.
        device, batch_size: see `LTPSegmenter`.

    Raises:
        InputError: if a package is missing, the model cannot be read or has no word segmentation, or `device` or
            `batch_size` cannot be used.
    """

    def __init__(
        self, directory: Path, config: dict[str, Any], source: str, device: str | None, batch_size: int | None
    ) -> None:
        self._batch_size = batch_size
        if batch_size is not None and batch_size < 1:
            raise InputError(f"batch_size={batch_size}: a neural LTP model needs a batch of at least 1 line")
        _check_neural_config(config, source)
        self._ltp = _build(directory, config, source)
        on_cpu = _move(self._ltp, device).type == "cpu"
        self._tokens = TOKENS_ON_CPU if on_cpu else TOKENS_ON_GPU
        try:
            self._ltp.pipeline(["试一试。"], tasks=["cws"])
        except Exception as error:  # its components do not fit each other; the exceptions share no class
            raise InputError(f"{source}: this model cannot segment a word ({brief(error)})") from error
        positions = getattr(self._ltp.model.backbone.config, "max_position_embeddings", None) or _MAX_TOKENS
        self._special_tokens = self._ltp.tokenizer.num_special_tokens_to_add()
        self._max_length = min(positions, _MAX_TOKENS) - self._special_tokens
        self.identity = {
            "kind": "neural",
            **{package: version(package) for package in ("ltp", "ltp_core", "torch", "transformers")},
            "sha256": _digest(directory, ("config.json", _WEIGHTS, "tokenizer_config.json", *_VOCABULARIES)),
        }

    def segment(self, lines: Sequence[str]) -> list[list[str]]:
        """For each line its words, see `Segmenter.segment`."""
        pieces = [split_long(line, self._max_length) for line in lines]
        words = self._segment_pieces({piece for line_pieces in pieces for piece in line_pieces})
        return [[word for piece in line_pieces for word in words[piece]] for line_pieces in pieces]

    def _segment_pieces(self, pieces: set[str]) -> dict[str, list[str]]:
        # We sort by length, then by text, so which pieces share a batch does not depend on their order. The longest
        # come first, so memory runs out at the start or not at all.
        ordered = sorted(filter(self._has_tokens, pieces), key=lambda piece: (-len(piece), piece))
        words: dict[str, list[str]] = {piece: [] for piece in pieces}
        while ordered:
            size = self._batch_size or max(1, self._tokens // (len(ordered[0]) + self._special_tokens))
            batch, ordered = ordered[:size], ordered[size:]
            copies = [replace_surrogates(piece) for piece in batch]
            words.update(zip(batch, self._ltp.pipeline(copies, tasks=["cws"]).cws, strict=True))
        # LTP leaves out white space and control characters at the start.
        return {piece: restore(piece, piece_words) for piece, piece_words in words.items()}

    def _has_tokens(self, piece: str) -> bool:
        """Whether the tokenizer finds a token. Without one, a model with a CRF fails."""
        return bool(_SURELY_A_TOKEN.search(piece) or self._ltp.tokenizer.tokenize(replace_surrogates(piece)))


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
    """The first callable in a config that LTP would call although it is not LTP's own; `None` if there is none."""
    if isinstance(node, list):
        node = dict(enumerate(node))
    if not isinstance(node, dict):
        return None
    target = node.get("_ltp_target_")
    if target is not None and not (isinstance(target, str) and target in ALLOWED_TARGETS):
        return str(target)
    return next((found for child in node.values() if (found := _foreign_target(child)) is not None), None)


def _build(directory: Path, config: dict[str, Any], source: str) -> Any:
    """Make an `ltp.nerual.LTP` with its weights and its tokenizer."""
    nerual = import_package("ltp.nerual", segmenter="ltp", distribution="ltp")
    torch = import_package("torch", segmenter="ltp", distribution="torch")
    transformers = import_package("transformers", segmenter="ltp", distribution="transformers")
    # LTP, torch and transformers raise all kinds of exceptions on a wrong config or a damaged file.
    try:
        ltp = nerual.LTP(config=config)
        labels = config["model"]["heads"]["cws"]["num_labels"]
    except Exception as error:
        raise InputError(f"{source}: LTP cannot build the model of its config.json ({brief(error)})") from error
    if labels != len(ltp.cws_vocab):
        raise InputError(f"{source}: its config.json has {labels} labels for {len(ltp.cws_vocab)} tags of 'cws'")
    try:
        weights = torch.load(directory / _WEIGHTS, map_location="cpu", weights_only=True)
        # Old versions of transformers saved this buffer (0, 1, 2, …). New ones do not know it.
        weights = {name: tensor for name, tensor in weights.items() if not name.endswith(".position_ids")}
        ltp.load_state_dict(weights, strict=True)
    except Exception as error:
        raise InputError(f"{source}: cannot load its weights from {_WEIGHTS} ({brief(error)})") from error
    # Without these files, transformers silently makes a tokenizer that knows no character.
    if not any((directory / name).is_file() for name in _VOCABULARIES):
        raise InputError(f"{source}: it has no tokenizer (neither {' nor '.join(_VOCABULARIES)})")
    backbone = ltp.model.backbone.config
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(directory, config=backbone, local_files_only=True)
    except Exception as error:
        raise InputError(f"{source}: cannot load its tokenizer ({brief(error)})") from error
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
    """Move a model to a device (if `name` is `None`: the GPU if there is one), and return the device."""
    import torch

    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        ltp.to(device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device={name}: torch cannot use it ({brief(error)})") from error
    return device


def _digest(directory: Path, names: Sequence[str]) -> str:
    """SHA-256 of the names and contents of those files that exist."""
    digest = hashlib.sha256()
    for name in names:
        if (directory / name).is_file():
            with (directory / name).open("rb") as file:
                digest.update(f"{name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()
