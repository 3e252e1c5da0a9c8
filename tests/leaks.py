"""How a secret may be spelled where it must not be seen."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from urllib.parse import quote


def spellings(value: str) -> set[str]:
    """Give a secret as it is, URL-encoded, and in base64."""
    encoded = base64.b64encode(value.encode()).decode().rstrip("=")
    return {value, quote(value, safe=""), encoded}


def leaked(secrets: Iterable[str], text: str) -> int:
    """Count the secrets that are seen in `text`; a test that fails must not show them."""
    return sum(any(spelling in text for spelling in spellings(value)) for value in secrets)
