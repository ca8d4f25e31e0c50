"""Errors that the user can correct, and jobs that failed."""

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
