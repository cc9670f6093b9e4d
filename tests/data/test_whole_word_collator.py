"""The collator of the Python API: the words of every kind of example, padding, and masks that can be repeated."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForMaskedLM,
    BatchEncoding,
    BertTokenizer,
    RobertaTokenizer,
    Trainer,
    TrainingArguments,
    set_seed,
)

import wordmask
from conftest import character_tokenizer, sample_lines, sample_tokenizer
from wordmask.data.collator import Example, MaskingCollator
from wordmask.masking import Strategy
from wordmask.tokenization.backend import has_own_code, is_backend_alone
from wordmask.tokenization.tokenize import tokenize
from wordmask.tokenization.vocabulary import Vocabulary

CHINESE = ["我喜欢研究生命的起源。", "面团需要足够的时间慢慢发酵。", "T恤好。"]
SEGMENTED = ["我 喜欢 研究 生命 的 起源 。", "面团 需要 足够 的 时间 慢慢 发酵 。", "T恤 好 。"]


@pytest.fixture(scope="module")
def bert():
    return sample_tokenizer("bert")


@pytest.fixture(scope="module")
def chinese():
    return character_tokenizer(CHINESE)


class Shorter(BertTokenizer):
    """Leaves a character out in Python, before its backend sees the text."""

    def _encode_plus(self, text, *args, **options):
        shorter = text.replace("的", "") if isinstance(text, str) else [one.replace("的", "") for one in text]
        return super()._encode_plus(shorter, *args, **options)


class Same(BertTokenizer):
    """Has code of its own that changes nothing."""

    def _encode_plus(self, *args, **options):
        return super()._encode_plus(*args, **options)


def test_python_code_that_makes_other_tokens_than_the_backend_is_refused(chinese):
    """Its words were those of other characters, without a word."""
    vocab = chinese.get_vocab()
    with pytest.raises(wordmask.InputError, match="the Python code of Shorter gives other tokens than its backend"):
        wordmask.make_references(CHINESE, Shorter(vocab=vocab), "jieba")
    same = Same(vocab=vocab)
    assert has_own_code(same) and not has_own_code(chinese)
    assert not is_backend_alone(same) and is_backend_alone(chinese)
    assert wordmask.make_references(CHINESE, same, "jieba") == wordmask.make_references(CHINESE, chinese, "jieba")


def continues(collator, examples) -> list[list[bool]]:
    """For each example which tokens continue a word."""
    batch = collator.for_evaluation(0)([{**example, "mlm_probability": 0.0} for example in examples])
    numbers, attended = batch["word_ids"], batch["attention_mask"].bool()
    special = ~torch.from_numpy(collator.vocabulary.maskable)[batch["input_ids"]]
    joined = torch.zeros_like(attended)
    joined[:, 1:] = (numbers[:, 1:] == numbers[:, :-1]) & ~special[:, 1:] & ~special[:, :-1]
    return [row[inside].tolist() for row, inside in zip(joined, attended, strict=True)]


def on_the_command_line(tokenizer, lines) -> list[list[bool]]:
    """What the scripts find for lines, with the special tokens around them."""
    tokens, vocabulary = tokenize(tokenizer, lines), Vocabulary.of(tokenizer)
    found = np.split(tokens.continues, np.cumsum(tokens.lengths)[:-1])
    return [[*[False] * len(vocabulary.prefix), *line.tolist(), *[False] * len(vocabulary.suffix)] for line in found]


def encode(tokenizer, lines, *names: str) -> list[dict]:
    """Examples with the columns of these names."""
    encoding = tokenizer(lines, return_offsets_mapping=True)
    columns = {
        "input_ids": encoding["input_ids"],
        "word_ids": [encoding.word_ids(index) for index in range(len(lines))],
        "offset_mapping": encoding["offset_mapping"],
        "text": lines,
    }
    return [{name: columns[name][index] for name in ("input_ids", *names)} for index in range(len(lines))]


def test_the_example_of_the_docstring_is_exact():
    """[CLS] un ##seen fog [SEP]: the two tokens of a word are masked together, or neither is."""
    tokenizer = character_tokenizer(["ab c"])
    ids = tokenizer("ab c")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["[CLS]", "a", "##b", "c", "[SEP]"]
    collator = wordmask.WholeWordMaskCollator(tokenizer, 0.5, mask_replace_prob=1.0, random_replace_prob=0.0)
    mask, (cls, a, b, c, sep) = tokenizer.mask_token_id, ids
    pair = ([cls, mask, mask, c, sep], [-100, a, b, -100, -100])
    single = ([cls, a, b, mask, sep], [-100, -100, -100, c, -100])
    found = []
    for _ in range(30):
        batch = collator([{"input_ids": ids}])
        assert batch.keys() == {"input_ids", "attention_mask", "labels"}
        assert all(tensor.dtype == torch.int64 and tensor.shape == (1, 5) for tensor in batch.values())
        assert batch["attention_mask"].all()
        found.append((batch["input_ids"][0].tolist(), batch["labels"][0].tolist()))
    assert pair in found and single in found and all(masked in (pair, single) for masked in found)


