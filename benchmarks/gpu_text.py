"""The text and the models of gpu.py: documents of a chosen length, and real sizes with random weights."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from gpu_sides import RATE, SEED
from wordmask.config.model_arguments import ModelArguments
from wordmask.models.configuration import make_config
from wordmask.training.display.utilisation import flops_per_token
from wordmask.utils.errors import InputError

SPECIALS = 2  # [CLS] and [SEP] around each document


class Written(NamedTuple):
    """The text of a measurement.

    Attributes:
        train, evaluated: its files, a document in each line.
        lengths: the tokens of each document to train on, special ones included.
    """

    train: str
    evaluated: str
    lengths: np.ndarray


def word_sizes(lines: list[str], tokenizer: PreTrainedTokenizerBase) -> Mapping[str, int]:
    """How many tokens each word between spaces has; in WordPiece these add up."""
    words = sorted({word for line in lines for word in line.split()})
    return dict(zip(words, map(len, tokenizer(words, add_special_tokens=False)["input_ids"]), strict=True))


def shuffled_for_ever(lines: list[str]) -> Iterator[str]:
    """All lines in a random order, which is the same in every run, then all in another order, and so on."""
    generator = random.Random(SEED)
    while True:
        yield from generator.sample(lines, len(lines))


def full_documents(lines: list[str], sizes: Mapping[str, int], length: int) -> Iterator[str]:
    """Documents of as many words as `length` tokens hold, so that nothing is cut off and next to nothing padded."""
    words: list[str] = []
    left = length - SPECIALS
    for line in shuffled_for_ever(lines):
        for word in line.split():
            if words and sizes[word] > left:
                yield " ".join(words)
                words, left = [], length - SPECIALS
            words.append(word)
            left -= sizes[word]


def write_text(
    lines: list[str],
    tokenizer: PreTrainedTokenizerBase,
    length: int,
    counts: tuple[int, int],
    folder: Path,
    full: bool,
) -> Written:
    """Write documents to train on and to evaluate on.

    Args:
        lines: of the text.
        tokenizer: of the model, WordPiece.
        length: the most tokens of a document.
        counts: how many documents to evaluate on, and to train on.
        folder: where they go.
        full: whether documents have this length; if not, each line of at most this length is a document.

    Raises:
        InputError: if no line is that short.
    """
    sizes = word_sizes(lines, tokenizer)

    def size(document: str) -> int:
        return sum(map(sizes.__getitem__, document.split())) + SPECIALS

    short = [line for line in lines if full or size(line) <= length]
    if not short:
        raise InputError(f"--text: no line has at most {length} tokens; give another text")
    documents = full_documents(lines, sizes, length) if full else shuffled_for_ever(short)
    paths = [folder / "evaluated.txt", folder / "train.txt"]
    for path, count in zip(paths, counts, strict=True):
        chosen = list(islice(documents, count))
        path.write_text("".join(f"{document}\n" for document in chosen), encoding="utf-8")
    return Written(str(paths[1]), str(paths[0]), np.array(list(map(size, chosen))))


def write_model(model_type: str, overrides: str, tokenizer_name: str, folder: Path) -> dict[str, str]:
    """Save a model of a type's own size, or with overrides, with random weights, and its tokenizer.

    The weights are drawn on the GPU, if there is one, since a CPU takes a minute.
    """
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_name)
    config = make_config(ModelArguments(model_type=model_type, config_overrides=overrides), None, tokenizer)
    tokenizer.model_max_length = config.max_position_embeddings  # a given tokenizer may be another model's
    torch.manual_seed(SEED)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = AutoModelForMaskedLM.from_config(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {"model": str(folder)}


def operations(config: PreTrainedConfig, lengths: np.ndarray, longest: int) -> float:
    """The operations that one real token takes in training: 6 for each weight of the layers, 6 for each weight of the
    output embeddings at 15 % of the tokens, and 12 × hidden size for each token that it attends to, in each layer.

    A layer with a window attends to the tokens inside it.
    """
    lengths = np.minimum(lengths, longest)
    layers = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    window = getattr(config, "local_attention", longest)
    seen = [np.minimum(lengths, window if layer == "sliding_attention" else longest) for layer in layers]
    attended = float(np.mean([(lengths * each).sum() / lengths.sum() for each in seen]))
    with torch.device("meta"):
        model = AutoModelForMaskedLM.from_config(config)
    return flops_per_token(model, attended, RATE)
