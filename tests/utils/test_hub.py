"""What the hub does not have, or does not allow, is said in one sentence at the start of a run."""

from __future__ import annotations

import json
import logging
import shutil
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled
from huggingface_hub.utils import logging as hub_logging

import run_mlm_wwm
from conftest import refusal, sample_tokenizer, slow_after
from wordmask.utils.errors import InputError
from wordmask.utils.hub import load_pretrained_tokenizer, loading

# What a hub answers about a repository: status and X-Error-Code.
REPOSITORIES = {
    "me/gated": (403, "GatedRepo"),
    "me/absent": (401, "RepoNotFound"),
    "me/tiny": (404, "RevisionNotFound"),
}
# What it says of the owner of a token.
USERS = {
    "hf_reader": {"name": "me", "orgs": [], "auth": {"accessToken": {"role": "read"}}},
    "hf_writer": {"name": "me", "orgs": [{"name": "lab"}], "auth": {"accessToken": {"role": "write"}}},
}


class FakeHub(BaseHTTPRequestHandler):
    """A hub that knows a few repositories and tokens."""

    def do_GET(self) -> None:
        token = self.headers.get("authorization", "").removeprefix("Bearer ")
        repository = next((name for name in REPOSITORIES if name in self.path), None)
        if repository:
            self._answer(REPOSITORIES[repository][0], {}, REPOSITORIES[repository][1])
        elif token in USERS:
            self._answer(200, USERS[token])
        else:
            self._answer(401, {"error": "Invalid username or password."})

    do_HEAD = do_POST = do_GET

    def _answer(self, status: int, content: dict, code: str = "") -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        if code:
            self.send_header("X-Error-Code", code)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Nothing."""


def use_hub(monkeypatch, url: str) -> None:
    """Make this process look for the hub at another place, and not be offline."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture
