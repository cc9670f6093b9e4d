"""Words from LTP, from a directory or the Hugging Face Hub. The models are in ltp_legacy.py and ltp_neural.py.

We do not load models through `ltp.LTP`. It passes an argument to the hub that today's huggingface_hub refuses, reads a
path with "@" as a revision, and keeps random weights if the names in the file are wrong.
https://github.com/HIT-SCIR/ltp/pull/738 fixes the first of these; no release up to 4.2.14 contains it. We can use
`ltp.LTP` when a release contains this fix and also loads weights with `strict=True`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wordmask.segmenters.base import Segmenter
from wordmask.segmenters.libraries import LostTextError
from wordmask.segmenters.ltp_legacy import LegacyModel
from wordmask.segmenters.ltp_neural import NeuralModel
from wordmask.utils.errors import InputError, kind_of, reported


class LTPSegmenter(Segmenter):
    """Words by an LTP model.

    A neural model puts lines of similar length into one batch. It sorts only the lines of one call, so one call with
    thousands of lines is much faster than many calls with a few lines.

    Args:
        model: a directory in LTP's format (`config.json` next to the weights), or a hub id such as `LTP/small`,
            optionally with a revision: `LTP/small@main`.
        device: the torch device of a neural model; by default the GPU if there is one.
        batch_size: the number of lines in a batch of a neural model; by default as many as have 1,024 tokens on a CPU
            and 16,384 tokens elsewhere.

    Raises:
        InputError: if a package is missing, the hub cannot be reached, the model cannot be read or has no word
            segmentation, or `device` or `batch_size` is given for a legacy model.
    """

    scripts = ("Han",)

    def __init__(
        self, model: str | os.PathLike[str], device: str | None = None, batch_size: int | None = None
    ) -> None:
        if not isinstance(model, str | os.PathLike):
            raise InputError(
                f"--ltp: {kind_of(model)} is neither a directory nor a hub id; give one, such as LTP/small"
            )
        self._source = f"--ltp {os.fspath(model)}"
        directory = _find_directory(os.fspath(model), self._source)
        config = _read_config(directory, self._source)
        self._model: LegacyModel | NeuralModel
        if config["nerual"]:
            self._model = NeuralModel(directory, config, self._source, device, batch_size)
        elif device is not None or batch_size is not None:
            raise InputError(f"{self._source} is a legacy model, which cannot use device or batch_size; drop them")
        else:
            self._model = LegacyModel(directory, config, self._source)

    def segment(self, lines: Sequence[str]) -> list[list[str]]:
        try:
            return self._model.segment(lines)
        except LostTextError as error:
            raise InputError(f"{self._source}: {error}; does its config.json belong to its weights?") from error

    @property
    def identity(self) -> dict[str, str]:
        return {"name": "ltp", **self._model.identity}


def _find_directory(model: str, source: str) -> Path:
    """The directory of a model. If `model` is not a directory on this machine, we download it from the hub."""
    from huggingface_hub import snapshot_download

    path = Path(os.path.expanduser(model))
    if model and path.is_dir():
        return path
    hub_id, _, revision = model.partition("@")
    if path.exists() or not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", hub_id):
        raise InputError(f"{source}: neither a directory nor a hub id such as LTP/small")
    advice = "; download it where there is a network, and give its directory"
    with reported(f"{source}: no such directory, and fetching it from the hub failed", advice):
        return Path(snapshot_download(hub_id, revision=revision or None))


def _read_config(directory: Path, source: str) -> dict[str, Any]:
    with reported(f"{source}: cannot read its config.json", "; give the directory of an LTP model"):
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    # LTP writes "nerual".
    if not isinstance(config, dict) or not isinstance(config.get("nerual"), bool):
        raise InputError(f"{source}: its config.json does not belong to an LTP model (no entry 'nerual')")
    return config