@pytest.mark.parametrize("model_type", ["bert", "roberta", "xlm-roberta"])
@pytest.mark.parametrize("names", [(), ("offset_mapping", "text")], ids=["ids", "offsets"])
def test_words_are_those_of_the_command_line(model_type, names):
    tokenizer = sample_tokenizer(model_type)
    lines = [*sample_lines("english", 30), "don't  walk, x_y 3.14 (a)!"]
    collator = wordmask.WholeWordMaskCollator(tokenizer)
    assert continues(collator, encode(tokenizer, lines, *names)) == on_the_command_line(tokenizer, lines)


def test_white_space_at_the_end_of_a_text_belongs_to_the_word_before_it():
    """Also where special tokens follow it, as in each line of WikiText. Alone, it would be masked as a word."""
    tokenizer, lines = sample_tokenizer("roberta"), ["the boats . ", "the old boat  "]
    collator, by_text = wordmask.WholeWordMaskCollator(tokenizer), on_the_command_line(tokenizer, lines)
    assert all(line[-2] for line in by_text)
    assert continues(collator, encode(tokenizer, lines)) == by_text
    # Lines that are joined to a block, as the classic scripts do.
    block = [token for line in tokenizer(lines)["input_ids"] for token in line]
    assert continues(collator, [{"input_ids": block}, {"input_ids": block[:1]}]) == [sum(by_text, []), [False]]


def test_word_ids_go_before_all_else(bert):
    """They are the user's own: here two words that the rule for text divides."""
    ids = bert("the old boat")["input_ids"]
    assert len(ids) > 4
    own = [None, *[0] * (len(ids) - 3), 1, None]
    collator = wordmask.WholeWordMaskCollator(bert)
    example = {"input_ids": ids, "word_ids": own, "offset_mapping": [[0, 1]] * len(ids), "text": "the old boat"}
    expected = [[False, False, *[True] * (len(ids) - 4), False, False]]
    assert continues(collator, [example]) == expected
    columns = Dataset.from_list([example])
    for kind in (None, "numpy"):
        assert continues(collator, [columns.with_format(kind)[0]]) == expected
    floats = np.array([np.nan if word is None else word for word in own])
    assert continues(collator, [{"input_ids": torch.tensor(ids), "word_ids": floats}]) == expected


def test_chinese_references_join_tokens_on_top_of_other_words(chinese):
    references = wordmask.make_references(SEGMENTED, chinese, "whitespace")
    assert references[0] == [3, 5, 7, 10] and references == wordmask.make_references(
        CHINESE, chinese, _Given([line.split() for line in SEGMENTED])
    )
    examples = [
        {"input_ids": ids, "chinese_ref": reference}
        for ids, reference in zip(chinese(CHINESE)["input_ids"], references, strict=True)
    ]
    collator = wordmask.WholeWordMaskCollator(chinese)
    found = continues(collator, examples)
    assert [[place for place, joined in enumerate(row) if joined] for row in found] == references
    # Cut after the seventh token, and padded to the left of it.
    cut = {"input_ids": [chinese.pad_token_id] * 3 + examples[0]["input_ids"][:7], "chinese_ref": references[0]}
    cut["attention_mask"] = [0] * 3 + [1] * 7
    assert continues(collator, [cut]) == [found[0][:7]]
    with_words = {"input_ids": [2, *chinese.convert_tokens_to_ids(["我", "喜", "欢"]), 3], "chinese_ref": [3]}
    with_words["word_ids"] = [None, 0, 0, 1, None]
    assert continues(collator, [with_words]) == [[False, False, True, True, False]]


class _Given(wordmask.Segmenter):
    def __init__(self, words):
        self.words = words

    def segment(self, lines):
        return self.words


def test_chinese_without_references_is_said_once_to_be_masked_by_character(chinese, bert, caplog):
    def said(tokenizer, text: str, strategy: str = "whole_word", **columns: list[int]) -> list[str]:
        caplog.clear()
        collator = wordmask.WholeWordMaskCollator(tokenizer, strategy=strategy)
        for _ in range(2):
            collator([{"input_ids": tokenizer(text)["input_ids"], **columns}])
        return caplog.messages

    text = "我喜欢研究生命的起源"
    assert said(chinese, text) == [
        "much of the text is Chinese, and it has no column chinese_ref, so single characters are masked; make this "
        "column with wordmask.make_references"
    ]
    assert said(chinese, text, chinese_ref=[3]) == said(chinese, text, "token") == said(bert, "She walks.") == []


