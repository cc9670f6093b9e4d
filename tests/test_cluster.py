"""wordmask.cluster on local processes."""

from __future__ import annotations

from pathlib import Path

import pytest

import run_chinese_ref
import run_mlm_wwm
from conftest import character_tokenizer, sample_lines
from wordmask import cluster

SCRIPT = Path(run_chinese_ref.__file__)


@pytest.mark.slow
def test_shards_on_an_executor_give_the_bytes_of_one_process(tmp_path, chinese_file, monkeypatch):
    tokenizer = tmp_path / "tokenizer"
    character_tokenizer(sample_lines("chinese")).save_pretrained(tokenizer)
    monkeypatch.setenv("PYTHONPATH", str(SCRIPT.parent))
    flags = ["--file_name", chinese_file, "--bert", str(tokenizer), "--segmenter", "whitespace", "--part_lines", "7"]
    run_chinese_ref.main([*flags, "--save_path", str(tmp_path / "alone")])
    cluster.main(
        ["--tasks", "2", "--logging_dir", str(tmp_path / "logs"), "--", str(SCRIPT), *flags]
        + ["--save_path", str(tmp_path / "together")]
    )
    for suffix in ("", ".meta.json"):
        assert (tmp_path / f"together{suffix}").read_bytes() == (tmp_path / f"alone{suffix}").read_bytes()
    assert not (tmp_path / "together.parts").exists()


@pytest.mark.slow
def test_text_is_prepared_on_an_executor_as_by_one_process(tmp_path, chinese_file, monkeypatch, capfd):
    tokenizer = tmp_path / "tokenizer"
    character_tokenizer(sample_lines("chinese")).save_pretrained(tokenizer)
    monkeypatch.setenv("PYTHONPATH", str(SCRIPT.parent))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    flags = ["--model_type", "bert", "--tokenizer_name", str(tokenizer), "--train_file", chinese_file, "--use_cpu"]
    flags += ["--prepare_only", "--part_lines", "7", "--prepared_dir"]
    run_mlm_wwm.main([*flags, str(tmp_path / "alone")])
    cluster.main(
        ["--tasks", "2", "--logging_dir", str(tmp_path / "logs"), "--", run_mlm_wwm.__file__, *flags]
        + [str(tmp_path / "together")]
    )
    assert "in 7 parts: " in capfd.readouterr().out.splitlines()[-1]
    alone, together = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("alone", "together")
    )
    assert together == alone and len(alone) == 16  # 7 parts and their stamps, the record, the data report


@pytest.mark.slow
def test_what_another_command_did_before_is_not_taken_for_done(tmp_path):
    """datatrove marks tasks as done in its logs, whatever they ran."""
    script, calls = tmp_path / "script.py", tmp_path / "calls"
    script.write_text(f"import sys\nopen({str(calls)!r}, 'a').write(' '.join(sys.argv[1:]) + '\\n')\n")
    for name in ("one", "other"):
        cluster.main(["--tasks", "2", "--logging_dir", str(tmp_path / "logs"), "--", str(script), name])
    shards = ["", " --num_shards 2 --shard_index 0", " --num_shards 2 --shard_index 1"]
    expected = [name + shard for name in ("one", "other") for shard in shards]
    assert sorted(calls.read_text().splitlines()) == sorted(expected)


def test_logs_lie_in_the_cache_where_no_directory_was_named(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    script = tmp_path / "script.py"
    script.write_text("")
    cluster.main(["--tasks", "1", "--", str(script)])
    logs = Path(capfd.readouterr().out.splitlines()[0].removeprefix("logs of the tasks: "))
    assert logs.is_relative_to(tmp_path / "cache") and (logs / "shards").is_dir()
    assert not [*Path.cwd().iterdir()]


def test_help_names_each_flag(capsys):
    with pytest.raises(SystemExit) as end:
        cluster.main(["--help"])
    shown = capsys.readouterr().out
    assert not end.value.code and all(f"--{flag}" in shown for flag in ("tasks", "executor", "logging_dir", "time"))


@pytest.mark.slow
def test_a_shard_that_fails_ends_the_run(tmp_path, capfd):
    """A `CalledProcessError` cannot be sent by pickle, and the pool of the executor waited for it forever."""
    (tmp_path / "fails.py").write_text("raise SystemExit(3)\n")
    argv = ["--tasks", "2", "--logging_dir", str(tmp_path / "logs"), "--", str(tmp_path / "fails.py")]
    with pytest.raises(SystemExit) as status:
        cluster.main(argv)
    last = capfd.readouterr().err.splitlines()[-1]
    assert status.value.code == 2 and last.startswith("error: shard ") and "failed with status 3" in last


def test_the_last_run_that_fails_is_said(tmp_path, capfd):
    (tmp_path / "fails.py").write_text("import sys\nraise SystemExit('--num_shards' not in sys.argv)\n")
    argv = ["--tasks", "1", "--logging_dir", str(tmp_path / "logs"), "--", str(tmp_path / "fails.py")]
    with pytest.raises(SystemExit):
        cluster.main(argv)
    assert "the run that completes the output failed with status 1" in capfd.readouterr().err.splitlines()[-1]
