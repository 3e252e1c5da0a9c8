"""Wait on a condition; the error says what was seen last."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Seen = TypeVar("Seen")


def wait_for(
    look: Callable[[], Seen], enough: Callable[[Seen], bool], *, deadline_s: float
) -> Seen:
    """Look again and again until `enough`; give what was seen.

    Raises:
        AssertionError: not within `deadline_s`; names what was seen last.
    """
    end = time.monotonic() + deadline_s
    while True:
        seen = look()
        if enough(seen):
            return seen
        assert time.monotonic() < end, f"after {deadline_s:.0f} s the last state was: {seen!r}"
        time.sleep(0.2)
