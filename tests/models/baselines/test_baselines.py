"""Baselines against slow loops over sessions, and where the best answer is certain."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import ModelCheckpoint

from segue.attributes import Values
from segue.catalog import Calendar, Listens
from segue.datamodules.pair_datamodule import PairDataModule
from segue.errors import InputError
from segue.histories import Histories
from segue.models.baselines import counting as baselines
from segue.models.baselines import vectors
from segue.models.baselines.counting import (
    ArtistPopular,
    AttributeNeighbours,
    Neighbours,
    Popular,
    Rules,
    ShareMeans,
)
from segue.models.baselines.module import PART, Baseline
from segue.models.baselines.vectors import Als, Bpr, Item2Vec
from tests.conftest import NUM_RING_TRACKS, make_listens, make_vocabulary
from tests.models.plain import COSINES, LAST_TRACK, SESSION

NUM_TRACKS = 6
Sessions = list[list[tuple[int, float]]]
NO_ARTISTS = {"artist_weight": 0.0}
MARKOV: dict[str, Any] = {"window": 1, "decay": "inverse", "reverse_weight": 0.0, **NO_ARTISTS}
COSINE: dict[str, Any] = {"shrinkage": 0.0, "norm_power": 1.0, "length_power": 0.0, **NO_ARTISTS}
SKIP_GRAM: dict[str, Any] = {"dim": 16, "window": 3, "negative_exponent": 0.0, "seed": 1, **NO_ARTISTS}
NEAR: dict[str, Any] = {"dim": 16, "seed": 1, **NO_ARTISTS}
LEAST_SQUARES: dict[str, Any] = {**NEAR, "regularization": 0.01, "confidence": 5.0}
PAIRWISE: dict[str, Any] = {**NEAR, "regularization": 0.01}
SHARE_MEANS: dict[str, Any] = {"level": "track", "shrinkage": 1.0, **NO_ARTISTS}
MODELS: dict[str, Any] = {
    "popular": partial(Popular, artist_weight=0.0),
    "sticky": partial(Popular, artist_weight=1.0),
    "rules": partial(Rules, **MARKOV),
    "neighbours": partial(Neighbours, **COSINE),
    "item2vec": partial(Item2Vec, **SKIP_GRAM),
    "als": partial(Als, **LEAST_SQUARES),
    "bpr": partial(Bpr, **PAIRWISE),
}
VOCABULARY = make_vocabulary(range(NUM_TRACKS))


@pytest.fixture(autouse=True)
def few_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is a large share of the events, and there are few of them."""
    monkeypatch.setattr(vectors, "SUBSAMPLE", 0.0)
    monkeypatch.setattr(vectors, "EPOCHS", 60)


listens_drawn = st.tuples(st.integers(0, NUM_TRACKS - 1), st.sampled_from([0.0, 0.5, 1.0, float("nan")]))
sessions_drawn = st.lists(st.lists(listens_drawn, min_size=1, max_size=6), max_size=6)


def weight(share: float) -> float:
    return 1.0 if np.isnan(share) else share


def dense(scores: dict[tuple[int, int], float]) -> np.ndarray:
    table = np.zeros((NUM_TRACKS, NUM_TRACKS))
    for pair, score in scores.items():
        table[pair] = score
    return table


@pytest.mark.parametrize("name", ["rules", "neighbours"])
@pytest.mark.parametrize("context", [LAST_TRACK, SESSION])
def test_where_plays_age_each_score_is_multiplied_by_the_trend_of_its_candidate(name: str, context: Any) -> None:
    rng = np.random.default_rng(0)
    listens = make_listens([[(int(track), 1.0) for track in rng.integers(NUM_TRACKS, size=4)] for _ in range(10)])
    age = Calendar(age=np.arange(10, 0, -1, dtype=np.float32))
    histories = Histories.of_tracks(np.arange(NUM_TRACKS))

    def tops(calendar: Calendar) -> dict[tuple[int, int], float]:
        words = replace(make_vocabulary(range(NUM_TRACKS), listens=listens, calendar=calendar), plays=plays)
        baseline = Baseline(vocabulary=words, model=MODELS[name], context=context, monitor="val/ndcg_at_10")
        baseline.on_train_start()
        rows, scores = baseline.top(histories, NUM_TRACKS - 1)
        assert np.array_equal(rows, baseline.lists(NUM_TRACKS - 1).collect()[0])
        trends.append(words.trend)
        return {(query, row): scores[query, place] for query, of in enumerate(rows) for place, row in enumerate(of)}

    plays, trends = np.bincount(listens.track, minlength=NUM_TRACKS), list[np.ndarray]()
    before, after = tops(age), tops(replace(age, half_life=2.0))
    assert np.ptp(trends[1]) > 0.2
    for (query, row), score in after.items():
        assert score == pytest.approx(before[query, row] * trends[1][row], rel=1e-5)


