"""Parse the flags that this project defines, and show --help, without importing torch, which takes seconds."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from wordmask.config.added_arguments import AddedArguments, UsedArguments
from wordmask.config.data_arguments import DataArguments
from wordmask.config.legacy_flags import OLD_FLAGS
from wordmask.config.masking_arguments import MaskingArguments
from wordmask.config.model_arguments import ModelArguments
from wordmask.config.parser import Parser, build, flag_name
from wordmask.config.probe_arguments import ProbeArguments
from wordmask.config.segmenter_arguments import SegmentationArguments
from wordmask.config.short_form import USAGE, is_short_form
from wordmask.utils.errors import InputError, suggest

# In the order of --help. `RunArguments` has the first ones, too.
OWN: tuple[type, ...] = (
    UsedArguments,
    ModelArguments,
    DataArguments,
    AddedArguments,
    MaskingArguments,
    SegmentationArguments,
    ProbeArguments,
)
EPILOG = (
    "MODEL train.txt [dev.txt] stands for --model_name_or_path, --train_file and --validation_file, with defaults to "
    "continue the training of a model (docs/adapt.md). A YAML or JSON file of flags may come first; the command "
    "line wins."
)


def training_parser(concerns: Sequence[type], quiet: bool = False) -> Parser:
    """A parser of the training scripts for these dataclasses."""
    usage = f"%(prog)s [ARGUMENT_FILE] [{USAGE}] [--flag ...]"
    parser = Parser(concerns, OLD_FLAGS, quiet, takes_words=True, usage=usage, epilog=EPILOG)
    # An action that prints and exits, so no run records it.
    parser.add_argument("--help_all", action="help", help="show all flags, with transformers' TrainingArguments")
    parser.flags["report_to"].nargs = "+"  # transformers takes a list, but its parser one word
    return parser


def parse_own_flags(argv: Sequence[str], **defaults: object) -> argparse.Namespace:
    """Parse this suite's own flags before large imports: show --help, or refuse a mistake in them.

    `parse_arguments` checks the other flags.

    Args:
        argv: the command line.
        defaults: the defaults of the script that differ from those of the dataclasses.

    Returns:
        The values of these flags; `output_dir` is `None` if it is not given.

    Raises:
        InputError: naming the flag that is wrong.
        SystemExit: after --help and --help_all.
    """
    if "--help_all" in argv:
        from wordmask.config.arguments import parse_arguments  # imports torch

        parse_arguments(argv, **defaults)
    parser = training_parser(OWN, quiet=True)
    parser.set_defaults(**defaults)
    namespace, unknown = parser.parse_known(argv)
    try:
        for concern in OWN:
            build(concern, namespace)
    except InputError:
        # A flag that seems missing may be misspelled, or its file may stand after a switch of the Trainer; then
        # `parse_arguments` says so, which helps more.
        words = [word for word, _ in unknown]
        flags = [word for word in words if word.startswith("--")]
        files = [word for word in words if is_short_form(argv) and os.path.isfile(word)]
        if not (files or any(suggest(flag_name(flag), parser.flags) for flag in flags)):
            raise
    if "output_dir" not in parser.given:
        namespace.output_dir = None
    return namespace
