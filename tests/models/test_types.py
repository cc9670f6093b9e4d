"""Each masked-LM type of transformers trains and is saved, or is refused in one sentence."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from transformers import CONFIG_MAPPING, MODEL_FOR_MASKED_LM_MAPPING, AutoModelForMaskedLM, AutoTokenizer, BartConfig

import run_mlm_wwm
from conftest import refusal, sample_lines, sample_tokenizer, slow_after
from wordmask.config.arguments import ModelArguments
from wordmask.config.flag_checks import MODEL_TYPES
from wordmask.models.configuration import load_config, make_config
from wordmask.models.loading import load_model
from wordmask.utils.errors import InputError

BERT = "hidden_size=32,num_hidden_layers=2,num_attention_heads=2,intermediate_size=32,max_position_embeddings=70"
XLM = "emb_dim=32,n_layers=2,n_heads=2,max_position_embeddings=70"
# From the type to its overrides, and flags that it needs.
TRAINED: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("bert", "camembert", "data2vec-text", "deberta", "deberta-v2", "ernie", "esm", "esmc"), (BERT,)),
    **dict.fromkeys(("eurobert", "gte", "ibert", "jina_embeddings_v3", "layoutlm", "megatron-bert"), (BERT,)),
    **dict.fromkeys(("modernbert", "mpnet", "mra", "nomic_bert", "nystromformer", "roberta"), (BERT,)),
    **dict.fromkeys(("roberta-prelayernorm", "tapas", "ultrabert", "xlm-roberta", "xlm-roberta-xl", "yoso"), (BERT,)),
    **dict.fromkeys(("albert", "convbert", "electra", "roformer", "squeezebert"), (f"{BERT},embedding_size=32",)),
    "big_bird": (BERT,),
    "distilbert": ("dim=32,n_layers=2,n_heads=2,hidden_dim=32,max_position_embeddings=70",),
    "flaubert": (XLM,),
    "fnet": (BERT.replace("num_attention_heads=2,", ""),),
    "funnel": ("d_model=32,n_head=2,d_head=16,d_inner=32,block_sizes=[1,1],num_decoder_layers=1",),
    "longformer": (f"{BERT},attention_window=8",),
    "luke": (f"{BERT},entity_vocab_size=10,entity_emb_size=8",),
    "mobilebert": (f"{BERT},embedding_size=32,true_hidden_size=32,intra_bottleneck_size=32",),
    "neomme": (f"{BERT},num_key_value_heads=2,head_dim=16,embedding_rank=8,embedding_dim=8",),
    "perceiver": (
        "d_model=32,d_latents=32,num_latents=4,num_self_attends_per_block=1,max_position_embeddings=64",
        *("--pad_to_max_length", "--max_seq_length", "64"),
    ),
    "reformer": (
        "hidden_size=32,attn_layers=[local,lsh],num_attention_heads=2,attention_head_size=16,feed_forward_size=32,"
        "axial_pos_shape=[8,8],axial_pos_embds_dim=[16,16],is_decoder=false,num_buckets=4,"
        "local_attn_chunk_length=16,lsh_attn_chunk_length=16",
        *("--pad_to_max_length", "--max_seq_length", "64"),
    ),
    "rembert": (f"{BERT},input_embedding_size=16,output_embedding_size=16",),
    "roc_bert": (f"{BERT},pronunciation_embed_dim=8,shape_embed_dim=8,shape_vocab_size=10",),
    "xlm": (XLM,),
    "xmod": (f"{BERT},default_language=en_XX",),
}
# From the type to the words of the sentence.
REFUSED = {
    **dict.fromkeys(("bart", "mbart", "mvp"), ("--model_type", "encoder-decoder", "give an encoder")),
    **dict.fromkeys(("modernvbert", "ultravbert"), ("--model_type", "text_config and vision_config", "--config_name")),
}

GROWS_NOT = ("ibert", "perceiver")  # transformers cannot add to their embeddings


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> str:
    directory = tmp_path_factory.mktemp("tokenizer")
    sample_tokenizer("bert", 200).save_pretrained(directory)
    return str(directory)


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n".join(sample_lines("english", 12)), encoding="utf-8")
    return str(path)


def command(model_type: str, tokenizer: str, text: str, output: Path, *flags: str) -> list[str]:
    argv = ["--model_type", model_type, "--tokenizer_name", tokenizer, "--train_file", text, "--use_cpu"]
    return [*argv, "--do_train", "--max_steps", "1", "--learning_rate", "1e-2", "--output_dir", str(output), *flags]


QUICK = ("modernbert", "eurobert", "neomme", "perceiver", "reformer", "xmod", "big_bird", "mpnet")
EACH_TYPE = slow_after(len(QUICK), [*QUICK, *sorted(TRAINED.keys() - QUICK)])


def test_the_tables_hold_every_type():
    assert sorted([*TRAINED, *REFUSED]) == sorted({config.model_type for config in MODEL_FOR_MASKED_LM_MAPPING})


@pytest.mark.parametrize("model_type", EACH_TYPE)
def test_a_type_is_trained_and_saved(model_type, tokenizer, text, tmp_path):
    """One step through all of a run, from the command line to a directory that loads without a missing weight."""
    overrides, *flags = TRAINED[model_type]
    output = tmp_path / "out"
    metrics = run_mlm_wwm.main(command(model_type, tokenizer, text, output, "--config_overrides", overrides, *flags))
    assert 3 < metrics["train_loss"] < 30
    model, info = AutoModelForMaskedLM.from_pretrained(output, output_loading_info=True)
    assert model.config.model_type == model_type and not any(info.values()), info
    assert model.config.vocab_size == len(AutoTokenizer.from_pretrained(tokenizer))
    assert {tensor.dtype for tensor in model.parameters()} == {torch.float32}
    tied = model.all_tied_weights_keys
    assert all(model.get_parameter(key) is model.get_parameter(source) for key, source in tied.items())


# A batch of several sequences with padding, as on a GPU; and a BigBird whose blocks are shorter than its sequences.
SPARSE_BLOCKS = f"{BERT.replace('=70', '=130')},block_size=4,num_random_blocks=1"
WHOLE = ["--tokens_per_pass", "0", "--per_device_train_batch_size", "6", "--per_device_eval_batch_size", "6"]


@pytest.mark.parametrize("model_type", slow_after(1, ["fnet", *sorted(TRAINED.keys() - {"fnet"})]))
def test_a_type_trains_on_whole_batches_with_padding(model_type, tokenizer, text, tmp_path):
    overrides, *flags = TRAINED[model_type]
    argv = [*command(model_type, tokenizer, text, tmp_path / "out", *flags), *WHOLE, "--save_strategy", "no"]
    argv += ["--do_eval", "--validation_file", text, "--train_sampling_strategy", "random"]
    metrics = run_mlm_wwm.main([*argv, "--config_overrides", overrides])
    assert 3 < metrics["train_loss"] < 30 and 3 < metrics["eval_loss"] < 30


@pytest.mark.parametrize("flags", [WHOLE, ["--pad_to_max_length", "--max_seq_length", "64"]])
def test_sparse_attention_gets_the_masks_that_it_takes(flags, tokenizer, text, tmp_path):
    argv = [*command("big_bird", tokenizer, text, tmp_path / "out", *flags), "--config_overrides", SPARSE_BLOCKS]
    argv += ["--do_eval", "--validation_file", text, "--save_strategy", "no", "--train_sampling_strategy", "random"]
    metrics = run_mlm_wwm.main(argv)
    assert 3 < metrics["train_loss"] < 30 and 3 < metrics["eval_loss"] < 30


def test_sparse_attention_is_packed_where_all_sequences_are_short(tokenizer, text, tmp_path, capsys):
    argv = [*command("big_bird", tokenizer, text, tmp_path / "out"), "--config_overrides", SPARSE_BLOCKS]
    argv += ["--pack_sequences", "--save_strategy", "no", "--overwrite_output_dir"]
    assert 3 < run_mlm_wwm.main([*argv, "--max_seq_length", "28"])["train_loss"] < 30
    assert "cannot keep the documents of a sequence apart; drop the flag" in refusal(capsys, run_mlm_wwm.main, *argv)


@pytest.mark.parametrize("model_type", ["albert", "mpnet"])
def test_a_type_that_cannot_compute_activations_again_says_so(model_type, tokenizer, text, tmp_path, capsys):
    argv = [*command(model_type, tokenizer, text, tmp_path / "out"), "--config_overrides", TRAINED[model_type][0]]
    said = refusal(capsys, run_mlm_wwm.main, *argv, "--activation_checkpointing")
    assert re.match(r"--activation_checkpointing: an? \w+ cannot compute its activations again; drop the flag", said)


@pytest.mark.parametrize("model_type", TRAINED)
def test_settings_follow_in_a_saved_configuration_as_in_its_type(model_type, tokenizer, tmp_path):
    """A saved configuration holds what followed from its old settings: layer types, windows by layer, head sizes."""
    CONFIG_MAPPING[model_type]().save_pretrained(tmp_path)
    overrides, entries = TRAINED[model_type][0], AutoTokenizer.from_pretrained(tokenizer)
    by_type = ModelArguments(model_type=model_type, config_overrides=overrides)
    by_name = ModelArguments(config_name=str(tmp_path), config_overrides=overrides)
    made, remade = (make_config(given, load_config(given), entries).to_dict() for given in (by_type, by_name))
    del made["_name_or_path"], remade["_name_or_path"]
    assert made == remade


@pytest.mark.parametrize("model_type", EACH_TYPE)
def test_a_type_gets_embeddings_for_the_tokens_of_a_larger_tokenizer(model_type, tokenizer, tmp_path):
    """It does, or one sentence says that it cannot."""
    entries = AutoTokenizer.from_pretrained(tokenizer)
    given = ModelArguments(model_type=model_type, config_overrides=TRAINED[model_type][0])
    load_model(given, load_config(given), entries)[0].save_pretrained(tmp_path)
    entries.add_tokens(["wordmask"])
    given = ModelArguments(model_name_or_path=str(tmp_path))
    try:
        model, _ = load_model(given, load_config(given), entries)
    except InputError as error:
        assert model_type in GROWS_NOT and str(error).startswith("--")
    else:
        assert model_type not in GROWS_NOT
        assert len(model.get_input_embeddings().weight) == model.config.vocab_size == len(entries)


@pytest.mark.parametrize("model_type", REFUSED)
def test_a_type_that_does_not_read_text_alone_is_refused(model_type, tokenizer, text, tmp_path, capsys):
    sentence = refusal(capsys, run_mlm_wwm.main, *command(model_type, tokenizer, text, tmp_path / "out"))
    assert all(word in sentence for word in (model_type, *REFUSED[model_type])), sentence
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "model_type, overrides, words",
    [
        ("xmod", BERT, ("XmodForMaskedLM that text alone does not train", "Input language unknown")),
        ("perceiver", TRAINED["perceiver"][0], ("PerceiverForMaskedLM", "--pad_to_max_length")),
        ("reformer", TRAINED["reformer"][0], ("ReformerForMaskedLM", "axial_pos_shape", "--pad_to_max_length")),
        ("reformer", "hidden_size=32", ("makes no masked language model", "axial_pos_embds")),
        ("esmc", f"{BERT},num_key_value_heads=1", ("num_key_value_heads",)),
        ("modernbert", f"{BERT},layer_types=[full_attention]", ("num_hidden_layers", "layer_types")),
        ("modernbert", f"{BERT},layer_types=full_attention", ("no list such as [1,2]",)),
        ("modernvbert", "text_config=3", ("several models",)),
        ("bert", f"{BERT},num_attention_heads=3", ("hidden size (32)", "attention heads (3)")),
        ("bert", "num_attention_heads=0", ("makes no masked language model",)),
        ("bert", "hidden_size=1.5", ("1.5", "name=value")),
        ("bert", "use_cache=perhaps", ("perhaps", "name=value")),
        ("bert", "to_dict=1", ("to_dict is not one of its settings",)),
        ("bert", "hidden_act=nonsense", ("nonsense",)),
        ("bert", "is_encoder_decoder=true", ("encoder-decoder",)),
        ("bert", "=3", ("--config_overrides",)),
    ],
)
def test_a_model_that_cannot_be_trained_is_refused_before_the_text_is_tokenized(
    model_type, overrides, words, tokenizer, text, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("wordmask.training.inputs.tokens_of", None)
    argv = command(model_type, tokenizer, text, tmp_path / "out", "--config_overrides", overrides)
    sentence = refusal(capsys, run_mlm_wwm.main, *argv)
    flag = "--model_type" if "several models" in words else "--config_overrides"
    assert sentence.startswith(flag) and all(word in sentence for word in words), sentence
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("flag", ["--model_name_or_path", "--config_name"])
def test_an_encoder_decoder_is_refused_whatever_names_it(flag, tokenizer, text, tmp_path, capsys):
    BartConfig(d_model=16, encoder_layers=1, decoder_layers=1).save_pretrained(tmp_path / "bart")
    argv = [flag, str(tmp_path / "bart"), "--tokenizer_name", tokenizer, "--train_file", text, "--use_cpu"]
    sentence = refusal(capsys, run_mlm_wwm.main, *argv, "--output_dir", str(tmp_path / "out"))
    assert sentence.startswith(f"{flag}: ") and "bart is an encoder-decoder" in sentence


def test_the_page_that_the_error_names_lists_all_types():
    page = Path(__file__).parent.parent.parent.joinpath("docs/adapt.md").read_text(encoding="utf-8")
    section = page.split("## Which models can be trained")[1].split("\n## ")[0]
    rows = re.findall(r"^\| ([a-z].*?) \|", section, re.MULTILINE)
    assert {*MODEL_TYPES} <= {name for row in rows for name in row.split(", ")}
