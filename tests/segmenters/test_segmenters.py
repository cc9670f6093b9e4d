"""Segmenters: nothing of a line is lost, results repeat, and a user's mistake gets a sentence.

Models are made on the spot: a perceptron trained on four sentences, and a transformer of 2,500 random weights.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import linecache
import pickle
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from datasets.fingerprint import Hasher
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import character_tokenizer, slow_after
from wordmask.references.positions import make_references
from wordmask.segmenters import (
    Segmenter,
    available,
    identity_of,
    load_segmenter,
    make_segmenter,
    register,
    registry,
    words_of,
)
from wordmask.segmenters.jieba import JiebaSegmenter
from wordmask.segmenters.long_lines import split_long
from wordmask.tokenization.words import SCRIPTS
from wordmask.utils.errors import InputError

SENTENCES = ["中国 人民 银行", "研究 生命 的 起源", "研究生 说 生活 不易", "我们 在 银行 研究 起源 。"]

AWKWARD = [
    "",
    "   ",
    "\x00\x01",
    "\u200b中国\u200b",
    "  中国 人民\u3000银行\tab\n",
    "\x1c中国\x00人\x85民",
    "\ud800",
    "中\udfff国\ud800",
    "𠮷野家在东京",
    "e\u0301中国한국",
    "iPhone-15.9寸，100%!",
    "[MASK]中国[SEP]",
    "中" * 300 + "\x00" * 50,
    "㍿㌔ﷺが ｱｲｳﾞ　すごーーい〆切",
    "ฉันกิน\u200bข้าว ๑๒๓ กำ กํา",
    "👨\u200d👩\u200d👧ก🇯🇵\ufffd",
]


def content(text: str) -> str:
    """All but white space."""
    return "".join(text.split())


def adds_up(line: str, words: list[str]) -> bool:
    return content("".join(words)) == content(line)


def fresh_python(code: str, *flags: str) -> tuple[str, str]:
    """What a new interpreter prints, on stdout and stderr."""
    command = [sys.executable, "-X", "utf8", *flags, "-c", code]
    root = Path(__file__).parent.parent.parent
    done = subprocess.run(command, cwd=root, capture_output=True, encoding="utf-8", check=True)
    return done.stdout, done.stderr


# Models


@pytest.fixture(scope="module")
def legacy_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    perceptron = pytest.importorskip("ltp_extension.perceptron")
    directory = tmp_path_factory.mktemp("legacy")
    train = directory / "train.txt"
    # Training shuffles, without a seed, unless told not to, and needs repetition.
    train.write_text("\n".join(SENTENCES * 20) + "\n", encoding="utf-8")
    trainer = perceptron.CWSTrainer()
    trainer.load_train_data(str(train))
    trainer.epoch, trainer.shuffle, trainer.compress = 10, False, False
    trainer.train().save(str(directory / "cws_model.bin"))
    config = {"nerual": False, "tasks": {"cws": "cws_model.bin"}}
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def neural_config(vocab_size: int, use_crf: bool = False) -> dict:
    core = "ltp_core.models"
    backbone = {
        "model_type": "electra",
        "vocab_size": vocab_size,
        "hidden_size": 16,
        "embedding_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "max_position_embeddings": 40,
    }
    head = {"input_size": 16, "num_labels": 2, "dropout": 0.1, "use_crf": use_crf}
    return {
        "nerual": True,
        "model": {
            "_ltp_target_": f"{core}.ltp_model.LTPModule",
            "backbone": {"_ltp_target_": f"{core}.utils.transformer.load_transformers", "config": backbone},
            "processor": {"cws": {"_ltp_target_": f"{core}.processor.TokenOnly"}},
            "heads": {"cws": {"_ltp_target_": f"{core}.components.token.MLPTokenClassifier", **head}},
        },
        "vocabs": {"cws": ["I-W", "B-W"]},
    }


def make_neural_dir(directory: Path, use_crf: bool) -> Path:
    nerual = pytest.importorskip("ltp.nerual")
    torch = pytest.importorskip("torch")
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted(set(content("".join(SENTENCES)))), "a", "##b", "1"]
    directory.mkdir()
    (directory / "vocab.txt").write_text("\n".join(vocab) + "\n", encoding="utf-8")
    (directory / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    config = neural_config(len(vocab), use_crf)
    (directory / "config.json").write_text(json.dumps(config))
    model = nerual.LTP(config=config).model
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(generator=generator)
    torch.save(model.state_dict(), directory / "pytorch_model.bin")
    return directory


@pytest.fixture(scope="module")
def neural_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_neural_dir(tmp_path_factory.mktemp("neural") / "model", use_crf=False)


@pytest.fixture(scope="module")
def pkuseg_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pkuseg = pytest.importorskip("spacy_pkuseg")
    directory = tmp_path_factory.mktemp("pkuseg")
    text = directory / "train.txt"
    text.write_text("\n".join(SENTENCES * 3) + "\n", encoding="utf-8")
    with contextlib.redirect_stdout(io.StringIO()):
        pkuseg.train(str(text), str(text), str(directory / "model"), train_iter=5)
    return directory / "model"


class Loaded(dict[str, Segmenter]):
    """One segmenter of every kind, made when a test asks for it. The test is skipped if its package is missing."""

    def __init__(self, fixture: Callable[[str], Path]):
        self.fixture = fixture

    def __missing__(self, kind: str) -> Segmenter:
        package, name, options = KINDS[kind]
        if package:
            pytest.importorskip(package)
        model = options.get("model")
        self[kind] = make_segmenter(name, **options | ({"model": self.fixture(model)} if model else {}))
        return self[kind]


# For each kind its package, its name, and its options; a model is a fixture.
KINDS: dict[str, tuple[str, str, dict]] = {
    "legacy": ("ltp_extension", "ltp", {"model": "legacy_dir"}),
    "neural": ("ltp", "ltp", {"model": "neural_dir"}),
    "jieba": ("jieba", "jieba", {}),
    "jieba without HMM": ("jieba", "jieba", {"hmm": False}),
    "whitespace": ("", "whitespace", {}),
    "sudachi": ("sudachipy", "sudachi", {}),
    "sudachi, mode A": ("sudachipy", "sudachi", {"mode": "A"}),
    "mecab": ("fugashi", "mecab", {}),
    "pythainlp": ("pythainlp", "pythainlp", {}),
    "pkuseg": ("spacy_pkuseg", "pkuseg", {"model": "pkuseg_dir"}),
    "icu": ("icu", "icu", {}),
    "icu, Thai": ("icu", "icu", {"locale": "th"}),
}


@pytest.fixture(scope="module")
def loaded(request: pytest.FixtureRequest) -> Loaded:
    return Loaded(request.getfixturevalue)


@pytest.fixture
def copy_of(tmp_path: Path):
    """Copies a model's directory, with some entries of its config replaced."""

    def copy(directory: Path, **entries) -> Path:
        target = tmp_path / "copy"
        shutil.copytree(directory, target)
        file = target / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **entries}))
        return target

    return copy