def test_the_most_played_of_the_last_days_come_first() -> None:
    calendar = Calendar(age=np.array([5.0, 5.0, 0.5, 0.0], np.float32), newest_days=1.0)
    listens = make_listens([[(0, 1.0), (1, 1.0)], [(0, 1.0)], [(2, 1.0)], [(2, 1.0), (3, 1.0)]])
    words = replace(make_vocabulary(range(5), listens=listens, calendar=calendar), plays=np.array([2, 1, 2, 1, 0]))
    assert Popular(words, days="auto").order.tolist() == Popular(words, days=1).order.tolist() == [2, 1, 4, 3, 0]
    assert Popular(words).order.tolist() == [2, 1, 2, 1, 0]
    with pytest.raises(InputError, match=r"model.days=auto counts days .* no clock"):
        Popular(make_vocabulary(range(5)), days="auto").order  # noqa: B018


@given(sessions_drawn, st.integers(1, 4), st.sampled_from(["inverse", 0.5, 1]), st.floats(0, 1))
def test_rules_are_those_of_the_loops(
    sessions: Sessions, window: int, decay: float | Literal["inverse"], back: float
) -> None:
    expected: dict[tuple[int, int], float] = defaultdict(float)
    for session in sessions:
        for place, (previous, share) in enumerate(session):
            for distance, (following, other) in enumerate(session[place + 1 : place + 1 + window], start=1):
                fades = 1 / distance if decay == "inverse" else float(decay) ** (distance - 1)
                expected[previous, following] += fades * weight(share) * weight(other)
                expected[following, previous] += back * fades * weight(share) * weight(other)
    baseline = Rules(VOCABULARY, window=window, decay=decay, reverse_weight=back, artist_weight=0.0)
    np.testing.assert_allclose(baseline.count(make_listens(sessions)).toarray(), dense(expected), atol=1e-6)


