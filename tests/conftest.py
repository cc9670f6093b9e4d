"""Tokenizers and tiny models that the tests build themselves: no network, nothing to download."""

from __future__ import annotations

import contextlib
import gc
import itertools
import json
import math
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable
from functools import cache
from importlib.metadata import version
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_PROGRESS_BARS="1", TOKENIZERS_PARALLELISM="false")

import pytest  # noqa: E402
import torch  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402
from tokenizers.models import WordPiece  # noqa: E402
from tokenizers.pre_tokenizers import BertPreTokenizer  # noqa: E402
from tokenizers.trainers import WordPieceTrainer  # noqa: E402
from transformers import (  # noqa: E402
    CONFIG_MAPPING,
    TOKENIZER_MAPPING,
    AutoModelForMaskedLM,
    BertJapaneseTokenizer,
    BertTokenizer,
    PhobertTokenizer,
)

from wordmask.references.reader import numbered_references, pair_tables, parse_references  # noqa: E402
from wordmask.utils.readers import TextReader  # noqa: E402

# A shell that starts the tests in the background has them ignore Ctrl-C, and so would the runs that they interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

try:  # a machine that only runs tests/gpu may lack it
    from hypothesis import HealthCheck, settings
except ImportError:
    pass
else:  # how fast a machine is decides no test
    any_speed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.register_profile("search", any_speed)  # other examples in each run
    settings.register_profile("same", any_speed, derandomize=True)  # a commit passes or fails, whoever tests it
    settings.load_profile("same")

torch.set_num_threads(1)

SAMPLES = Path(__file__).parent.parent / "wordmask" / "samples"
SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 70,
}


def slow_after(count: int, cases: Iterable) -> list:
    """The first cases of a test as they are, and all others marked slow."""
    cases = [*cases]
    values = (other if isinstance(other, tuple) else (other,) for other in cases[count:])
    return [*cases[:count], *(pytest.param(*value, marks=pytest.mark.slow) for value in values)]


def sample_lines(language: str, count: int = 200) -> list[str]:
    """The first lines of text of a bundled sample, `english` or `chinese`."""
    lines = (SAMPLES / f"{language}.txt").read_text(encoding="utf-8").split("\n")
    return [line for line in lines if line][:count]


# For a program that a test starts: `peak`, the most memory that its process has had, in MiB.
PEAK = """
def peak():
    # Not `ru_maxrss`, which begins with the peak of the parent process.
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) // 1024
"""


# Below those that the system gives out, which another program might get before a launch binds its own. Each worker of
# pytest-xdist has ports of its own.
_PORTS = itertools.count(20_000 + 4_000 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) + os.getpid() % 3_000)


def free_port() -> str:
    """A port on which processes may meet."""
    for port in _PORTS:
        with contextlib.suppress(OSError), socket.socket() as free:
            free.bind(("127.0.0.1", port))
            return str(port)
    raise AssertionError("there is no end of numbers")


@pytest.fixture
def needed_flags(english_model, english_file, tmp_path) -> list[str]:
    """The flags that each training needs: a model, a text and a directory."""
    flags = {"--model_name_or_path": english_model, "--train_file": english_file, "--output_dir": tmp_path / "out"}
    return [str(word) for flag in flags.items() for word in flag]


LONGEST_LAUNCH = 1800.0  # seconds
HANGS = 600.0  # seconds; what a test waits for comes sooner, also on a busy machine


def run_two_processes(commands: list[list[str]], path: Path) -> str:
    """Run command lines on two processes, under torchrun over gloo, and return what they print.

    Args:
        commands: command lines of run_mlm_wwm.py; `{rank}` in them is the number of the process.
        path: the file in which the processes find the commands.
    """
    path.write_text(json.dumps(commands))
    root = Path(__file__).parent.parent
    with subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", free_port()]
        + [str(root / "tests/training/two_processes.py"), str(path)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{root}:{root / 'tests'}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        # A process that waits for ever makes the others wait, too. SIGTERM lets torchrun end them all.
        timer = threading.Timer(LONGEST_LAUNCH, process.terminate)
        timer.start()
        printed = process.communicate()[0]
        timer.cancel()
    assert process.returncode == 0, printed[-5000:]
    return printed


def sequences_in(inputs: dict[str, torch.Tensor]) -> list[tuple[int, ...]]:
    """The sequences of a batch as tokens before they were masked, without those that only fill it up."""
    labels = inputs["labels"]
    tokens = torch.where(labels == -100, inputs["input_ids"], labels)
    if "cu_seq_lens_q" in inputs:  # a flat batch: one sequence after the other
        lengths = inputs["cu_seq_lens_q"].diff().tolist()
        parts = zip(tokens[0].split(lengths), labels[0].split(lengths), strict=True)
        return [tuple(part.tolist()) for part, of_part in parts if of_part.ne(-100).any()]
    each = zip(tokens, labels.ne(-100).any(1), inputs["attention_mask"].bool(), strict=True)
    return [tuple(row[real].tolist()) for row, is_labelled, real in each if is_labelled]


def run_until(step: int, argv: list[str]) -> None:
    """Run a command line that gets a SIGTERM in a step: it finishes that step and saves a checkpoint.

    Of several processes, the first one gets it.
    """
    import run_mlm_wwm
    from wordmask.training.trainer.mlm_trainer import MlmTrainer

    original, sent = MlmTrainer.training_step, []

    def signalled(self, *args, **kwargs):
        if self.state.global_step == step - 1 and not self.args.process_index and not sent:
            sent.append(step)
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(MlmTrainer, "training_step", signalled)
        run_mlm_wwm.main(argv)
    assert ended.value.code == 143


def uneven_text(folder: Path, count: int) -> str:
    """A file of so many English lines of very different lengths."""
    lines = [line[: 15 + 37 * (number % 5)] for number, line in enumerate(sample_lines("english", count))]
    path = folder / "text.txt"
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)


