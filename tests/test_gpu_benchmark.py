"""benchmarks/gpu.py: what it measures is right, and a second call goes on. Its figures for a CPU mean nothing."""

from __future__ import annotations

import fcntl
import json
import math
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM, BertConfig, ModernBertConfig, Trainer, TrainingArguments

import varlen_kernel
from conftest import sample_lines, sample_tokenizer
from wordmask.models import varlen_attention
from wordmask.utils.errors import InputError

ROOT = Path(__file__).parent.parent
SIDES = ("left", "right")  # of a window


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)


@pytest.mark.slow
def test_tiny_measures_every_part_on_a_cpu_and_a_second_call_adds_what_is_missing(tmp_path):
    import gpu
    from gpu_sides import SIDES

    def call(*more: str) -> dict:
        command = [sys.executable, "benchmarks/gpu.py", "--tiny", "--output_dir", str(tmp_path), *more]
        command += ["--minutes", "60"]  # on a busy machine, the minutes of a card would end it
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE)
        return json.loads((tmp_path / "gpu.json").read_text())

    results = call()
    for part in gpu.PARTS:
        sides = results[part.name]
        if part.trials:
            assert list(sides) == list(part.sides) and all({"loss", "skipped"} & {*found} for found in sides.values())
        else:
            assert list(sides) == list(part.sides) and {*sides} == {*SIDES} == {"plain", "ours", "ours_gpu"}
            assert all(figures["tokens_per_second"] > 0 for figures in sides.values()), sides
            losses = [figures["loss"] for figures in sides.values()]
            assert losses == pytest.approx([losses[0]] * 3, rel=0.02)
    assert results["tests"]["ended"] and not results["tests"]["failed"]
    assert "| modernbert-1024 | ours_gpu |" in (tmp_path / "gpu.md").read_text()
    lost = results["bert-128"].pop("ours")
    del results["bert-512"]["ours"]
    (tmp_path / "gpu.json").write_text(json.dumps(results))
    again = call("--only", "bert-128", "bert-512", "--at_once", "2")
    assert "loss" in again["bert-512"]["ours"]
    same = {name: again["bert-128"]["ours"][name] for name in ("timed_tokens", "labelled", "padding")}
    assert same == {name: lost[name] for name in same}, "the same text, tokenizer and masks"
    assert again["bert-128"]["plain"] == results["bert-128"]["plain"]


@pytest.mark.slow
def test_a_profile_of_a_step_has_the_products_of_matrices(capsys):
    import gpu_profile

    with pytest.raises(SystemExit):
        gpu_profile.main(["--tiny", "--parts", "bert-512-lines-uncompiled"])
    assert "invalid choice" in capsys.readouterr().err, "that is plain's"
    assert gpu_profile.main(["--tiny", "--parts", "modernbert-1024-flash4"]) == {}
    assert "modernbert-1024-flash4: it needs " in capsys.readouterr().out
    names = ["bert-512", "modernbert-512"]
    found = gpu_profile.main(["--tiny", "--parts", *names, "--kernels", "3", "--functions", "2"])
    printed = capsys.readouterr().out
    for name in names:
        assert found[name]["matrix products"] > 0 and found[name]["optimizer"] > 0
        assert f"{name}: " in printed
    assert "run_backward" in printed and "aten::" in printed


@pytest.mark.slow
def test_a_smaller_budget_keeps_less_in_a_layer_of_both_models():
    import activation_memory

    found = activation_memory.main(["--budgets", "1", "0.8"])
    all_kept = found[True, 1.0]
    assert list(all_kept) == ["bert", "modernbert"]
    for smaller in ((True, 0.8), (False, 1.0)):
        assert all(0.5 * kept < found[smaller][name] < 0.9 * kept for name, kept in all_kept.items())


