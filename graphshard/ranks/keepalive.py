"""A cut link between machines is noticed: the kernel asks the other end of each connection whether it is there.

A collective waits for bytes that do not come, and cannot tell a machine that was switched off, or a cable that was
pulled, from a rank that computes. The kernel can: it asks while nothing is sent (``SO_KEEPALIVE``), and counts for how
long what was sent stays unanswered (``TCP_USER_TIMEOUT``). A rank that is busy or stopped is no matter, for its kernel
answers.

Source: tcp(7) and socket(7) of the Linux manual; RFC 1122, section 4.2.3.6.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

__all__ = ["keep_alive"]

_OPEN_FILES = Path("/proc/self/fd")


def keep_alive(idle: int = 30, interval: int = 10, probes: int = 3) -> int:
    """Have the kernel ask for the other machine on each TCP connection that this process has to one.

    After ``idle + interval * probes`` seconds without an answer a connection is closed, and the collective that waits
    on it raises. Does nothing where connections cannot be listed (not Linux).

    Args:
        idle: seconds without a byte before the first question. interval: seconds between questions.
        probes: how many go unanswered.

    Returns:
        The number of connections.
    """
    count = 0
    for connection in _to_other_machines():
        options = [
            (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
            (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, idle),
            (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, interval),
            (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, probes),
            (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * (idle + interval * probes)),
        ]
        for level, name, value in options:
            connection.setsockopt(level, name, value)
        count += 1
    return count


def _to_other_machines() -> Iterator[socket.socket]:
    """The connections of this process that lead to another address than the machine's own."""
    if not _OPEN_FILES.is_dir():
        return
    for entry in sorted(_OPEN_FILES.iterdir()):
        with suppress(OSError):  # it was closed meanwhile, or is no connection
            number = int(entry.name)
            if not stat.S_ISSOCK(os.fstat(number).st_mode):
                continue
            with socket.socket(
                fileno=os.dup(number)
            ) as connection:  # options belong to what both numbers stand for
                inet = connection.family in (socket.AF_INET, socket.AF_INET6)
                if not inet or connection.type != socket.SOCK_STREAM:
                    continue
                if connection.getpeername()[0] != connection.getsockname()[0]:
                    yield connection
