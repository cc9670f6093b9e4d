"""Turn lines into tokens, and find the word of each: with the word cache where a tokenizer may use it.

The environment variable WORDMASK_WORD_CACHE=off turns the cache off. Tokens and words stay the same, but it is slower.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from wordmask.tokenization.backend import Tokenizer, check_own_code, has_own_code
from wordmask.tokenization.encoding import Encodings, encode_lines
from wordmask.tokenization.word_cache import word_cache_of
from wordmask.tokenization.words import Characters

SWITCH = "WORDMASK_WORD_CACHE"


def tokenize(tokenizer: Tokenizer, lines: Sequence[str], flag: str = "--tokenizer_name") -> Encodings:
    """Tokenize whole lines, without special tokens, and find the word of each token.

    Args:
        tokenizer: a tokenizer of transformers, or the `Backend` of a fast one.
        lines: the lines.
        flag: the flag that names the tokenizer.

    Raises:
        InputError: if the tokenizer gives no offsets, and we cannot find them, or other tokens than its backend.
    """
    if not tokenizer.is_fast:
        # Imported here, since workers with a `Backend` need no transformers.
        from wordmask.tokenization.aligned import aligner_of

        return aligner_of(tokenizer)(tokenizer, lines, flag)  # type: ignore[arg-type]  # a Backend is fast
    if has_own_code(tokenizer):
        check_own_code(tokenizer, lines, flag)
    characters = Characters(lines)
    cache = None if os.environ.get(SWITCH, "").lower() in ("off", "0", "no", "false") else word_cache_of(tokenizer)
    return cache(tokenizer, characters) if cache else encode_lines(tokenizer, characters)
