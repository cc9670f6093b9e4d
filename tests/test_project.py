"""What the documentation and the layout promise."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import run_mlm
import run_mlm_wwm
from wordmask.arguments import OLD_FLAGS, parse_arguments
from wordmask.commandline import Gone

ROOT = Path(__file__).parent.parent
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))

# Each module may import only those of a lower rank.
LAYERS = [
    {"errors", "numerics"},
    {"textfiles", "words", "segmenters", "commandline", "hub", "progress"},
    {"tokens"},
    {"segmentation", "masking", "references", "vocabulary"},
    {"arguments", "card", "collators", "sampling", "metrics", "sparse", "attention"},
    {"building", "cluster", "texts", "modeling", "output", "packing"},
    {"preparation"},
    {"rows"},
    {"trainer", "preview"},
    {"training"},
]


def imports(path: Path) -> set[str]:
    """The top-level modules of this package that a file imports, without the package's name."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        found |= {name.split(".")[1] for name in names if name.startswith("wordmask.")}
    return found


def test_every_module_has_a_layer():
    modules = {
        path.stem for path in (ROOT / "wordmask").iterdir() if path.suffix == ".py" or path.name == "segmenters"
    }
    assert modules - {"__init__"} == set().union(*LAYERS)


@pytest.mark.parametrize("rank", range(len(LAYERS)))
def test_no_layer_imports_an_upper_one(rank):
    below = set().union(*LAYERS[:rank])
    for module in LAYERS[rank]:
        files = (
            (ROOT / "wordmask" / module).glob("*.py") if module == "segmenters" else [ROOT / f"wordmask/{module}.py"]
        )
        for file in files:
            assert imports(file) - {module} <= below, file


@pytest.mark.parametrize(
    "module, unwanted",
    [
        ("run_chinese_ref", ["transformers.trainer", "wordmask.arguments"]),
        ("wordmask.segmenters", ["torch", "transformers", "jieba", "ltp"]),
        ("wordmask.masking", ["transformers", "datasets"]),
        ("wordmask.tokens", ["transformers", "datasets", "torch"]),
    ],
)
def test_import_brings_no_more_than_it_needs(module, unwanted):
    code = f"import sys, {module}; print([name for name in {unwanted} if name in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert shown.stdout.strip().endswith("[]")


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_every_config_parses_and_says_what_it_is_for(config):
    first, *rest = config.read_text(encoding="utf-8").splitlines()
    assert first.startswith("# ")
    assert any(".py configs/" in line for line in [first, *rest] if line.startswith("#"))
    arguments = parse_arguments(
        [str(config), "--use_cpu", "--no_tf32"], masking_strategy="whole_word", line_by_line=True
    )
    assert isinstance(arguments.training.learning_rate, float)


def test_all_kinds_of_configs_are_there():
    assert {"demo", "demo_chinese", "english_wwm", "chinese_wwm", "from_scratch", "tpu", "gpu"} <= {
        config.stem for config in CONFIGS
    }


def test_documented_old_flags_are_those_of_the_code():
    documented = {}
    for line in (ROOT / "docs/flags.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("| `--"):
            name, now = line.strip("| ").split(" | ", 1)
            documented[name.strip("`-")] = now
    assert documented.keys() == OLD_FLAGS.keys()
    for name, new in OLD_FLAGS.items():
        text = new.advice if isinstance(new, Gone) else f"--{new}" if isinstance(new, str) else new[0]
        assert text in documented[name]


def test_scripts_differ_in_masking_and_lines_only():
    wwm = Path(run_mlm_wwm.__file__).read_text(encoding="utf-8")
    token = Path(run_mlm.__file__).read_text(encoding="utf-8")
    changed = [
        (one, other) for one, other in zip(token.splitlines()[10:], wwm.splitlines()[10:], strict=True) if one != other
    ]
    assert len(changed) == 1 and 'masking_strategy="whole_word", line_by_line=True' in changed[0][1]


def test_readme_names_every_script_and_file_it_shows():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in (
        "configs/english_wwm.yaml",
        "docs/flags.md",
        "docs/design.md",
        "docs/masking.md",
        "benchmarks/README.md",
    ):
        assert name in text and (ROOT / name).exists()
