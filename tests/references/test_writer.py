"""Making references: whatever interrupts, divides or fills up, the output is the same bytes or is not there."""

from __future__ import annotations

import ast
import contextlib
import errno
import gzip
import json
import lzma
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from itertools import chain, product
from pathlib import Path

import datasets
import pytest
import zstandard
from datasets.packaged_modules.json.json import JsonConfig
from transformers import RoFormerTokenizer, Wav2Vec2CTCTokenizer

import run_chinese_ref
import run_mlm
import run_mlm_wwm
from conftest import HANGS, PEAK, character_tokenizer, pair_with_text, refusal, sample_lines, save_model, slow_after
from wordmask.config.segmenter_arguments import SegmentationArguments
from wordmask.references.provenance import read_provenance, sidecar
from wordmask.references.writer import Annotator
from wordmask.utils.hub import load_pretrained_tokenizer

ROOT = Path(__file__).parent.parent.parent
KINDS = ["ref", "table.jsonl", "table.parquet", "tables/"]
STOP = "停"  # at a line with this character the segmenter below does what it was told to
ODD = [
    "👍🏽研究👨\u200d👩\u200d👧生命❤\ufe0f",
    "研究\u2028生命 一",
    "生命\r研究 二",
    "\ufeff研究\x85生命\x0b三",
    "\u3000",
    " ",
    "",
]
LINES = [f"{line} {number}" for number, line in enumerate(sample_lines("chinese", 53))]
LINES[20:20], LINES[37:37] = ODD, [f"研究{STOP}生命"]
TEXT = "\n".join(LINES) + "\n"
PART, PARTS, STOPPED = 10, 7, 3  # lines in a part, parts, and the part in which the segmenter stops
assert LINES[PART * STOPPED : PART * (STOPPED + 1)].count(f"研究{STOP}生命") == 1 and -(-len(LINES) // PART) == PARTS

# Pairs of characters are its words. It notes each line that it sees, and obeys the file `order` beside its notes.
SEGMENTER = """
import json, os, time
from pathlib import Path
from wordmask.segmenters import Segmenter

class Pairs(Segmenter):
    def segment(self, lines):
        folder = Path(os.environ["PAIRS_FOLDER"])
        order = folder / "order"
        what = order.read_text() if order.exists() else ""
        if what != "keep no notes":
            with open(folder / "seen", "a") as seen:
                seen.writelines(json.dumps(line) + "\\n" for line in lines)
        if any("停" in line for line in lines):
            if what == "die":
                os._exit(7)
            if what == "lose":
                return [[line.replace("停", "")] for line in lines]
            if what == "pass over":
                return [[line] for line in lines if "停" not in line]
            if what == "wait":
                (folder / "waiting").touch()
            while what == "wait" and order.exists():
                time.sleep(0.01)
        return [[line[at : at + 2] for at in range(0, len(line), 2)] for line in lines]

class Others(Pairs):
    pass
"""


class Pairs:
    """The segmenter of these tests, seen from outside."""

    def __init__(self, folder: Path):
        self.folder = folder

    def told(self, order: str | None) -> None:
        """What it shall do at the line with 停: `die`, `lose`, `pass over`, `wait`, or go on; or `keep no notes`."""
        (self.folder / "order").unlink(missing_ok=True)
        if order:
            (self.folder / "order").write_text(order)

    def seen(self) -> list[str]:
        """The lines that it was given since this was asked last."""
        notes = self.folder / "seen"
        lines = [json.loads(line) for line in notes.read_text().splitlines()] if notes.exists() else []
        notes.unlink(missing_ok=True)
        return lines


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """A folder with a text, a tokenizer for it, and the module of the segmenter."""
    folder = tmp_path_factory.mktemp("building")
    (folder / "pairs_of_characters.py").write_text(SEGMENTER)
    (folder / "text.txt").write_bytes(TEXT.encode())
    save_model(folder / "tokenizer", character_tokenizer([TEXT, "T恤打印"]))
    return folder


@pytest.fixture
def pairs(files, tmp_path, monkeypatch) -> Pairs:
    monkeypatch.syspath_prepend(str(files))
    monkeypatch.setenv("PAIRS_FOLDER", str(tmp_path))
    monkeypatch.setenv("RAYON_NUM_THREADS", "1")
    return Pairs(tmp_path)


def command(files: Path, save: Path | str, *flags: str) -> list[str]:
    """A command line; of a flag given twice, the last one counts."""
    return [
        *("--file_name", str(files / "text.txt"), "--bert", str(files / "tokenizer"), "--save_path", str(save)),
        *("--segmenter", "pairs_of_characters:Pairs", "--part_lines", str(PART), *flags),
    ]


def make(files: Path, save: Path | str, *flags: str):
    return run_chinese_ref.main(command(files, save, *flags))


def refused(capsys, argv: list[str]) -> str:
    """The one sentence with which a command is refused."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        run_chinese_ref.main(argv)
    printed = capsys.readouterr().err
    errors = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert stop.value.code == 2 and len(errors) == 1 and "Traceback" not in printed, printed
    assert printed.rstrip("\n").endswith(errors[0]), "something is printed behind the sentence"
    return errors[0]


def contents(path: Path | str) -> dict[str, bytes]:
    """The bytes of an output, of each file in it where it is a directory, and of the sidecar."""
    plain = Path(path)
    found = sorted(plain.iterdir()) if plain.is_dir() else [plain]
    return {file.name: file.read_bytes() for file in [*found, Path(f"{plain}.meta.json")]}


def rows(path: Path) -> list[dict]:
    """The rows of a table, read by `datasets`."""
    kind = "json" if path.suffix == ".jsonl" else "parquet"
    found = [path] if path.is_file() else sorted(path.iterdir())
    table = datasets.load_dataset(kind, data_files=[str(file) for file in found], split="train")
    assert table.column_names == ["text", "chinese_ref"]
    return table.to_list()


def target(folder: Path, kind: str) -> str:
    """The name of an output; `Path` would lose the slash of a directory."""
    return f"{folder}/{kind}"


@pytest.fixture(scope="module")
def whole(files, tmp_path_factory) -> dict[str, dict[str, bytes]]:
    """What an uninterrupted run writes, for each kind of output."""
    folder, found = tmp_path_factory.mktemp("whole"), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(files))
        patch.setenv("PAIRS_FOLDER", str(folder))
        for kind in KINDS:
            make(files, target(folder, kind))
            found[kind] = contents(target(folder, kind))
    references = found["ref"]["ref"].decode().split("\n")
    assert len(references) == len(LINES) + 1 and references[0].startswith("["), (
        "no line has a word, so nothing is held"
    )
    return found


def stop_in_the_middle(files: Path, save: str, pairs: Pairs, capsys, *flags: str) -> None:
    """A run that ends at the line with 停, with the parts before it finished."""
    pairs.told("lose")
    assert "--segmenter" in refused(capsys, command(files, save, *flags))
    pairs.told(None)
    assert len(pairs.seen()) > PART


# The same bytes, however the work is divided


@pytest.mark.parametrize("segmenter, kind", slow_after(2, product(("whitespace", "jieba"), KINDS[:3])))
def test_output_does_not_depend_on_the_lines_in_a_part(segmenter, kind, files, tmp_path):
    found = []
    for lines in ("1", "1000") if segmenter == "jieba" else ("1", "7", "60", "1000"):
        save = tmp_path / lines / kind
        make(files, save, "--segmenter", segmenter, "--part_lines", lines)
        found.append(contents(save))
        if kind == "table.parquet":  # its row groups end where parts do
            found[-1] = {kind: rows(save), "made from": without_contents(found[-1][f"{kind}.meta.json"])}
    assert all(other == found[0] for other in found[1:])


def test_a_sidecar_is_the_same_for_every_kind_of_output(whole):
    files = chain.from_iterable(files.items() for files in whole.values())
    first, *others = (without_contents(content) for name, content in files if name.endswith(".meta.json"))
    assert others == [first] * (len(KINDS) - 1)


def without_contents(sidecar: bytes) -> dict:
    """What a sidecar says, but for the digests of what was written."""
    return {name: value for name, value in json.loads(sidecar).items() if name != "contents"}


@pytest.mark.slow
def test_two_workers_write_the_bytes_of_one_and_resume_after_an_error_of_one_of_them(
    files, whole, pairs, tmp_path, capsys
):
    save = str(tmp_path / "ref")
    pairs.told("lose")
    line = refused(capsys, command(files, save, "--num_workers", "2"))
    assert "--segmenter" in line and f"line {LINES.index(f'研究{STOP}生命') + 1}" in line
    assert not Path(save).exists()
    pairs.told(None), pairs.seen()
    make(files, save, "--num_workers", "2", "--resume")
    assert contents(save) == whole["ref"]
    assert sorted(pairs.seen()) == sorted(line for line in LINES[PART * STOPPED :] if line.strip())


@pytest.mark.parametrize("kind", KINDS)
def test_shards_put_together_are_what_one_run_writes(kind, files, whole, pairs, tmp_path, capsys):
    save = target(tmp_path, kind)
    seen = []
    for shard in ("1", "0"):
        assert make(files, save, "--num_shards", "2", "--shard_index", shard) is None
        assert not Path(save).exists() and not Path(f"{save.rstrip('/')}.meta.json").exists()
        seen.append(pairs.seen())
    assert seen[0] and seen[1] and not set(seen[0]) & set(seen[1]), "both shards did the same lines"
    assert make(files, save, "--resume").lines == len(LINES)
    assert contents(save) == whole[kind]
    assert pairs.seen() == []
    assert not Path(f"{save.rstrip('/')}.parts").exists()


def test_the_last_run_does_what_a_shard_has_left_undone(files, whole, pairs, tmp_path):
    save = str(tmp_path / "ref")
    make(files, save, "--num_shards", "3", "--shard_index", "2")
    done = pairs.seen()
    make(files, save, "--resume")
    assert contents(save) == whole["ref"] and not set(done) & set(pairs.seen())


def test_a_shard_beyond_the_last_part_has_nothing_to_do(files, whole, pairs, tmp_path):
    save = str(tmp_path / "ref")
    for shard in range(PARTS + 2):
        make(files, save, "--num_shards", str(PARTS + 2), "--shard_index", str(shard))
    make(files, save, "--resume")
    assert contents(save) == whole["ref"]


def test_a_shard_starts_beside_one_that_has_just_made_the_directory_of_parts(files, whole, pairs, tmp_path):
    """A scheduler starts them together; the second meets a directory that has nothing in it yet."""
    save = str(tmp_path / "ref")
    Path(f"{save}.parts").mkdir()
    make(files, save, "--num_shards", "2", "--shard_index", "1")
    make(files, save, "--resume")
    assert contents(save) == whole["ref"]


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst"])
def test_compressed_text_gives_the_same_bytes(suffix, files, whole, pairs, tmp_path):
    compress = {".gz": gzip.compress, ".xz": lzma.compress, ".zst": zstandard.ZstdCompressor().compress}[suffix]
    text = tmp_path / f"text.txt{suffix}"
    text.write_bytes(compress(TEXT.encode()))
    make(files, tmp_path / "table.jsonl", "--file_name", str(text))
    assert contents(tmp_path / "table.jsonl") == whole["table.jsonl"]


def test_several_files_make_one_table_in_the_order_given(files, whole, pairs, tmp_path):
    first, second = tmp_path / "z.txt", tmp_path / "a.txt.gz"
    first.write_text("\n".join(LINES[:30]), newline="")  # no line end behind the last line
    second.write_bytes(gzip.compress("".join(f"{line}\r\n" for line in LINES[30:]).encode()))
    make(files, tmp_path / "table.jsonl", "--file_name", str(first), str(second))
    assert contents(tmp_path / "table.jsonl") == whole["table.jsonl"]


def test_several_files_are_refused_for_one_reference_file(files, pairs, tmp_path, capsys):
    text = str(files / "text.txt")
    line = refused(capsys, command(files, tmp_path / "ref", "--file_name", text, text))
    assert "--file_name" in line and ".jsonl" in line and not (tmp_path / "ref").exists()


@pytest.mark.slow
def test_a_worker_starts_without_torch_and_gives_the_same_references(files):
    """transformers' tokenizers bring torch with them: seconds for every worker, and hundreds of megabytes."""
    load = partial(load_pretrained_tokenizer, "--bert", str(files / "tokenizer"))
    annotator = Annotator(load, SegmentationArguments(segmenter="whitespace", mixed_words=True).load, mixed=True)
    code = "import pickle, sys; annotator = pickle.load(sys.stdin.buffer); import run_chinese_ref\n"
    code += f"print((annotator((1, {LINES!r})), 'torch' in sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, input=pickle.dumps(annotator), capture_output=True)
    expected = annotator((1, LINES))
    assert any(expected) and None in expected
    assert ast.literal_eval(run.stdout.decode()) == (expected, False), run.stderr.decode()


def test_a_worker_knows_whether_mixed_words_count(files):
    """With one worker `--mixed_words` held, and with several it would not."""
    load = partial(load_pretrained_tokenizer, "--bert", str(files / "tokenizer"))
    for mixed in (False, True):
        annotator = Annotator(load, SegmentationArguments(segmenter="whitespace").load, mixed)
        assert pickle.loads(pickle.dumps(annotator)).mixed is mixed


def test_a_worker_loads_a_tokenizer_that_is_written_in_python_in_part():
    """RoFormer's: its backend cannot be sent."""
    pytest.importorskip("rjieba")
    vocab = {piece: number for number, piece in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "研", "究"])}
    segmentation = SegmentationArguments(segmenter="whitespace")
    annotator = Annotator(partial(RoFormerTokenizer, vocab=vocab), segmentation.load)
    sent = pickle.loads(pickle.dumps(annotator))
    assert sent((1, ["研究 究研"])) == annotator((1, ["研究 究研"]))