@pytest.mark.parametrize("length", [7, 8])
def test_references_of_a_text_that_was_cut_end_where_it_ends(chinese, length):
    """Also in a pair: the second text begins where positions of the first one go on."""
    [reference] = wordmask.make_references(["我喜欢你"], chinese, Slashes())
    example = chinese("我喜欢你", "我喜", truncation="only_first", max_length=length)
    joined = continues(wordmask.WholeWordMaskCollator(chinese), [{**example, "chinese_ref": [*reference, 4]}])[0]
    assert [place for place, one in enumerate(joined) if one] == ([] if length == 7 else [3])


class Slashes(wordmask.Segmenter):
    """Knows where these words end."""

    def segment(self, lines):
        words = "ฉัน/รัก/ภาษาไทย 行き/まし/た 我/喜欢/你".split()
        return [next(word for word in words if word.replace("/", "") == line).split("/") for line in lines]


@pytest.mark.parametrize("columns", [(), ("offset_mapping", "text")], ids=["ids", "offsets"])
@pytest.mark.parametrize(
    "line, starts", [("ฉันรักภาษาไทย", [0, 3, 6]), ("行きました", [0, 2, 4]), ("我喜欢你", [0, 1, 3])]
)
def test_references_say_all_words_of_text_without_spaces(line, starts, columns):
    """A byte-level tokenizer has several tokens for a character. By the rule, Thai is one word."""
    tokenizer = sample_tokenizer("roberta")
    [example] = encode(tokenizer, [line], *columns)
    [reference] = wordmask.make_references([line], tokenizer, Slashes())
    places = [start for start, _ in tokenizer(line, return_offsets_mapping=True)["offset_mapping"][1:-1]]
    begins = [place in starts and place not in places[:number] for number, place in enumerate(places)]
    collator = wordmask.WholeWordMaskCollator(tokenizer)
    assert continues(collator, [{**example, "chinese_ref": reference}])[0][1:-1] == [not begin for begin in begins]
    if line.startswith("ฉัน"):  # an empty reference decides, too; without one, the rule does
        assert not any(continues(collator, [{**example, "chinese_ref": []}])[0])
        assert all(continues(collator, [example])[0][2:-1])


@pytest.mark.parametrize(
    "reference",
    [[0, 0, 1, 0], [0], [1], [2, 2], [3, 2], [-2], [2.5], "2", 2, [["2"]], [[2], [3]], [[], [2]], [True, False]],
)
def test_a_reference_that_make_references_never_gives_is_refused(chinese, reference):
    ids = chinese("我喜欢")["input_ids"]
    with pytest.raises(wordmask.InputError, match="^chinese_ref"):
        wordmask.WholeWordMaskCollator(chinese)([{"input_ids": ids, "chinese_ref": reference}])


@pytest.mark.parametrize("model_type", ["bert", "roberta"])
def test_the_texts_of_a_pair_stay_apart(model_type):
    """By their special tokens; RoBERTa has two between them, and no token_type_ids."""
    tokenizer = sample_tokenizer(model_type)
    text, pair = "the harbour walls", "walls stood, and boats"
    encoding = tokenizer(text, pair, return_offsets_mapping=True)
    example = {"input_ids": encoding["input_ids"], "word_ids": encoding.word_ids()}
    offsets = {"input_ids": encoding["input_ids"], "offset_mapping": encoding["offset_mapping"]}
    offsets |= {"text": text, "text_pair": pair}
    collator = wordmask.WholeWordMaskCollator(tokenizer)
    own, by_offsets, by_ids = continues(collator, [example, offsets, {"input_ids": encoding["input_ids"]}])
    assert own == by_offsets == by_ids and any(own)
    # The offsets of a pair without the second text are a mistake, not another text.
    del offsets["text_pair"]
    with pytest.raises(wordmask.InputError, match="text_pair"):
        collator([offsets])


@pytest.mark.parametrize("texts", [("", "the harbour walls"), (" " * 40, "old boats"), ("old boats", " "), ("", "")])
def test_a_text_of_a_pair_may_be_blank(bert, texts):
    encoding = bert(*texts, return_offsets_mapping=True)
    by_ids = {"input_ids": encoding["input_ids"]}
    by_offsets = {**by_ids, "offset_mapping": encoding["offset_mapping"], "text": texts[0], "text_pair": texts[1]}
    own, expected = continues(wordmask.WholeWordMaskCollator(bert), [by_offsets, by_ids])
    assert own == expected


