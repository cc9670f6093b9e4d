"""LTP's legacy model: the averaged perceptron of `ltp_extension`."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from wordmask.segmenters.libraries import import_package, replace_surrogates, restore
from wordmask.utils.errors import InputError, reported


class LegacyModel:
    """A legacy LTP model. It runs on all cores.

    Args:
        directory: the model's directory.
        config: its `config.json`.
        source: what the user gave, for error messages: `--ltp DIRECTORY`.

    Raises:
        InputError: if a package is missing, or the model cannot be read or has no word segmentation.
    """

    def __init__(self, directory: Path, config: dict[str, Any], source: str) -> None:
        tasks = config.get("tasks")
        name = tasks.get("cws") if isinstance(tasks, dict) else None
        if not isinstance(name, str):
            raise InputError(f"{source}: this model has no word segmentation (no task 'cws' in its config.json)")
        file = directory / name
        with reported(f"{source}: cannot read {name}"):
            content = file.read_bytes()
        if not _is_whole(content):
            raise InputError(f"{source}: {name} is damaged or is not a legacy model; download it again")
        perceptron = import_package("ltp_extension.perceptron", segmenter="ltp", distribution="ltp")
        with reported(f"{source}: cannot load {name}"):
            self._model = perceptron.CWSModel.load(str(file))
        self.identity = {
            "kind": "legacy",
            "ltp_extension": version("ltp_extension"),
            "sha256": hashlib.sha256(content).hexdigest(),
        }

    def segment(self, lines: Sequence[str]) -> list[list[str]]:
        """For each line its words, see `Segmenter.segment`."""
        copies = [replace_surrogates(line) for line in lines]
        words = self._model.batch_predict(copies, True)  # without the white space at the start of a line
        return [restore(*one) for one in zip(lines, copies, words, strict=True)]


def _is_whole(content: bytes) -> bool:
    """Whether a legacy model is complete. It is an Avro file, which ends with the same 16 bytes as its header.

    We check this because `CWSModel.load` ends the process, without an exception, if the file was cut off.
    """
    stream = io.BytesIO(content)
    if stream.read(4) != b"Obj\x01":
        return False
    try:
        while pairs := _read_number(stream):  # the header is a map in blocks; the last block is empty
            for _ in range(2 * pairs):
                stream.seek(max(0, _read_number(stream)), io.SEEK_CUR)
    except (EOFError, OverflowError):  # the file is too short, or gives an impossible length
        return False
    marker = stream.read(16)
    return stream.tell() + 16 < len(content) and content.endswith(marker)


def _read_number(stream: io.BytesIO) -> int:
    """The next number in Avro's zigzag code: seven bits in each byte, low bits first, the sign in the lowest bit.

    The bytes 0x96 0x01 are the bits 0010110 and 0000001, so 150; its half is the number 75.
    """
    number = shift = 0
    while True:
        byte = stream.read(1)
        if not byte:
            raise EOFError
        number |= (byte[0] & 0x7F) << shift
        shift += 7
        if byte[0] < 0x80:
            return number >> 1 ^ -(number & 1)
