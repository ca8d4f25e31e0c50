"""Whether a column has the times of plays, whatever its name is, as its first values show."""

import re
import time
from collections.abc import Mapping

import numpy as np
import pandas as pd

from segue.datamodules.reading.units import MS_OF, as_numbers, find_unit_of_time

_MOST = 0.99  # share of the values that must be times where no name says what they are
# Start of 2000. Earlier numbers are not taken for times unless their name says so.
_EARLIEST_S = 946_684_800
# How many times as long as a typical step the longest one is, in times of plays: a night, or another listener.
_PAUSE = 30
_HOUR_S, _YEAR_S = 3600, 31_557_600
# Names of columns whose numbers are no times.
_NUMBERED = re.compile(
    r"(^|[^a-z])(id|ids|uid|guid|nr|no|num|number|nummer|numero|phone|tel|telefon|telephone|mobile|price|preis|prix|"
    r"precio|amount|isrc|ean|code|zip|plz|key|hash)([^a-z]|$)|[a-z]I[dD]$"
)


def num_times(texts: pd.Series, given: str) -> tuple[str, int]:
    """The unit in which most texts of a column are times, and how many are; few of them are tried first.

    Args:
        texts: without empty ones.
        given: value of `datamodule.units.timestamp`.
    """
    values = texts.tolist()
    return find_unit_of_time(values, given) if values and find_unit_of_time(values[:100], given)[0] else ("", 0)


def look_like_times(texts: pd.Series, given: str) -> bool:
    """Whether nearly all are times, also if no name says so: texts of dates, or numbers of the years since 2000."""
    unit, num = num_times(texts, given)
    if num < max(1, _MOST * len(texts)) or texts.nunique() < 2:
        return False
    if unit not in MS_OF:
        return True
    seconds = as_numbers(texts.tolist()) * MS_OF[unit] / 1000
    is_recent = (seconds >= _EARLIEST_S) & (seconds < time.time() + _YEAR_S)
    is_numbering = (np.abs(np.diff(seconds)) <= MS_OF[unit] / 1000).mean() > 0.9  # as numbers of rows are
    is_varied = texts.nunique() > len(texts) / 2 and not is_numbering
    name = str(texts.name)
    return bool(
        is_recent.mean() >= _MOST and is_varied and not (_NUMBERED.search(name) or _NUMBERED.search(name.lower()))
    )


def run_like_a_clock(texts: pd.Series, given: str) -> bool:
    """Whether times may be used although no name says so.

    Texts with an hour may. Numbers must follow each other as plays do: most rise (or fall) from row to row, by less
    than an hour, and there are pauses, which numbers of orders do not have.
    """
    if not look_like_times(texts, given):
        return False
    if (unit := num_times(texts, given)[0]) not in MS_OF:
        return bool(texts.str.contains(":").mean() > 0.5) or unit != "iso"
    steps = np.diff(as_numbers(texts.tolist()) * MS_OF[unit] / 1000)
    if len(steps) < 20:
        return False
    are_sorted = max((steps >= 0).mean(), (steps <= 0).mean()) >= 0.8
    typical, longest = np.median(np.abs(steps)), np.abs(steps).max()
    return bool(are_sorted and typical <= _HOUR_S and longest >= _PAUSE * typical)


def source_of(name: str, columns: Mapping[str, pd.Series], given: str) -> str | None:
    """A column from whose values those of `name` follow: the listener of a birthday, the track of a release."""
    for other, texts in columns.items():
        if other == name or len(texts) < 20 or not 2 <= texts.nunique() <= len(texts) / 2.5:
            continue
        if look_like_times(texts, given):
            continue
        num_values = columns[name].groupby(texts).nunique()
        if len(num_values) > 1 and (num_values == 1).mean() >= 0.98:
            return other
    return None
