"""A broken checkpoint is skipped with a sentence, and the run goes on from the one before it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForMaskedLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainingArguments,
)

import run_mlm_wwm
from conftest import refusal, sample_tokenizer, save_model
from wordmask.config.run_arguments import RunArguments
from wordmask.training.records.file_names import MANIFEST, PROGRESS
from wordmask.training.records.manifest import find_damage
from wordmask.training.trainer.checkpoints import check_saved_with
from wordmask.training.trainer.mlm_trainer import MlmTrainer
from wordmask.utils.errors import InputError

SETTINGS = "--use_cpu --do_train --max_steps 6 --save_steps 2 --max_seq_length 32 --per_device_train_batch_size 4"


@pytest.fixture(scope="module")
def finished(english_model, tmp_path_factory) -> Path:
    """A folder with a text, and a run in `out` that has checkpoints of the steps 2, 4 and 6."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "text.txt").write_text("".join(f"line {number} of a text\n" for number in range(24)))
    run_mlm_wwm.main(_argv(english_model, folder / "text.txt", folder / "out"))
    return folder


def _argv(model: str, text: Path, out: Path) -> list[str]:
    return ["--model_name_or_path", model, "--train_file", str(text), "--output_dir", str(out), *SETTINGS.split()]


@pytest.fixture
def out(finished, tmp_path) -> Path:
    """A copy of that run, as if it was killed before its end."""
    shutil.copytree(finished / "out", tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "checkpoint-6")
    for name in ("model.safetensors", "train_results.json", "all_results.json"):
        (tmp_path / "out" / name).unlink()
    return tmp_path / "out"


@pytest.fixture
def resume(english_model, finished, out) -> Callable[..., dict[str, float]]:
    """Start the run again."""
    return lambda *more: run_mlm_wwm.main([*_argv(english_model, finished / "text.txt", out), *more])


