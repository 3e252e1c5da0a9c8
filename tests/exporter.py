"""An exporter that keeps what it is sent."""

from __future__ import annotations

import socket

from tests.waiting import wait_for


class Exporter:
    """A UDP port where StatsD's lines arrive."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.setblocking(False)
        self.lines: list[str] = []

    @property
    def port(self) -> int:
        return int(self._socket.getsockname()[1])

    def look(self) -> list[str]:
        """Give every line so far."""
        try:
            while True:
                self.lines.append(self._socket.recv(512).decode())
        except BlockingIOError:
            return self.lines

    def wait_for(self, *starts: str) -> list[str]:
        """Give every line once there is one for each of `starts`."""
        return wait_for(
            self.look,
            lambda lines: all(any(line.startswith(one) for line in lines) for one in starts),
            deadline_s=30,
        )

    def close(self) -> None:
        self._socket.close()
