"""What the room shows of one release: its recommenders, their lists and vectors, and the plays of each track.

N tracks of the catalogue in the order of the release, K candidates of a list, W width of a vector.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jaxtyping import Float64, Int32, Int64

from segue.catalog import Catalog
from segue.errors import InputError
from segue.room.previews import Previews
from segue.runs.catalog_files import PLAYS, read_plays
from segue.runs.recommendations import Recommendations
from segue.runs.recommender_names import parse_name
from segue.runs.session_vectors import FILE, SessionVectors
from segue.serving.explanation import parts_of, track_products
from segue.serving.release import Arm, Release

MAX_SHOWN = 50
"""Largest number of next tracks that are shown of a recommender."""

_DECIMALS = 6  # scores are compared with these, as in recommendations.jsonl
_SPARE = 200  # candidates beyond those shown that are scored in double precision


@dataclass(frozen=True, eq=False, kw_only=True)
class Player:
    """A recommender that the room can show.

    Args:
        key: how the page names it: the arm, or `R1`, `R2`, …
        label: what it is in a few words: of a run its name, such as `convex α=0.9 seed=1`.
        recommender: its name on the command line.
        policy: one of `serving.release.POLICIES`.
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
    lists: Int32[np.ndarray, "N K"] | None
    scores: np.ndarray | None
    vectors: SessionVectors | None
    problem: str

    @property
    def alpha(self) -> float | None:
        """The share of the track cosine that the run was trained with; None where there is nothing to vary."""
        if self.vectors is None or self.vectors.parts != ("track", "artist"):
            return None
        alpha = float(self.vectors.shares[0])
        return alpha if 0 < alpha < 1 else None  # not where it is NaN

    def shares(self, alpha: float | None) -> Float64[np.ndarray, "P"]:
        """What each part of a score is multiplied by at another alpha than that of the training run."""
        assert self.vectors is not None
        trained = self.alpha
        if alpha is None or trained is None:
            return np.ones(len(self.vectors.parts))
        return np.array([alpha / trained, (1 - alpha) / (1 - trained)])


