"""Loading from a directory or from the hub, with one sentence for what goes wrong."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from huggingface_hub.utils import logging as hub_logging
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from wordmask.utils.errors import InputError, one_line


@contextlib.contextmanager
def quiet_hub() -> Iterator[None]:
    """Keep the hub's reports of each retry off the terminal: what fails in the end says so in one sentence."""
    before = hub_logging.get_verbosity()
    hub_logging.set_verbosity_error()
    try:
        yield
    finally:
        hub_logging.set_verbosity(before)


@contextlib.contextmanager
def loading(flag: str, name: str, what: str) -> Iterator[None]:
    """Turn what goes wrong while something is loaded into one sentence that names the flag."""
    try:
        with quiet_hub():
            yield
    except InputError:
        raise
    except (OSError, ValueError, KeyError, ImportError, AttributeError, TypeError, RuntimeError) as error:
        found = next(iter(str(error).strip().splitlines()), type(error).__name__)
        where = (
            "is a directory without" if os.path.isdir(name) else "is neither a directory nor in reach on the hub as"
        )
        raise InputError(f"{flag}: {name} {where} {what} ({found[:200]}); check the name, or the network") from None


@contextlib.contextmanager
def making(flag: str, settings: str) -> Iterator[None]:
    """Turn what goes wrong while a model is made from settings into one sentence that names the flag."""
    try:
        yield
    except (ValueError, TypeError, RuntimeError, AttributeError, KeyError, ImportError, ZeroDivisionError) as error:
        raise InputError(f"{flag}: {settings} makes no masked language model ({one_line(error)[:200]})") from None


def load_pretrained_tokenizer(flag: str, name: str, **options: Any) -> PreTrainedTokenizerBase:
    """Load a tokenizer.

    Args:
        flag: the flag that names it.
        name: a directory or a hub id.
        options: what `AutoTokenizer.from_pretrained` takes.

    Raises:
        InputError: where there is none of that name.
    """
    with loading(flag, name, "a tokenizer"):
        return AutoTokenizer.from_pretrained(name, **options)
