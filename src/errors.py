"""Errors: what is the user's to mend, the check that most of that comes from, and jobs that failed."""

import math
from collections.abc import Callable
from typing import Any, TypeVar

Built = TypeVar("Built")


class InputError(ValueError):
    """What the user gave cannot be used.

    The message is the one line they read: it names the thing, its value, the law it breaks and the remedy.
    A verb prints it without a traceback and exits with code 2; any other exception is a bug of ours.
    """


class JobFailed(Exception):  # noqa: N818
    """A job of a multirun failed, and has said so where it ran.

    It holds the one line alone, so that it can come home from another process or machine.
    """


class JobsFailed(Exception):  # noqa: N818
    """Some jobs of a multirun failed; the lines say which and why. A verb prints them and exits with code 2."""


def check_number(
    name: str,
    value: object,
    *,
    whole: bool = False,
    least: int | float = -math.inf,
    above: int | float = -math.inf,
    most: int | float = math.inf,
    hint: str = "",
) -> None:
    """Refuse a setting that is no finite number, or not within its bounds.

    Args:
        name: how the user knows it.
        value: what they gave; a bool is no number.
        whole: whether it must be an integer.
        least: smallest value allowed.
        above: bound that it must exceed.
        most: largest value allowed.
        hint: closes the message, with a remedy.

    Raises:
        InputError: it is out of range.
    """
    if (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and (isinstance(value, int) or not whole)
        and _is_finite(value)
        and least <= value <= most
        and value > above
    ):
        return
    bounds = [f"of at least {least:.15g}"] * (least > -math.inf) + [f"above {above:g}"] * (above > -math.inf)
    bounds += [f"at most {most:.15g}"] * (most < math.inf)
    law = " ".join(["a whole number" if whole else "a number", " and ".join(bounds)]).strip()
    raise InputError(f"{name} must be {law}, got {value!r}{hint and '; ' + hint}")


def check_flag(name: str, value: object) -> None:
    """Refuse a switch that is neither on nor off.

    Raises:
        InputError: it is neither true nor false.
    """
    if not isinstance(value, bool):
        raise InputError(f"{name} must be true or false, got {value!r}")


def build(what: str, factory: Callable[[Any], Built], argument: Any) -> Built:
    """`factory(argument)`; what its settings from the config do to it is the user's to mend.

    Raises:
        InputError: it refuses them.
    """
    try:
        return factory(argument)
    except InputError:
        raise
    except (TypeError, ValueError) as error:
        raise InputError(f"{what} refuses its settings: {error}") from error


def _is_finite(value: int | float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer of hundreds of digits
        return False
