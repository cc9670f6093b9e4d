"""Loading from a directory or from the hub, with one sentence for what goes wrong."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from huggingface_hub import constants, get_token
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status
from huggingface_hub.utils import logging as hub_logging
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from wordmask.utils.errors import InputError, one_line, reported

PATIENCE = 10  # seconds to wait for the hub's answer


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
    except Exception as error:  # files and code of others fail in their own way
        found = next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
        if os.path.isdir(name):
            raise InputError(f"{flag}: {name} is a directory without {what} ({found}); check its files") from None
        raise InputError(f"{flag}: {name} {_why(error, what, found)}") from None


def _why(error: BaseException, what: str, found: str) -> str:
    """The tail of a sentence: why something could not be had from the hub, and what to do."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and len(chain) < 10:
        chain.append(cause)
    if any(isinstance(link, GatedRepoError) for link in chain):
        return "is a gated repository of the hub; ask for access on its page, and give --token or run hf auth login"
    if any(isinstance(link, HFValidationError) for link in chain):
        return "is neither a directory nor the id of a repository of the hub; check the path"
    if any(isinstance(link, RevisionNotFoundError) for link in chain):
        return "has no such branch, tag or commit on the hub; check --model_revision"
    if any(isinstance(link, RepositoryNotFoundError) for link in chain):
        return "is neither a directory nor a repository of the hub; check the name, or give --token if it is private"
    if any(isinstance(link, LocalEntryNotFoundError | OfflineModeIsEnabled | ConnectionError) for link in chain):
        if constants.is_offline_mode():
            return (
                f"is neither a directory nor, with this --model_revision, in the hub's cache as {what}, and "
                "HF_HUB_OFFLINE forbids to fetch it; unset that, or give a directory"
            )
        return f"is neither a directory nor in the cache, and {constants.ENDPOINT} cannot be reached; give a directory"
    return f"is neither a directory nor in reach on the hub as {what} ({found}); check the name, or the network"


def check_push(repository: str | None, token: str | None) -> None:
    """Ask the hub, before anything is loaded, whether a model can be pushed to it; nothing is created there.

    Args:
        repository: a name, or an owner and a name; `None` for the name of the output directory.
        token: the access token; `None` for the stored one.

    Raises:
        InputError: where it cannot: offline, without a token that may write, or to a repository of others.
    """
    if constants.is_offline_mode():
        raise InputError("--push_to_hub needs the hub and HF_HUB_OFFLINE forbids to reach it; unset one of the two")
    token = token or get_token()
    if not token:
        raise InputError("--push_to_hub needs an access token; run hf auth login, or give --hub_token")
    try:
        url = f"{constants.ENDPOINT}/api/whoami-v2"
        answer = get_session().get(url, headers=build_hf_headers(token=token), timeout=PATIENCE)
        hf_raise_for_status(answer)
        user = answer.json()
    except HfHubHTTPError as error:
        raise InputError(
            f"--push_to_hub: the hub does not take this access token ({one_line(error)[:200]}); run hf auth login, or "
            "give --hub_token"
        ) from None
    except Exception as error:  # of the client, which changes with the version of the hub's library
        raise InputError(
            f"--push_to_hub: {constants.ENDPOINT} cannot be reached ({one_line(error)[:200]}); drop the flag, and run "
            "hf upload afterwards"
        ) from None
    if user.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise InputError("--push_to_hub: this access token may only read; give one that may write with --hub_token")
    owner = (repository or "").rpartition("/")[0]
    owners = [user["name"], *(organization["name"] for organization in user.get("orgs", []))]
    if owner and owner not in owners:
        raise InputError(
            f"--hub_model_id: {repository} belongs to {owner}, and this access token to {', '.join(owners)}; give "
            "another name, or --hub_token"
        )


@contextlib.contextmanager
def pushing(directory: object) -> Iterator[None]:
    """Turn what goes wrong while a model is pushed into one sentence that says where the model is."""
    try:
        with quiet_hub():
            yield
    except Exception as error:  # of the client, which changes with the version of the hub's library
        raise InputError(
            f"--push_to_hub: the hub did not take the model ({one_line(error)[:200]}); it is in {directory}, and hf "
            "upload pushes it"
        ) from None


def making(flag: str, settings: str) -> contextlib.AbstractContextManager[None]:
    """Turn what goes wrong while a model is made from settings into one sentence that names the flag."""
    return reported(f"{flag}: {settings} makes no masked language model")


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
