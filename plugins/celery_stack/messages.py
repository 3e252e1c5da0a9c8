"""Celery's messages in Redis: those that wait in a queue, and those that a worker has taken."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from celery import Celery
from kombu.connection import Connection
from kombu.exceptions import OperationalError
from redis import RedisError

CONNECT_RETRIES = 1
# What comes of a Redis that gives no answer, whichever layer found out.
NO_ANSWER = (OperationalError, RedisError, OSError)


class Messages(NamedTuple):
    """Messages by their Celery task ids.

    Attributes:
        waiting: those in each queue, the next one first; None for an entry that is none of Celery's.
        taken: when each of those that nobody has acknowledged yet was delivered.
    """

    waiting: Mapping[str, Sequence[str | None]]
    taken: Mapping[str, datetime]


class Broker:
    """A way to Redis that is kept open, to ask it often; it opens again by itself."""

    def __init__(self, celery: Celery) -> None:
        self._celery = celery
        self._connection: Connection | None = None

    def answers(self) -> bool:
        """Tell whether Redis can be asked now; costs a round trip."""
        try:
            return bool(self._channel().client.ping())
        except NO_ANSWER:
            return False

    def read(self, queues: Iterable[str]) -> Messages:
        """Read the ids of the messages of `queues`."""
        return read_messages(self._channel(), queues)

    def _channel(self) -> Any:
        if self._connection is None:
            connection = self._celery.connection_for_read()
            connection.ensure_connection(max_retries=CONNECT_RETRIES, interval_start=0)
            self._connection = connection
        return self._connection.default_channel


def read_messages(channel: Any, queues: Iterable[str]) -> Messages:
    """Read the ids of the messages of `queues`, and of all that are taken, at one moment.

    kombu has a list per priority step, pushes on the left and pops on the right; what is taken
    it keeps in a hash by delivery tag, and when, in a sorted set.
    """
    lists = {queue: _lists_of(channel, queue) for queue in dict.fromkeys(queues)}
    with channel.client.pipeline() as pipe:
        for names in lists.values():
            for name in names:
                pipe.lrange(name, 0, -1)
        pipe.hgetall(channel.unacked_key)
        pipe.zrange(channel.unacked_index_key, 0, -1, withscores=True)
        *found, unacked, delivered = pipe.execute()
    each = iter(found)
    waiting = {
        queue: [_id_of(raw) for _ in names for raw in reversed(next(each))]
        for queue, names in lists.items()
    }
    return Messages(waiting, _taken(unacked, dict(delivered)))


def _lists_of(channel: Any, queue: str) -> list[str]:
    return [f"{queue}{channel.sep}{step}" if step else queue for step in channel.priority_steps]


def _taken(unacked: Mapping[bytes, bytes], delivered: Mapping[bytes, float]) -> dict[str, datetime]:
    taken: dict[str, datetime] = {}
    for tag, raw in unacked.items():
        if message_id := _id_of(raw):
            score = delivered.get(tag)
            at = datetime.fromtimestamp(score, UTC) if score else datetime.now(UTC)
            taken[message_id] = max(at, taken.get(message_id, at))  # one may be a dead worker's
    return taken


def _id_of(raw: bytes) -> str | None:
    """Give the Celery task id in a message, or in one that was taken: those are (message, exchange, key)."""
    try:
        content = json.loads(raw)
        message = content[0] if isinstance(content, list) else content
        message_id: str | None = message["headers"]["id"]
    except (ValueError, LookupError, TypeError):
        return None
    return message_id
