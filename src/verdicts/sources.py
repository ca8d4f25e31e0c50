"""Where the sessions of an A/B test come from: existing logs, or two recommenders that are simulated first.

Also the candidate of an estimate from existing logs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segue.errors import InputError, check_number
from segue.runs.recommendations import PICKS, check_exploration
from segue.runs.recommender_names import FILES, parse_name, recommender_name, unknown_recommender
from segue.runs.session_vectors import context_of

_WORDS = ("popular", "random", "sticky_artist")
"""Recommenders without lists that can be estimated."""
_SETTINGS = ("pick", "artist_gap", "exploration", "exploration_plays", "context")
"""Of a candidate with lists."""


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


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A recommender that is estimated.

    Args:
        name: as it was typed.
        pick: how it picks from its lists.
        artist_gap: number of previous tracks whose artists it avoids.
        file: its lists; None without.
        exploration: share of its picks that are among new tracks.
        exploration_plays: tracks with fewer plays in training are new.
    """

    name: str
    pick: str
    artist_gap: int
    file: Path | None
    exploration: int | float = 0.0
    exploration_plays: int = 1


def candidate_of(
    given: Any,
    *,
    logs: str | None,
    others: Mapping[str, Any],
    locate: Callable[[str], Path],
    exploration_plays: int = 1,
) -> Candidate:
    """Read `candidate=`.

    Args:
        given: the name of a recommender, or a mapping with `recommender` and optionally `pick`, `artist_gap`,
            `exploration`, `exploration_plays` and `context`.
        logs: folder with event logs.
        others: settings that an estimate has no use for, by name; each None.
        locate: finds the file of a run or a model.
        exploration_plays: that of a candidate that explores and does not give it.

    Raises:
        InputError: it is no recommender, a setting is out of range, `logs` is missing, another setting is given, or
            the session is its query.
    """
    if logs is None:
        raise InputError(f"candidate={given} needs the logs of other recommenders: logs=<folder>")
    if wrong := [name for name, value in others.items() if value is not None]:
        raise InputError(f"candidate={given} is estimated from logs= alone; leave out {wrong[0]}=")
    name = recommender_name(given)
    if name is None:
        raise InputError(
            f"candidate must name a recommender, got {given!r}; such as run:<id>, or {{recommender: run:<id>}}"
        )
    settings = (
        {key: value for key, value in given.items() if key != "recommender"} if isinstance(given, Mapping) else {}
    )
    if unknown := sorted(map(str, set(settings) - set(_SETTINGS))):
        raise InputError(
            f"candidate: {unknown[0]!r} is not a setting of a candidate; its settings are {', '.join(_SETTINGS)}"
        )
    pick, artist_gap = settings.get("pick", PICKS[0]), settings.get("artist_gap", 0)
    if pick not in PICKS:
        raise InputError(f"candidate: pick must be one of {', '.join(PICKS)}, got {pick!r}")
    check_number("candidate: artist_gap", artist_gap, whole=True, least=0, most=1000)
    explores = {"exploration": settings.get("exploration", 0.0)}
    explores["exploration_plays"] = settings.get("exploration_plays", exploration_plays)
    check_exploration(**explores, prefix="candidate: ")
    named = parse_name(name)
    if named.kind == "url" or (named.kind == "word" and name not in _WORDS):
        raise InputError(unknown_recommender("candidate", name, list(_WORDS), FILES))
    if named.kind == "word" and settings:
        raise InputError(f"candidate: {next(iter(settings))} applies to lists, and {name} has none; leave it out")
    file = None
    if named.kind != "word":
        file = locate(named.name) if named.kind == "stored" else Path(named.name)
        if context_of("candidate", settings.get("context"), file) == "session":
            raise InputError(
                f"candidate={name} answers from the session (context=session), which is not estimated from a log; play "
                "it with control= and treatment=, or estimate its lists: candidate={recommender: …, context: last}"
            )
    return Candidate(name=name, pick=str(pick), artist_gap=artist_gap, file=file, **explores)
