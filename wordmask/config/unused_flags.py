"""Flags of transformers that nothing reads here: `--help_all` says so, and a run that is given one warns."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import MISSING, Field, fields

from transformers import TrainingArguments

from wordmask.utils.processes import local_rank

logger = logging.getLogger(__name__)

# Old command lines have them, so they are no mistakes. Why each is not needed.
UNUSED = {
    "average_tokens_across_devices": "the loss is always the mean over the labels of all devices",
    "batch_eval_metrics": "metrics are always counted batch by batch",
    "dataloader_in_order": "batches always come in order",
    "disable_tqdm": "--log_format chooses what is shown",
    "eval_accumulation_steps": "evaluations keep no predictions",
    "eval_do_concat_batches": "evaluations keep no predictions",
    "eval_use_gather_object": "evaluations keep no predictions",
    "include_for_metrics": "the metrics need no other data",
    "label_names": "the labels are the masked tokens",
    "length_column_name": "lengths are counted",
    "remove_unused_columns": "other columns are never read",
    "use_cache": "masked language models have no cache",
}


def say_what_is_unused(values: Mapping[str, object], named: Collection[str]) -> None:
    """Warn of flags without effect.

    Args:
        values: the values of the flags, by their names.
        named: the names of the flags that the user gives. One with its default value asks for nothing.
    """
    defaults = {field.name: _default(field) for field in fields(TrainingArguments)}
    for name, reason in UNUSED.items():
        asked = values.get(name) or None  # disable_tqdm is `None` by default, and off
        if {name, f"no_{name}"} & {*named} and asked != (defaults[name] or None) and local_rank() == 0:
            logger.warning("--%s has no effect here: %s", name, reason)


def _default(field: Field) -> object:
    return field.default if field.default_factory is MISSING else field.default_factory()
