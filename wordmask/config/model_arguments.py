"""The flags of the model and its tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from wordmask.config.parser import argument, check_vocab_size
from wordmask.utils.errors import InputError

VARLEN = "varlen"  # our attention by the bounds of documents, see models/varlen_attention.py


@dataclass
class ModelArguments:
    """Which model and which tokenizer, and where they come from."""

    _argument_group_name = "model and tokenizer"

    model_name_or_path: str | None = argument(
        "The model whose training continues: a directory or a hub id, for example bert-base-chinese.", default=None
    )
    tokenizer_name: str | None = argument("The tokenizer; by default, the model's.", default=None)
    model_type: str | None = argument("From scratch: the type of the model, for example bert.", default=None)
    config_overrides: str | None = argument(
        "From scratch: changes of the configuration, for example hidden_size=256,num_hidden_layers=4.",
        default=None,
    )
    config_name: str | None = argument("The configuration; by default, the model's.", default=None)
    vocab_size: int | None = argument(
        "From scratch: train a tokenizer with N entries on the text, for example 30000.", default=None
    )
    sparse_prediction: bool = argument(
        "Predict at masked positions only, with the same loss in less time.",
        default=True,
    )
    attn_implementation: str | None = argument(
        "The attention: sdpa, eager, varlen or flash_attention_2; by default, the device's best.",
        default=None,
    )
    dropout: float | None = argument("Of all layers, for example 0; by default, the model's.", default=None)
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = argument(
        "The type of the weights; auto: the checkpoint's.", default="float32"
    )
    use_fast_tokenizer: bool = argument("Use a fast tokenizer; whole words need it.", default=True)
    cache_dir: str | None = argument(
        "Where downloads and tokenized text are kept; by default, the cache of datasets.", default=None
    )
    model_revision: str = argument("The model's branch, tag or commit on the hub.", default="main")
    token: str | None = argument("The hub's access token; by default, from hf auth login.", default=None)
    trust_remote_code: bool = argument("Run code that comes with the model.", default=False)

    def __post_init__(self) -> None:
        if self.vocab_size is not None and (self.model_name_or_path or self.tokenizer_name):
            other = "--tokenizer_name" if self.tokenizer_name else "--model_name_or_path"
            raise InputError(
                f"--vocab_size {self.vocab_size} trains a tokenizer and {other} brings one; drop one of them"
            )
        if self.model_name_or_path and self.config_overrides:
            raise InputError("--config_overrides is for training from scratch; drop it or --model_name_or_path")
        if not (self.model_name_or_path or self.model_type or self.config_name):
            raise InputError("--model_name_or_path is missing; give a model, or --model_type to train from scratch")
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise InputError(f"--dropout: {self.dropout:g} is no probability below 1; give for example 0 or 0.1")
        check_vocab_size(self.vocab_size)
