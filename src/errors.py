"""Errors that the user can correct, checks that raise them, and jobs that failed."""

import math
from collections.abc import Callable
from typing import Any, TypeVar

Built = TypeVar("Built")


class InputError(ValueError):
    """An input cannot be used.

    The message is one line: it names the thing, its value, the rule that it breaks and the remedy.
    A verb prints it without a traceback and exits with code 2; any other exception is a bug.
    """


class JobFailed(Exception):  # noqa: N818
    """A job of a multirun failed, and has printed why.

    It has the one line alone, because it is sent from another process or machine.
    """


class JobsFailed(Exception):  # noqa: N818
    """Some jobs of a multirun failed; the lines list them with the reason. A verb prints them and exits with code 2."""


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
    """Refuse a setting that is not a finite number, or is out of range.

    Args:
        name: its name on the command line.
        value: of the setting; a bool is not a number.
        whole: whether it must be an integer.
        least: smallest value allowed.
        above: bound that it must exceed.
        most: largest value allowed.
        hint: a remedy, at the end of the message.

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
    rule = " ".join(["a whole number" if whole else "a number", " and ".join(bounds)]).strip()
    raise InputError(f"{name} must be {rule}, got {value!r}{hint and '; ' + hint}")


def check_flag(name: str, value: object) -> None:
    """Refuse a switch that is neither true nor false.

    Raises:
        InputError: it is neither true nor false.
    """
    if not isinstance(value, bool):
        raise InputError(f"{name} must be true or false, got {value!r}")


def build(what: str, factory: Callable[[Any], Built], argument: Any) -> Built:
    """`factory(argument)`; an error that its settings from the config cause becomes an `InputError`.

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
