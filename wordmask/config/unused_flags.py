"""Flags of transformers that nothing reads here: `--help_all` says so, and a run that is given one warns."""

from __future__ import annotations

import logging
from argparse import Namespace

from wordmask.config.parser import Parser
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


def say_what_is_unused(parser: Parser, namespace: Namespace) -> None:
    """Warn of flags without effect. One that has its default value asks for nothing.

    Args:
        parser: the parser of all flags.
        namespace: what it has parsed.
    """
    for name, reason in UNUSED.items() if local_rank() == 0 else ():
        if name not in parser.flags:
            continue
        asked, default = (value or None for value in (getattr(namespace, name), parser.get_default(name)))
        if asked != default:  # disable_tqdm is `None` by default, and off
            logger.warning("--%s has no effect here: %s", name, reason)
