"""The collator of the Python API: from examples that any dataset holds to a masked batch."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from wordmask.config.masking_arguments import MaskingArguments
from wordmask.data.collator import lay_out, round_up
from wordmask.data.tokenized_example import TokenizedExample, by_offsets, by_word_ids
from wordmask.masking import Replacement, Strategy, choose, hash64, replace, word_starts
from wordmask.tokenization.surfaces import Surfaces
from wordmask.tokenization.vocabulary import Vocabulary
from wordmask.utils.arrays import starts_of
from wordmask.utils.errors import InputError, naming_parameters


class WholeWordMaskCollator:
    """Pad tokenized examples and mask whole words, in any loop: the `Trainer`, Accelerate, plain PyTorch.

        collator = wordmask.WholeWordMaskCollator(tokenizer, mlm_probability=0.15)
        Trainer(model=model, args=args, train_dataset=dataset, data_collator=collator).train()

    or `DataLoader(dataset, batch_size=8, shuffle=True, collate_fn=collator)`. With `[CLS]` 101, `[SEP]` 102,
    `[MASK]` 103 and the word `walking` of the tokens 7 ##8, a batch of one example can become:

        examples    [{"input_ids": [101, 7, 8, 9, 102]}]
        input_ids   [[101, 103, 103, 9, 102]]
        labels      [[-100, 7, 8, -100, -100]]

    **Examples** are dicts with `input_ids`: lists, arrays or tensors, special tokens included, one text or a pair.
    `attention_mask`, `token_type_ids` and `special_tokens_mask` are used where they are given, padding that is there
    already is made anew, and other columns are left aside. The words of an example come from the first of these that
    it has:

    - `word_ids`: the number of each token's word, `None` or -1 for special tokens, as `BatchEncoding.word_ids` gives;
    - `offset_mapping` with `text` (and `text_pair`): words by the rule for text (docs/masking.md);
    - `input_ids` alone: the text is put together from the tokens (`##`, `Ġ`, `▁`, `@@`, `</w>`) and read by the same
      rule, with the same words as from the text but for what ids do not show: characters that the tokenizer changes
      (`…` to `...`), what an unknown token stands for (it is a word by itself), and, unless the tokenizer is
      byte-level, whether white space stood around a token that was added to the vocabulary (taken for granted).

    `chinese_ref` comes on top of any of these: a list of the positions, special tokens counted and padding not, of
    tokens that continue the word of the token before them, as `make_references` gives. Positions behind the end of an
    example that was cut are passed over.

    The plain `Trainer` drops all columns but those that the model takes, so that `input_ids` alone arrive here. Give
    `TrainingArguments(remove_unused_columns=False)` to keep the others.

    **Masks** depend on the seed, the ids, the place in the batch and one number for each batch from torch's default
    generator. So they differ from epoch to epoch and from worker to worker, and `transformers.set_seed` before
    training repeats them. Where examples also have the integers `example_id` and `epoch`, they depend on the seed and
    these two alone: on no order, batch size or number of workers, and are the same after a resume.

    Args:
        tokenizer: any tokenizer with a mask token, fast or not.
        mlm_probability: the share of tokens to mask; an example's own `mlm_probability`, if it has one, goes before.
        strategy: what is masked as one: `whole_word`, `token`, `ngram` or `span`.
        seed: the seed of all masks.
        mask_replace_prob, random_replace_prob: the shares of chosen tokens that become the mask token and a random
            one; the rest stays as it is.
        pad_to_multiple_of: pad batches to a multiple of this many tokens.
        return_word_ids: also return `word_ids`, (batch, length): equal numbers for the tokens of one word.

    Raises:
        InputError: (a `ValueError`) for a parameter or an example that cannot be used.
    """

    def __init__(
        self,
        tokenizer: Any,
        mlm_probability: float = 0.15,
        strategy: str = "whole_word",
        seed: int = 0,
        mask_replace_prob: float = 0.8,
        random_replace_prob: float = 0.1,
        pad_to_multiple_of: int | None = None,
        return_word_ids: bool = False,
    ):
        if strategy not in [*Strategy]:
            raise InputError(f"strategy: {strategy} is not known; choose from {', '.join(Strategy)}")
        if pad_to_multiple_of is not None and pad_to_multiple_of < 1:
            raise InputError(f"pad_to_multiple_of: {pad_to_multiple_of} is not a positive number")
        with naming_parameters():
            MaskingArguments(Strategy(strategy), str(mlm_probability), mask_replace_prob, random_replace_prob)
            self.vocabulary = vocabulary = Vocabulary.of(tokenizer)
        self.tokenizer, self.mlm_probability, self.strategy = tokenizer, float(mlm_probability), Strategy(strategy)
        self.multiple_of, self.return_word_ids = pad_to_multiple_of or 1, return_word_ids
        self.seeded = hash64(seed)
        self.replacement = Replacement(
            vocabulary.mask_token_id, vocabulary.random_ids, mask_replace_prob, random_replace_prob
        )
        unknown = [] if tokenizer.unk_token_id is None else [tokenizer.unk_token_id]
        self.surfaces = Surfaces(tokenizer, np.append(np.flatnonzero(~vocabulary.maskable), unknown).astype(np.int64))
        others = {getattr(tokenizer, f"{name}_token_id") for name in ("cls", "sep", "bos", "eos", "unk")}
        self.padding = None if tokenizer.pad_token_id in others else tokenizer.pad_token_id
        self.type_padding = getattr(tokenizer, "pad_token_type_id", 0)
        self.pads_left = tokenizer.padding_side == "left"

    def with_word_ids(self) -> WholeWordMaskCollator:
        """The same collator, which also returns `word_ids`."""
        other = copy.copy(self)
        other.return_word_ids = True
        return other

    def __call__(
        self, examples: Sequence[Mapping[str, Any] | Sequence[int]], return_tensors: str = "pt"
    ) -> dict[str, torch.Tensor]:
        """Mask a batch.

        Args:
            examples: see the class.
            return_tensors: `pt`, which is all that there is; other collators take the same parameter.

        Returns:
            Tensors (batch, length) of int64: `input_ids`, `attention_mask`, `labels` (-100 where nothing is
            predicted), `token_type_ids` if they are given, and `word_ids` if asked for.
        """
        if return_tensors != "pt":
            raise InputError(f"return_tensors: {return_tensors} is not offered; the tensors are of PyTorch, pt")
        columns = [example if isinstance(example, Mapping) else {"input_ids": example} for example in examples]
        sequences = [TokenizedExample.of(example, self.padding, len(self.vocabulary.maskable)) for example in columns]
        ids, sizes = (
            np.concatenate([sequence.ids for sequence in sequences]),
            np.array([len(sequence.ids) for sequence in sequences]),
        )
        codes = ids << 1 | self._continues(sequences, ids, sizes)
        width = round_up(max(1, int(sizes.max())), self.multiple_of)
        padded = np.full((len(sequences), width), self.vocabulary.pad_token_id)
        none, counts = np.zeros(0, np.int64), np.ones(len(sequences), np.int64)
        input_ids, continues, maskable, numbers = lay_out(
            codes, sizes, counts, none, none, self.vocabulary.maskable, padded
        )
        inside = numbers > 0
        attention_mask = inside.astype(np.int64)
        attention_mask[inside] = np.concatenate([sequence.attended for sequence in sequences])
        maskable[inside] &= np.concatenate([sequence.maskable for sequence in sequences])
        maskable &= attention_mask > 0

        rates = np.array([example.get("mlm_probability", self.mlm_probability) for example in columns], float)
        keys = self._keys(columns, input_ids, inside)
        chosen = choose(maskable, continues, rates, keys, self.strategy)
        masked, labels = replace(input_ids, chosen, keys, self.replacement)
        batch: dict[str, NDArray[Any]] = {"input_ids": masked, "attention_mask": attention_mask, "labels": labels}
        if all(sequence.type_ids is not None for sequence in sequences):
            batch["token_type_ids"] = np.full_like(padded, self.type_padding)
            batch["token_type_ids"][inside] = np.concatenate([sequence.type_ids for sequence in sequences])
        if self.return_word_ids:
            batch["word_ids"] = np.cumsum(word_starts(maskable, continues)).reshape(masked.shape)
        if self.pads_left:
            # A sequence of 3 tokens in 5 columns is read from the columns 3, 4, 0, 1, 2.
            places = (np.arange(width) + sizes[:, None]) % width
            batch = {name: np.take_along_axis(array, places, 1) for name, array in batch.items()}
        return {name: torch.from_numpy(array) for name, array in batch.items()}

    def _continues(
        self, sequences: Sequence[TokenizedExample], ids: NDArray[np.int64], sizes: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """(tokens,) Whether each token continues the word of the token before it."""
        continues, starts = np.zeros(len(ids), bool), starts_of(sizes)
        has_words = np.array([sequence.words is not None for sequence in sequences])
        has_offsets = np.array([sequence.offsets is not None for sequence in sequences]) & ~has_words
        for chosen, source in ((has_words, by_word_ids), (has_offsets, by_offsets)):
            if chosen.any():
                continues[np.repeat(chosen, sizes)] = source(
                    [sequence for sequence, own in zip(sequences, chosen, strict=True) if own]
                )
        alone = ~(has_words | has_offsets)
        if alone.any():
            of_ids = np.repeat(alone, sizes)
            continues[of_ids] = self.surfaces.continues(ids[of_ids], sizes[alone])
        for sequence, start in zip(sequences, starts, strict=True):
            if sequence.reference is not None:
                continues[start + sequence.reference] = True
        return continues

    def _keys(
        self, examples: Sequence[Mapping[str, Any]], input_ids: NDArray[np.int64], inside: NDArray[np.bool_]
    ) -> NDArray[np.uint64]:
        """(batch,) The keys that the masks of these examples depend on."""
        if all("example_id" in example and "epoch" in example for example in examples):
            try:
                numbers = [[int(example["epoch"]), int(example["example_id"]) % 2**64] for example in examples]
            except (TypeError, ValueError):
                raise InputError(
                    f"example_id: {examples[0]['example_id']!r} of epoch {examples[0]['epoch']!r} is not a whole "
                    "number; give numbers, or rename one of the two columns"
                ) from None
            return hash64(*np.array(numbers, np.uint64).T, state=self.seeded)
        draw, places = int(torch.empty((), dtype=torch.int64).random_()), np.arange(len(examples))
        tokens = np.where(inside, hash64(input_ids, np.arange(input_ids.shape[1])), np.uint64(0))
        return hash64(draw, places, tokens.sum(1, dtype=np.uint64), state=self.seeded)
