"""Documentation, configs and code agree, and the code keeps to the structure that docs/design.md describes."""

from __future__ import annotations

import argparse
import ast
import inspect
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

import pytest
import torch.distributed.run
import yaml
from accelerate.commands.launch import launch_command_parser
from transformers import Trainer
from transformers.integrations.deepspeed import HfTrainerDeepSpeedConfig

import run_mlm
import run_mlm_wwm
import wordmask
from wordmask.config.arguments import parse_arguments
from wordmask.config.legacy_flags import OLD_FLAGS
from wordmask.config.parser import Gone
from wordmask.training.records.file_names import RUN

ROOT = Path(__file__).parent.parent
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))

# The architecture: each name may import only those below it.
LAYERS = [
    "training",
    "models",
    "data",
    "cluster",
    "config",
    "references",
    "tokenization",
    "segmenters",
    "masking",
    "utils",
]
# The same for the modules and folders of training/.
TRAINING = [
    "start",
    "run",
    "prepare_only",
    "setup",
    "inputs",
    "choose_words",
    "tasks",
    "dry_run",
    "header",
    "padding",
    "interruption",
    "preview",
    "trainer",
    "memory_errors",
    "display",
    "report",
    "evaluation",
    "records",
]
ORDERS = {"wordmask": LAYERS, "wordmask/training": TRAINING}