@pytest.mark.parametrize(
    "kernel, kind",
    [
        ("void pytorch_flash::flash_bwd_convert_dq_kernel<Flash_bwd_kernel_traits<64, 128>>", "attention"),
        ("nvjet_sm90_tst_192x192_64x4_2x1_v_bz_coopB_TNN", "matrix products"),
        ("void cublasLt::splitKreduce_kernel<32, 16, int, float>", "matrix products"),
        ("void cutlass::Kernel2<cutlass_80_tensorop_bf16_s16816gemm_bf16_256x128_64x3_tn_align2>", "matrix products"),
        ("triton_poi_fused__scaled_dot_product_flash_attention_addmm_1", "compiled by torch.compile"),
        ("triton_per_fused__to_copy__unsafe_view_add_native_layer_norm_4", "compiled by torch.compile"),
        ("void at::native::multi_tensor_apply_kernel<at::native::FusedOptimizerTensorListMetadata>", "optimizer"),
        ("Memcpy HtoD (Pinned -> Device)", "copies"),
        ("void at::native::reduce_kernel<128, 4, at::native::ReduceOp<float>>", "others"),
    ],
)
def test_kernels_that_a_gpu_runs_have_their_kind(kernel, kind):
    from gpu_profile import kind_of

    assert kind_of(kernel) == kind


def test_a_text_without_a_line_that_fits_is_refused(tmp_path):
    """It hung without end."""
    from gpu_text import write_text

    with pytest.raises(InputError, match="^--text: no line has at most 8 tokens"):
        write_text(["one two three four five six seven"], sample_tokenizer("bert"), 8, (1, 1), tmp_path, full=False)


def test_full_documents_hold_all_words_in_the_length(monkeypatch):
    from gpu_text import full_documents, word_sizes

    lines, tokenizer = sample_lines("english", 50), sample_tokenizer("bert")
    sizes = word_sizes(lines, tokenizer)
    documents = list(islice(full_documents(lines, sizes, 40), 60))
    lengths = [len(ids) for ids in tokenizer(documents)["input_ids"]]
    assert max(lengths) <= 40 and min(lengths) > 40 - max(sizes.values())
    words = Counter(" ".join(documents).split())
    assert words.keys() <= sizes.keys() and documents == list(islice(full_documents(lines, sizes, 40), 60))


