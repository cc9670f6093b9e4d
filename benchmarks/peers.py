"""What wordmask is measured against where transformers no longer has it: the classic algorithms, re-created.

Their behaviour is kept, their cost included; the code is ours.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from itertools import chain
from typing import Any

import datasets
import torch

from wordmask.tokenization.words import is_chinese

IGNORED = -100


class ClassicWholeWordCollator:
    """Whole word masking as transformers had it up to 4.x: words by `##`, BERT's budget, 80 / 10 / 10 %.

    A word is taken unless it would overshoot the budget; each row is worked on as a list of strings.
    """

    def __init__(self, tokenizer, mlm_probability: float = 0.15, longest: int = 512):
        self.tokenizer, self.mlm_probability, self.longest = tokenizer, mlm_probability, longest

    def __call__(self, examples: Sequence[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        pieces = [self._pieces(example) for example in examples]
        padded = self.tokenizer.pad([{"input_ids": example["input_ids"]} for example in examples], return_tensors="pt")
        marks = torch.zeros_like(padded["input_ids"])
        for row, strings in enumerate(pieces):
            marks[row, : len(strings)] = torch.tensor(self._marks(strings))
        return self._replace(padded["input_ids"], marks)

    def _pieces(self, example: dict[str, list[int]]) -> list[str]:
        """The row's tokens, those that a reference lists turned into continuations."""
        strings = [self.tokenizer.convert_ids_to_tokens(index) for index in example["input_ids"]]
        references = example.get("chinese_ref", ())
        return [f"##{text}" if place in references else text for place, text in enumerate(strings)]

    def _marks(self, strings: list[str]) -> list[int]:
        """1 where a token is chosen: words in random order, skipped where they would pass the budget."""
        words: list[list[int]] = []
        for place, text in enumerate(strings):
            if text in ("[CLS]", "[SEP]"):
                continue
            if words and text.startswith("##"):
                words[-1].append(place)
            else:
                words.append([place])
        random.shuffle(words)
        budget = min(self.longest, max(1, round(len(strings) * self.mlm_probability)))
        chosen: set[int] = set()
        for word in words:
            if len(chosen) >= budget:
                break
            if len(chosen) + len(word) <= budget:
                chosen.update(word)
        return [int(place in chosen) for place in range(len(strings))]

    def _replace(self, inputs: torch.Tensor, marks: torch.Tensor) -> dict[str, torch.Tensor]:
        labels = inputs.clone()
        special = [
            self.tokenizer.get_special_tokens_mask(row, already_has_special_tokens=True) for row in labels.tolist()
        ]
        chosen = marks.bool() & ~torch.tensor(special, dtype=torch.bool) & labels.ne(self.tokenizer.pad_token_id)
        labels[~chosen] = IGNORED
        masked = torch.bernoulli(torch.full(labels.shape, 0.8)).bool() & chosen
        inputs[masked] = self.tokenizer.mask_token_id
        at_random = torch.bernoulli(torch.full(labels.shape, 0.5)).bool() & chosen & ~masked
        inputs[at_random] = torch.randint(len(self.tokenizer), labels.shape, dtype=torch.long)[at_random]
        return {"input_ids": inputs, "labels": labels}


def classic_references(lines: Sequence[str], tokenizer, words: Sequence[Sequence[str]]) -> list[list[int]]:
    """The classic run_chinese_ref.py after segmentation: a line's words as a set, matched greedily against its tokens.

    It cuts at 512 tokens and looks each id up by itself, a hundred lines at a time.
    """
    references = []
    for start in range(0, len(lines), 100):
        batch = list(lines[start : start + 100])
        ids = tokenizer(batch, add_special_tokens=True, truncation=True, max_length=512)["input_ids"]
        for row, line_words in zip(ids, words[start : start + 100], strict=True):
            strings = [tokenizer.convert_ids_to_tokens(index) for index in row]
            references.append(_greedy(strings, {word for word in line_words if _all_chinese(word)}))
    return references


def _all_chinese(text: str) -> bool:
    return len(text) > 1 and all(is_chinese(character) for character in text)


def _greedy(strings: list[str], words: set[str]) -> list[int]:
    """The places of Chinese characters that continue the longest word of the set found from the left."""
    longest = max(map(len, words), default=0)
    continued: list[int] = []
    place = 0
    while place < len(strings):
        length = 1
        if longest and is_chinese(strings[place][0]) and len(strings[place]) == 1:
            for candidate in range(min(longest, len(strings) - place), 1, -1):
                if "".join(strings[place : place + candidate]) in words:
                    length = candidate
                    continued += range(place + 1, place + candidate)
                    break
        place += length
    return continued


def classic_reading(path: str, dataset: datasets.Dataset) -> datasets.Dataset:
    """The classic run_mlm_wwm.py's way to references: each line by itself, then the dataset made anew from columns."""
    with open(path, encoding="utf-8") as file:
        references = [json.loads(line) for line in file.read().splitlines() if len(line) > 0 and not line.isspace()]
    columns = {name: dataset[name] for name in dataset.column_names}
    return datasets.Dataset.from_dict(columns | {"chinese_ref": references})


def classic_preparation(
    path: str, tokenizer, length: int, cache_dir: str, processes: int | None
) -> tuple[datasets.Dataset, datasets.Dataset]:
    """The classic run_mlm.py's way to blocks: the lines with their special tokens, and the blocks made of them.

    Each thousand lines are joined by themselves and cut; what does not fill a block is dropped.
    """

    def encode(batch: dict[str, list[str]]) -> Any:
        return tokenizer(batch["text"], return_special_tokens_mask=True)

    def cut(batch: dict[str, list[list[int]]]) -> dict[str, list[list[int]]]:
        joined = {name: [*chain.from_iterable(lines)] for name, lines in batch.items()}
        full = len(joined["input_ids"]) // length * length
        return {
            name: [values[start : start + length] for start in range(0, full, length)]
            for name, values in joined.items()
        }

    text = datasets.load_dataset("text", data_files={"train": path}, cache_dir=cache_dir, split="train")
    encoded = text.map(encode, batched=True, num_proc=processes, remove_columns=["text"], desc="Tokenizing")
    return encoded, encoded.map(cut, batched=True, num_proc=processes, desc="Grouping")
