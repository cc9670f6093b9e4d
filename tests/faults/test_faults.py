"""A sample of the table of faults. `make faults` plays all of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from faults.cases import READ_AGAIN, SAMPLE, table
from faults.events import EVENTS


def test_a_run_that_was_hurt_ends_as_if_nothing_happened():
    """In a process of its own, which forks before it has threads."""
    command = [sys.executable, str(Path(__file__).with_name("harness.py")), "--sample"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    *_, last = done.stdout.splitlines()
    assert done.returncode == 0 and last.split() == ["all", str(len(SAMPLE)), str(len(SAMPLE)), "0", "0"], done.stdout


def test_the_table_has_a_hundred_kills_and_each_kind_of_fault():
    cases = table()
    assert sum(case.event == "SIGKILL" for case in cases) >= 100 and len({*cases}) == len(cases)
    assert {case.event for case in cases} == {*EVENTS}
    assert all(sum(case.damaged == name for case in cases) == 10 for names in READ_AGAIN.values() for name in names)


@pytest.mark.slow
def test_a_soak_finds_what_is_lost():
    """A short one; `make soak` takes an hour. Nothing is lost in it, or its last line says how much."""
    command = [sys.executable, str(Path(__file__).with_name("soak.py")), "--minutes", "0.01", "--seed", "1"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    *_, last = done.stdout.splitlines()
    assert done.returncode == 0 and last.split()[:2] == ["all", "1"] and last.split()[-1] == "0", done.stdout