@given(
    sessions=sessions_drawn,
    shrinkage=st.sampled_from([0.0, 3.0]),
    norm=st.sampled_from([0.0, 0.5, 1.0]),
    length=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_neighbours_are_those_of_the_loops(sessions: Sessions, shrinkage: float, norm: float, length: float) -> None:
    played: list[dict[int, float]] = []
    for session in sessions:
        of_session: dict[int, float] = defaultdict(float)
        for track, share in session:
            of_session[track] = min(of_session[track] + weight(share), 1)
        size = sum(x**2 for x in of_session.values()) ** 0.5  # the norm of the session
        played.append({track: x / size ** (length / 2) for track, x in of_session.items() if x})
    norms = [sum(session.get(track, 0) ** 2 for session in played) ** 0.5 for track in range(NUM_TRACKS)]
    expected = {}
    for q in range(NUM_TRACKS):
        for c in range(NUM_TRACKS):
            together = sum(session.get(q, 0) * session.get(c, 0) for session in played)
            if together and q != c:
                expected[q, c] = together / ((norms[q] * norms[c]) ** norm + shrinkage)
    changed = {"shrinkage": shrinkage, "norm_power": norm, "length_power": length}
    baseline = Neighbours(VOCABULARY, **{**COSINE, **changed})
    np.testing.assert_allclose(baseline.count(make_listens(sessions)).toarray(), dense(expected), rtol=1e-5)


@given(sessions_drawn, st.integers(1, 4), st.sampled_from([1.0, 20.0]), st.sampled_from(["track", "artist"]))
def test_share_means_are_those_of_the_loops(sessions: Sessions, window: int, shrinkage: float, level: str) -> None:
    vocabulary = make_vocabulary([0, 0, 1, 1, 1, 2])
    artist_of = vocabulary.catalog.artist_of.tolist() if level == "artist" else range(NUM_TRACKS)
    events: dict[tuple[int, int], list[tuple[float, float]]] = defaultdict(list)
    for session in sessions:
        known = [(track, share) for track, share in session if not np.isnan(share)]
        for place, (previous, heard) in enumerate(known):
            for following, share in known[place + 1 : place + 1 + window]:
                if heard:
                    events[artist_of[previous], artist_of[following]].append((heard, share))
    both = [one for of_pair in events.values() for one in of_pair]
    mean = sum(w * share for w, share in both) / (sum(w for w, _ in both) or 1)
    expected = {}
    for q in range(NUM_TRACKS):
        for c in range(NUM_TRACKS):
            of_pair = events[artist_of[q], artist_of[c]]
            score = sum(w * (share - mean) for w, share in of_pair) / (sum(w for w, _ in of_pair) + shrinkage)
            if q != c and score > 1e-9:
                expected[q, c] = score
    baseline = ShareMeans(vocabulary, **{**SHARE_MEANS, "level": level, "shrinkage": shrinkage})
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(baselines, "SHARES_WINDOW", window)
        np.testing.assert_allclose(baseline.count(make_listens(sessions)).toarray(), dense(expected), atol=1e-6)


def test_share_means_of_a_source_without_shares_are_refused() -> None:
    silent = replace(VOCABULARY, mean_played_ratio=None)
    with pytest.raises(InputError, match="compares shares played, but this source has none; use model=rules"):
        ShareMeans(silent, **SHARE_MEANS).count(make_listens([]))


def test_only_the_best_neighbours_are_kept_and_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = [[(0, 1.0), (1, 1.0)], [(0, 1.0), (1, 1.0), (2, 1.0)], [(3, 1.0), (2, 1.0)]]
    whole = Neighbours(VOCABULARY, **COSINE).count(make_listens(sessions)).toarray()
    monkeypatch.setattr(baselines, "_MAX_SCORES", 2 * NUM_TRACKS)
    np.testing.assert_array_equal(Neighbours(VOCABULARY, **COSINE).count(make_listens(sessions)).toarray(), whole)
    monkeypatch.setattr(baselines, "NUM_NEIGHBOURS", 1)
    best = Neighbours(VOCABULARY, **COSINE).count(make_listens(sessions)).toarray()
    assert ((best > 0).sum(1) <= 1).all()
    np.testing.assert_array_equal(best.max(1), whole.max(1))


def fitted(model: Callable[..., Any], artists: Sequence[int], sessions: Sessions) -> Baseline:
    listens = make_listens(sessions)
    plays = np.bincount(listens.track, minlength=len(artists))
    nobody = [0] * len(artists)
    vocabulary = make_vocabulary(artists, listens=listens, previous_counts=nobody, next_counts=plays)
    baseline = Baseline(vocabulary=vocabulary, model=model, context=LAST_TRACK, monitor="val/mrr")
    baseline.on_train_start()
    return baseline


def test_a_session_adds_the_scores_of_its_tracks_each_divided_by_their_sum() -> None:
    sessions: Sessions = [[(0, 1.0), (1, 1.0)]] * 3 + [[(0, 1.0), (2, 1.0)], [(3, 1.0), (2, 1.0)], [(3, 1.0), (4, 1.0)]]
    baseline = fitted(partial(Rules, **MARKOV), [0, 1, 2, 3, 4], sessions)
    baseline.context = SESSION(baseline._vocabulary, [PART], learns=False, decay=0.5)
    tracks = np.array([0, 3])  # 3 is the newer one
    histories = Histories(
        tracks=tracks,
        played_ratio=np.full(2, np.nan, np.float32),
        last=np.array([1, 0]),
        length=np.array([2, 1]),
        previous=np.array([3, 0]),
    )
    expected = [[0, 0.5 * 0.75, 0.5 + 0.5 * 0.25, 0, 0.5], [0, 0.75, 0.25, 0, 0]]
    np.testing.assert_allclose(baseline._after(histories).toarray(), expected, rtol=1e-6)
    assert baseline.ranks(histories, np.array([1, 2]), lambda _: None).tolist() == [3, 2]


def lists(model: Baseline, k: int) -> list[list[int]]:
    rows, _ = model.lists(k).collect()
    return [line.tolist() for line in rows]


PLAYED: Sessions = [[(track, 1.0)] for track in (0, 1, 1, 2, 2, 2, 3, 3, 3, 3)]  # track n is played n + 1 times


def test_sticky_puts_the_artists_own_tracks_by_plays_before_the_rest_by_plays() -> None:
    ordered = lists(fitted(MODELS["sticky"], [0, 1, 0, 1, 0], PLAYED), 4)
    assert ordered == [[2, 4, 3, 1], [3, 2, 0, 4], [0, 4, 3, 1], [1, 2, 0, 4], [2, 0, 3, 1]]


def test_the_weight_of_an_artist_counts_as_occurrences() -> None:
    sessions: Sessions = [[(0, 1.0), (1, 1.0)]] * 2 + [[(0, 1.0), (2, 1.0)]] + [[(3, 1.0)]]
    for artist_weight, expected in ((0.0, [1, 2, 3]), (1.5, [1, 3, 2]), (2.5, [3, 1, 2])):
        model = partial(Rules, **{**MARKOV, "artist_weight": artist_weight})
        assert lists(fitted(model, [0, 1, 2, 0], sessions), 3)[0] == expected


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("rules", {1}),
        ("neighbours", {-1, 1}),
        ("item2vec", {-2, -1, 1, 2}),
        ("als", {-2, -1, 1, 2}),
        ("bpr", {-2, -1, 1, 2}),
    ],
)
def test_neighbours_on_the_ring_are_recommended_first(ring: PairDataModule, name: str, steps: set[int]) -> None:
    model = Baseline(vocabulary=ring.vocabulary, model=MODELS[name], context=LAST_TRACK, monitor="val/mrr")
    model.on_train_start()
    rows = np.arange(NUM_RING_TRACKS)
    apart = (np.array(lists(model, 1))[:, 0] - rows + 30) % NUM_RING_TRACKS - 30
    assert np.isin(apart, list(steps)).mean() > 0.9


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
@pytest.mark.parametrize("name", MODELS)
def test_a_checkpoint_restores_the_counts(ring: PairDataModule, tmp_path: Path, name: str) -> None:
    def trainer() -> Trainer:
        return Trainer(
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            max_epochs=1,
            limit_train_batches=1,
            callbacks=[ModelCheckpoint(dirpath=tmp_path, filename="best", save_last=True)],
        )

    models = [
        Baseline(vocabulary=ring.vocabulary, model=MODELS[name], context=LAST_TRACK, monitor="val/mrr")
        for _ in range(3)
    ]
    trainer().fit(models[0], ring)
    torch.load(tmp_path / "last.ckpt", weights_only=True)
    trainer().test(models[1], ring, ckpt_path=tmp_path / "best.ckpt", weights_only=True, verbose=False)
    models[2].on_train_start = _not_again  # type: ignore[method-assign]
    trainer().fit(models[2], ring, ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    before, *after = (lists(model, 20) for model in models)
    assert after == [before, before]


def _not_again() -> None:
    raise AssertionError("counted again")


@pytest.mark.parametrize("name", ["item2vec", "als", "bpr"])
def test_the_same_seed_gives_the_same_vectors_and_another_gives_others(ring: PairDataModule, name: str) -> None:
    counted = [MODELS[name](ring.vocabulary, seed=seed).count(ring.vocabulary.listens).toarray() for seed in (1, 1, 2)]
    np.testing.assert_array_equal(counted[0], counted[1])
    assert (counted[0] != counted[2]).any()


@pytest.mark.parametrize(("model", "settings"), [(Als, LEAST_SQUARES), (Bpr, PAIRWISE)])
def test_factors_recommend_the_similar_items_of_implicit(
    ring: PairDataModule, model: Any, settings: dict[str, Any]
) -> None:
    baseline = model(ring.vocabulary, **settings)
    fitted = fitted_by(baseline)
    counted = baseline.count(ring.vocabulary.listens).toarray()
    heard = np.flatnonzero(np.bincount(liked(ring.vocabulary.listens, model), minlength=NUM_RING_TRACKS))
    for row, track in enumerate(heard):
        similar, scores = fitted[0].similar_items(row, N=len(heard))
        expected = {heard[one]: score for one, score in zip(similar, scores, strict=True) if one != row and score > 0}
        found = {int(column): counted[track, column] for column in counted[track].nonzero()[0]}
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-6)


