"""What a model is loaded with: weights that a checkpoint lacks, configurations that follow, rows for every id."""

from __future__ import annotations

import json
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    BertConfig,
    BertTokenizer,
    DistilBertConfig,
    ModernBertConfig,
    PreTrainedConfig,
)

import run_mlm_wwm
from conftest import SMALL, refusal, sample_lines, sample_tokenizer, save_model
from wordmask.config.data_arguments import DataArguments
from wordmask.config.model_arguments import ModelArguments
from wordmask.data.sources import load_texts
from wordmask.models import loading
from wordmask.models.configuration import make_config, with_dropout
from wordmask.utils.errors import InputError

NEW_HEAD = "no masked-LM head"


@pytest.fixture
def train(english_file, tmp_path, caplog):
    """A function that trains for one step and gives what was logged, its output directory being `out`."""

    def check(*argv: str) -> list[str]:
        caplog.clear()
        text = ["--train_file", english_file, "--use_cpu", "--do_train", "--max_steps", "1"]
        with caplog.at_level(logging.WARNING):
            run_mlm_wwm.main([*argv, *text, "--overwrite_output_dir", "--output_dir", str(tmp_path / "out")])
        logged = [record.getMessage() for record in caplog.records]
        assert [line for line in logged if " texts from " in line] == [logged[0]]
        return logged[1:]

    return check


def refuse(capsys, english_file, tmp_path, *argv: str) -> str:
    text = ["--train_file", english_file, "--use_cpu", "--output_dir", str(tmp_path / "out")]
    return refusal(capsys, run_mlm_wwm.main, *argv, *text)