# what every segmenter promises


def test_every_segmenter_is_held_to_these_promises():
    """`tokenizer` has tests of its own, since it needs one: tests/segmenters/test_languages.py."""
    assert {name for _, name, _ in KINDS.values()} | {"tokenizer"} == {*available()}


@pytest.mark.slow
def test_a_library_that_changes_characters_is_a_sentence(monkeypatch):
    """As it may do on text of another normal form, which has more characters than the one that it gives back."""
    monkeypatch.setattr(JiebaSegmenter, "cut", lambda self, text: [text.replace("我", "你")])
    with pytest.raises(InputError, match="^--segmenter: the words .* do not add up to the line '喜欢我'; use another"):
        load_segmenter("jieba").segment(["喜欢我"])


@pytest.mark.parametrize("kind", slow_after(2, KINDS))
def test_a_pickled_segmenter_gives_the_same_words(loaded, kind):
    other = pickle.loads(pickle.dumps(loaded[kind]))
    assert other.segment(AWKWARD) == loaded[kind].segment(AWKWARD) and other.identity == loaded[kind].identity
    assert Hasher.hash(other) == Hasher.hash(loaded[kind]), "the cache of datasets knows it again"


@pytest.mark.slow
def test_the_cache_of_datasets_knows_a_function_that_makes_references_again():
    segmenter = load_segmenter("jieba")

    def referenced(batch, tokenizer=None):
        return {"chinese_ref": make_references(batch["text"], tokenizer, segmenter)}

    first = Hasher.hash(referenced)
    make_references(["我喜欢你"], character_tokenizer(["我喜欢你"]), segmenter)
    assert Hasher.hash(referenced) == first


@pytest.mark.slow
def test_the_cache_of_datasets_notices_another_dictionary(tmp_path):
    words, digests = tmp_path / "a--seed.txt", []
    for word in ("研究生", "生命的"):
        words.write_text(word)
        digests.append(Hasher.hash(load_segmenter("jieba", user_dict=str(words))))
    assert digests[0] != digests[1]
    words.unlink()
    with pytest.raises(InputError, match=f"^user_dict {words}: cannot read it"):  # the name of the file stays whole
        load_segmenter("jieba", user_dict=str(words))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("line", AWKWARD)
def test_awkward_lines_add_up(loaded, kind, line):
    (words,) = loaded[kind].segment([line])
    assert adds_up(line, words)
    assert all(words), "an empty word has no place in the line"


