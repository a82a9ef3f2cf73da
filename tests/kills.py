"""Kill a process, for real, before any one of its changes to the file system."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

CHANGES = ("mkdir", "rename", "replace", "rmdir", "unlink")


def killed_before(step: int, work: Callable[[], object]) -> bool:
    """Do `work` in a process that is killed before its change number `step`; False where it ended by itself."""
    pid = os.fork()
    if pid == 0:
        left = step

        def counted(change):
            def call(*arguments, **options):
                nonlocal left
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return change(*arguments, **options)

            return call

        for name in CHANGES:
            setattr(os, name, counted(getattr(os, name)))
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert status in (0, signal.SIGKILL), "the work itself failed"
    return status == signal.SIGKILL
