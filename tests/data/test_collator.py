"""From rows to a masked batch: exact tensors, and a loss for batches that have nothing to mask."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from transformers import AutoModelForMaskedLM, PreTrainedTokenizerFast

from conftest import character_tokenizer, save_model
from wordmask.config.arguments import RunArguments
from wordmask.data.collator import Example, MaskingCollator
from wordmask.masking import Strategy
from wordmask.tokenization.vocabulary import Vocabulary
from wordmask.training.trainer.mlm_trainer import MlmTrainer
from wordmask.utils.errors import InputError

PAD, CLS, SEP, MASK, ADDED = 0, 101, 102, 103, 104
LENGTH = 80  # tokens in the longest row that there can be
VOCABULARY = Vocabulary(
    pad_token_id=PAD,
    mask_token_id=MASK,
    maskable=~np.isin(np.arange(120), [PAD, CLS, SEP, MASK, ADDED]),
    random_ids=np.array([50, 51, 52]),
    prefix=[CLS],
    suffix=[SEP],
)
WORDS = [[7 * 2, 8 * 2 + 1, 9 * 2], [7 * 2], [7 * 2, 8 * 2 + 1, 8 * 2 + 1, 9 * 2, 10 * 2 + 1]]
EVERY = pytest.mark.parametrize("strategy", list(Strategy), ids=lambda strategy: strategy.value)


def example(tokens, identity: int = 0, epoch: int = 0, rate: float = 0.15, dtype=np.uint16) -> Example:
    return Example([np.array(tokens, dtype)], identity, epoch, rate, LENGTH)


def collator(strategy: Strategy = Strategy.WHOLE_WORD, seed: int = 1, **options) -> MaskingCollator:
    return MaskingCollator(VOCABULARY, strategy, seed, **options)


def lists(batch) -> dict[str, list]:
    assert all(tensor.dtype == torch.int64 for tensor in batch.values())
    return {name: tensor.tolist() for name, tensor in batch.items()}


def test_the_example_of_the_docstring_is_exact():
    """Two words, of which one is masked: 7 ##8 together, or 9."""
    pair = {
        "input_ids": [[101, 103, 103, 9, 102]],
        "attention_mask": [[1, 1, 1, 1, 1]],
        "labels": [[-100, 7, 8, -100, -100]],
    }
    single = {**pair, "input_ids": [[101, 7, 8, 103, 102]], "labels": [[-100, -100, -100, 9, -100]]}
    masks = collator(mask_replace_prob=1.0, random_replace_prob=0.0)
    found = [lists(masks([example([7 * 2, 8 * 2 + 1, 9 * 2], identity)])) for identity in range(30)]
    assert pair in found and single in found
    assert all(batch in (pair, single) for batch in found)


def test_everything_masked_is_exact_with_padding_and_attention():
    """A rate of 1 on rows of different lengths: labels are the text, special tokens and padding have none."""
    batch = collator(mask_replace_prob=1.0, random_replace_prob=0.0)([example(row, rate=1.0) for row in WORDS])
    assert lists(batch) == {
        "input_ids": [[101, *[103] * 3, 102, 0, 0], [101, 103, 102, 0, 0, 0, 0], [101, *[103] * 5, 102]],
        "attention_mask": [[1, 1, 1, 1, 1, 0, 0], [1, 1, 1, 0, 0, 0, 0], [1] * 7],
        "labels": [
            [-100, 7, 8, 9, -100, -100, -100],
            [-100, 7, -100, -100, -100, -100, -100],
            [-100, 7, 8, 8, 9, 10, -100],
        ],
    }


def test_words_tell_the_words_of_a_batch_apart_and_join_their_tokens():
    """Two tokens that may be masked have the same number exactly where they are one word."""
    batch = collator(word_ids=True)([example(row) for row in WORDS])
    words = batch["word_ids"]
    assert words[0, 1] == words[0, 2] and words[2, 1] == words[2, 2] == words[2, 3] and words[2, 4] == words[2, 5]
    firsts = [words[0, 1], words[0, 3], words[1, 1], words[2, 1], words[2, 4]]
    assert len({int(word) for word in firsts}) == 5
    assert "word_ids" not in collator()([example(WORDS[0])])