@pytest.mark.parametrize("kind", slow_after(2, KINDS))
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_text_adds_up(loaded, kind, data):
    letters = st.sampled_from("中国人民银行研究生命的起源，。！ ab1.-\t\n\x00\u3000\ud800かガｶﾞーฉันชอบข้าวខ្ញុံ")
    line = st.text(letters, max_size=90) | st.text(st.characters(exclude_categories=[]), max_size=30)
    lines = data.draw(st.lists(line, max_size=5))
    segmented = loaded[kind].segment(lines)
    assert len(segmented) == len(lines)
    assert all(adds_up(line, words) for line, words in zip(lines, segmented, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_no_lines_give_no_words(loaded, kind):
    assert loaded[kind].segment([]) == []
    assert loaded[kind].segment(("", "")) == [[], []]


@pytest.mark.parametrize("kind", KINDS)
def test_identity_is_of_strings_and_names_no_path(loaded, kind, legacy_dir, neural_dir, pkuseg_dir):
    identity = loaded[kind].identity
    assert identity["name"] in available()
    assert all(isinstance(text, str) for item in identity.items() for text in item)
    assert not any(str(path) in text for path in (legacy_dir, neural_dir, pkuseg_dir) for text in identity.values())


def test_identities_differ_where_words_may(loaded):
    kinds = [kind for kind in KINDS if not kind.startswith("icu")]  # its package may be missing
    identities = [json.dumps(loaded[kind].identity, sort_keys=True) for kind in kinds]
    assert len(set(identities)) == len(kinds)


def test_import_stays_light():
    modules = ", ".join(f"wordmask.segmenters.{name}" for name in available())
    heavy = ["ltp", "ltp_extension", "jieba", "rjieba", "torch", "transformers", "huggingface_hub"]
    heavy += ["sudachipy", "fugashi", "pythainlp", "spacy_pkuseg", "icu", "numpy"]
    code = f"import sys, {modules}; print([name for name in {heavy} if name in sys.modules])"
    assert fresh_python(code) == ("[]\n", "")


# the registry


class Characters(Segmenter):
    """A third party's segmenter, found by its module and name."""

    def __init__(self, keep_spaces: bool = False) -> None:
        self.keep_spaces = keep_spaces

    def segment(self, lines):
        return [[c for c in line if self.keep_spaces or not c.isspace()] for line in lines]


def test_a_registered_class_is_found_by_name(monkeypatch):
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
    names = available()
    assert register("characters")(Characters) is Characters
    assert available() == sorted([*names, "characters"])
    assert make_segmenter("characters", keep_spaces=True).segment(["中 国"]) == [["中", " ", "国"]]
    with pytest.raises(ValueError, match="registered already"):
        register("jieba")(Characters)


def test_a_class_is_found_by_its_module(monkeypatch):
    monkeypatch.setitem(sys.modules, "their.words", sys.modules[__name__])
    segmenter = make_segmenter("their.words:Characters")
    assert segmenter.segment(["中 国"]) == [["中", "国"]]
    assert segmenter.identity["name"] == f"{__name__}:Characters"


def test_the_identity_of_an_own_class_is_its_code_and_its_options(monkeypatch, tmp_path):
    """Else words of an older version would come from the cache, or be mixed with others on a resume."""
    monkeypatch.syspath_prepend(tmp_path)
    words, identities = tmp_path / "words.txt", []
    code = """
import wordmask
class Parts(wordmask.Segmenter):
    def __init__(self, size=%d, words=None):
        self.size = int(size)
    def segment(self, lines):
        return [[line[place : place + self.size] for place in range(0, len(line), self.size)] for line in lines]
"""
    for size, options, content in (
        (2, {}, "a"),
        (3, {}, "a"),
        (3, {"size": 4}, "a"),
        (3, {"words": str(words)}, "a"),
        (3, {"words": str(words)}, "b"),
    ):
        words.write_text(content)
        (tmp_path / "parts_of_lines.py").write_text(code % size)
        sys.modules.pop("parts_of_lines", None)
        linecache.clearcache()
        shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
        importlib.invalidate_caches()
        segmenter = make_segmenter("parts_of_lines:Parts", **options)
        assert segmenter.identity == pickle.loads(pickle.dumps(segmenter)).identity
        identities.append(segmenter.identity)
    assert len({json.dumps(identity) for identity in identities}) == len(identities)
    assert str(tmp_path) not in json.dumps(identities)


class OneByOne(JiebaSegmenter):
    def segment(self, lines):
        return [list(line) for line in lines]


@dataclass(frozen=True)
class Frozen(Segmenter):
    size: int = 2
    words: frozenset = frozenset()
    other: object = None

    def segment(self, lines):
        return [[line] for line in lines]


@pytest.mark.slow
def test_pkuseg_reads_a_dictionary_that_begins_with_a_byte_order_mark(pkuseg_dir, tmp_path):
    """Editors on Windows write it. pkuseg itself would take it for a part of the first word."""
    words = []
    for number, start in enumerate(("", "\ufeff")):
        dictionary = tmp_path / f"{number}.txt"
        dictionary.write_text(f"{start}究的生\n喜欢你\tn\n", encoding="utf-8")
        segmenter = make_segmenter("pkuseg", model=str(pkuseg_dir), user_dict=dictionary)
        words.append(segmenter.segment(["研究的生命", "我喜欢你"]))
    assert words[0] == words[1] and "究的生" in words[0][0] and "喜欢你" in words[0][1]


def test_an_ltp_model_that_is_no_name_is_refused():
    with pytest.raises(InputError, match="^--ltp: an int is neither a directory nor a hub id"):
        make_segmenter("ltp", model=3)


class Versioned(Characters):
    """Its identity has a number, and no name."""

    identity = {"version": 3, "parts": [1, 2]}


def test_an_identity_of_ones_own_has_strings_and_a_name():
    assert identity_of(Versioned()) == {"name": f"{__name__}:Versioned", "version": "3", "parts": "[1, 2]"}


@pytest.mark.slow
def test_a_class_that_is_derived_from_one_of_ours_has_an_identity_of_its_own():
    """Else its words would be those of ours, from the cache."""
    ours, derived = (identity_of(make_segmenter(name)) for name in ("jieba", f"{__name__}:OneByOne"))
    assert derived["name"] == f"{__name__}:OneByOne" and derived["code"] and ours.items() - derived.items()
    assert derived.items() >= {name: value for name, value in ours.items() if name != "name"}.items()


def test_options_that_look_different_in_each_process_are_no_part_of_the_identity():
    options = {"size": 3, "words": frozenset("bac"), "other": object()}
    identity = make_segmenter(f"{__name__}:Frozen", **options).identity
    said = {name: value for name, value in identity.items() if name.startswith("option ")}
    assert said == {"option size": "3", "option words": "['a', 'b', 'c']"}


def test_each_segmenter_says_for_which_scripts_it_was_made():
    """Those that find words in any text say nothing. Nothing of a library is imported for that."""
    japanese = ("Han", "Hiragana", "Katakana")
    expected = dict.fromkeys(("jieba", "ltp", "pkuseg"), ("Han",)) | dict.fromkeys(("mecab", "sudachi"), japanese)
    expected |= {"pythainlp": ("Thai",), "icu": tuple(script for script in SCRIPTS if script != "Tibetan")}
    expected |= dict.fromkeys(("tokenizer", "whitespace"), ())
    assert {name: tuple(registry._find_class(name).scripts) for name in available()} == expected


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("jeiba", "choose from icu, jieba, ltp, mecab, pkuseg, pythainlp, sudachi, tokenizer, whitespace"),
        ("no.such_module:Class", "cannot import no.such_module"),
        ("wordmask.segmenters:NoSuchClass", "no class NoSuchClass"),
        ("wordmask.utils.errors:InputError", "derived from wordmask.segmenters.Segmenter"),
        (":Class", "no such segmenter"),
        ("..relative:Class", "no such segmenter"),
    ],
)
def test_unknown_names_are_explained(name, message):
    with pytest.raises(InputError, match=message):
        make_segmenter(name)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("whitespace", {"user_dict": "words.txt"}, "whitespace cannot use --user_dict; it takes no options"),
        ("jieba", {"model": "LTP/small"}, "jieba cannot use model=; it takes --user_dict, --no_hmm"),
        ("sudachi", {"hmm": False}, "sudachi cannot use --no_hmm; it takes mode=, dictionary=, --user_dict"),
        ("ltp", {}, "ltp needs --ltp"),
        ("ltp", {"model": None}, "ltp needs --ltp"),
    ],
)
def test_no_option_is_ignored_or_missed(name, options, message):
    with pytest.raises(InputError, match=message):
        make_segmenter(name, **options)