# Interrupted and resumed


@pytest.mark.slow
def test_a_run_killed_in_the_middle_goes_on_from_its_last_finished_part(files, whole, pairs, tmp_path):
    """SIGKILL, which nothing can clean up behind; the segmenter's notes prove what was done again."""
    save, waiting = tmp_path / "ref", tmp_path / "waiting"
    pairs.told("wait")
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "run_chinese_ref.py"), *command(files, save)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(files)]), "OMP_NUM_THREADS": "1"},
        stderr=subprocess.DEVNULL,
    )
    try:
        while not waiting.exists() and process.poll() is None:
            time.sleep(0.02)
        assert waiting.exists(), "it ended before it could be killed"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL
    assert not save.exists() and not Path(f"{save}.meta.json").exists()
    finished = [line for line in LINES[: PART * STOPPED] if line.strip()]
    assert [line for line in pairs.seen() if line in finished] == finished, "no part was finished before the end"

    pairs.told(None)
    make(files, save, "--resume")
    assert contents(save) == whole["ref"]
    assert pairs.seen() == [line for line in LINES[PART * STOPPED :] if line.strip()]
    assert {path.name for path in tmp_path.iterdir()} == {"ref", "ref.meta.json", "waiting"}


def running() -> dict[int, int]:
    """The processes of this machine, each with the one that started it; those that have ended do not count."""
    found = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            number, _, rest = status.read_text().partition(" (")
            state, parent = rest.rpartition(") ")[2].split()[:2]
            if state != "Z":
                found[int(number)] = int(parent)
    return found