def training_steps(output: str | Path) -> list[dict[str, float]]:
    """What a run that logs each step has logged at each."""
    history = json.loads(Path(output, "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    return [entry for entry in history if "grad_norm" in entry]


def trajectory(output: str | Path) -> list[tuple[float, float]]:
    """Loss and gradient norm of each step."""
    return [(step["loss"], step["grad_norm"]) for step in training_steps(output)]


def check_a_resume_learns_the_same(argv: list[str], folder: Path) -> None:
    """Check that a run of four steps into `out`, stopped after two and started again, ends as one without a stop."""
    import run_mlm_wwm

    argv = [*argv, "--max_steps", "4", "--seed", "1"]
    run_mlm_wwm.main([*argv, "--output_dir", str(folder / "whole")])
    run_until(2, argv)
    run_mlm_wwm.main(argv)
    assert trajectory(folder / "out") == trajectory(folder / "whole")
    states = [AutoModelForMaskedLM.from_pretrained(folder / name).state_dict() for name in ("out", "whole")]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[1])


def sample_tokenizer(model_type: str, vocab_size: int = 600, language: str = "english"):
    """A tokenizer of the kind that goes with a model type: WordPiece, byte-level BPE, Unigram or Metaspace.

    It is always the same one, so that a test that fails fails again. The library gives the continuations of WordPiece
    (`##a`) their ids in a random order, and ids decide between equal counts. Of Unigram, the last digits of scores are
    random, and so are the scores of rare characters, which it adds in a random order.
    """
    lines = sample_lines(language)
    trained = TOKENIZER_MAPPING[CONFIG_MAPPING[model_type]]().train_new_from_iterator(lines, vocab_size)
    state = json.loads(trained.backend_tokenizer.to_str())
    special = [token["content"] for token in sorted(state["added_tokens"], key=lambda token: token["id"])]
    if state["model"]["type"] == "WordPiece":
        again = Tokenizer(WordPiece(unk_token=state["model"]["unk_token"]))
        again.normalizer, again.pre_tokenizer = trained.backend_tokenizer.normalizer, BertPreTokenizer()
        characters = sorted({*"".join(again.normalizer.normalize_str(line) for line in lines)} - {" "})
        first = [*special, *(f"##{character}" for character in characters)]  # these get their ids in this order
        again.train_from_iterator(lines, WordPieceTrainer(vocab_size=vocab_size, special_tokens=first))
        state["model"]["vocab"] = again.get_vocab()
    elif state["model"]["type"] == "Unigram":
        first, pieces = state["model"]["vocab"][: len(special)], state["model"]["vocab"][len(special) :]
        text = "▁".join(lines).replace(" ", "▁")
        shares = {piece: (1 + text.count(piece)) / len(text) for piece, _ in pieces}
        pieces = [(piece, math.log(shares[piece]) if len(piece) == 1 else round(score, 9)) for piece, score in pieces]
        state["model"]["vocab"] = [*first, *sorted(pieces, key=lambda scored: (-scored[1], scored[0]))]
    trained._tokenizer = Tokenizer.from_str(json.dumps(state))
    return trained


def character_tokenizer(texts: list[str]) -> BertTokenizer:
    """A tokenizer like bert-base-chinese: one token to a Chinese character, WordPiece for the rest."""
    characters = sorted({character for text in texts for character in text if not character.isspace()})
    pieces = [*SPECIAL, *characters, *(f"##{piece}" for piece in characters)]
    return BertTokenizer(vocab={piece: index for index, piece in enumerate(pieces)})


SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def japanese_tokenizer(folder: Path, pieces: list[str], **options) -> BertJapaneseTokenizer:
    """A tokenizer like cl-tohoku's: words from an analyser inside, then these pieces and their characters."""
    characters = sorted({character for piece in pieces for character in piece})
    vocabulary = [*SPECIAL, *characters, *(f"##{one}" for one in characters)]
    vocabulary += [piece for piece in dict.fromkeys(pieces) if piece not in vocabulary]
    folder.mkdir(exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    return BertJapaneseTokenizer(str(folder / "vocab.txt"), **options)


def bpe_tokenizer(folder: Path, words: list[str], tokenizer_class: type = PhobertTokenizer, **options):
    """A tokenizer like PhoBERT's or BERTweet's, whose vocabulary has pieces of two characters, with `@@`."""
    merges, pieces = list[str](), list[str]()
    for word in words:
        for start in range(0, len(word), 2):
            pair, last = word[start : start + 2], start + 2 >= len(word)
            end = "</w>" * last
            if len(pair) == 2:
                merges.append(f"{pair[0]} {pair[1]}{end} 1")
            pieces.append(pair + "@@" * (not last))
    pieces += [mark for word in words for one in word for mark in (one, f"{one}@@")]
    folder.mkdir(exist_ok=True)
    (folder / "vocab.txt").write_text("".join(f"{piece} 1\n" for piece in dict.fromkeys(pieces)), encoding="utf-8")
    (folder / "bpe.codes").write_text("".join(f"{merge}\n" for merge in dict.fromkeys(merges)), encoding="utf-8")
    return tokenizer_class(str(folder / "vocab.txt"), str(folder / "bpe.codes"), **options)


def save_model(directory: Path, tokenizer, model_type: str = "bert", dtype: torch.dtype = torch.float32, **settings):
    """Save a tiny random model of a type with its tokenizer, and return the directory's name."""
    torch.manual_seed(0)
    config = CONFIG_MAPPING[model_type](vocab_size=len(tokenizer), **{**SMALL, **settings})
    config.pad_token_id = tokenizer.pad_token_id
    AutoModelForMaskedLM.from_config(config, dtype=dtype).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return str(directory)


def refusal(capsys, main, *argv: str) -> str:
    """The sentence with which a script refuses a command line: the last line on stderr, and an exit status of 2.

    Before it may stand what is being done, `reading the text ...`, and what was found in the text.
    """
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_status:
        main(argv)
    printed = capsys.readouterr().err
    *earlier, error = printed.splitlines()
    assert exit_status.value.code == 2 and error.startswith("error: "), printed
    assert not any(line.startswith(("error: ", "Traceback", " ")) for line in earlier), printed
    return error.removeprefix("error: ")


def read_positions(path: str, flag: str):
    """The references of a file's lines, one by one."""
    yield from parse_references([*numbered_references(path, flag)], path, flag).to_pylist()


def pair_with_text(text_path: str, reference_path: str, text_flag: str, flag: str):
    """The lines of a text, one by one, each with its number and its reference."""
    for table in pair_tables(TextReader([text_path], text_flag), reference_path, flag):
        yield from zip(*(table[name].to_pylist() for name in ("line", "text", "chinese_ref")), strict=True)


@pytest.fixture(autouse=True, scope="session")
def caches(tmp_path_factory):
    """Keep what datasets caches away from the user's own."""
    import datasets

    patch = pytest.MonkeyPatch()
    patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    yield
    patch.undo()


@pytest.fixture(autouse=True, scope="module")
def frozen_imports():
    """Leave what is imported out of garbage collections: accelerate collects whenever a training begins (0.3 s)."""
    import wordmask.training.run  # noqa: F401  # and with it all that a run imports

    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def packages_keep_their_versions():
    """The record of each run names them, and to read them takes 8 ms."""
    patch = pytest.MonkeyPatch()
    patch.setattr("wordmask.training.records.run_record.version", cache(version))
    yield
    patch.undo()


@pytest.fixture(scope="session")
def english_model(tmp_path_factory) -> str:
    """A tiny BERT with an English WordPiece tokenizer."""
    return save_model(tmp_path_factory.mktemp("english"), sample_tokenizer("bert"))


@pytest.fixture(scope="session")
def chinese_model(tmp_path_factory) -> str:
    """A tiny BERT with a Chinese character tokenizer."""
    return save_model(tmp_path_factory.mktemp("chinese"), character_tokenizer(sample_lines("chinese")))


@pytest.fixture
def english_file(tmp_path) -> str:
    """Forty lines of English."""
    path = tmp_path / "english.txt"
    path.write_text("\n".join(sample_lines("english", 40)) + "\n", encoding="utf-8")
    return str(path)


@pytest.fixture
def chinese_file(tmp_path) -> str:
    """Forty lines of Chinese."""
    path = tmp_path / "chinese.txt"
    path.write_text("\n".join(sample_lines("chinese", 40)) + "\n", encoding="utf-8")
    return str(path)
