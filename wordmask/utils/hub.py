"""Load from a directory or from the hub. Each error becomes one sentence."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from huggingface_hub import constants, get_hf_file_metadata, get_token, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status
from huggingface_hub.utils import logging as hub_logging

from wordmask.utils.errors import InputError, reported
from wordmask.utils.library_warnings import errors_only

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

TIMEOUT = 10  # seconds that we wait for the answer of the hub


@contextlib.contextmanager
def quiet_hub() -> Iterator[None]:
    """Do not show each retry of the hub's library. If it fails in the end, one sentence says so."""
    with errors_only(hub_logging):
        yield


@contextlib.contextmanager
def _reported_quietly(explain: Callable[[Exception, str], str]) -> Iterator[None]:
    """As `reported`, and the hub's library shows no retries."""
    with quiet_hub(), reported(explain):
        yield


def loading(flag: str, name: str, what: str, is_model: bool) -> AbstractContextManager[None]:
    """Turn any error while something is loaded into one sentence that names the flag.

    Args:
        flag: the flag that names it.
        name: a directory or a hub id.
        what: what is loaded, for the sentence.
        is_model: whether it is a model or its configuration, which need a config.json.
    """

    def explain(error: Exception, reason: str) -> str:
        if not name:
            return f"{flag}: the name is empty; give a directory or the id of a repository of the hub"
        if isinstance(error, ImportError):  # of a tokenizer with an analyser inside, say
            return f"{flag}: {name} needs a package that cannot be imported ({reason}){_installing(reason)}"
        if "unidic dictionary itself" in reason:  # the package is there, and its files are not
            return f"{flag}: {name} needs the dictionary of the package unidic: python -m unidic download"
        if isinstance(error, UnpicklingError):
            return f"{flag}: the weights of {name} are a pickle that holds more than weights; give safetensors instead"
        if is_model and os.path.isdir(name) and not os.path.exists(os.path.join(name, "config.json")):
            return f"{flag}: {name} holds no model (no config.json); give the directory of a model"
        if os.path.isdir(name):
            return f"{flag}: {name} is a directory without {what} ({reason}); check its files"
        return f"{flag}: {name} {_advice(error, flag, what, reason)}"

    return _reported_quietly(explain)


# How libraries name the package that they lack: "You need to install fugashi to use MecabTokenizer."
_LACKED = re.compile(r"install (\S+) to |The (\S+) dictionary is|pip install ([^\s`]+)|requires the (\S+) library")


def _installing(reason: str) -> str:
    """The line that installs the package that an error names, after a colon; advice if it names none."""
    lacked = _LACKED.search(reason)
    if lacked is None:
        return "; install it with pip"
    return f": pip install {shlex.quote(str(lacked[lacked.lastindex or 0]).lower())}"


def pushing(directory: object) -> AbstractContextManager[None]:
    """Turn any error while a model is pushed into one sentence that says where the model is."""
    return _reported_quietly(
        lambda _, reason: (
            f"--push_to_hub: the hub did not take the model ({reason}); it is in {directory}, and hf upload pushes it"
        )
    )


_ADVICE = {
    GatedRepoError: "is a gated repository of the hub; ask for access there, and give --token or run hf auth login",
    HFValidationError: "is neither a directory nor the id of a repository of the hub; check the path",
    RevisionNotFoundError: "has no such branch, tag or commit on the hub; check --model_revision",
    RepositoryNotFoundError: (
        "is neither a directory nor a repository of the hub; check the name, or give --token if it is private"
    ),
}


def _advice(error: BaseException, flag: str, what: str, reason: str) -> str:
    """The end of a sentence: why the hub did not give something, and what to do."""
    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None and len(causes) < 10:
        causes.append(cause)
    for error_type, advice in _ADVICE.items():
        if any(isinstance(cause, error_type) for cause in causes):
            return advice
    if any(isinstance(cause, LocalEntryNotFoundError | ConnectionError) for cause in causes):
        if constants.is_offline_mode():
            revision = "" if flag == "--bert" else ", with this --model_revision,"  # which run_chinese_ref.py has not
            return (
                f"is neither a directory nor{revision} in the hub's cache as {what}, and HF_HUB_OFFLINE forbids a "
                "download; unset that, or give a directory"
            )
        return f"is neither a directory nor in the cache, and {constants.ENDPOINT} cannot be reached; give a directory"
    return f"is neither a directory nor found on the hub as {what} ({reason}); check the name, or the network"


# A cached file with one of these names says that the repository exists.
_NAMING = ("config.json", "tokenizer_config.json", "tokenizer.json", "vocab.txt")


