"""An arm: what it recommends from, and how. It is built here alone, from the mapping of a command line or a release.

S sessions, T tracks that a session or a listener has played, C tracks that may be picked, N tracks of the catalogue, K
tracks of a list.
"""

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from pkgutil import resolve_name
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float64, Int
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from segue.errors import InputError
from segue.picking.places import PICKS, Candidates, Chances
from segue.runs.recommendations import key_of_lines
from segue.runs.recommender_names import FILES, parse_name, recommender_name, unknown_recommender
from segue.runs.session_vectors import context_of
from segue.settings import refuse_unknown

LISTS = ("lists", "user_lists")
"""The policies that recommend from lists: from that of the last track, or from that of the user."""
WORDS = ("popular", "random", "sticky_artist")
"""The recommenders without lists that the service has too."""
FALLBACKS = {"artist": ("artist", "popular", "random"), "random": ("random",)}
"""Used in this order where a list has no candidate left: another track of the artist, a popular track, any track; or
any track at once, as in the service of 2026."""
MOST_PLAYS = 20
"""Last plays of a listener that an arm of one's own can look at."""

Locate = Callable[[str], Path]
"""Finds the `recommendations.jsonl` of the name of a run or a registered model."""


class Arm(BaseModel):
    """How an arm of an experiment recommends. `conf/arm` and `conf/serve.yaml` have the defaults of the commands.

    Raises:
        InputError: a setting is out of range.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    recommender: str
    """Its name on the command line."""
    policy: str = Field("lists", pattern=rf"^({'|'.join((*LISTS, *WORDS))}|[A-Za-z_][\w.]*:[A-Za-z_]\w*)$")
    """`lists`, `user_lists`, one of `WORDS`, or `package.module:Class`: an `OwnRule`, which has no other setting."""
    pick: str = Field("uniform", pattern=rf"^({'|'.join(PICKS)})$")
    """One of `PICKS`; it applies to lists only, as do all that follow. All but `uniform` pick no track that the
    session has heard."""
    artist_gap: int = Field(0, ge=0, le=1000)
    """Number of last tracks whose artists are avoided as long as the list has others."""
    context: Literal["last", "session", "listener"] = "last"
    """What the query is: the last track, the session, or the session and what the listener heard before."""
    num_lists: int = Field(1, ge=1, le=20)
    """Number of last tracks whose lists are searched, with `session` and `listener`."""
    exploration: float = Field(0.0, ge=0, le=0.5)
    """Share of the picks that are among all tracks of the list that may be picked, each with the same probability."""
    familiar: Annotated[float, BeforeValidator(lambda x: 1.0 if x == "learned" else x)] = Field(1.0, ge=0, le=1)
    """Share of what is played that the listener may know; below 1 with `listener` only. `learned` is 1: the scores
    alone decide."""
    fallback: Literal["artist", "random"] = "artist"
    """What follows where a list has no track left; see `FALLBACKS`."""

    def __init__(self, **given: Any) -> None:
        try:
            super().__init__(**given)
        except ValidationError as error:
            wrong = error.errors()[0]
            name, why = ".".join(map(str, wrong["loc"])), wrong["msg"].removeprefix("Value error, ")
            raise InputError(f"{name}: {why}, got {wrong['input']!r}" if name else why) from None

    @model_validator(mode="after")
    def _knows_listeners(self) -> "Arm":
        if self.familiar < 1 and self.context != "listener":
            raise ValueError(
                f"familiar={self.familiar:g} needs context=listener, which knows the listener, and the arm has "
                f"context={self.context}; use a run that was trained with context=listener, or leave familiar= out"
            )
        return self

    def with_familiar(self, familiar: float | int | str) -> "Arm":
        """The same arm with another share of known tracks.

        Args:
            familiar: the share, or `learned`.

        Raises:
            InputError: it is neither, or the arm does not know its listeners.
        """
        return Arm(**self.model_dump() | {"familiar": familiar})

    @cached_property
    def has_lists(self) -> bool:
        """Whether it picks from lists; `pick` and `artist_gap` apply then."""
        return self.policy in LISTS

    @cached_property
    def is_own(self) -> bool:
        """Whether it picks by a class of its own."""
        return ":" in self.policy

    @cached_property
    def is_of_session(self) -> bool:
        """Whether the session so far is the query, or a part of it."""
        return self.context != "last"

    @cached_property
    def avoids_heard(self) -> bool:
        """Whether no track that the session has heard is picked."""
        return self.has_lists and self.pick != "uniform"

    @cached_property
    def sources(self) -> tuple[str, ...]:
        """Where tracks come from, in this order: the source of the policy, and its fallbacks."""
        own = {"sticky_artist": "artist", "popular": "popular", "random": "random"}.get(self.policy, "list")
        return tuple(dict.fromkeys((own, *FALLBACKS[self.fallback if self.has_lists else "random"])))

    def describe(self) -> str:
        """How it picks, for people."""
        said = {name: one for name, one in self.record().items() if name != "recommender" and one != "lists"}
        return ", ".join(f"{name}={one}" for name, one in said.items())

    def record(self) -> dict[str, Any]:
        """As JSON, from which the arm can be built again. What many arms do not use is there only where it is used."""
        usual = {"recommender", "policy"} | ({"pick", "artist_gap"} if self.has_lists else set())
        return self.model_dump(include=usual) | self.model_dump(exclude_defaults=True)


def read_arm(where: str, given: Any, *, defaults: Mapping[str, Any], locate: Locate) -> tuple[Arm, Path | None]:
    """Read an arm of a command line.

    Args:
        where: the setting that has it, for messages.
        given: the name of a recommender, or a mapping with `recommender`, or `policy`, and settings of this arm.
        defaults: its settings for lists, where they are not those of `Arm`. Without a `context`, or with None, it is
            that of the training run.
        locate: finds the file of a run or a model.

    Returns:
        The arm, and the file of its lists, if it has some.

    Raises:
        InputError: no recommender is named, a setting is unknown or out of range, or the file cannot be read.
    """
    own = {str(key): given[key] for key in given if key != "recommender"} if isinstance(given, Mapping) else {}
    name, policy = recommender_name(given) or own.get("policy"), own.pop("policy", None)
    if not isinstance(name, str):
        given = f"{given!r}; such as run:<id>, popular, or {{recommender: run:<id>}}"
        raise InputError(f"{where} must name a recommender, got {given}")
    refuse_unknown(own, [one for one in Arm.model_fields if one != "recommender"], key=where)
    named, rule = parse_name(name), policy or name
    has_lists = policy is None and named.kind in ("stored", "path")
    if own and (policy is not None or named.kind == "word"):
        raise InputError(f"{where}: {', '.join(own)} applies to lists, and {rule} has a rule of its own")
    if named.kind == "url" or (named.kind == "word" and policy is None and name not in WORDS):
        raise InputError(unknown_recommender(where, name, [*WORDS], FILES))
    if policy is not None and ":" not in policy:
        raise InputError(f"{where}: policy must be package.module:Class, got {policy!r}")
    file = {"stored": locate, "path": Path}[named.kind](named.name) if named.kind != "word" else None
    is_of_users = file is not None and key_of_lines(file) == "user"
    how = {**defaults, **own} if has_lists else {"policy": rule}
    if is_of_users and (policy or how.get("context") not in (None, "last")):
        asked = f"policy={policy}" if policy else f"context={how['context']}"
        raise InputError(f"{where}: {asked} needs lists of tracks, and {file} has lists of users")
    if is_of_users:
        how |= {"policy": "user_lists", "context": "last"}
    elif has_lists and file is not None:
        how["context"] = context_of(where, how.get("context"), file)
    if how.get("context") == "last" and how.pop("num_lists", None) and "num_lists" in own:
        raise InputError(f"{where}: num_lists={own['num_lists']} needs context=session or listener; this arm has last")
    try:
        return Arm(recommender=name, **how), file
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


@runtime_checkable
class OwnRule(Protocol):
    """An arm of one's own, `policy: "package.module:Class"`. It keeps nothing of its own between calls.

    The class is called with `lists` (rows, N × K, -1 fills up), `artist_of` (N) and `track_ids` (N), in the rows of
    what it recommends for. What it knows of a listener are the last plays that it is given.
    """

    num_plays: int
    """How many last plays it looks at, over sessions, 1 to `MOST_PLAYS`."""

    def probabilities(
        self, rows: Int[np.ndarray, "S T"], shares: Float[np.ndarray, "S T"]
    ) -> tuple[Int[np.ndarray, "S C"], Float64[np.ndarray, "S C"]]:
        """The tracks that may be next, and the probability of each.

        Args:
            rows: of the last plays of each listener, over sessions, the newest first; -1 for tracks that are not in the
                catalogue, and after the oldest play.
            shares: share of each that was played, in [0, 1]; anything after the oldest play.

        Returns:
            Rows of tracks, -1 for none, and their probabilities. Those of a listener add up to 1, or are all 0; then
            any track is drawn.
        """


def own_rule(policy: str, **catalogue: np.ndarray) -> OwnRule:
    """Import and build the class of an arm of one's own. Only for a name that the user of this process typed.

    Args:
        policy: `package.module:Class`.
        catalogue: `lists`, `artist_of` and `track_ids`, as for `OwnRule`.

    Raises:
        InputError: there is no such class, or it is none as `OwnRule` says.
    """
    try:
        rule = resolve_name(policy)(**catalogue)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise InputError(f"policy={policy}: {error}; name a class that is built from {', '.join(catalogue)}") from None
    num = getattr(rule, "num_plays", None)
    if not (isinstance(rule, OwnRule) and isinstance(num, int) and 1 <= num <= MOST_PLAYS):
        raise InputError(f"policy={policy} must have probabilities, and num_plays from 1 to {MOST_PLAYS}, got {num!r}")
    return rule


def checked_probabilities(policy: str, found: Any, num_listeners: int, num_tracks: int) -> tuple[Candidates, Chances]:
    """Check what a class of one's own returns: the log would have its wrong probabilities, and estimates believe them.

    Args:
        policy: `package.module:Class`.
        found: what `OwnRule.probabilities` returned.
        num_listeners: S.
        num_tracks: N.

    Raises:
        InputError: they are not as `OwnRule` says.
    """
    is_pair = isinstance(found, tuple) and [getattr(one, "ndim", 0) for one in found] == [2, 2]
    rows, chances = found if is_pair else (np.empty(0), np.empty(0))
    if not (
        rows.dtype.kind + chances.dtype.kind in ("if", "uf")
        and rows.shape == chances.shape == (num_listeners, *rows.shape[1:2])
        and ((rows >= np.where(chances == 0, -1, 0)) & (rows < num_tracks) & (chances >= 0)).all()
        and ((np.abs(chances.sum(1) - 1) < 1e-6) | ~chances.any(1)).all()
    ):
        raise InputError(
            f"policy={policy} must return arrays: {num_listeners} lines of rows from -1 to {num_tracks - 1}, whole "
            f"numbers, and chances, 0 for row -1, with the sum 1 or 0; got {str(found)[:400]}"
        )
    return rows, chances