def imports(path: Path, folder: str) -> set[str]:
    """The modules and folders of a folder that a file imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [f"{node.module}.{alias.name}" for alias in node.names] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        paths = [name.replace(".", "/") for name in names]
        found |= {one.removeprefix(f"{folder}/").split("/")[0] for one in paths if one.startswith(f"{folder}/")}
    return found


@pytest.mark.parametrize("folder", ORDERS)
def test_every_module_and_folder_has_a_place_in_the_order(folder):
    modules = (path for path in (ROOT / folder).iterdir() if path.suffix == ".py" or any(path.glob("*.py")))
    assert {path.stem for path in modules} - {"__init__", "__main__"} == {*ORDERS[folder]}


@pytest.mark.parametrize("folder, name", [(folder, name) for folder, names in ORDERS.items() for name in names])
def test_none_imports_a_name_above_it(folder, name):
    above = {*ORDERS[folder][: ORDERS[folder].index(name)]}
    files = [*(ROOT / folder / name).rglob("*.py"), *(ROOT / folder).glob(f"{name}.py")]
    assert files
    for file in files:
        assert imports(file, folder).isdisjoint(above), file


def test_imports_of_names_above_are_noticed(tmp_path):
    """Guards the test above: an import counts in each of its forms, also inside a function."""
    source = "import wordmask.training.run\nfrom wordmask.training import setup\nfrom wordmask import data\n"
    source += "def f():\n    from wordmask.training.trainer.muon import Muon\n"
    (path := tmp_path / "a.py").write_text(source)
    assert imports(path, "wordmask/training") == {"run", "setup", "trainer"}
    assert imports(path, "wordmask") == {"training", "data"}


@pytest.mark.parametrize("layer", LAYERS)
def test_tests_mirror_the_folders(layer):
    assert (
        any((ROOT / "tests" / layer).glob("test_*.py"))
        or (ROOT / f"tests/test_{layer}.py").is_file()
        or layer == "utils"
    )


@pytest.mark.parametrize(
    "module, unwanted",
    [
        ("run_chinese_ref", ["transformers.trainer", "wordmask.config.arguments"]),
        ("wordmask.segmenters", ["torch", "transformers", "jieba", "ltp"]),
        ("run_mlm", ["transformers", "datasets", "torch"]),
        ("wordmask.masking", ["transformers", "datasets"]),
        ("wordmask.data.text_tokenizer", ["datasets", "torch", "transformers.trainer"]),
        ("wordmask.tokenization.tokenize", ["transformers", "datasets", "torch"]),
    ],
)
def test_import_brings_no_more_than_it_needs(module, unwanted):
    code = f"import sys, {module}; print([name for name in {unwanted} if name in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert shown.stdout.strip().endswith("[]")


def commands(config: Path) -> list[list[str]]:
    """The command lines in a config's comments."""
    comments = [line[1:].strip() for line in config.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    lines = "\n".join(comments).replace("\\\n", " ").split("\n")
    return [shlex.split(line) for line in lines if line.startswith(("python ", "torchrun ", "accelerate launch "))]


def parse_launcher(command: list[str]) -> tuple[argparse.Namespace, str, list[str]]:
    """What a launcher's own parser makes of a command line: its flags, the script, and the script's arguments."""
    if command[0] == "python":
        return argparse.Namespace(), command[1], command[2:]
    torchrun = command[0] == "torchrun"
    parser = torch.distributed.run.get_args_parser() if torchrun else launch_command_parser()
    flags = parser.parse_args(command[1 if torchrun else 2 :])
    return flags, flags.training_script, flags.training_script_args


@pytest.fixture
def any_hardware(monkeypatch):
    """A machine whose devices and packages do not matter."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("wordmask.config.run_arguments.check_sharding", lambda *flags: None)
    monkeypatch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", "false")  # what transformers sets is gone after the test


NO_HARDWARE = ["--use_cpu", "--no_tf32", "--deepspeed", ""]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_every_config_parses_and_says_what_it_is_for(config, any_hardware):
    first, *rest = config.read_text(encoding="utf-8").splitlines()
    assert first.startswith("# ")
    assert any(".py configs/" in line for line in [first, *rest] if line.startswith("#"))
    says_what = any(line.startswith("train_file:") for line in rest)  # else it says only how to train
    what = [] if says_what else ["--model_type", "bert", "--train_file", "text.txt", "--output_dir", "out"]
    arguments = parse_arguments([str(config), *what, *NO_HARDWARE], masking_strategy="whole_word", line_by_line=True)
    assert isinstance(arguments.training.learning_rate, float)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_the_commands_in_a_config_are_understood_by_launcher_and_script(config, any_hardware):
    for command in commands(config):
        _, script, arguments = parse_launcher(command)
        assert (ROOT / script).is_file()
        if script != "run_chinese_ref.py":
            assert arguments[0] == f"configs/{config.name}"
            parse_arguments([*arguments, *NO_HARDWARE], masking_strategy="whole_word", line_by_line=True)


@pytest.mark.parametrize("name", ["ddp", "fsdp", "deepspeed"])
def test_configs_for_several_processes_show_how_to_start_on_one_machine_and_on_several(name):
    config = ROOT / f"configs/{name}.yaml"
    one, several = (parse_launcher(command)[0] for command in commands(config))
    assert one.nnodes == "1:1" and int(one.nproc_per_node) > 1
    assert int(several.nnodes) > 1 and int(several.nproc_per_node) > 1
    assert several.rdzv_backend == "c10d" and ":" in several.rdzv_endpoint
    assert re.search("Not run( on several GPUs)?: no such hardware", config.read_text(encoding="utf-8"))


def test_the_names_in_fsdp_yaml_are_those_that_the_trainer_reads(any_hardware):
    training = parse_arguments(["configs/fsdp.yaml", *NO_HARDWARE]).training
    assert training.fsdp_plugin_args == {
        "fsdp_version": 2,
        "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "cpu_ram_efficient_loading": False,
        "state_dict_type": "FULL_STATE_DICT",
        "activation_checkpointing": True,
        "reshard_after_forward": True,
    }


def test_what_deepspeed_finds_as_auto_is_filled_in_by_the_trainer():
    settings = json.loads((ROOT / "configs/deepspeed_zero2.json").read_text(encoding="utf-8"))
    assert "deepspeed: configs/deepspeed_zero2.json\n" in (ROOT / "configs/deepspeed.yaml").read_text(encoding="utf-8")
    assert settings["zero_optimization"]["stage"] == 2
    parts = [("", settings)] + [(f"{name}.", part) for name, part in settings.items() if isinstance(part, dict)]
    auto = {prefix + name for prefix, part in parts for name, value in part.items() if value == "auto"}
    source = inspect.getsource(HfTrainerDeepSpeedConfig)
    assert len(auto) == 7 and all(f'"{name}"' in source for name in auto)


def test_all_kinds_of_configs_are_there():
    assert {"demo", "demo_chinese", "english_wwm", "chinese_wwm", "from_scratch"} <= {path.stem for path in CONFIGS}
    assert {"tpu", "gpu", "ddp", "fsdp", "deepspeed"} <= {path.stem for path in CONFIGS}


def test_documented_old_flags_are_those_of_the_code():
    documented = {}
    for line in (ROOT / "docs/classic_scripts.md").read_text(encoding="utf-8").splitlines():
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
        (one, other) for one, other in zip(token.splitlines()[12:], wwm.splitlines()[12:], strict=True) if one != other
    ]
    assert len(changed) == 1 and 'masking_strategy="whole_word", line_by_line=True' in changed[0][1]


def test_readme_names_every_script_and_file_it_shows():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in (
        "configs/english_wwm.yaml",
        "docs/classic_scripts.md",
        "docs/design.md",
        "docs/masking.md",
        "benchmarks/README.md",
    ):
        assert name in text and (ROOT / name).exists()


def modules_in_the_map() -> dict[str, list[str]]:
    """The names at the top of the package in README's map, each with its modules.

    The names stand after two spaces. Further in, a folder's modules stand between commas; brackets explain them.
    """
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    tree = re.search(r"^## Map\n.*?^```\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)[1]
    listed: dict[str, str] = {}
    for line in tree.splitlines():
        if name := re.match(r"  (\S+)  ", line):
            listed[name[1]] = ""
        elif line.startswith("   "):
            listed[next(reversed(listed))] += f" {line}"
    plain = {name: re.sub(r"\(.*?\)", "", modules) for name, modules in listed.items()}
    return {
        name: [module.strip() for module in modules.split(",") if module.strip()] for name, modules in plain.items()
    }


def test_the_map_names_each_module_and_nothing_else():
    package = ROOT / "wordmask"
    modules: dict[str, set[str]] = {f"{path.name}": set() for path in package.glob("*.py")}
    for path in package.rglob("*/*.py"):
        modules.setdefault(f"{path.parent.relative_to(package)}/", set()).add(path.stem)
    shown = modules_in_the_map()
    names = [name for name in modules if name not in ("__init__.py", "__main__.py")]
    assert {*names, "samples/"} == shown.keys()
    for name in names:
        assert sorted(modules[name] - {"__init__"}) == sorted(shown[name]), name


def test_the_folder_of_the_trainer_lists_what_is_overridden_several_times():
    folder = ROOT / "wordmask/training/trainer"
    text = (folder / "__init__.py").read_text(encoding="utf-8")
    chain = re.findall(r"^    (\w+) {3,}\S", text.split("Where several")[0], re.MULTILINE)
    overridden: dict[str, list[str]] = {}
    for module in chain:
        tree = ast.parse((folder / f"{module}.py").read_text(encoding="utf-8"))
        for node in (node for one in tree.body if isinstance(one, ast.ClassDef) for node in one.body):
            if isinstance(node, ast.FunctionDef) and hasattr(Trainer, node.name) and node.name != "__init__":
                overridden.setdefault(node.name, []).append(module)
    listed = re.findall(r"^    (\w+) +((?:\w+, )+\w+)$", text, re.MULTILINE)
    assert len(chain) == 8
    assert {name: modules.split(", ") for name, modules in listed} == {
        name: modules for name, modules in overridden.items() if len(modules) > 1
    }


def test_each_file_that_the_design_sends_a_change_to_exists():
    design = (ROOT / "docs/design.md").read_text(encoding="utf-8")
    answers = design.split("## Where does a change go?")[1].split("\n## ")[0]
    rows = [line for line in answers.splitlines() if line.startswith("| ") and "`" in line]
    assert len(rows) == 11
    for row in rows:
        paths = re.findall(r"`((?:wordmask|tests|docs)/[\w./]*)`", row)
        assert paths[-1].startswith("tests/") and all((ROOT / path).exists() for path in paths), row


def test_the_version_to_cite_is_that_of_the_package():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == wordmask.__version__ and citation["cff-version"] == "1.2.0"


def test_every_hook_before_a_commit_runs_a_pinned_tool():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    tools = {hook["entry"].split()[0].removeprefix(".venv/bin/") for hook in hooks}
    pinned = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()}
    assert tools == {"ruff", "mypy"} and tools < pinned


def test_templates_ask_for_the_record_of_the_run():
    for name in ("ISSUE_TEMPLATE/bug.yml", "pull_request_template.md"):
        assert RUN in (ROOT / ".github" / name).read_text(encoding="utf-8")
    yaml.safe_load((ROOT / ".github/ISSUE_TEMPLATE/bug.yml").read_text(encoding="utf-8"))


LONGEST_MODULE, LONGEST_FUNCTION, MOST_PARAMETERS = 350, 60, 7
MODULES = {str(path.relative_to(ROOT / "wordmask")): path for path in sorted((ROOT / "wordmask").rglob("*.py"))}


def too_large(text: str) -> list[str]:
    """What is hard to read at once: a long module, long functions, and functions of many parameters.

    A constructor may have more parameters, since most only store them, as that of a dataclass does.
    """
    lines = text.count("\n")
    faults = [f"{lines} lines"] if lines > LONGEST_MODULE else []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            names = {name.arg for name in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)}
            parameters = len(names - {"self", "cls"})
            if lines > LONGEST_FUNCTION:
                faults.append(f"{node.name} has {lines} lines")
            if parameters > MOST_PARAMETERS and node.name != "__init__":
                faults.append(f"{node.name} has {parameters} parameters")
    return faults


def foreign_private_names(text: str, folder: str) -> list[str]:
    """The private names of other folders that a module of this folder uses: `import _name`, or `module._name`."""
    faults: list[str] = []
    foreign: set[str] = set()
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("wordmask."):
            names = [alias.name for alias in node.names] if (node.module or "").split(".")[1] != folder else []
            foreign |= {alias.asname or alias.name for alias in node.names if alias.name in names}
            faults += [name for name in names if name.startswith("_")]
    private = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr.startswith("_")]
    owners = [(node.value.id, node.attr) for node in private if isinstance(node.value, ast.Name)]
    return faults + [f"{owner}.{name}" for owner, name in owners if owner in foreign]


# Code of what nobody repeats: truth values, and texts of more than a character. `"-" * width` is a repetition.
NO_REPETITION = re.compile(r"""not |bool\(|([\w.]+\.)?(is|should)_\w+(\(|$)|f['"]|['"][^'"\\]{2}|\['--""")


def is_truth_or_text(node: ast.AST | None, flags: Collection[str]) -> bool:
    """Whether an expression is a text, or a truth value, or holds one as a number; `flags` name truth values."""
    if isinstance(node, ast.BinOp | ast.BoolOp):
        parts = node.values if isinstance(node, ast.BoolOp) else [node.left, node.right]
        return any(is_truth_or_text(part, flags) for part in parts)
    text = ast.unparse(node) if node else ""
    return isinstance(node, ast.Compare) or bool(NO_REPETITION.match(text)) or text.split(".")[-1] in flags


def truth_values_as_numbers(text: str) -> list[str]:
    """Products and slices with a truth value, such as `" of all" * (done < all)`; `if` and `else` are clearer."""
    nodes = [*ast.walk(ast.parse(text))]
    flags = {*re.findall(r"(\w+)(?:: |\(self\) -> )bool\b", text)}
    conditions = (node for node in nodes if isinstance(node, ast.Assign) and is_truth_or_text(node.value, ()))
    flags |= {ast.unparse(node.targets[0]) for node in conditions if isinstance(node.value, ast.Compare | ast.BoolOp)}
    faults = []
    for node in nodes:
        parts: list[ast.AST | None] = [node.lower, node.upper] if isinstance(node, ast.Slice) else []
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
            parts = [node.left, node.right]
        if any(is_truth_or_text(part, flags) for part in parts):
            faults.append(ast.unparse(node))
    return faults


@pytest.mark.parametrize("name", MODULES)
def test_every_module_can_be_read_at_once_and_uses_public_names_of_other_folders(name):
    text = MODULES[name].read_text(encoding="utf-8")
    assert too_large(text) + foreign_private_names(text, Path(name).parts[0].removesuffix(".py")) == []


def test_no_truth_value_is_used_as_a_number():
    files = [*ROOT.glob("run_*.py"), *ROOT.glob("benchmarks/*.py"), *MODULES.values()]
    faults = {file: truth_values_as_numbers(file.read_text(encoding="utf-8")) for file in files}
    assert {str(file.relative_to(ROOT)): found for file, found in faults.items() if found} == {}


def test_truth_values_in_products_and_slices_are_noticed():
    """Guards the test above: each fault is found, and what is allowed is not."""
    faults = ["' of all' * more", "[0] * (done < 3)", "['--old'] * flag", "end * (not last)", "2 * bool(done)"]
    faults += ["[step] * control.should_save", "f'{done} of ' * several", "[0] * old", ":not done", ":1 + bool(done)"]
    allowed = ["'-' * width", "[0] * (width - 1)", "[text] * count", "2 * (size or 4)", "words[sizes > 1]", ":3"]
    code = [f"words[{one}]" if one.startswith(":") else one for one in allowed + faults]
    assert truth_values_as_numbers("\n".join(["old = 1 < 2", "several: bool", *code])) == faults


def test_what_is_too_large_or_private_is_noticed():
    """Guards the test above: each fault is found, and what is allowed is not."""
    many = ", ".join("abcdefgh")
    source = "def long():\n" + "    x = 1\n" * 60
    source += f"def wide({many}): ...\nclass A:\n    def __init__(self, {many}): ...\n" + "\n" * 290
    assert too_large(source) == ["354 lines", "long has 61 lines", "wide has 8 parameters"]
    source = "from wordmask.data.sampler import Batches, _one\nfrom wordmask.models.forward import Forward, _two\n"
    source += "Batches._three, Forward._four, Forward.of, self._five"
    assert foreign_private_names(source, "models") == ["_one", "Batches._three"]
