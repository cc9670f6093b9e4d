"""Words of a domain that become tokens of a tokenizer: find them in a text, choose those that can, add them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence

import regex
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerBase

from wordmask.tokenization.encoding import encode_lines
from wordmask.tokenization.words import Characters, script_of
from wordmask.utils.errors import InputError
from wordmask.utils.quantities import first_of_many

logger = logging.getLogger(__name__)

LEAST = 5  # occurrences of a word that is found: of fewer, a model learns little about its token
LONGEST = 40  # characters; what is longer is hardly a word
SHOWN = 5  # words in a sentence
_MOST = 2_000_000  # different words that are counted at once; with more, the rarer half is forgotten
_BEFORE = "a "  # what stands before a word when we ask for its pieces, since most words follow a space
# The library's rule for `single_word`: neither neighbour of a token may match \w. So a word that we find is all of the
# characters between two others.
_WORD = regex.compile(r"\w+")
_LETTER = regex.compile(r"\p{L}")
_MARKS = ("##", "▁")  # that begin pieces in vocabularies; `Ġ` is a letter of Maltese, too


def has_no_spaces(word: str) -> bool:
    """Whether a word has a character of a script that is written without spaces: there, no word stands alone."""
    return any(script_of(ord(character)) for character in word)


def normalized(tokenizer: PreTrainedTokenizerBase, word: str) -> str:
    """A word as the normalizer of a fast tokenizer leaves it; `▁` and spaces at its ends are not part of it."""
    normalizer = tokenizer.backend_tokenizer.normalizer
    return normalizer.normalize_str(word).strip(" ▁") if normalizer else word


def pieces_of(tokenizer: PreTrainedTokenizerBase, words: Sequence[str]) -> list[list[int]]:
    """The ids of the tokens of each word where it follows a space: `Ġgr a ft` for `graft`.

    Args:
        tokenizer: a fast tokenizer.
        words: the words.
    """
    if not words:
        return []
    tokens = encode_lines(tokenizer, Characters([_BEFORE + word for word in words]))
    ends = tokens.line_starts + tokens.lengths
    pieces = []
    for line, (start, end) in enumerate(zip(tokens.line_starts, ends, strict=True)):
        word_start = tokens.characters.line_starts[line] + len(_BEFORE)
        inside = tokens.last[start:end] >= word_start  # a lone `Ġ` has the first character of the word
        pieces.append(tokens.ids[start:end][inside].tolist())
    return pieces


def find_words(tokenizer: PreTrainedTokenizerBase, texts: Iterable[Sequence[str]], count: int) -> list[str]:
    """The words whose own tokens would shorten a text most: frequent, and split into many pieces.

    A word of 3 pieces that occurs 100 times saves 200 tokens. An unknown word counts as one piece for each character.
    Left out are words that occur fewer than `LEAST` times, words without a letter, and words of scripts that are
    written without spaces.

    Args:
        tokenizer: a fast tokenizer.
        texts: the text in batches.
        count: the most words to find.

    Returns:
        The words, the one that saves most first.
    """
    forms = Counter[str]()
    for batch in texts:
        for text in batch:
            forms.update(form for form in _WORD.findall(text) if len(form) <= LONGEST)
        if len(forms) > _MOST:
            forms = Counter(dict(forms.most_common(_MOST // 2)))
    words = Counter[str]()
    for form, number in forms.items():  # `Graft` is `graft` for a tokenizer that makes letters small
        if _LETTER.search(form) and not has_no_spaces(form):
            words[normalized(tokenizer, form)] += number
    vocabulary = tokenizer.get_vocab()
    frequent = [
        word
        for word, number in words.items()
        if number >= LEAST and word not in vocabulary and _WORD.fullmatch(word) and normalized(tokenizer, word) == word
    ]
    unknown, saved = tokenizer.unk_token_id, dict[str, int]()
    for word, pieces in zip(frequent, pieces_of(tokenizer, frequent), strict=True):
        saved[word] = words[word] * ((len(word) if unknown in pieces else len(pieces)) - 1)
    best = sorted((word for word in frequent if saved[word] > 0), key=lambda word: (-saved[word], word))
    return best[:count]


def addable_words(tokenizer: PreTrainedTokenizerBase, words: Sequence[str]) -> list[str]:
    """The words that can become tokens, as the normalizer writes them; others are already in the vocabulary.

    A warning says which words are changed, and which are left out.

    Raises:
        InputError: naming the words that can be no token, or if none is left.
    """
    forms, special = {word: normalized(tokenizer, word) for word in words}, {*tokenizer.all_special_tokens}
    marks = " or ".join(_MARKS)
    for wrong, reason in (
        (
            [word for word in words if word in special],
            "special tokens of this tokenizer are not added; leave them out",
        ),
        (
            [word for word in words if word.startswith(_MARKS)],
            f"only pieces in a vocabulary begin with {marks}; leave the mark out",
        ),
        ([word for word in words if len(word.split()) != 1], "a word has no space inside; give one word in each line"),
        (
            [word for word in words if has_no_spaces(word)],
            "it is of a script that is written without spaces, where no token can tell a word from a part of another "
            "one; leave it out",
        ),
        (
            [word for word, form in forms.items() if len(form.split()) != 1],
            "the tokenizer's normalizer makes no single word of it; leave it out",
        ),
    ):
        if wrong:
            raise InputError(f"--add_words: {first_of_many(wrong, SHOWN)}: {reason}")
    if changed := [f"{word} as {form}" for word, form in forms.items() if word != form]:
        logger.warning("--add_words: the tokenizer's normalizer writes %s", first_of_many(changed, SHOWN))
    new, vocabulary, unknown = list(dict.fromkeys(forms.values())), tokenizer.get_vocab(), tokenizer.unk_token_id
    known = [
        word
        for word, pieces in zip(new, pieces_of(tokenizer, new), strict=True)
        if word in vocabulary or len(pieces) < 2 and pieces != [unknown]
    ]
    if known:
        logger.warning("--add_words: left out, since the vocabulary has them already: %s", first_of_many(known, SHOWN))
    if len(known) == len(new):
        raise InputError("--add_words: the vocabulary has all of these words already; drop the flag")
    left_out = {*known}
    return [word for word in new if word not in left_out]


def add_words(tokenizer: PreTrainedTokenizerBase, words: Sequence[str]) -> dict[int, list[int]]:
    """Let words become tokens that match whole words only, and take in the space before them if pieces do.

    Args:
        tokenizer: a fast tokenizer, which is changed.
        words: new words, from `addable_words`.

    Returns:
        For the id of each new token, the ids of the pieces that the word had before.
    """
    pieces, takes_space = pieces_of(tokenizer, words), _keeps_spaces(tokenizer)
    tokenizer.add_tokens([AddedToken(word, single_word=True, lstrip=takes_space, normalized=True) for word in words])
    vocabulary = tokenizer.get_vocab()
    return {vocabulary[word]: of_word for word, of_word in zip(words, pieces, strict=True)}


def decoded_wrongly(tokenizer: PreTrainedTokenizerBase, words: Sequence[str]) -> list[str]:
    """The added words that the tokenizer's `decode` does not give back.

    A byte-level tokenizer takes each letter of a token for a byte. The `ï` of `naïve` is taken for the byte EF. But ï
    has the bytes C3 AF, and EF alone is no letter.
    """
    decoder = tokenizer.backend_tokenizer.decoder
    return [word for word in words if decoder and decoder.decode([word]).strip() != word]


def _keeps_spaces(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a space is part of the piece after it, as `Ġ` or `▁`. WordPiece has pieces without spaces."""
    backend = tokenizer.backend_tokenizer
    if backend.pre_tokenizer is None:
        return True
    text = backend.normalizer.normalize_str("a b") if backend.normalizer else "a b"
    return backend.pre_tokenizer.pre_tokenize_str(text)[-1][0] != "b"
