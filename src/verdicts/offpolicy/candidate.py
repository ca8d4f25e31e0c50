"""The recommender that is estimated from a log: `candidate=`."""

from collections.abc import Callable, Mapping
from dataclasses import InitVar, dataclass, replace
from pathlib import Path
from typing import Any

from segue.errors import InputError
from segue.picking.picker import check_picking
from segue.runs.recommender_names import FILES, parse_name, recommender_name, unknown_recommender
from segue.runs.session_vectors import context_of

_WORDS = ("popular", "random", "sticky_artist")
"""Recommenders without lists that can be estimated."""
_SETTINGS = ("pick", "artist_gap", "exploration", "exploration_plays", "context")
"""Of a candidate with lists."""


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
        where: begins the names of its settings in messages.

    Raises:
        InputError: a setting is out of range.
    """

    name: str
    pick: str = "uniform"
    artist_gap: int = 0
    file: Path | None = None
    exploration: int | float = 0.0
    exploration_plays: int = 1
    where: InitVar[str] = "candidate: "

    def __post_init__(self, where: str) -> None:
        picking = ("pick", "artist_gap", "exploration", "exploration_plays")
        check_picking({name: getattr(self, name) for name in picking}, where)


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
    how: dict[str, Any] = {"exploration_plays": exploration_plays, **settings}
    context = how.pop("context", None)
    found = Candidate(name=name, **how)
    named = parse_name(name)
    if named.kind == "url" or (named.kind == "word" and name not in _WORDS):
        raise InputError(unknown_recommender("candidate", name, list(_WORDS), FILES))
    if named.kind == "word" and settings:
        raise InputError(f"candidate: {next(iter(settings))} applies to lists, and {name} has none; leave it out")
    if named.kind == "word":
        return found
    file = locate(named.name) if named.kind == "stored" else Path(named.name)
    if context_of("candidate", context, file) == "session":
        raise InputError(
            f"candidate={name} answers from the session (context=session), which is not estimated from a log; play "
            "it with control= and treatment=, or estimate its lists: candidate={recommender: …, context: last}"
        )
    return replace(found, file=file)