@pytest.mark.parametrize(
    "options, width",
    [({}, 7), ({"fixed": True}, LENGTH), ({"pad_to_multiple_of": 8}, 8), ({"pad_to_multiple_of": 7}, 7)],
    ids=str,
)
def test_batches_are_padded_to_a_length_or_to_a_multiple(options, width):
    batch = collator(**options)([example(row, rate=0.0) for row in WORDS])
    expected = torch.tensor([[101, 7, 8, 9, 102, 0, 0], [101, 7, 102, 0, 0, 0, 0], [101, 7, 8, 8, 9, 10, 102]])
    padding = (0, width - 7)
    assert torch.equal(batch["input_ids"], torch.nn.functional.pad(expected, padding))
    assert torch.equal(batch["attention_mask"], torch.nn.functional.pad((expected > 0).long(), padding))
    assert batch["labels"].shape == (3, width) and (batch["labels"] == -100).all()


def test_padding_is_the_tokenizers_own():
    """RoBERTa pads with 1: a 0 there would be `<s>`."""
    vocabulary = Vocabulary(ADDED, MASK, VOCABULARY.maskable, VOCABULARY.random_ids, prefix=[CLS], suffix=[SEP])
    batch = MaskingCollator(vocabulary, Strategy.TOKEN, 1, pad_to_multiple_of=5)([example([7 * 2], rate=0.0)])
    assert batch["input_ids"].tolist() == [[CLS, 7, SEP, ADDED, ADDED]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0, 0]]


def test_rows_take_the_special_tokens_of_their_tokenizer():
    """Several before, none behind; and a row that begins in the middle of a word."""
    vocabulary = Vocabulary(PAD, MASK, VOCABULARY.maskable, VOCABULARY.random_ids, prefix=[CLS, ADDED], suffix=[])
    batch = MaskingCollator(vocabulary, Strategy.WHOLE_WORD, 1, word_ids=True)([example([8 * 2 + 1, 9 * 2], rate=0.0)])
    assert batch["input_ids"].tolist() == [[CLS, ADDED, 8, 9]]
    words = batch["word_ids"][0].tolist()
    assert words[2] != words[3] and words[2] > words[1], "the row's first word is told from the special tokens"
    bare = Vocabulary(PAD, MASK, VOCABULARY.maskable, VOCABULARY.random_ids)
    batch = MaskingCollator(bare, Strategy.TOKEN, 1)([example([7 * 2], rate=1.0), example([8 * 2, 9 * 2], rate=0.0)])
    assert batch["attention_mask"].tolist() == [[1, 0], [1, 1]] and batch["labels"].tolist() == [[7, -100], [-100] * 2]
    pair = example([7 * 2], rate=0.0)._replace(documents=[np.array([7 * 2]), np.array([8 * 2 + 1, 9 * 2 + 1])])
    batch = MaskingCollator(bare, Strategy.WHOLE_WORD, 1, packed=True, word_ids=True)([pair])
    assert batch["sequence_ids"].tolist() == [[1, 2, 2]] and batch["word_ids"].tolist() == [[1, 2, 2]]


