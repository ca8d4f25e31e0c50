"""In which unit the times, durations and shares of a source are written: what the settings say, or what most rows show.

Times become milliseconds since 1970, durations milliseconds, shares fractions.
"""

import re
from collections.abc import Sequence
from functools import cache

import numpy as np
import pandas as pd

from segue.datamodules.reading.database import connect
from segue.errors import InputError

MS_OF = {"s": 1000.0, "ms": 1.0, "us": 1e-3, "ns": 1e-6, "hms": 1000.0}
"""Milliseconds in each unit; `hms` is read as seconds."""

LEAST_MS = 1e11
"""Where seconds and milliseconds are mixed, smaller numbers are seconds: milliseconds are from March 1973 on."""

LATEST_MS = 4_102_444_800_000
"""Timestamps are before 2100. Seconds that are read as milliseconds are in 1970, milliseconds as seconds far later."""

EXCEL_DAYS = (25_569, 73_050)
"""The days of a spreadsheet, counted from 30 December 1899, that are from 1970 to 2099."""

USUAL_FORMATS = ("%d %b %Y, %H:%M", "%d %b %Y %H:%M", "%Y-%m-%d %H:%M", "%Y%m%d%H%M%S")
"""Formats of times that are tried beside ISO 8601; the first two are those of exports of Last.fm."""

# Other formats of times. One is used if it fits more of the first rows than any other: 01/02/2026 fits two.
_OTHER_FORMATS = (
    *("%d.%m.%Y %H:%M:%S", "%d.%m.%Y %H:%M", "%d.%m.%Y, %H:%M", "%d.%m.%y %H:%M", "%m/%d/%Y %I:%M %p"),
    *("%m/%d/%Y %I:%M:%S %p", "%m/%d/%Y %H:%M", "%d/%m/%Y %H:%M", "%m/%d/%Y %H:%M:%S", "%d/%m/%Y %H:%M:%S"),
    *("%d-%m-%Y %H:%M:%S", "%d-%m-%Y %H:%M", "%a, %d %b %Y %H:%M:%S", "%a %b %d %H:%M:%S %Y", "%Y.%m.%d %H:%M:%S"),
    *("%b %d, %Y, %I:%M:%S %p", "%b %d, %Y, %I:%M:%S %p %Z", "%Y/%m/%d %H:%M:%S %z", "%Y-%m-%d %H:%M:%S %z"),
    *("%b %d, %Y, %I:%M:%S\u202f%p %Z", "%d.%m.%Y, %H:%M:%S", "%d.%m.%Y, %H:%M:%S %Z"),  # pages of Google Takeout
    *("%Y-%m-%d %I:%M %p", "%Y-%m-%d %I:%M:%S %p", "%Y%m%d %H:%M"),
    *("%Y%m%d %H:%M:%S", "%d.%m.%y %H:%M:%S", "%d-%m-%Y %I:%M %p", "%d-%m-%Y %I:%M:%S %p"),
    *("%d.%m.%Y", "%m/%d/%Y", "%d/%m/%Y", "%Y%m%d"),
)

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
_EPOCHS = (("ns", 1e17), ("us", 1e14), ("ms", LEAST_MS), ("s", 1e8))
_FEW = 100  # values of which one must have a format that is tried on all
_MIXED = 0.01  # share of the numbers that seconds and milliseconds each must have to be read as both


