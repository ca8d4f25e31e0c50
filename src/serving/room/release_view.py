"""What the room shows of one release: its recommenders, their lists and vectors, and the plays of each track.

N tracks of the catalogue in the order of the release, K tracks of a list, C candidates.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from jaxtyping import Float, Int32, Int64

from segue.catalog import Catalog, id_problem, ids_of, key_of, most_played
from segue.errors import InputError
from segue.picking.arm import Arm
from segue.picking.counted_scores import CountedScores
from segue.picking.session_query import SessionQuery
from segue.picking.session_scores import SessionScores
from segue.runs.catalog_files import PLAYS, read_plays
from segue.runs.recommendations import SCORE_DECIMALS, Recommendations, best_of_lines
from segue.runs.recommender_names import parse_name
from segue.runs.session_vectors import FILE, SessionVectors
from segue.serving.explanation import rounded
from segue.serving.release import Release
from segue.serving.room.previews import Previews

MAX_SHOWN = 50
"""Largest number of next tracks that are shown of a recommender."""

_SPARE = 200  # candidates beyond those shown that are scored in double precision
_UNKNOWN = np.full((1, 1), np.nan, np.float32)  # the share that was played of the one track of a session


@dataclass(frozen=True, eq=False, kw_only=True)
class Player:
    """A recommender that the room can show.

    Args:
        key: how the page names it: the arm, or `R1`, `R2`, …
        label: what it is in a few words: of a run its name, such as `convex α=0.9 seed=1`.
        recommender: its name on the command line.
        policy: as that of an `Arm`.
        arm: how it picks; None for a recommender that is no arm.
        lists: rows of the list of each track, best first, -1 fills up; None where it has no lists of tracks.
        scores: score of each of them; None where the file has none.
        vectors: of its run; None where this machine has none.
        problem: why it cannot be shown completely; empty if it can.
    """

    key: str
    label: str
    recommender: str
    policy: str
    arm: Arm | None
    lists: Int32[np.ndarray, "N K"] | None = None
    scores: np.ndarray | None = None
    vectors: SessionVectors | None = None
    problem: str = ""

    @property
    def alpha(self) -> float | None:
        """The share of the track cosine that the run was trained with; None where there is nothing to vary."""
        if self.vectors is None or self.vectors.parts != ("track", "artist"):
            return None
        alpha = float(self.vectors.shares[0])
        return alpha if 0 < alpha < 1 else None  # not where it is NaN


class Shown(NamedTuple):
    """The next tracks of a recommender after a track.

    Attributes:
        rows: rows of the tracks, best first.
        scores: score of each; None where there are none.
        is_reranked: whether the whole catalogue was ranked with another alpha.
    """

    rows: list[int]
    scores: list[float | None]
    is_reranked: bool = False


class ReleaseView:
    """What the room shows of a release.

    Args:
        release: the release.
        recommenders: names of recommenders that are shown beside the arms.
        locate: finds the `recommendations.jsonl` of a run or a model.
        previews: of the tracks, if any.
    """

    def __init__(
        self,
        release: Release,
        recommenders: Sequence[str],
        locate: Callable[[str], Path],
        previews: Previews | None = None,
    ) -> None:
        self.release, self.previews = release, previews
        self.catalog = _catalog_of(release)
        self._locate = locate
        self.plays: Int64[np.ndarray, N] | None = None  # of each track in training, if a run on this machine says it
        names: dict[str, tuple[str, Arm | None]] = {key: (arm.recommender, arm) for key, arm in release.arms.items()}
        names |= {f"R{place}": (name, None) for place, name in enumerate(recommenders, start=1)}
        players = [self._player(key, name, arm) for key, (name, arm) in names.items()]
        labels = without_common_words([player.label for player in players])
        self.players = {player.key: replace(player, label=label) for player, label in zip(players, labels, strict=True)}
        popular = np.concatenate([release.top_tracks, np.setdiff1d(np.arange(len(release)), release.top_tracks)])
        self.by_plays = popular if self.plays is None else most_played(self.plays)

    def __len__(self) -> int:
        return len(self.release)

    def row_of(self, given: Any) -> int:
        """Row of the track with an id; -1 if there is none, or if it is no id.

        Args:
            given: a value of JSON, or what was typed.
        """
        return -1 if id_problem(given) else self.release.row_of(key_of(given))

    def plays_of(self, row: int) -> int | None:
        """Plays of a track in training; None where no run on this machine says it."""
        return None if self.plays is None else int(self.plays[row])

    def record(self, row: int) -> dict[str, Any]:
        """A track as JSON: `track`, `title`, `artist`, `plays`, and `audio` where it has a preview."""
        found = {**self.release.track(row), "plays": self.plays_of(row)}
        audio = None if self.previews is None else self.previews.of(int(self.release.keys[row]))
        return found | ({"audio": audio} if audio else {})

    def following(self, key: str, row: int, *, num: int, alpha: float | None) -> Shown:
        """The next tracks of a recommender after a track.

        Without `alpha` they are those that it serves. With it the whole catalogue is ranked by
        `α·cos(tracks) + (1 − α)·cos(artists)`, plus the bias of the candidate where the run has one.

        Args:
            key: of the recommender.
            row: row of the track.
            num: how many at most.
            alpha: share of the track cosine, in [0, 1]; only for recommenders that have one.
        """
        player, release = self.players[key], self.release
        rows: list[int] = []
        if alpha is not None and player.alpha is not None:
            return self._ranked(player, row, num, alpha)
        if player.lists is not None:
            rows = [found for found in player.lists[row].tolist() if found >= 0][:num]
            if player.scores is not None:
                scores = player.scores[row, : len(rows)].tolist()
                return Shown(rows, [None if np.isnan(score) else score for score in scores])
        elif player.policy == "popular":
            rows = [found for found in release.top_tracks.tolist() if found != row][:num]
        elif player.policy == "sticky_artist":
            own = release.artists.by(int(release.artist_of[row]))
            rows = sorted(own[own != row].tolist(), key=lambda other: -(self.plays_of(other) or 0))[:num]
        return Shown(rows, [None] * len(rows))

    def parts(self, key: str, row: int, candidate: int) -> dict[str, float] | None:
        """The cosines behind a score, by part; None without vectors.

        With shrinkage they are smaller for tracks that training shows rarely. A head without shares has inner products.

        Args:
            key: of the recommender.
            row: row of the track.
            candidate: row of the next track.
        """
        if (vectors := self.players[key].vectors) is None:
            return None
        scores = SessionScores(vectors, self.release.artist_of)
        parts = {name: float(part[0]) for name, part in scores.explain(np.array([row]), _UNKNOWN[0], candidate).items()}
        parts.pop("repeats", None)
        shares = dict(zip(vectors.parts, vectors.shares.tolist(), strict=True))
        if all(share > 0 for share in shares.values()):  # not where they are NaN
            parts = {name: value / shares.get(name, 1.0) for name, value in parts.items()}
        elif len(vectors.parts) == 1:
            parts = {"product": parts.pop(vectors.parts[0])} | parts
        return rounded(parts)

    def _ranked(self, player: Player, row: int, num: int, alpha: float) -> Shown:
        vectors, trained = player.vectors, player.alpha
        assert vectors is not None
        assert trained is not None
        shares = np.array([alpha / trained, (1 - alpha) / (1 - trained)])  # of what they were in training
        query = SessionQuery(vectors).of(np.array([[row]]), _UNKNOWN)[0].astype(np.float64)
        query[: vectors.ends[-1]] *= np.repeat(shares, np.diff(vectors.ends, prepend=0))
        rough = _with_counts(vectors, row, vectors.items @ query.astype(np.float32), np.arange(len(self)))
        rough[row] = rough[self.release.kept] = -np.inf
        kept = min(num + _SPARE, int(np.count_nonzero(rough > -np.inf)))
        best = np.argpartition(-rough, kept)[:kept]
        exact = vectors.items[best].astype(np.float64) @ query
        scores = _with_counts(vectors, row, exact, best).round(SCORE_DECIMALS)
        plays = np.zeros(len(best)) if self.plays is None else self.plays[best]
        order = best_of_lines(np.zeros(len(best), np.int64), num, scores, plays, -best)
        return Shown(best[order].tolist(), scores[order].tolist(), is_reranked=True)

    def _player(self, key: str, name: str, arm: Arm | None) -> Player:
        release, policy, problem = self.release, "lists" if arm is None else arm.policy, ""
        lists, scores, vectors = release.lists.get(key), release.scores.get(key), release.vectors.get(key)
        is_of_users, file = policy == "user_lists", None
        try:
            if policy == "lists":
                recorded = Path(release.provenance.get(f"lists_{key}", ""))
                file = recorded if recorded.is_file() else self._found(name)
                if arm is None:
                    given = Recommendations.read(file, self.catalog)
                    is_of_users = given.users is not None
                    lists, scores = (None, None) if is_of_users else (given.rows.astype(np.int32), given.scores)
                if vectors is None and not is_of_users:
                    if not file.with_name(FILE).is_file():
                        raise InputError("its run has no vectors, therefore no cosines and no α")
                    vectors = self._vectors(file.with_name(FILE))
        except InputError as error:
            problem = str(error)
        if is_of_users:
            problem = "its lists belong to users; the room shows nothing of single users"
        if self.plays is None and file is not None and file.with_name(PLAYS).is_file():
            self.plays = read_plays(file.with_name(PLAYS), self.catalog)
        known: dict[str, Any] = {"lists": lists, "scores": scores, "vectors": vectors, "problem": problem}
        return Player(key=key, label=label_of(name, file), recommender=name, policy=policy, arm=arm, **known)

    def _vectors(self, file: Path) -> SessionVectors:
        """The vectors of a run, which has no kept tracks."""
        if not len(kept := self.release.kept):
            return SessionVectors.read(file, self.catalog)
        rows = np.delete(np.arange(len(self)), kept)
        names = {name: getattr(self.catalog, name)[rows] for name in ("track_ids", "titles", "artist_of")}
        return SessionVectors.read(file, replace(self.catalog, **names)).at_rows(rows, len(self))

    def _found(self, name: str) -> Path:
        named = parse_name(name)
        file = self._locate(named.name) if named.kind == "stored" else Path(named.name)
        if not file.is_file():
            raise InputError(f"{name} is not on this machine any more")
        return file


def _catalog_of(release: Release) -> Catalog:
    titles, artists = np.empty(len(release), object), np.full(len(release.artists.ends), "", object)
    ids, artist_of = [], release.artist_of.astype(np.int64)
    for row, artist in enumerate(artist_of.tolist()):
        record = release.track(row)
        titles[row], artists[artist] = record["title"], record["artist"] or ""
        ids.append(record["track"])
    return Catalog(track_ids=ids_of(ids), titles=titles, artist_of=artist_of, artists=artists)


def _with_counts(
    vectors: SessionVectors, row: int, scores: Float[np.ndarray, "C"], candidates: Int64[np.ndarray, "C"]
) -> Float[np.ndarray, "C"]:
    """Scores of candidates after one track, with the counted part."""
    if vectors.counted is not None:
        CountedScores(vectors.counted).add(scores[None], np.array([[row]]), _UNKNOWN, candidates[None])
    return scores


def label_of(name: str, file: Path | None) -> str:
    """What a recommender is, in a word or two.

    Args:
        name: on the command line.
        file: its recommendations, if they are on this machine; the `config.yaml` beside them has the name of its run.
    """
    if file is not None:
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError, yaml.YAMLError):
            return str(yaml.safe_load(file.with_name("config.yaml").read_bytes())["run_name"] or name)
    return name


def without_common_words(labels: Sequence[str]) -> list[str]:
    """Labels without the words that all labels of several words have; they say nothing about the difference.

    Args:
        labels: such as `convex context=session` and `artist context=session`, which become `convex` and `artist`.
    """
    several = [set(label.split()) for label in labels if " " in label]
    common = set.intersection(*several) if len(several) > 1 else set()
    return [
        " ".join(word for word in label.split() if word not in common) or label if " " in label else label
        for label in labels
    ]


def alphas_of(given: str) -> Mapping[str, float]:
    """The alpha of each recommender in a link, such as `C:0.5,T1:1`.

    Raises:
        InputError: one is no number from 0 to 1.
    """
    found = {}
    for entry in filter(None, given.split(",")):
        key, _, value = entry.partition(":")
        found[key] = -1.0
        with contextlib.suppress(ValueError):
            found[key] = float(value)
        if not 0 <= found[key] <= 1:
            raise InputError(f"alpha of {key} must lie in [0, 1], got {value!r}; leave it out for that of the run")
    return found