def is_as_finished(out: Path, finished: Path) -> bool:
    """Whether the run has ended as the one that nothing happened to."""
    names = ("model.safetensors", "checkpoint-6/scheduler.pt", "checkpoint-6/rng_state.pth")
    return all((out / name).read_bytes() == (finished / "out" / name).read_bytes() for name in names)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def change(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "empty": (lambda path: path.write_bytes(b""), "bytes instead of"),
    "cut": (cut, "bytes instead of"),
    "missing": (Path.unlink, "is missing"),
    "changed": (change, "is not what was written"),
}
FILES = (
    *("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "config.json", "trainer_state.json"),
    *("training_args.bin", PROGRESS, MANIFEST),
)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_each_damage_of_each_file_is_found(name, damage, out):
    assert find_damage(out / "checkpoint-4") is None
    DAMAGES[damage][0](out / "checkpoint-4" / name)
    problem = find_damage(out / "checkpoint-4")
    assert problem is not None and "\n" not in problem
    if name not in (PROGRESS, MANIFEST):
        assert problem.startswith(f"{name} ") and DAMAGES[damage][1] in problem


@pytest.mark.parametrize("name", ["optimizer.pt", "trainer_state.json", MANIFEST])
def test_the_one_before_a_broken_checkpoint_is_used(name, out, finished, resume, caplog):
    """With one checkpoint to keep: the broken one is not kept in place of a whole one."""
    cut(out / "checkpoint-4" / name)
    resume("--save_total_limit", "1")
    assert f"{out / 'checkpoint-4'} is not used: " in caplog.text
    assert f"going on from {out / 'checkpoint-2'}" in caplog.text
    assert is_as_finished(out, finished) and [path.name for path in out.glob("checkpoint-*")] == ["checkpoint-6"]


@pytest.mark.parametrize("limit, kept", [("4", [2, 3, 4]), ("2", [2, 3])])
def test_a_damaged_checkpoint_of_a_later_step_goes_first_and_none_where_fewer_may_stay(limit, kept, out, resume):
    cut(out / "checkpoint-4" / "optimizer.pt")
    resume("--save_total_limit", limit, "--save_steps", "1", "--max_steps", "3")
    assert sorted(int(path.name.partition("-")[2]) for path in out.glob("checkpoint-*")) == kept


@pytest.mark.parametrize("more", [["--save_total_limit", "1"], ["--overwrite_output_dir", "--save_strategy", "no"]])
def test_of_a_checkpoint_that_was_moved_to_another_disk_only_the_link_is_removed(more, out, resume, tmp_path):
    moved = [tmp_path / "disk" / f"checkpoint-{step}" for step in (2, 4)]
    for place in moved:
        shutil.move(out / place.name, place)
        (out / place.name).symlink_to(place)
    cut(moved[1] / "optimizer.pt")  # so that step 4 is saved again
    resume(*more)
    assert find_damage(moved[0]) is None and (moved[1] / "model.safetensors").exists()
    assert [path.name for path in out.glob("checkpoint-*")] == (
        ["checkpoint-6"] if more[0] == "--save_total_limit" else []
    )


def test_without_a_whole_checkpoint_the_run_says_so_and_begins_anew(out, finished, resume, caplog):
    for step in (2, 4):
        cut(out / f"checkpoint-{step}" / "model.safetensors")
    resume()
    assert f"{out} holds no whole checkpoint to go on from" in caplog.text and "going on from" not in caplog.text
    assert is_as_finished(out, finished)
    assert find_damage(out / "checkpoint-2") is None, "it was replaced"


@pytest.mark.parametrize("cuts", [1, 2], ids=["one is whole", "none is whole"])
def test_a_named_checkpoint_that_is_broken_is_refused(cuts, out, capsys, english_model, finished):
    for step in (4, 2)[:cuts]:
        cut(out / f"checkpoint-{step}" / "optimizer.pt")
    argv = _argv(english_model, finished / "text.txt", out)
    named = refusal(capsys, run_mlm_wwm.main, *argv, "--resume_from_checkpoint", str(out / "checkpoint-4"))
    assert named.startswith(f"--resume_from_checkpoint: {out / 'checkpoint-4'} cannot be used: optimizer.pt has ")
    if cuts == 2:
        any_of_them = refusal(capsys, run_mlm_wwm.main, *argv, "--resume_from_checkpoint", "true")
        assert any_of_them.startswith(f"--resume_from_checkpoint: {out} holds no checkpoint")


def test_a_run_killed_before_the_manifest_was_written_has_no_checkpoint_there(out, finished, resume, caplog):
    (out / "checkpoint-4" / MANIFEST).unlink()
    resume()
    assert "checkpoint-4 is not used: it was not finished" in caplog.text and is_as_finished(out, finished)


def make_plain(checkpoint: Path) -> None:
    """Make a checkpoint one of the plain `Trainer`, without a manifest and without a record of progress."""
    (checkpoint / MANIFEST).unlink()
    (checkpoint / PROGRESS).unlink()


def test_a_checkpoint_of_the_plain_trainer_is_accepted(out, finished, resume, caplog):
    make_plain(out / "checkpoint-4")
    resume()
    assert "checkpoint-4 has no manifest: we checked only that its files can be read" in caplog.text
    assert f"going on from {out / 'checkpoint-4'}" in caplog.text and is_as_finished(out, finished)


def test_the_directory_of_a_run_is_no_checkpoint(finished, english_model, tmp_path, capsys):
    """Its model may be that of an earlier step, the best one, and it has no optimizer."""
    argv = [*_argv(english_model, finished / "text.txt", tmp_path / "new"), "--resume_from_checkpoint"]
    sentence = refusal(capsys, run_mlm_wwm.main, *argv, str(finished / "out"))
    assert sentence == (
        f"--resume_from_checkpoint: {finished / 'out'} is the --output_dir of a run; give a checkpoint-* in it"
    )


def test_overwriting_from_a_checkpoint_leaves_none_that_a_later_start_would_go_on_from(out, resume):
    from_second = ("--overwrite_output_dir", "--resume_from_checkpoint", str(out / "checkpoint-2"))
    resume(*from_second, "--max_steps", "3", "--save_strategy", "no")
    assert {path.name for path in out.glob("checkpoint-*")} == {"checkpoint-2", "checkpoint-3"}


def test_a_training_of_the_plain_trainer_goes_on(english_model, finished, tmp_path, caplog):
    tokenizer = AutoTokenizer.from_pretrained(english_model)
    lines = (finished / "text.txt").read_text().splitlines()
    Trainer(
        AutoModelForMaskedLM.from_pretrained(english_model),
        TrainingArguments(str(tmp_path / "plain"), max_steps=4, save_steps=4, logging_steps=1, use_cpu=True),
        train_dataset=[dict(tokenizer(line)) for line in lines],
        data_collator=DataCollatorForLanguageModeling(tokenizer),
        processing_class=tokenizer,
    ).train()
    checkpoint, out = tmp_path / "plain" / "checkpoint-4", tmp_path / "out"
    argv = [*_argv(english_model, finished / "text.txt", out), "--learning_rate", "1e-3"]
    run_mlm_wwm.main([*argv, "--resume_from_checkpoint", str(checkpoint)])
    assert f"going on from {checkpoint}" in caplog.text
    before, after = (torch.load(path / "optimizer.pt")["state"][0] for path in (checkpoint, out / "checkpoint-6"))
    assert (int(before["step"]), int(after["step"])) == (4, 6)
    logged = json.loads((out / "checkpoint-6" / "trainer_state.json").read_text())["log_history"]
    assert [entry["step"] for entry in logged if "loss" in entry][:4] == [1, 2, 3, 4]


@pytest.mark.parametrize("damage", ["empty", "cut"])
@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "config.json"])
def test_what_cannot_be_read_of_the_plain_trainer_is_found(name, damage, out):
    make_plain(out / "checkpoint-4")
    DAMAGES[damage][0](out / "checkpoint-4" / name)
    assert str(find_damage(out / "checkpoint-4")).startswith(f"{name} cannot be read: ")


