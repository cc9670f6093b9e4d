"""The command `wordmask`, or `python -m wordmask`: the three scripts by short names, and the report of a run."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from wordmask import __version__
from wordmask.utils.errors import InputError
from wordmask.utils.script import reports_input_errors

COMMANDS = {
    "mlm": "run_mlm",
    "wwm": "run_mlm_wwm",
    "ref": "run_chinese_ref",
    "report": "wordmask.training.report.html_report",
}
HELP = """usage: wordmask {mlm,wwm,ref,report} ...

  wordmask mlm ...     train a masked language model, masking tokens (run_mlm.py)
  wordmask wwm ...     train a masked language model, masking whole words (run_mlm_wwm.py)
  wordmask ref ...     find the words of a text in any language and write a reference file (run_chinese_ref.py)
  wordmask report ...  make report.html in the output directory of a run again

  wordmask wwm MODEL train.txt [dev.txt] continues the training of a model.
  wordmask wwm --help lists the flags of a command; wordmask --version prints the version.
  With several processes: torchrun --nproc_per_node 2 -m wordmask wwm ...
"""


@reports_input_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command that the first argument (`sys.argv[1]` if `None`) names with the others."""
    command, *arguments = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if command == "--version":
        print(f"wordmask {__version__}")
        return
    if command in ("--help", "-h"):
        print(HELP, end="")
        return
    if command not in COMMANDS:
        raise InputError(f"wordmask {command}: no such command; give mlm, wwm, ref or report, or --help")
    # Imported on use: a process that is spawned imports this module, too, and needs no script.
    import_module(COMMANDS[command]).main(arguments)
    if command in ("mlm", "wwm"):
        from wordmask.utils.launch import leave

        leave()


if __name__ == "__main__":
    main()
