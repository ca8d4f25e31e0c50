"""An arm: what it recommends from, and how. It is built here alone, from the mapping of a command line or a release.

S sessions, T tracks that a session or a listener has played, C tracks that may be picked, N tracks of the catalogue, K
tracks of a list.
"""

import re
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float64, Int, Shaped
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from segue.errors import InputError
from segue.picking.places import PICKS
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
MOST_LISTS = 20
"""Largest number of last tracks whose lists are searched."""
LEARNED: Literal["learned"] = "learned"
"""`familiar=` where the scores alone decide how much of what is played is known; the same as 1."""
_OWN = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")

Locate = Callable[[str], Path]
"""Finds the `recommendations.jsonl` of the name of a run or a registered model."""


class Arm(BaseModel):
    """How an arm of an experiment recommends.

    Raises:
        InputError: a setting is out of range.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    recommender: str
    """Its name on the command line."""
    policy: str = "lists"
    """`lists`, `user_lists`, one of `WORDS`, or `package.module:Class`: an `OwnRule`, which has no other setting."""
    pick: str = "uniform"
    """One of `PICKS`; it applies to lists only, as do all that follow. All but `uniform` pick no track that the session
    has heard."""
    artist_gap: int = Field(0, ge=0, le=1000)
    """Number of last tracks whose artists are avoided as long as the list has others."""
    context: Literal["last", "session", "listener"] = "last"
    """What the query is: the last track, the session, or the session and what the listener heard before."""
    num_lists: int = Field(1, ge=1, le=MOST_LISTS)
    """Number of last tracks whose lists are searched, with `session` and `listener`."""
    exploration: float = Field(0.0, ge=0, le=0.5)
    """Share of the picks that are among the new tracks of a list that has some."""
    exploration_plays: int = Field(1, ge=1)
    """Tracks with fewer plays in training are new."""
    familiar: Annotated[float, BeforeValidator(lambda one: 1.0 if one == LEARNED else one)] = Field(1.0, ge=0, le=1)
    """Share of what is played that the listener may know; below 1 with `listener` only."""
    fallback: Literal["artist", "random"] = "artist"
    """What follows where a list has no track left; see `FALLBACKS`."""

    def __init__(self, **given: Any) -> None:
        try:
            super().__init__(**given)
        except ValidationError as error:
            wrong = error.errors()[0]
            name, why = ".".join(map(str, wrong["loc"])), wrong["msg"].removeprefix("Value error, ")
            raise InputError(f"{name}: {why}, got {wrong['input']!r}" if name else why) from None

    @field_validator("pick")
    @classmethod
    def _has_rule(cls, pick: str) -> str:
        if pick not in PICKS:
            raise ValueError(f"must be one of {', '.join(PICKS)}")
        return pick

    @field_validator("policy")
    @classmethod
    def _is_policy(cls, policy: str) -> str:
        if policy not in (*LISTS, *WORDS) and not _OWN.fullmatch(policy):
            raise ValueError(f"must be one of {', '.join((*LISTS, *WORDS))}, or package.module:Class")
        return policy

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

    @property
    def has_lists(self) -> bool:
        """Whether it picks from lists; `pick` and `artist_gap` apply then."""
        return self.policy in LISTS

    @property
    def is_own(self) -> bool:
        """Whether it picks by a class of its own."""
        return ":" in self.policy

    @property
    def is_of_session(self) -> bool:
        """Whether the session so far is the query, or a part of it."""
        return self.context != "last"

    @property
    def avoids_heard(self) -> bool:
        """Whether no track that the session has heard is picked."""
        return self.has_lists and not PICKS[self.pick].may_repeat

    @property
    def sources(self) -> tuple[str, ...]:
        """Where tracks come from, in this order: the source of the policy, and its fallbacks."""
        own = {"sticky_artist": "artist", "popular": "popular", "random": "random"}.get(self.policy, "list")
        return tuple(dict.fromkeys((own, *FALLBACKS[self.fallback if self.has_lists else "random"])))

    @property
    def rule(self) -> str:
        """How a place of a list is picked, as a sentence."""
        return str(PICKS[self.pick].__doc__)

    def describe(self) -> str:
        """How it picks, for people."""
        if self.is_own:
            return f"policy={self.policy}: by a class of its own"
        if not self.has_lists:
            return "no lists: pick and artist_gap do not apply"
        exploration = f", exploration={self.exploration:g}" if self.exploration else ""
        context = f", context={self.context} of the last {self.num_lists} lists" * self.is_of_session
        context += f", familiar={self.familiar:g}" * (self.familiar != 1)
        users = ", lists of users" * (self.policy == "user_lists")
        fallback = f", fallback={self.fallback}" * (self.fallback != "artist")
        return f"pick={self.pick}, artist_gap={self.artist_gap}{exploration}{context}{users}{fallback}"

    def explores(self) -> dict[str, Any]:
        """How it explores; empty where it does not."""
        return self.model_dump(include={"exploration", "exploration_plays"}) if self.exploration else {}

    def record(self) -> dict[str, Any]:
        """As JSON, from which the arm can be built again. What many arms do not use is there only where it is used."""
        usual = self.model_dump(include={"recommender", "policy", "pick", "artist_gap"})
        return usual | self.model_dump(exclude_defaults=True)


def read_arm(where: str, given: Any, *, defaults: Mapping[str, Any], locate: Locate) -> tuple[Arm, Path | None]:
    """Read an arm of a command line.

    Args:
        where: the setting that has it, for messages.
        given: the name of a recommender, or a mapping with `recommender`, or `policy`, and settings of this arm.
        defaults: its settings for lists. A `context` of None is that of the training run.
        locate: finds the file of a run or a model.

    Returns:
        The arm, and the file of its lists, if it has some.

    Raises:
        InputError: no recommender is named, a setting is unknown or out of range, or the file cannot be read.
    """
    own = {str(key): given[key] for key in given if key != "recommender"} if isinstance(given, Mapping) else {}
    name = recommender_name(given) or own.get("policy")
    if not isinstance(name, str):
        raise InputError(
            f"{where} must name a recommender, got {given!r}; such as run:<id>, popular, or {{recommender: run:<id>}}"
        )
    refuse_unknown(own, [*defaults, "policy"], key=where)
    named, policy = parse_name(name), own.pop("policy", None)
    if own and (policy is not None or named.kind == "word"):
        raise InputError(f"{where}: {next(iter(own))} applies to lists, and {policy or name} has a rule of its own; "
                         f"leave {next(iter(own))} out")  # fmt: skip
    if named.kind == "word" and policy is None and name not in WORDS:
        raise InputError(unknown_recommender(where, name, [*WORDS], FILES))
    if named.kind == "url":
        raise InputError(f"{where}: {name!r} is another service; choose one of {', '.join(WORDS)}, {FILES}")
    file = {"stored": locate, "path": Path}[named.kind](named.name) if named.kind != "word" else None
    how: dict[str, Any] = {"policy": policy or name}
    if policy is not None:
        how["fallback"] = "random"
        if ":" not in policy:
            raise InputError(f"{where}: policy must be package.module:Class, got {policy!r}")
    elif file is not None:
        how = {**defaults, **own, "policy": LISTS[key_of_lines(file) == "user"]}
        if how["policy"] == "user_lists" and how["context"] not in (None, "last"):
            raise InputError(f"{where}: context={how['context']} needs lists of tracks, and {file} has lists of users")
        how["context"] = "last" if how["policy"] == "user_lists" else context_of(where, how["context"], file)
        unused = {"num_lists"} if how["context"] == "last" else set()
        unused |= set() if how["exploration"] else {"exploration", "exploration_plays"}
        how = {key: value for key, value in how.items() if key not in unused}
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


def own_rule(
    policy: str,
    *,
    lists: Int[np.ndarray, "N K"],
    artist_of: Int[np.ndarray, "N"],
    track_ids: Shaped[np.ndarray, "N"],
) -> OwnRule:
    """Import and build the class of an arm of one's own. Only for a name that the user of this process typed.

    Args:
        policy: `package.module:Class`.
        lists: as for `OwnRule`.
        artist_of: as for `OwnRule`.
        track_ids: as for `OwnRule`.

    Raises:
        InputError: there is no such class, or it looks at too many plays.
    """
    module, _, name = policy.partition(":")
    try:
        made = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InputError(f"policy={policy}: {error}; name a class that Python can import") from None
    rule: OwnRule = made(lists=lists, artist_of=artist_of, track_ids=track_ids)
    if not 1 <= rule.num_plays <= MOST_PLAYS:
        raise InputError(f"policy={policy}: num_plays must lie between 1 and {MOST_PLAYS}, got {rule.num_plays}")
    return rule


def check_probabilities(
    policy: str,
    rows: Int[np.ndarray, "..."],
    chances: Float64[np.ndarray, "..."],
    *,
    num_listeners: int,
    num_tracks: int,
) -> None:
    """Check what a class of one's own returns: the log would have its wrong probabilities, and estimates believe them.

    Args:
        policy: `package.module:Class`.
        rows: as `OwnRule.probabilities` returns them.
        chances: as `OwnRule.probabilities` returns them.
        num_listeners: S.
        num_tracks: N.

    Raises:
        InputError: they are not as `OwnRule` says.
    """
    what = f"policy={policy}: probabilities must return"
    if rows.shape != chances.shape or rows.ndim != 2 or len(rows) != num_listeners:
        raise InputError(
            f"{what} two arrays of {num_listeners} lines and as many columns, got {rows.shape} and {chances.shape}"
        )
    if rows.min(initial=-1) < -1 or rows.max(initial=-1) >= num_tracks:
        raise InputError(f"{what} rows from -1 to {num_tracks - 1}, got {rows.min()} to {rows.max()}")
    sums = np.where(rows >= 0, chances, 0).sum(1)
    is_right = (chances >= 0).all(1) & ((np.abs(sums - 1) < 1e-6) | (sums == 0))
    is_right &= ((rows >= 0) | (chances == 0)).all(1)
    if not is_right.all():
        raise InputError(
            f"{what} for each listener numbers of at least 0 that add up to 1, or are all 0, and 0 for row -1; got "
            f"{chances[~is_right][0].tolist()} for the rows {rows[~is_right][0].tolist()}"
        )
