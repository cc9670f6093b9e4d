"""How a run is started: mistakes get one sentence before anything is trained, and TPUs an optimizer that they have."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from transformers.utils import import_utils

import run_mlm_wwm
from conftest import refusal
from wordmask.config import launch_checks
from wordmask.config.arguments import parse_arguments
from wordmask.config.run_arguments import RunArguments
from wordmask.utils.errors import InputError
from wordmask.utils.launch import tpu_package

TORCHRUN = {
    "RANK": "0",
    "LOCAL_RANK": "0",
    "WORLD_SIZE": "2",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
}
FROM_OUTSIDE = (*TORCHRUN, *launch_checks.MPI, "ACCELERATE_MIXED_PRECISION", "ACCELERATE_USE_CPU")
FROM_OUTSIDE += (*launch_checks.LAUNCHED_SETTINGS,)


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    """An environment in which no launcher has been; what a test sets is gone after it."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))  # what another test has said does not count
    for name in FROM_OUTSIDE:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def put(environment, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        environment.setenv(name, value)


@pytest.fixture
def refuse(capsys, environment, needed_flags, tmp_path):
    """A function that gives the sentence with which a command line is refused in an environment."""

    def check(*argv: str, **variables: str) -> str:
        put(environment, variables)
        sentence = refusal(capsys, run_mlm_wwm.main, *needed_flags, "--max_steps", "1", *argv)
        assert not (tmp_path / "out").exists()
        return sentence

    return check


def without(*names: str) -> dict[str, str]:
    return {name: value for name, value in TORCHRUN.items() if name not in names}


@pytest.mark.slow
def test_the_command_line_that_is_broken_below_works(english_model, english_file, tmp_path):
    argv = ["--model_name_or_path", english_model, "--train_file", english_file, "--output_dir", str(tmp_path / "out")]
    assert run_mlm_wwm.main([*argv, "--max_steps", "1", "--use_cpu"])["train_loss"] > 0


@pytest.mark.parametrize("missing", ["RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"])
def test_a_launchers_variables_half_set(refuse, missing):
    sentence = refuse("--use_cpu", **without(missing))
    assert "WORLD_SIZE=2" in sentence and f"without {missing};" in sentence and "torchrun" in sentence


def test_the_size_of_the_world_alone(refuse):
    assert "WORLD_SIZE=2 without RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT;" in refuse("--use_cpu", WORLD_SIZE="2")


def test_a_local_rank_alone(refuse):
    assert "LOCAL_RANK=0 without RANK, WORLD_SIZE" in refuse("--use_cpu", LOCAL_RANK="0")


def test_a_rank_that_is_not_in_the_world(refuse):
    assert "RANK=2 and WORLD_SIZE=2" in refuse("--use_cpu", **{**TORCHRUN, "RANK": "2"})


@pytest.mark.parametrize("variable", ["WORLD_SIZE", "MASTER_PORT"])
def test_a_variable_that_is_no_number(refuse, variable):
    assert f"{variable}=two" in refuse("--use_cpu", **{**TORCHRUN, variable: "two"})


def test_an_address_that_is_taken(refuse):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        sentence = refuse("--use_cpu", **{**TORCHRUN, "MASTER_PORT": port, "WORLD_SIZE": "1"})
    assert "MASTER_ADDR=127.0.0.1" in sentence and f"MASTER_PORT={port}" in sentence


@pytest.mark.parametrize("accelerator", [None, SimpleNamespace(type="mps")])
def test_processes_that_would_train_apart(refuse, environment, accelerator):
    # accelerate then finds no backend, and each process trains the whole and writes over the others.
    environment.setattr(torch.accelerator, "current_accelerator", lambda check: accelerator)
    assert "--use_cpu" in refuse(**TORCHRUN)


@pytest.mark.parametrize("use_cpu", ["True", "False"])
@pytest.mark.parametrize("more", [{}, {"RANK": "0", "WORLD_SIZE": "1"}], ids=["", "in a job of one worker"])
def test_accelerate_launch_that_started_one_process(refuse, use_cpu, more):
    # What prepare_simple_launcher_cmd_env sets where --num_processes is above 1.
    sentence = refuse(
        *(["--use_cpu"] if use_cpu == "True" else []),
        ACCELERATE_USE_CPU=use_cpu,
        ACCELERATE_MIXED_PRECISION="no",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT="29500",
        **more,
    )
    assert "accelerate launch started one process" in sentence and "torchrun" in sentence


@pytest.mark.slow
def test_accelerate_launch_still_does_that(environment, tmp_path):
    """A guard for the test above: when this fails, `accelerate launch --cpu` starts what it is asked for."""
    script = tmp_path / "script.py"
    script.write_text("import json, os; print(json.dumps(dict(os.environ)))")
    done = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", str(script)],
        env={name: value for name, value in os.environ.items() if name not in FROM_OUTSIDE},
        capture_output=True,
        text=True,
        check=True,
    )
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("{")]
    put(environment, json.loads(line))
    with pytest.raises(InputError, match="accelerate launch started one process"):
        launch_checks.check_environment(True, None)