def check_model_exists(
    name: str, flag: str | None, cache_dir: str | None = None, revision: str | None = None, token: str | None = None
) -> None:
    """Look for a model or a tokenizer, with one short request if it is not on this machine; load nothing.

    Args:
        name: a directory or a hub id.
        flag: the flag that names it; `None` if a word of the short form does.
        cache_dir, revision, token: as in `from_pretrained`.

    Raises:
        InputError: if it is nowhere, or if the hub cannot be reached.
    """
    if os.path.isdir(name):
        return
    try:
        if any(isinstance(try_to_load_from_cache(name, file, cache_dir, revision), str) for file in _NAMING):
            return
        with quiet_hub():
            url = hf_hub_url(name, "config.json", revision=revision)
            get_hf_file_metadata(url, token=token, timeout=TIMEOUT)  # without the retries of a download
    except Exception as error:
        is_known = isinstance(error, tuple(_ADVICE))
        if isinstance(error, HfHubHTTPError) and not is_known:  # a busy hub, or no config.json: loading says more
            return
        cause = error if is_known else LocalEntryNotFoundError(str(error))
        start = f"{flag}: {name}" if flag else name
        raise InputError(f"{start} {_advice(cause, flag or '', 'a configuration', '')}") from None


def check_push(repository: str | None, token: str | None) -> None:
    """Ask the hub whether a model can be pushed to it, before anything is loaded. Nothing is created there.

    Args:
        repository: a name, or an owner and a name; `None` for the name of the output directory.
        token: the access token; `None` for the stored one.

    Raises:
        InputError: if it cannot: offline, without a token that may write, or to a repository of someone else.
    """
    if constants.is_offline_mode():
        raise InputError("--push_to_hub needs the hub, and HF_HUB_OFFLINE forbids it; unset one of the two")
    token = token or get_token()
    if not token:
        raise InputError("--push_to_hub needs an access token; run hf auth login, or give --hub_token")

    def explain(error: Exception, reason: str) -> str:
        if isinstance(error, HfHubHTTPError):
            advice = "run hf auth login, or give --hub_token"
            return f"--push_to_hub: the hub does not take this access token ({reason}); {advice}"
        return f"--push_to_hub: {constants.ENDPOINT} cannot be reached ({reason}); drop the flag, or run again later"

    with _reported_quietly(explain):
        url = f"{constants.ENDPOINT}/api/whoami-v2"
        answer = get_session().get(url, headers=build_hf_headers(token=token), timeout=TIMEOUT)
        hf_raise_for_status(answer)
        user = answer.json()
    if user.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise InputError("--push_to_hub: this access token may only read; give one that may write with --hub_token")
    owner = (repository or "").rpartition("/")[0]
    owners = [user["name"], *(organization["name"] for organization in user.get("orgs", []))]
    if owner and owner not in owners:
        raise InputError(
            f"--hub_model_id: {repository} belongs to {owner}, and this access token to {', '.join(owners)}; give "
            "another name, or --hub_token"
        )


def load_pretrained_tokenizer(flag: str, name: str, **options: Any) -> PreTrainedTokenizerBase:
    """Load a tokenizer.

    Args:
        flag: the flag that names it.
        name: a directory or a hub id.
        options: what `AutoTokenizer.from_pretrained` takes.

    Raises:
        InputError: if there is no tokenizer of this name, or if it needs code that may not run.
    """
    from transformers import AutoTokenizer  # imports torch, and a check of names needs none

    code = None if options.get("trust_remote_code") else _own_code(name)
    try:
        with loading(flag, name, "a tokenizer", is_model=False):
            tokenizer = AutoTokenizer.from_pretrained(name, **options)
    except InputError as error:
        if code is None:
            raise
        raise InputError(f"{error}, or add --trust_remote_code to run the tokenizer's Python code ({code})") from None
    if code is not None:
        logger.warning("%s: %s has Python code for its tokenizer (%s); --trust_remote_code runs it", flag, name, code)
    return tokenizer


def _own_code(directory: str) -> str | None:
    """The class of a tokenizer's own code in a directory, such as `my_tokenizer.MyTokenizer`; `None` without one."""
    from wordmask.utils.files import read_json  # imports pyarrow, and a check of names needs none

    try:
        classes = read_json(os.path.join(directory, "tokenizer_config.json"))["auto_map"]["AutoTokenizer"]
        return next(filter(None, [classes] if isinstance(classes, str) else reversed(classes)), None)  # slow, and fast
    except (OSError, ValueError, KeyError, TypeError):
        return None
