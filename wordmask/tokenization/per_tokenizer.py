"""What is made once for each tokenizer, such as its word cache, and again when the user has changed the tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

from tokenizers import normalizers, pre_tokenizers

from wordmask.tokenization.backend import Tokenizer

T = TypeVar("T")


class PerTokenizer(Generic[T]):
    """Gives something for a tokenizer: what it made before, or a new one if what decides the tokens has changed since.

    It keeps no tokenizer alive. What it makes must not hold the tokenizer either.

    Args:
        make: makes it for a tokenizer of transformers, or for the `Backend` of a fast one.
    """

    def __init__(self, make: Callable[[Any], T]):
        self._make = make
        self._known: WeakKeyDictionary[Tokenizer, tuple[object, T]] = WeakKeyDictionary()

    def __call__(self, tokenizer: Tokenizer) -> T:
        state = _state(tokenizer)
        known = self._known.get(tokenizer)
        if known is None or known[0] != state:
            known = self._known[tokenizer] = state, self._make(tokenizer)
        return known[1]


def _state(tokenizer: Tokenizer) -> object:
    """What a user may change in a tokenizer and what decides its tokens, for a comparison.

    Each batch asks for it, so it must be quick: it takes some 5 microseconds, and 40 with a hundred added tokens.

    Added tokens are compared in full, since the size of the vocabulary does not show them all: a token of the
    vocabulary can be added, too.
    """
    added = {token_id: repr(token) for token_id, token in tokenizer.added_tokens_decoder.items()}
    if not tokenizer.is_fast:
        return added
    backend = tokenizer.backend_tokenizer
    return added, *map(_state_of, (backend.normalizer, backend.pre_tokenizer, backend.post_processor))


def _state_of(component: Any) -> object:
    """The state of a component of a backend, for a comparison."""
    is_sequence = isinstance(component, normalizers.Sequence | pre_tokenizers.Sequence)
    if is_sequence:
        return [*map(_state_of, component)]
    if component is None or isinstance(component, normalizers.Precompiled):
        return type(component)  # the rules of sentencepiece: 240 kB, which take half a millisecond to write down
    try:
        return component.__getstate__()
    except Exception:  # written in Python (RoFormer); the library has no exception type of its own
        return type(component)
