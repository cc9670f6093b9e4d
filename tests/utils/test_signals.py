"""What a signal does: it raises an exception in the program that asked for that, once, and nothing elsewhere."""

from __future__ import annotations

import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from wordmask.utils import script
from wordmask.utils.errors import InputError
from wordmask.utils.signals import Interrupted, are_handled, exit_status, handled, held_back, interruption_behind


def test_an_interruption_is_found_behind_what_it_has_led_to():
    """Up to Python 3.11, one that comes while a class is made is the cause of a `RuntimeError`."""
    interrupted, caused, met, other = Interrupted(signal.SIGTERM), RuntimeError(), RuntimeError(), RuntimeError()
    caused.__cause__ = met.__context__ = interrupted
    found = [interruption_behind(error) for error in (interrupted, caused, met, other, None)]
    assert found == [interrupted] * 3 + [None] * 2
    assert (exit_status(interrupted), exit_status(KeyboardInterrupt())) == (143, 130)


def test_a_signal_that_is_ignored_stays_ignored():
    """As under nohup."""
    earlier = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with handled():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, earlier)


def test_in_a_thread_signals_do_what_they_did():
    """Only the main thread may say what they do."""

    def runs() -> bool:
        with handled():
            return are_handled()

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(runs).result() is False


def test_a_signal_that_another_thread_gets_is_held_back_too_and_the_first_one_counts():
    begins, ends, turns, reached = threading.Event(), threading.Event(), [], []

    def sends() -> None:
        begins.wait()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.pthread_kill(threading.get_ident(), number)
            seen = len(turns)
            while len(turns) < seen + 2:  # of two signals at once, Python would handle the one with the lower number
                time.sleep(0.001)
        ends.set()

    threading.Thread(target=sends).start()
    with pytest.raises(Interrupted, match="SIGTERM"), handled():
        with held_back():
            begins.set()
            while not ends.is_set():  # it runs handlers as it goes on
                turns.append(time.sleep(0.01))
            reached.append("the end")
        reached.append("what follows")
    assert reached == ["the end"]


def test_a_signal_while_a_mistake_is_said_leaves_no_traceback(monkeypatch, capsys):
    """As torchrun's SIGTERM, which comes to all processes when one has ended."""

    def first_to_say(sentence: str) -> bool:
        signal.raise_signal(signal.SIGTERM)
        return True

    monkeypatch.setattr(script, "first_to_say", first_to_say)
    with pytest.raises(SystemExit) as end, script.one_line_endings():
        raise InputError("--seed: wrong")
    assert end.value.code == 2 and capsys.readouterr().err == "error: --seed: wrong\n"