@dataclass(frozen=True, eq=False, kw_only=True)
class Shown:
    """The next tracks of a recommender after a track.

    Args:
        rows: rows of the tracks, best first.
        scores: score of each; None where there are none.
        is_reranked: whether the whole catalogue was ranked with another alpha.
    """

    rows: Sequence[int]
    scores: Sequence[float | None]
    is_reranked: bool


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
        players = [self._player_of_arm(key, arm) for key, arm in release.arms.items()]
        players += [self._player_of_name(f"R{place}", name) for place, name in enumerate(recommenders, start=1)]
        labels = without_common_words([player.label for player in players])
        players = [replace(player, label=label) for player, label in zip(players, labels, strict=True)]
        self.players: dict[str, Player] = {player.key: player for player in players}
        self.by_plays = self._popular_first()

    def __len__(self) -> int:
        return len(self.release)

    def plays_of(self, row: int) -> int | None:
        """Plays of a track in training; None where no run on this machine says it."""
        return None if self.plays is None else int(self.plays[row])

    @property
    def popularity(self) -> Float64[np.ndarray, "N"]:
        """Popularity of each track in [0, 1]: its place by plays, 1 for the most played."""
        places = np.empty(len(self), np.float64)
        places[self.by_plays] = np.linspace(1, 0, len(self))
        return places

    @property
    def knows_plays(self) -> bool:
        """Whether the plays of tracks are known."""
        return self.plays is not None

    def record(self, row: int) -> dict[str, Any]:
        """A track as JSON: `track`, `title`, `artist`, `plays`, and `audio` where it has a preview."""
        found = {**self.release.track(row), "plays": self.plays_of(row)}
        audio = None if self.previews is None else self.previews.of(found["track"])
        return found | ({"audio": audio} if audio else {})

    def text_of(self, row: int) -> str:
        """Title and artist, for the search."""
        record = self.release.track(row)
        return f"{record['title']} {record['artist'] or ''}"

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
        player = self.players[key]
        if alpha is not None and player.alpha is not None:
            rows, scores = self._ranked(player, row, num, alpha)
            return Shown(rows=rows, scores=scores, is_reranked=True)
        if player.lists is not None:
            rows = [found for found in player.lists[row].tolist() if found >= 0][:num]
            given = player.scores[row, : len(rows)].tolist() if player.scores is not None else [np.nan] * len(rows)
            return Shown(rows=rows, scores=[None if np.isnan(one) else one for one in given], is_reranked=False)
        if player.policy == "popular":
            rows = [found for found in dict.fromkeys(self.release.top_tracks.tolist()) if found != row][:num]
        elif player.policy == "sticky_artist":
            own = self.release.artists.by(int(self.release.artist_of[row]))
            rows = sorted(own[own != row].tolist(), key=lambda other: -(self.plays_of(other) or 0))[:num]
        else:
            rows = []
        return Shown(rows=rows, scores=[None] * len(rows), is_reranked=False)

    def parts(self, key: str, row: int, candidate: int) -> dict[str, float] | None:
        """The cosines behind a score, by part; None without vectors.

        With shrinkage they are smaller for tracks that training shows rarely. A head without shares has inner products.

        Args:
            key: of the recommender.
            row: row of the track.
            candidate: row of the next track.
        """
        vectors = self.players[key].vectors
        if vectors is None:
            return None
        _, products, rest = track_products(vectors, row, candidate)
        has_shares = bool((vectors.shares > 0).all())  # not where they are NaN
        names = vectors.parts if has_shares or len(vectors.parts) > 1 else ["product"]
        found = parts_of(names, (products[:, 0] / (vectors.shares if has_shares else 1)).tolist())
        return found | ({"bias": round(rest, _DECIMALS)} if rest else {})

    def _ranked(self, player: Player, row: int, num: int, alpha: float) -> tuple[list[int], list[float | None]]:
        vectors = player.vectors
        assert vectors is not None
        weights, _, _ = track_products(vectors, row, row)
        factors = np.ones(vectors.queries.shape[1])
        factors[: vectors.ends[-1]] = np.repeat(weights[:, 0] * player.shares(alpha), np.diff(vectors.ends, prepend=0))
        query = vectors.queries[row] * factors
        rough = vectors.items @ query.astype(np.float32)
        rough[row] = -np.inf
        kept = min(num + _SPARE, len(rough) - 1)
        best = np.argpartition(-rough, kept)[:kept]
        scores = (vectors.items[best].astype(np.float64) @ query).round(_DECIMALS)
        plays = np.zeros(len(best)) if self.plays is None else self.plays[best]
        order = np.lexsort((best, -plays, -scores))[:num]
        return best[order].tolist(), scores[order].tolist()

    def _player_of_arm(self, key: str, arm: Arm) -> Player:
        file, problem = None, ""
        if arm.policy == "lists":
            recorded = Path(self.release.provenance.get(f"lists_{key}", ""))
            file, problem = (recorded, "") if recorded.is_file() else self._found(arm.recommender)
        elif arm.policy == "user_lists":
            problem = "its lists belong to users; the room shows nothing of single users"
        vectors = self.release.vectors.get(key)
        if vectors is None and file is not None:
            vectors, problem = self._vectors(file)
        self._read_plays(file)
        lists = self.release.lists.get(key)
        return Player(
            key=key,
            label=label_of(arm.recommender, file),
            recommender=arm.recommender,
            policy=arm.policy,
            arm=arm,
            lists=lists,
            scores=self.release.scores(key),
            vectors=vectors,
            problem=problem,
        )

    def _player_of_name(self, key: str, name: str) -> Player:
        file, problem = self._found(name)
        lists = scores = vectors = None
        if file is not None:
            try:
                given = Recommendations.read(file, self.catalog)
                if given.users is None:
                    lists, scores = given.rows.astype(np.int32), given.scores
                    vectors, problem = self._vectors(file)
                else:
                    problem = "its lists belong to users; the room shows nothing of single users"
            except InputError as error:
                problem = str(error)
        self._read_plays(file)
        return Player(
            key=key,
            label=label_of(name, file),
            recommender=name,
            policy="lists",
            arm=None,
            lists=lists,
            scores=scores,
            vectors=vectors,
            problem=problem,
        )

    def _found(self, name: str) -> tuple[Path | None, str]:
        named = parse_name(name)
        try:
            file = self._locate(named.name) if named.kind == "stored" else Path(named.name)
        except InputError as error:
            return None, str(error)
        return (file, "") if file.is_file() else (None, f"{name} is not on this machine any more")

    def _vectors(self, file: Path) -> tuple[SessionVectors | None, str]:
        path = file.with_name(FILE)
        if not path.is_file():
            return None, "its run has no vectors, therefore no cosines and no α"
        try:
            return SessionVectors.read(path, self.catalog), ""
        except InputError as error:
            return None, str(error)

    def _read_plays(self, file: Path | None) -> None:
        if self.plays is None and file is not None and file.with_name(PLAYS).is_file():
            self.plays = read_plays(file.with_name(PLAYS), self.catalog)

    def _popular_first(self) -> Int64[np.ndarray, "N"]:
        if self.plays is not None:
            return np.argsort(-self.plays, kind="stable")
        top = np.fromiter(dict.fromkeys(self.release.top_tracks.tolist()), np.int64)
        return np.concatenate([top, np.setdiff1d(np.arange(len(self)), top)])


def _catalog_of(release: Release) -> Catalog:
    """The catalogue of a release, in its order."""
    titles, artists = np.empty(len(release), object), np.full(len(release.artists.ends), "", object)
    for row, artist in enumerate(release.artist_of.tolist()):
        record = release.track(row)
        titles[row], artists[artist] = record["title"], record["artist"] or ""
    return Catalog(
        track_ids=np.asarray(release.track_ids),
        titles=titles,
        artist_of=release.artist_of.astype(np.int64),
        artists=artists,
    )


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
        try:
            alpha = float(value)
        except ValueError:
            alpha = -1.0
        if not 0 <= alpha <= 1:
            raise InputError(f"alpha of {key} must lie in [0, 1], got {value!r}; leave it out for that of the run")
        found[key] = alpha
    return found