def rewrite(directory: str, **settings) -> None:
    """Change settings in a directory's config.json."""
    path = Path(directory, "config.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


# Heads


@pytest.mark.parametrize("model_type", ["bert", "roberta", "modernbert"])
def test_a_checkpoint_without_a_head_is_told_of_once_and_in_the_card(train, tmp_path, model_type):
    settings = {"hidden_size": 32} if model_type == "modernbert" else {}
    source = save_model(tmp_path / "whole", sample_tokenizer("bert"), model_type, **settings)
    card = tmp_path / "out" / "README.md"
    assert train("--model_name_or_path", source) == []
    assert "head" not in card.read_text()

    model = AutoModel.from_pretrained(source)
    model.save_pretrained(tmp_path / "encoder")
    logged = train("--model_name_or_path", str(tmp_path / "encoder"), "--tokenizer_name", source)
    assert len(logged) == 1 and NEW_HEAD in logged[0] and logged[0].startswith("--model_name_or_path: "), logged
    assert NEW_HEAD in card.read_text()


def test_a_tokenizer_that_is_not_the_models_is_told_of(train, tmp_path):
    tokenizer = sample_tokenizer("bert")
    source = save_model(tmp_path / "model", tokenizer)
    tokenizer.add_tokens(["graft"])
    tokenizer.save_pretrained(tmp_path / "more")
    sample_tokenizer("roberta").save_pretrained(tmp_path / "other")
    argv = ["--model_name_or_path", source, "--tokenizer_name"]
    assert train(*argv, source) == []
    [sentence] = train(*argv, str(tmp_path / "more"))
    assert sentence.startswith("--model_name_or_path: ") and "those of 1 more are drawn around their mean" in sentence
    sentences = train(*argv, str(tmp_path / "other"))
    assert any("have another id there, or none, so its embeddings mean other tokens" in one for one in sentences)


def test_what_a_tokenizer_gives_beside_ids_and_mask_is_told_of_if_it_changes_predictions(train, tmp_path):
    """XLM takes a token type for a word, whose embedding it adds. BERT's own types are as none."""
    assert train("--model_name_or_path", save_model(tmp_path / "bert", sample_tokenizer("bert"))) == []
    source = save_model(tmp_path / "xlm", sample_tokenizer("bert"), "xlm", emb_dim=16, n_layers=1, n_heads=2)
    weights = load_file(Path(source, "model.safetensors"))
    weights["transformer.embeddings.weight"][0] = torch.arange(16)  # the token 0, which is padding here, so 0
    save_file(weights, Path(source, "model.safetensors"), {"format": "pt"})
    [sentence] = train("--model_name_or_path", source)
    assert sentence.startswith("--model_name_or_path: ") and "also gives token_type_ids, which change its" in sentence


def test_numbers_that_are_not_finite_tell_nothing_of_what_a_tokenizer_gives(tmp_path, caplog):
    model = AutoModelForMaskedLM.from_pretrained(save_model(tmp_path, sample_tokenizer("bert")))
    model.get_parameter("cls.predictions.bias").data[0] = -torch.inf
    loading._compare_inputs("--model_name_or_path", model, sample_tokenizer("bert"))
    assert not caplog.text


def test_weights_that_are_tied_or_left_over_are_no_reason_for_a_word(train, english_model, tmp_path):
    """Many checkpoints store the tied decoder and its bias once, and carry a pooler and a second head."""
    weights = load_file(Path(english_model, "model.safetensors"))
    assert not any("decoder" in name for name in weights)
    weights["bert.pooler.dense.weight"] = torch.zeros(16, 16)
    weights["cls.seq_relationship.weight"] = torch.zeros(2, 16)
    directory = save_model(tmp_path / "model", sample_tokenizer("bert"))
    save_file(weights, Path(directory, "model.safetensors"), {"format": "pt"})
    assert train("--model_name_or_path", directory) == []


def test_weights_of_the_encoder_that_are_missing_are_counted(train, tmp_path):
    directory = save_model(tmp_path / "model", sample_tokenizer("bert"))
    rewrite(directory, num_hidden_layers=2)
    logged = train("--model_name_or_path", directory)
    assert len(logged) == 1 and "lacks 16 weights of its encoder" in logged[0]
    assert "bert.encoder.layer.1.attention.output" in logged[0] and NEW_HEAD not in logged[0]


def test_a_type_alone_gives_its_own_settings_and_the_ids_of_the_tokenizer():
    tokenizer = sample_tokenizer("roberta")
    config = make_config(ModelArguments(model_type="bert"), None, tokenizer)
    changed = {name: value for name, value in config.to_dict().items() if value != BertConfig().to_dict().get(name)}
    assert changed == {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }


@pytest.mark.parametrize("model_type, name", [("bert", "BertForMaskedLM"), ("fnet", "FNetForMaskedLM")])
def test_weights_of_another_architecture_are_refused(model_type, name, english_file, tmp_path, capsys):
    """FNet's encoder has a pooler, which no checkpoint needs to have."""
    directory = save_model(tmp_path / "model", sample_tokenizer("bert"), model_type)
    save_file({"other.weight": torch.zeros(2, 2)}, Path(directory, "model.safetensors"), {"format": "pt"})
    sentence = refuse(capsys, english_file, tmp_path, "--model_name_or_path", directory)
    assert sentence.startswith(f"--model_name_or_path: {directory} holds no weight of")
    assert name in sentence


@pytest.mark.parametrize("by_name", [True, False])
def test_weights_of_another_size_than_the_configuration_says_are_refused(by_name, english_file, tmp_path, capsys):
    directory = save_model(tmp_path / "model", sample_tokenizer("bert"))
    other = save_model(tmp_path / "other", sample_tokenizer("bert"), hidden_size=32)
    argv = ["--model_name_or_path", directory]
    if by_name:
        argv += ["--config_name", other]
    else:
        rewrite(directory, hidden_size=32)
    sentence = refuse(capsys, english_file, tmp_path, *argv)
    assert sentence.startswith(f"--model_name_or_path: {directory} holds ") and "16" in sentence and "32" in sentence
    assert ("--config_name" if by_name else "config.json") in sentence


# Configurations


def test_layer_types_follow_the_number_of_layers(train, english_model, tmp_path):
    """Of a type, and of a configuration that was saved with its own layer types."""
    ModernBertConfig(num_hidden_layers=5).save_pretrained(tmp_path / "config")
    assert len(json.loads((tmp_path / "config" / "config.json").read_text())["layer_types"]) == 5
    overrides = "hidden_size=32,num_hidden_layers=4,num_attention_heads=2,intermediate_size=32"
    for source in (["--model_type", "modernbert"], ["--config_name", str(tmp_path / "config")]):
        train(*source, "--tokenizer_name", english_model, "--config_overrides", overrides)
        config = AutoModelForMaskedLM.from_pretrained(tmp_path / "out").config
        assert config.layer_types == ["full_attention", *["sliding_attention"] * 2, "full_attention"]


def test_layer_types_that_were_chosen_stay(train, english_model, tmp_path):
    small = {name: value for name, value in SMALL.items() if name != "num_hidden_layers"} | {"hidden_size": 32}
    chosen = ["sliding_attention", "full_attention"]
    ModernBertConfig(**small, num_hidden_layers=2, layer_types=chosen).save_pretrained(tmp_path / "config")
    source = ["--config_name", str(tmp_path / "config"), "--tokenizer_name", english_model]
    train(*source, "--config_overrides", "intermediate_size=48")
    config = AutoModelForMaskedLM.from_pretrained(tmp_path / "out").config
    assert config.layer_types == chosen and config.intermediate_size == 48


# Rows for every id


def repeated(lines: list[str], size: int) -> BertTokenizer:
    """A WordPiece tokenizer read from a vocab.txt of so many lines, of which 30 repeat earlier ones."""
    words = sorted({word.lower() for line in lines for word in line.split() if word.isascii() and word.isalpha()})
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    entries = [*special, *(f"[unused{number}]" for number in range(size - 35 - len(words))), *special[1:2] * 30]
    return BertTokenizer(vocab={entry: index for index, entry in enumerate([*entries, *words])})


@pytest.mark.parametrize("size, bits", [(2**15, 16), (2**15 + 2, 32)])
def test_repeated_entries_of_a_vocabulary_lose_no_id(tmp_path, size, bits, train):
    """The last words have the largest ids: in 16 bits, codes of ids from 32768 on would wrap to 0 and 1."""
    lines = sample_lines("english", 40)
    tokenizer = repeated(lines, size)
    assert max(tokenizer.get_vocab().values()) == size - 1 and len(tokenizer) == size - 30
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    overrides = "hidden_size=16,num_hidden_layers=1,num_attention_heads=2,intermediate_size=16"
    argv = ["--model_type", "bert", "--tokenizer_name", str(tmp_path / "tokenizer"), "--config_overrides", overrides]
    assert [line for line in train(*argv) if "[UNK]" not in line] == []  # it has few of these letters
    model = AutoModelForMaskedLM.from_pretrained(tmp_path / "out")
    assert model.config.vocab_size == model.get_input_embeddings().num_embeddings == size

    words = [word for word, index in tokenizer.get_vocab().items() if index >= size - 3]
    (tmp_path / "last.txt").write_text(" ".join(words))
    prepared = ["--train_file", str(tmp_path / "last.txt"), "--prepare_only", "--prepared_dir", str(tmp_path / "made")]
    assert run_mlm_wwm.main([*argv, *prepared, "--use_cpu", "--validation_split_percentage", "0"]) == {}
    [tokens] = (tmp_path / "made").glob("*.arrow")
    codes = pa.ipc.open_stream(tokens.read_bytes()).read_all()["tokens"].combine_chunks().values.to_numpy()
    assert codes.dtype == f"uint{bits}" and sorted((codes >> 1).tolist()) == [size - 3, size - 2, size - 1]


def test_a_checkpoint_with_more_rows_than_the_tokenizer_keeps_them(train, tmp_path):
    tokenizer = sample_tokenizer("bert", 200)
    directory = save_model(tmp_path / "model", sample_tokenizer("bert", 256))
    tokenizer.save_pretrained(directory)
    train("--model_name_or_path", directory)
    assert AutoModelForMaskedLM.from_pretrained(tmp_path / "out").config.vocab_size == 256


def test_tokens_that_were_added_get_rows(train, tmp_path):
    tokenizer = sample_tokenizer("bert", 200)
    directory = save_model(tmp_path / "model", tokenizer)
    tokenizer.add_tokens(["graft", "lupus"])
    tokenizer.save_pretrained(directory)
    train("--model_name_or_path", directory)
    assert AutoModelForMaskedLM.from_pretrained(tmp_path / "out").config.vocab_size == 202


def test_of_two_runs_that_train_a_tokenizer_one_waits_for_the_other(english_file, tmp_path, monkeypatch):
    """Two trainings give different tokenizers: pieces of equal count come in any order."""
    entered, trained = [threading.Event(), threading.Event()], []
    train = loading.train_tokenizer

    def slowly(*args):
        entered[len(trained)].set()
        trained.append(args)
        entered[1].wait(0.5)  # here the other run would come in, too
        return train(*args)

    monkeypatch.setattr(loading, "train_tokenizer", slowly)
    texts = load_texts(DataArguments(train_file=[english_file]), str(tmp_path), None, False, False)["train"]
    arguments = ModelArguments(model_type="bert", vocab_size=300, cache_dir=str(tmp_path))
    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(lambda _: loading.load_tokenizer(arguments, None, texts).get_vocab(), range(2))
    assert len(trained) == 1 and one == other


def test_a_cache_that_cannot_hold_a_trained_tokenizer_is_named(english_file, tmp_path, monkeypatch):
    def refused(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(loading, "make_directory_atomically", refused)
    texts = load_texts(DataArguments(train_file=[english_file]), str(tmp_path), None, False, False)["train"]
    arguments = ModelArguments(model_type="bert", vocab_size=300, cache_dir=str(tmp_path))
    with pytest.raises(InputError, match=r"^--cache_dir: .* cannot be written \(Permission denied\); give another"):
        loading.load_tokenizer(arguments, None, texts)


# Dropout


def test_dropout_by_flag_reaches_every_layer_and_is_saved(train, tmp_path):
    source = save_model(tmp_path / "model", sample_tokenizer("bert"))
    assert train("--model_name_or_path", source, "--dropout", "0") == []
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["hidden_dropout_prob"], config["attention_probs_dropout_prob"]) == (0, 0)
    assert config["classifier_dropout"] is None


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        (BertConfig(), {"hidden_dropout_prob", "attention_probs_dropout_prob"}),
        (ModernBertConfig(), {"attention_dropout", "embedding_dropout", "mlp_dropout"}),
        (DistilBertConfig(), {"dropout", "attention_dropout"}),
    ],
)
def test_the_dropout_of_other_heads_stays(settings, names):
    before = settings.to_dict()
    after = with_dropout(ModelArguments(model_type="bert", dropout=0.25), settings).to_dict()
    assert {name for name in before if before[name] != after[name]} == names
    assert {after[name] for name in names} == {0.25}


def test_dropout_for_a_model_without_any_is_refused():
    with pytest.raises(InputError, match="--dropout: a plain model has no dropout to set; drop the flag"):
        with_dropout(
            ModelArguments(model_type="bert", dropout=0), type("None_", (PreTrainedConfig,), {"model_type": "plain"})()
        )


@pytest.mark.parametrize("flag", loading.TOKENIZER_FLAGS)
def test_a_tokenizer_that_cannot_be_loaded_is_refused_by_the_flag_that_names_it(flag, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=f"^--{flag}: "):
        model = {"model_type": "bert"} if flag == "tokenizer_name" else {}
        loading.load_tokenizer(ModelArguments(**model, **{flag: str(tmp_path / "empty")}))