def test_blank_texts_may_have_tokens():
    tokenizer = sample_tokenizer("roberta")
    encoding = tokenizer("\n", "  ", return_offsets_mapping=True, truncation=True, max_length=5)
    example = {name: encoding[name] for name in ("input_ids", "offset_mapping")} | {"text": "\n", "text_pair": "  "}
    batch = wordmask.WholeWordMaskCollator(tokenizer)([example])
    assert batch["input_ids"].shape == (1, len(encoding["input_ids"]))


def test_an_example_without_tokens_has_no_words(bert):
    empty = {"input_ids": [], "offset_mapping": [], "text": ""}
    [example] = encode(bert, ["old boats"], "offset_mapping", "text")
    batch = wordmask.WholeWordMaskCollator(bert, mlm_probability=0.5)([empty, example])
    assert (batch["labels"][0] == -100).all() and not batch["attention_mask"][0].any()


def test_the_space_that_a_tokenizer_puts_before_a_text_belongs_to_its_first_word():
    """As a token of its own it has the offsets (0, 0), like a special token."""
    tokenizer = RobertaTokenizer(add_prefix_space=True).train_new_from_iterator(sample_lines("english", 200), 600)
    line = "中 walk"
    examples = encode(tokenizer, [line], "offset_mapping", "text")
    assert tokenizer.convert_ids_to_tokens(examples[0]["input_ids"])[1] == "Ġ"
    assert examples[0]["offset_mapping"][1] == (0, 0)
    collator = wordmask.WholeWordMaskCollator(tokenizer)
    assert continues(collator, examples) == on_the_command_line(tokenizer, [line])


def test_token_type_ids_come_through_and_are_0_where_an_example_has_none(bert):
    encoding = bert([("old boats", "new walls and more"), ("old", "new")])
    examples = [{name: encoding[name][row] for name in ("input_ids", "token_type_ids")} for row in (0, 1)]
    batch = wordmask.WholeWordMaskCollator(bert)(examples)
    for row, example in enumerate(examples):
        types = example["token_type_ids"]
        assert batch["token_type_ids"][row].tolist() == types + [0] * (len(batch["labels"][row]) - len(types))
    mixed = wordmask.WholeWordMaskCollator(bert)([examples[0], {"input_ids": [2, 9, 3]}])
    assert torch.equal(mixed["token_type_ids"][0], batch["token_type_ids"][0]), "not by what shares its batch"
    assert not mixed["token_type_ids"][1].any()
    assert "token_type_ids" not in wordmask.WholeWordMaskCollator(bert)([{"input_ids": [2, 9, 3]}])


