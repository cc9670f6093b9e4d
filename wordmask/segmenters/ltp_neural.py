"""LTP's neural models: a transformer that gives each token a tag."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from wordmask.segmenters.base import file_digest
from wordmask.segmenters.libraries import import_package, replace_surrogates, restore
from wordmask.segmenters.long_lines import split_long
from wordmask.segmenters.options import FLAG
from wordmask.utils.errors import InputError, reported

TOKENS_ON_CPU = 1024  # in a batch, padding included: more do not fit into its caches
TOKENS_ON_GPU = 2**14

# A config names callables, and LTP calls them, whatever they are. So we list what may be called. A prefix is not
# enough: torch, importlib and functools are attributes of ltp_core's modules.
_ALLOWED = {
    "ltp_model": ["LTPModule"],
    "utils": ["load_transformers"],
    "utils.transformer": ["load_transformers"],
    "processor": ["ClsOnly", "NOP", "TokenOnly", "WordsOnly", "WordsWithHead"],
    "components.graph": ["BiaffineClassifier"],
    "components.sent": ["MLPClassifier"],
    "components.token": ["BiaffineTokenClassifier", "MLPTokenClassifier", "RelTransformerTokenClassifier"],
}
ALLOWED_TARGETS = {f"ltp_core.models.{module}.{name}" for module, names in _ALLOWED.items() for name in names}

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
        import torch

        self._batch_size = batch_size
        if batch_size is not None and batch_size < 1:
            raise InputError(f"{FLAG}: batch_size={batch_size}: a neural LTP model needs a batch of at least 1 line")
        _check_neural_config(config, source)
        self._ltp = _build(directory, config, source)
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        with reported(f"{FLAG}: device={device}: torch cannot use it"):
            self._ltp.to(torch.device(device))
        self._tokens = TOKENS_ON_CPU if device.startswith("cpu") else TOKENS_ON_GPU
        with reported(f"{source}: this model cannot segment a word"):  # if its components do not fit each other
            self._ltp.pipeline(["试一试。"], tasks=["cws"])
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
        return {piece: restore(piece, replace_surrogates(piece), found) for piece, found in words.items()}

    def _has_tokens(self, piece: str) -> bool:
        """Whether the tokenizer finds a token. Without one, a model with a CRF fails."""
        return bool(_SURELY_A_TOKEN.search(piece) or self._ltp.tokenizer.tokenize(replace_surrogates(piece)))


_SURELY_A_TOKEN = re.compile(r"[0-9A-Za-z\u4e00-\u9fa5]")


def _check_neural_config(config: dict[str, Any], source: str) -> None:
    """Check that a config has word segmentation, and that LTP would call nothing but its own callables for it."""
    model = config.get("model")
    heads = model.get("heads") if isinstance(model, dict) else None
    if not isinstance(heads, dict) or "cws" not in heads:
        raise InputError(f"{source}: this model has no word segmentation (no head 'cws' in its config.json)")

    def check_target(entry: dict[str, Any]) -> dict[str, Any]:
        target = entry.get("_ltp_target_")
        if target is not None and str(target) not in ALLOWED_TARGETS:
            raise InputError(f"{source}: refused, since its config.json would call {target}, no part of LTP")
        return entry

    json.loads(json.dumps(model), object_hook=check_target)  # visits the dictionaries at every depth


def _build(directory: Path, config: dict[str, Any], source: str) -> Any:
    """Make an `ltp.nerual.LTP` with its weights and its tokenizer."""
    import torch
    from transformers import AutoTokenizer

    nerual = import_package("ltp.nerual", segmenter="ltp", distribution="ltp")
    with reported(f"{source}: LTP cannot build the model of its config.json"):
        ltp = nerual.LTP(config=config)
        labels = config["model"]["heads"]["cws"]["num_labels"]
    if labels != len(ltp.cws_vocab):
        raise InputError(f"{source}: its config.json has {labels} labels for {len(ltp.cws_vocab)} tags of 'cws'")
    with reported(f"{source}: cannot load its weights from {_WEIGHTS}"):
        weights = torch.load(directory / _WEIGHTS, map_location="cpu", weights_only=True)
        # Old versions of transformers saved this buffer (0, 1, 2, …). New ones do not know it.
        weights = {name: tensor for name, tensor in weights.items() if not name.endswith(".position_ids")}
        ltp.load_state_dict(weights, strict=True)
    # Without these files, transformers silently makes a tokenizer that knows no character.
    if not any((directory / name).is_file() for name in _VOCABULARIES):
        raise InputError(f"{source}: it has no tokenizer (neither {' nor '.join(_VOCABULARIES)})")
    backbone = ltp.model.backbone.config
    with reported(f"{source}: cannot load its tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(directory, config=backbone, local_files_only=True)
    largest = max(tokenizer.get_vocab().values())
    if largest >= backbone.vocab_size:
        raise InputError(f"{source}: its tokenizer has ids up to {largest}, its model up to {backbone.vocab_size - 1}")
    # transformers 5 removed this method, and ltp 4.2.14 calls it. The line can go when ltp calls the tokenizer itself.
    tokenizer.batch_encode_plus = tokenizer.__call__
    ltp.tokenizer = tokenizer
    ltp.eval()
    return ltp


def _digest(directory: Path, names: Sequence[str]) -> str:
    """SHA-256 of the names and contents of those files that exist."""
    digest = hashlib.sha256()
    for path in filter(Path.is_file, map(directory.joinpath, names)):
        digest.update(f"{path.name} {file_digest(path)}\n".encode())
    return digest.hexdigest()
