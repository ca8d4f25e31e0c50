"""In which unit the times, durations and shares of a source are written: what the settings say, or what most rows show.

Times become milliseconds since 1970, durations milliseconds, shares fractions.
"""

import re
from collections.abc import Sequence

import duckdb
import numpy as np
import pandas as pd

from segue.errors import InputError

MS_OF = {"s": 1000.0, "ms": 1.0, "us": 1e-3, "ns": 1e-6}
"""Milliseconds in each unit."""

LATEST_MS = 4_102_444_800_000
"""Timestamps are before 2100. Seconds that are read as milliseconds are in 1970, milliseconds as seconds far later."""

USUAL_FORMATS = ("%d %b %Y, %H:%M", "%d %b %Y %H:%M", "%Y-%m-%d %H:%M", "%Y%m%d%H%M%S")
"""Formats of times that are tried beside ISO 8601; the first two are those of exports of Last.fm."""


def unit_of_time(values: Sequence[str], *, column: str) -> str:
    """The unit of timestamps: `s`, `ms`, `us`, `ns`, or `iso` for texts.

    Args:
        values: texts of the first rows.
        column: its name, for messages.

    Raises:
        InputError: it cannot be seen from the values.
    """
    numbers = _numbers(values)
    if len(numbers) <= len(values) / 2:
        return "iso"
    typical = float(np.median(np.abs(numbers)))
    for unit, least in (("ns", 1e17), ("us", 1e14), ("ms", 1e11), ("s", 1e8)):
        if typical >= least:
            return unit
    raise InputError(
        f"cannot see the unit of the times in column {column}: most are near {typical:.15g}; "
        "give datamodule.units.timestamp=s, ms, us or ns (since 1970), or datamodule.columns.timestamp=null if they "
        "are no times"
    )


_OTHER_FORMATS = (
    *("%d.%m.%Y %H:%M:%S", "%d.%m.%Y %H:%M", "%d.%m.%Y, %H:%M", "%m/%d/%Y %I:%M %p", "%m/%d/%Y %I:%M:%S %p"),
    *("%m/%d/%Y %H:%M", "%d/%m/%Y %H:%M", "%m/%d/%Y %H:%M:%S", "%d/%m/%Y %H:%M:%S", "%d-%m-%Y %H:%M:%S"),
    "%d-%m-%Y %H:%M",
    *("%a, %d %b %Y %H:%M:%S", "%a %b %d %H:%M:%S %Y", "%Y.%m.%d %H:%M:%S", "%Y%m%d"),
)
"""Formats that are proposed, and not used by themselves: some mean another day in another country."""


def check_times(values: Sequence[str], *, column: str) -> None:
    """Refuse texts of which most are no times as they are usually written, and propose a format.

    Args:
        values: texts of the first rows.
        column: its name, for messages.

    Raises:
        InputError: most are not.
    """
    if not values:
        return
    usual = f"COALESCE(TRY_CAST(value AS TIMESTAMPTZ), TRY_STRPTIME(value, {list(USUAL_FORMATS)})::TIMESTAMPTZ)"
    others = ", ".join(f"avg((TRY_STRPTIME(value, '{text}') IS NOT NULL)::INT)" for text in _OTHER_FORMATS)
    query = f"SELECT avg(({usual} IS NOT NULL)::INT), {others} FROM (SELECT unnest($values) AS value)"
    with duckdb.connect() as database:
        [(known, *fits)] = database.execute(query, {"values": list(values)}).fetchall()
    if known >= 0.5:
        return
    fitting = [text for text, fit in zip(_OTHER_FORMATS, fits, strict=True) if fit > 0.5 and fit == max(fits)]
    proposed = f"{' or '.join(map(repr, fitting))} fits the first rows" if fitting else "'%d.%m.%Y %H:%M' is an example"
    raise InputError(
        f"cannot see how the times in column {column} are written, such as {values[0][:40]!r}; give "
        f"datamodule.units.timestamp=<format of strptime>: {proposed}"
    )


def unit_of_duration(values: Sequence[str], *, column: str) -> str:
    """The unit of durations: what the name of the column says, otherwise milliseconds if most are above 5,000.

    Args:
        values: texts of the first rows.
        column: its name.
    """
    if match := re.search(r"(?:^|[_. ])(ms|millis|sec|secs|seconds|s)(?:$|[_. ])|(ms)(?=Played)", column):
        return "ms" if (match[1] or match[2]).startswith("m") else "s"
    return "ms" if _upper_quartile(values) > 5000 else "s"


def unit_of_ratio(values: Sequence[str], *, column: str) -> str:
    """The unit of shares played: `percent` if the name says so, or if a quarter of them is above 2.

    Args:
        values: texts of the first rows.
        column: its name.
    """
    return "percent" if re.search(r"pct|percent|%", column.lower()) or _upper_quartile(values) > 2 else "fraction"


def _upper_quartile(values: Sequence[str]) -> float:
    """A quarter of the numbers is above it; 0 without numbers."""
    numbers = _numbers(values)
    return float(np.quantile(numbers, 0.75)) if len(numbers) else 0.0


def _numbers(values: Sequence[str]) -> np.ndarray:
    """Those values that are finite numbers."""
    numbers = pd.to_numeric(pd.Series(values, dtype=object), errors="coerce").to_numpy(float)
    return np.asarray(numbers[np.isfinite(numbers)])