def test_padding_has_the_token_type_that_the_tokenizer_gives_it(bert):
    """XLNet's has a type of its own; with that of text, the model would see padding as text."""
    tokenizer = pickle.loads(pickle.dumps(bert))
    tokenizer._pad_token_type_id = 3
    assert tokenizer.pad_token_type_id == 3
    examples = [
        {"input_ids": [2, 9, 9, 3], "token_type_ids": [0, 0, 1, 1]},
        {"input_ids": [2, 3], "token_type_ids": [0, 1]},
    ]
    batch = wordmask.WholeWordMaskCollator(tokenizer)(examples)
    assert batch["token_type_ids"].tolist() == [[0, 0, 1, 1], [0, 1, 3, 3]]


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("multiple", [None, 8])
@pytest.mark.parametrize("already", ["", "right", "left"])
def test_padding_is_made_anew_and_changes_no_mask(side, multiple, already, bert):
    lines = sample_lines("english", 5)
    tokenizer = pickle.loads(pickle.dumps(bert))
    tokenizer.padding_side = side
    collator = wordmask.WholeWordMaskCollator(tokenizer, 0.4, pad_to_multiple_of=multiple)
    rows = [{"input_ids": ids, "example_id": 3, "epoch": 1} for ids in tokenizer(lines)["input_ids"]]
    alone = [wordmask.WholeWordMaskCollator(bert, 0.4)([row]) for row in rows]
    for row in rows:
        padding = [tokenizer.pad_token_id] * 5
        if already:
            row["input_ids"] = row["input_ids"] + padding if already == "right" else padding + row["input_ids"]
    batch = collator(rows)
    width = max(one["labels"].shape[1] for one in alone)
    assert batch["labels"].shape == (5, width if multiple is None else -(-width // 8) * 8)
    for row, one in enumerate(alone):
        length = one["labels"].shape[1]
        own = slice(0, length) if side == "right" else slice(batch["labels"].shape[1] - length, None)
        for name, padding in (("input_ids", tokenizer.pad_token_id), ("attention_mask", 0), ("labels", -100)):
            assert torch.equal(batch[name][row, own], one[name][0]), name
            rest = torch.ones(batch[name].shape[1], dtype=torch.bool)
            rest[own] = False
            assert (batch[name][row, rest] == padding).all(), name


def test_padding_changes_no_mask_after_set_seed_either(examples, bert):
    """Without an `example_id` the key is made of the ids: with those of padding, a longer batch had other masks."""
    found = []
    for multiple in (None, 64):
        set_seed(5)
        batch = wordmask.WholeWordMaskCollator(bert, 0.4, pad_to_multiple_of=multiple)(examples)
        found.append(batch["labels"])
    width = found[0].shape[1]
    assert found[1].shape[1] == 64 > width
    assert torch.equal(found[1][:, :width], found[0]) and (found[1][:, width:] == -100).all()


@pytest.mark.parametrize("other", [3 + 2**32, 3 - 2**32, 2**63, -3], ids=str)
def test_an_example_id_counts_with_all_of_its_64_bits(other, bert):
    """Digests differ in any of them: two examples whose lower bits agree must not always be masked alike."""
    ids = bert(sample_lines("english", 1)[0])["input_ids"]
    rows = [{"input_ids": ids, "example_id": number, "epoch": epoch} for number in (3, other) for epoch in range(8)]
    labels = wordmask.WholeWordMaskCollator(bert, 0.4)(rows)["labels"].reshape(2, -1)
    assert not torch.equal(labels[0], labels[1])


def test_a_padding_token_that_also_ends_a_text_is_not_taken_for_padding(bert):
    """Where padding is the token of the end, the last one of an example belongs to its text."""
    tokenizer = pickle.loads(pickle.dumps(bert))
    tokenizer.add_special_tokens({"eos_token": "</s>", "pad_token": "</s>"})
    end = tokenizer.eos_token_id
    batch = wordmask.WholeWordMaskCollator(tokenizer)([{"input_ids": [2, 9, 9, end]}, {"input_ids": [2, end]}])
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]


def test_a_collator_leaves_its_tokenizer_as_it_was(bert):
    tokenizer = pickle.loads(pickle.dumps(bert))
    backend = tokenizer.backend_tokenizer
    backend.enable_truncation(4)
    backend.enable_padding(length=6)
    before = backend.truncation, backend.padding
    collator = wordmask.WholeWordMaskCollator(tokenizer)
    collator([{"input_ids": [2, 9, 3]}])
    assert (backend.truncation, backend.padding) == before and None not in before


def test_only_text_is_masked(bert):
    """Neither special tokens nor what `special_tokens_mask` keeps, nor what no attention goes to."""
    ids = bert("the old boats of the harbour")["input_ids"]
    example = {"input_ids": ids, "special_tokens_mask": [1, 1] + [0] * (len(ids) - 3) + [1]}
    collator = wordmask.WholeWordMaskCollator(bert, 0.9, strategy="token")
    labels = torch.cat([collator([example])["labels"] for _ in range(20)])
    assert (labels[:, [0, 1, -1]] == -100).all() and (labels[:, 2:-1] != -100).any(0).all()
    unseen = {"input_ids": ids, "attention_mask": [1, 1, 0] + [1] * (len(ids) - 3)}
    labels = torch.cat([collator([unseen])["labels"] for _ in range(20)])
    assert (labels[:, [0, 2, -1]] == -100).all() and (labels[:, 1] != -100).any()


def reconstructed(batch) -> list[list[int]]:
    """The tokens before they were masked."""
    return torch.where(batch["labels"] == -100, batch["input_ids"], batch["labels"]).tolist()


@pytest.fixture(scope="module")
def examples(bert):
    return [
        {"input_ids": ids} for ids in bert(sample_lines("english", 12), truncation=True, max_length=24)["input_ids"]
    ]


def loop(examples, collator, workers: int, epochs: int = 2, seed: int = 5, context: str | None = None) -> list[list]:
    """The batches of each epoch of a bare loop."""
    set_seed(seed)
    options = {"multiprocessing_context": context} if workers else {}
    loader = DataLoader(examples, batch_size=4, collate_fn=collator, num_workers=workers, **options)
    return [list(loader) for _ in range(epochs)]


def assert_equal(found, expected) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_masks_of_the_same_tokens_in_another_order_are_others(bert):
    """Else the masks of two such examples would be the same places, each time that the generator is in one state."""
    tokens = [*range(10, 110)]
    places = []
    for ids in (tokens, tokens[::-1]):
        set_seed(0)
        collator = wordmask.WholeWordMaskCollator(bert, 0.5, strategy="token")
        places.append(collator([{"input_ids": ids}])["labels"].ne(-100))
    assert places[0].float().mean() == pytest.approx(0.5, abs=0.05) and not torch.equal(*places)


@pytest.mark.parametrize("workers", [0, 2])
def test_masks_follow_set_seed_and_change_with_the_epoch(examples, bert, workers):
    collator = wordmask.WholeWordMaskCollator(bert)
    first, second = loop(examples, collator, workers, context="fork")
    for one, other in zip(first, second, strict=True):
        assert reconstructed(one) == reconstructed(other) and not torch.equal(one["labels"], other["labels"])
    for again, before in zip(loop(examples, collator, workers, context="fork"), (first, second), strict=True):
        assert_equal(again, before)
    assert not torch.equal(loop(examples, collator, workers, 1, seed=6)[0][0]["labels"], first[0]["labels"])


def test_equal_examples_in_a_batch_and_on_two_workers_have_masks_of_their_own(examples, bert):
    collator = wordmask.WholeWordMaskCollator(bert)
    [batches] = loop([examples[0]] * 16, collator, 2, epochs=1, context="fork")
    rows = [tuple(row.tolist()) for batch in batches for row in batch["labels"]]
    assert len({*rows}) > 10


class Epochs(torch.utils.data.Dataset):
    """A dataset whose examples tell what their masks depend on."""

    def __init__(self, examples, epoch: int):
        self.examples, self.epoch = examples, epoch

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> dict:
        return {**self.examples[index], "example_id": index, "epoch": self.epoch}


class Kept(Trainer):
    """A Trainer that keeps what its model is given."""

    batches: list

    def compute_loss(self, model, inputs, **kwargs):
        self.batches.append({name: tensor.clone() for name, tensor in inputs.items()})
        return super().compute_loss(model, inputs, **kwargs)


def trainer_of(model_path, dataset, collator, tmp_path, **options) -> Kept:
    args = TrainingArguments(
        tmp_path, use_cpu=True, report_to="none", per_device_train_batch_size=4, save_strategy="no", **options
    )
    model = AutoModelForMaskedLM.from_pretrained(model_path)
    trainer = Kept(model=model, args=args, train_dataset=dataset, data_collator=collator)
    trainer.batches = []
    trainer.train()
    return trainer


def test_a_bare_loop_with_workers_and_the_trainer_see_the_same_tensors(examples, english_model, bert, tmp_path):
    """Whatever the loop, with example_id and epoch; and those of the command line, for the same examples."""
    collator = wordmask.WholeWordMaskCollator(bert, seed=7)
    vocabulary, tokens = Vocabulary.of(bert), on_the_command_line(bert, sample_lines("english", 12))
    scripts = MaskingCollator(vocabulary, Strategy.WHOLE_WORD, seed=7)
    rows = [
        Example([np.array(example["input_ids"][1:-1]) << 1 | np.array(row[1 : len(example["input_ids"]) - 1])], *draw)
        for example, row, draw in zip(examples, tokens, ((index, 3, 0.15, 24) for index in range(12)), strict=True)
    ]
    expected = [scripts(rows[start : start + 4]) for start in (0, 4, 8)]
    dataset = Epochs(examples, 3)
    for workers, context in ((0, None), (2, "fork")):
        assert_equal(loop(dataset, collator, workers, 1, context=context)[0], expected)
    options = {"remove_unused_columns": False, "train_sampling_strategy": "sequential", "num_train_epochs": 1}
    assert_equal(trainer_of(english_model, dataset, collator, tmp_path, **options).batches, expected)
    later = loop(Epochs(examples, 4), collator, 0, 1)[0]
    assert reconstructed(later[0]) == reconstructed(expected[0])
    assert not torch.equal(later[0]["labels"], expected[0]["labels"])


def test_the_plain_trainer_needs_no_option(examples, english_model, bert, tmp_path):
    """It drops the columns that the model does not take; what is left is enough, and masks change with the epoch."""
    dataset = Dataset.from_list([{**example, "word_ids": [0] * len(example["input_ids"])} for example in examples])
    runs = [
        trainer_of(english_model, dataset, wordmask.WholeWordMaskCollator(bert), tmp_path, num_train_epochs=2)
        for _ in range(2)
    ]
    assert_equal(runs[0].batches, runs[1].batches)
    epochs = runs[0].batches[:3], runs[0].batches[3:]
    rows = [sorted(row for batch in epoch for row in map(str, batch["labels"].tolist())) for epoch in epochs]
    assert rows[0] != rows[1]


@pytest.mark.slow
def test_workers_that_are_spawned_give_the_same(examples, bert):
    collator = wordmask.WholeWordMaskCollator(bert)
    assert_equal(
        loop(Dataset.from_list(examples), collator, 2, 1, context="spawn")[0],
        loop(examples, collator, 2, 1, context="fork")[0],
    )


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=6),
    strategy=st.sampled_from([*Strategy]),
    rate=st.floats(0.05, 0.95),
    seed=st.integers(0, 2**32),
)
def test_words_are_masked_whole_at_the_rate_that_was_asked_for(lengths, strategy, rate, seed, bert):
    rng = np.random.default_rng(seed)
    drawn = [["a" if new else "##s" for new in rng.random(length) < 0.6] for length in lengths]
    ids = [bert.convert_tokens_to_ids(["[CLS]", *tokens, "[SEP]"]) for tokens in drawn]
    collator = wordmask.WholeWordMaskCollator(bert, rate, strategy.value, return_word_ids=True)
    batch = collator([{"input_ids": tokens} for tokens in ids])
    for row, tokens in enumerate(ids):
        labels = batch["labels"][row, : len(tokens)]
        masked = labels != -100
        assert labels[masked].tolist() == np.array(tokens)[masked.numpy()].tolist()
        assert 0 <= masked.sum() <= np.ceil(rate * (len(tokens) - 2)) + 9
        assert masked.any() == (len(tokens) > 2)
        if strategy is Strategy.WHOLE_WORD:
            numbers = batch["word_ids"][row, : len(tokens)][1:-1]
            inner = masked[1:-1]
            for number in numbers.unique():
                share = inner[numbers == number].float()
                assert len(share) > 10 or share.min() == share.max()


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"mlm_probability": 1.5}, "mlm_probability: 1.5"),
        ({"mlm_probability": "0.30:0.15"}, "mlm_probability: 0.30:0.15 is a schedule"),
        ({"strategy": "words"}, "strategy: words .* token, whole_word"),
        ({"mask_replace_prob": -1}, "mask_replace_prob: -1"),
        ({"mask_replace_prob": 0.9, "random_replace_prob": 0.2}, "add up to more than 1"),
        ({"pad_to_multiple_of": 0}, "pad_to_multiple_of: 0"),
        ({"seed": 2**64}, "seed: 18446744073709551616 does not fit"),
        ({"seed": "3"}, "seed: '3' is a str; give a whole number"),
        ({"seed": 1.5}, "seed: 1.5 is a float"),
        ({"pad_to_multiple_of": 8.0}, "pad_to_multiple_of: 8.0 is a float"),
        ({"mask_replace_prob": "0.8"}, r"mask_replace_prob, random_replace_prob: \('0.8', 0.1\) are no numbers"),
        ({"mlm_probability": 15}, r"mlm_probability: 15 .*; give one, such as 0.15, or 0.1..0.9 \(drawn"),
        ({"tokenizer": "bert-base-uncased"}, "tokenizer: a str is no tokenizer"),
        ({"tokenizer": BertTokenizer}, "tokenizer: the class BertTokenizer is no tokenizer"),
    ],
)
def test_wrong_parameters_are_refused_by_the_names_they_have_here(bert, options, sentence):
    with pytest.raises(wordmask.InputError, match=f"^{sentence}" if ":" in sentence else sentence) as refused:
        wordmask.WholeWordMaskCollator(**{"tokenizer": bert} | options)
    assert "--" not in str(refused.value)


