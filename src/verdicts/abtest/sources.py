"""Where the sessions of an A/B test come from: existing logs, or two recommenders that are simulated first."""

from collections.abc import Mapping
from typing import Any

from segue.errors import InputError


def check_plan(logs: str | None, given: Mapping[str, Any], arms: object) -> None:
    """Refuse a plan without a log of the past.

    Args:
        logs: folder with event logs, or None.
        given: the recommenders of `control` and `treatment`; None where one is not given.
        arms: the arms that are compared, or None.

    Raises:
        InputError: `logs` is missing, or recommenders or arms are given.
    """
    if arms is not None:
        raise InputError(f"arms={arms}: a plan takes all users of the log, of any arm; leave out arms=")
    if logs is None or any(arm is not None for arm in given.values()):
        raise InputError(
            f"plan=true logs={logs} control={given['control']} treatment={given['treatment']}: a plan needs "
            "logs=<folder> with a log of the past, and no recommenders"
        )


def check_effect(effect: float | None, *, is_plan: bool) -> None:
    """Refuse an effect without a plan, and a plan without an effect.

    Args:
        effect: in percent of the control mean; None if it is not given.
        is_plan: whether a test is planned.

    Raises:
        InputError: one is given without the other.
    """
    if is_plan and effect is None:
        raise InputError(
            "plan=true needs effect=<percent>, the smallest effect that the test must detect; effect=5 is usual"
        )
    if effect is not None and not is_plan:
        raise InputError(f"effect={effect} is for a plan, and this is an analysis; remove it, or add plan=true")


def arms_to_play(logs: str | None, given: Mapping[str, Any]) -> dict[str, Any] | None:
    """The arms that have to be simulated before the analysis.

    Args:
        logs: folder with event logs, or None.
        given: the recommenders of `control` and `treatment`; None where one is not given.

    Returns:
        The recommender of each arm, `C` and `T1`; None if `logs` is given.

    Raises:
        InputError: `logs` and recommenders are both given, or neither is complete.
    """
    if [logs is None] * 2 != [arm is not None for arm in given.values()]:
        raise InputError(
            f"logs={logs} control={given['control']} treatment={given['treatment']}: "
            "give either logs=<folder>, or both control= and treatment= to simulate them first"
        )
    return {"C": given["control"], "T1": given["treatment"]} if logs is None else None