@EVERY
def test_special_tokens_and_padding_are_neither_masked_nor_drawn(strategy):
    """A token that was added as special, in the middle of a word; a text token that has the padding's id."""
    tokens = [7 * 2, 8 * 2 + 1, ADDED * 2, 9 * 2 + 1, PAD * 2, SEP * 2, 10 * 2]
    masks = collator(strategy, mask_replace_prob=0.0, random_replace_prob=1.0)
    batch = masks([example(tokens, identity, rate=1.0) for identity in range(100)] + [example(tokens * 2, rate=1.0)])
    labels, inputs = batch["labels"][:-1], batch["input_ids"][:-1, :9]
    assert labels[:, :9].tolist() == [[-100, 7, 8, -100, 9, -100, -100, 10, -100]] * 100
    assert (labels[:, 9:] == -100).all()
    assert set(inputs[labels[:, :9] != -100].tolist()) == {50, 51, 52}


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=8),
    padding=st.sampled_from([{}, {"fixed": True}, {"pad_to_multiple_of": 8}]),
    seed=st.integers(0, 2**32 - 1),
    strategy=st.sampled_from(list(Strategy)),
)
def test_a_row_has_the_same_mask_in_every_batch(lengths, padding, seed, strategy):
    """Whatever stands beside it, however wide the batch; and rows are not changed by being masked."""
    rows = [
        example((np.arange(length) % 40 + 5) * 2 + (np.arange(length) % 3 > 0), identity, 3, 0.3)
        for identity, length in enumerate(lengths)
    ]
    before = [row.documents[0].copy() for row in rows]
    together = collator(strategy, seed, **padding)(rows[::-1])
    for row, unchanged, *arrays in zip(rows, before, *(together[name].flip(0) for name in together), strict=True):
        alone = collator(strategy, seed)([row])
        for name, array in zip(together, arrays, strict=True):
            assert torch.equal(array[: len(row.documents[0]) + 2], alone[name][0]), name
        np.testing.assert_array_equal(row.documents[0], unchanged)


def test_masks_change_with_seed_epoch_and_identity_and_with_nothing_else():
    tokens = np.full(64, 7 * 2)

    def labels(seed=1, identity=5, epoch=2, dtype=np.uint16):
        return tuple(collator(seed=seed)([example(tokens, identity, epoch, dtype=dtype)])["labels"][0].tolist())

    assert labels() == labels() == labels(dtype=np.uint32)
    # Seed 1 of epoch 2 must not be seed 2 of epoch 1 either.
    assert len({labels(), labels(seed=2), labels(identity=6), labels(epoch=3), labels(2, 5, 1), labels(5, 1, 2)}) == 6


@pytest.mark.parametrize("identity", [0, 2**32, 2**63, 2**64 - 1])
def test_any_digest_of_64_bits_is_an_identity(identity):
    """Streamed rows have digests for identities, and half of these do not fit a signed number."""
    batch = collator()([example(WORDS[0], identity), example(WORDS[0], 3)])
    assert (batch["labels"] != -100).any(1).all()


@EVERY
@pytest.mark.parametrize(
    "rows",
    [
        [example([ADDED * 2, ADDED * 2]), example([ADDED * 2])],
        [example([7 * 2, 8 * 2 + 1], rate=0.0)],
        [example([])],
        [example([]), example([7 * 2], rate=0.0)],
    ],
    ids=["special tokens", "rate 0", "no tokens", "a row without tokens"],
)
def test_a_batch_without_anything_to_mask_has_a_finite_loss(trainer, strategy, rows):
    """A mean over no label is NaN, which would spoil the weights: the loss is 0 and so are its gradients."""
    batch = collator(strategy)(rows)
    assert (batch["labels"] == -100).all()
    model = trainer.model
    for items in (None, torch.tensor(0), torch.tensor(5)):
        model.zero_grad()
        loss = trainer.compute_loss(model, dict(batch), num_items_in_batch=items)
        loss.backward()
        assert loss.item() == 0.0
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        assert gradients and not any(gradient.any() for gradient in gradients)


def test_a_row_without_anything_to_mask_does_not_change_the_loss_of_others(trainer):
    """Guards the test above: a loss that is always 0 would pass it."""
    masks, row = collator(pad_to_multiple_of=8), example(WORDS[2], rate=1.0)
    with torch.no_grad():
        alone = trainer.compute_loss(trainer.model, masks([row]))
        beside = trainer.compute_loss(trainer.model, masks([row, example([ADDED * 2])]))
    assert alone > 1 and beside.item() == pytest.approx(alone.item(), rel=1e-5)