def hub(monkeypatch):
    """A hub on this machine, in place of the real one."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), FakeHub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    use_hub(monkeypatch, f"http://127.0.0.1:{server.server_port}")
    yield
    server.shutdown()
    server.server_close()


@pytest.fixture
def refuse(capsys, tmp_path, english_file):
    """A function that gives the sentence for a command line, and sees that it comes quickly and before any output."""

    def check(*argv: str) -> str:
        start, output = time.monotonic(), tmp_path / "out"
        text = ["--train_file", english_file, "--use_cpu", "--output_dir", str(output), "--cache_dir"]
        sentence = refusal(capsys, run_mlm_wwm.main, *argv, *text, str(tmp_path / "cache"))
        assert not output.exists() and time.monotonic() - start < 30
        return sentence

    return check


@pytest.fixture
def cached_model(english_model, tmp_path) -> str:
    """The hub id of a model that lies in the cache as its branch main."""
    repository = tmp_path / "cache" / "models--me--tiny"
    shutil.copytree(english_model, repository / "snapshots" / ("a" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    return "me/tiny"


def test_a_model_in_the_cache_is_trained_offline(cached_model, english_file, tmp_path):
    argv = ["--model_name_or_path", cached_model, "--cache_dir", str(tmp_path / "cache"), "--train_file", english_file]
    metrics = run_mlm_wwm.main([*argv, "--use_cpu", "--max_steps", "1", "--output_dir", str(tmp_path / "out")])
    assert metrics["train_samples"] == 38


@pytest.mark.parametrize("more", [("me/other",), ("me/tiny", "--model_revision", "v2")])
def test_what_the_cache_lacks_is_a_sentence_offline(refuse, cached_model, more):
    sentence = refuse("--model_name_or_path", *more)
    assert sentence.startswith(f"--model_name_or_path: {more[0]} ") and "HF_HUB_OFFLINE" in sentence
    assert "--model_revision" in sentence


@pytest.mark.parametrize("flag", ["--model_name_or_path", "--tokenizer_name"])
@pytest.mark.parametrize(
    "name, words",
    slow_after(1, [("me/gated", "gated --token"), ("me/absent", "--token"), ("me/tiny", "--model_revision")]),
)
def test_what_the_hub_refuses_names_the_flag_that_mends_it(refuse, hub, flag, name, words):
    others = [] if flag == "--model_name_or_path" else ["--model_type", "bert"]
    sentence = refuse(flag, name, *others)
    assert sentence.startswith(f"{flag}: {name} ") and all(word in sentence for word in words.split()), sentence


@pytest.mark.parametrize(
    ("message", "advice"),
    [
        ("You need to install rjieba to use RoFormerTokenizer. See https://pypi.org", ": pip install rjieba"),
        ("You need to install sudachipy>=0.6.8 to specify `projection`.", ": pip install 'sudachipy>=0.6.8'"),
        (
            "Package `sudachidict_core` does not exist. `$ pip install sudachidict_core`",
            ": pip install sudachidict_core",
        ),
        ("\nX requires the SentencePiece library but it was not found in", ": pip install sentencepiece"),
        ("cannot import name 'x' from 'y'", "; install it with pip"),
    ],
)
def test_a_package_that_a_tokenizer_lacks_comes_with_the_line_that_installs_it(message, advice):
    with pytest.raises(InputError) as caught, loading("--tokenizer_name", "me/tiny", "a tokenizer", is_model=False):
        raise ImportError(message)
    assert str(caught.value).endswith(f"){advice}")


def test_a_dictionary_that_is_not_downloaded_comes_with_the_line_that_does_it():
    with (
        pytest.raises(InputError, match=": python -m unidic download$"),
        loading("--bert", "me/tiny", "a tokenizer", is_model=False),
    ):
        raise RuntimeError("The unidic dictionary itself is not found. See https://github.com")


def test_the_retries_of_the_hubs_library_are_not_shown_and_then_it_says_as_much_as_before():
    found = [hub_logging.get_verbosity()]
    assert found[0] != logging.ERROR
    with pytest.raises(InputError), loading("--bert", "me/tiny", "a tokenizer", is_model=False):
        found.append(hub_logging.get_verbosity())
        raise OSError
    assert [*found, hub_logging.get_verbosity()] == [found[0], logging.ERROR, found[0]]


@pytest.mark.parametrize("link", ["__cause__", "__context__"])
@pytest.mark.parametrize("error", [LocalEntryNotFoundError("x"), OfflineModeIsEnabled("x"), ConnectionError("x")])
def test_why_the_hub_gave_nothing_is_found_behind_the_errors_that_it_led_to(error, link, monkeypatch):
    use_hub(monkeypatch, "http://hub")
    last, between = OSError("no file"), ValueError("no answer")
    setattr(last, link, between)
    setattr(between, link, error)
    sentence = "--bert: me/tiny is neither a directory nor in the cache, and http://hub cannot be reached; give a"
    with pytest.raises(InputError, match=sentence), loading("--bert", "me/tiny", "a tokenizer", is_model=False):
        raise last


def test_a_hub_that_cannot_be_reached(refuse, monkeypatch):
    use_hub(monkeypatch, "http://127.0.0.1:9")  # the port "discard": nobody listens
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # the hub's library tries each file five times
    sentence = refuse("--model_name_or_path", "me/tiny")
    assert sentence.startswith("--model_name_or_path: me/tiny ") and "http://127.0.0.1:9 cannot be reached" in sentence


PUSH = ["--model_type", "bert", "--vocab_size", "90", "--push_to_hub"]


@pytest.fixture
def unread(monkeypatch):
    """See that no text is read."""
    monkeypatch.setattr("wordmask.training.inputs.load_texts", None)
    monkeypatch.setattr("wordmask.utils.hub.get_token", lambda: None)


@pytest.mark.parametrize(
    "more, flag, words",
    [
        ([], "--push_to_hub", "hf auth login --hub_token"),
        (["--hub_token", "hf_wrong"], "--push_to_hub", "does not take"),
        (["--hub_token", "hf_reader"], "--push_to_hub", "only read"),
        (["--hub_token", "hf_writer", "--hub_model_id", "you/bert"], "--hub_model_id", "you/bert you me, lab"),
    ],
)
def test_a_push_that_the_hub_would_refuse_is_refused_before_anything_is_read(refuse, hub, unread, more, flag, words):
    sentence = refuse(*PUSH, *more)
    assert sentence.startswith(flag) and all(word in sentence for word in words.split()), sentence


def test_a_push_offline_is_refused_before_anything_is_read(refuse, unread):
    assert refuse(*PUSH).startswith("--push_to_hub") and "HF_HUB_OFFLINE" in refuse(*PUSH)


def test_a_push_to_a_hub_that_cannot_be_reached_is_refused_before_anything_is_read(refuse, unread, monkeypatch):
    use_hub(monkeypatch, "http://127.0.0.1:9")
    sentence = refuse(*PUSH, "--hub_token", "hf_writer")
    assert sentence.startswith("--push_to_hub: http://127.0.0.1:9 cannot be reached")


def test_a_push_that_the_hub_takes_goes_on(hub, unread, english_file, tmp_path, caplog):
    argv = [*PUSH, "--hub_token", "hf_writer", "--hub_model_id", "lab/bert", "--train_file", english_file, "--use_cpu"]
    with pytest.raises(TypeError, match="NoneType"):  # the reading of text, which `unread` took away
        run_mlm_wwm.main([*argv, "--output_dir", str(tmp_path / "out")])
    assert "--push_to_hub: the report and other results hold lines and words of your text" in caplog.text


@pytest.mark.parametrize("tracker", ["wandb", "comet_ml", "mlflow", "flyte", "azure_ml", "clearml"])
def test_a_tracker_without_its_package_is_refused_before_anything_is_read(refuse, unread, tracker, monkeypatch):
    monkeypatch.setattr("wordmask.config.tracker_checks.importlib.util.find_spec", lambda name: None)
    sentence = refuse(*PUSH[:4], "--report_to", tracker)
    assert sentence.startswith(f"--report_to {tracker} needs its package: pip install ")


# Tokenizers that are Python code

CODE = """
from transformers import BertTokenizer

