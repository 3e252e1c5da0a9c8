"""What is compared: each profile is a way to start a stack."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

STOCK_SLOTS = 16
"""Celery's concurrency in the official configuration."""

LEVERS: Mapping[str, Mapping[str, str]] = {
    "imports before the fork": {"WARM_IMPORTS": "none"},
    "own task supervisor": {"WARM_SUPERVISOR": "off"},
    "DAG files parsed once": {"WARM_TEMPLATES": "0"},
    "scheduler woken by events": {"WAKE_SCHEDULER": "off"},
}
"""What makes this stack faster, with the variables that switch it off."""


@dataclass(frozen=True)
class Profile:
    """One way to start a stack: whose programs, under which settings, how many workers."""

    name: str
    programs: str
    env: Mapping[str, str] = field(default_factory=dict)
    workers: int = 1


STOCK = Profile("stock", "stock")
OURS = Profile("ours", "ours")
OURS_STOCK_SLOTS = Profile(
    f"ours, {STOCK_SLOTS} slots", "ours", {"WORKER_CONCURRENCY": str(STOCK_SLOTS)}
)
SCALED = tuple(
    Profile(f"{name}, scale-out", name, {"WORKER_CONCURRENCY": "4"}, workers=4)
    for name in ("stock", "ours")
)


def without(lever: str) -> Profile:
    """Give our profile with one lever switched off."""
    return Profile(f"ours without: {lever}", "ours", LEVERS[lever])
