"""Which process of a launch this is, under each launcher that we know."""

from __future__ import annotations

import pytest

from wordmask.utils.processes import RANKS, is_first_process, local_rank


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """No launcher."""
    for name in (*RANKS, "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("name", RANKS)
def test_one_process_of_a_launch_is_the_first(monkeypatch, name):
    assert is_first_process()
    for rank in ("0", "1"):
        monkeypatch.setenv(name, rank)
        assert is_first_process() == (rank == "0")


def test_a_local_rank_counts_only_under_torchrun(monkeypatch):
    assert local_rank() == 0
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert local_rank() == 0
    monkeypatch.setenv("RANK", "3")
    assert local_rank() == 1
