"""The flags of the model and its tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from wordmask.config.parser import argument, check_vocab_size
from wordmask.utils.errors import InputError


@dataclass
class ModelArguments:
    """Which model and which tokenizer, and where they come from."""

    _argument_group_name = "model and tokenizer"

    model_name_or_path: str | None = argument(
        "The model to continue training from: a directory or a hub id.", default=None
    )
    tokenizer_name: str | None = argument(
        "The tokenizer, if it is not the model's: a directory or a hub id.", default=None
    )
    model_type: str | None = argument("Train a model of this type from scratch, for example bert.", default=None)
    config_overrides: str | None = argument(
        "From scratch: change the configuration, for example hidden_size=256,num_hidden_layers=4; write a list as "
        "[1,2].",
        default=None,
    )
    config_name: str | None = argument(
        "The configuration, if it is not the model's: a directory or a hub id.", default=None
    )
    vocab_size: int | None = argument(
        "From scratch: train a tokenizer of this many entries on the training text.", default=None
    )
    sparse_prediction: bool = argument(
        "Compute predictions at masked positions only, if the model can: the same loss, less time and memory.",
        default=True,
    )
    attn_implementation: str | None = argument(
        "The attention, for example sdpa, eager or flash_attention_2; by default, what the model chooses.",
        default=None,
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = argument(
        "The data type of the weights; auto keeps that of the checkpoint.", default="float32"
    )
    use_fast_tokenizer: bool = argument("Use a fast tokenizer, which whole words need.", default=True)
    cache_dir: str | None = argument(
        "The directory for downloads and tokenized text; by default, that of datasets.", default=None
    )
    model_revision: str = argument("The branch, tag or commit of the model on the hub.", default="main")
    token: str | None = argument("The access token of the hub; by default, that of hf auth login.", default=None)
    trust_remote_code: bool = argument("Run code from the model's repository.", default=False)

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
        check_vocab_size(self.vocab_size)
