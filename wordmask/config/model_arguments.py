"""The flags of the model and its tokenizer."""

from __future__ import annotations

import glob
import os
import re
from dataclasses import dataclass
from typing import Literal

from wordmask.config.number_checks import check_vocab_size
from wordmask.config.parser import argument
from wordmask.tokenization.special_tokens import NO_LIMIT
from wordmask.utils.errors import InputError

VARLEN = "varlen"  # our attention by the bounds of documents, see models/varlen_attention.py


@dataclass
class ModelArguments:
    """Which model and which tokenizer, and where they come from."""

    _argument_group_name = "model and tokenizer"

    model_name_or_path: str | None = argument("A directory or a hub id, such as bert-base-chinese.", default=None)
    tokenizer_name: str | None = argument("The tokenizer; by default, the model's.", default=None)
    model_type: str | None = argument("From scratch: the type of the model, such as bert.", default=None)
    config_overrides: str | None = argument("From scratch: hidden_size=256,num_hidden_layers=4 …", default=None)
    config_name: str | None = argument("The configuration; by default, the model's.", default=None)
    vocab_size: int | None = argument("From scratch: entries of a tokenizer, such as 30000.", default=None)
    add_words: str | None = argument("A file of words to be tokens, or how many to find.", default=None)
    max_position_embeddings: int | None = argument("Let a loaded model take sequences of N tokens.", default=None)
    keep_optimizer: bool = argument("Start with the checkpoint's optimizer state, too.", default=False)
    sparse_prediction: bool = argument("Predict masked positions only: same loss, faster.", default=True)
    attn_implementation: str | None = argument("Such as sdpa or varlen; by default, the fastest.", default=None)
    dropout: float | None = argument("Of all layers, such as 0; by default, the model's.", default=None)
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = argument(
        "Type of weights; auto: as saved.", default="float32"
    )
    use_fast_tokenizer: bool = argument("Use a fast tokenizer if there is one.", default=True)
    cache_dir: str | None = argument("For downloads and tokens; by default, as datasets.", default=None)
    model_revision: str = argument("Branch, tag or commit on the hub.", default="main")
    token: str | None = argument("For the hub; by default, from hf auth login.", default=None)
    trust_remote_code: bool = argument("Run code that comes with the model.", default=False)

    def __post_init__(self) -> None:
        if self.vocab_size is not None and (self.model_name_or_path or self.tokenizer_name):
            other = "--tokenizer_name" if self.tokenizer_name else "--model_name_or_path"
            raise InputError(
                f"--vocab_size {self.vocab_size} trains a tokenizer and {other} brings one; drop one of them"
            )
        if self.add_words is not None:
            self._check_words()
        if self.keep_optimizer:
            self._check_optimizer()
        if self.model_name_or_path and self.config_overrides:
            raise InputError("--config_overrides is for training from scratch; drop it or --model_name_or_path")
        if self.max_position_embeddings is not None:
            self._check_positions(self.max_position_embeddings)
        if not (self.model_name_or_path or self.model_type or self.config_name):
            raise InputError("--model_name_or_path is missing; give a model, or --model_type to train from scratch")
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise InputError(f"--dropout: {self.dropout:g} is no probability below 1; give for example 0 or 0.1")
        check_vocab_size(self.vocab_size)

    def _check_positions(self, length: int) -> None:
        """Raise an `InputError` if --max_position_embeddings is out of range, or there is no model to extend."""
        if not 0 < length < NO_LIMIT:
            raise InputError(f"--max_position_embeddings: {length} is not possible; give 1 or more, below {NO_LIMIT}")
        if not self.model_name_or_path:
            raise InputError(
                "--max_position_embeddings is for continuing from a model; from scratch, give --config_overrides "
                f"max_position_embeddings={length}"
            )

    def _check_optimizer(self) -> None:
        """Raise an `InputError` if --keep_optimizer finds no state of an optimizer, or none of all weights."""
        name = self.model_name_or_path or ""
        if not name or not all(
            glob.glob(os.path.join(glob.escape(name), file)) for file in ("optimizer*", "scheduler.pt")
        ):
            raise InputError(
                f"--keep_optimizer: there is no state of an optimizer in {name or 'a model from scratch'}; give a "
                "directory such as out/checkpoint-500 as --model_name_or_path, of a run without --save_only_model"
            )
        if self.add_words is not None:
            raise InputError("--keep_optimizer has no state for the tokens of --add_words; drop one of them")

    @property
    def words_to_find(self) -> int | None:
        """How many words --add_words finds in the training text; `None` if it names a file, or is not given."""
        words = (self.add_words or "").strip()
        return int(words) if re.fullmatch(r"[+-]?\d+", words, re.ASCII) else None

    def _check_words(self) -> None:
        """Raise an `InputError` if --add_words is neither a number of words nor a file, or has nothing to add to."""
        if self.vocab_size is not None:
            raise InputError(
                "--add_words is for a tokenizer that you have and --vocab_size trains one; drop one of them"
            )
        if self.words_to_find is None and not os.path.isfile(str(self.add_words)):
            raise InputError(
                f"--add_words: there is no file {self.add_words}; give a file with a word in each line, or how many "
                "words to find in the training text"
            )
        if self.words_to_find is not None and self.words_to_find < 1:
            raise InputError(f"--add_words: {self.add_words} is not possible; give 1 or more, or a file with words")
