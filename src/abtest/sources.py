"""Where the sessions of an A/B test come from: logs that are there, or two recommenders that are played first."""

from collections.abc import Mapping
from typing import Any

from src.errors import InputError


def arms_to_play(logs: str | None, given: Mapping[str, Any]) -> dict[str, Any] | None:
    """The arms that are played first, by name; None where logs are given.

    Args:
        logs: folder with event logs.
        given: the recommenders of `control` and `treatment`.

    Raises:
        InputError: neither logs nor both recommenders are given, or all of them.
    """
    if [logs is None] * 2 != [arm is not None for arm in given.values()]:
        raise InputError(
            f"logs={logs} control={given['control']} treatment={given['treatment']}: "
            "give logs=<folder>, or both control= and treatment= to play them first"
        )
    return {"C": given["control"], "T1": given["treatment"]} if logs is None else None
