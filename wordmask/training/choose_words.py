"""The words that --add_words makes tokens: given in a file, found in the training text, or those of a checkpoint."""

from __future__ import annotations

import logging

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from wordmask.config.model_arguments import ModelArguments
from wordmask.data.prepared_dir import RunTexts
from wordmask.data.sources import Texts
from wordmask.tokenization.added_words import add_words, addable_words, decoded_wrongly, find_words
from wordmask.tokenization.backend import tokenizer_digest
from wordmask.utils.cache import cache_directory, hashed, made_once
from wordmask.utils.errors import InputError, kind_of
from wordmask.utils.files import read_json, write_json
from wordmask.utils.quantities import counted, first_of_many
from wordmask.utils.readers import read_words

logger = logging.getLogger(__name__)


def add_chosen_words(
    arguments: ModelArguments, tokenizer: PreTrainedTokenizerBase, texts: RunTexts, checkpoint: str | None = None
) -> dict[int, list[int]]:
    """Add the words that --add_words asks for to a tokenizer.

    Args:
        arguments: the flags of the model.
        tokenizer: the tokenizer without them, which is changed.
        texts: the texts of the run by split.
        checkpoint: the checkpoint to continue from, if any; words that were found are taken from there.

    Returns:
        For the id of each new token, the ids of the pieces that the word had before; none without the flag.

    Raises:
        InputError: if a word cannot be added, or there is none.
    """
    if arguments.add_words is None:
        return {}
    if not tokenizer.is_fast:
        raise InputError(
            f"--add_words: {kind_of(tokenizer)} is no fast tokenizer, and would find the words inside of "
            "others, too; drop the flag"
        )
    with_references = next((text for text in texts.values() if isinstance(text, Texts) and text.references), None)
    if with_references:
        raise InputError(
            f"--add_words changes the tokens that {with_references.reference_flag} was made for; drop it, or take the "
            "words from --segmenter instead of references"
        )
    if arguments.words_to_find is None:
        given = read_words(arguments.add_words, "--add_words")
        if not given:
            raise InputError(f"--add_words: {arguments.add_words} has no word; give one in each line")
        words = addable_words(tokenizer, given)
    else:
        words = _of_checkpoint(tokenizer, checkpoint) if checkpoint else _found(arguments, tokenizer, texts)
    pieces = add_words(tokenizer, words)
    before = sum(map(len, pieces.values())) / len(pieces)
    logger.warning(
        "--add_words: %s; %.1f pieces each before: %s",
        *(counted(len(words), "new token"), before, first_of_many(words, 5)),
    )
    if wrong := decoded_wrongly(tokenizer, words):
        logger.warning(
            "--add_words: this byte-level tokenizer decodes %s wrongly, such as %s; the model is not affected",
            *(counted(len(wrong), "word"), wrong[0]),
        )
    return pieces


def _of_checkpoint(tokenizer: PreTrainedTokenizerBase, checkpoint: str) -> list[str]:
    """The tokens, in their order, that were added to the tokenizer of a checkpoint, and this one lacks."""
    saved = AutoTokenizer.from_pretrained(checkpoint).added_tokens_decoder
    words = [token.content for _, token in sorted(saved.items()) if token.content not in tokenizer.get_vocab()]
    if not words:
        raise InputError(
            f"--add_words: the run of {checkpoint} was started without it; drop it, or give a new --output_dir"
        )
    return words


def _found(arguments: ModelArguments, tokenizer: PreTrainedTokenizerBase, texts: RunTexts) -> list[str]:
    """The words that are found in the training text. We remember them, so that several processes search once."""
    text, count = texts.get("train"), int(arguments.words_to_find or 0)
    if not isinstance(text, Texts) or text.is_stream:
        raise InputError(
            f"--add_words {count} finds words in the training text, and there is none, or it is a stream; give a file "
            "with words"
        )
    key = hashed("added words", tokenizer_digest(tokenizer), text.fingerprint, count)
    path = cache_directory(arguments.cache_dir) / f"words-{key}.json"
    made_once(path, lambda: write_json(path, find_words(tokenizer, text.lines("looking for words"), count)))
    words = list(read_json(path))
    if not words:
        raise InputError(
            f"--add_words {count}: the training text has no word that is frequent and split (scripts without spaces "
            "do not count); drop the flag, or give a file with words"
        )
    if len(words) < count:
        found = counted(len(words), "word is", "words are")
        logger.warning("--add_words %d: only %s frequent and split", count, found)
    return words
