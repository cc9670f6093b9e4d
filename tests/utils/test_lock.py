"""One run holds a directory; a second one is told who does. A dead process holds nothing."""

from __future__ import annotations

import errno
import json
import os
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path

import filelock
import pytest

from wordmask.utils.errors import InputError
from wordmask.utils.lock import locked, waiting

ROOT = Path(__file__).parent.parent.parent
HOLDS = """
import sys, time
from pathlib import Path
from wordmask.utils.lock import locked
with locked(Path(sys.argv[1]), "--output_dir: out"):
    print("holds", flush=True)
    time.sleep(60)
"""


def refused(stem: Path, shard: int | None = None) -> str:
    with pytest.raises(InputError) as error, locked(stem, "--output_dir: out", shard):
        pytest.fail("two hold it")
    return str(error.value)


def test_the_second_run_is_told_who_holds_it_and_since_when(tmp_path):
    stem = tmp_path / "new" / ".wordmask"
    with locked(stem, "--output_dir: out"):
        pattern = rf"--output_dir: out is in use by process {os.getpid()} on {re.escape(socket.gethostname())} since "
        assert re.fullmatch(
            rf"{pattern}\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d; wait for it, or give another name", refused(stem)
        )
    assert not list(tmp_path.iterdir()), "nothing is left, not even the directory"


def test_a_link_to_nothing_is_called_so(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    sentence = "--output_dir: out is a link to something that is not there; give another name"
    assert refused(tmp_path / "link" / ".wordmask") == sentence


@pytest.mark.parametrize("holder", [None, "", "[]", "{}"])
def test_one_that_has_not_said_yet_who_it_is_has_just_begun(holder, tmp_path):
    """It writes that down when the lock is its own."""
    with filelock.FileLock(tmp_path / ".wordmask.lock"):
        if holder is not None:
            (tmp_path / ".wordmask.holder").write_text(holder)
        assert "is in use by another run, which has just begun; " in refused(tmp_path / ".wordmask")


def test_one_that_only_looks_whether_others_run_is_waited_for(tmp_path, monkeypatch):
    """It holds their locks for a moment. A run that began just then was refused, and nobody held anything."""
    monkeypatch.setattr("wordmask.utils.lock._PATIENCE", 60.0)  # on a busy machine, a moment may be long
    looks = filelock.FileLock(tmp_path / ".wordmask-0.lock", thread_local=False)
    looks.acquire()
    threading.Timer(0.2, looks.release).start()
    with locked(tmp_path / ".wordmask", "x"):
        assert not looks.is_locked


def test_a_directory_that_was_there_stays_with_what_was_written(tmp_path):
    (tmp_path / "old").mkdir()
    with locked(tmp_path / "old" / ".wordmask", "x"):
        pass
    with locked(tmp_path / "deep" / "new" / ".wordmask", "x"):
        pass
    with locked(tmp_path / "new" / ".wordmask", "x"):
        (tmp_path / "new" / "file").write_text("kept")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "new", "old"]


def test_a_process_that_is_killed_leaves_no_lock(tmp_path):
    stem = tmp_path / ".wordmask"
    process = subprocess.Popen([sys.executable, "-c", HOLDS, str(stem)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "holds\n"
    assert f"process {process.pid} on" in refused(stem)
    process.kill()
    process.wait()
    assert (tmp_path / ".wordmask.lock").exists() and (tmp_path / ".wordmask.holder").exists()
    with locked(stem, "x"):
        assert json.loads((tmp_path / ".wordmask.holder").read_text())["process"] == os.getpid()
    assert not list(tmp_path.iterdir())


def test_a_disk_that_takes_no_more_does_not_hide_why_a_run_ended(tmp_path, monkeypatch):
    """Its lock files stay, and hold nothing. They ended a run with the traceback of their removal."""

    def refused_by_disk(self, missing_ok=False):
        raise OSError(errno.EROFS, "Read-only file system", str(self))

    with pytest.raises(InputError, match="the disk"), locked(tmp_path / ".wordmask", "--output_dir: out"):
        monkeypatch.setattr(Path, "unlink", refused_by_disk)
        raise InputError("the disk")
    monkeypatch.undo()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".wordmask.holder", ".wordmask.lock"]
    with locked(tmp_path / ".wordmask", "--output_dir: out"):
        pass


def test_shards_share_a_directory_and_a_whole_run_shares_it_with_nobody(tmp_path):
    stem = tmp_path / ".name [1]*"
    with locked(stem, "x", 0), locked(stem, "x", 1):
        assert "in use" in refused(stem, 1) and "in use" in refused(stem)
    with locked(stem, "x"):
        assert "in use" in refused(stem, 0)
    with locked(stem, "x", 0):
        pass


def test_what_killed_shards_left_keeps_nobody_out(tmp_path):
    for name in (".wordmask-3.lock", ".wordmask-3.holder", ".wordmask.lock"):
        (tmp_path / name).touch()
    with locked(tmp_path / ".wordmask", "x"):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_where_nothing_can_be_locked_there_is_a_warning(number, tmp_path, monkeypatch, caplog):
    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)
    with locked(tmp_path / ".wordmask", "x"):
        (tmp_path / "file").write_text("written")
    with waiting(tmp_path / "other.lock") as is_alone:
        assert not is_alone
    assert caplog.text.count("the file system cannot lock") == 2
    assert not isinstance(filelock.FileLock(tmp_path / "x"), filelock.SoftFileLock)


@pytest.mark.parametrize("name", ["/proc/x/out", "/dev/null/out", "a" * 300, "nul\0"])
def test_where_nothing_can_be_written_is_a_sentence(name, tmp_path):
    sentence = refused(tmp_path / name / ".wordmask")
    assert re.fullmatch(r"--output_dir: out cannot be written \(.*\); give another name", sentence)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("stem", ["/proc/.wordmask", "a\0b"])
def test_where_no_lock_file_can_be_made_is_a_sentence_too(stem, tmp_path):
    assert "--output_dir: out cannot be written (" in refused(tmp_path / stem)


def test_one_waits_for_the_other(tmp_path):
    code = "import sys, time; from wordmask.utils.lock import waiting\n"
    code += "with waiting(sys.argv[1]): print('in', flush=True); time.sleep(0.5); print('out', flush=True)"
    path = str(tmp_path / "x.lock")
    process = subprocess.Popen([sys.executable, "-c", code, path], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "in\n"
    with waiting(path):
        assert process.stdout.readline() == "out\n"
    process.wait()