@pytest.mark.parametrize(
    "variables",
    [
        {"ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_USE_CPU": "True"},  # accelerate launch --cpu
        {"MASTER_ADDR": "node1", "MASTER_PORT": "29500"},  # left from another job
        {"RANK": "0", "WORLD_SIZE": "1"},
        {"LOCAL_RANK": "-1"},
        {**TORCHRUN, "WORLD_SIZE": "1"},
        TORCHRUN,
        {"ACCELERATE_MIXED_PRECISION": "no", "MASTER_ADDR": "node1", "OMPI_COMM_WORLD_SIZE": "2"},
        # accelerate launch in a job of one worker, as Kubeflow starts it
        {"ACCELERATE_MIXED_PRECISION": "no", "MASTER_ADDR": "node1", "RANK": "0", "WORLD_SIZE": "1"},
    ],
)
def test_environments_that_work_are_let_pass(environment, variables):
    put(environment, variables)
    launch_checks.check_environment(True, None)


def test_a_backend_that_does_not_join_cpus(refuse):
    assert "--ddp_backend nccl" in refuse("--use_cpu", "--ddp_backend", "nccl", **TORCHRUN)


def test_an_unknown_backend(refuse):
    sentence = refuse("--use_cpu", "--ddp_backend", "gluu")
    assert "--ddp_backend" in sentence and "gluu" in sentence and "gloo" in sentence


@pytest.fixture
def deepspeed_file(tmp_path, monkeypatch) -> str:
    """A configuration, and DeepSpeed as if it were installed."""
    monkeypatch.setattr(launch_checks, "is_deepspeed_available", lambda: True)
    path = tmp_path / "deepspeed.json"
    path.write_text('{"zero_optimization": {"stage": 2}}')
    return str(path)


def test_a_model_divided_over_one_process(refuse, deepspeed_file):
    for flags in (["--fsdp"], ["--deepspeed", deepspeed_file]):
        sentence = refuse(*flags)
        assert sentence.startswith(flags[0]) and "torchrun" in sentence and "accelerate launch" in sentence


def test_a_model_divided_over_cpus(refuse, deepspeed_file):
    for flags in (["--fsdp"], ["--deepspeed", deepspeed_file]):
        sentence = refuse(*flags, "--use_cpu", **TORCHRUN)
        assert sentence.startswith(flags[0]) and "--use_cpu" in sentence


def test_two_ways_to_divide_a_model(refuse, deepspeed_file):
    sentence = refuse("--fsdp", "--deepspeed", deepspeed_file)
    assert "--fsdp" in sentence and "--deepspeed" in sentence


def test_settings_of_fsdp_without_fsdp(refuse):
    assert "--fsdp_config" in refuse("--use_cpu", "--fsdp_config", '{"version": 2}')


def test_settings_of_fsdp_that_save_no_whole_model(monkeypatch):
    monkeypatch.setattr("wordmask.config.run_arguments.check_sharding", lambda *flags: None)
    given = {"output_dir": "out", "use_cpu": True, "fsdp": True}
    for whole in ({"version": 2}, {"version": 2, "state_dict_type": "FULL_STATE_DICT"}):
        RunArguments(**given, fsdp_config=whole)
    with pytest.raises(InputError, match="with state_dict_type SHARDED_STATE_DICT, no file holds the whole model"):
        RunArguments(**given, fsdp_config={"version": 2, "state_dict_type": "SHARDED_STATE_DICT"})


def test_an_evaluation_that_fsdp_cannot_divide(refuse, monkeypatch):
    monkeypatch.setattr("wordmask.config.run_arguments.check_sharding", lambda *flags: None)
    assert refuse("--use_cpu", "--fsdp", "--do_eval").startswith("--fsdp divides a model to train it")


def test_a_precision_of_the_launcher_that_no_flag_names(refuse):
    sentence = refuse("--use_cpu", ACCELERATE_MIXED_PRECISION="bf16")
    assert "ACCELERATE_MIXED_PRECISION=bf16" in sentence and "add --bf16, or give accelerate launch" in sentence
    sentence = refuse("--use_cpu", ACCELERATE_MIXED_PRECISION="fp8")
    assert "ACCELERATE_MIXED_PRECISION=fp8" in sentence and "add" not in sentence


def test_a_precision_of_the_launcher_that_a_flag_names(environment):
    put(environment, {"ACCELERATE_MIXED_PRECISION": "bf16"})
    assert RunArguments(output_dir="out", use_cpu=True, bf16=True).bf16