@pytest.mark.parametrize(
    "example, sentence",
    [
        ({"text": "no ids"}, "input_ids is missing in an example with the columns text; tokenize"),
        ({}, "input_ids is missing in an example with no column"),
        (None, "examples: number 0 of the batch has the type NoneType; give a dict"),
        (7, "examples: number 0 of the batch has the type int"),
        ({"input_ids": [2, 5.5, 3]}, "input_ids is not a list of whole numbers"),
        ({"input_ids": [[2, 3], [4]]}, "input_ids is not a list of whole numbers, but a list"),
        ({"input_ids": [2, 5, 3], "attention_mask": 1}, r"attention_mask has the shape \(\)"),
        ({"input_ids": [2, 5, 3], "word_ids": [[None], [0], [None]]}, "word_ids is not a list of whole numbers"),
        ({"input_ids": [2, 5, 3], "offset_mapping": [0, 1, 2], "text": "a"}, r"offset_mapping has the shape \(3,\)"),
        ({"input_ids": [2, 5, 3], "mlm_probability": [0.1]}, r"mlm_probability: \[0.1\] of an example"),
        ({"input_ids": [[2, 5, 3]]}, r"shape \(1, 3\)"),
        ({"input_ids": [2, 10**6, 3]}, "1000000, which is not an id of this tokenizer"),
        ({"input_ids": [2, -1, 3]}, "-1, which is not an id"),
        ({"input_ids": [2, 5, 3], "word_ids": [None, 0]}, "word_ids has 2 entries for 3 input_ids"),
        ({"input_ids": ["a"]}, "input_ids is not a list of whole numbers"),
        ({"input_ids": [2, 5, 3], "offset_mapping": [[0, 0], [0, 9], [0, 0]], "text": "walls"}, "beyond the end"),
        ({"input_ids": [2, 5, 3], "example_id": "a7", "epoch": 0}, "example_id: 'a7'"),
    ],
)
def test_examples_that_cannot_be_read_get_a_sentence(bert, example, sentence):
    with pytest.raises(wordmask.InputError, match=sentence):
        wordmask.WholeWordMaskCollator(bert)([example])


