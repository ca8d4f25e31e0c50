"""The listener's part of a head: the past by slow loops, no leak, the fit, ranks and sessions by one text."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from segue.callbacks.query_sample import rated_pairs
from segue.datamodules.pair_datamodule import PairDataModule
from segue.errors import InputError
from segue.histories import Histories, Timeline
from segue.models.contracts import Rated
from segue.models.head_ranker import session_vectors
from segue.models.listener_part import ListenerPart, past_before
from segue.models.pair_ranker import PairRanker
from segue.picking.listener_scores import FEATURES, Pasts, features_of, past_of
from segue.runs.folder import check_choices
from segue.runs.profiles import DAY_MS, ENTRY, MOST_TRACKS, add_play, entries_of_events
from segue.runs.session_vectors import FILE, SessionVectors
from segue.verbs.train import check_pasts
from tests.conftest import build_datamodule, event, make_search, make_vocabulary, write_lines, write_tracks
from tests.contracts.building import composed, fit

NUM_TRACKS = 40
ROWS = np.arange(NUM_TRACKS)
WEIGHTS = np.array([0.4, 0.3, 0.5, -1.0, -0.2, 0.3, 0.1, 0.05, 0.2, -0.1], np.float32)
START = 1_700_000_000_000


def log_of(seed: int, num_sessions: int = 30, num_listeners: int = 4) -> Histories:
    """A history before each event but the first of a session, of listeners whose sessions may overlap."""
    rng = np.random.default_rng(seed)
    began = START + np.sort(rng.integers(0, 40 * DAY_MS, num_sessions))
    length = rng.integers(1, 6, num_sessions)
    session, place = np.arange(num_sessions).repeat(length), np.concatenate([np.arange(one) for one in length])
    pause = rng.choice([60_000, DAY_MS], num_sessions)  # some last for days, and others begin meanwhile
    last = np.flatnonzero(np.append(np.diff(session) == 0, False))
    tracks = rng.integers(0, 12, len(session))
    return Histories(
        tracks=tracks,
        played_ratio=rng.choice([np.nan, 0.0, 0.5, 1.0], len(session)).astype(np.float32),
        last=last,
        length=place[last] + 1,
        previous=tracks[last],
        timeline=Timeline(
            session=session,
            timestamp=began[session] + place * pause[session],
            listener=rng.integers(0, num_listeners, num_sessions),
        ),
    )


def slow_past(histories: Histories, query: int) -> np.ndarray:
    """As a service has it: each play of a session that has ended is added to the profile of its listener."""
    timeline, profile = histories.timeline, np.zeros(60, ENTRY)
    assert timeline is not None
    own = timeline.session[histories.last[query]]
    begins = timeline.timestamp[timeline.session == own].min()
    ended = [
        number
        for number in range(own)
        if timeline.listener[number] == timeline.listener[own]
        and timeline.timestamp[timeline.session == number].max() < begins
    ]
    plays = np.flatnonzero(np.isin(timeline.session, ended))
    for play in plays[np.argsort(timeline.timestamp[plays], kind="stable")].tolist():
        share, time = float(histories.played_ratio[play]), int(timeline.timestamp[play])
        add_play(profile, int(histories.tracks[play]), share, time)
    first = histories.last[query] - histories.length[query] + 1
    now_ms = timeline.timestamp[histories.last[query : query + 1]]
    past = past_of(profile[None], histories.tracks[None, first : histories.last[query] + 1], now_ms)
    return past.entries[past.rows >= 0]


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000))
def test_the_past_of_a_query_is_what_a_service_would_have_kept(seed: int) -> None:
    histories = log_of(seed)
    past = past_before(histories)
    assert histories.timeline is not None
    assert past.now_ms.tolist() == histories.timeline.timestamp[histories.last].tolist()
    for query in range(len(histories)):
        slow, fast = slow_past(histories, query), past.entries[query][past.rows[query] >= 0]
        slow, fast = slow[np.argsort(slow["track"])], fast[np.argsort(fast["track"])]
        for name in ENTRY.names or ():
            np.testing.assert_allclose(fast[name], slow[name], rtol=1e-4, atol=1e-4)


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000))
def test_nothing_that_happens_after_a_query_changes_its_past(seed: int) -> None:
    histories, rng = log_of(seed), np.random.default_rng(seed)
    timeline = histories.timeline
    assert timeline is not None
    past = past_before(histories)
    for query in range(len(histories)):
        later = timeline.timestamp > timeline.timestamp[histories.last[query]]
        later |= np.arange(len(later)) > histories.last[query]
        other = replace(
            histories,
            tracks=np.where(later, rng.integers(0, 12, len(later)), histories.tracks),
            played_ratio=np.where(later, np.float32(0.25), histories.played_ratio),
        )
        changed = past_before(other.part(query, query + 1))
        mine = past.entries[query][past.rows[query] >= 0]
        assert np.array_equal(changed.entries[changed.rows >= 0], mine)


def test_only_the_newest_plays_of_a_listener_are_looked_at() -> None:
    timeline = log_of(3).timeline
    assert timeline is not None
    number = np.arange(len(timeline.listener))
    owner, every = timeline.earlier(number, 10_000)
    of, some = timeline.earlier(number, 4)
    for session in number.tolist():
        own = every[owner == session]
        assert set(some[of == session]) <= set(own)
        assert len(some[of == session]) <= 4


def test_a_million_plays_of_a_listener_are_a_bounded_past_and_a_bounded_profile() -> None:
    """Of one listener on two devices, whose sessions are at the same time."""
    num, length = 10**6, 100
    session, place = np.divmod(np.arange(num), length)
    timestamp = START + session // 2 * 10**7 + place * 1000
    timeline = Timeline(session=session, timestamp=timestamp, listener=np.zeros(num // length, np.int64))
    last = np.arange(num - 3 * length, num, length // 2)
    tracks, shares = np.arange(num) % 999_983, np.ones(num, np.float32)
    histories = Histories(
        tracks=tracks, played_ratio=shares, last=last, length=place[last] + 1, previous=tracks[last], timeline=timeline
    )
    past = past_before(histories)
    assert past.rows.shape == (len(last), MOST_TRACKS)
    assert (past.entries["last_ms"] < past.now_ms[:, None]).all()
    began = timestamp[np.searchsorted(session, session[last])]
    newest = past.entries["last_ms"].max(1)
    assert (newest < began).all(), "not what the other device plays meanwhile"
    assert (newest > began - 2 * 10**7).all(), "the newest are kept"
    owner, entries = entries_of_events(np.zeros(num, np.int64), tracks, shares, timestamp)
    assert len(owner) == len(entries) == MOST_TRACKS
    assert entries["last_ms"].min() >= np.sort(timestamp)[-MOST_TRACKS]


def test_the_features_of_many_queries_are_computed_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    histories, nums = log_of(3), list[int]()
    part, following = ListenerPart(make_vocabulary(ROWS[:12] // 2)), histories.tracks[histories.last + 1]
    whole = part.features(histories, following)

    def seen(past: Pasts, *more: Any) -> Any:
        nums.append(len(past.rows))
        return features_of(past, *more)

    monkeypatch.setattr("segue.models.listener_part.features_of", seen)
    monkeypatch.setattr("segue.models.listener_part._AT_ONCE", 4)
    np.testing.assert_array_equal(part.features(histories, following), whole)
    assert max(nums) == 4
    assert sum(nums) == len(histories)


def habit_logs(folder: Path) -> Path:
    """Listeners who hear one of five tracks of their own, in full, or else skip any track."""
    write_tracks(folder, (row // 2 for row in range(NUM_TRACKS)))
    rng, lines = np.random.default_rng(0), list[dict[str, Any]]()
    own = [rng.choice(NUM_TRACKS, 5, replace=False) for _ in range(30)]
    for session in range(600):
        clock = START + session * 3_600_000
        for step in range(6):
            is_own = rng.random() < 0.6
            track = int(rng.choice(own[session % 30] if is_own else ROWS))
            share = 1.0 if is_own or step == 0 else float(rng.choice([0.1, 0.9], p=[0.8, 0.2]))
            lines.append(event(session % 30, clock + step * 1000, 100 + track, share, "last" if step == 5 else "next"))
    write_lines(folder / "logs" / "data.json", lines)
    return folder


@pytest.fixture(scope="module")
def habits(tmp_path_factory: pytest.TempPathFactory) -> PairDataModule:
    folder = habit_logs(tmp_path_factory.mktemp("habits"))
    datamodule = build_datamodule(folder, folder / "out", batch_size=512, history=4)
    datamodule.setup()
    return datamodule


def config(recipe: str, *words: str) -> Any:
    return composed(f"recipe={recipe}", "context=listener", "model.dim=8", "context.max_length=4", *words).ranker


def trained(habits: PairDataModule, recipe: str, *words: str) -> PairRanker:
    torch.manual_seed(0)
    made: PairRanker = instantiate(config(recipe, *words), _convert_="all")(vocabulary=habits.vocabulary)
    fit(made, habits, epochs=2)
    made.eval()
    queries = habits.pairs["val"]
    queries = queries.where((queries.previous != queries.following) & ~(queries.played_ratio < 0.5))
    made.fit_to(habits.histories(queries), queries.following, rated_pairs(habits))
    return made


@pytest.fixture(
    scope="module",
    params=[("playlists", "counted=none"), ("playlists", "counted=rules"), ("shares",)],
    ids=["playlists", "counted", "shares"],
)
def model(request: pytest.FixtureRequest, habits: PairDataModule) -> PairRanker:
    return trained(habits, *request.param)


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def part_of(model: PairRanker) -> ListenerPart:
    assert model.listener is not None
    return model.listener


def queries_of_test(habits: PairDataModule) -> tuple[Histories, np.ndarray]:
    pairs = habits.pairs["test"]
    pairs = pairs.where((pairs.previous != pairs.following) & ~(pairs.played_ratio < 0.5))
    return habits.histories(pairs), pairs.following


def test_habits_are_learned_from_validation_and_rank_test_queries_better(
    habits: PairDataModule, model: PairRanker
) -> None:
    part, (histories, following) = part_of(model), queries_of_test(habits)
    weights = part.weights
    assert part.weights.any()
    assert "listener     heard" in model.describe()[-1]
    assert model.listener is not None
    assert set(model.listener.logged()) == {f"listener_{name}" for name in FEATURES}
    with_past = model.ranks(histories, following, lambda _: None)
    part.weights = 0 * weights
    alone = model.ranks(histories, following, lambda _: None)
    part.weights = weights
    assert (1 / np.log2(1 + with_past)).mean() > 1.2 * (1 / np.log2(1 + alone)).mean()


def test_a_listener_without_a_past_gets_the_ranks_of_the_session_alone(
    habits: PairDataModule, model: PairRanker
) -> None:
    histories, following = queries_of_test(habits)
    unknown = replace(histories, timeline=None)
    timeline = histories.timeline
    assert timeline is not None
    new = replace(histories, timeline=replace(timeline, listener=np.arange(len(timeline.listener))))
    ranks = model.ranks(unknown, following, lambda _: None)
    assert np.array_equal(model.ranks(new, following, lambda _: None), ranks)
    assert not np.array_equal(model.ranks(histories, following, lambda _: None), ranks)


def test_ranks_are_the_places_of_the_top(habits: PairDataModule, model: PairRanker) -> None:
    histories = queries_of_test(habits)[0].part(0, 30)
    rows, _ = model.top(histories, NUM_TRACKS - 1)
    for place in (0, 3, 10):
        assert model.ranks(histories, rows[:, place], lambda _: None).tolist() == pytest.approx([place + 1] * 30)


def test_a_session_is_served_in_the_order_of_the_model(
    habits: PairDataModule, model: PairRanker, tmp_path: Path
) -> None:
    histories = queries_of_test(habits)[0].part(0, 30)
    session_vectors(model.scorer, model.context, model.counted, model.listener).write(tmp_path / FILE, habits.catalog)
    vectors = SessionVectors.read(tmp_path / FILE, habits.catalog)
    assert vectors.context == "listener"
    lists = np.tile(ROWS.astype(np.int32), (NUM_TRACKS, 1))  # every track is a candidate
    search = make_search(vectors, lists, habits.catalog.artist_of)
    rows, shares = histories.newest(6)  # the whole session
    served = search.best(rows, shares[:, : vectors.num_newest], NUM_TRACKS, past_before(histories))
    top, scores = model.top(histories, NUM_TRACKS - 1)
    for line in range(len(histories)):
        value = dict(zip(top[line].tolist(), scores[line].tolist(), strict=True))
        of_served = [row for row in served[line].tolist() if row in value and row not in rows[line]]
        found = [value[row] for row in of_served if np.isfinite(value[row])]
        assert len(found) > NUM_TRACKS // 2
        assert (np.diff(found) <= 1e-4).all()


def test_the_fit_is_that_of_a_softmax_over_the_whole_catalogue() -> None:
    """By its definition: every track's score with what the past says of it."""
    histories, rng = log_of(5, 60), np.random.default_rng(0)
    num_tracks, following = 12, np.random.default_rng(1).integers(0, 12, len(log_of(5, 60)))
    part = ListenerPart(make_vocabulary(row // 3 for row in range(num_tracks)))
    logits = torch.from_numpy(rng.normal(size=(len(histories), num_tracks)))
    dense = np.stack([part.features(histories, np.full(len(histories), row)) for row in range(num_tracks)], 1)

    def loss(weights: np.ndarray) -> float:
        chances = (logits + torch.from_numpy(dense @ weights)).log_softmax(1).numpy()
        return float(-chances[np.arange(len(following)), following].mean() + 1e-3 * (weights**2).sum())

    expected = minimize(loss, np.zeros(len(FEATURES)), method="L-BFGS-B", bounds=[(-10, 10)] * len(FEATURES))
    halves = [
        (logits[some], histories.where(some), following[some]) for some in np.array_split(np.arange(len(histories)), 2)
    ]
    found = part.fit_ranks(iter(halves))
    assert loss(found.astype(np.float64)) == pytest.approx(expected.fun, abs=1e-5)
    assert expected.fun < loss(np.zeros(len(FEATURES))) - 1e-3


def test_the_past_is_weighed_against_what_the_scores_are_worth() -> None:
    """Scores are worth half of what they promise; therefore the past weighs twice what it adds to the true score."""
    rng, part, true = np.random.default_rng(0), ListenerPart(make_vocabulary([0, 1])), np.zeros(len(FEATURES))
    true[[2, 8]] = 0.8, -0.4
    scores, listener = rng.normal(size=6000), rng.integers(0, 50, 6000)
    features = rng.random((6000, len(FEATURES))).astype(np.float32)
    share = (1 / (1 + np.exp(-(0.3 + 0.5 * scores + features @ true)))).astype(np.float32)
    part.fit_shares(scores, features, share, listener % 2 == 0)
    np.testing.assert_allclose(part.weights, 2 * np.asarray(true), atol=0.05)
    assert part.compared is not None
    name, without, value = part.compared
    assert name == "mse"
    assert value < 0.3 * without < 0.01  # also without the past, the slope of the scores is fitted
    part.fit_shares(scores, features[:, ::-1], share[rng.permutation(6000)], listener % 2 == 0)
    assert not part.weights.any()


def test_other_artists_are_those_that_the_session_has_not_heard() -> None:
    histories, part = log_of(5, 60), ListenerPart(make_vocabulary(row // 3 for row in range(12)))
    following = np.random.default_rng(1).integers(0, 12, len(histories))
    heard = [set(row[row >= 0] // 3) for row in histories.newest(100)[0]]
    expected = [track // 3 not in own for track, own in zip(following.tolist(), heard, strict=True)]
    assert part.of_other_artists(histories, following).tolist() == expected
    assert 0 < sum(expected) < len(expected)


def test_weights_that_do_not_help_are_zero_and_one_line_says_so() -> None:
    part = ListenerPart(make_vocabulary([0, 1]))
    part.keep(WEIGHTS, "ndcg@10", 0.5, 0.5)
    assert not part.weights.any()
    assert part.values(log_of(1)) is None
    assert "nothing, it is not better with what they heard before (validation ndcg@10 0.5000; " in part.describe()
    part.keep(WEIGHTS, "mse", 0.5, 0.4)
    np.testing.assert_array_equal(part.weights, WEIGHTS)


def test_what_validation_decided_is_kept_by_a_refit_and_a_checkpoint(habits: PairDataModule, model: PairRanker) -> None:
    words = ["counted=none"] if model.counted is None else ["counted=rules"]
    recipe = "shares" if model.loss.temperature is None else "playlists"
    again: PairRanker = instantiate(config(recipe, *words), _convert_="all")(vocabulary=habits.vocabulary)
    assert again.decided()["listener"] is None
    assert "no validation query has weighted" in again.describe()[-1]
    again.decide(model.decided())
    assert again.decided() == model.decided()
    checkpoint: dict[str, Any] = {"state_dict": model.state_dict()}
    model.on_save_checkpoint(checkpoint)
    again.decide(again.decided() | {"listener": None})
    exported = session_vectors(again.scorer, again.context, again.counted, again.listener)
    assert exported.context == "listener"  # as the run was trained
    assert exported.listener is not None
    assert not exported.listener.any()
    again.on_load_checkpoint(checkpoint)
    assert again.decided() == model.decided()


def test_the_session_alone_has_no_part_of_a_listener(habits: PairDataModule) -> None:
    made: PairRanker = instantiate(composed("recipe=playlists", "context=session").ranker, _convert_="all")(
        vocabulary=habits.vocabulary
    )
    assert made.listener is None
    assert session_vectors(made.scorer, made.context, made.counted, made.listener).context == "session"


def test_what_was_compared_before_is_forgotten_where_nothing_can_be_fitted(habits: PairDataModule) -> None:
    ranker: PairRanker = instantiate(config("playlists"), _convert_="all")(vocabulary=habits.vocabulary)
    ranker.decide(ranker.decided() | {"listener": {"weights": WEIGHTS.tolist(), "compared": ["ndcg@10", 0.1, 0.2]}})
    histories = habits.histories(habits.pairs["val"])
    ranker.fit_to(replace(histories, timeline=None), habits.pairs["val"].following)
    assert ranker.listener is not None
    assert ranker.decided()["listener"] is None


def test_shares_of_artists_of_the_session_alone_weight_nothing(habits: PairDataModule) -> None:
    ranker: PairRanker = instantiate(config("shares"), _convert_="all")(vocabulary=habits.vocabulary)
    rated, part = rated_pairs(habits), part_of(ranker)
    same = np.flatnonzero(~part.of_other_artists(rated.histories, rated.following))
    assert len(same) > 20
    of_same = Rated(rated.histories.where(same), *(column[same] for column in rated[1:]))
    ranker.fit_to(rated.histories, rated.following, of_same)
    assert part.compared is None
    ranker.fit_to(rated.histories, rated.following, rated)
    assert part.compared is not None


def test_a_baseline_has_no_part_of_a_listener() -> None:
    config = composed("model=rules", "context=listener")
    with pytest.raises(InputError, match="context=listener adds to the scores of a head, and model=rules is none"):
        check_choices(config, model="rules", recipe="counting", context="listener")


def test_data_without_a_past_are_refused(tmp_path: Path) -> None:
    write_tracks(tmp_path, range(5))
    lines = [event(session, START + 1000 * step, 100 + step) for session in range(40) for step in range(3)]
    write_lines(tmp_path / "logs" / "data.json", lines)
    datamodule = build_datamodule(tmp_path, tmp_path)
    datamodule.setup()
    with pytest.raises(InputError, match=r"context=listener looks at .* has no listener with two sessions; use"):
        check_pasts(datamodule)
    datamodule.sessions = replace(datamodule.sessions, has_clock=False)
    with pytest.raises(InputError, match="has no timestamps; use context=session"):
        check_pasts(datamodule)
