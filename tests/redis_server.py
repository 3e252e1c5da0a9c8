"""A Redis to run, of the test's own."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis

from compose.servers import find_redis
from tests.waiting import wait_for


@contextmanager
def running_redis(folder: Path, port: int = 0) -> Iterator[redis.Redis]:
    """Run Redis on the socket `redis.sock` in `folder`, which keeps nothing; give a client of it.

    Args:
        port: where it listens on this machine besides; 0 for nowhere.
    """
    path = folder / "redis.sock"
    options = [
        "--bind",
        "127.0.0.1",
        "--port",
        str(port),
        "--unixsocket",
        str(path),
        "--dir",
        str(folder),
        "--save",
        "",
    ]
    with subprocess.Popen([find_redis(), *options], stdout=subprocess.DEVNULL) as server:
        wait_for(path.exists, bool, deadline_s=30)
        try:
            with redis.Redis(unix_socket_path=str(path), decode_responses=True) as client:
                yield client
        finally:
            server.terminate()