@pytest.mark.parametrize(
    "variable, value, advice",
    [
        ("ACCELERATE_DYNAMO_BACKEND", "EAGER", "add --torch_compile, or change that configuration"),
        ("ACCELERATE_USE_FSDP", "true", "add --fsdp, or change"),
        ("ACCELERATE_USE_DEEPSPEED", "true", "add --deepspeed, or change"),
        ("ACCELERATE_FP8_BACKEND", "TE", "asks for it; change that configuration"),
        ("ACCELERATE_USE_MEGATRON_LM", "true", "asks for it; change that configuration, or start with torchrun"),
        ("ACCELERATE_USE_PARALLELISM_CONFIG", "true", "asks for it; change that configuration"),
    ],
)
def test_a_setting_of_the_launcher_that_no_flag_names(refuse, variable, value, advice):
    """A run was compiled, or a model divided, and neither header nor record had it."""
    sentence = refuse("--use_cpu", **{variable: value})
    assert f"the environment has {variable}={value}, maybe from accelerate's own" in sentence and advice in sentence


def test_settings_of_the_launcher_that_are_off_or_that_a_flag_names(environment):
    off = dict.fromkeys(launch_checks.LAUNCHED_SETTINGS, "false") | {"ACCELERATE_DYNAMO_BACKEND": "NO"}
    put(environment, off)
    RunArguments(output_dir="out", use_cpu=True)
    put(environment, {"ACCELERATE_DYNAMO_BACKEND": "EAGER"})
    assert RunArguments(output_dir="out", use_cpu=True, torch_compile_backend="eager").torch_compile


@pytest.mark.parametrize("variables", [{"RANK": "1"}, {"RANK": "1", "WORLD_SIZE": "1"}])
def test_a_rank_alone_starts_no_process_of_several(refuse, variables):
    """It trained in silence, since only the first process says where it writes."""
    sentence = refuse("--use_cpu", **variables)
    assert "the environment has RANK=1, and no other process; start with torchrun, or unset it" in sentence


@pytest.mark.parametrize("flag", ["fsdp_config", "deepspeed", "accelerator_config"])
def test_a_settings_file_that_is_missing_or_holds_something_else(refuse, tmp_path, flag):
    sentence = refuse(f"--{flag}", str(tmp_path / "missing.json"))
    assert sentence.startswith(f"--{flag}") and "missing.json" in sentence
    (tmp_path / "list.json").write_text("[1]")
    assert "list.json holds no JSON object" in refuse(f"--{flag}", str(tmp_path / "list.json"))


def test_deepspeed_that_is_not_installed(refuse, monkeypatch, tmp_path):
    monkeypatch.setattr(launch_checks, "is_deepspeed_available", lambda: False)
    (tmp_path / "deepspeed.json").write_text("{}")
    assert "pip install deepspeed" in refuse("--deepspeed", str(tmp_path / "deepspeed.json"))


@pytest.mark.parametrize("value, switch", [("true", True), ("yes", True), ("no", False), ("full_shard", "full_shard")])
def test_fsdp_in_an_argument_file_is_a_switch(tmp_path, monkeypatch, value, switch):
    seen = []
    monkeypatch.setattr("wordmask.config.run_arguments.check_sharding", lambda fsdp, *others: seen.append(fsdp))
    path = tmp_path / "run.yaml"
    path.write_text(f"model_type: bert\ntrain_file: text.txt\nuse_cpu: true\nfsdp: {value}\n")
    parse_arguments([str(path)])
    assert seen == [switch]


# TPUs


@pytest.fixture
def fake(monkeypatch):
    """A function that makes a package for TPUs appear, as far down as it can be faked."""
    found = (import_utils.is_torch_xla_available, import_utils.is_torch_tpu_available)

    def appear(package: str) -> None:
        if package == "torch_xla":
            available = import_utils._is_package_available
            monkeypatch.setattr(
                import_utils,
                "_is_package_available",
                lambda name, **options: (True, "2.9.0") if name == package else available(name, **options),
            )
            monkeypatch.setitem(sys.modules, package, SimpleNamespace())
        elif package == "torch_tpu":  # registers itself as PyTorch's accelerator
            monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: SimpleNamespace(type="tpu"))
            monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
        for function in found:
            function.cache_clear()

    yield appear
    monkeypatch.undo()
    for function in found:
        function.cache_clear()


def test_packages_for_tpus_are_recognised_and_not_needed(fake):
    fake("neither")
    assert tpu_package() is None
    fake("torch_tpu")
    assert tpu_package() == "torch_tpu"
    fake("torch_xla")
    assert tpu_package() == "torch_xla"
