"""Train a tokenizer on a text, of the kind that belongs to a model type."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterable
from typing import Any

from transformers import CONFIG_MAPPING, TOKENIZER_MAPPING, DebertaTokenizer, PreTrainedTokenizerBase

from wordmask.utils.errors import InputError, one_line

logger = logging.getLogger(__name__)

VERSION = 2  # goes up when the same text gives another tokenizer
# BERT's and ALBERT's tokenizers take marks off letters, which makes other letters of them: Japanese が would be か.
KEEPING_MARKS = {"strip_accents": False, "keep_accents": True}


def train_tokenizer(model_type: str, texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerBase:
    """Train the kind of tokenizer that belongs to a model type. BERT's makes each Chinese character a token.

    A model type without its own kind, such as ModernBERT, gets DeBERTa's: byte-level BPE with BERT's special tokens.
    It gives no `token_type_ids`: XLM would add the embedding of a word for them, and TAPAS needs seven for each token.

    Raises:
        InputError: if none can be trained on this text.
    """
    try:
        tokenizer_class: Any = TOKENIZER_MAPPING[CONFIG_MAPPING[model_type]]
        parameters = inspect.signature(tokenizer_class.__init__).parameters
        options = {name: value for name, value in KEEPING_MARKS.items() if name in parameters}
        untrained: Any = tokenizer_class(**options)
    except (KeyError, ValueError, TypeError):
        untrained = DebertaTokenizer(model_input_names=["input_ids", "attention_mask"])
    try:
        trained = untrained.train_new_from_iterator(texts, vocab_size, show_progress=False)
    except (InputError, OSError, MemoryError):  # of the text, or of the machine
        raise
    except Exception as error:  # of any kind: tokenizers raises plain ones
        raise InputError(
            f"--vocab_size: cannot train a tokenizer of {vocab_size} entries for {model_type} ({one_line(error)}); "
            "give --tokenizer_name"
        ) from None
    trained.name_or_path = ""
    if len(trained) != vocab_size:
        logger.warning("--vocab_size %d: on this text, the tokenizer has %d entries", vocab_size, len(trained))
    # Until there is a model, the length that its type takes by default. Without it, transformers saves 1e30.
    trained.model_max_length = getattr(CONFIG_MAPPING[model_type](), "max_position_embeddings", None) or 512
    return trained