@pytest.fixture(scope="module")
def trainer(tmp_path_factory) -> MlmTrainer:
    """A trainer of a tiny BERT without dropout, with ids up to 119."""
    directory = tmp_path_factory.mktemp("model")
    tokenizer = character_tokenizer([chr(ord("一") + number) for number in range(60)])
    assert len(tokenizer) > 119
    save_model(directory, tokenizer, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    arguments = RunArguments(output_dir=str(directory / "run"), use_cpu=True, report_to="none")
    model = AutoModelForMaskedLM.from_pretrained(directory)
    return MlmTrainer(model, arguments, None, None, tokenizer, collator(), collator(word_ids=True), 0.15)


# Vocabularies


def test_a_vocabulary_tells_special_tokens_from_text():
    tokenizer = character_tokenizer(["研究"])
    tokenizer.add_tokens(["<special>"], special_tokens=True)
    tokenizer.add_tokens(["text"])
    vocabulary = Vocabulary.of(tokenizer)
    names = {index: token for token, index in tokenizer.get_vocab().items()}
    special = {"[PAD]", "[CLS]", "[SEP]", "[MASK]", "<special>"}
    assert {names[index] for index in np.flatnonzero(~vocabulary.maskable)} == special
    assert {names[index] for index in vocabulary.random_ids} == set(names.values()) - special - {"[UNK]"}
    assert (vocabulary.pad_token_id, vocabulary.mask_token_id) == (tokenizer.pad_token_id, tokenizer.mask_token_id)
    assert (vocabulary.prefix, vocabulary.suffix) == ([tokenizer.cls_token_id], [tokenizer.sep_token_id])


def word_level(**special) -> PreTrainedTokenizerFast:
    names = ["<e>", "a", "b", "<m>", "<u>"]
    backend = Tokenizer(models.WordLevel({name: index for index, name in enumerate(names)}, unk_token="<u>"))
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special)


def test_gaps_in_the_ids_are_never_drawn():
    """Ids that no token has, such as those of a vocabulary padded to a multiple of 64."""
    backend = Tokenizer(models.WordLevel({"<m>": 0, "a": 7, "b": 30}, unk_token="a"))
    vocabulary = Vocabulary.of(PreTrainedTokenizerFast(tokenizer_object=backend, mask_token="<m>"))
    assert vocabulary.random_ids.tolist() == [7, 30]


def test_a_tokenizer_without_padding_or_unknown_token_has_a_vocabulary():
    vocabulary = Vocabulary.of(word_level(mask_token="<m>"))
    assert vocabulary.maskable.tolist() == [True, True, True, False, True]
    batch = MaskingCollator(vocabulary, Strategy.TOKEN, 1)([example([1 * 2], rate=1.0), example([1 * 2, 2 * 2])])
    assert batch["labels"][0].tolist() == [1, -100] and batch["attention_mask"][0].tolist() == [1, 0]


def test_an_unknown_token_that_is_also_another_special_one_stays_unmasked():
    """As in GPT-2's kind of tokenizer, where one token ends a text, pads and stands for the unknown."""
    vocabulary = Vocabulary.of(word_level(mask_token="<m>", eos_token="<e>", sep_token="<e>", unk_token="<e>"))
    assert not vocabulary.maskable[0], "the end of every text would be masked"
    assert 0 not in vocabulary.random_ids


def test_a_tokenizer_without_a_mask_token_is_refused():
    with pytest.raises(InputError, match="--tokenizer_name.*no mask token"):
        Vocabulary.of(word_level(unk_token="<u>"))


def test_the_positions_of_labels_are_as_many_whatever_is_masked():
    """Two rows of 20 tokens at most, at a rate of at most 0.15: 2 × (3 + 9)."""
    masks = collator(fixed=True, highest_rate=0.15)
    for rate in (0.15, 0.05, 0.0):
        batch = masks([example([7 * 2] * 9, rate=rate)._replace(length=20), example([7 * 2], 1)._replace(length=20)])
        positions = batch["positions"].tolist()
        assert len(positions) == len({*positions}) == 24
        assert {*batch["labels"].view(-1).ne(-100).nonzero()[:, 0].tolist()} <= {*positions}


