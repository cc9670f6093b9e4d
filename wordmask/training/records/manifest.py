"""The checkpoints of a run, and the manifest of each: the size and the digest of each file. It is written last.

A checkpoint that was not finished, or was damaged later, does not match its manifest. Those of the plain `Trainer`
have none, so of these we check what can be read.
"""

from __future__ import annotations

import logging
import shutil
import zipfile
from pathlib import Path

from safetensors import SafetensorError, safe_open

from wordmask.training.records.file_names import MANIFEST, PROGRESS, STATE
from wordmask.utils.errors import one_line
from wordmask.utils.files import file_xxh3, read_json, write_json

logger = logging.getLogger(__name__)

_OF_TRAINING = ("optimizer", "scheduler", "scaler", "rng_state")  # files that only a resume needs


def checkpoint_step(path: Path) -> int:
    """The step of a checkpoint by its name; -1 if it is none."""
    number = path.name.removeprefix("checkpoint-")
    return int(number) if number != path.name and number.isdecimal() and path.is_dir() else -1


def checkpoints_in(directory: str | Path) -> list[Path]:
    """The checkpoints in an output directory, whole or not, in the order of their steps."""
    steps = {path: checkpoint_step(path) for path in Path(directory).glob("checkpoint-*")}
    return sorted((path for path, step in steps.items() if step >= 0), key=steps.__getitem__)


def remove_checkpoint(path: Path, ignore_errors: bool = False) -> None:
    """Remove a checkpoint. Of one that was moved away, and is a link to its new place, only the link is removed."""
    if path.is_symlink():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=ignore_errors)


def write_manifest(checkpoint: Path) -> None:
    """Write the manifest of a checkpoint that is complete."""
    files = {path.relative_to(checkpoint).as_posix(): path for path in sorted(checkpoint.rglob("*")) if path.is_file()}
    entries = {name: {"size": path.stat().st_size, "xxh3_128": file_xxh3(path)} for name, path in files.items()}
    write_json(checkpoint / MANIFEST, {"files": entries})


def find_damage(checkpoint: str | Path, of_weights: bool = False) -> str | None:
    """Why a checkpoint cannot be used, such as `optimizer.pt is missing`; `None` if it can.

    Args:
        checkpoint: the directory.
        of_weights: whether its weights are all that is needed.
    """
    checkpoint = Path(checkpoint)
    if not (checkpoint / MANIFEST).exists():
        is_ours = (checkpoint / PROGRESS).exists()
        problem = "it was not finished" if is_ours else _find_unreadable(checkpoint)
        if problem is None:
            logger.warning("%s has no manifest: we checked only that its files can be read", checkpoint)
        return problem
    try:
        entries = read_json(checkpoint / MANIFEST)["files"].items()
        for name, entry in entries:
            if of_weights and name.startswith(_OF_TRAINING):
                continue
            path, size, digest = checkpoint / name, int(entry["size"]), str(entry["xxh3_128"])
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != size:
                return f"{name} has {path.stat().st_size:,} bytes instead of {size:,}"
            if file_xxh3(path) != digest:
                return f"{name} is not what was written"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST} or a file that it lists cannot be read: {one_line(error)}"
    return None


def _find_unreadable(checkpoint: Path) -> str | None:
    """What cannot be read of a checkpoint without a manifest. It does not tell all that may be wrong."""
    if not (checkpoint / STATE).exists():
        return "it was not finished"
    if not _has_weights(checkpoint):
        return "it has no weights"
    for path in sorted(path for path in checkpoint.rglob("*") if path.is_file()):
        try:
            if path.name == STATE:
                if dict(read_json(path)).get("train_batch_size") is None:  # transformers cannot do without, either
                    return f"{STATE} does not name the batch size (train_batch_size)"
            elif path.suffix == ".json":
                read_json(path)
            elif path.suffix == ".safetensors":
                with safe_open(path, "numpy"):
                    pass
            elif path.suffix in (".pt", ".pth", ".bin"):
                zipfile.ZipFile(path).close()
        except (OSError, ValueError, TypeError, SafetensorError, zipfile.BadZipFile) as error:
            return f"{path.name} cannot be read: {one_line(error)}"
    return None


def _has_weights(checkpoint: Path) -> bool:
    """Whether there are weights: a file, several files, or directories of a model that was divided."""
    patterns = ("*.safetensors", "pytorch_model*", "global_step*")
    return any(next(checkpoint.glob(pattern), None) for pattern in patterns)
