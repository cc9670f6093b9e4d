"""On a card: too little memory ends with one sentence, and the batch that a dry run names then trains."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from conftest import sample_tokenizer, save_model, trajectory

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")]
ROOT = Path(__file__).parent.parent.parent
BATCH, LENGTH = 1024, 64  # the activations of a step take some GB
LIMITED = """
import sys
import torch
import run_mlm_wwm

torch.cuda.set_per_process_memory_fraction(400e6 / torch.cuda.get_device_properties(0).total_memory)
run_mlm_wwm.main(sys.argv[1:])
"""


def run(program: Path, argv: list[str]) -> tuple[int, str]:
    """The exit status of a run with 400 MB, and what it prints."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, str(program), *argv]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    done = subprocess.run(command, cwd=ROOT, env=environment, check=False, timeout=180, **options)
    return done.returncode, done.stdout


COMPILED = "--bf16 --torch_compile --pad_to_max_length"


@pytest.mark.parametrize("more", ["", COMPILED, f"{COMPILED} --torch_compile_mode reduce-overhead"])
def test_a_batch_without_room_names_one_that_has_room(tmp_path, more):
    size = {"hidden_size": 64, "num_attention_heads": 2, "num_hidden_layers": 3}
    model = save_model(tmp_path / "model", sample_tokenizer("bert"), **size)
    (tmp_path / "text.txt").write_text("".join(f"{number} {'a ' * LENGTH}\n" for number in range(2 * BATCH)))
    (tmp_path / "limited.py").write_text(LIMITED)
    argv = f"--model_name_or_path {model} --train_file {tmp_path}/text.txt --max_seq_length {LENGTH} --do_train {more}"
    argv += f" --max_steps 2 --logging_steps 1 --save_strategy no --output_dir {tmp_path}/out"
    argv += " --per_device_train_batch_size"
    status, printed = run(tmp_path / "limited.py", [*argv.split(), str(BATCH)])
    error = f"error: --per_device_train_batch_size {BATCH}: a step does not fit into the GPU's memory; give 512 "
    assert status == 2 and "Traceback" not in printed, printed[-3000:]
    assert error in printed and not (tmp_path / "out/model.safetensors").exists(), printed[-3000:]
    status, printed = run(tmp_path / "limited.py", [*argv.split(), str(BATCH), "--dry_run"])
    pattern = r"; (\d+) fits, so give (--per_device_train_batch_size \1 --gradient_accumulation_steps \d+),"
    named = re.search(pattern, printed)
    assert status == 2 and named, printed[-3000:]
    status, printed = run(tmp_path / "limited.py", [*argv.split(), *named[2].split()[1:]])
    assert status == 0 and len(trajectory(tmp_path / "out")) == 2, printed[-3000:]
