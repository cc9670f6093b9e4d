"""Lines per second of a neural LTP model on one core, read as the classic script has it read and as ours does.

    python benchmarks/neural.py --tokenizer bert-base-chinese --text reviews.txt --lines 500

Without `--ltp DIRECTORY`, the model has the size of LTP/small (an ELECTRA of 12 layers × 256) and random weights,
which are as fast. The classic script hands it a hundred lines at a time, as they come in the file.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bundled import given_or_bundled
from sides import Figures, run_in_turn, use_one_core
from wordmask.utils.batches import batches
from wordmask.utils.files import is_blank
from wordmask.utils.readers import read_lines

CLASSIC_BATCH = 100  # lines
Segment = Callable[[Sequence[str]], list[list[str]]]


def main(argv: Sequence[str] | None = None) -> dict[str, Figures]:
    """Print the table and return the medians of each side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", help="by default one trained on the text")
    parser.add_argument("--text", help="by default a bundled sample")
    parser.add_argument("--ltp", help="the directory of a neural model")
    parser.add_argument("--lines", type=int, help="no more than the first so many lines")
    parser.add_argument("--layers", type=int, default=12, help="of the model with random weights")
    parser.add_argument("--repeats", type=int, default=1)
    with given_or_bundled(parser.parse_args(argv), "chinese") as options, tempfile.TemporaryDirectory() as folder:
        model = Path(options.ltp) if options.ltp else make_model(Path(folder), options.tokenizer, options.layers)
        lines = [line for line in read_lines(options.text, "--text") if not is_blank(line)][: options.lines]
        words = {name: Path(folder, f"{name}.json") for name in SIDES}
        sides = {name: partial(run, load, model, lines, words[name]) for name, load in SIDES.items()}
        results = run_in_turn(sides, options.repeats)
        classic, ours = (json.loads(path.read_text()) for path in words.values())
    length = sum(map(len, lines)) / len(lines)
    table = Table(title=f"neural LTP, {len(lines):,} lines of {length:.0f} characters", min_width=50)
    for column in ("", "lines/s"):
        table.add_column(column, justify="right" if column else "left")
    first = results["classic"]["seconds"]
    for name, found in results.items():
        table.add_row(name, f"{len(lines) / found['seconds']:,.1f} ({first / found['seconds']:.1f}×)")
    Console().print(table)
    same = sum(map(list.__eq__, classic, ours))
    Console().print(f"the same words in {same:,} of {len(lines):,} lines; rounding decides between equals")
    return results


def make_model(directory: Path, tokenizer: str, layers: int) -> Path:
    """A model in LTP's format, with random weights and the vocabulary of a BERT tokenizer."""
    import torch
    from ltp.nerual import LTP
    from transformers import AutoTokenizer

    words = AutoTokenizer.from_pretrained(tokenizer)
    words.save_pretrained(directory)
    size = {"hidden_size": 256, "embedding_size": 128, "num_attention_heads": 4, "intermediate_size": 1024}
    backbone = {"model_type": "electra", "num_hidden_layers": layers, **size}
    backbone["vocab_size"] = len(words)
    parts = {
        "_ltp_target_": "ltp_core.models.ltp_model.LTPModule",
        "backbone": {"_ltp_target_": "ltp_core.models.utils.transformer.load_transformers", "config": backbone},
        "processor": {"cws": {"_ltp_target_": "ltp_core.models.processor.TokenOnly"}},
        "heads": {
            "cws": {
                "_ltp_target_": "ltp_core.models.components.token.MLPTokenClassifier",
                "input_size": size["hidden_size"],
                "num_labels": 2,
                "dropout": 0.1,
                "use_crf": False,
            }
        },
    }
    config = {"nerual": True, "model": parts, "vocabs": {"cws": ["I-W", "B-W"]}}
    (directory / "config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    torch.save(LTP(config=config).model.state_dict(), directory / "pytorch_model.bin")
    return directory


def load_classic(model: Path) -> Segment:
    """`ltp.LTP` as it is, but for a method of tokenizers that transformers no longer has."""
    from ltp import LTP

    ltp = LTP(str(model))
    ltp.tokenizer.batch_encode_plus = ltp.tokenizer.__call__

    def segment(lines: Sequence[str]) -> list[list[str]]:
        return [words for batch in batches(lines, CLASSIC_BATCH) for words in ltp.pipeline(batch, tasks=["cws"]).cws]

    return segment


def load_ours(model: Path) -> Segment:
    """Our segmenter, given as many lines at once as run_chinese_ref.py gives it."""
    from wordmask.segmenters import make_segmenter

    segmenter = make_segmenter("ltp", model=str(model))

    def segment(lines: Sequence[str]) -> list[list[str]]:
        return [words for batch in batches(lines) for words in segmenter.segment(batch)]

    return segment


SIDES = {"classic": load_classic, "ours": load_ours}


def run(load: Callable[[Path], Segment], model: Path, lines: Sequence[str], words: Path) -> Figures:
    """The seconds that one core needs to segment the lines; their words go to a file."""
    import torch

    use_one_core()
    torch.set_num_threads(1)
    segment = load(model)
    segment(lines[:10])
    start = time.process_time()
    found = segment(lines)
    seconds = time.process_time() - start
    words.write_text(json.dumps(found))
    return {"seconds": seconds}


if __name__ == "__main__":
    main()
