"""The collator of the Python API: from the examples of any tokenized dataset to a masked batch."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import compress
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import BatchEncoding, PreTrainedTokenizerBase

from wordmask.config.masking_arguments import MaskingArguments, parse_strategy
from wordmask.config.rate_schedule import RateSchedule
from wordmask.data.collator import Masker, lay_out, round_up
from wordmask.data.findings import Findings
from wordmask.data.segmenter_advice import LANGUAGES, languages_without_words
from wordmask.data.tokenized_example import TokenizedExample, continues_by_offsets, continues_by_word_ids
from wordmask.masking import Mix, Strategy, hash64
from wordmask.tokenization.backend import check_is_tokenizer
from wordmask.tokenization.surfaces import Surfaces
from wordmask.tokenization.vocabulary import Vocabulary
from wordmask.tokenization.words import Characters
from wordmask.utils.arrays import starts_of
from wordmask.utils.errors import InputError, kind_of, naming_parameters
from wordmask.utils.processes import local_rank

logger = logging.getLogger(__name__)

FIRST_EXAMPLES = 32  # of a dataset, which show whether something says its words


class WholeWordMaskCollator(Masker):
    """Pad tokenized examples and mask whole words, in any loop: the `Trainer`, Accelerate, plain PyTorch.

        collator = wordmask.WholeWordMaskCollator(tokenizer, mlm_probability=0.15)
        Trainer(model=model, args=args, train_dataset=dataset, data_collator=collator).train()

    or `DataLoader(dataset, batch_size=8, shuffle=True, collate_fn=collator)`. With `[CLS]` 101, `[SEP]` 102,
    `[MASK]` 103 and the word `walking` of the tokens 7 ##8, a batch of one example can become:

        examples    [{"input_ids": [101, 7, 8, 9, 102]}]
        input_ids   [[101, 103, 103, 9, 102]]
        labels      [[-100, 7, 8, -100, -100]]

    **Examples** are dicts with `input_ids`: a list, an array or a tensor, with special tokens, of one text or a pair.
    The columns `attention_mask`, `token_type_ids` and `special_tokens_mask` are used if they are there. Existing
    padding is removed and made again. Other columns are ignored. Words come from the first of these that an example
    has:

    - `word_ids`: the number of each token's word, `None` or -1 for special tokens, as `BatchEncoding.word_ids` gives;
    - `offset_mapping` with `text` (and `text_pair`): words by the rule for text (docs/masking.md);
    - `input_ids` alone: we rebuild the text from the tokens (`##`, `Ġ`, `▁`, `@@`, `</w>`) and apply the same rule.
      The words are the same as from the text, except for what ids do not show: characters that the tokenizer changes
      (`…` to `...`), the text of an unknown token (which is a word of its own), the white space around a token that
      was added to the vocabulary (a byte-level tokenizer shows it; for others we assume it), and whether a text goes
      on at a special token (we take each for its end).

    `chinese_ref` adds to any of these. It lists the positions of tokens that continue the word of the token before
    them, as `make_references` gives them. Special tokens count, padding does not. Positions after the end of a
    truncated example are ignored. An example that is cut off at its beginning needs a reference of what is left.

    In a text with Japanese, Thai, Lao, Khmer, Burmese or Tibetan characters, `chinese_ref` says all words: the rule
    for text joins nothing there, but `word_ids` do. References of the classic script say nothing about these
    characters, so make them again for such texts.

    The plain `Trainer` removes the columns that the model does not take, so only `input_ids` arrive here. Give
    `TrainingArguments(remove_unused_columns=False)` to keep the others.

    **Masks** depend on the seed, the ids, the place in the batch, and one random number for each batch from torch's
    default generator. So they differ between epochs and workers, and `transformers.set_seed` before training repeats
    them. If examples also have the integers `example_id` and `epoch`, masks depend only on the seed and these two.
    Then order, batch size and number of workers change nothing, and a resume gives the same masks.

    Args:
        tokenizer: any tokenizer with a mask token, fast or not.
        mlm_probability: the share of tokens to mask; `"0.1..0.9"` draws a share between the two for each example. If
            an example has its own `mlm_probability`, that is used.
        strategy: what is masked as one unit: `whole_word`, `token`, `ngram` or `span`; of a mix such as
            `"whole_word:0.8,token:0.2"`, each example draws its own.
        seed: the seed of all masks.
        mask_replace_prob, random_replace_prob: the shares of chosen tokens that become the mask token and a random
            token. The rest does not change.
        pad_to_multiple_of: pad batches to a multiple of this many tokens.
        return_word_ids: also return `word_ids`, (batch, length): equal numbers for the tokens of one word, and -1 for
            special tokens and padding.

    Raises:
        InputError: (a `ValueError`) for a parameter or an example that cannot be used.
    """

    _is_first_batch = True  # whether the next batch is the first one, which may cause a warning

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        mlm_probability: float | str = 0.15,
        strategy: str = "whole_word",
        seed: int = 0,
        mask_replace_prob: float = 0.8,
        random_replace_prob: float = 0.1,
        pad_to_multiple_of: int | None = None,
        return_word_ids: bool = False,
    ):
        check_is_tokenizer(tokenizer)
        multiple = 1 if pad_to_multiple_of is None else pad_to_multiple_of
        for name, value in {"seed": seed, "pad_to_multiple_of": multiple}.items():
            if not isinstance(value, Integral):
                raise InputError(f"{name}: {value!r} is {kind_of(value)}; give a whole number")
        if multiple < 1:
            raise InputError(f"pad_to_multiple_of: {multiple} is not a positive number; give one")
        if not -(2**63) <= seed < 2**64:
            raise InputError(f"seed: {seed} does not fit into 64 bits; give a smaller one")
        shares = mask_replace_prob, random_replace_prob
        if not all(isinstance(share, Real) for share in shares):
            raise InputError(f"mask_replace_prob, random_replace_prob: {shares} are no numbers; give two from 0 to 1")
        with naming_parameters():
            MaskingArguments(mask_replace_prob=shares[0], random_replace_prob=shares[1])  # refuses what is no share
        vocabulary = Vocabulary.of(tokenizer, "tokenizer")
        super().__init__(vocabulary, parse_strategy(strategy, "strategy"), seed, *shares, multiple, return_word_ids)
        self.tokenizer, self.mlm_probability = tokenizer, mlm_probability
        _ = self.rates  # refuses what is no rate
        unknown = [] if tokenizer.unk_token_id is None else [tokenizer.unk_token_id]
        self.surfaces = Surfaces(tokenizer, np.array(unknown, np.int64))
        others = {getattr(tokenizer, f"{name}_token_id") for name in ("cls", "sep", "bos", "eos", "unk")}
        self.padding = None if tokenizer.pad_token_id in others else tokenizer.pad_token_id
        self.type_padding = getattr(tokenizer, "pad_token_type_id", 0)
        self.pads_left = tokenizer.padding_side == "left"

    @property
    def rates(self) -> RateSchedule:
        """The share of tokens to mask, for each example."""
        forms = "one, such as 0.15, or 0.1..0.9 (drawn for each example)"
        rates = RateSchedule.of(self.mlm_probability, self.seed, "mlm_probability", forms)
        if rates.needs_length:
            raise InputError(
                f"mlm_probability: {self.mlm_probability} is a schedule, and a collator does not know the length of "
                "the training; give one rate, or the schedule as the rates of an MlmTrainer"
            )
        return rates

    @property
    def strategy(self) -> Strategy | Mix:
        """What is masked as one unit. It may be set between batches, to a name or a mix, as `mlm_probability` may."""
        return self._strategy

    @strategy.setter
    def strategy(self, strategy: str | Strategy | Mix) -> None:
        self._strategy = strategy if isinstance(strategy, Strategy | Mix) else parse_strategy(strategy, "strategy")

    def for_evaluation(self, seed: int) -> WholeWordMaskCollator:
        """A copy with this seed that also returns `word_ids`."""
        other = copy.copy(self)
        other.seed, other.word_ids, other._is_first_batch = seed, True, False
        return other

    def __call__(
        self, examples: Iterable[Mapping[str, Any] | Sequence[int] | torch.Tensor], return_tensors: str = "pt"
    ) -> BatchEncoding:
        """Mask a batch.

        Args:
            examples: see the class.
            return_tensors: must be `pt`; other collators have the same parameter.

        Returns:
            A `BatchEncoding`: a mapping of names to tensors (batch, length) of int64, with `.to(device)`. It has
            `input_ids`, `attention_mask`, `labels` (-100 where nothing is predicted), `token_type_ids` if the examples
            have them, and `word_ids` if you asked for them.
        """
        if return_tensors != "pt":
            raise InputError(f"return_tensors: {return_tensors} is not possible; give pt, for tensors of PyTorch")
        columns = _as_columns(examples)
        tokenized, sizes = self._tokenized(columns)
        codes = np.concatenate([example.ids for example in tokenized]) << 1 | self._continues(tokenized, sizes)
        length, vocabulary = round_up(max(1, int(sizes.max())), self.pad_to_multiple_of), self.vocabulary
        padding = np.full((len(tokenized), length), vocabulary.pad_token_id, np.int64)
        no_affix = np.zeros(0, np.int64)
        input_ids, continues, maskable, sequence_ids = lay_out(
            codes, sizes, np.ones_like(sizes), no_affix, no_affix, vocabulary.maskable, padding
        )
        inside = sequence_ids > 0

        def column(name: str, default: int, fill: int = 0) -> NDArray[np.int64]:
            """(batch, length) A column of the examples; `default` for examples without it, `fill` for padding."""
            values = [example.columns.get(name, np.full_like(example.ids, default)) for example in tokenized]
            padded = np.full_like(padding, fill)
            padded[inside] = np.concatenate(values)
            return padded

        attention_mask = column("attention_mask", 1)
        maskable &= (attention_mask > 0) & (column("special_tokens_mask", 0) == 0)
        keys = self._keys(columns, input_ids, inside)
        own = self.rates.of_keys(keys, np.zeros(len(keys))).tolist()
        given = [example.get("mlm_probability") for example in columns]
        rates = [rate if one is None else one for one, rate in zip(given, own, strict=True)]
        batch = self._mask(input_ids, continues, maskable, _checked(rates), keys)
        batch["attention_mask"] = attention_mask
        if self.word_ids:
            batch["word_ids"][~maskable] = -1
        if any("token_type_ids" in example.columns for example in tokenized):
            batch["token_type_ids"] = column("token_type_ids", 0, self.type_padding)
        if self.pads_left:
            # A sequence of 3 tokens in 5 columns is read from the columns 3, 4, 0, 1, 2.
            places = (np.arange(length) + sizes[:, None]) % length
            batch = {name: np.take_along_axis(array, places, 1) for name, array in batch.items()}
        return BatchEncoding({name: torch.from_numpy(array) for name, array in batch.items()})

    def look_for_words(self, dataset: Any) -> None:
        """Warn if a dataset has Chinese or the like, and nothing says its words. Then no batch warns later.

        Args:
            dataset: with a length and an index; `None` without one.
        """
        if dataset is not None and len(dataset):
            examples = [dataset[number] for number in range(min(len(dataset), FIRST_EXAMPLES))]
            self._continues(*self._tokenized(_as_columns(examples)))

    def _tokenized(self, columns: Sequence[Mapping[str, Any]]) -> tuple[list[TokenizedExample], NDArray[np.int64]]:
        """The examples, and the number of tokens of each, (examples,)."""
        tokenized = [TokenizedExample.of(example, self.padding, self.vocabulary.maskable) for example in columns]
        return tokenized, np.array([len(example.ids) for example in tokenized])

    def _continues(self, examples: Sequence[TokenizedExample], sizes: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(tokens,) Whether each token continues the word of the token before it; sizes (examples,) count tokens."""
        continues, words_from = np.zeros(sizes.sum(), bool), np.array([example.words_from for example in examples])
        joined = np.zeros_like(continues)
        for start, example in zip(starts_of(sizes), examples, strict=True):
            if example.reference is not None:
                joined[start + example.reference] = True
        sources: list[tuple[str, Callable[[list[TokenizedExample], NDArray[np.bool_]], NDArray[np.bool_]]]] = [
            ("word_ids", continues_by_word_ids),
            ("offset_mapping", partial(continues_by_offsets, maskable=self.vocabulary.maskable)),
            ("input_ids", self._continues_by_ids),
        ]
        for column, find in sources:
            has_column = words_from == column
            if has_column.any():
                tokens = np.repeat(has_column, sizes)
                continues[tokens] = find([*compress(examples, has_column)], joined[tokens])
        return continues

    def _continues_by_ids(self, examples: Sequence[TokenizedExample], joined: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """(tokens,) The same for examples that have only ids; `joined` as in `continues_by_offsets`."""
        ids, sizes = np.concatenate([example.ids for example in examples]), [len(example.ids) for example in examples]
        inside, number = self.vocabulary.maskable[ids], np.repeat(np.arange(len(examples)), sizes)
        # Special tokens and the ends of examples stand around a text, so its tokens have as many of them before them:
        # `<s> a b </s> <s> c </s>` and `<s> d </s>` give the numbers 1 1 to a and b, 3 to c, and 6 to d.
        ends = np.cumsum(~inside) + number
        _, first, lengths = np.unique(ends[inside], return_index=True, return_counts=True)
        referenced = np.array([example.reference is not None for example in examples])[number[inside][first]]
        encodings = self.surfaces.encodings(ids[inside], lengths)
        if self._is_first_batch and not referenced.any():
            self._warn_of_characters(encodings.characters)
        self._is_first_batch = False
        continues = np.zeros(len(ids), bool)
        continues[inside] = encodings.with_words(joined[inside], encodings.characters.decided_on(referenced))
        return continues

    def _warn_of_characters(self, characters: Characters) -> None:
        """Warn if much of a text is in scripts that are written without spaces, and nothing says its words."""
        worker = torch.utils.data.get_worker_info()
        found = languages_without_words(Findings.of(characters))
        is_first = local_rank() == 0 and (worker is None or worker.id == 0)
        if found and is_first and self.strategy is not Strategy.TOKEN:
            masked = dict.fromkeys(LANGUAGES[name].masked for name in found)
            logger.warning(
                "much of the text is %s, and it has no column chinese_ref, so %s; make this column with "
                "wordmask.make_references",
                *(", ".join(found), ", and ".join(masked)),
            )

    def _keys(
        self, examples: Sequence[Mapping[str, Any]], input_ids: NDArray[np.int64], inside: NDArray[np.bool_]
    ) -> NDArray[np.uint64]:
        """(batch,) The keys that the masks of these examples depend on."""
        numbered = ["example_id" in example and "epoch" in example for example in examples]
        if any(numbered) != all(numbered):
            raise InputError(
                f"example_id, epoch: example {numbered.index(False)} of the batch lacks one of them, and others have "
                "both; give all examples both, or none"
            )
        if all(numbered):
            try:
                numbers = [[_whole(example[name]) for name in ("epoch", "example_id")] for example in examples]
            except (TypeError, ValueError):
                raise InputError(
                    f"example_id: {examples[0]['example_id']!r} of epoch {examples[0]['epoch']!r} is not a whole "
                    "number; give numbers, or rename one of the two columns"
                ) from None
            return hash64(self.seed, *np.array(numbers, np.uint64).T)
        random_number, places = int(torch.empty((), dtype=torch.int64).random_()), np.arange(len(examples))
        tokens = np.where(inside, hash64(input_ids, np.arange(input_ids.shape[1])), np.uint64(0))
        return hash64(self.seed, random_number, places, tokens.sum(1, dtype=np.uint64))


def _as_columns(examples: Any) -> list[Mapping[str, Any]]:
    """The examples of a batch as dicts of columns.

    Raises:
        InputError: if they are no examples.
    """
    if isinstance(examples, Mapping | str) or not isinstance(examples, Iterable):
        found = f"{kind_of(examples)} is no list of examples"
        raise InputError(f"examples: {found}; give a list with a dict for each, such as [dataset[0], dataset[1]]")
    columns = []
    for number, example in enumerate(examples):
        if isinstance(example, str) or not isinstance(example, Iterable):
            found = f"number {number} of the batch has the type {type(example).__name__}"
            raise InputError(f"examples: {found}; give a dict with input_ids for each example, or its ids")
        columns.append(example if isinstance(example, Mapping) else {"input_ids": example})
    if not columns:
        raise InputError("examples is empty; give at least one example")
    return columns


def _whole(number: Any) -> int:
    """A whole number of 64 bits; raise a `ValueError` or a `TypeError` for another one."""
    if int(number) != number:
        raise ValueError
    return int(number) % 2**64


def _checked(rates: Sequence[Any]) -> NDArray[np.float64]:
    """(batch,) Masking rates as numbers; raise an `InputError` for one that is no share."""
    shares = []
    for rate in rates:
        try:
            shares.append(float(rate))
        except (TypeError, ValueError):
            shares.append(np.nan)
        if not 0 <= shares[-1] <= 1:
            raise InputError(f"mlm_probability: {rate} of an example is not between 0 and 1; give a share")
    return np.array(shares)