def test_a_flat_batch_is_exact():
    """Two sequences, one of documents of 3 and 5 tokens, one of a document of 3; at fixed length, with padding."""
    pair = example(WORDS[1])._replace(documents=[np.array(row) for row in (WORDS[1], WORDS[0])], rate=0.0, length=9)
    single = example(WORDS[1], 1, rate=0.0)._replace(length=9)
    expected = {
        "input_ids": [[101, 7, 102, 101, 7, 8, 9, 102, 101, 7, 102]],
        "attention_mask": [[1] * 11],
        "labels": [[-100] * 11],
        "position_ids": [[0, 1, 2, 0, 1, 2, 3, 4, 0, 1, 2]],
        "cu_seq_lens_q": [0, 3, 8, 11],
        "cu_seq_lens_k": [0, 3, 8, 11],
        "positions": [0],
    }
    batch = collator(flat=True, positions=True)([pair, single])
    assert batch.pop("max_length_q") == batch.pop("max_length_k") == 5
    assert {name: tensor.tolist() for name, tensor in batch.items()} == expected
    assert batch["cu_seq_lens_q"].dtype == batch["cu_seq_lens_k"].dtype == torch.int32
    batch = collator(flat=True, fixed=True)([single, single, pair])
    assert batch["max_length_q"] == 9, "a number that differed between batches would compile again"
    assert batch["cu_seq_lens_q"].tolist() == [0, 3, 6, 9, 14, 23, *[27] * 58], "so that it has one shape, too"
    assert batch["input_ids"].shape == (1, 27) and batch["attention_mask"].tolist() == [[1] * 14 + [0] * 13]
    assert batch["position_ids"][0, 14:].tolist() == [*range(9), *range(4)]


def test_flat_batches_of_many_documents_have_few_numbers_of_bounds():
    for documents, bounds in ((62, 64), (63, 128), (510, 512), (599, 640), (1399, 1536)):  # padding makes one more
        numbers = example(WORDS[1])._replace(documents=[np.array(WORDS[1])] * documents, length=3 * documents + 1)
        batch = collator(flat=True, fixed=True)([numbers])
        assert len(batch["cu_seq_lens_q"]) == len(batch["cu_seq_lens_k"]) == bounds


@settings(max_examples=50, deadline=None)
@given(
    counts=st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=3), min_size=1, max_size=4),
    fixed=st.booleans(),
    pad_to_multiple_of=st.sampled_from([1, 8]),
)
def test_flat_batches_hold_the_tokens_and_masks_of_padded_ones(counts, fixed, pad_to_multiple_of):
    length = max(sum(size + 2 for size in sequence) for sequence in counts)
    examples = [
        Example([np.arange(size) * 2 + 6 for size in sequence], number, 0, 0.3, length)
        for number, sequence in enumerate(counts)
    ]
    options = {"fixed": fixed, "pad_to_multiple_of": pad_to_multiple_of, "positions": True}
    padded, flat = (collator(flat=is_flat, **options)(examples) for is_flat in (False, True))
    attended = padded["attention_mask"] > 0
    real = int(attended.sum())
    for name in ("input_ids", "labels"):
        assert torch.equal(flat[name][0, :real], padded[name][attended])
    assert (flat["labels"][0, real:] == -100).all()
    positions = flat["labels"][0].ne(-100).nonzero()[:, 0].tolist() or [0]
    assert flat["positions"].tolist() == positions
    tokens, sizes = flat["input_ids"].shape[1], flat["cu_seq_lens_q"].diff()
    most = padded["input_ids"].numel()
    assert tokens == (most if fixed else min(most, -(-real // pad_to_multiple_of) * pad_to_multiple_of))
    assert flat["cu_seq_lens_q"][0] == 0 and flat["cu_seq_lens_q"][-1] == tokens
    documents = int((sizes > 0).sum())
    assert (sizes[documents:] == 0).all() and sizes.max() <= flat["max_length_q"]
    assert len(sizes) + 1 == (64 if fixed else documents + 1)
    starts = flat["cu_seq_lens_q"][:-1].repeat_interleave(sizes)
    assert torch.equal(flat["position_ids"][0], torch.arange(tokens) - starts)