def test_none_is_an_option_not_given():
    assert make_segmenter("whitespace", model=None, user_dict=None).segment(["a b"]) == [["a", "b"]]


@pytest.mark.parametrize(
    ("name", "module", "install"),
    [
        ("jieba", "jieba", "pip install jieba"),
        ("ltp", "ltp_extension.perceptron", "pip install ltp"),
        ("sudachi", "sudachipy", "pip install sudachipy"),
        ("sudachi", "sudachidict_small", "pip install sudachidict_small"),
        ("mecab", "fugashi", "pip install fugashi"),
        ("mecab", "unidic_lite", "pip install unidic-lite"),
        ("pythainlp", "pythainlp.tokenize", "pip install pythainlp"),
        ("pkuseg", "spacy_pkuseg", "pip install spacy-pkuseg"),
        ("icu", "icu", "apt-get install libicu-dev pkg-config g.. && pip install PyICU"),
    ],
)
def test_a_missing_package_comes_with_the_line_that_installs_it(monkeypatch, legacy_dir, name, module, install):
    monkeypatch.setitem(sys.modules, module, None)
    options = {"model": legacy_dir} if name == "ltp" else {}
    with pytest.raises(InputError, match=f"--segmenter {name} needs the package .*{install}"):
        make_segmenter(name, **options)


def test_as_many_lists_of_words_as_lines():
    class Joined(Characters):
        def segment(self, lines):
            return super().segment(["".join(lines)])

    assert words_of(Characters(), ["中国", ""]) == [["中", "国"], []] and words_of(Characters(), []) == []
    for lines in (["中国", "人民"], []):
        with pytest.raises(InputError, match=f"--segmenter: .*Joined gave 1 lists of words for {len(lines)} lines"):
            words_of(Joined(), lines)


