"""Flags that are put together at random give a run that ends well, or one sentence, whatever the model.

Those that are on or off come from the classes of arguments, so a new one is drawn, too.
"""

from __future__ import annotations

import random
from dataclasses import fields

import pytest
import torch

import run_mlm
import run_mlm_wwm
from conftest import sample_tokenizer, save_model, uneven_text
from wordmask.config.data_arguments import DataArguments
from wordmask.config.masking_arguments import MaskingArguments
from wordmask.config.model_arguments import ModelArguments
from wordmask.config.run_arguments import RunArguments

pytestmark = pytest.mark.slow  # two minutes
RUNS = 12  # of a seed
MODEL_TYPES = ("bert", "roberta", "electra", "modernbert", "distilbert", "deberta-v2", "albert", "fnet", "convbert")
MODERNBERT = {"hidden_size": 64, "num_attention_heads": 2, "local_attention": 16}
# What needs a GPU or a network, or would write elsewhere.
NOT_HERE = {"push_to_hub", "hub_private_repo", "hub_always_push", "fp16", "tf32", "use_cpu", "trust_remote_code"}
# One of each group, or none.
GROUPS = (
    ("--attn_implementation eager", "--attn_implementation sdpa", "--attn_implementation varlen"),
    ("--max_seq_length 24", "--max_seq_length 60", "--length_schedule 16:0.5,32:0.5", "--max_position_embeddings 100"),
    ("--tokens_per_step 200", "--tokens_per_pass 64", "--gradient_accumulation_steps 2"),
    ("--masking_strategy span", "--masking_strategy ngram", "--masking_strategy whole_word --segmenter jieba"),
    ("--mlm_probability 0.3:0.15", "--mask_replace_prob 0.5 --random_replace_prob 0.5"),
    ("--optim muon", "--optim sgd", "--label_smoothing_factor 0.1", "--neftune_noise_alpha 5", "--dropout 0"),
    ("--train_sampling_strategy random", "--train_sampling_strategy group_by_length", "--streaming"),
    ("--torch_compile --torch_compile_backend eager", "--activation_checkpointing", "--dtype bfloat16"),
    ("--dataloader_num_workers 1", "--max_train_samples 30", "--max_steps 1", "--long_lines split"),
    ("--logging_steps 1", "--logging_steps 0.3", "--log_format plain", "--log_format rich"),
    ("--save_steps 2", "--save_strategy epoch", "--save_strategy no", "--preview_masking 2", "--dry_run"),
    ("--lr_scheduler_type cosine", "--lr_scheduler_type constant_with_warmup --warmup_steps 0.1"),
)
EVALUATIONS = ("--do_eval", "--eval_strategy steps --eval_steps 2", "--eval_strategy epoch --load_best_model_at_end")


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> list[str]:
    """One layer is compiled as a whole, and three are compiled one by one."""
    folder, tokenizer = tmp_path_factory.mktemp("models"), sample_tokenizer("bert")
    return [
        save_model(
            folder / f"{name}{layers}",
            tokenizer,
            name,
            **{"n_layers" if name == "distilbert" else "num_hidden_layers": layers},
            **(MODERNBERT if name == "modernbert" else {}),
        )
        for name in MODEL_TYPES
        for layers in (1, 3)
    ]


def switches() -> list[str]:
    """Each flag that is on or off by default, the other way."""
    parts = (ModelArguments, DataArguments, MaskingArguments, RunArguments)
    return [
        f"--{flag.name} {'false' if flag.default is True else 'true'}"
        for part in parts
        for flag in fields(part)
        if flag.type in ("bool", "bool | None", bool, bool | None) and flag.name not in NOT_HERE
    ]


@pytest.mark.parametrize("seed", range(8))
def test_a_run_ends_well_or_with_one_sentence(seed, models, tmp_path, capsys):
    draw, ended_well = random.Random(seed), 0
    (tmp_path / "valid").mkdir()
    text, valid = uneven_text(tmp_path, 60), uneven_text(tmp_path / "valid", 20)
    for number in range(RUNS):
        flags = [draw.choice(group) for group in draw.sample(GROUPS, draw.randint(1, 4))]
        flags += draw.sample(switches(), draw.randint(0, 3))
        if draw.random() < 0.4:
            flags.append(f"{draw.choice(EVALUATIONS)} --validation_file {valid}")
        argv = f"--model_name_or_path {draw.choice(models)} --train_file {text} --do_train --use_cpu --max_steps 4"
        argv = f"{argv} --output_dir {tmp_path / str(number)} {' '.join(flags)}"
        torch._dynamo.reset()
        try:
            draw.choice((run_mlm, run_mlm_wwm)).main(argv.split())
            ended_well += 1
        except SystemExit as ended:
            assert ended.code == 2, argv
            assert capsys.readouterr().err.rstrip().split("\n")[-1].startswith("error: --"), argv
        except Exception as error:
            pytest.fail(f"{argv}: {type(error).__name__}: {error}")
    assert ended_well >= RUNS / 4, "most flags exclude each other, so this shows little"