def test_a_checkpoint_without_weights_or_state_is_none(out):
    for step, name, problem in (
        (2, "model.safetensors", "it has no weights"),
        (4, "trainer_state.json", "not finished"),
    ):
        make_plain(out / f"checkpoint-{step}")
        (out / f"checkpoint-{step}" / name).unlink()
        assert problem in str(find_damage(out / f"checkpoint-{step}"))


def test_a_checkpoint_of_fsdp_is_not_one_of_another_run(resume, out, capsys):
    """The sentence advised to remove it, and a good checkpoint with it."""
    (out / "checkpoint-4" / "pytorch_model_fsdp.bin").touch()
    sentence = refusal(capsys, lambda argv: resume(*argv))
    assert f"{out / 'checkpoint-4'} holds a state of --fsdp, so a run without it cannot go on" in sentence
    assert sentence.endswith("give --fsdp, too") and (out / "checkpoint-4").exists()
    check_saved_with(str(out / "checkpoint-4"), fsdp=True)
    with pytest.raises(
        InputError,
        match="checkpoint-2 holds no state of --fsdp, so a run with it .*; drop --fsdp, or give the checkpoint as ",
    ):
        check_saved_with(str(out / "checkpoint-2"), fsdp=True)


def test_a_process_that_writes_nothing_looks_at_no_file(english_model, tmp_path, monkeypatch):
    """The others of a launch, which looked for files that the first one had not written yet."""
    args = RunArguments(output_dir=str(tmp_path / "out"), use_cpu=True)
    trainer = MlmTrainer(
        AutoModelForMaskedLM.from_pretrained(english_model),
        args,
        processing_class=AutoTokenizer.from_pretrained(english_model),
    )
    monkeypatch.setattr(RunArguments, "should_save", False)
    trainer._save(str(tmp_path / "out"))
    assert not [*(tmp_path / "out").iterdir()]


def test_a_disk_without_modes_takes_a_model(resume, out, monkeypatch):
    def refused(*_: object) -> None:
        raise PermissionError("Operation not permitted")

    monkeypatch.setattr(Path, "chmod", refused)
    resume()
    assert (out / "model.safetensors").exists()


def test_a_checkpoint_is_not_blamed_for_a_process_that_has_ended(resume, monkeypatch, capsys):
    """The sentence advised to remove it."""

    def lost(*_: object) -> None:
        raise RuntimeError("[gloo/transport/tcp/pair.cc:1] Connection closed by peer [127.0.0.1]")

    monkeypatch.setattr(Trainer, "_load_from_checkpoint", lost)
    assert refusal(capsys, lambda argv: resume(*argv)).startswith("another process of this launch has ended; ")


