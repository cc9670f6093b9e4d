"""Forked workers for a Python before 3.11.10, in which a forked process can hang before it has begun.

A thread of a library, such as one of torch.distributed, sometimes takes a lock of the interpreter for a moment. A
process that is forked in that moment waits for this lock for ever, and its parent waits for its first batch:
https://github.com/python/cpython/issues/112275. Nothing in Python can tell when another thread has this lock. All this
can go when setup.cfg asks for Python 3.11.10.
"""

from __future__ import annotations

import logging
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from multiprocessing.context import ForkContext, ForkProcess
from multiprocessing.popen_fork import Popen
from typing import Any

logger = logging.getLogger(__name__)

_LONGEST_START = 10.0  # seconds, at first; a process begins in milliseconds


class _WatchedProcess(ForkProcess):
    """A process that says when it begins. One that does not is ended, and forked again."""

    _heard: Connection
    _begun: Connection

    def run(self) -> None:
        """Say that this process has begun, and do its work."""
        self._begun.send_bytes(b"begun")
        self._begun.close()
        self._heard.close()
        super().run()

    @staticmethod
    def _Popen(process: Any) -> Any:
        longest = _LONGEST_START
        while True:
            process._heard, process._begun = Pipe(duplex=False)
            with process._heard:
                started, has_begun = Popen(process), False
                process._begun.close()  # so that the end of the process is seen, too
                try:
                    has_begun = process._heard.poll(longest)
                finally:  # Ctrl-C may come
                    if not has_begun:
                        started.kill()
                        started.wait()
                        started.close()
            if has_begun:
                return started
            logger.warning(
                "a loader worker hung as it began, as can happen before Python 3.11.10; it is started again"
            )
            longest *= 2  # on a machine that is busy, a good process may take long


class WatchedForkContext(ForkContext):
    """Forks processes, and forks one again that hangs before it has begun."""

    Process = _WatchedProcess