@pytest.mark.parametrize(
    ("found", "what"),
    [
        (["中国人"], "a str for a line, not a list"),
        ([None], "None for a line, not a list"),
        ([iter(["中国人"])], "a list_iterator for a line, not a list"),
        (iter([["中国人"]]), "a list_iterator, not a list"),
        ("中国人", "a str, not a list"),
        ([[1, 2]], "words that are no strings"),
        ([["中国", None]], "words that are no strings"),
    ],
)
def test_what_is_no_list_of_strings_is_explained(found, what):
    class Given(Characters):
        def segment(self, lines):
            return found

    with pytest.raises(InputError, match=f"--segmenter: .*Given gave {what}; let its method segment return one list"):
        words_of(Given(), ["中国人"])


def test_what_a_class_of_ones_own_needs_and_does_not_get_is_explained(monkeypatch, tmp_path):
    class Needy(Characters):
        def __init__(self, words):
            Path(words).read_text(encoding="utf-8")

    monkeypatch.setitem(registry._REGISTRY, "needy", Needy)
    with pytest.raises(InputError, match="--segmenter needy needs words=; add --segmenter_options name=value"):
        make_segmenter("needy")
    (tmp_path / "latin1").write_bytes(b"\xe9")
    for name in ("missing", "latin1"):
        with pytest.raises(InputError, match="--segmenter needy: it cannot be made .*; check --segmenter_options"):
            make_segmenter("needy", words=str(tmp_path / name))


def test_what_a_class_of_ones_own_raises_names_the_text_and_the_place():
    class Raises(Characters):
        def segment(self, lines):
            return [{"中国": ["中国"]}[line] for line in lines]

    with pytest.raises(InputError) as caught:
        words_of(Raises(), ["中国", "人" * 50, "民"])
    name, lines = f"{__name__}:{Raises.__qualname__}", f"'{'人' * 40}…'"
    number = Raises.segment.__code__.co_firstlineno + 1
    assert str(caught.value) == (
        f"--segmenter: {name} cannot segment {lines} (KeyError: '{'人' * 50}', test_segmenters.py line {number}); "
        "repair its method segment"
    )


