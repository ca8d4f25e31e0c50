"""In which unit the times, durations and shares of a source are written: what the settings say, or what most rows show.

Times become milliseconds since 1970, durations milliseconds, shares fractions.
"""

import re
from collections.abc import Sequence
from functools import cache

import numpy as np
import pandas as pd

from segue.datamodules.reading.database import connect
from segue.datamodules.reading.queries import quoted_text
from segue.errors import InputError

MS_OF = {"s": 1000.0, "ms": 1.0, "us": 1e-3, "hms": 1000.0}
"""Milliseconds in each unit; `hms` is read as seconds."""

LATEST_MS = 4_102_444_800_000
"""Timestamps are before 2100. Seconds that are read as milliseconds are in 1970, milliseconds as seconds far later."""

YES = (
    *("true", "t", "1", "yes", "y", "1.0", "wahr", "vrai", "verdadero", "verdadeiro", "vero", "prawda"),
    *("ja", "oui", "si", "sí", "sim", "tak", "evet", "да", "hai"),
)
NO = (
    *("false", "f", "0", "no", "n", "0.0", "falsch", "faux", "falso", "fałsz"),
    *("nein", "non", "não", "nao", "nie", "hayır", "hayir", "нет", "iie"),
)
"""Texts that say yes and no, in lower case."""

HMS = r"(\d+:)?\d{1,2}:\d\d([.,]\d+)?"
"""Durations such as 3:25 and 1:03:25."""
_IS_HMS, _IS_COMMA = re.compile(HMS), re.compile(r"-?\d+,\d+ ?%?")

# Units of numbers since 1970, and the least that a typical one is in each.
_EPOCHS = (("us", 1e14), ("ms", 1e11), ("s", 1e8))
_MIXED = 0.01  # share of the numbers of another unit from which on no unit is taken


def time_of_text(text: str, unit: str) -> str:
    """SQL of the time that a text says, as TIMESTAMPTZ: of ISO 8601 (`iso`), or of a format of strptime."""
    if unit == "iso":
        return f"TRY_CAST({text} AS TIMESTAMPTZ)"
    return f"CAST(TRY_STRPTIME({text}, {quoted_text(unit)}) AS TIMESTAMPTZ)"


_database = cache(lambda: connect(threads=1))  # for texts of times; it takes longer to open than to use


def find_unit_of_time(values: Sequence[str], given: str = "auto") -> tuple[str, int]:
    """How most values would be read as times, and how many of them can be.

    Args:
        values: texts without empty ones.
        given: value of `datamodule.units.timestamp`.

    Returns:
        Another such value, and a number; no unit if most are no times.
    """
    unit, numbers = given, as_numbers(values)
    if given == "auto":
        typical = float(np.median(np.abs(numbers))) if len(numbers) > len(values) / 2 else None
        unit = "iso" if typical is None else next((unit for unit, least in _EPOCHS if typical >= least), "")
    if unit in MS_OF:
        num = int(((numbers >= 0) & (numbers * MS_OF[unit] < LATEST_MS)).sum())
        of_other = (numbers >= _EPOCHS[-1][1]) & (numbers < dict(_EPOCHS)[unit])
        if given == "auto" and of_other.sum() >= max(2, _MIXED * len(values)):  # they would be times of 1970
            return "", 0
    else:
        query = f"SELECT count({time_of_text('value', unit)}) FROM (SELECT unnest($values) AS value)"
        num = int(_database().execute(query, {"values": list(values)}).fetchall()[0][0]) if unit else 0
    return unit if 2 * num > len(values) else "", num


def unit_of_time(values: Sequence[str], *, column: str) -> str:
    """The unit of timestamps: see `datamodule.units.timestamp`. Without values it is `iso`.

    Args:
        values: texts of the first rows.
        column: its name, for messages.

    Raises:
        InputError: it cannot be seen from the values.
    """
    if not values:
        return "iso"
    if unit := find_unit_of_time(values)[0]:
        return unit
    raise InputError(
        f"cannot see how the times in column {column} are written, such as {values[0][:40]!r}; give "
        "datamodule.units.timestamp=s, ms or us (since 1970), or a format of strptime such as '%d.%m.%Y %H:%M', or "
        "datamodule.columns.timestamp=null if they are no times"
    )


def unit_of_duration(values: Sequence[str], *, column: str) -> str:
    """The unit of durations: `hms` if most are such as 3:25, or that of the name, otherwise ms if most are above 5,000.

    Args:
        values: texts of the first rows.
        column: its name.
    """
    if values and sum(map(is_hms, values)) > len(values) / 2:
        return "hms"
    if match := re.search(r"(?:^|[_. ])(ms|millis|sec|secs|seconds|s)(?:$|[_. ])|(ms)(?=Played)", column):
        return "ms" if (match[1] or match[2]).startswith("m") else "s"
    return "ms" if _upper_quartile(values) > 5000 else "s"


def is_hms(text: str) -> bool:
    """Whether a text is a duration such as 3:25."""
    return _IS_HMS.fullmatch(text) is not None


def unit_of_ratio(values: Sequence[str], *, column: str) -> str:
    """The unit of shares played: `percent` if the name or the values say so, or if a quarter of them is above 2.

    Args:
        values: texts of the first rows.
        column: its name.
    """
    has_sign = sum(value.endswith("%") for value in values) > len(values) / 2
    is_named = re.search(r"pct|percent|%", column.lower()) is not None
    return "percent" if has_sign or is_named or _upper_quartile(values) > 2 else "fraction"


def has_decimal_commas(values: Sequence[str]) -> bool:
    """Whether numbers are written as in 0,85: some are, and not all of these could be thousands as in 1,234."""
    commas = [value for value in values if "," in value and _IS_COMMA.fullmatch(value)]
    return any(not re.fullmatch(r"-?[1-9]\d{0,2},\d{3}", value) for value in commas)


def _upper_quartile(values: Sequence[str]) -> float:
    """A quarter of the numbers is above it; 0 without numbers."""
    numbers = as_numbers(values)
    return float(np.quantile(numbers, 0.75)) if len(numbers) else 0.0


def as_numbers(values: Sequence[str]) -> np.ndarray:
    """Those values that are finite numbers, also with a decimal comma or a sign of percent."""
    texts = pd.Series(values, dtype=object)
    if has_decimal_commas(values):
        texts = texts.str.replace(",", ".", regex=False)
    numbers = np.asarray(pd.to_numeric(texts.str.removesuffix("%"), errors="coerce"), float)
    return np.asarray(numbers[np.isfinite(numbers)])