@pytest.mark.parametrize(
    "batch, sentence",
    [
        ([], "examples is empty"),
        (None, "examples: None is no list of examples"),
        ({"input_ids": [[2, 5, 3]]}, "examples: a dict is no list of examples"),
        (BatchEncoding({"input_ids": [[2, 5, 3]]}), "examples: a BatchEncoding is no list"),
        (
            [{"input_ids": [2, 5, 3], "example_id": 0, "epoch": 0}, {"input_ids": [2, 5, 3], "epoch": 0}],
            "example_id, epoch: example 1 of the batch lacks one of them",
        ),
    ],
)
def test_what_is_no_batch_is_refused(bert, batch, sentence):
    with pytest.raises(wordmask.InputError, match=sentence):
        wordmask.WholeWordMaskCollator(bert)(batch)


def test_parameters_may_be_set_between_batches(examples, bert):
    numbered = [{**example, "example_id": number, "epoch": -1} for number, example in enumerate(examples)]
    collator = wordmask.WholeWordMaskCollator(bert)
    before = collator(numbered)
    collator.mlm_probability, collator.strategy = 0.4, "token"
    expected = wordmask.WholeWordMaskCollator(bert, 0.4, "token")(numbered)
    assert_equal([collator(numbered)], [expected])
    assert not torch.equal(before["labels"], expected["labels"])


