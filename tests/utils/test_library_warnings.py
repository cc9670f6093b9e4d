"""Warnings of libraries: no needless one is shown, and the others come as one sentence each."""

from __future__ import annotations

import os
import warnings

from transformers import AutoTokenizer

from wordmask.utils.library_warnings import filtered_warnings


def test_a_warning_that_needs_action_comes_as_one_sentence(capsys):
    with filtered_warnings():
        warnings.warn("This DataLoader will create 9 worker processes, which nobody has asked for\nhere", stacklevel=1)
        warnings.warn_explicit(
            "This DataLoader will create 9 worker processes in total.",
            UserWarning,
            "site-packages/torch/x.py",
            1,
            module="torch.utils.data.dataloader",
        )
        path = "/lib/site-packages/transformers/training_args.py"
        warnings.warn_explicit("`old` is deprecated.\nUse `new`.", UserWarning, path, 1, module="transformers.x")
    err = capsys.readouterr().err
    assert err.count("This DataLoader") == 1  # the one from elsewhere
    assert "transformers: `old` is deprecated. Use `new`." in err.splitlines()


def test_a_library_that_used_threads_says_nothing_after_a_fork(capfd, english_model, monkeypatch):
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    AutoTokenizer.from_pretrained(english_model)(["some words"] * 100)  # in threads
    with filtered_warnings():
        if not (child := os.fork()):
            os._exit(os.environ["TOKENIZERS_PARALLELISM"] != "false")
    assert os.waitpid(child, 0)[1] == 0 and "TOKENIZERS_PARALLELISM" not in os.environ
    assert capfd.readouterr() == ("", "")
