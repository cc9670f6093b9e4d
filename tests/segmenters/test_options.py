"""Options of segmenters, as a command line, a file or Python gives them."""

from __future__ import annotations

import json

import pytest

from wordmask.config.segmenter_arguments import SegmentationArguments
from wordmask.segmenters import Segmenter, make_segmenter
from wordmask.segmenters.options import parse_options
from wordmask.utils.errors import InputError


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("mode=C", {"mode": "C"}),
        (" mode = C , dictionary=core", {"mode": "C", "dictionary": "core"}),
        ("dictionary=a=b", {"dictionary": "a=b"}),
        ("user_dict=a,b.txt,hmm=false", {"user_dict": "a,b.txt", "hmm": "false"}),
        ("locale=", {"locale": ""}),
        ('{"user_dict": "a,b=c.txt", "hmm": false, "batch_size": 8, "mode": null}', None),
    ],
)
def test_options_are_read(text, options):
    if options is None:
        options = {"user_dict": "a,b=c.txt", "hmm": "false", "batch_size": "8"}
    assert parse_options(text) == options
    assert parse_options(json.dumps(options)) == options


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' is no name=value"),
        ("C", "'C' is no name=value"),
        ("=C", "'=C' is no name=value"),
        ("mode=A,mode=C", "mode is there twice"),
        ("tokenizer=x", "tokenizer= is no option"),
        ('{"mode": ', "no JSON object"),
        ('{"mode": ["A", "C"]}', "mode has several values"),
    ],
)
def test_what_is_no_option_is_explained(text, message):
    with pytest.raises(InputError, match=message) as caught:
        SegmentationArguments(segmenter="sudachi", segmenter_options=text)
    assert str(caught.value).startswith("--segmenter_options: ")


class Window(Segmenter):
    """A third party's segmenter."""

    def __init__(self, size: int, keep: bool | None = None, name: str | int = "x", plain=3) -> None:
        self.options = (size, keep, name, plain)

    def segment(self, lines):
        return [[line] for line in lines]


class Above(Segmenter):
    """Another one, whose option is a fraction."""

    def __init__(self, threshold: float = 0.5) -> None:
        self.threshold = threshold

    def segment(self, lines):
        return [[line] for line in lines]


def test_an_option_may_be_a_fraction():
    assert make_segmenter(f"{__name__}:Above", threshold="0.25").threshold == 0.25
    with pytest.raises(InputError, match="^--segmenter_options: threshold=much is not a number; give one"):
        make_segmenter(f"{__name__}:Above", threshold="much")


def window(options: str) -> tuple:
    found = SegmentationArguments(segmenter=f"{__name__}:Window", segmenter_options=options).load()
    return found.options


def test_options_become_what_the_class_takes(monkeypatch):
    assert window("size=4,keep=no,name=5,plain=6") == (4, False, "5", 6)
    assert window('{"size": 4, "keep": true}') == (4, True, "x", 3)
    assert make_segmenter(f"{__name__}:Window", size=4, plain="6").options == (4, None, "x", 6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("size=four", "--segmenter_options: size=four is not a whole number"),
        ("size=4,keep=maybe", "--segmenter_options: keep=maybe is neither true nor false"),
        ("size=4,width=2", "cannot use width=; it takes size=, keep=, name=, plain="),
        ("keep=yes", "needs size="),
    ],
)
def test_options_that_a_class_does_not_take_are_explained(options, message):
    with pytest.raises(InputError, match=message):
        window(options)


def test_an_option_comes_from_one_place_only(tmp_path):
    with pytest.raises(InputError, match="--user_dict and --segmenter_options user_dict= say the same"):
        SegmentationArguments(segmenter="jieba", segmenter_options="user_dict=a", user_dict="b")
    with pytest.raises(InputError, match="--no_hmm and --segmenter_options hmm= say the same"):
        SegmentationArguments(segmenter="jieba", segmenter_options="hmm=true", hmm=False)
    with pytest.raises(InputError, match="--segmenter_options needs --segmenter"):
        SegmentationArguments(segmenter_options="mode=C")


def test_a_model_is_an_option_too():
    with pytest.raises(InputError, match="--ltp missing: neither a directory nor a hub id"):
        SegmentationArguments(segmenter="ltp", segmenter_options="model=missing").load()
    with pytest.raises(InputError, match="--segmenter pkuseg cannot use --ltp"):
        SegmentationArguments(segmenter="pkuseg", ltp="LTP/small").load()
