"""On a card: the configurations for GPUs run for twenty steps as they stand, and a run goes on as if never stopped.

Replaced are only the model, by a tiny one of the same type, and the text; every loss is logged, and training ends
after twenty steps.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM

import run_mlm_wwm
from conftest import free_port, sample_tokenizer, save_model, trajectory, uneven_text

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")]
ROOT = Path(__file__).parent.parent.parent
PYTHON = [sys.executable]
TORCHRUN = [*PYTHON, "-m", "torch.distributed.run", "--nproc_per_node", "1", "--master_port"]
SIZE = {"hidden_size": 64, "num_attention_heads": 2, "num_hidden_layers": 3, "max_position_embeddings": 512}


WRAPPED = """
from accelerate import state
from torch.nn.parallel import DistributedDataParallel

def told(self, *arguments, make=DistributedDataParallel.__init__, **options):
    make(self, *arguments, **options)
    print("inside DDP", flush=True)

DistributedDataParallel.__init__ = told
for kind in (state.PartialState, state.AcceleratorState):
    kind.use_distributed = property(lambda self: self.distributed_type != state.DistributedType.NO)
import run_mlm_wwm
run_mlm_wwm.main()
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, str]:
    folder, tokenizer = tmp_path_factory.mktemp("models"), sample_tokenizer("bert")
    return {name: save_model(folder / name, tokenizer, name, **SIZE) for name in ("bert", "modernbert")}


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> str:
    return uneven_text(tmp_path_factory.mktemp("text"), 200)


def flags(config: str, model: str, text: str, output: Path) -> list[str]:
    added = f"--model_name_or_path {model} --train_file {text} --output_dir {output} --max_steps 20 --logging_steps 1"
    return [f"configs/{config}.yaml", *added.split()]


def launch(launcher: list[str], argv: list[str]) -> None:
    """Run the script as a user does, in a process of its own."""
    run_command([*launcher, *[free_port()] * (launcher is TORCHRUN), "run_mlm_wwm.py", *argv])


def run_command(command: list[str]) -> str:
    """What a command prints."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    done = subprocess.run(command, cwd=ROOT, env=environment, check=False, timeout=180, **options)
    assert done.returncode == 0, done.stdout[-5000:]
    return done.stdout


def assert_trained(output: Path) -> None:
    steps = trajectory(output)
    assert len(steps) == 20
    assert all(math.isfinite(loss) and 0 < norm < math.inf for loss, norm in steps)
    AutoModelForMaskedLM.from_pretrained(output)


@pytest.mark.parametrize("model_type", ["bert", "modernbert"])
def test_gpu_yaml_runs(models, text, tmp_path, model_type):
    launch(PYTHON, flags("gpu", models[model_type], text, tmp_path))
    assert_trained(tmp_path)


def test_ddp_yaml_runs_under_nccl_with_the_losses_of_plain_python(models, text, tmp_path, monkeypatch):
    launch(TORCHRUN, flags("ddp", models["bert"], text, tmp_path / "ddp"))
    assert_trained(tmp_path / "ddp")
    monkeypatch.chdir(ROOT)
    run_mlm_wwm.main(flags("ddp", models["bert"], text, tmp_path / "plain"))
    losses = [[loss for loss, _ in trajectory(tmp_path / name)] for name in ("ddp", "plain")]
    assert losses[0] == pytest.approx(losses[1], rel=0.01)


@pytest.mark.parametrize("config", ["ddp", "gpu"])
def test_a_model_inside_ddp_learns_what_it_learns_alone(models, text, tmp_path, monkeypatch, config):
    """accelerate wraps no model for one process; a small program has it do so all the same."""
    program = tmp_path / "wrapped.py"
    program.write_text(WRAPPED, encoding="utf-8")
    argv = flags(config, models["bert"], text, tmp_path / "ddp")
    command = [*TORCHRUN, free_port(), str(program), *argv]
    assert "inside DDP" in run_command(command)
    assert_trained(tmp_path / "ddp")
    monkeypatch.chdir(ROOT)
    run_mlm_wwm.main(flags(config, models["bert"], text, tmp_path / "plain"))
    losses = [[loss for loss, _ in trajectory(tmp_path / name)] for name in ("ddp", "plain")]
    assert losses[0] == pytest.approx(losses[1], rel=0.01)


def test_fsdp_yaml_runs_on_one_card_with_the_losses_of_plain_python(models, text, tmp_path):
    launch(TORCHRUN, flags("fsdp", models["modernbert"], text, tmp_path / "fsdp"))
    assert_trained(tmp_path / "fsdp")
    same = "--max_seq_length 512 --bf16 --per_device_train_batch_size 16 --learning_rate 5e-5 --warmup_steps 0.06"
    argv = flags("fsdp", models["modernbert"], text, tmp_path / "plain")[1:]
    run_mlm_wwm.main([*argv, *same.split(), "--weight_decay", "0.01", "--save_strategy", "no"])
    losses = [[loss for loss, _ in trajectory(tmp_path / name)] for name in ("fsdp", "plain")]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


@pytest.mark.parametrize("more, bound", [("", 1e-4), ("--bf16 --pack_sequences --dropout 0", 1e-2)])
def test_a_run_that_goes_on_ends_where_one_without_a_stop_ends(models, text, tmp_path, more, bound):
    """The first one has dropout, so that the random numbers of the card count, too.

    Kernels that add up in any order may round differently, and AdamW moves a weight whose gradient is only rounding as
    far as any other. So weights may be apart by a twentieth of how far they have moved; without the optimizer's state,
    for example, it would be more than a fifth.
    """
    argv = f"--model_name_or_path {models['bert']} --train_file {text} --max_steps 8 --save_steps 4 --logging_steps 1"
    argv += f" --max_seq_length 64 --per_device_train_batch_size 8 --learning_rate 1e-3 --do_train {more} --output_dir"
    run_mlm_wwm.main([*argv.split(), str(tmp_path / "whole")])
    again = ["--resume_from_checkpoint", str(tmp_path / "whole/checkpoint-4")]
    run_mlm_wwm.main([*argv.split(), str(tmp_path / "resumed"), *again])
    whole, resumed = trajectory(tmp_path / "whole"), trajectory(tmp_path / "resumed")
    assert len(whole) == len(resumed) == 8 and whole[:4] == resumed[:4]
    assert [loss for loss, _ in resumed] == pytest.approx([loss for loss, _ in whole], rel=bound)
    first = load_file(Path(models["bert"]) / "model.safetensors")
    ends = [load_file(tmp_path / name / "model.safetensors") for name in ("whole", "resumed")]
    moved = sum(float((ends[0][name] - first[name]).square().sum()) for name in first) ** 0.5
    apart = sum(float((ends[0][name] - ends[1][name]).square().sum()) for name in first) ** 0.5
    assert 0 <= apart < 0.05 * moved