def fitted_by(baseline: Any, num_steps: int = 15) -> list[Any]:
    """A list that receives the model of implicit when `count` builds it."""
    fitted: list[Any] = []
    build = baseline.build

    def recording_build(given: Any) -> Any:
        fitted.append(build(given))
        fitted[0].iterations = num_steps
        return fitted[0]

    baseline.build = recording_build
    return fitted


def liked(listens: Listens, model: Any) -> np.ndarray:
    """The tracks that a matrix of sessions has: heard at all, or, for draws without weights, heard for half."""
    return listens.track[listens.played_ratio > 0 if model is Als else listens.played_ratio >= 0.5]


def test_least_squares_weigh_an_event_by_its_share_and_are_a_fixed_point() -> None:
    """Hu, Koren and Volinsky: the vector of a track solves its least squares, given those of the sessions."""
    sessions = [[(0, 1.0), (1, 0.5)], [(1, 1.0), (2, 1.0)], [(2, 0.5), (3, 1.0), (0, 1.0)], [(3, 1.0), (4, 0.0)]]
    baseline = Als(VOCABULARY, **{**LEAST_SQUARES, "dim": 2, "regularization": 0.1})
    fitted = fitted_by(baseline, num_steps=500)
    counted = baseline.count(make_listens(sessions)).toarray()
    users, items = fitted[0].user_factors.astype(np.float64), fitted[0].item_factors.astype(np.float64)
    for track in range(4):
        share = np.array([dict(session).get(track, 0.0) for session in sessions])
        confidence = np.where(share > 0, 5.0 * share, 1.0)
        solved = np.linalg.solve((users.T * confidence) @ users + 0.1 * np.eye(2), users.T @ (confidence * (share > 0)))
        np.testing.assert_allclose(items[track], solved, atol=1e-3)
    assert not counted[4:].any()
    assert not counted[:, 4:].any()


