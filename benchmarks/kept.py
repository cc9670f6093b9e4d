"""Results on disk, so that a second call of a benchmark goes on where the first one ended."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import xxhash


def digest(*paths: str) -> str:
    """A digest of files, and of all files in directories with their names: what is measured depends on the content."""
    found = xxhash.xxh3_64()
    for path in paths:
        files = sorted(Path(path).rglob("*")) if Path(path).is_dir() else [Path(path)]
        for file in filter(Path.is_file, files):
            if file.suffix not in (".pyc", ".nbc", ".nbi"):  # what Python and Numba compile
                found.update(f"{file.relative_to(path)} ".encode())
                found.update(file.read_bytes())
    return found.hexdigest()


def by_content(flags: Sequence[str]) -> list[str]:
    """Flags with the digest of each configuration in place of its path."""
    return [digest(flag) if flag.endswith(".yaml") else flag for flag in flags]


class Kept:
    """What was measured, by what it depends on, with a line in a file for each.

    Args:
        path: of the file, which need not exist yet.
    """

    def __init__(self, path: Path):
        self.path = path
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        self.found: dict[str, Any] = dict(json.loads(line) for line in lines)

    def once(self, depends_on: Sequence[Any], measure: Callable[[], Any]) -> Any:
        """What was measured before under the same values, or what is measured now."""
        key = json.dumps(depends_on)
        if key not in self.found:
            self.found[key] = measure()
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps([key, self.found[key]]) + "\n")
        return self.found[key]
