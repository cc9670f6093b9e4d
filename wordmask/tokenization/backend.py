"""What decides the tokens of a tokenizer: its backend in the library `tokenizers`, or what stands in its place."""

from __future__ import annotations

import hashlib
import inspect
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

from wordmask.segmenters.tokenizer import word_identity
from wordmask.utils.errors import InputError, kind_of, reported

if TYPE_CHECKING:
    import tokenizers
    from transformers import PreTrainedTokenizerBase

    from wordmask.utils.arrays import IntArray


class Backend:
    """The backend of a fast tokenizer, for `tokenize` in a worker process.

    A worker that gets this needs no import of transformers, which takes seconds.

    Args:
        tokenizer: a fast tokenizer that can be serialized, see `serialized`.
        special_ids: its special tokens, which the backend does not know.
    """

    is_fast = True

    def __init__(self, tokenizer: Tokenizer, special_ids: IntArray):
        self.special_ids = special_ids
        self.backend_tokenizer: tokenizers.Tokenizer = tokenizer.backend_tokenizer
        self.added_tokens_decoder = self.backend_tokenizer.get_added_tokens_decoder()


Tokenizer: TypeAlias = "PreTrainedTokenizerBase | Backend"  # for what needs only the backend, if there is one


def check_is_tokenizer(tokenizer: Any) -> None:
    """For the Python API: raise an `InputError` for anything but a tokenizer of transformers."""
    if isinstance(tokenizer, type) or not hasattr(tokenizer, "all_special_tokens"):
        found = f"tokenizer: {kind_of(tokenizer)} is no tokenizer"
        raise InputError(f"{found}; give one of transformers, as from_pretrained loads it")


def serialized(component: Any) -> dict[str, Any] | None:
    """The backend of a tokenizer, or a component of it, as JSON; `None` if a part is written in Python (RoFormer)."""
    try:
        return json.loads(component.__getstate__())
    except Exception as error:  # the library has no exception type of its own
        if "serialized" not in str(error):
            raise
        return None


def has_own_code(tokenizer: Tokenizer) -> bool:
    """Whether a class that is not of transformers has a part in how a fast tokenizer encodes a text."""
    names = ("__call__", "encode", "tokenize", "_encode_plus", "_batch_encode_plus", "_tokenize")
    owners = (next((cls for cls in type(tokenizer).__mro__ if name in vars(cls)), None) for name in names)
    return not isinstance(tokenizer, Backend) and any(
        owner is not None and owner.__module__.partition(".")[0] != "transformers" for owner in owners
    )


def is_backend_alone(tokenizer: Tokenizer) -> bool:
    """Whether a tokenizer is its backend and no more, so that a worker process can get this alone."""
    return tokenizer.is_fast and serialized(tokenizer.backend_tokenizer) is not None and not has_own_code(tokenizer)


def check_own_code(tokenizer: Tokenizer, lines: Sequence[str], flag: str) -> None:
    """Check that a fast tokenizer gives the tokens of its backend, whose offsets we need.

    Args:
        tokenizer: a tokenizer with code of its own, see `has_own_code`.
        lines: the lines.
        flag: the flag that names it.

    Raises:
        InputError: if its code makes other tokens, for example of a text that it has changed.
    """
    if not lines:
        return
    call: Any = tokenizer
    with reported(f"{flag}: the Python code of {type(tokenizer).__name__} does not take a list of texts"):
        theirs = call([*lines], add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
    with untruncated(tokenizer.backend_tokenizer):
        ours = [one.ids for one in tokenizer.backend_tokenizer.encode_batch([*lines], add_special_tokens=False)]
    if theirs != ours:
        raise InputError(
            f"{flag}: the Python code of {type(tokenizer).__name__} gives other tokens than its backend, which finds "
            "the words; let the backend do what the code does, for example by a normalizer"
        )


def python_state(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """What decides about the tokens of a tokenizer that runs in Python."""
    parameters = inspect.signature(type(tokenizer).__init__).parameters.values()
    options = {
        one.name: str(tokenizer.init_kwargs.get(one.name, one.default))
        for one in parameters
        if one.kind is one.POSITIONAL_OR_KEYWORD and one.name != "self" and not one.name.endswith("_file")
    }
    pieces = [getattr(part, "sp_model", None) for part in (tokenizer, getattr(tokenizer, "subword_tokenizer", None))]
    models = [hashlib.sha256(model.serialized_model_proto()).hexdigest() for model in pieces if model]
    return {
        "model": [tokenizer.get_vocab(), [*getattr(tokenizer, "bpe_ranks", ())], models],
        "added_tokens": [repr(token) for token in tokenizer.added_tokens_decoder.values()],
        "normalizer": options,
        "pre_tokenizer": word_identity(tokenizer),
    }


_one_thread = threading.RLock()


@contextmanager
def untruncated(backend: tokenizers.Tokenizer) -> Iterator[None]:
    """Turn truncation and padding of a tokenizer's backend off, and afterwards on again as the user has set them.

    This takes a microsecond. A copy of a tokenizer with a large vocabulary would take half a second. Only one thread
    at a time encodes, or it would turn truncation on again while another one encodes; each uses all cores anyway.
    """
    with _one_thread:
        truncation, padding = backend.truncation, backend.padding
        backend.no_truncation()
        backend.no_padding()
        try:
            yield
        finally:
            if truncation:
                backend.enable_truncation(**truncation)
            if padding:
                backend.enable_padding(**padding)


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """A digest of everything that decides where the tokens of a tokenizer begin and end."""
    if tokenizer.is_fast:
        state = serialized(tokenizer.backend_tokenizer) or {"model": [type(tokenizer).__name__, tokenizer.get_vocab()]}
    else:
        state = python_state(tokenizer)
    decisive = {name: state.get(name) for name in ("model", "added_tokens", "normalizer", "pre_tokenizer")}
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()
