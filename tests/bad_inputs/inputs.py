"""The files that the commands of cases.yaml name: texts, tables, references, models, argument files. Most are bad."""

from __future__ import annotations

import gzip
import json
import lzma
import pickle
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import torch
import zstandard
from transformers import PreTrainedTokenizerFast, Wav2Vec2CTCTokenizer

from conftest import character_tokenizer, sample_tokenizer, save_model

LINES = ("我喜欢你", "今天天气很好", "他们在图书馆看书", "T恤很好看")
TEXT = "\n".join(LINES) + "\n"
GOOD = ("[3]", "[2, 4, 6]", "[2, 5, 6, 8]", "[2]")

TEXTS = {
    "text.txt": TEXT,
    "letters.txt": "a b\na a\nb a\n",
    "one_line.txt": LINES[0] + "\n",
    "words.txt": "graft\n",
    "known_words.txt": "a\n",
    "chinese_words.txt": "图书馆\n",
    "two_words.txt": "new wave\n",
    "empty.txt": "",
    "spaces.txt": "\n \n\t\r\n",
    "bom.txt": "\ufeff",
    "text.docx": TEXT,
    "text.pdf": TEXT,
    "noending": TEXT,
    "number.yaml": "5",
    "empty.yaml": "",
    "list.yaml": "- a\n- b\n",
    "bad.yaml": "learning_rate: [1\n",
    "typo.yaml": "learning_rat: 1e-4\n",
    "numeric_key.yaml": "1: 2\n",
    "nested.yaml": "training:\n  learning_rate: 1e-4\n",
    "wrong_value.yaml": "model_name_or_path: model\ntrain_file: text.txt\nlearning_rate: fast\n",
    "wrong_type.yaml": "model_name_or_path: model\ntrain_file: text.txt\nmax_seq_length: [1, 2]\n",
    "gone.yaml": "model_name_or_path: model\ntrain_file: text.txt\nmax_predictions_per_seq: 20\n",
    "tagged.yaml": "seed: !!python/object/apply:os.system ['touch obeyed']\n",
    "text.txt.yaml": TEXT,
    "run.yaml": "seed: 1\n",
    "bad.json": '{"seed": 1',
    "deep.json": "[" * 5000,
    "broken.parquet": "this is something else\n" * 3,
    "broken.jsonl": "this is something else\n" * 3,
    "broken.json": "this is something else\n" * 3,
    "broken.csv.gz": "this is something else\n" * 3,
    "broken.txt.xz": "this is something else\n" * 3,
    "broken.txt.zst": "this is something else\n" * 3,
    "cut.jsonl": '{"text": "a b"}\n{"text": "a',
    "empty.csv": "",
    "header.csv": "text\n",
    "header.tsv": "text\tother\n",
    "empty.jsonl": "",
    "empty.json": "[]",
    "blank.csv": 'text\n""\n""\n',
    "blank.jsonl": '{"text": ""}\n{"text": " "}\n',
    "nulls.jsonl": '{"text": null}\n{"text": null}\n',
    "list.json": "[1, 2]",
    "number.json": "5",
    "two_columns.csv": "title,body\na,b\n",
    "two_columns.jsonl": '{"title": "a", "body": "b"}\n',
    "table.csv": "number,text\n1,a b\n2,c d\n",
    "table.jsonl": '{"number": 1, "text": "a b"}\n',
    "nested.jsonl": '{"review": {"body": "a b"}}\n',
    "quotes.csv": 'text\n"a b\n',
    "one_label.csv": "text,label\na,1\nb,1\nc,1\nd,1\n",
    "probe.csv": "text,label\n" + "a,x\nb,y\n" * 8,
    "other_labels.csv": "text,label\na,z\n",
    "page.html": "years of work",
    "empty.ref": "",
    "short.ref": "\n".join(GOOD[:3]) + "\n",
    "long.ref": "\n".join([*GOOD, "[]"]) + "\n",
    "good.ref": "\n".join(GOOD) + "\n",
    "binary.ref": "\x00\x01\x02",
    "fails_segmenter.py": (
        "from wordmask.segmenters import Segmenter\n"
        "class Changes(Segmenter):\n    def segment(self, lines):\n        return [['x'] for line in lines]\n"
        "class Fewer(Segmenter):\n    def segment(self, lines):\n        return []\n"
        "class Raises(Segmenter):\n    def segment(self, lines):\n"
        "        return [[*line] if '馆' not in line else {}[line] for line in lines]\n"
        "class Together(Segmenter):\n    def segment(self, lines):\n"
        "        if len(lines) > 1:\n            raise RuntimeError('too\\nmuch')\n        return [[*lines[0]]]\n"
        "class Needy(Segmenter):\n    def __init__(self, words='missing.words'):\n        open(words).close()\n"
        "    def segment(self, lines):\n        return [[line] for line in lines]\n"
        "class Abstract(Segmenter):\n    pass\n"
        "class Leaves(Segmenter):\n    def segment(self, lines):\n        raise SystemExit\n"
        "class Emptied(Segmenter):\n    def segment(self, lines):\n        lines.clear()\n        return [[], []]\n"
        "class Unmade(Leaves):\n    def __init__(self):\n        raise SystemExit(3)\n"
        "class Nameless(Changes):\n    identity = {'name': {1, 2}}\n"
    ),
    "not_python.py": "from wordmask.segmenters import Segmenter\nclass Cut(Segmenter)\n",
    "stops_importing.py": "import wordmask.segmenters\nWORDS = {}['words']\n",
}
# What stands in the third line of a reference file: not a list of positions, or not of those that can be joined.
THIRD_REFERENCES = {
    "words": "喜欢",
    "float": "[3.5]",
    "string": '["3"]',
    "bool": "[true]",
    "object": "{}",
    "null": "null",
    "cut": "[3",
    "two": "[2] [4]",
    "nested": "[[2]]",
    "bare": "2, 5",
    "number": "3",
    "negative": "[-1]",
    "zero": "[0]",
    "first": "[1]",
    "far": "[9]",
    "int32": "[2147483648]",
    "huge": "[1000000000000000000000000000000]",
    "twice": "[2, 2, 5]",
    "unsorted": "[5, 2]",
}


