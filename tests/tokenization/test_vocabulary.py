"""What masking knows of a tokenizer: its ids, whatever their entries are, and which of them are special."""

from __future__ import annotations

import logging
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoTokenizer,
    BertTokenizer,
    EsmTokenizer,
    PreTrainedTokenizerFast,
)

import run_mlm_wwm
from conftest import refusal, sample_tokenizer, save_model
from wordmask.data.text_tokenizer import TextTokenizer
from wordmask.tokenization import train_tokenizer as training
from wordmask.tokenization.special_tokens import vocabulary_size
from wordmask.tokenization.vocabulary import Vocabulary, undeclared_roles
from wordmask.utils.errors import InputError

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def bert(pieces: list[str]) -> BertTokenizer:
    """A tokenizer with the vocabulary of a file of such lines: the last of equal entries counts."""
    return BertTokenizer(vocab={piece: index for index, piece in enumerate(pieces)})


def word_level(vocabulary: dict[str, int], **special: str) -> PreTrainedTokenizerFast:
    """A tokenizer of whole words whose text stands between [CLS] and [SEP]."""
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    around = [(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")]
    backend.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=around)
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", **special)


@given(st.lists(st.sampled_from("abcdefgh"), max_size=30), st.integers(0, 3))
@settings(max_examples=50, deadline=None)
def test_every_id_has_a_row_and_no_other_is_drawn(pieces, added):
    """With repeated entries, and with tokens added behind them."""
    tokenizer = bert([*SPECIAL, *pieces, "z"])
    tokenizer.add_tokens([f"added{number}" for number in range(added)])
    ids = set(tokenizer.get_vocab().values())
    vocabulary = Vocabulary.of(tokenizer)
    assert vocabulary_size(tokenizer) == len(vocabulary.maskable) == max(ids) + 1 >= len(tokenizer)
    assert set(vocabulary.random_ids.tolist()) == ids - set(range(5))
    assert max(tokenizer("z added0 added2")["input_ids"]) < vocabulary_size(tokenizer)


def test_a_slow_tokenizer_with_gaps_has_a_size(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(["<cls>", "<pad>", "<eos>", "<unk>", "a", "a", "b", "<mask>"]))
    tokenizer = EsmTokenizer(str(tmp_path / "vocab.txt"))
    assert not tokenizer.is_fast and len(tokenizer) == 7 and vocabulary_size(tokenizer) == 8


class Texts:
    """As much of a source of texts as preparing them needs."""

    provenance, references, flag, reference_flag = {}, (), "--train_file", "--train_ref_file"


@pytest.mark.parametrize("size, dtype", [(2**15, np.uint16), (2**15 + 1, np.uint32)])
def test_the_last_id_comes_back_from_the_storage_type(size, dtype):
    """An id is stored times two, plus one: 2 * 32767 + 1 is the largest number of 16 bits."""
    tokenizer = word_level({**{token: index for index, token in enumerate(SPECIAL)}, "last": size - 1})
    preparation = TextTokenizer(tokenizer, Texts(), None, None)
    tokens = preparation(pa.table({"text": ["last last"]})).tokens.values.to_numpy()
    assert tokens.dtype == dtype and tokens.tolist() == [2 * (size - 1)] * 2


def test_an_id_beyond_the_vocabulary_is_refused_before_it_is_stored(monkeypatch):
    """Such as those of a tokenizer whose code gives other ids than its vocabulary says."""
    tokenizer = word_level({token: index for index, token in enumerate([*SPECIAL, "a", "b"])})
    preparation = TextTokenizer(tokenizer, Texts(), None, None)
    tokenizer.add_tokens(["c"])
    with pytest.raises(InputError, match="--tokenizer_name: .* the id 7, and the largest id of its vocabulary is 6"):
        preparation(pa.table({"text": ["a c"]}))
    assert len(preparation(pa.table({"text": ["a b"]})).tokens) == 1


# Roles


@pytest.fixture
def bare(tmp_path) -> str:
    """A model whose tokenizer says of no token what role it has."""
    directory = save_model(tmp_path / "model", sample_tokenizer("bert"))
    shutil.move(Path(directory, "tokenizer.json"), tmp_path / "tokenizer.json")
    PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json")).save_pretrained(directory)
    return directory


def test_the_line_that_a_tokenizer_without_roles_lacks_is_given(bare, english_file, tmp_path, capsys):
    argv = ["--model_name_or_path", bare, "--train_file", english_file, "--use_cpu", "--output_dir"]
    sentence = refusal(capsys, run_mlm_wwm.main, *argv, str(tmp_path / "out"))
    assert sentence.startswith("--tokenizer_name: ") and bare in sentence and "[MASK]" in sentence
    lines = '"mask_token": "[MASK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"'
    assert sentence.endswith(f"add {lines} to its tokenizer_config.json")
    path = Path(bare, "tokenizer_config.json")
    path.write_text(path.read_text().replace("{", "{ " + lines + ",", 1))
    metrics = run_mlm_wwm.main([*argv, str(tmp_path / "out"), "--max_steps", "1"])
    assert metrics["train_samples"] == 38, "with these lines it works"


@pytest.mark.parametrize("mask", ["[MASK]", "<mask>"])
def test_a_mask_token_that_is_not_declared_is_named(mask):
    vocabulary = {token: index for index, token in enumerate(["[UNK]", "[CLS]", "[SEP]", mask, "a"])}
    with pytest.raises(InputError, match='--tokenizer_name: .*"mask_token": "') as raised:
        Vocabulary.of(word_level(vocabulary))
    assert f'"mask_token": "{mask}"' in str(raised.value)


def test_special_tokens_that_are_not_declared_are_told_of_and_neither_masked_nor_drawn(caplog):
    tokenizer = word_level({token: index for index, token in enumerate([*SPECIAL, "a", "b"])}, mask_token="[MASK]")
    with caplog.at_level(logging.WARNING, "wordmask"):
        vocabulary = Vocabulary.of(tokenizer)
    [sentence] = caplog.messages
    assert '"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"' in sentence
    names = {index: token for token, index in tokenizer.get_vocab().items()}
    assert {names[index] for index in np.flatnonzero(vocabulary.maskable)} == {"[UNK]", "a", "b"}
    assert {names[index] for index in vocabulary.random_ids} == {"a", "b"}
    assert names[vocabulary.pad_token_id] == "[PAD]"


@pytest.mark.parametrize("model_type", ["bert", "roberta", "albert", "xlm-roberta", "deberta", "mpnet", "electra"])
def test_tokenizers_of_the_library_declare_all_roles(model_type):
    assert undeclared_roles(sample_tokenizer(model_type, 300)) == {}


def test_a_spelling_with_another_role_is_no_mistake():
    """GPT-2's kind of tokenizer begins a text with <s> and has no token for its class."""
    vocabulary = {token: index for index, token in enumerate(["[UNK]", "[CLS]", "[SEP]", "<mask>", "<s>", "</s>"])}
    tokenizer = word_level(vocabulary, mask_token="<mask>", bos_token="<s>", eos_token="</s>", cls_token="[CLS]")
    assert undeclared_roles(tokenizer) == {"sep": "[SEP]"}


@pytest.mark.parametrize("model_type", ["modernbert", "xlm", "tapas"])
def test_the_tokenizer_of_a_type_without_its_own_gives_what_the_model_is_trained_on(model_type, tmp_path):
    """DeBERTa's token types made XLM add the embedding of a word, and TAPAS fail."""
    training.train_tokenizer(model_type, ["one two three"] * 20, 300).save_pretrained(tmp_path)
    assert {*AutoTokenizer.from_pretrained(tmp_path)("one two")} == {"input_ids", "attention_mask"}


def test_a_type_whose_tokenizer_cannot_be_trained_is_refused():
    """Tokenizers raises a plain `Exception` for RoFormer's."""
    with pytest.raises(InputError, match="^--vocab_size: cannot train a tokenizer of 300 entries for roformer "):
        training.train_tokenizer("roformer", ["one two three"] * 20, 300)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), MemoryError(), InputError("a text")])
