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

    model_name_or_path: str | None = argument("The model to go on from: a directory or a hub id.", default=None)
    model_type: str | None = argument("Train from scratch a model of this type, for example bert.", default=None)
    config_overrides: str | None = argument(
        "From scratch: settings other than the type's own: hidden_size=256,num_hidden_layers=4; a list as [1,2].",
        default=None,
    )
    config_name: str | None = argument(
        "A configuration other than the model's: a directory or a hub id.", default=None
    )
    tokenizer_name: str | None = argument("A tokenizer other than the model's: a directory or a hub id.", default=None)
    vocab_size: int | None = argument(
        "From scratch: train a tokenizer with this many entries on the training text.", default=None
    )
    cache_dir: str | None = argument("Where what comes from the hub and what is prepared is kept.", default=None)
    use_fast_tokenizer: bool = argument("Use a fast tokenizer; only one of these can tell words apart.", default=True)
    model_revision: str = argument("The branch, tag or commit of a model on the hub.", default="main")
    token: str | None = argument("The hub's access token, instead of the one stored by hf auth login.", default=None)
    trust_remote_code: bool = argument("Run the code that a model on the hub brings along.", default=False)
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = argument(
        "The type of the weights; auto takes the checkpoint's own.", default="float32"
    )
    attn_implementation: str | None = argument(
        "The attention to use, for example sdpa, eager, flash_attention_2; the model's own choice if not given.",
        default=None,
    )

    sparse_prediction: bool = argument(
        "Predict at the masked positions only, where the model can: the same loss, with less time and memory.",
        default=True,
    )

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
