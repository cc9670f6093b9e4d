"""The model card, `README.md` next to the weights, made from the files of the run, with the curve of the loss."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData
from markupsafe import Markup

from wordmask.config.metric_table import metrics_in
from wordmask.config.segmenter_arguments import SegmentationArguments
from wordmask.training.evaluation.probe_display import ProbeResults
from wordmask.training.records.file_names import CURVE
from wordmask.training.records.run_record import SETTINGS, STEP
from wordmask.training.report.pages import render, write_page
from wordmask.training.report.run_files import RunFiles
from wordmask.utils.terminal import clean

# What Markdown, HTML and formulas obey. An underscore within a word is nothing to them.
_MARKDOWN = re.compile(r"[\\`*<>|&#~$]|(?<![a-zA-Z0-9])_|_(?![a-zA-Z0-9])|\](?=[\[(])")
_PLAIN = re.compile(r"[\w.,:/@+= -]+")
# The scripts of one language alone.
_LANGUAGES = {"HIRAGANA": "ja", "KATAKANA": "ja", "HANGUL": "ko", "THAI": "th", "CJK": "zh"}
RARE, SUBSTANTIAL = 0.01, 0.1  # shares from which on a script, and its language, are named


def write_card(directory: str | Path) -> None:
    """Write `README.md` for the model in a directory, with links to the hub only for what is on the hub."""
    directory = Path(directory)
    run = RunFiles(directory)
    given = run.record.get("arguments", {})
    base = given.get("model_name_or_path")
    strategies = [part.partition(":")[0] for part in given.get("masking_strategy", "").split(",") if part]
    dataset = given.get("dataset_name")
    scripts = next((report.scripts for split in ("train", "validation") if (report := run.data.get(split))), {})
    data = ModelCardData(
        language=languages(scripts) or None,
        base_model=base if _is_on_hub(base) else None,
        datasets=[dataset] if _is_on_hub(dataset) else None,
        library_name="transformers",
        pipeline_tag="fill-mask",
        tags=["masked-lm", *strategies],
    )
    segmenter = given.get("segmenter")
    unused = set() if segmenter else {flag.name for flag in fields(SegmentationArguments)}
    unused |= set() if segmenter == "jieba" else {"hmm"}
    loss = run.measures.get("loss")
    if loss:
        write_page(directory / CURVE, render("curve.svg.jinja", chart=loss.charts[0]))
    card = render(
        "model_card.md.jinja",
        escaped,
        data=Markup(data.to_yaml()),
        run=run,
        given=given,
        on_hub=data.base_model is not None,
        shares={script: share for script, share in scripts.items() if share >= RARE},
        settings={name: given[name] for name in (*SETTINGS, *STEP) if name in given and name not in unused},
        probe=ProbeResults(run.results, "").rows(),
        curve=CURVE if loss else None,
        code=code,
        literal=lambda text: Markup(json.dumps(clean(text), ensure_ascii=False)),
        compared=metrics_in(run.results, "result"),
    )
    write_page(directory / "README.md", card)


def _is_on_hub(name: str | None) -> bool:
    """Whether a name is one of the hub, and of no directory here."""
    return name is not None and bool(re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name)) and not os.path.exists(name)


def escaped(text: str) -> str:
    """Text from outside, with all that Markdown, HTML or a terminal would obey as text: `a|b` is `a&#124;b`."""
    return _MARKDOWN.sub(lambda match: f"&#{ord(match[0])};", clean(text))


def code(value: Any) -> Markup:
    """A value as code. Names of directories are shortened to their last part, since a card is public."""
    values = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    paths = [isinstance(one, str) and (os.path.isabs(one) or os.path.exists(one)) for one in values]
    names = [Path(one).name if is_path else _shortened(str(one)) for one, is_path in zip(values, paths, strict=True)]
    text = " ".join(names)
    return Markup(f"`{text}`" if _PLAIN.fullmatch(text) else f"<code>{escaped(text)}</code>")


def _shortened(settings: str) -> str:
    """Settings without the directories in them: `dictionary=/home/me/words,mode=C` is `dictionary=words,mode=C`."""
    parts = re.split("([=,])", settings)
    return "".join(Path(part).name if part.startswith(("/", "~")) else part for part in parts)


def languages(scripts: Mapping[str, float]) -> list[str]:
    """The languages that the shares of scripts tell: none for Latin letters, which many languages have."""
    return sorted({_LANGUAGES[name] for name, share in scripts.items() if name in _LANGUAGES and share >= SUBSTANTIAL})