def test_a_tokenizer_that_a_full_disk_stops_is_not_called_one_that_cannot_be_trained(error, monkeypatch):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(BertTokenizer, "train_new_from_iterator", fail)
    with pytest.raises(type(error)) as caught:
        training.train_tokenizer("bert", ["one two three"], 300)
    assert caught.value is error


def test_a_trained_tokenizer_keeps_the_marks_of_letters():
    """BERT's own would take them off: Japanese が would be か, and で would be て."""
    tokenizer = training.train_tokenizer("bert", ["Café Über です が"] * 50, 60)
    assert tokenizer.tokenize("Café Über です が") == ["café", "über", "です", "が"]


@pytest.mark.parametrize(
    "model_type", sorted({config.model_type for config in MODEL_FOR_MASKED_LM_MAPPING} - {"perceiver", "roformer"})
)
def test_every_kind_of_trained_tokenizer_keeps_the_marks_of_letters(model_type):
    """ALBERT's, FNet's and YOSO's made हनद of हिन्दी. Of two types, no tokenizer can be trained."""

    def letters(text: str) -> str:
        return unicodedata.normalize("NFKC", text).casefold().replace(" ", "")

    text = "हिन्दी किताब が é tiếng ガ ö"
    tokenizer = training.train_tokenizer(model_type, [text] * 30, 400)
    assert letters(tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"])) == letters(text)