def find_unit_of_time(values: Sequence[str]) -> tuple[str, int]:
    """How most values would be read as times, and how many of them can be.

    Args:
        values: texts without empty ones.

    Returns:
        A value of `datamodule.units.timestamp`, and a number; no unit and 0 if most are no times, and no unit if two
        formats fit the same number.
    """
    numbers = as_numbers(values)
    if len(numbers) <= len(values) / 2:
        return _format_of_time(values)
    typical = float(np.median(np.abs(numbers)))
    if 19_000_101 <= typical <= 20_991_231_235_959 and (found := _compact_format(values))[0]:
        return found
    if EXCEL_DAYS[0] <= typical < EXCEL_DAYS[1]:
        return "excel", int(((numbers >= EXCEL_DAYS[0]) & (numbers < EXCEL_DAYS[1])).sum())
    if not (unit := next((unit for unit, least in _EPOCHS if typical >= least), "")):
        return "", 0
    in_ms = {unit: numbers * MS_OF[unit] for unit in ("s", "ms")}
    of_unit = {unit: int(((ms >= LEAST_MS) & (ms < LATEST_MS)).sum()) for unit, ms in in_ms.items()}
    if min(of_unit.values()) >= max(2, _MIXED * len(values)):
        return "epoch", sum(of_unit.values())
    return unit, int(((numbers >= 0) & (numbers * MS_OF[unit] < LATEST_MS)).sum())


def _compact_format(values: Sequence[str]) -> tuple[str, int]:
    """The format of dates without separators, such as 20260131 and 20260131120000."""
    for length, text in ((14, "%Y%m%d%H%M%S"), (8, "%Y%m%d")):
        num = sum(len(value) == length and value[:2] in ("19", "20") for value in values)
        if num > len(values) / 2 and (fits := _num_of_formats(values, [text])[1][0]) > len(values) / 2:
            return text, fits
    return "", 0


def _format_of_time(values: Sequence[str]) -> tuple[str, int]:
    known = _num_of_formats(values, [])[0]
    if known >= len(values) / 2:
        return "iso", known
    few = _num_of_formats(values[:_FEW], _OTHER_FORMATS)[1]
    formats = [text for text, num in zip(_OTHER_FORMATS, few, strict=True) if num]
    fits = _num_of_formats(values, formats)[1]
    best = max(fits, default=0)
    if best <= len(values) / 2:
        return "", 0
    return formats[fits.index(best)] if fits.count(best) == 1 else "", best


_database = cache(lambda: connect(threads=1))  # for texts of times; it takes longer to open than to use


def _num_of_formats(values: Sequence[str], formats: Sequence[str]) -> tuple[int, list[int]]:
    """How many texts are times as they are usually written, and how many have each format."""
    usual = f"COALESCE(TRY_CAST(value AS TIMESTAMPTZ), TRY_STRPTIME(value, {list(USUAL_FORMATS)})::TIMESTAMPTZ)"
    others = "".join(f", count(TRY_STRPTIME(value, '{text}'))" for text in formats)
    query = f"SELECT count({usual}) {others} FROM (SELECT unnest($values) AS value)"
    [(known, *fits)] = _database().execute(query, {"values": list(values)}).fetchall()
    return int(known), list(map(int, fits))


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
    numbers = as_numbers(values)
    if len(numbers) > len(values) / 2:
        raise InputError(
            f"cannot see the unit of the times in column {column}: most are near {np.median(np.abs(numbers)):.15g}; "
            "give datamodule.units.timestamp=s, ms, us or ns (since 1970), or datamodule.columns.timestamp=null if "
            "they are no times"
        )
    fits = _num_of_formats(values, _OTHER_FORMATS)[1]
    fitting = [text for text, fit in zip(_OTHER_FORMATS, fits, strict=True) if 2 * fit > len(values)]
    proposed = f"{' or '.join(map(repr, fitting))} fits the first rows" if fitting else "'%d.%m.%Y %H:%M' is an example"
    raise InputError(
        f"cannot see how the times in column {column} are written, such as {values[0][:40]!r}; give "
        f"datamodule.units.timestamp=<format of strptime>: {proposed}"
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
    return np.asarray(numbers_of(pd.Series(values, dtype=object)))


def numbers_of(texts: pd.Series) -> pd.Series:
    """The same for a column of texts, by its index."""
    if has_decimal_commas(list(texts)):
        texts = texts.str.replace(",", ".", regex=False)
    numbers = pd.to_numeric(texts.str.removesuffix("%"), errors="coerce").astype(float)
    return numbers[np.isfinite(numbers)]
