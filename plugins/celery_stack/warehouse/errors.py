"""What can go wrong when rows are written; after each of these nothing was written."""

from __future__ import annotations

_SHOWN = 80


class WarehouseError(ValueError):
    """Rows were not written; the message says what was expected, what was found, what to do."""

    retryable = False  # see celery_stack.retries


class PoolError(WarehouseError):
    """The warehouse is written to from elsewhere than a task in its pool."""


class TargetError(WarehouseError):
    """Table, columns or keys do not fit the call."""


class StaleTryError(WarehouseError):
    """A newer try of the same task has begun; this one's rows are not wanted any more."""

    retryable = True  # the state of the task is the newer try's to decide


class BadRowError(WarehouseError):
    """A row cannot be stored.

    Attributes:
        row: its number in the caller's data; the first is 1.
        column: its column; None where the row as a whole is at fault.
    """

    def __init__(self, row: int, column: str | None, problem: str) -> None:
        where = f"Row {row}" if column is None else f"Row {row}, column {column!r}"
        super().__init__(f"{where}: {problem}. Correct the data; nothing was written.")
        self.row, self.column = row, column


def show(value: object) -> str:
    """Give `value` for a message, cut to a readable length."""
    text = repr(value[:_SHOWN] if isinstance(value, str | bytes) else value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
