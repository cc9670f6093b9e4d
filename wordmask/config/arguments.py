"""Parse the command line of a training script into one `Arguments`; flag_checks.py says where it is checked."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from accelerate.utils import broadcast_object_list

from wordmask.config.added_arguments import AddedArguments
from wordmask.config.data_arguments import DataArguments
from wordmask.config.flag_checks import check_flags, check_model
from wordmask.config.masking_arguments import MaskingArguments
from wordmask.config.model_arguments import ModelArguments
from wordmask.config.own_flags import OWN, training_parser
from wordmask.config.parser import build, is_true
from wordmask.config.probe_arguments import ProbeArguments
from wordmask.config.run_arguments import RunArguments
from wordmask.config.segmenter_arguments import SegmentationArguments
from wordmask.config.short_form import Value, apply_defaults, is_short_form
from wordmask.config.unused_flags import UNUSED, say_what_is_unused

# The classes of all flags, with those of transformers.
CONCERNS: tuple[type, ...] = tuple(RunArguments if concern is AddedArguments else concern for concern in OWN[1:])


@dataclass
class Arguments:
    """One run, as its command line and its argument file describe it.

    Attributes:
        model, data, masking, segmentation, probe, training: the flags by their concern.
        given: every flag with its value, as an argument file could hold them.
        named: the names of the flags that the user gives.
        short_form: the defaults of the short form that count, with their values; empty for the long form.
    """

    model: ModelArguments
    data: DataArguments
    masking: MaskingArguments
    segmentation: SegmentationArguments
    probe: ProbeArguments
    training: RunArguments
    given: dict[str, object]
    named: Collection[str] = ()
    short_form: dict[str, Value] = field(default_factory=dict)

    @property
    def needed_segmentation(self) -> SegmentationArguments | None:
        """The segmenter's flags; `None` if whole words are not needed."""
        return self.segmentation if self.masking.needs_words else None

    @property
    def no_task_given(self) -> bool:
        """Whether neither `--do_train` nor `--do_eval` is given, so that the run does what it has data for."""
        return not (self.given.get("do_train") or self.given.get("do_eval"))

    @property
    def only_evaluates(self) -> bool:
        """Whether `--do_eval` is given without `--do_train`."""
        return bool(self.given.get("do_eval") and not self.given.get("do_train"))

    @property
    def evaluation_flag(self) -> str | None:
        """The flag by which the user asks for an evaluation; `None` without one."""
        training = self.training
        asked = {
            "--do_eval": bool(self.given.get("do_eval")),
            "--probe_file": bool(self.probe.probe_file),
            "--eval_on_start": training.eval_on_start,
            "--eval_strategy": training.eval_strategy != "no",
        }
        return next((flag for flag, is_on in asked.items() if is_on and flag[2:] in self.named), None)


def parse_arguments(argv: Sequence[str] | None, **defaults: object) -> Arguments:
    """Parse the command line of a training script.

    Args:
        argv: the arguments, `sys.argv[1:]` if `None`: an argument file, if any, the words of the short form, if any,
            then flags.
        defaults: the defaults of this script that differ from those of the dataclasses.

    Raises:
        InputError: naming the flag that is wrong.
    """
    parser = training_parser(CONCERNS)
    parser.flags["include_num_input_tokens_seen"].type = _tokens_seen
    parser.flags["fsdp"].type = _fsdp
    for name in UNUSED.keys() & parser.flags.keys():  # a newer transformers may have dropped some
        parser.flags[name].help = f"Not used: {UNUSED[name]}."
    parser.set_defaults(**defaults)
    argv = sys.argv[1:] if argv is None else argv
    namespace = parser.parse(argv)
    say_what_is_unused(parser, namespace)
    is_short = is_short_form(argv)
    short_form = apply_defaults(namespace, parser.given) if is_short else {}
    given = {name: value for name, value in vars(namespace).items() if value is not None}

    model, data = build(ModelArguments, namespace), build(DataArguments, namespace)
    masking, segmentation = build(MaskingArguments, namespace), build(SegmentationArguments, namespace)
    probe = build(ProbeArguments, namespace)
    check_model(model)
    training = build(RunArguments, namespace)
    if is_short and "output_dir" not in parser.given:
        training.output_dir = given["output_dir"] = _of_first_process(training)
    arguments = Arguments(model, data, masking, segmentation, probe, training, given, parser.given, short_form)
    check_flags(arguments)
    return arguments


def _of_first_process(training: RunArguments) -> str:
    """The output directory that the first of several processes has chosen. They have met when `training` was made."""
    names = [training.output_dir]
    if training.world_size > 1:
        broadcast_object_list(names)
    return str(names[0])


def _tokens_seen(value: str) -> str | bool:
    """Parse a switch that may also name the tokens to count."""
    return value if value in ("all", "non_padding", "no") else is_true(value)


def _fsdp(value: str) -> str | bool:
    """Parse a switch that earlier versions took as a list of options."""
    try:
        return is_true(value)
    except argparse.ArgumentTypeError:
        return value
