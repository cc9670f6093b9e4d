"""On a card: CUDA graphs, which start all kernels of a layer at once, change neither training nor evaluation."""

from __future__ import annotations

import pytest
import torch

import run_mlm_wwm
from conftest import sample_tokenizer, save_model, trajectory, uneven_text

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")]
SIZE = {"hidden_size": 64, "num_attention_heads": 2, "num_hidden_layers": 4}


@pytest.mark.parametrize(
    ("model_type", "more", "budget"),
    [
        ("bert", "--pack_sequences", ""),
        ("bert", "--pack_sequences --gradient_accumulation_steps 2", ""),
        ("bert", "--pack_sequences --activation_checkpointing", ""),
        ("modernbert", "--pack_sequences", "--activation_memory_budget 0.8"),
        ("modernbert", "--length_schedule 32:0.5,64:0.5 --pack_sequences", ""),
    ],
)
def test_training_and_evaluation_with_graphs_are_those_without(tmp_path, model_type, more, budget):
    from torch._inductor import cudagraph_trees

    torch._dynamo.reset()
    cudagraph_trees.reset_cudagraph_trees()  # those of another test
    model = save_model(tmp_path / "model", sample_tokenizer("bert"), model_type, **SIZE)
    argv = f"--model_name_or_path {model} --train_file {uneven_text(tmp_path, 200)} --bf16 --dropout 0 --max_steps 8"
    argv += " --pad_to_max_length --per_device_train_batch_size 8 --learning_rate 1e-3 --eval_strategy steps"
    argv += f" --eval_steps 4 --logging_steps 1 --do_train --do_eval --save_strategy no {more}"
    argv += "" if "--length_schedule" in more else " --max_seq_length 64"
    compiled = "--torch_compile --torch_compile_mode reduce-overhead"
    found = {}
    for name, flags in {"plain": "", "graphs": f"{compiled} {budget}"}.items():
        metrics = run_mlm_wwm.main(f"{argv} {flags} --output_dir {tmp_path / name}".split())
        losses, norms = zip(*trajectory(tmp_path / name), strict=True)
        found[name] = losses, norms, [metrics["eval_loss"]]
    assert cudagraph_trees.get_manager(0, create_if_none_exists=False).roots, "there are graphs"
    for plain, graphs, bound in zip(found["plain"], found["graphs"], (0.01, 0.1, 0.01), strict=True):
        assert graphs == pytest.approx(plain, rel=bound)
