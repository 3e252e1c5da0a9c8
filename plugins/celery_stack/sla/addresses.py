"""E-mail addresses as authors and settings give them."""

from __future__ import annotations

import re
from collections.abc import Sequence

# Narrower than RFC 5322 on purpose: what passes means the same in a header and in a command to a
# mail server, and cannot bring a second recipient or a line break with it.
ADDRESS = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+@[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?")


def is_address(text: str) -> bool:
    """Tell whether `text` is one plain address: `ml@example.org`, without a name before it."""
    return len(text) < 255 and ADDRESS.fullmatch(text) is not None


def check_addresses(to: Sequence[str]) -> tuple[str, ...]:
    """Give the addresses without repetitions, in their order.

    Raises:
        ValueError: one of them is none; the message is one line.
    """
    if isinstance(to, str):
        raise ValueError(f"to must be a list of e-mail addresses, got {to!r}. Write to=[{to!r}].")
    for address in to:
        if not isinstance(address, str) or not is_address(address):
            raise ValueError(
                f"to must hold addresses such as ml@example.org, got {address!r}. Correct it."
            )
    return tuple(dict.fromkeys(to))