def test_operations_are_those_of_the_weights_and_of_attention():
    from gpu_sides import RATE
    from gpu_text import operations

    size = {"hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 16}
    config = BertConfig(vocab_size=100, max_position_embeddings=64, **size)
    layer, head = 4 * 8 * 8 + 2 * 8 * 16, 8 * 8
    weights = 3 * layer + head + RATE * 100 * 8
    assert operations(config, np.array([32, 32]), 64) == pytest.approx(6 * weights + 12 * 3 * 8 * 32)
    # A token of a document of 10 sees 10, one of a document of 30 sees 30: on average (100 + 900) / 40.
    assert operations(config, np.array([10, 30]), 64) == pytest.approx(6 * weights + 12 * 3 * 8 * 25)
    special = dict.fromkeys(["pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"], 0)
    config = ModernBertConfig(vocab_size=100, local_attention=16, **size, **special)
    layer = 4 * 8 * 8 + 3 * 8 * 16
    weights = 3 * layer + head + RATE * 100 * 8
    assert operations(config, np.array([64]), 64) == pytest.approx(6 * weights + 12 * 8 * (64 + 16 + 16))


def tiny_training(folder: Path) -> tuple[AutoModelForMaskedLM, TrainingArguments, list[dict], int]:
    """The model, the arguments and the rows of a training of 5 steps of 4 rows, and the id of their padding."""
    tokenizer = sample_tokenizer("bert")
    size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    config = BertConfig(vocab_size=len(tokenizer), **size)
    ids = torch.full((4, 10), 7)
    ids[:, 6:] = tokenizer.pad_token_id
    labels = torch.full((4, 10), -100)
    labels[:, 2] = 7
    rows = [
        {"input_ids": ids[0], "attention_mask": ids[0].ne(tokenizer.pad_token_id).long(), "labels": labels[0]}
    ] * 20
    arguments = TrainingArguments(
        folder, max_steps=5, per_device_train_batch_size=4, use_cpu=True, report_to="none", disable_tqdm=True
    )
    return AutoModelForMaskedLM.from_config(config), arguments, rows, tokenizer.pad_token_id


def test_the_meter_counts_real_tokens_after_the_warm_up(tmp_path):
    from meter import Meter

    model, arguments, rows, pad = tiny_training(tmp_path)
    meter = Meter(2, pad)
    with meter.attached():
        Trainer(model, arguments, train_dataset=rows).train()
    figures = meter.figures(flops=10.0, rate=1000.0, tokens=5 * 4 * 6)
    assert meter.figures(10.0, 1000.0, tokens=5 * 4 * 6 - 2)["timed_tokens"] == 3 * 4 * 6 - 2, "two are copies"
    assert figures["timed_steps"] == 3 and figures["timed_tokens"] == 3 * 4 * 6
    assert figures["padding"] == pytest.approx(0.4) and figures["labelled"] == pytest.approx(1 / 6)
    assert figures["utilisation"] == pytest.approx(figures["tokens_per_second"] / 100)
    assert 0 < figures["waiting_for_data"] < 1 and figures["compilations_after_warmup"] == 0
    with meter.attached(), pytest.raises(ValueError, match="warm-up"):
        arguments.max_steps = 2
        Trainer(model, arguments, train_dataset=rows).train()


def test_nothing_is_timed_while_another_process_has_its_turn(tmp_path):
    from meter import Meter

    model, arguments, rows, pad = tiny_training(tmp_path)
    meter = Meter(2, pad, str(tmp_path / "turn"))
    with ThreadPoolExecutor(1) as pool, meter, meter.attached():
        with open(tmp_path / "turn", "w") as other:
            fcntl.flock(other, fcntl.LOCK_SH)  # as a process does that imports
            done = pool.submit(Trainer(model, arguments, train_dataset=rows).train)
            while 1 not in meter.times:
                assert not done.done() or done.result()
                time.sleep(0.01)
            time.sleep(0.3)
            assert list(meter.times) == [1]
        done.result()
    assert list(meter.times) == [1, 2, 5] and meter.locked.closed


def test_results_compare_with_the_plain_side_and_say_what_is_missing(tmp_path):
    from gpu_results import Results

    facts = {"card": "a card", "driver": "1", "versions": {"torch": "2.11.0"}, "text": "t", "code": "c", "tiny": False}
    facts["matrix_rate"] = 785e12
    results = Results(str(tmp_path), dict(facts))
    results.add("bert-512", "ours", {"tokens_per_second": 300.0, "loss": 5.0})
    results.add("bert-512", "plain", {"tokens_per_second": 200.0, "loss": 5.1, "peak_memory_mb": 100.0})
    results.add("bert-512", "ours_gpu", {"error": "out of memory"})
    results.add("other", "ours_gpu", {"skipped": "it needs PyTorch 2.13, and this is 2.11"})
    results.add("bert-512-budget-residual", "ours_gpu", {"tokens_per_second": 500.0, "peak_memory_mb": 40.0})
    found = Results(str(tmp_path), dict(facts)).found
    trial = found["bert-512-budget-residual"]["ours_gpu"]
    assert trial["times_plain"] == 2.5 and trial["memory_of_plain"] == 0.4
    assert found["bert-512"]["ours"]["times_plain"] == 1.5 and found["bert-512"]["plain"]["times_plain"] == 1.0
    table = (tmp_path / "gpu.md").read_text()
    assert "785 TFLOP/s" in table and "| bert-512 | ours | 300 | 1.50 |" in table
    assert "- bert-512, ours_gpu: out of memory." in table and "- other, ours_gpu: it needs PyTorch 2.13" in table
    assert "compared with" not in table
    results.add("bert-512-graphs", "plain", {"tokens_per_second": 250.0, "loss": 5.1, "peak_memory_mb": 80.0})
    assert results.found["bert-512"]["ours"]["times_plain"] == 1.2, "plain is as fast as it was measured to be"
    assert results.found["bert-512-budget-residual"]["ours_gpu"]["memory_of_plain"] == 0.5
    assert "- bert-512 is compared with plain of bert-512-graphs." in (tmp_path / "gpu.md").read_text()
    with pytest.raises(InputError, match="results of another card .*give another directory"):
        Results(str(tmp_path), facts | {"card": "another"})


def test_a_part_names_the_pytorch_that_it_needs(monkeypatch):
    import gpu

    chunked = next(part for part in gpu.PARTS if part.trials == ("chunked",))
    assert chunked.name == "modernbert-1024-chunked" and gpu.PARTS[0].name == "modernbert-1024"
    monkeypatch.setattr(torch, "__version__", "2.9.1+cu130")
    assert gpu.PARTS[0].lacks() == "it needs PyTorch 2.11, and this is 2.9.1+cu130"
    assert "2.11" in chunked.lacks()
    monkeypatch.setattr(torch, "__version__", "2.12.0")
    assert gpu.PARTS[0].lacks() is None
    assert chunked.lacks() == "it needs PyTorch 2.13, and this is 2.12.0"
    monkeypatch.setattr(torch, "__version__", "2.13.0")
    both = gpu.Part("bert", 512, trials=("residual", "flash4"))
    assert both.name == "bert-512-residual-flash4" and both.sides == ("ours_gpu",)
    assert both.lacks() == "it needs an NVIDIA GPU"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert both.lacks() == "it needs the module flash_attn.cute"


@pytest.mark.slow
def test_the_operations_around_flash_attention_4_give_the_gradients_of_each_document(monkeypatch):
    """With other kernels, whose functions return as many values as those of the package."""
    import flash_attention_4

    def window(settings: dict) -> list[int]:
        given = [settings[f"window_size_{side}"] for side in SIDES]
        return given if given[0] is not None else list(varlen_attention.EVERYTHING)

    def forward(query, key, value, return_lse, **settings):
        bounds, longest, scale = (settings[name] for name in ("cu_seqlens_q", "max_seqlen_q", "softmax_scale"))
        found = varlen_kernel.on_cpu(
            query, key, value, bounds, bounds, longest, longest, False, scale, window(settings)
        )
        return found[0], found[1].float(), None, None, None

    def backward(query, key, value, output, gradient, sums, **settings):
        scale, bounds = settings["softmax_scale"], settings["cu_seqlens_q"]
        given = (gradient, query, key, value, output, sums, bounds, scale, window(settings))
        return (*varlen_kernel.backward_on_cpu(*given), None)

    kernels = SimpleNamespace(_flash_attn_fwd=forward, _flash_attn_bwd=backward)
    monkeypatch.setattr(flash_attention_4, "_kernels", lambda: kernels)
    bounds = torch.tensor([0, 5, 5, 12], dtype=torch.int32)
    for reach in (None, (2, 2)):
        states = [torch.randn(12, 2, 8, dtype=torch.float64, requires_grad=True) for _ in range(3)]
        results = []
        for attend in (flash_attention_4.attention, torch.compile(flash_attention_4.attention, backend="aot_eager")):
            results.append([attend(*states, bounds, 7, None, reach)])
        results.append([varlen_attention.by_document(*states, bounds, 7, None, reach)])
        for result in results:
            result += torch.autograd.grad(result[0].square().sum(), states)
        torch.testing.assert_close(results[0], results[2])
        torch.testing.assert_close(results[1], results[2])


def test_tests_that_could_not_begin_have_not_ended(monkeypatch, tmp_path):
    import gpu

    without_pytest = tmp_path / "python"
    without_pytest.write_text("#!/bin/sh\necho No module named pytest\nexit 1\n")
    without_pytest.chmod(0o755)
    monkeypatch.setattr(gpu.sys, "executable", str(without_pytest))
    found = gpu.run_tests(math.inf)
    assert not found["ended"] and found["counts"] == {}


@pytest.mark.slow
def test_outcomes_of_tests_that_were_stopped_are_kept(monkeypatch, tmp_path):
    """Minutes on a GPU would be lost. The next call runs them again."""
    import gpu

    (tmp_path / "tests/gpu").mkdir(parents=True)
    code = "import time\n\ndef test_fails():\n    assert 0\n\n"
    code += "def test_takes_long():\n    open('begun', 'w').close()\n    time.sleep(300)\n"
    (tmp_path / "tests/gpu/test_slow.py").write_text(code)
    monkeypatch.setattr(gpu, "ROOT", tmp_path)
    monkeypatch.setattr(gpu, "find_spec", lambda name: None)  # one process

    class Timer(threading.Timer):
        """Begins when the second test does, however long that takes."""

        def run(self):
            while not (tmp_path / "begun").exists() and not self.finished.wait(0.05):
                pass
            super().run()

    run_tests = gpu.run_tests
    monkeypatch.setattr(gpu.threading, "Timer", Timer)
    monkeypatch.setattr(gpu, "run_tests", lambda deadline: run_tests(time.monotonic() + 1))
    argv = ["--tiny", "--output_dir", str(tmp_path / "results"), "--only", "tests", "--minutes", "60"]
    found = gpu.main(argv)["tests"]
    assert found["counts"]["failed"] == 1 and not found["ended"]
    assert found["failed"] == ["tests/gpu/test_slow.py::test_fails"]
    assert "and then they were stopped" in (tmp_path / "results/gpu.md").read_text()


@pytest.mark.slow
def test_what_the_time_does_not_allow_is_left_to_the_next_call(tmp_path, capsys):
    import gpu

    found = gpu.main(["--tiny", "--output_dir", str(tmp_path), "--only", "bert-512", "tests", "--minutes", "0"])
    printed = capsys.readouterr().out
    assert "bert-512, plain: not yet measured; call again" in printed and "tests: not yet run" in printed
    assert not {"bert-512", "tests"} & found.keys()


def test_a_side_begins_only_where_it_can_end_before_the_deadline(monkeypatch, capsys):
    """Its time on a GPU would be lost; a shorter side may still fit."""
    import gpu

    begun, added = [], {}
    sides = SimpleNamespace(preparing=nullcontext())
    sides.run = lambda work, deadline: begun.append(work.func) or {"loss": 1.0}
    results = SimpleNamespace(
        found={"matrix_rate": 1.0}, add=lambda part, side, found: added.setdefault(part, []).append(side)
    )
    monkeypatch.setattr(gpu, "prepare", lambda *given: "a case")
    monkeypatch.setattr(torch, "__version__", "2.11.0")
    options = SimpleNamespace(tiny=False, only=["bert-512"], sides=["plain", "ours", "ours_gpu"])
    gpu.measure(gpu.Part("bert", 512), options, results, sides, time.monotonic() + gpu.LEAST_SECONDS["ours_gpu"] + 10)
    assert begun == [gpu.SIDES["ours"], gpu.SIDES["ours_gpu"]] and added == {"bert-512": ["ours", "ours_gpu"]}
    assert "bert-512, plain: not yet measured; call again" in capsys.readouterr().out


def test_without_a_gpu_one_sentence_says_what_runs_here(monkeypatch, capsys, tmp_path):
    import gpu

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as status:
        gpu.main(["--output_dir", str(tmp_path)])
    assert status.value.code == 2 and "--tiny runs on a CPU" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_make_bench_gpu_needs_no_environment_of_its_own(tmp_path):
    command = [
        "make",
        "--no-print-directory",
        "-n",
        "bench-gpu",
        f"VENV={tmp_path}",
        "PYTHON=bare",
        "TEXT=t.txt",
        "GPU=--only tests",
    ]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    words = shown.replace("\\\n", " ").split()
    assert words[1:] == "bare benchmarks/gpu.py --output_dir gpu_results --text t.txt --only tests".split()


@pytest.mark.slow
def test_a_process_does_not_import_the_program_that_starts_it(tmp_path):
    """It imported torch so, while another process was timed."""
    program = tmp_path / "program.py"
    body = "if __name__ == '__main__':\n    print(Process('json').run(partial(dict, a=1), 60))"
    program.write_text(f"print('imported')\nfrom functools import partial\nfrom sides import Process\n{body}\n")
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'benchmarks'}"}
    done = subprocess.run([sys.executable, program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "imported\n{'a': 1}\n"


@pytest.mark.slow
def test_a_process_gives_a_result_or_one_sentence():
    from sides import Process

    assert Process("json").run(partial(dict, a=1), 60) == {"a": 1}
    with pytest.raises(RuntimeError, match=r"^ValueError: could not convert"):
        Process("json").run(partial(float, "x"), 60)
    with pytest.raises(RuntimeError, match="process died"):
        Process("json").run(partial(os._exit, 1), 60)
    begin = time.monotonic()
    with pytest.raises(RuntimeError, match="more than 1 seconds"):
        Process("json").run(partial(time.sleep, 300), 1)
    assert time.monotonic() - begin < 250
