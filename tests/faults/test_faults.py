"""A sample of the table of faults. `make faults` plays all of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from faults.cases import READ_AGAIN, RUNS, SAMPLE, table
from faults.events import EVENTS, PLACES, Event, Place, happened, inject


@pytest.mark.slow
def test_a_run_that_was_hurt_ends_as_if_nothing_happened():
    """In a process of its own, which forks before it has threads."""
    command = [sys.executable, str(Path(__file__).with_name("harness.py")), "--sample", "--jobs", "1"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    *_, last = done.stdout.splitlines()
    cases, events = len(SAMPLE), sum(len(case.events) for case in SAMPLE)
    assert done.returncode == 0 and last.split() == ["all", *map(str, (cases, events, cases, 0, 0))], done.stdout


def test_the_table_has_a_hundred_kills_and_each_kind_of_fault():
    cases = table()
    events = [event for case in cases for event in case.events]
    assert sum(event.name == "SIGKILL" for event in events) >= 100 and len({*cases}) == len(cases)
    assert {event.name for event in events} == {*EVENTS} and {event.place for event in events} == {*PLACES}
    alone = [case.events[0].damaged for case in cases if len(case.events) == 1]
    assert all(alone.count(name) == 10 for names in READ_AGAIN.values() for name in names)


def test_a_run_is_hurt_several_times_by_events_of_all_kinds_on_each_process():
    several = [case for case in table() if len(case.events) > 1]
    events = {(event.name, event.rank) for case in several for event in case.events}
    assert len(several) >= 12 and {name for name, _ in events} == {*EVENTS} and {0, 1} == {rank for _, rank in events}
    assert {case.run for case in several} == {*RUNS}
    assert any(len({*case.events}) < len(case.events) for case in several), "a step is hit again"


def test_an_event_happens_once_at_its_step_whatever_was_done_before(monkeypatch, tmp_path):
    """A process that goes on from step 4 calls the step for the first time at 4."""
    calls = SimpleNamespace(step=lambda number: None)
    monkeypatch.setitem(sys.modules, "wordmask_of_a_test", calls)
    monkeypatch.setitem(PLACES, "step", Place("wordmask_of_a_test:step", lambda number: number))
    monkeypatch.setitem(EVENTS, "SIGKILL", lambda folder: done.append(folder))
    events, done = [Event("SIGKILL", "step", 4), Event("SIGKILL", "step", 6, call=2), Event("SIGKILL", "step", 4)], []
    inject({0: events[0], 1: events[1], 2: events[2]}, tmp_path)
    for number in (4, 5, 6, 6, 6, 7):
        calls.step(number)
    assert happened(tmp_path) == {0: 1, 1: 1} and done == [tmp_path.parent] * 2
    inject({2: events[2]}, tmp_path)
    calls.step(4)
    assert happened(tmp_path) == {0: 1, 1: 1, 2: 1}


@pytest.mark.slow
def test_a_soak_finds_what_is_lost():
    """A short one; `make soak` takes an hour. Nothing is lost in it, or its last line says how much."""
    command = [sys.executable, str(Path(__file__).with_name("soak.py")), "--minutes", "0.01", "--seed", "1"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    *_, last = done.stdout.splitlines()
    assert done.returncode == 0 and last.split()[:2] == ["all", "1"] and last.split()[-1] == "0", done.stdout
