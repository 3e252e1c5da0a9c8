"""The way over Redis, on which an entry that is no message ends no worker.

kombu takes whatever is next in a queue's list for a message of its own. Where it is not, the error
ends the consumer, and with the worker every task that runs on it. Here such an entry is dropped and
logged, without its content, which may hold a task's token. What a task lost by it is published again
(`celery_stack.republish`). Celery itself copes with messages of tasks that it does not know.

The setting `broker_transport` in `[celery] extra_celery_config` names this class.
"""

from __future__ import annotations

import base64
import logging
from typing import Any

from kombu.transport import redis

log = logging.getLogger(__name__)


class BrokenMessageError(ValueError):
    """An entry of a queue's list is JSON, but no message."""


class Channel(redis.Channel):
    """kombu's channel, which goes on after an entry that is no message."""

    def _brpop_read(self, **options: Any) -> Any:
        self.connection.is_sound = False
        try:
            return super()._brpop_read(**options)  # type: ignore[no-untyped-call]
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            if self.connection.is_sound:
                raise
            log.error(
                "Expected a message of Celery in Redis, found an entry that is none (%s): dropped it. "
                "See that nothing but this stack writes to its Redis.",
                error if isinstance(error, BrokenMessageError) else "not JSON",
            )
            return True


class Transport(redis.Transport):
    """kombu's transport, which looks at what it delivers."""

    Channel = Channel

    is_sound = False
    """Whether what was read last is a message: an error that follows is not the entry's."""

    def _deliver(self, message: Any, queue: str) -> None:
        if problem := problem_of(message):
            raise BrokenMessageError(f"in queue {queue}, {problem}")
        self.is_sound = True
        super()._deliver(message, queue)  # type: ignore[no-untyped-call]


def problem_of(message: Any) -> str:
    """Say what keeps an entry from being a message of kombu's; empty if nothing does."""
    if not isinstance(message, dict):
        return f"a {type(message).__name__} instead of an object"
    properties = message.get("properties")
    if not isinstance(properties, dict) or not isinstance(properties.get("delivery_tag"), str):
        return "without properties.delivery_tag"
    delivery = properties.get("delivery_info")
    if not isinstance(delivery, dict) or not {"exchange", "routing_key"} <= delivery.keys():
        return "without properties.delivery_info"
    if not isinstance(message.get("headers"), dict):
        return "without headers"
    if not _can_be_decoded(message.get("body"), properties.get("body_encoding")):
        return "without a body in base64"
    return ""


def _can_be_decoded(body: Any, encoding: Any) -> bool:
    if not isinstance(body, str) or encoding not in (None, "utf-8", "base64"):
        return False
    try:
        base64.b64decode(body if encoding == "base64" else "")
    except ValueError:
        return False
    return True