@pytest.mark.parametrize("name", ["als", "bpr"])
def test_fewer_than_two_played_tracks_give_no_factors(name: str) -> None:
    for sessions in ([], [[(0, 0.0), (1, 0.0)]], [[(0, 1.0)]]):
        assert MODELS[name](VOCABULARY).count(make_listens(sessions)).nnz == 0


def test_skipped_tracks_are_not_words_and_without_words_there_are_no_vectors() -> None:
    baseline = Item2Vec(VOCABULARY, **SKIP_GRAM)
    session = [(0, 1.0), (1, 0.2), (2, float("nan")), (3, 0.5)]
    counted = baseline.count(make_listens([session] * 5)).toarray()
    assert not counted[1].any()
    assert not counted[:, 1].any()
    assert counted[0, 2] > 0
    assert baseline.count(make_listens([[(0, 0.0)]])).nnz == 0


@pytest.mark.parametrize("monitor", ["val/loss", "val/mse", "val/mae"])
def test_a_monitor_that_needs_a_loss_is_refused(monitor: str) -> None:
    with pytest.raises(InputError, match=f"monitor.metric={monitor} cannot be computed.*use monitor=ndcg"):
        Baseline(vocabulary=VOCABULARY, model=MODELS["popular"], context=LAST_TRACK, monitor=monitor)


def test_a_model_that_counts_nothing_is_refused() -> None:
    head: Any = partial(COSINES, alpha=0.5, dim=4)
    with pytest.raises(InputError, match=r"^recipe=counting is for baselines, and this model counts nothing; leave"):
        Baseline(vocabulary=VOCABULARY, model=head, context=LAST_TRACK, monitor="val/mrr")


def test_artists_are_ranked_by_the_plays_of_all_their_tracks_and_tracks_by_their_own() -> None:
    vocabulary = make_vocabulary([0, 0, 1, 1, 2], previous_counts=[5, 0, 2, 4, 3], next_counts=[0] * 5)
    order = ArtistPopular(vocabulary, artist_weight=0.0).order
    assert np.argsort(-order, kind="stable").tolist() == [3, 2, 0, 1, 4]  # 6 plays, 5 plays and a new track, 3 plays


def test_tracks_with_alike_rare_values_are_neighbours_also_where_they_are_new() -> None:
    """The oracle: cosines of dictionaries, number by number."""
    lists = [["a", "b"], ["a", "c"], ["a", "b", "c"], [], ["c"], ["d", "a"]]
    vocabulary = make_vocabulary(range(6), previous_counts=[0, 9, 3, 2, 1, 0], next_counts=[0] * 6)
    catalog = replace(vocabulary.catalog, attributes={"tags": Values.from_lists(lists)})
    vocabulary = replace(vocabulary, catalog=catalog)
    model = AttributeNeighbours(vocabulary, attribute="tags", artist_weight=0.0)
    rarity = {tag: np.log(6 / sum(tag in tags for tags in lists)) for tag in "abcd"}
    expected = np.zeros((6, 6))
    for one, first in enumerate(lists):
        for other, second in enumerate(lists):
            shared = sum(rarity[tag] ** 2 for tag in set(first) & set(second))
            norms = [sum(rarity[tag] ** 2 for tag in tags) ** 0.5 for tags in (first, second)]
            if one != other and shared:
                expected[one, other] = shared / (norms[0] * norms[1])
    np.testing.assert_allclose(model.count(make_listens([])).toarray(), expected, atol=1e-6)
    with pytest.raises(
        InputError, match=r"no attribute 'mood' with values, they have tags; give datamodule.attributes"
    ):
        AttributeNeighbours(vocabulary, attribute="mood", artist_weight=0.0).count(make_listens([]))
