"""--pad_to_max_length: what the model sees has the same shapes and types from the first step to the last."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import defaultdict
from functools import partialmethod
from pathlib import Path

import pytest
import torch

import run_mlm_wwm
from conftest import HANGS, sample_tokenizer, save_model, slow_after, uneven_text
from wordmask.training.trainer.mlm_trainer import MlmTrainer

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, str]:
    folder, tokenizer = tmp_path_factory.mktemp("models"), sample_tokenizer("bert")
    settings = {"bert": {}, "modernbert": {"hidden_size": 32}}
    return {name: save_model(folder / name, tokenizer, name, **more) for name, more in settings.items()}


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> str:
    """41 lines of very different lengths: neither batches nor steps come out even."""
    return uneven_text(tmp_path_factory.mktemp("text"), 41)


def described(value) -> object:
    """The shape and type of a tensor, or of all tensors in a dictionary.

    Batches of one shape may hold different numbers of documents, which no compiled graph depends on.
    """
    if isinstance(value, torch.Tensor):
        return tuple(value.shape), value.dtype
    if isinstance(value, dict):
        return tuple((name, described(value[name])) for name in sorted(value) if "cu_seq_lens" not in name)
    return value


@pytest.fixture
def seen(monkeypatch) -> dict[str, set]:
    """What the model is given in training and in evaluation."""
    found: dict[str, set] = defaultdict(set)

    def record(module, positional, named):
        found["training" if module.training else "evaluation"].add((described(named), *map(described, positional)))

    def recorded(self, model, *inputs, plain, **options):
        hook = model.register_forward_pre_hook(record, with_kwargs=True)
        try:
            return plain(self, model, *inputs, **options)
        finally:
            hook.remove()

    for name in ("compute_loss", "prediction_step"):
        monkeypatch.setattr(MlmTrainer, name, partialmethod(recorded, plain=getattr(MlmTrainer, name)))
    return found


def train(model: str, text: str, directory: Path, *more: str) -> None:
    run_mlm_wwm.main(
        f"--model_name_or_path {model} --train_file {text} --validation_file {text} --output_dir {directory} "
        "--do_train --do_eval --max_seq_length 60 --per_device_train_batch_size 4 --per_device_eval_batch_size 6 "
        "--num_train_epochs 2 --use_cpu --save_strategy no --mlm_probability 0.3:0.1".split()
        + list(more)
    )


@pytest.mark.parametrize(
    "model, more",
    slow_after(
        3,
        [
            ("bert", "--masking_strategy whole_word:0.5,span:0.5 --mlm_probability 0.1..0.5"),
            ("bert", "--no_sparse_prediction"),
            ("bert", "--gradient_accumulation_steps 3 --eval_strategy steps --eval_steps 2"),
            ("bert", "--pack_sequences"),
            ("bert", "--streaming --max_steps 12 --mlm_probability 0.15"),
            ("modernbert", "--attn_implementation varlen --no_line_by_line --no_sparse_prediction"),
            ("bert", "--masking_strategy token"),
            ("bert", "--masking_strategy whole_word"),
            ("bert", "--masking_strategy ngram"),
            ("bert", "--masking_strategy span"),
            ("bert", "--no_line_by_line"),
            ("bert", "--dataloader_drop_last --dataloader_num_workers 1"),
            ("bert", "--train_sampling_strategy group_by_length"),
            ("bert", "--pack_sequences --attn_implementation eager --no_sparse_prediction"),
            ("bert", "--streaming --max_steps 12 --mlm_probability 0.15 --pack_sequences"),
            ("modernbert", "--attn_implementation varlen"),
            ("modernbert", "--attn_implementation varlen --pack_sequences"),
            ("modernbert", "--masking_strategy span"),
            ("modernbert", "--pack_sequences"),
        ],
    ),
)
def test_every_phase_sees_one_set_of_shapes(models, text, tmp_path, seen, model, more):
    train(models[model], text, tmp_path, "--pad_to_max_length", *more.split())
    assert {phase: len(shapes) for phase, shapes in seen.items()} == {"training": 1, "evaluation": 1}


@pytest.mark.parametrize("more", ["--no_line_by_line", "--pack_sequences"])
def test_every_stage_of_a_length_schedule_sees_one_set_of_shapes(models, text, tmp_path, seen, more):
    argv = f"--model_name_or_path {models['bert']} --train_file {text} --validation_file {text} --use_cpu"
    argv += f" --do_train --do_eval --num_train_epochs 4 --save_strategy no --output_dir {tmp_path} --length_schedule "
    run_mlm_wwm.main([*argv.split(), "16:0.5,32:0.25,64:0.25", more, "--pad_to_max_length"])
    assert {phase: len(shapes) for phase, shapes in seen.items()} == {"training": 3, "evaluation": 1}
    sizes = {dict(shapes[0])["input_ids"][0] for shapes in seen["training"]}
    assert sizes == {(32, 16), (16, 32), (8, 64)}


def test_without_the_flag_shapes_do_change(models, text, tmp_path, seen):
    """A guard: lines and masks are such that a recorder that saw nothing would be noticed."""
    train(models["bert"], text, tmp_path)
    assert len(seen["training"]) > 5 and len(seen["evaluation"]) > 5


COMPILED = """
import sys, run_mlm_wwm, torch_xla.debug.metrics as metrics
run_mlm_wwm.main(sys.argv[1:])
print("compiled", (metrics.metric_data("CompileTime") or (0,))[0])
"""


@pytest.mark.parametrize("more", ["--masking_strategy span", "--pack_sequences"])
def test_xla_compiles_no_more_programs_in_more_steps(models, tmp_path, more):
    """Three passes over 95 lines, and their evaluation, need no more than one over 41."""
    pytest.importorskip("torch_xla", reason="torch_xla is not installed")
    compiled = []
    for lines, epochs in ((41, 1), (95, 3)):
        folder = tmp_path / f"{lines}"
        folder.mkdir()
        text = uneven_text(folder, lines)
        argv = f"--model_name_or_path {models['bert']} --train_file {text} --validation_file {text} --do_train "
        argv += f"--do_eval --max_seq_length 60 --per_device_train_batch_size 4 --num_train_epochs {epochs} {more} "
        argv += f"--save_strategy no --pad_to_max_length --cache_dir {folder} --output_dir {folder / 'out'}"
        run = subprocess.run(
            [sys.executable, "-c", COMPILED, *argv.split()],
            env={**os.environ, "PJRT_DEVICE": "CPU", "PYTHONPATH": str(ROOT)},
            check=True,
            capture_output=True,
            text=True,
            timeout=HANGS,
        )
        compiled.append(int(run.stdout.split("compiled")[-1]))
    assert 0 < compiled[1] == compiled[0]


@pytest.mark.slow
@pytest.mark.parametrize("more", ["--pack_sequences", "--no_line_by_line --gradient_accumulation_steps 2"])
def test_compiled_graphs_are_as_many_in_more_steps(models, text, tmp_path, more):
    """As in configs/gpu.yaml; dynamo alone, without a compiler behind it."""
    graphs = []
    for epochs in ("1", "3"):
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        argv = f"--pad_to_max_length --torch_compile --torch_compile_backend eager --num_train_epochs {epochs} {more}"
        train(models["bert"], text, tmp_path / epochs, *argv.split())
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert 0 < graphs[1] == graphs[0]
