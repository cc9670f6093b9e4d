"""Words from token ids alone: we rebuild the text from the surface of each token, and apply the rule for text.

The surface of a token is how the vocabulary writes it. Each kind of tokenizer marks there where a word continues, or
where white space was:

    mark        tokens                  text
    ##          un ##seen things        " unseen things"     (WordPiece)
    Ġ           un seen Ġthings         "unseen things"      (bytes, each written as a character)
    ▁           ▁un seen ▁things        " unseen things"     (Unigram, BPE)
    @@          un@@ seen things        "unseen things "     (fastBPE)
    </w>        un seen</w> things</w>  "unseen things "     (BPE of XLM)
    none        unseen things           " unseen things"     (whole words)
    none        s e e n ␣ i t           "seen it"            (characters, or bytes that are written as characters)
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

from wordmask.tokenization.encoding import Encodings
from wordmask.tokenization.recipes import steps_of
from wordmask.tokenization.words import Characters
from wordmask.utils.arrays import IntArray, places_of, starts_of

# What the mark says (its token continues a word, consists of bytes, ...), and how it is written.
Mark: TypeAlias = tuple[str, str]
MARKS: list[Mark] = [("continues", "##"), ("bytes", "Ġ"), ("space", "▁"), ("goes on", "@@"), ("ends", "</w>")]
WHOLE_WORDS: Mark = MARKS[0]  # without any mark, each token is a word, as in WordPiece without `##`
CHARACTERS, BYTES = ("characters", ""), ("latin", "")  # each token is a character, or the byte with its number
WHITE_SPACE = np.frombuffer(b" \t\n\r\v\f", np.uint8)  # that a byte-level vocabulary can hold
ALONE = "\ufffc".encode()  # replaces a token without text, such as [CLS] or [UNK]: a symbol, so a word of its own


class Surfaces:
    """The text of each token of a tokenizer, to find words if only ids are known.

    Args:
        tokenizer: any tokenizer of transformers, fast or not.
        textless: the ids of tokens that stand for no text, or for text that we do not know.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, textless: IntArray):
        vocabulary, mark = tokenizer.get_vocab(), mark_of(tokenizer) or WHOLE_WORDS
        surface = reader_of(mark)
        # The texts of all tokens in one array of bytes: token 7 has text[starts[7] : starts[7] + sizes[7]].
        texts = [ALONE] * (max(vocabulary.values()) + 1)
        for token, index in vocabulary.items():
            texts[index] = surface(token) or ALONE
        # Only tokenizers of bytes or characters show whether white space was before an added token, unless it takes
        # that in. Elsewhere it mostly was.
        shows = mark[0] in ("bytes", CHARACTERS[0], BYTES[0])
        for index, added in tokenizer.added_tokens_decoder.items():
            texts[index] = f"{'' if shows and not added.lstrip else ' '}{added}".encode("utf-8", "surrogatepass")
        for index in textless[textless < len(texts)].tolist():
            texts[index] = ALONE
        self.text = np.frombuffer(b"".join(texts), np.uint8)
        self.sizes = np.fromiter(map(len, texts), np.int64, len(texts))
        self.starts = starts_of(self.sizes)

    @property
    def characters(self) -> IntArray:
        """(ids,) The number of characters of each token, without white space. A token without text counts as one.

        A character of several tokens counts for the one with its first byte: only that is none of 0x80 to 0xBF.
        """
        begins = (self.text & 0xC0 != 0x80) & ~np.isin(self.text, WHITE_SPACE)
        return np.add.reduceat(begins.astype(np.int64), self.starts)

    def encodings(self, ids: IntArray, lengths: IntArray) -> Encodings:
        """The lines that tokens stand for, and which characters each token covers.

        Args:
            ids: (tokens,) the tokens of all lines, one line after the other.
            lengths: (lines,) the number of tokens of each line.
        """
        sizes = self.sizes[ids]
        ends = np.cumsum(sizes)
        text = self.text[places_of(self.starts[ids], sizes)]
        # Where lines begin and end in the text. Tokens that end at bytes [3, 5, 9], in lines of 2 and 1 tokens, give
        # [0, 3, 5, 9] at [0, 2, 3], so [0, 5, 9]. What `split` gives first ends at 0, and is no line.
        edges = np.append(0, ends)[np.append(0, np.cumsum(lengths))]
        # A token may be a part of a character, so a line may begin or end with one. Such a byte becomes a surrogate.
        lines = [line.tobytes().decode("utf-8", "surrogateescape") for line in np.split(text, edges[:-1])[1:]]
        characters = Characters(lines)
        widths = _bytes_of(characters.code_points)
        widths[characters.line_starts + characters.line_lengths] = 0  # the line ends are not in the text
        # (bytes,) The character of each byte: widths [1, 3, 0] of `a中⏎` give [0, 1, 1, 1].
        character_of = np.repeat(np.arange(len(widths)), widths)
        starts_of_tokens, ends_of_tokens = character_of[ends - sizes], character_of[ends - 1] + 1
        return Encodings.of_spans(ids, lengths, starts_of_tokens, ends_of_tokens, characters)


