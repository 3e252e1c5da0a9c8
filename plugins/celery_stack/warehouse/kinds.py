"""The types that the write path takes, and what each of them refuses.

Nothing is bent to fit: a number is no text, a time without a zone is no time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, TypeAlias

import numpy as np  # noqa: TID253  # imported when rows are written, not by DAGs
import pandas as pd  # noqa: TID253
from numpy.typing import NDArray  # noqa: TID253

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_EPOCH_US = int(_EPOCH.timestamp()) * 1_000_000
_EPOCH_DAY = date(2000, 1, 1).toordinal()
_MAX_BYTES = 2**30 - 2**16  # Postgres refuses fields of 1 GB
# \u0000 after an even number of backslashes: an escape, not an escaped backslash and text.
_ESCAPED_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")

Array: TypeAlias = NDArray[Any]
Mask: TypeAlias = NDArray[np.bool_]


@dataclass(frozen=True)
class Fixed:
    """A type of fixed width: `convert` turns one value, `take` a pandas column that needs no look.

    `convert` raises ValueError, TypeError or OverflowError for what the type cannot hold. `take`
    gives values and the mask of those it cannot hold, or None where each value must be looked at.
    """

    expected: str
    dtype: str
    convert: Callable[[Any], Any]
    take: Callable[[pd.Series[Any]], tuple[Array, Mask] | None]
    nan_is_null: bool = True


@dataclass(frozen=True)
class Varying:
    """A type of varying width: `convert` gives a value's bytes, or raises ValueError."""

    expected: str
    convert: Callable[[Any], bytes]
    nan_is_null: bool = True


Kind: TypeAlias = Fixed | Varying


def _numbers(series: pd.Series[Any], kinds: str) -> Array | None:
    """Give the numbers of a numeric column (0 for NULL) whose numpy kind is among `kinds`."""
    dtype = getattr(series.dtype, "numpy_dtype", series.dtype)
    if not isinstance(dtype, np.dtype) or dtype.kind not in kinds:
        return None
    if isinstance(series.dtype, np.dtype):
        return series.to_numpy()
    return series.fillna(dtype.type(0).item()).to_numpy().astype(dtype)


def _integer(bits: int) -> Fixed:
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1

    def convert(value: Any) -> int:
        if isinstance(value, bool | np.bool_) or int(value) != value:
            raise ValueError
        if not low <= int(value) <= high:
            raise ValueError
        return int(value)

    def take(series: pd.Series[Any]) -> tuple[Array, Mask] | None:
        numbers = _numbers(series, "iuf")
        if numbers is None:
            return None
        # high + 1 is a power of two, which floats hold exactly; high itself they may not.
        wrong = (numbers < low) | (numbers >= high + 1)
        if numbers.dtype.kind == "f":
            wrong |= ~np.isfinite(numbers) | (numbers != np.trunc(numbers))
        return numbers, wrong

    return Fixed(f"a whole number from {low} to {high}", f">i{bits // 8}", convert, take)


def _floating(size: int) -> Fixed:
    largest = float(np.finfo(f"f{size}").max)

    def convert(value: Any) -> float:
        if not isinstance(value, int | float | np.integer | np.floating) or isinstance(value, bool):
            raise TypeError
        number = float(value)
        if np.isfinite(number) and abs(number) > largest:
            raise OverflowError
        return number

    def take(series: pd.Series[Any]) -> tuple[Array, Mask] | None:
        numbers = _numbers(series, "iuf")
        if numbers is None:
            return None
        return numbers, np.isfinite(numbers) & (np.abs(numbers.astype(np.float64)) > largest)

    return Fixed(f"a number ({size} bytes)", f">f{size}", convert, take, nan_is_null=False)


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool | np.bool_):
        raise TypeError
    return bool(value)


def _take_booleans(series: pd.Series[Any]) -> tuple[Array, Mask] | None:
    booleans = _numbers(series, "b")
    return None if booleans is None else (booleans, np.zeros(len(booleans), np.bool_))


def _instant(value: Any) -> int:
    """Give microseconds since the epoch of Postgres."""
    if not isinstance(value, datetime) or value.utcoffset() is None:
        raise TypeError
    return int((value - _EPOCH) // timedelta(microseconds=1))


def _take_instants(series: pd.Series[Any]) -> tuple[Array, Mask] | None:
    if not isinstance(series.dtype, pd.DatetimeTZDtype):
        return None
    instants = series.dt.tz_convert(None).to_numpy(dtype="datetime64[us]").astype(np.int64)
    return instants - _EPOCH_US, np.zeros(len(series), np.bool_)


def _day(value: Any) -> int:
    """Give days since the epoch of Postgres."""
    if not isinstance(value, date) or isinstance(value, datetime):
        raise TypeError
    return value.toordinal() - _EPOCH_DAY


def _text(value: Any) -> bytes:
    if not isinstance(value, str) or "\0" in value:
        raise ValueError
    return _bounded(value.encode())


def _bytes(value: Any) -> bytes:
    if not isinstance(value, bytes | bytearray | memoryview):
        raise TypeError
    return _bounded(bytes(value))


def _jsonb(value: Any) -> bytes:
    text = json.dumps(value, allow_nan=False, ensure_ascii=False)
    if _ESCAPED_NUL.search(text):
        raise ValueError
    return _bounded(b"\x01" + text.encode())  # the version of the format


def _bounded(content: bytes) -> bytes:
    if len(content) > _MAX_BYTES:
        raise ValueError
    return content


def _look_at_each(series: pd.Series[Any]) -> None:
    return None


_TEXT = Varying("text without NUL, shorter than 1 GB", _text)

KINDS: Mapping[str, Kind] = {
    "bool": Fixed("True or False", ">u1", _boolean, _take_booleans),
    "int2": _integer(16),
    "int4": _integer(32),
    "int8": _integer(64),
    "float4": _floating(4),
    "float8": _floating(8),
    "timestamptz": Fixed("a time with a zone", ">i8", _instant, _take_instants),
    "date": Fixed("a date (datetime.date)", ">i4", _day, _look_at_each),
    "text": _TEXT,
    "varchar": _TEXT,
    "bytea": Varying("bytes, fewer than 1 GB", _bytes),
    "jsonb": Varying("what JSON can hold, without NaN and NUL", _jsonb),
}
"""By the name of the type in `pg_type`."""