class _Obeyed:
    """What a pickle of an attacker runs when it is loaded: it makes a file named `obeyed`."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("obeyed"),)  # type: ignore[return-value]


def make_inputs(folder: Path) -> None:
    """Write all files into a folder."""
    for name, content in TEXTS.items():
        (folder / name).write_text(content, encoding="utf-8")
    for name, line in THIRD_REFERENCES.items():
        (folder / f"{name}.ref").write_text("\n".join([*GOOD[:2], line, GOOD[3]]) + "\n", encoding="utf-8")
    _make_bytes(folder)
    for name in ("folder_without_text", "folder.txt", "folder.yaml", "folder_of_others"):
        (folder / name).mkdir()
    (folder / "folder_of_others" / "thesis.docx").write_text("years of work")
    _make_models(folder)
    _make_ltp(folder)
    for name, content in (("broken_run", "{"), ("list_run", "[]"), ("empty_run", "{}")):
        (folder / name).mkdir()
        (folder / name / "wordmask_run.json").write_text(content)


def _make_bytes(folder: Path) -> None:
    """Texts that are not UTF-8, and files that were cut off."""
    content = TEXT.encode() * 100
    frames = {"cut.txt.gz": gzip.compress(content), "cut.txt.xz": lzma.compress(content)}
    frames["cut.txt.zst"] = zstandard.ZstdCompressor().compress(content)
    pa.parquet.write_table(pa.table({"text": [*LINES]}), folder / "table.parquet")
    frames["cut.parquet"] = (folder / "table.parquet").read_bytes()
    for name, whole in frames.items():
        (folder / name).write_bytes(whole[: len(whole) // 2])
    pa.parquet.write_table(pa.table({"text": pa.array([], pa.string())}), folder / "empty.parquet")
    pa.parquet.write_table(pa.table({"text": [1, 2]}), folder / "numbers.parquet")
    (folder / "gb18030.txt").write_bytes(f"{LINES[0]}\n".encode() + LINES[1].encode("gb18030"))
    (folder / "utf16.txt").write_bytes(TEXT.encode("utf-16"))
    for kind in ("le", "be"):
        letters = "Latin letters, as of a hospital\n".encode(f"utf-16-{kind}")
        (folder / f"utf16{kind}.txt").write_bytes(letters)
    (folder / "returns.txt").write_bytes(b"a b\rc d\r")
    (folder / "returns.csv").write_bytes(b"text\ra b\rc d\r")
    (folder / "zeros.txt").write_bytes(bytes(1000))
    (folder / "zeros_below.txt").write_bytes(b"some text\n\0\0\nand more\n")
    (folder / "binary.yaml").write_bytes(b"\xff\xfe\x00")


def _make_models(folder: Path) -> None:
    """A tiny BERT in `model`, and copies of it, each with something wrong."""
    tokenizer = character_tokenizer([TEXT, "abcdefghijklmnopqrstuvwxyz"])
    whole = Path(save_model(folder / "model", tokenizer))
    weights, config = (whole / "model.safetensors").read_bytes(), json.loads((whole / "config.json").read_text())

    def changed(name: str, file: str, content: bytes | None) -> Path:
        copy = Path(shutil.copytree(whole, folder / name))
        if content is None:
            (copy / file).unlink()
        else:
            (copy / file).write_bytes(content)
        return copy

    changed("model_empty_weights", "model.safetensors", b"")
    changed("model_cut_weights", "model.safetensors", weights[:100])
    changed("model_half_weights", "model.safetensors", weights[: len(weights) // 2])
    changed("model_no_weights", "model.safetensors", None)
    changed("model_no_config", "config.json", None)
    changed("model_no_tokenizer", "tokenizer.json", None)
    changed("model_empty_config", "config.json", b"")
    changed("model_list_config", "config.json", b"[]")
    changed("model_cut_config", "config.json", b'{"model_type": "be')
    changed("model_bad_tokenizer", "tokenizer.json", b"{}")
    changed("model_empty_tokenizer", "tokenizer.json", b"")
    settings = {
        "unknown_type": {"model_type": "brt"},
        "other_size": {"hidden_size": 32},
        "negative_size": {"hidden_size": -16},
        "text_size": {"hidden_size": "wide"},
        "t5": {"model_type": "t5", "is_encoder_decoder": True},
        "gpt2": {"model_type": "gpt2"},
        "remote_code": {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModelForMaskedLM": "own.Own"}},
    }
    for name, setting in settings.items():
        changed(f"model_{name}", "config.json", json.dumps(config | setting).encode())
    (folder / "model_remote_code" / "own.py").write_text("open('obeyed', 'w')\n")
    with_pickle = changed("model_pickle", "model.safetensors", None)
    torch.save({"weight": _Obeyed()}, with_pickle / "pytorch_model.bin")

    state = json.loads((whole / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = state["model"]["vocab"]
    vocabulary["##z"] += 5  # ids that no token has
    changed("model_gap", "tokenizer.json", json.dumps(state).encode())
    backend = sample_tokenizer("bert").backend_tokenizer
    PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]").save_pretrained(folder / "without_mask")
    (folder / "without_marks").mkdir()
    (folder / "without_marks" / "vocab.json").write_text('{"<pad>": 0, "<unk>": 1, "|": 2, "a": 3, "<mask>": 4}')
    Wav2Vec2CTCTokenizer(str(folder / "without_marks" / "vocab.json"), mask_token="<mask>").save_pretrained(
        folder / "without_marks"
    )
    sample_tokenizer("roberta", 300).save_pretrained(folder / "byte_tokenizer")


def _make_ltp(folder: Path) -> None:
    """Segmenters that cannot be read, or would run what they bring along."""
    run = {"_target_": "os.system", "command": "touch obeyed"}
    for name in ("ltp_that_runs_code", "ltp_cut", "ltp_pickle", "ltp_legacy_cut"):
        (folder / name).mkdir()
    (folder / "ltp_that_runs_code" / "config.json").write_text(json.dumps({"model": run, "nerual": run}))
    (folder / "ltp_cut" / "config.json").write_text('{"model": ')
    (folder / "ltp_pickle" / "config.json").write_text(json.dumps({"model_type": "ltp"}))
    (folder / "ltp_pickle" / "pytorch_model.bin").write_bytes(pickle.dumps(_Obeyed()))
    (folder / "ltp_legacy_cut" / "cws_model.bin").write_bytes(b"\x01\x02")
