"""The command that started this process, and the one that resumes its run."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from wordmask.utils.processes import is_of_torchrun

SECRETS = ("token", "hub_token", "push_to_hub_token", "use_auth_token")


def resume_command(script: str, argv: Sequence[str], output_dir: str | None, start_over: bool = False) -> str:
    """The command line that resumes a run, for a shell in the same directory.

    Args:
        script: the script, for a run that was not started by a command.
        argv: its arguments.
        output_dir: the value of --output_dir to add, if any.
        start_over: whether to keep --overwrite_output_dir, since the run has not begun to overwrite.
    """
    added = ["--output_dir", output_dir] if output_dir else []
    return shlex.join([*_started_by(script, argv), *_to_resume(argv, start_over), *added])


def _started_by(script: str, argv: Sequence[str]) -> list[str]:
    """The words before the arguments in the command that started this process, or its launcher."""
    parent, end = Path(f"/proc/{os.getppid()}/cmdline"), len(argv)
    launcher = parent.read_bytes().decode(errors="replace").split("\0")[:-1] if parent.exists() else []
    for command in ([launcher] if is_of_torchrun() else []) + [sys.orig_argv]:
        if end < len(command) and command[len(command) - end :] == list(argv):
            start = command[: len(command) - end]
            name = Path(start[1]).name if len(start) > 1 else ""
            is_installed = name and shutil.which(name) == start[1]  # python .venv/bin/torchrun is torchrun
            return [name, *start[2:]] if is_installed else start
    return ["python", script]


def _to_resume(argv: Sequence[str], start_over: bool) -> list[str]:
    """The arguments without secrets, and without --overwrite_output_dir, which would start over."""
    words, resumed = list(argv), list[str]()
    while words:
        word = words.pop(0)
        name, equals, _ = word.lstrip("-").replace("-", "_").partition("=")
        is_flag = word.startswith("--")
        if is_flag and name == "overwrite_output_dir" and not start_over:
            if words and not equals and not words[0].startswith("-"):
                words.pop(0)
        elif is_flag and name in SECRETS and (equals or words and not words[0].startswith("--")):
            resumed += [word.partition("=")[0], "TOKEN"]
            if not equals:
                words.pop(0)
        else:
            resumed.append(word)
    return resumed
