"""What others wrote is shown and not obeyed, and no file keeps an access token."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path

import pytest
import torch

import run_chinese_ref
import run_mlm_wwm
from conftest import character_tokenizer, save_model
from wordmask.config.run_arguments import RunArguments

SECRETS = ("hf_thisIsTheModelsSecret", "hf_thisIsTheHubsSecret")
ESCAPE = "\x1b]0;title\x07\x1b[31m"  # sets the title of the window, and then the colour
LINES = ("我喜欢你", f"今天{ESCAPE}天气很好", "\x9b2J他们在图书馆看书", "T恤\u202e很好看") * 6


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return save_model(tmp_path_factory.mktemp("model"), character_tokenizer(list(LINES)))


@pytest.fixture
def text(tmp_path) -> str:
    """A text whose lines and whose name a terminal would obey."""
    path = tmp_path / f"text{ESCAPE}.txt"
    path.write_text("\n".join(LINES) + "\n", encoding="utf-8")
    return str(path)


def is_harmless(printed: str) -> bool:
    """Whether a terminal obeys nothing of what was printed."""
    return not {*printed} & {"\x1b", "\x07", "\x9b", "\u202e"}


def command(model: str, text: str, output: Path, *more: str) -> list[str]:
    argv = ["--model_name_or_path", model, "--train_file", text, "--output_dir", str(output), "--use_cpu"]
    return [*argv, "--max_steps", "2", "--do_train", *more]


def test_no_file_and_no_message_keeps_a_token(model, text, tmp_path, capfd, caplog):
    caplog.set_level(logging.DEBUG)
    tokens = ("--token", SECRETS[0], "--hub_token", SECRETS[1])
    run_mlm_wwm.main(command(model, text, tmp_path / "out", "--save_steps", "1", "--logging_steps", "1", *tokens))
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert {"training_args.bin", "wordmask_run.json", "README.md", "report.html"} <= {path.name for path in files}
    printed = capfd.readouterr()
    contents = [path.read_bytes() for path in files] + [(printed.out + printed.err + caplog.text).encode()]
    assert not [secret for secret in SECRETS if any(secret.encode() in content for content in contents)]


def test_a_token_is_left_out_only_of_what_is_saved(tmp_path):
    arguments = RunArguments(output_dir=str(tmp_path), hub_token=SECRETS[1], use_cpu=True)
    saved = pickle.dumps(arguments)
    assert SECRETS[1].encode() not in saved and pickle.loads(saved).hub_token is None
    assert arguments.hub_token == SECRETS[1]


@pytest.mark.parametrize("more", [[], ["--preview_masking", "4"], ["--dry_run"]], ids=["train", "preview", "dry run"])
def test_escapes_in_a_text_and_in_its_name_are_shown_by_a_training(model, text, tmp_path, capfd, more):
    """An evaluation shows masked lines, and a text that is given twice its name."""
    run_mlm_wwm.main(command(model, text, tmp_path / "out", "--validation_file", text, "--do_eval", *more))
    printed = capfd.readouterr()
    assert is_harmless(printed.out) and is_harmless(printed.err)
    assert "\\x1b" in printed.out + printed.err


def test_escapes_are_shown_where_references_are_made(model, text, tmp_path, capfd):
    argv = ["--file_name", text, "--bert", model, "--segmenter", "whitespace", "--save_path"]
    run_chinese_ref.main([*argv, str(tmp_path / f"{ESCAPE}.ref")])
    printed = capfd.readouterr()
    assert is_harmless(printed.out) and is_harmless(printed.err) and "\\x1b" in printed.out


@pytest.mark.parametrize("content", [f'["{ESCAPE}"]', f"{ESCAPE}[2"])
def test_escapes_in_a_file_are_shown_by_the_error_that_quotes_it(model, text, tmp_path, capfd, content):
    references = tmp_path / "bad.ref"
    references.write_text(f"{content}\n" * len(LINES), encoding="utf-8")
    with pytest.raises(SystemExit):
        run_mlm_wwm.main(command(model, text, tmp_path / "out", "--train_ref_file", str(references)))
    printed = capfd.readouterr().err
    assert is_harmless(printed) and "\\x1b" in printed


def test_names_in_the_card_and_in_the_report_are_escaped(model, tmp_path):
    path = tmp_path / "<img src=x onerror=alert(1)>.txt"
    path.write_text("\n".join(LINES) + "\n", encoding="utf-8")
    run_mlm_wwm.main(command(model, str(path), tmp_path / "out"))
    for name in ("README.md", "report.html"):
        assert "<img src=x" not in (tmp_path / "out" / name).read_text(encoding="utf-8")


class Obeyed:
    """What an attacker's pickle runs."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("obeyed"),)


@pytest.mark.parametrize(
    "name",
    [
        "optimizer.pt",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("scheduler.pt", "rng_state.pth")),
        "pytorch_model.bin",
    ],
)
def test_a_pickle_in_a_checkpoint_is_not_obeyed(name, model, text, tmp_path, monkeypatch):
    """Also where the checkpoint has no manifest, as one of the plain `Trainer`."""
    monkeypatch.chdir(tmp_path)
    run_mlm_wwm.main(command(model, text, tmp_path / "out", "--save_steps", "1"))
    checkpoint = tmp_path / "out" / "checkpoint-1"
    for record in checkpoint.glob("wordmask_*.json"):
        record.unlink()
    if name == "pytorch_model.bin":
        (checkpoint / "model.safetensors").unlink()
    torch.save({"state": Obeyed()}, checkpoint / name)
    argv = command(model, text, tmp_path / "other", "--resume_from_checkpoint", str(checkpoint))
    with pytest.raises(SystemExit):
        run_mlm_wwm.main(argv)
    assert not (tmp_path / "obeyed").exists()
