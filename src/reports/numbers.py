"""Numbers as people read them, in tables, reports and pictures. A dash means that there is no number."""

import math
from datetime import UTC, datetime


def number(value: float, form: str) -> str:
    """A number by a format such as `.4g`; a dash where it is not finite.

    >>> number(0.12345, ".2g"), number(float("nan"), ".2g")
    ('0.12', '–')
    """
    return format(value, form) if math.isfinite(value) else "–"


def plain(value: float, digits: int = 4) -> str:
    """A number without an exponent: integers as such, others with `digits` digits that count; a dash where none.

    >>> plain(12_780.0), plain(12_780.4), plain(1.5), plain(0.0080741), plain(0.00001234), plain(0.1234, digits=2)
    ('12,780', '12,780', '1.5', '0.008074', '0.00001234', '0.12')
    """
    if not math.isfinite(value):
        return "–"
    if value == round(value):
        return f"{value:,.0f}"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def interval(lower: float, upper: float, form: str) -> str:
    """An interval in brackets; a dash where there is none.

    >>> interval(-0.5, 1.25, "+.2f")
    '[-0.50, +1.25]'
    """
    return f"[{lower:{form}}, {upper:{form}}]" if math.isfinite(lower) else "–"


def p_value(value: float) -> str:
    """A p-value in two digits, down to 0.0001.

    >>> p_value(0.0312), p_value(0.0002), p_value(3e-9)
    ('0.031', '0.0002', '<0.0001')
    """
    return "<0.0001" if value < 1e-4 else number(value, ".2g")


def p_equals(value: float) -> str:
    """A p-value with its name, for sentences and for cells that have other numbers too.

    >>> p_equals(0.0312), p_equals(1.0), p_equals(3e-9)
    ('p = 0.031', 'p = 1', 'p < 0.0001')
    """
    return f"p = {p_value(value)}".replace("= <", "< ")


def words(key: str) -> str:
    """A key such as the name of a metric as people read it.

    >>> words("mean_time_per_session")
    'mean time per session'
    """
    return key.replace("_", " ")


def count(value: int, plain_below: int = 10_000) -> str:
    """A count in few characters.

    >>> count(512), count(16_384), count(1_000_000)
    ('512', '16k', '1M')
    """
    thousands = (len(str(value)) - 1) // 3 if value >= plain_below else 0
    return f"{value / 1000**thousands:.0f}{' kMGT'[thousands].strip()}"


def duration(seconds: float) -> str:
    """A time in the unit that people use, in two digits; years are not used.

    >>> duration(0.003), duration(5.0), duration(200.0), duration(9e3), duration(5e5), duration(3e8)
    ('0.003 s', '5 s', '3.3 min', '2.5 h', '5.8 days', '3,472 days')
    """
    for least, per_unit, unit in ((172_800, 86_400, "days"), (3600, 3600, "h"), (60, 60, "min")):
        if seconds >= least:
            return f"{plain(seconds / per_unit, digits=2)} {unit}"
    return f"{plain(seconds, digits=2)} s"


def percent(share: float) -> str:
    """A share for people.

    >>> percent(0.3), percent(0.99987), percent(0.00012), percent(1.0)
    ('30 %', '99.99 %', '0.012 %', '100 %')
    """
    if share in (0, 1):
        return f"{share:.0%}".replace("%", " %")
    value = 100 * share
    return f"{value:.2f} %".replace(".00", "") if value >= 99 else f"{value:.2g} %"


def utc(milliseconds: int) -> str:
    """A time since 1970 in UTC, to the second; the milliseconds themselves where no calendar has them.

    >>> utc(1_767_571_200_000), utc(10**18)
    ('2026-01-05 00:00:00', '1000000000000000000 ms')
    """
    try:
        return f"{datetime.fromtimestamp(milliseconds / 1000, UTC):%Y-%m-%d %H:%M:%S}"
    except (ValueError, OverflowError, OSError):
        return f"{milliseconds} ms"
