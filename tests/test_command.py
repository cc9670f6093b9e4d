"""The command `wordmask`: the scripts by short names, from a wheel, and from any process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

import wordmask
from conftest import character_tokenizer, refusal, save_model
from wordmask import __main__ as command

ROOT = Path(__file__).parent.parent
SCRIPTS = ["run_mlm.py", "run_mlm_wwm.py", "run_chinese_ref.py"]


@pytest.mark.parametrize("argv", [["--help"], ["-h"], []], ids=str)
def test_help_names_every_command(argv, capsys):
    assert command.main(argv) is None
    printed = capsys.readouterr().out
    assert all(f"wordmask {name} ..." in printed for name in command.COMMANDS)


def test_the_version_is_that_of_the_package(capsys):
    command.main(["--version"])
    assert capsys.readouterr().out == f"wordmask {wordmask.__version__}\n"


def test_an_unknown_command_gets_a_sentence(capsys):
    sentence = refusal(capsys, command.main, "wwwm", "--help")
    assert sentence == "wordmask wwwm: no such command; give mlm, wwm, ref or report, or --help"


def test_a_mistake_in_a_script_gets_its_own_sentence(capsys):
    assert "--train_fil" in refusal(capsys, command.main, "wwm", "--train_fil", "x")


def test_a_command_is_the_scripts_own_main(chinese_file, chinese_model, tmp_path):
    """And returns nothing, which a console script would take for an exit status."""
    flags = ["--file_name", chinese_file, "--bert", chinese_model, "--segmenter", "whitespace"]
    assert command.main(["ref", *flags, "--save_path", str(tmp_path / "ref")]) is None
    assert (tmp_path / "ref").read_text().count("\n") == 40
    flags = ["--model_name_or_path", chinese_model, "--train_file", chinese_file, "--use_cpu", "--max_steps", "1"]
    flags += ["--train_ref_file", str(tmp_path / "ref"), "--report_to", "none", "--do_train"]
    assert command.main(["wwm", *flags, "--output_dir", str(tmp_path / "out")]) is None
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_importing_the_command_imports_no_script():
    """A process that is spawned imports it first."""
    code = "import sys, wordmask.__main__; print([name for name in ('run_mlm', 'numpy') if name in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The folder of commands of an environment with nothing but the wheel, and the packages that it needs."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    shutil.copytree(ROOT / "wordmask", source / "wordmask", ignore=shutil.ignore_patterns("__pycache__"))
    for name in (*SCRIPTS, "setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(folder), str(source)]
    subprocess.run([*pip, *build], check=True)
    [wheel] = folder.glob("wordmask-*.whl")
    environment = folder / "environment"
    venv.create(environment, with_pip=False)
    python = environment / ("Scripts" if os.name == "nt" else "bin") / "python"
    subprocess.run([*pip, "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)], check=True)
    where = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    packages = subprocess.run(where, capture_output=True, text=True, check=True).stdout.strip()
    Path(packages, "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python.parent


@pytest.mark.slow
def test_the_wheel_alone_is_enough(installed, tmp_path):
    """The console script, `python -m`, and worker processes, which import what started them."""
    text = tmp_path / "text.txt"
    text.write_text("我 喜欢 研究 生命\n面团 需要 时间\n" * 4, encoding="utf-8")
    model = save_model(tmp_path / "model", character_tokenizer([text.read_text(encoding="utf-8")]))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["NUMBA_DISABLE_JIT"] = "1"  # to compile takes longer than all else

    def run(*argv: str) -> str:
        done = subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    script, module = [str(installed / "wordmask")], [str(installed / "python"), "-m", "wordmask"]
    where = run(
        str(installed / "python"), "-c", "import wordmask, run_mlm; print(wordmask.__file__, run_mlm.__file__)"
    )
    assert where.count(str(installed.parent)) == 2
    assert run(*script, "--version") == run(*module, "--version") == f"wordmask {wordmask.__version__}\n"
    flags = ["--file_name", str(text), "--bert", model, "--segmenter", "whitespace", "--num_workers", "2"]
    flags += ["--part_lines", "2"]
    run(*script, "ref", *flags, "--save_path", "text.ref")
    assert (tmp_path / "text.ref").read_text().splitlines()[:2] == ["[3, 5, 7]", "[2, 4, 6]"]
    flags = ["--model_name_or_path", model, "--train_file", str(text), "--max_steps", "1", "--do_train", "--use_cpu"]
    flags += ["--report_to", "none"]
    run(*script, "wwm", *flags, "--train_ref_file", "text.ref", "--output_dir", "wwm")
    run(*module, "mlm", *flags, "--preprocessing_num_workers", "2", "--output_dir", "mlm")
    assert (tmp_path / "wwm" / "model.safetensors").exists() and (tmp_path / "mlm" / "model.safetensors").exists()
    before = (tmp_path / "wwm" / "report.html").read_bytes()
    assert run(*script, "report", "wwm") == f"{Path('wwm', 'report.html')}\n"
    assert (tmp_path / "wwm" / "report.html").read_bytes() == before