class LetterTokenizer(BertTokenizer):
    pass
"""


@pytest.fixture
def own_code(tmp_path, monkeypatch):
    """A directory with a tokenizer of a class of its own."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))  # and taken away after the test
    folder = tmp_path / "own"
    sample_tokenizer("bert").save_pretrained(folder)
    (folder / "letters.py").write_text(CODE)
    path = folder / "tokenizer_config.json"
    classes = {"AutoTokenizer": [None, "letters.LetterTokenizer"]}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": classes}))
    return folder


def test_a_tokenizer_whose_code_may_not_run_is_told(own_code, caplog):
    tokenizer = load_pretrained_tokenizer("--bert", str(own_code))
    assert type(tokenizer).__name__ != "LetterTokenizer"
    sentence = f"--bert: {own_code} has Python code for its tokenizer (letters.LetterTokenizer)"
    assert f"{sentence}; --trust_remote_code runs it" in caplog.text
    caplog.clear()
    trusted = load_pretrained_tokenizer("--bert", str(own_code), trust_remote_code=True)
    assert type(trusted).__name__ == "LetterTokenizer" and not caplog.text


def test_a_tokenizer_that_is_nothing_without_its_code_names_the_flag(own_code):
    """It was called a directory without a tokenizer."""
    for path in own_code.iterdir():
        if path.name not in ("letters.py", "tokenizer_config.json"):
            path.unlink()
    config = own_code / "tokenizer_config.json"
    values = json.loads(config.read_text()) | {"tokenizer_class": "LetterTokenizer"}
    config.write_text(json.dumps(values))
    with pytest.raises(InputError, match=r"; check its files, or add --trust_remote_code to run .* \(letters.Letter"):
        load_pretrained_tokenizer("--bert", str(own_code), trust_remote_code=False)
    config.write_text(json.dumps(values | {"auto_map": {"AutoTokenizer": None}}))
    with pytest.raises(InputError, match="; check its files$"):
        load_pretrained_tokenizer("--bert", str(own_code), trust_remote_code=False)