def in_group(group: int) -> list[int]:
    """The processes of a process group that are running."""
    found = []
    for number in running():
        with contextlib.suppress(ProcessLookupError):
            found += [number] * (os.getpgid(number) == group)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_second_run_is_refused_and_a_signal_ends_the_first_with_its_finished_parts_kept(
    number, status, files, whole, pairs, tmp_path, capsys
):
    """Both once ended in tracebacks. The signal goes to all processes, as from a terminal or a scheduler."""
    save = tmp_path / "ref"
    pairs.told("wait")
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "run_chinese_ref.py"), *command(files, save, "--num_workers", "2")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(files)]), "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        while not (tmp_path / "waiting").exists() or not list(tmp_path.glob("ref.parts/*.part")):
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.02)
        for more in ([], ["--resume"], ["--overwrite"], ["--num_shards", "2"]):
            sentence = refused(capsys, command(files, save, *more))
            assert sentence.startswith(f"error: --save_path: {save} is in use by process {process.pid} on "), sentence
    finally:
        os.killpg(process.pid, number)
        printed = process.communicate(timeout=HANGS)[1]
    assert process.returncode == status and "Traceback" not in printed and printed.endswith("interrupted\n"), printed
    assert "to go on with what is done, run the same command with --resume" in printed
    until = time.monotonic() + 60  # multiprocessing's own helper ends a moment later
    while (left := in_group(process.pid)) and time.monotonic() < until:
        time.sleep(0.02)
    assert not left, "workers are left"
    pairs.told(None), pairs.seen()
    make(files, save, "--resume")
    assert contents(save) == whole["ref"] and len(pairs.seen()) < len([line for line in LINES if line.strip()])


# Python runs this as it starts. A worker that has just begun sends a signal to the run.
SIGNAL_AT_START = """
import os, sys
if "multiprocessing.spawn" in " ".join(sys.orig_argv):
    os.kill(os.getppid(), int(os.environ["SIGNAL_AT_START"]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("workers", ["2", "4"])
def test_a_signal_while_workers_start_ends_the_run_with_one_line(workers, number, status, files, tmp_path):
    """It once left a worker half started, which ended in a traceback, or for which the run waited for ever."""
    (tmp_path / "sitecustomize.py").write_text(SIGNAL_AT_START)
    large = str(tmp_path / "large")  # more than a pipe holds, so the run waits until the worker has read it
    character_tokenizer([TEXT, "".join(map(chr, range(0x4E00, 0x8000)))]).save_pretrained(large)
    path = os.pathsep.join([str(tmp_path), str(ROOT), str(files)])
    run = subprocess.run(
        [sys.executable, str(ROOT / "run_chinese_ref.py")]
        + command(files, tmp_path / "ref", "--num_workers", workers, "--segmenter", "whitespace", "--bert", large),
        env={**os.environ, "PYTHONPATH": path, "SIGNAL_AT_START": str(int(number)), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=HANGS,
    )
    assert run.returncode == status and not run.stdout
    assert run.stderr.splitlines()[-1] == "interrupted" and "Traceback" not in run.stderr, run.stderr


@pytest.mark.parametrize("name", ["000001.part", "000001.json"])
def test_a_part_or_a_stamp_that_was_cut_off_is_made_again(name, files, whole, pairs, tmp_path, capsys):
    save = tmp_path / "ref"
    stop_in_the_middle(files, str(save), pairs, capsys)
    path = tmp_path / "ref.parts" / name
    path.write_bytes(path.read_bytes()[:20])
    make(files, save, "--resume")
    assert contents(save) == whole["ref"]
    assert pairs.seen()[:PART] == [line for line in LINES[PART : 2 * PART] if line.strip()]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are listed in /proc")
def test_workers_end_with_the_run_that_is_killed(files, pairs, tmp_path):
    """Left alone they would keep their memory, and a GPU's, for ever: they wait for work that nobody will send."""
    pairs.told("wait")
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "run_chinese_ref.py"), *command(files, tmp_path / "ref", "--num_workers", "2")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(files)]), "OMP_NUM_THREADS": "1"},
        stderr=subprocess.DEVNULL,
    )
    workers: set[int] = set()
    try:
        while not (tmp_path / "waiting").exists() and process.poll() is None:
            time.sleep(0.02)
        workers = {number for number, parent in running().items() if parent == process.pid}
        assert len(workers) >= 2, "there are no workers, so none could stay"
        process.kill()
        process.wait()
        pairs.told(None)
        until = time.monotonic() + 60
        while (
            left := {worker for worker in workers if Path(f"/proc/{worker}").exists()}
        ) and time.monotonic() < until:
            time.sleep(0.05)
        assert not left, f"{len(left)} processes run on"
    finally:
        for number in (workers & running().keys()) | ({process.pid} if process.poll() is None else set()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)


@pytest.mark.parametrize("kind", KINDS)
def test_a_stopped_run_of_any_kind_is_resumed_to_the_same_bytes(kind, files, whole, pairs, tmp_path, capsys):
    save = target(tmp_path, kind)
    stop_in_the_middle(files, save, pairs, capsys)
    assert not Path(save).exists()
    made = make(files, save, "--resume")
    assert f"--save_path: keeping {STOPPED} parts from before\n" in capsys.readouterr().err
    assert contents(save) == whole[kind]
    assert pairs.seen() == [line for line in LINES[PART * STOPPED :] if line.strip()]
    capsys.readouterr()
    assert make(files, save, "--resume") == made and contents(save) == whole[kind]
    assert capsys.readouterr().out == f"{save} is complete; --overwrite makes it again\n"


def test_what_is_complete_must_be_of_the_same_work_and_be_there(files, pairs, tmp_path, capsys):
    save = str(tmp_path / "ref")
    made = make(files, save)
    sentence = refused(capsys, [*command(files, save, "--resume"), "--segmenter", "whitespace"])
    assert f"--save_path: {save} has words from " in sentence and sentence.endswith("--overwrite to make it again")
    text = Path(command(files, save)[command(files, save).index("--file_name") + 1])
    before = text.read_bytes()
    text.write_bytes(before + "还有一行\n".encode())
    assert f"{save} was made from another text" in refused(capsys, command(files, save, "--resume"))
    text.write_bytes(before)
    Path(save).unlink()
    assert f"--save_path: {save}.meta.json exists" in refused(capsys, command(files, save, "--resume"))
    assert make(files, save, "--overwrite") == made and Path(save).exists()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("moves", [0, 1, 3, PARTS, PARTS + 1])
def test_a_run_interrupted_while_parts_are_put_together_is_resumed(
    kind, moves, files, whole, pairs, tmp_path, monkeypatch
):
    """Hours of work lie in the parts: they may not go before the output is whole."""
    save, replace = target(tmp_path, kind), os.replace
    left = moves

    def interrupted(source, destination):
        nonlocal left
        if ".parts/" not in str(destination):  # on its way to the output
            if not left:
                raise KeyboardInterrupt
            left -= 1
        replace(source, destination)

    with monkeypatch.context() as patch, contextlib.suppress(SystemExit):
        patch.setattr(os, "replace", interrupted)
        make(files, save)
    pairs.seen()
    flags = ["--overwrite"] if sidecar(save).exists() else []
    make(files, save, "--resume", *flags)
    assert contents(save) == whole[kind]


@pytest.mark.parametrize(
    "change, word",
    [
        (["--segmenter", "pairs_of_characters:Others"], "segmenter"),
        (["--mixed_words"], "--mixed_words"),
        (["--bert", "other"], "tokenizer"),
        (["--file_name", "other.txt"], "text"),
        (["--part_lines", "11"], "--part_lines"),
    ],
)
@pytest.mark.parametrize("shards", [[], ["--num_shards", "2", "--shard_index", "1"]], ids=["resume", "shard"])
def test_what_is_resumed_must_be_the_same_work_and_nothing_is_lost_where_it_is_not(
    change, word, shards, files, whole, pairs, tmp_path, capsys
):
    save, parts = str(tmp_path / "ref"), tmp_path / "ref.parts"
    character_tokenizer([TEXT, "丏"]).save_pretrained(tmp_path / "other")
    (tmp_path / "other.txt").write_text(TEXT.replace(LINES[PART + 1], "别的"), newline="")
    stop_in_the_middle(files, save, pairs, capsys)
    before = {path.name: path.read_bytes() for path in parts.iterdir()}
    change = [str(tmp_path / value) if value.startswith("other") else value for value in change]
    line = refused(capsys, command(files, save, *(shards or ["--resume"]), *change))
    assert word in line.removeprefix("error: ").replace(str(tmp_path), "") and "start" in line
    assert {path.name: path.read_bytes() for path in parts.iterdir()} == before
    make(files, save, "--resume")
    assert contents(save) == whole["ref"]


def test_an_interrupted_run_is_not_thrown_away_unless_told_so(files, whole, pairs, tmp_path, capsys):
    save, parts = str(tmp_path / "ref"), tmp_path / "ref.parts"
    stop_in_the_middle(files, save, pairs, capsys)
    before = sorted(parts.iterdir())
    line = refused(capsys, command(files, save))
    assert "--resume" in line and "--overwrite" in line and sorted(parts.iterdir()) == before
    make(files, save, "--overwrite")
    assert contents(save) == whole["ref"] and pairs.seen()[0] == LINES[0]


def test_resume_with_nothing_to_resume_starts_at_the_beginning(files, whole, pairs, tmp_path):
    make(files, tmp_path / "ref", "--resume")
    assert contents(tmp_path / "ref") == whole["ref"]


def test_a_run_that_made_its_tokenizer_is_resumed_with_the_same_flags(files, pairs, tmp_path, capsys):
    save, flags = str(tmp_path / "ref"), ["--bert", str(tmp_path / "made"), "--vocab_size", "80"]
    stop_in_the_middle(files, save, pairs, capsys, *flags)
    make(files, save, *flags, "--resume")
    assert pairs.seen() == [line for line in LINES[PART * STOPPED :] if line.strip()]
    assert len((tmp_path / "ref").read_text().split("\n")) == len(LINES) + 1


# What goes wrong


@pytest.fixture
def precious(files, pairs, tmp_path):
    """A function that makes an output of each kind with other words, to be kept whatever happens to the next one."""

    def write(kind: str) -> dict[str, bytes]:
        make(files, target(tmp_path, kind), "--segmenter", "whitespace")
        return contents(target(tmp_path, kind))

    return write


@contextlib.contextmanager
def full_disk(monkeypatch, room: int):
    """A disk on which each file gets so many bytes, and all copies of files together as many."""

    class Full:
        def __init__(self, file):
            self.file, self.left = file, room

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.file.close()

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, data):
            self.left -= len(data)
            if self.left < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return self.file.write(data)

        def writelines(self, lines):
            for line in lines:
                self.write(line)

    def open_full(file, mode="r", **options):
        opened = open(file, mode, **options)  # noqa: SIM115
        return Full(opened) if "w" in mode else opened

    copy, copied = shutil.copyfile, 0

    def copy_full(source, destination):
        nonlocal copied
        copied += os.path.getsize(source)
        if copied > room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return copy(source, destination)

    with monkeypatch.context() as patch:
        patch.setattr("wordmask.utils.files.open", open_full, raising=False)
        patch.setattr("shutil.copyfile", copy_full)
        yield


@contextlib.contextmanager
def small_files(room: int):
    """A limit of the system on the size of files, as `ulimit -f` and FAT32 have it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("stage", ["a part", "put together"])
@pytest.mark.parametrize("limit", ["disk", "file size"])
@pytest.mark.parametrize("kind", KINDS)
def test_where_a_disk_fills_up_the_existing_output_is_kept_and_the_run_can_be_resumed(
    kind, limit, stage, files, whole, pairs, precious, tmp_path, monkeypatch, capsys
):
    if kind == "tables/" and stage == "put together" and limit == "file size":
        pytest.skip("no file of the directory is larger than a part")
    save, before = target(tmp_path, kind), precious(kind)
    size = sum(map(len, whole[kind].values()))
    # No room for the shortest output in one piece, or room for a part but not for all of them.
    room = 1200 if stage == "a part" else size // 2
    if stage == "a part" and kind == "ref":
        room = 600
    run = command(files, save, "--overwrite", "--part_lines", "1000" if stage == "a part" else str(PART))
    pairs.told("keep no notes")  # they would take room
    with full_disk(monkeypatch, room) if limit == "disk" else small_files(room):
        line = refused(capsys, run)
    assert "--save_path" in line and "--resume" in line
    assert contents(save) == before, "the output that was there, with its sidecar, is no longer whole"
    pairs.told(None), pairs.seen()
    make(files, save, *run[-3:], "--resume")
    assert contents(save) != before
    if stage == "put together":
        assert contents(save) == whole[kind] and pairs.seen() == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_segmenter_that_loses_text_leaves_nothing_under_the_final_name(kind, files, pairs, tmp_path, capsys):
    save = target(tmp_path, kind)
    pairs.told("lose")
    line = refused(capsys, command(files, save))
    assert "--segmenter" in line and f"line {LINES.index(f'研究{STOP}生命') + 1}" in line
    assert not Path(save).exists() and not Path(f"{save.rstrip('/')}.meta.json").exists()
    make(files, save, "--overwrite", "--segmenter", "whitespace")
    before = contents(save)
    refused(capsys, command(files, save, "--overwrite"))
    assert contents(save) == before


def test_a_segmenter_that_passes_a_line_over_is_refused(files, pairs, tmp_path, capsys):
    pairs.told("pass over")
    line = refused(capsys, command(files, tmp_path / "ref"))
    given = sum(bool(text.strip()) for text in LINES[PART * STOPPED : PART * (STOPPED + 1)])
    assert "--segmenter: pairs_of_characters:Pairs" in line and f"{given - 1} lists of words for {given} lines" in line
    assert not (tmp_path / "ref").exists()
    model, text = str(files / "tokenizer"), str(files / "text.txt")
    argv = ["--model_name_or_path", model, "--train_file", text, "--output_dir", str(tmp_path / "out"), "--use_cpu"]
    with pytest.raises(SystemExit):
        run_mlm_wwm.main([*argv, "--segmenter", "pairs_of_characters:Pairs", "--max_steps", "1"])
    assert "error: --segmenter: pairs_of_characters:Pairs" in capsys.readouterr().err


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_output_never_lies_beside_the_sidecar_of_the_one_that_it_replaces(
    kind, files, whole, pairs, precious, tmp_path, monkeypatch
):
    save, beside = target(tmp_path, kind), Path(f"{target(tmp_path, kind).rstrip('/')}.meta.json")
    before, replace = precious(kind), os.replace

    def killed(source, destination):
        if Path(destination) == beside:
            raise KeyboardInterrupt
        replace(source, destination)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(os, "replace", killed)
        make(files, save, "--overwrite")
    assert not beside.exists() and Path(save).exists()
    make(files, save, "--overwrite", "--resume")
    assert contents(save) == whole[kind] != before


def test_a_worker_that_dies_ends_the_run_with_a_sentence_and_keeps_what_was_there(
    files, whole, pairs, precious, tmp_path, capsys
):
    before = precious("ref")
    pairs.told("die")
    line = refused(capsys, command(files, tmp_path / "ref", "--overwrite", "--num_workers", "2"))
    assert "--num_workers" in line and "--resume" in line
    assert contents(tmp_path / "ref") == before
    pairs.told(None), pairs.seen()
    make(files, tmp_path / "ref", "--overwrite", "--resume")
    assert contents(tmp_path / "ref") == whole["ref"]
    # How many of the parts before it the other worker has finished by then depends on the machine.
    remains = [[line for line in LINES[PART * done :] if line.strip()] for done in range(STOPPED + 1)]
    assert pairs.seen() in remains


@pytest.mark.parametrize("name", ["ref.txt.gz", "ref.xz", "table.jsonl.zst"])
def test_a_name_that_says_compressed_is_refused_before_any_work(name, files, pairs, tmp_path, capsys):
    line = refused(capsys, command(files, tmp_path / name))
    assert "--save_path" in line and name in line and f"give {tmp_path / name}".rpartition(".")[0] in line
    assert pairs.seen() == [] and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("flags", [[], ["--overwrite"]])
@pytest.mark.parametrize("name", ["folder", "folder/"])
def test_a_directory_that_holds_other_files_is_never_replaced(name, flags, files, pairs, tmp_path, capsys):
    folder = tmp_path / "folder"
    folder.mkdir()
    for file in ("part-00000-of-00001.parquet", "thesis.tex"):
        (folder / file).write_text("precious")
    assert "--save_path" in refused(capsys, command(files, target(tmp_path, name), *flags))
    assert {file.name: file.read_text() for file in folder.iterdir()} == {
        "part-00000-of-00001.parquet": "precious",
        "thesis.tex": "precious",
    }


@pytest.mark.parametrize("flags", [[], ["--overwrite"], ["--resume"], ["--num_shards", "2"]])
def test_a_directory_of_somebody_else_where_parts_would_go_is_kept(flags, files, pairs, tmp_path, capsys):
    folder = tmp_path / "ref.parts"
    folder.mkdir()
    (folder / "thesis.tex").write_text("precious")
    assert "--save_path" in refused(capsys, command(files, tmp_path / "ref", *flags))
    assert (folder / "thesis.tex").read_text() == "precious"


def test_a_file_is_not_replaced_by_a_directory_and_no_hours_are_lost_until_it_is_said(files, pairs, tmp_path, capsys):
    (tmp_path / "tables").write_text("precious")
    assert "--save_path" in refused(capsys, command(files, target(tmp_path, "tables/"), "--overwrite"))
    assert (tmp_path / "tables").read_text() == "precious" and pairs.seen() == []


def test_the_text_itself_is_not_overwritten(files, pairs, tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text(TEXT, newline="")
    refused(capsys, command(files, text, "--file_name", str(text), "--overwrite"))
    assert text.read_bytes() == TEXT.encode()


def test_a_tokenizer_without_offsets_is_refused_by_the_flag_of_this_script(files, pairs, tmp_path, capsys):
    (tmp_path / "vocab.json").write_text('{"<pad>": 0, "<unk>": 1, "|": 2}')  # writes | for a space, without a mark
    Wav2Vec2CTCTokenizer(str(tmp_path / "vocab.json")).save_pretrained(tmp_path / "slow")
    line = refused(capsys, command(files, tmp_path / "ref", "--bert", str(tmp_path / "slow")))
    assert "--bert" in line and not (tmp_path / "ref").exists() and not (tmp_path / "ref.parts").exists()


# Text and references in step, and read as they are


def test_odd_lines_stay_in_step_with_their_references(files, whole, tmp_path):
    """A reader that breaks at U+2028, U+0085 or a lone carriage return would have more lines than references."""
    for name, content in whole["ref"].items():
        (tmp_path / name).write_bytes(content)
    pairs = list(pair_with_text(str(files / "text.txt"), str(tmp_path / "ref"), "--train_file", "--train_ref_file"))
    assert [(number, text) for number, text, _ in pairs] == [
        (number, line) for number, line in enumerate(LINES, 1) if line.strip()
    ]
    tokens = {text: reference for _, text, reference in pairs}
    assert len(tokens["研究\u2028生命 一"]) == 1 and tokens["研究\u2028生命 一"] == [2]
    assert tokens["生命\r研究 二"] == [2]
    for line, reference in tokens.items():
        assert len(reference) <= sum(len(line[at : at + 2].strip()) == 2 for at in range(0, len(line), 2))


@pytest.mark.parametrize("kind", KINDS[1:])
def test_a_table_has_the_lines_of_the_text_beside_their_references(kind, files, whole, tmp_path):
    folder = tmp_path / kind.rstrip("/") if kind.endswith("/") else tmp_path
    folder.mkdir(exist_ok=True)
    for name, content in whole[kind].items():
        (tmp_path if name.endswith(".meta.json") else folder).joinpath(name).write_bytes(content)
    table = rows(tmp_path / kind)
    assert [row["text"] for row in table] == LINES
    references = whole["ref"]["ref"].decode().split("\n")[:-1]
    assert [row["chinese_ref"] for row in table] == [json.loads(line or "[]") for line in references]
    assert read_provenance(target(tmp_path, kind), "--train_file").lines == len(LINES)


@pytest.mark.parametrize(("last", "changes_nothing"), [("研 究", True), ("研究", False)])
@pytest.mark.parametrize("kind", KINDS)
def test_references_that_change_no_mask_are_said(kind, last, changes_nothing, spaced, tmp_path, caplog):
    """Spaces separate no words in most Chinese text, and English text has no word of jieba."""
    model, save = spaced[1], target(tmp_path, kind)
    text = tmp_path / "text.txt"
    text.write_text(f"我 你\n\n的\n{last}\n", encoding="utf-8")
    argv = ["--file_name", str(text), "--segmenter", "whitespace", "--bert", model, "--save_path", save]
    run_chinese_ref.main(argv)
    said = [message for message in caplog.messages if message.startswith("--save_path: no token in")]
    assert len(said) == changes_nothing and all("the words of whitespace" in message for message in said)


@pytest.mark.parametrize(("last", "changes_nothing"), [("研 究", True), ("研究", False)])
@pytest.mark.parametrize("kind", slow_after(1, KINDS))
def test_training_says_that_references_change_no_mask(kind, last, changes_nothing, spaced, tmp_path, capsys):
    model, save = spaced[1], target(tmp_path, kind)
    text = tmp_path / "text.txt"
    text.write_text(f"我 你\n\n的\n{last}\n", encoding="utf-8")
    run_chinese_ref.main(["--file_name", str(text), "--segmenter", "whitespace", "--bert", model, "--save_path", save])
    given = ["--train_file", str(text), "--train_ref_file", save] if kind == "ref" else trains_on(kind, save)
    capsys.readouterr()
    argv = ["--model_name_or_path", model, "--output_dir", str(tmp_path / "out"), "--validation_split_percentage", "0"]
    run_mlm_wwm.main([*given, *argv, "--prepare_only", "--prepared_dir", str(tmp_path / "prepared")])
    shown = capsys.readouterr()
    assert ("no position in the references" in " ".join((shown.out + shown.err).split())) is changes_nothing


def trains_on(kind: str, save: str) -> list[str]:
    return ["--dataset_name", save] if kind.endswith("/") else ["--train_file", save]


@pytest.fixture(scope="module")
def spaced(tmp_path_factory) -> tuple[Path, str]:
    """A text with the words apart, enough of them for the preview, and a model for it."""
    folder = tmp_path_factory.mktemp("spaced")
    (folder / "text.txt").write_text("我 喜欢 你\n\n研究 生命 的 起源\n买 T恤 去 打印\n", encoding="utf-8")
    return folder, save_model(folder / "tokenizer", character_tokenizer(["我喜欢你研究生命的起源买Tt恤去打印"]))


@pytest.mark.parametrize("streaming", [False, True], ids=["", "streaming"])
@pytest.mark.parametrize("mixed", [False, True], ids=["", "mixed"])
@pytest.mark.parametrize("kind", slow_after(1, KINDS[1:]))
def test_training_reads_each_kind_of_table_as_it_is(kind, mixed, streaming, spaced, tmp_path, capsys):
    folder, model = spaced
    save, output = target(tmp_path, kind), str(tmp_path / "out")
    flags = ["--segmenter", "whitespace", *(["--mixed_words"] if mixed else [])]
    make(folder, save, *flags)
    argv = [*trains_on(kind, save), "--model_name_or_path", model, "--output_dir", output, "--use_cpu"]
    argv += ["--max_steps", "1", "--do_train", "--validation_split_percentage", "0"]
    argv += ["--streaming"] if streaming else []
    capsys.readouterr()
    run_mlm_wwm.main([*argv, "--preview_masking", "3", "--mask_replace_prob", "1", "--random_replace_prob", "0"])
    shown = capsys.readouterr().out
    for mark in "[]<>{}":
        shown = shown.replace(mark, "")
    words = shown.split()
    assert {"喜·欢", "研·究", "生·命", "起·源", "打·印", "的", "我"} <= set(words), shown
    assert ("t·恤" in words) is mixed, shown
    assert run_mlm_wwm.main(argv)["train_loss"] > 0


@pytest.mark.parametrize("kind", KINDS[1:])
def test_the_other_script_reads_each_kind_of_table_too(kind, spaced, tmp_path):
    folder, model = spaced
    make(folder, target(tmp_path, kind), "--segmenter", "whitespace")
    metrics = run_mlm.main(
        [*trains_on(kind, target(tmp_path, kind)), "--model_name_or_path", model, "--output_dir", str(tmp_path / "o")]
        + ["--use_cpu", "--max_steps", "1", "--do_train", "--line_by_line", "--masking_strategy", "whole_word"]
    )
    assert metrics["train_loss"] > 0


@pytest.mark.parametrize("kind", KINDS[1:])
def test_a_table_made_with_another_tokenizer_is_refused(kind, spaced, tmp_path, capsys):
    """Its positions are those of other tokens; where they happen to fit, only the sidecar tells."""
    folder, _ = spaced
    save = target(tmp_path, kind)
    make(folder, save, "--segmenter", "whitespace")
    other = save_model(tmp_path / "model", character_tokenizer(["研究生命的起源我喜欢你买T恤去打印打印机"]))
    capsys.readouterr()
    with pytest.raises(SystemExit):
        run_mlm_wwm.main(
            [*trains_on(kind, save), "--model_name_or_path", other, "--output_dir", str(tmp_path / "o"), "--use_cpu"]
            + ["--max_steps", "1", "--do_train"]
        )
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: ") and "another tokenizer" in line
    assert ("--dataset_name" if kind.endswith("/") else "--train_file") in line


def test_a_directory_of_references_is_named_with_its_slash(spaced, tmp_path, capsys):
    (folder, model), save = spaced, str(tmp_path / "tables")
    make(folder, f"{save}/", "--segmenter", "whitespace")
    argv = ["--file_name", str(folder / "text.txt"), "--segmenter", "whitespace", "--bert", model, "--overwrite"]
    sentence = refusal(capsys, run_chinese_ref.main, *argv, "--save_path", save)
    assert sentence == f"--save_path: {save} is a directory of references; give {save}/ for such a directory"


def test_a_table_with_references_and_a_segmenter_is_refused(spaced, tmp_path, capsys):
    """Both define the words; before, those of the table were checked, and then dropped without a word."""
    (folder, model), table = spaced, str(tmp_path / "table.jsonl")
    make(folder, table, "--segmenter", "whitespace")
    argv = ["--model_name_or_path", model, "--train_file", table, "--output_dir", str(tmp_path / "out"), "--use_cpu"]
    sentence = refusal(capsys, run_mlm_wwm.main, *argv, "--segmenter", "whitespace")
    assert sentence.startswith(f"--train_file: {table} has references in its column chinese_ref, and --segmenter")


def test_a_table_that_begins_with_text_without_words_is_read_to_its_end(spaced, tmp_path, monkeypatch):
    """Ten megabytes of English before the first Chinese: empty lists alone do not tell `datasets` what is in them.

    It takes the type of a column from what it reads first; here that is made 2,000 bytes.
    """
    folder, model = spaced
    text = tmp_path / "text.txt"
    text.write_text("T\n" * 400 + "研究 生命\n" * 400)
    make(folder, tmp_path / "table.jsonl", "--file_name", str(text), "--segmenter", "whitespace")
    monkeypatch.setattr(JsonConfig, "__post_init__", lambda config: setattr(config, "chunksize", 2000))
    run_mlm_wwm.main(
        ["--train_file", str(tmp_path / "table.jsonl"), "--model_name_or_path", model, "--use_cpu", "--max_steps", "1"]
        + ["--output_dir", str(tmp_path / "out"), "--do_train"]
    )


# Size

MEMORY = (
    PEAK
    + """
import sys
import numpy as np
import run_chinese_ref

folder, tokenizer, kinds = sys.argv[1], sys.argv[2], sys.argv[3:]
for lines in ("few", "many"):
    for kind in kinds:
        run_chinese_ref.main(
            ["--file_name", f"{folder}/{lines}.txt", "--bert", tokenizer, "--save_path", f"{folder}/{lines}.{kind}"]
            + ["--segmenter", "whitespace"]
        )
    print(peak())
with open(f"{folder}/many.txt", encoding="utf-8") as text:
    held = text.readlines()
print(peak())
"""
)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")
def test_memory_does_not_grow_from_10_000_lines_to_100_000(files, tmp_path):
    """The peak of one process, which only ever rises: what the second text adds to that of the first.

    90,000 lines more are 24 MiB of strings and more than that of positions; 6 MiB are allowed for what allocators do
    not give back (1 MiB measured).
    """
    tolerance = 6
    block = "".join(f"{line * 4}\n" for line in sample_lines("chinese"))
    block = "\n".join((block * 100).split("\n")[:10_000]) + "\n"
    for name, times in (("few.txt", 1), ("many.txt", 10)):
        (tmp_path / name).write_text(block * times, encoding="utf-8")
    result = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path), str(files / "tokenizer"), "ref", "jsonl"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    few, many, held = (int(line) for line in result.stdout.splitlines() if line.isdigit())
    assert many - few <= tolerance, f"{few} MiB for 10,000 lines, {many} MiB for 100,000"
    assert held - many > tolerance, "lines that are held do not show, so nothing is measured"
    assert (tmp_path / "many.ref").read_bytes() == (tmp_path / "few.ref").read_bytes() * 10


# What was written is still there


def lost(parts: Path) -> None:
    """A part was lost in a copy."""
    (parts / "part-00002-of-00007.parquet").unlink()


def twice(parts: Path) -> None:
    """A part lies there twice, under its own name and that of another one."""
    shutil.copyfile(parts / "part-00002-of-00007.parquet", parts / "part-00004-of-00007.parquet")


def training(files: Path, tmp_path: Path, *text: str) -> list[str]:
    """A command line that trains one step on references."""
    argv = ["--model_name_or_path", str(files / "tokenizer"), "--use_cpu", "--do_train", "--max_steps", "1"]
    return [*argv, "--output_dir", str(tmp_path / "out"), "--overwrite_output_dir", *text]


def refused_training(argv: list[str], capsys) -> str:
    """The last line of a training that is refused."""
    capsys.readouterr()
    with pytest.raises(SystemExit):
        run_mlm_wwm.main(argv)
    return capsys.readouterr().err.splitlines()[-1]


# A stream reads no table before it trains, so it does not see that one is there twice.
@pytest.mark.parametrize("damage, streams", [(lost, False), (lost, True), (twice, False)])
def test_a_directory_without_one_of_its_parts_is_not_trained_on(damage, streams, files, pairs, tmp_path, capsys):
    save = target(tmp_path, "tables/")
    make(files, save)
    argv = training(files, tmp_path, "--train_file", save, *(["--streaming"] if streams else []))
    run_mlm_wwm.main(argv)
    damage(Path(save))
    sentence = refused_training(argv, capsys)
    found = (
        "is not complete, part-00002-of-00007.parquet is missing"
        if damage is lost
        else "part-00004-of-00007.parquet has changed since it was written"
    )
    assert sentence.startswith("error: --train_file: ") and found in sentence
    line = refused(capsys, command(files, save, "--resume"))
    assert "--save_path: " in line and found in line
    make(files, save, "--overwrite")
    run_mlm_wwm.main(argv)


@pytest.mark.parametrize("named", [".", "..", "folder"])
def test_a_part_is_missed_in_whatever_way_its_directory_is_named(named, files, pairs, tmp_path, monkeypatch, capsys):
    """As the directory that one works in, and as one of several in the directory that is given."""
    save = target(tmp_path, "folder/tables/")
    make(files, save)
    lost(Path(save))
    (inside := tmp_path / "folder" / "tables" / "inside").mkdir()
    monkeypatch.chdir({".": Path(save), "..": inside, "folder": tmp_path}[named])
    for flags in ([], ["--streaming"]):
        sentence = refused_training(training(files, tmp_path, "--train_file", named, *flags), capsys)
        assert "is not complete, part-00002-of-00007.parquet is missing" in sentence


def test_a_part_has_its_directory_checked_where_one_works_in_it(files, pairs, tmp_path, monkeypatch, capsys):
    save = target(tmp_path, "tables/")
    make(files, save)
    twice(Path(save))
    monkeypatch.chdir(save)
    sentence = refused_training(training(files, tmp_path, "--train_file", "part-00004-of-00007.parquet"), capsys)
    assert "part-00004-of-00007.parquet has changed since it was written" in sentence


def test_references_whose_lines_changed_places_are_refused_and_compressed_ones_are_not(files, pairs, tmp_path, capsys):
    save = tmp_path / "ref"
    make(files, save)
    packed = tmp_path / "ref.gz"
    packed.write_bytes(gzip.compress(save.read_bytes()))
    assert sidecar(packed) == sidecar(save)  # `gzip` does not rename it
    shutil.copyfile(sidecar(save), f"{packed}.meta.json")
    assert sidecar(packed) == Path(f"{packed}.meta.json")
    sidecar(packed).unlink()
    text = ["--train_file", str(files / "text.txt"), "--train_ref_file"]
    run_mlm_wwm.main(training(files, tmp_path, *text, str(packed)))
    packed.write_bytes(packed.read_bytes()[:200])  # cut off
    sentence = refused_training(training(files, tmp_path, *text, str(packed)), capsys)
    assert sentence.startswith(f"error: --train_ref_file: {packed} cannot be read (") and "copy it again" in sentence
    lines = save.read_text().split("\n")
    lines[0], lines[1] = lines[1], lines[0]
    assert lines[0] != lines[1]
    save.write_text("\n".join(lines))
    for flags in ([], ["--streaming"]):
        sentence = refused_training(training(files, tmp_path, *text, str(save), *flags), capsys)
        assert f"error: --train_ref_file: {save} has changed since it was written" in sentence


def test_a_part_alone_and_a_table_that_was_changed_on_purpose_can_be_trained_on(files, pairs, tmp_path, capsys):
    save = target(tmp_path, "tables/")
    make(files, save)
    lost(Path(save))
    run_mlm_wwm.main(training(files, tmp_path, "--train_file", f"{save}part-00001-of-00007.parquet"))
    table = tmp_path / "table.jsonl"
    make(files, table)
    table.write_text("".join(table.read_text(encoding="utf-8").splitlines(True)[:20]), encoding="utf-8")
    argv = training(files, tmp_path, "--train_file", str(table))
    assert f"or remove {sidecar(table)} if the change is right" in refused_training(argv, capsys)
    sidecar(table).unlink()
    run_mlm_wwm.main(argv)


def test_a_complete_file_without_mixed_words_is_not_one_with_them(files, pairs, tmp_path, capsys):
    make(files, tmp_path / "ref")
    sentence = refused(capsys, command(files, tmp_path / "ref", "--resume", "--mixed_words"))
    assert "with mixed words; give --overwrite to make it again" in sentence


def test_parts_of_another_kind_of_output_are_not_gone_on_with(files, pairs, tmp_path, capsys):
    """A file of lines and a directory of tables keep their parts under the same name."""
    stop_in_the_middle(files, f"{tmp_path}/ref", pairs, capsys)
    assert "another kind of output" in refused(capsys, command(files, f"{tmp_path}/ref/", "--resume"))


def test_a_shard_that_fails_leaves_the_directory_that_others_work_in(files, pairs, tmp_path, capsys):
    pairs.told("lose")
    shard = ["--part_lines", "1000", "--num_shards", "2", "--shard_index", "0"]
    assert "--segmenter" in refused(capsys, command(files, tmp_path / "ref", *shard))
    assert Path(tmp_path, "ref.parts", "made_from.json").exists()