def _bytes_of(code_points: NDArray[np.uint32]) -> IntArray:
    """The number of bytes of each character in UTF-8. A surrogate stands for 1 byte."""
    widths = 1 + (code_points >= 0x80).astype(np.int64) + (code_points >= 0x800) + (code_points >= 0x10000)
    widths[(code_points >= 0xDC80) & (code_points <= 0xDCFF)] = 1
    return widths


def reader_of(mark: Mark) -> Callable[[str], bytes]:
    """A function that gives a token's text, with the white space before or after it."""
    says, text = mark
    if says == "bytes":
        byte_of = {character: byte for byte, character in bytes_to_unicode().items()}
        return lambda token: bytes(byte_of[character] for character in token) if byte_of.keys() >= {*token} else b""
    if says == "characters":
        return lambda token: token.encode("utf-8", "surrogatepass")
    if says == "latin":
        return lambda token: token.encode("latin-1")
    if says == "space":
        return _read_metaspace
    if says == "continues":
        return lambda token: (token.removeprefix(text) if text and token.startswith(text) else f" {token}").encode()
    if says == "ends":  # white space follows a token that has the mark `</w>`
        return lambda token: (f"{token.removesuffix(text)} " if token.endswith(text) else token).encode()
    # White space follows a token that lacks the mark `@@`.
    return lambda token: (token.removesuffix(text) if token.endswith(text) else f"{token} ").encode()


def _read_metaspace(token: str) -> bytes:
    """`▁un` is ` un`. `<0xE7>` is one byte of a character that is not in the vocabulary."""
    byte = re.fullmatch("<0x([0-9A-F]{2})>", token)
    return bytes.fromhex(byte[1]) if byte else token.replace("▁", " ").encode()


def mark_of(tokenizer: PreTrainedTokenizerBase) -> Mark | None:
    """How tokens show where words begin or continue: the decoder says it; if not, the most frequent mark counts.

    `None` if no token has a mark.
    """
    for step in steps_of(tokenizer.backend_tokenizer.decoder) if tokenizer.is_fast else []:
        if step["type"] == "WordPiece":
            return "continues", step["prefix"]
        if step["type"] == "ByteLevel":
            return "bytes", "Ġ"
        if step["type"] == "Metaspace" or step.get("pattern") == {"String": "▁"}:
            return "space", "▁"
        if step["type"] == "BPEDecoder":
            return "ends", step["suffix"]
    added = {str(token) for token in tokenizer.added_tokens_decoder.values()}
    tokens = tokenizer.get_vocab().keys() - tokenizer.all_special_tokens - added
    if " " in tokens and all(len(token) == 1 for token in tokens):
        return BYTES if len(tokens) == 256 and max(tokens) == "\xff" else CHARACTERS

    def count(mark: Mark) -> int:
        at_end = mark[0] in ("goes on", "ends")
        return sum(token.endswith(mark[1]) if at_end else token.startswith(mark[1]) for token in tokens)

    most = max(MARKS, key=count)
    return most if count(most) else None


def shows_spaces(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a tokenizer's tokens show where white space was. Those with `##` show only where there was none."""
    return (mark_of(tokenizer) or WHOLE_WORDS)[0] in ("bytes", "space", CHARACTERS[0], BYTES[0])
