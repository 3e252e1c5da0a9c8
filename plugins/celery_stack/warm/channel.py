"""Messages with file descriptors between a worker's processes, over SOCK_SEQPACKET: one send, one receive."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterable
from typing import Any

MAX_MESSAGE_BYTES = 1 << 17
MAX_FDS = 8


def make_pair() -> tuple[socket.socket, socket.socket]:
    """Give two connected ends; either may be shared by processes, a message is never torn."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(end: socket.socket, message: dict[str, Any], fds: Iterable[int] = ()) -> None:
    """Send a message, and copies of open files with it.

    Raises:
        OSError: nobody holds the other end, or (non-blocking) its buffer is full.
    """
    socket.send_fds(end, [json.dumps(message).encode()], list(fds))


def receive(end: socket.socket) -> tuple[dict[str, Any] | None, list[int]]:
    """Give the next message and its open files; None once nobody holds the other end."""
    try:
        data, fds, _, _ = socket.recv_fds(end, MAX_MESSAGE_BYTES, MAX_FDS, socket.MSG_CMSG_CLOEXEC)
    except ConnectionResetError:  # gone, and had not read all that it was sent
        return None, []
    return (json.loads(data) if data else None), fds


def close_fds(fds: Iterable[int]) -> None:
    for fd in fds:
        os.close(fd)