def test_a_tokenizer_without_a_mask_token_is_refused():
    tokenizer = sample_tokenizer("gpt2")
    with pytest.raises(wordmask.InputError, match="no mask token"):
        wordmask.WholeWordMaskCollator(tokenizer)


def test_encodings_of_a_tokenizer_are_examples(bert):
    """What the dataset of sentence-transformers' train_mlm.py gives."""
    lines = sample_lines("english", 2)
    encodings = [bert(line, truncation=True, max_length=20, return_special_tokens_mask=True) for line in lines]
    batch = wordmask.WholeWordMaskCollator(bert, pad_to_multiple_of=8)(encodings)
    assert batch["labels"].shape == batch["token_type_ids"].shape == (2, 24) and (batch["labels"] != -100).any(1).all()
    with pytest.raises(wordmask.InputError, match="input_ids is missing"):
        wordmask.WholeWordMaskCollator(bert)([BatchEncoding({"text": "x"})])


def test_bare_lists_are_examples_as_for_the_removed_collator(bert):
    ids = [[2, 9, 3], [2, 9, 10, 3]]
    assert wordmask.WholeWordMaskCollator(bert)(ids)["labels"].shape == (2, 4)


def test_a_drawn_rate_is_that_of_the_example_alone(bert):
    """In any batch, and as the sampler of an `MlmTrainer` draws it."""
    collator = wordmask.WholeWordMaskCollator(bert, mlm_probability="0.1..0.9", strategy="token", seed=5)
    ids = bert("the quick brown fox jumps over the lazy dog " * 20)["input_ids"]
    examples = [{"input_ids": ids, "example_id": number, "epoch": 2} for number in range(30)]
    shares = (collator(examples)["labels"] != -100).sum(1) / (len(ids) - 2)
    drawn = collator.rates.at(np.zeros(30), 2, np.arange(30))
    np.testing.assert_allclose(shares, drawn, atol=1 / (len(ids) - 2))
    assert drawn.min() < 0.3 and drawn.max() > 0.7
    alone = collator([examples[7]])["labels"]
    np.testing.assert_array_equal(alone[0], collator(examples)["labels"][7])


def test_truth_values_are_no_ids_but_may_be_a_mask(bert):
    collator = wordmask.WholeWordMaskCollator(bert)
    with pytest.raises(wordmask.InputError, match=r"^input_ids is not a list of whole numbers, but a list, \[True, F"):
        collator([[True, False]])
    masks = [[True, True, True, False], [1, 1, 1, 0]]
    batches = [collator([{"input_ids": [2, 9, 3, 0], "attention_mask": mask}]) for mask in masks]
    assert torch.equal(batches[0]["attention_mask"], batches[1]["attention_mask"])


def test_a_number_of_the_example_alone_is_a_column_like_any_other():
    collator = wordmask.WholeWordMaskCollator(sample_tokenizer("bert"))
    assert len(collator([{"input_ids": [5, 6, 7], "example_id": "a1"}])["labels"]) == 1