def test_a_bug_of_a_segmenter_of_this_package_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(make_segmenter("whitespace").__class__, "segment", lambda self, lines: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        words_of(make_segmenter("whitespace"), ["中国"])


# white space


def test_whitespace_splits_at_any_white_space():
    assert make_segmenter("whitespace").segment([" 研究\u3000生命\t的 起源\n"]) == [["研究", "生命", "的", "起源"]]


# jieba


def test_jieba_finds_words(loaded):
    assert loaded["jieba"].segment(["研究生命的起源"]) == [["研究", "生命", "的", "起源"]]


def test_jieba_guesses_words_only_with_hmm(loaded):
    line = "他来到了网易杭研大厦"
    assert "杭研" in loaded["jieba"].segment([line])[0]
    assert "杭研" not in loaded["jieba without HMM"].segment([line])[0]


def test_both_builds_of_jieba_agree(monkeypatch, loaded):
    """Which of the two is installed must not show in the words."""
    pytest.importorskip("rjieba")
    assert "rjieba" in loaded["jieba without HMM"].identity
    monkeypatch.setitem(sys.modules, "rjieba", None)
    python = make_segmenter("jieba", hmm=False)
    assert "jieba" in python.identity and "rjieba" not in python.identity
    draw = random.Random(0)
    characters = [
        *"中国人民银行研究生命的起源大学生活动中心了在有我们，。！ aB19+#&._%-\t\n\u3000",
        "𠮷",
        "５",
        "é",
        "\ud800",
    ]
    lines = ["".join(draw.choices(characters, k=draw.randrange(30))) for _ in range(3000)]
    ours = loaded["jieba without HMM"].segment(lines)
    assert ours == python.segment(lines)
    assert any(len(word) > 2 for words in ours for word in words), "no words were found to compare"


def test_jieba_with_hmm_never_uses_the_build_that_differs(loaded):
    assert "rjieba" not in loaded["jieba"].identity
    assert loaded["jieba"].segment(["1-6天"]) == [["1", "-", "6", "天"]]


@pytest.mark.slow
def test_a_user_dictionary_is_its_segmenters_own(tmp_path, loaded):
    """jieba keeps dictionaries, and words of frequency 0, for the whole process."""
    import jieba

    line = "他在网易杭研大厦吃石墨烯披萨"
    before = loaded["jieba"].segment([line]), jieba.lcut(line)
    words = tmp_path / "words.txt"
    words.write_text("石墨烯披萨 1000 n\n杭研 0\n", encoding="utf-8")
    segmenter = make_segmenter("jieba", user_dict=words)
    (own,) = segmenter.segment([line])
    assert "石墨烯披萨" in own and "杭研" not in own
    assert (loaded["jieba"].segment([line]), jieba.lcut(line)) == before
    assert "杭研" in before[0][0]
    assert len(segmenter.identity["user_dict"]) == 64


@pytest.mark.slow
def test_entries_that_jieba_never_finds_are_counted_and_one_is_named(tmp_path, caplog):
    words = tmp_path / "words.txt"
    lost = ["增长率的\t5", "增长率的,5,n", "增长率的 n 5", "增长率的 5 N", "增长率的 5.0", "增长率的\u30005", "AT T 5"]
    words.write_text("\n".join(["\ufeff石墨烯 5 n", "C++ 3", *lost, "", "杭研", ""]), encoding="utf-8")
    make_segmenter("jieba", user_dict=words)
    (said,) = caplog.messages
    assert (
        said.startswith(f"--user_dict {words}: jieba never finds 7 of 10 entries, such as ") and "in line 3;" in said
    )
    caplog.clear()
    words.write_text("增长率的 5 n\n云计算 v\nC++\n", encoding="utf-8")
    make_segmenter("jieba", user_dict=words)
    assert caplog.messages == []


@pytest.mark.slow
def test_jieba_writes_nothing_to_stderr(tmp_path):
    words = tmp_path / "words.txt"
    words.write_text("石墨烯 5 n\n", encoding="utf-8")
    for options in ("", f", user_dict={str(words)!r}"):
        make = f"make_segmenter('jieba'{options})"
        code = f"from wordmask.segmenters import make_segmenter; print({make}.segment(['中国']))"
        assert fresh_python(code, "-W", "default") == ("[['中国']]\n", "")


def test_an_unreadable_user_dictionary_is_explained(tmp_path):
    with pytest.raises(InputError, match="--user_dict .*cannot read it"):
        make_segmenter("jieba", user_dict=tmp_path / "none.txt")
    with pytest.raises(InputError, match="--user_dict .*cannot read it"):
        make_segmenter("jieba", user_dict=tmp_path)
    gbk = tmp_path / "gbk.txt"
    gbk.write_bytes("中国 10\n".encode("gbk"))
    with pytest.raises(InputError, match="cannot read it .*byte .* in position 0.*UTF-8"):
        make_segmenter("jieba", user_dict=gbk)


# LTP


def test_legacy_finds_the_words_it_was_taught(loaded):
    lines = [sentence.replace(" ", "") for sentence in SENTENCES]
    assert loaded["legacy"].segment(lines) == [sentence.split(" ") for sentence in SENTENCES]


def test_neural_results_come_in_order_and_do_not_depend_on_it(loaded):
    draw = random.Random(0)
    characters = content("".join(SENTENCES))
    lines = ["".join(draw.choices(characters, k=draw.randrange(1, 100))) for _ in range(100)]
    words = loaded["neural"].segment(lines)
    assert all("".join(found) == line for line, found in zip(lines, words, strict=True))
    assert {len(word) for found in words for word in found} >= {1, 2, 3}, "a model that always says the same"
    order = draw.sample(range(100), 100)
    assert loaded["neural"].segment([lines[i] for i in order]) == [words[i] for i in order]


def test_neural_batches_depend_on_the_lines_alone(monkeypatch, loaded):
    """Rounding differs with the lines that are read together, so these may not hang on order or on hash seeds."""
    ltp = loaded["neural"]._model._ltp
    batches: list[list[str]] = []

    def pipeline(lines, tasks):
        batches.append(lines)
        return type(ltp).pipeline(ltp, lines, tasks=tasks)

    monkeypatch.setattr(ltp, "pipeline", pipeline)
    lines = [first + second for first in "中国人民银行" for second in ["研究", "生命", "的", "起源。"]] * 2
    for _ in range(2):
        loaded["neural"].segment(lines)
        assert [len(batch) for batch in batches] == [24]
        assert batches.pop() == sorted(set(lines), key=lambda line: (-len(line), line))
        lines.reverse()
    loaded["neural"].segment(["中" * length for length in range(38)])
    # As many as make 1,024 tokens with their padding and two special ones each.
    assert [[len(line) for line in batch] for batch in batches] == [[*range(37, 11, -1)], [*range(11, 0, -1)]]


def test_neural_reads_what_ltp_reads(loaded):
    """The words are LTP's own, wherever LTP gets through."""
    lines = ["".join(sentence.split()) for sentence in SENTENCES]
    direct = [loaded["neural"]._model._ltp.pipeline([line], tasks=["cws"]).cws[0] for line in lines]
    assert loaded["neural"].segment(lines) == direct


def test_neural_reads_each_sentence_of_a_long_line_whole(loaded):
    """LTP alone cuts off at the model's length, and gives the rest to the last word."""
    sentences = ["研究生命的起源。", "中国人民银行！", "我们在研究生活。"] * 10
    words = loaded["neural"].segment(["".join(sentences)])[0]
    assert "".join(words) == "".join(sentences)
    assert max(map(len, words)) <= 38
    parts = split_long("".join(sentences), 38)
    assert words == [word for found in loaded["neural"].segment(parts) for word in found]


@pytest.mark.parametrize("part", ["", "。", "，", " "])
def test_split_long(part):
    line = part.join(["研究生命的起源", "中国", "人民银行"] * 20)
    parts = split_long(line, 38)
    assert "".join(parts) == line
    assert max(map(len, parts)) <= 38
    assert all(p.endswith(part) for p in parts[:-1])
    assert split_long(line, len(line)) == [line]


def test_split_long_divides_no_grapheme_cluster():
    assert split_long("กี่" * 7, 10) == ["กี่" * 2, "กี่" * 2, "กี่" * 3]
    accents = "e" + "\u0301" * 30  # one cluster, which is too long
    assert "".join(split_long(accents, 10)) == accents and max(map(len, split_long(accents, 10))) <= 10


def test_split_long_prefers_sentences_to_clauses():
    assert split_long("一，二，三。”四，五，六，七，八", 9) == ["一，二，三。”", "四，五，六，七，八"]


def test_split_long_counts_a_syllable_as_its_letters():
    """한 is three tokens to a BERT tokenizer."""
    assert [len(part) for part in split_long("한" * 40, 30)] == [10] * 4


def test_a_crf_meets_no_line_without_tokens(tmp_path):
    directory = make_neural_dir(tmp_path / "crf", use_crf=True)
    lines = ["中国人民", "\x00", " ", "银行" * 40, "\x01\x02"]
    words = make_segmenter("ltp", model=directory).segment(lines)
    assert all(adds_up(line, found) for line, found in zip(lines, words, strict=True))


@pytest.mark.parametrize("kind", ["legacy", "neural"])
def test_any_path_will_do(tmp_path, loaded, legacy_dir, neural_dir, kind):
    """LTP reads what follows an "@" as a revision, and takes no `Path`."""
    directory = tmp_path / "user@host" / "模型"
    shutil.copytree(legacy_dir if kind == "legacy" else neural_dir, directory)
    for path in (directory, str(directory)):
        segmenter = make_segmenter("ltp", model=path)
        assert segmenter.segment(["中国人民"]) == loaded[kind].segment(["中国人民"])
        assert segmenter.identity == loaded[kind].identity, "the same model somewhere else"


def test_weights_that_old_transformers_saved_still_load(copy_of, loaded, neural_dir):
    import torch

    directory = copy_of(neural_dir)
    weights = torch.load(directory / "pytorch_model.bin")
    weights["backbone.embeddings.position_ids"] = torch.arange(40)[None]
    torch.save(weights, directory / "pytorch_model.bin")
    line = "研究生命的起源。"
    assert make_segmenter("ltp", model=directory).segment([line]) == loaded["neural"].segment([line])


# LTP from the hub


@pytest.fixture
def hub_cache(tmp_path, monkeypatch) -> Path:
    """An empty cache of the hub, and no network."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


@pytest.mark.parametrize(("name", "ref"), [("THEIRS/words", "main"), ("THEIRS/words@v2", "v2")])
def test_a_hub_id_is_found_in_the_cache(hub_cache, loaded, legacy_dir, name, ref):
    repo = hub_cache / "models--THEIRS--words"
    commit = "0123456789abcdef0123456789abcdef01234567"
    shutil.copytree(legacy_dir, repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    (repo / "refs" / ref).write_text(commit)
    segmenter = make_segmenter("ltp", model=name)
    assert segmenter.segment(["中国人民银行"]) == [["中国", "人民", "银行"]]
    assert segmenter.identity == loaded["legacy"].identity


def test_a_hub_out_of_reach_is_explained(hub_cache):
    with pytest.raises(InputError, match="--ltp THEIRS/words: no such directory, and fetching it from the hub failed"):
        make_segmenter("ltp", model="THEIRS/words")


@pytest.mark.parametrize("model", ["", "./nowhere", "/no/such/directory", "words", "a/b/c", "~nobody/words"])
def test_what_is_neither_path_nor_hub_id_is_not_fetched(model):
    with pytest.raises(InputError, match="neither a directory nor a hub id"):
        make_segmenter("ltp", model=model)


# LTP's models, broken


def rejected(directory: Path, message: str, **options) -> None:
    with pytest.raises(InputError, match=message) as caught:
        make_segmenter("ltp", model=directory, **options)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 700, "an error is one sentence"


@pytest.mark.parametrize("text", [None, "", "{", "[]", "{}", '{"model_type": "bert"}', '{"nerual": "yes"}'])
def test_a_config_that_is_not_ltps(copy_of, legacy_dir, text):
    directory = copy_of(legacy_dir)
    (directory / "config.json").unlink()
    if text is not None:
        (directory / "config.json").write_text(text)
    rejected(directory, "config.json")


@pytest.mark.parametrize("tasks", [None, [], {}, {"pos": "pos_model.bin"}, {"cws": None}])
def test_a_legacy_model_without_segmentation(copy_of, legacy_dir, tasks):
    rejected(copy_of(legacy_dir, tasks=tasks), "no word segmentation")


def test_a_legacy_model_without_its_file(copy_of, legacy_dir):
    rejected(copy_of(legacy_dir, tasks={"cws": "none.bin"}), "cannot read none.bin")
    rejected(legacy_dir / "cws_model.bin", "neither a directory")


@pytest.mark.slow
def test_a_legacy_model_cut_short(copy_of, legacy_dir):
    """`CWSModel.load` would end this very process."""
    directory = copy_of(legacy_dir)
    whole = (directory / "cws_model.bin").read_bytes()
    for size in range(len(whole)):
        (directory / "cws_model.bin").write_bytes(whole[:size])
        rejected(directory, "damaged")


def test_a_legacy_model_of_another_kind(copy_of, legacy_dir):
    directory = copy_of(legacy_dir)
    (directory / "cws_model.bin").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    rejected(directory, "damaged or is not a legacy model")
    (directory / "cws_model.bin").write_bytes(b"Obj\x01" + bytes(40))
    rejected(directory, "cannot load cws_model.bin")


def test_a_legacy_model_takes_no_option_of_neural_ones(legacy_dir):
    rejected(legacy_dir, "legacy model.*batch_size", batch_size=8)
    rejected(legacy_dir, "legacy model.*device", device="cpu")


def test_neural_options_are_checked(neural_dir):
    rejected(neural_dir, "batch_size=0", batch_size=0)
    rejected(neural_dir, "device=nowhere", device="nowhere")


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "ltp_core.models.ltp_model.torch.load",
        "ltp_core.models.utils.instantiate.find_callable",
        ["os.system"],
    ],
)
def test_a_config_calls_nothing_but_ltp(copy_of, neural_dir, target):
    """LTP calls whatever its config names; ltp_core's own modules lead to torch and importlib."""
    model = json.loads((neural_dir / "config.json").read_text())["model"]
    model["backbone"]["config"]["nested"] = [{"deep": {"_ltp_target_": target, "command": "true"}}]
    rejected(copy_of(neural_dir, model=model), "no part of LTP")


def test_every_allowed_name_is_one_of_ltps():
    """A name that LTP dropped or moved would only wait for somebody to take it."""
    instantiate = pytest.importorskip("ltp_core.models.utils.instantiate")
    from wordmask.segmenters.ltp_neural import ALLOWED_TARGETS

    for name in ALLOWED_TARGETS:
        found = instantiate.find_callable(name)
        assert found.__module__.startswith("ltp_core.models.") and name.endswith("." + found.__name__)


def neural_model(directory: Path, part: str, **entries) -> dict:
    """The `model` of a config, with one of its parts for word segmentation changed."""
    model = json.loads((directory / "config.json").read_text())["model"]
    model[part]["cws"].update(entries)
    return model


def test_a_neural_config_that_describes_no_model(copy_of, neural_dir):
    rejected(copy_of(neural_dir, model=None), "no word segmentation")


def test_a_neural_model_without_segmentation(copy_of, neural_dir):
    model = json.loads((neural_dir / "config.json").read_text())["model"]
    rejected(copy_of(neural_dir, model={**model, "heads": {"pos": model["heads"]["cws"]}}), "no word segmentation")


def test_a_neural_model_that_cannot_be_built(copy_of, neural_dir):
    rejected(copy_of(neural_dir, model=neural_model(neural_dir, "heads", surprise=1)), "LTP cannot build the model")


def test_a_neural_model_with_more_labels_than_tags(copy_of, neural_dir):
    rejected(copy_of(neural_dir, vocabs={"cws": ["B", "M", "E", "S"]}), "2 labels for 4 tags")


def test_weights_that_do_not_fit(copy_of, neural_dir):
    """LTP itself loads what fits, and leaves the rest random."""
    import torch

    directory = copy_of(neural_dir)
    file = directory / "pytorch_model.bin"
    weights = torch.load(file)
    torch.save({f"model.{name}": tensor for name, tensor in weights.items()}, file)
    rejected(directory, "cannot load its weights.*Missing key")
    torch.save({**weights, "task_heads.cws.one_more.weight": torch.zeros(1)}, file)
    rejected(directory, "cannot load its weights.*Unexpected key")
    file.write_bytes(b"not a checkpoint")
    rejected(directory, "cannot load its weights")
    file.unlink()
    rejected(directory, "cannot load its weights.*No such file")


def test_a_model_that_cannot_segment(copy_of, neural_dir):
    model = neural_model(neural_dir, "processor", _ltp_target_="ltp_core.models.processor.ClsOnly")
    rejected(copy_of(neural_dir, model=model), "cannot segment a word")


def test_a_tokenizer_that_is_missing(copy_of, neural_dir):
    """transformers makes one that knows no character."""
    directory = copy_of(neural_dir)
    (directory / "vocab.txt").unlink()
    rejected(directory, "no tokenizer")


def test_a_tokenizer_larger_than_its_model(copy_of, neural_dir):
    directory = copy_of(neural_dir)
    with (directory / "vocab.txt").open("a", encoding="utf-8") as vocab:
        vocab.write("more\n")
    rejected(directory, r"its tokenizer has ids up to \d+, its model up to \d+")