def test_a_plain_checkpoint_must_name_its_batch_size(out):
    """A traceback of transformers, which divides this number."""
    make_plain(out / "checkpoint-4")
    path = out / "checkpoint-4" / "trainer_state.json"
    state = json.loads(path.read_text())
    del state["train_batch_size"]
    path.write_text(json.dumps(state))
    problem = "trainer_state.json does not name the batch size (train_batch_size)"
    assert find_damage(out / "checkpoint-4") == problem


def test_a_checkpoint_of_another_size_is_refused(out, english_model, finished, tmp_path, capsys):
    """Without the record of its run, only its weights tell."""
    other = save_model(tmp_path / "other", sample_tokenizer("bert"), hidden_size=32)
    shutil.copytree(out / "checkpoint-4", tmp_path / "alone" / "checkpoint-4")
    argv = _argv(other, finished / "text.txt", tmp_path / "new")
    resume_from = str(tmp_path / "alone" / "checkpoint-4")
    sentence = refusal(capsys, run_mlm_wwm.main, *argv, "--resume_from_checkpoint", resume_from)
    assert (
        sentence.startswith(f"--resume_from_checkpoint: {resume_from} holds ")
        and "give a checkpoint of this" in sentence
    )
    assert not list((tmp_path / "new").glob("checkpoint-*"))


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_state_that_torch_cannot_load_is_a_sentence(name, out, english_model, finished, capsys):
    """A file that can be read and holds something else: the plain `Trainer` writes no digest that would tell."""
    make_plain(out / "checkpoint-4")
    torch.save({"other": torch.zeros(3)}, out / "checkpoint-4" / name)
    sentence = refusal(capsys, run_mlm_wwm.main, *_argv(english_model, finished / "text.txt", out))
    assert sentence.startswith(f"--resume_from_checkpoint: {out / 'checkpoint-4'} cannot be loaded (")


@pytest.mark.parametrize("damage", ["empty", "cut", "missing"])
def test_a_final_model_that_is_broken_is_saved_again_from_the_last_checkpoint(
    damage, finished, tmp_path, english_model, caplog
):
    """And what a killed run left of a model that it was saving goes."""
    out = shutil.copytree(finished / "out", tmp_path / "out")
    DAMAGES[damage][0](out / "model.safetensors")
    (out / ".model.killed").mkdir()
    run_mlm_wwm.main(_argv(english_model, finished / "text.txt", out))
    assert f"the model in {out} is saved again: " in caplog.text
    assert is_as_finished(out, finished) and not list(out.glob(".model.*"))


@pytest.mark.parametrize("name", ["train_results.json", "all_results.json"])
def test_results_that_are_cut_off_are_written_again(name, finished, tmp_path, english_model, english_file, caplog):
    """A run that is finished reads them again, for its model card."""
    out = shutil.copytree(finished / "out", tmp_path / "out")
    cut(out / name)
    evaluation = ["--do_eval", "--validation_file", english_file]
    metrics = run_mlm_wwm.main([*_argv(english_model, finished / "text.txt", out), *evaluation])
    assert "eval_loss" in metrics and f"{name} cannot be read" in caplog.text
    assert "eval_loss" in json.loads((out / "all_results.json").read_text())


def test_old_checkpoints_go_only_when_the_new_one_is_whole(finished, tmp_path, english_model, monkeypatch):
    """The Trainer removes them before; a run that is killed then has none."""
    seen = []

    def written(path: Path) -> None:
        seen.append(sorted(one.name for one in path.parent.glob("checkpoint-*")))
        write(path)

    from wordmask.training.trainer import checkpoints

    write = checkpoints.write_manifest
    monkeypatch.setattr(checkpoints, "write_manifest", written)
    argv = [*_argv(english_model, finished / "text.txt", tmp_path / "out"), "--save_total_limit", "1"]
    run_mlm_wwm.main(argv)
    assert seen == [["checkpoint-2"], ["checkpoint-2", "checkpoint-4"], ["checkpoint-4", "checkpoint-6"]]
    assert [path.name for path in (tmp_path / "out").glob("checkpoint-*")] == ["checkpoint-6"]
    arguments = torch.load(tmp_path / "out" / "checkpoint-6" / "training_args.bin", weights_only=False)
    assert arguments.save_total_limit == 1
