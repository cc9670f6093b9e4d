"""A training step asks for no number of a tensor, so a GPU never waits for the program, nor the program for it."""

from __future__ import annotations

from pathlib import Path

import pytest
from datasets import Dataset
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForMaskedLM, AutoTokenizer, TrainerCallback

import run_mlm_wwm
from conftest import sample_tokenizer, save_model, slow_after, uneven_text
from varlen_kernel import kernel  # noqa: F401  # a fixture
from wordmask.config.run_arguments import RunArguments
from wordmask.models.forward import Forward
from wordmask.models.padding_mask import padding_mask
from wordmask.training.trainer.mlm_trainer import MlmTrainer

WAITS = {"aten::item", "aten::_local_scalar_dense", "aten::is_nonzero", "aten::nonzero", "aten::equal"}
STEPS = 2  # that are looked at, after the first two


class Profiler(TrainerCallback):
    """Profiles some steps in the middle of a training."""

    def __init__(self) -> None:
        self.profile = profile(activities=[ProfilerActivity.CPU])
        self.events: list = []

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 2:
            self.profile.start()
        if state.global_step == 2 + STEPS:
            self.profile.stop()
            self.events = list(self.profile.events())


def inside(event) -> bool:
    """Whether an event belongs to the attention that stands for the kernel of a GPU."""
    return event is not None and (event.name.startswith("torch_attn::") or inside(event.cpu_parent))


@pytest.fixture
def profiler(monkeypatch) -> Profiler:
    found, make = Profiler(), MlmTrainer.__init__

    def with_profiler(self, *args, **kwargs):
        make(self, *args, **kwargs)
        self.add_callback(found)

    monkeypatch.setattr(MlmTrainer, "__init__", with_profiler)
    return found


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, str]:
    folder, tokenizer = tmp_path_factory.mktemp("models"), sample_tokenizer("bert")
    settings = {"bert": {}, "modernbert": {"hidden_size": 32, "local_attention": 8, "num_hidden_layers": 3}}
    return {name: save_model(folder / name, tokenizer, name, **more) for name, more in settings.items()}


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> str:
    return uneven_text(tmp_path_factory.mktemp("text"), 90)


def waits_of_a_step(profiler: Profiler, model: str, text: str, folder: Path, *more: str) -> float:
    """As on a GPU, without micro-batches; the fused AdamW reads the number of its step on a CPU only."""
    length = [] if "--length_schedule" in more else ["--max_seq_length", "60"]
    run_mlm_wwm.main(
        f"--model_name_or_path {model} --train_file {text} --output_dir {folder} --max_steps 6 --logging_steps 6 "
        "--use_cpu --do_train --save_strategy no --per_device_train_batch_size 4 --optim sgd "
        "--tokens_per_pass 0".split()
        + [*length, *more]
    )
    return waits_in(profiler)


def waits_in(profiler: Profiler) -> float:
    """The waits of a step."""
    assert any(event.name == "aten::linear" for event in profiler.events), "nothing was profiled"
    return sum(event.name in WAITS and not inside(event) for event in profiler.events) / STEPS


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize(
    "model, more",
    slow_after(
        3,
        [
            ("bert", ""),
            ("bert", "--pack_sequences --pad_to_max_length --gradient_accumulation_steps 2 --no_sparse_prediction"),
            ("modernbert", "--pack_sequences --attn_implementation varlen"),
            ("bert", "--length_schedule 30:0.5,60:0.5 --pack_sequences"),
            ("bert", "--tokens_per_step 100"),
            ("bert", "--attn_implementation eager --no_line_by_line"),
            ("modernbert", ""),
            ("bert", "--pack_sequences"),
            ("modernbert", "--attn_implementation varlen --label_smoothing_factor 0.1"),
        ],
    ),
)
def test_a_step_waits_for_nothing(profiler, models, text, tmp_path, model, more):
    assert waits_of_a_step(profiler, models[model], text, tmp_path, *more.split()) == 0


@pytest.mark.parametrize("bounds", [(40, 60), (64, 64)], ids=["padding", "no padding"])
@pytest.mark.parametrize("name", ["bert", "modernbert"])
def test_a_step_of_a_program_of_your_own_waits_for_nothing(profiler, models, tmp_path, name, bounds):
    tokenizer = AutoTokenizer.from_pretrained(models[name])
    ids = [tokenizer("walk " * 70)["input_ids"][: bounds[number % 2]] for number in range(24)]
    args = RunArguments(
        str(tmp_path), max_steps=6, logging_steps=6, per_device_train_batch_size=4, optim="sgd", use_cpu=True
    )
    model = AutoModelForMaskedLM.from_pretrained(models[name])
    forward = Forward.of(model, True, padding=padding_mask(model))  # the default on a GPU
    dataset = Dataset.from_dict({"input_ids": ids})
    MlmTrainer(model, args, dataset, processing_class=tokenizer, forward=forward).train()
    assert waits_in(profiler) == 0


def test_a_wait_is_noticed(profiler, models, text, tmp_path):
    """Guards the test above: transformers can look at each loss."""
    more = ["--pack_sequences", "--logging_nan_inf_filter"]
    assert waits_of_a_step(profiler, models["bert"], text, tmp_path, *more) >= 2
