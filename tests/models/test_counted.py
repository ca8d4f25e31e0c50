"""The counted part of a head: the formula, its choice, lists, ranks and sessions by one text, and a refit."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate

from segue.datamodules.pair_datamodule import PairDataModule
from segue.errors import InputError
from segue.histories import Histories
from segue.models import counted
from segue.models.baselines.counting import Rules
from segue.models.counted import DECAYS, STRENGTHS, Chosen, Counted, values_of
from segue.models.head_ranker import session_vectors
from segue.models.pair_ranker import PairRanker
from segue.picking.counted_scores import CountedScores
from segue.runs.session_vectors import FILE, SessionVectors
from tests.conftest import NUM_RING_TRACKS, build_datamodule, make_search
from tests.contracts.building import composed, fit

K = 9
NOTHING = "nothing: validation has shown no strength that ranks better than the head alone"
ROWS = np.arange(NUM_RING_TRACKS)


@pytest.fixture(scope="module")
def ring(ring_logs: Path, tmp_path_factory: pytest.TempPathFactory) -> PairDataModule:
    datamodule = build_datamodule(ring_logs, tmp_path_factory.mktemp("counted"), batch_size=512, history=4)
    datamodule.setup()
    return datamodule


def config(counted: str, context: str, *words: str) -> object:
    return composed("recipe=playlists", f"context={context}", f"counted={counted}", "model.dim=8", *words).ranker


def trained(ring: PairDataModule, context: str) -> PairRanker:
    torch.manual_seed(0)
    made: PairRanker = instantiate(config("auto", context), _convert_="all")(vocabulary=ring.vocabulary)
    fit(made, ring, epochs=1)
    made.eval()
    queries = ring.pairs["val"]
    made.fit_to(ring.histories(queries), queries.following)
    return made


@pytest.fixture(scope="module")
def cold(ring_logs: Path, tmp_path_factory: pytest.TempPathFactory) -> PairDataModule:
    """The ring, of whose tracks a tenth is in no training session."""
    folder = tmp_path_factory.mktemp("cold")
    datamodule = build_datamodule(ring_logs, folder, batch_size=512, history=4, cold_share=0.1)
    datamodule.setup()
    return datamodule


@pytest.fixture(scope="module", params=["ring session", "ring last", "cold session", "cold last"])
def model(request: pytest.FixtureRequest) -> PairRanker:
    data, context = request.param.split()
    return trained(request.getfixturevalue(data), context)


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def sessions(length: int = 3) -> Histories:
    """Sessions of `length` tracks, on the ring and across it."""
    rng = np.random.default_rng(0)
    tracks = rng.permutation(np.tile(ROWS, length))[: 20 * length]
    last = np.arange(length - 1, len(tracks), length)
    return Histories(
        tracks=tracks,
        played_ratio=np.where(rng.random(len(tracks)) < 0.5, np.nan, 0.5).astype(np.float32),
        last=last,
        length=np.full(len(last), length),
        previous=tracks[last],
    )


def test_the_score_is_that_of_the_head_and_the_logarithm_of_the_counts(model: PairRanker) -> None:
    """By its definition, with slow loops."""
    histories, part = sessions(), model.counted
    assert part is not None
    alone, shares = model.shares(histories, alone=True), model.shares(histories)
    for line in range(len(histories)):
        weight, n, newest = 0.0, np.zeros(NUM_RING_TRACKS), histories.newest(len(part.age_weights))
        tracks = [histories.previous[line]] if model.context.is_last else newest[0][line].tolist()
        played = [np.nan] if model.context.is_last else newest[1][line].tolist()
        for track, share, of_age in zip(tracks, played, part.age_weights.tolist(), strict=False):
            once = of_age * (1 if np.isnan(share) else share) * (track >= 0)
            weight += once
            for row, own in zip(part.rows[track], part.shares[track], strict=True):
                n[row] += once * own * (row >= 0)
            n[model.order == 0] += once * part.uncounted * part.shares[track].sum()
        assert model.temperature is not None
        factor = (1 + n / weight / 0.01) ** (part.strength / model.temperature)
        expected = alone[line].double() * torch.from_numpy(factor)
        torch.testing.assert_close(shares[line].double(), expected / expected.sum(), rtol=1e-4, atol=1e-7)


def test_what_followed_a_track_with_few_plays_counts_less(ring: PairDataModule) -> None:
    """The mean of the shares of the rules, times p / (p + 10) for p plays, of a track that followed itself too."""
    rules = {"rules": partial(Rules, window=1), "both": partial(Rules, window=1, reverse_weight=1.0)}
    part = Counted(ring.vocabulary, rules=rules).table()
    rows, shares = part.rows, part.shares
    expected = np.zeros((NUM_RING_TRACKS, NUM_RING_TRACKS))
    for rule in rules.values():
        counts = rule(ring.vocabulary).count(ring.vocabulary.listens).toarray()
        expected += counts / counts.sum(1, keepdims=True) / 2
    plays = np.bincount(ring.vocabulary.listens.track, minlength=NUM_RING_TRACKS)
    expected *= (plays / (plays + 10))[:, None]
    found = np.zeros_like(expected)
    for line in range(NUM_RING_TRACKS):
        found[line, rows[line, rows[line] >= 0]] = shares[line, rows[line] >= 0]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert found.diagonal().any()
    assert (np.diff(shares, axis=1) <= 1e-7).all(), "best first"


def test_validation_chooses_what_ranks_best(ring: PairDataModule) -> None:
    """Each strength and decay, ranked by the sums of dense scores, among tracks that the session has not heard."""
    counts = Counted(ring.vocabulary, rules={"rules": Rules})
    histories, rng = sessions(), np.random.default_rng(2)
    logits = torch.from_numpy(rng.normal(size=(len(histories), NUM_RING_TRACKS)).astype(np.float32))
    following = (histories.previous + 1) % NUM_RING_TRACKS
    following[::3] = rng.integers(0, NUM_RING_TRACKS, len(following[::3]))
    gains, is_new = {}, np.ones(len(histories), bool)
    for decay in DECAYS:
        for strength in (0.0, *STRENGTHS):
            scores = logits.double().numpy()
            counts.chosen = Chosen(strength, decay)
            part = counts.part(1.0)
            assert part is not None
            scores = scores + values_of(part, part.table, histories).toarray()
            heard = histories.newest_rows(64)
            for line, rows in enumerate(heard):
                scores[line, rows[rows >= 0]] = -np.inf
                is_new[line] = following[line] not in rows
            ranks = 1 + (scores > scores[np.arange(len(scores)), following][:, None]).sum(1)
            gains[strength, decay] = (np.where(ranks <= 10, 1 / np.log2(ranks + 1), 0)[is_new]).mean()
    counts.choose(lambda: [(logits.clone(), histories, following)], is_last=False)
    assert counts.chosen is not None
    assert gains[counts.chosen[:2]] == max(gains.values()) > gains[0.0, DECAYS[0]]
    worst = torch.where(torch.arange(NUM_RING_TRACKS) == torch.from_numpy(following)[:, None], 50.0, logits)
    counts.choose(lambda: [(worst, histories, following)], is_last=False)
    assert counts.chosen is None, "the head alone is as good"
    counts.choose(lambda: [(torch.zeros_like(logits), histories, following)], is_last=False)
    assert counts.chosen is not None, "equal scores rank nothing first"
    counts.choose(list, is_last=False)
    assert counts.chosen is None, "without queries nothing is chosen"


def test_lists_are_the_top_of_one_track(model: PairRanker) -> None:
    rows, scores = model.lists(K).collect()
    if model.context.is_last:
        top, of_top = model.top(Histories.of_tracks(ROWS), K)
        np.testing.assert_array_equal(rows, top)
        np.testing.assert_allclose(scores, of_top, atol=1e-5)
    assert (rows != ROWS[:, None]).all()
    alone, of_head = RanksAlone(model).lists(K).collect()
    assert (rows != alone).any(), "the counts change the lists"
    assert (scores[:, -1] >= of_head[:, -1] - 1e-5).all(), "the counts only add"


class RanksAlone(PairRanker):
    """The head of a model without its counted part."""

    def __init__(self, model: PairRanker) -> None:
        self.__dict__ = {**model.__dict__, "counts": None, "listener": None}


def test_ranks_are_the_places_of_the_top(model: PairRanker) -> None:
    histories = sessions()
    rows, _ = model.top(histories, NUM_RING_TRACKS - 1)
    for place in (0, 3, 10):
        ranks = model.ranks(histories, rows[:, place], lambda _: None)
        assert ranks.tolist() == pytest.approx([place + 1] * len(histories))


def test_a_session_is_served_in_the_order_of_the_model(ring: PairDataModule, model: PairRanker, tmp_path: Path) -> None:
    if model.context.is_last:
        pytest.skip("with the last track, its list is served")
    histories = sessions()
    path = tmp_path / FILE
    session_vectors(model.scorer, model.context, model.counted).write(path, ring.catalog)
    vectors = SessionVectors.read(path, ring.catalog)
    lists = np.tile(ROWS.astype(np.int32), (NUM_RING_TRACKS, 1))  # every track is a candidate
    search = make_search(vectors, lists, ring.catalog.artist_of)
    rows, shares = histories.newest(vectors.max_length)
    served = search.best(rows, shares, NUM_RING_TRACKS)
    top, scores = model.top(histories, NUM_RING_TRACKS - 1)
    for line in range(len(histories)):
        [kept] = np.isfinite(scores[line]).nonzero()
        kept = kept[: (served[line] >= 0).sum()]
        if model.context.repeats.used == "never":
            kept = kept[~np.isin(top[line, kept], rows[line])]
        order, of_served = top[line, kept], served[line][served[line] >= 0]
        assert len(order) == len(of_served)
        value = dict(zip(top[line].tolist(), scores[line].tolist(), strict=True))
        assert [value[row] for row in of_served] == pytest.approx([value[row] for row in order], abs=1e-5)
    explained = search.scores.explain(rows[0], shares[0], int(top[0, 0]))
    assert sum(part[0] for part in explained.values()) == pytest.approx(float(scores[0, 0]), abs=1e-4)
    assert explained["counted"][0] > 0


def test_all_tracks_that_are_counted_are_looked_at(model: PairRanker) -> None:
    """By a service too, where the query looks at fewer; with the last track, one."""
    vectors = session_vectors(model.scorer, model.context, model.counted)
    lists = np.tile(ROWS.astype(np.int32), (NUM_RING_TRACKS, 1))
    if model.context.is_last:
        assert vectors.num_newest == 1
        assert vectors.counted is not None
        counts, asked, unknown = CountedScores(vectors.counted), ROWS[None], np.full((1, 3), np.nan, np.float32)
        found = counts.of(ROWS[None, :3], unknown, asked), counts.of(ROWS[None, :1], unknown[:, :1], asked)
        np.testing.assert_array_equal(*found)
        return
    vectors = replace(vectors, age_weights=vectors.age_weights[:, :2], boosts=vectors.boosts[:0])
    assert vectors.counted is not None
    search = make_search(vectors, lists, ROWS)
    assert search.length == vectors.num_newest == len(vectors.counted.age_weights)


def test_the_ring_is_counted_and_weighs(model: PairRanker) -> None:
    """The next track on the ring follows each track most often."""
    part = model.counted
    assert part is not None
    best = part.rows[ROWS, part.shares.argmax(1)]
    is_played, following = model.order > 0, (ROWS + 1) % NUM_RING_TRACKS
    assert (best == following)[is_played & is_played[following]].mean() > 0.9
    assert model.counts is not None
    assert model.counts.logged()["counted_strength"] in STRENGTHS


def test_rows_follow_the_tracks_into_another_order_and_a_larger_catalogue(model: PairRanker) -> None:
    part, order = model.counted, np.random.default_rng(1).permutation(NUM_RING_TRACKS)
    assert part is not None
    moved, larger = part.in_order(order), part.at_rows(2 * ROWS, 3 * NUM_RING_TRACKS)
    row = 5
    place = int(np.flatnonzero(order == row)[0])
    now = {
        int(order[one]): share for one, share in zip(moved.rows[place], moved.shares[place], strict=True) if one >= 0
    }
    before = {int(one): share for one, share in zip(part.rows[row], part.shares[row], strict=True) if one >= 0}
    assert now == before
    assert {int(one) // 2 for one in larger.rows[2 * row] if one >= 0} == set(before)
    assert (larger.rows[1] == -1).all()


def test_what_validation_chose_is_kept_by_a_refit_and_a_checkpoint(
    ring: PairDataModule, cold: PairDataModule, model: PairRanker
) -> None:
    name, data = "last" if model.context.is_last else "session", ring if model.order.all() else cold
    again: PairRanker = instantiate(config("auto", name), _convert_="all")(vocabulary=data.vocabulary)
    assert again.decided()["counted"] is None
    assert again.describe()[-1].endswith(NOTHING)
    again.decide(model.decided())
    assert again.decided() == model.decided()
    assert again.counted is not None
    assert model.counted is not None
    np.testing.assert_array_equal(again.counted.rows, model.counted.rows)


def test_the_head_alone_is_restored_too(model: PairRanker) -> None:
    """A best epoch that chose the head alone is not tested with the counted part of the last one."""
    counts, alone = model.counts, RanksAlone(model)
    assert counts is not None
    chosen, checkpoint = counts.chosen, {"state_dict": model.state_dict()}
    assert chosen is not None
    try:
        counts.chosen = None
        decided = model.decided()
        model.on_save_checkpoint(checkpoint)
        assert model.describe()[-1].endswith(NOTHING)
        counts.chosen = chosen
        model.on_load_checkpoint(checkpoint)
        assert model.counted is None
        np.testing.assert_array_equal(model.lists(K).collect()[0], alone.lists(K).collect()[0])
        counts.chosen = chosen
        model.decide(decided)
        assert model.counted is None
    finally:
        counts.chosen = chosen


def test_the_newest_plays_are_counted(ring: PairDataModule, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those before an event; a session may begin in the middle."""
    listens, rules = ring.vocabulary.listens, {"rules": partial(Rules, window=1)}
    monkeypatch.setattr(counted, "MOST_PLAYS", 40)
    rows = Counted(ring.vocabulary, rules=rules).table(first_event=100).rows
    found, expected = (np.zeros((NUM_RING_TRACKS, NUM_RING_TRACKS), bool) for _ in range(2))
    np.put_along_axis(found, rows.clip(0).astype(np.int64), rows >= 0, axis=1)
    for event in range(61, 100):
        if listens.session[event] == listens.session[event - 1]:
            expected[listens.track[event - 1], listens.track[event]] = True
    np.testing.assert_array_equal(found, expected)


def test_new_tracks_keep_the_probability_that_they_have_by_the_head(model: PairRanker) -> None:
    """All together and in the mean; without a share of their own they would lose against what was counted."""
    part, is_new = model.counted, torch.from_numpy(model.order == 0)
    assert part is not None
    np.testing.assert_array_equal(part.is_uncounted, is_new)
    assert 0 < part.uncounted < 1
    if not is_new.any():
        return
    histories = sessions()
    alone, both = (model.shares(histories, alone=one)[:, is_new].sum(1).logit() for one in (True, False))
    counts, chosen = model.counts, model.counts.chosen if model.counts else None
    assert counts is not None
    assert chosen is not None
    try:
        counts.chosen = chosen._replace(uncounted=0.0)
        without = model.shares(histories)[:, is_new].sum(1).logit()
    finally:
        counts.chosen = chosen
    assert abs(float((both - alone).mean())) < 0.25 * -float((without - alone).mean())


def test_a_head_that_gives_new_tracks_too_much_gives_them_no_share(cold: PairDataModule) -> None:
    """Validation decides, by the next tracks that a session has not heard."""
    counts, rng = Counted(cold.vocabulary, rules={"rules": Rules}), np.random.default_rng(3)
    new = np.flatnonzero(cold.vocabulary.plays == 0)
    previous = rng.choice(np.flatnonzero(cold.vocabulary.plays > 0), 400)
    following = (previous + 1) % NUM_RING_TRACKS
    following[np.isin(following, new)] = previous[0]
    following[following == previous] = previous[1]

    def chosen(of_new: float, targets: np.ndarray) -> float:
        logits = torch.zeros(len(previous), NUM_RING_TRACKS)
        logits[:, new] = of_new
        counts.choose(lambda: [(logits, Histories.of_tracks(previous), targets)], is_last=True)
        assert counts.chosen is not None
        return counts.chosen.uncounted

    with_new = np.where(rng.random(len(previous)) < 0.1, rng.choice(new, len(previous)), following)
    assert chosen(0.0, with_new) > 0, "a tenth of the next tracks is new, and so the head says"
    assert chosen(8.0, following) == 0, "no next track is new"
    heard = np.where(rng.random(len(previous)) < 0.8, previous, with_new)
    assert chosen(0.0, heard) > 0, "tracks that are played again say nothing of new ones"


def test_counted_none_is_the_head_alone(ring: PairDataModule) -> None:
    model: PairRanker = instantiate(config("none", "session"), _convert_="all")(vocabulary=ring.vocabulary)
    queries = ring.pairs["val"]
    model.fit_to(ring.histories(queries), queries.following)
    assert model.counted is None
    names = session_vectors(model.scorer, model.context, model.counted).arrays()
    assert not [name for name in names if name.startswith("counted")]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["recipe=shares", "counted=rules"], "counted= adds to logarithms of probabilities"),
        (
            ["recipe=playlists", "counted=rules", "+counted.rules.v._partial_=true",
             "+counted.rules.v._target_=segue.models.baselines.whole_sessions.SessionNeighbours"],
            "counted.rules.v is a SessionNeighbours, and a counted part needs scores of pairs",
        ),
    ],
)  # fmt: skip
def test_a_part_that_cannot_be_mixed_is_refused(ring: PairDataModule, words: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        instantiate(composed(*words).ranker, _convert_="all")(vocabulary=ring.vocabulary)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("counted_rows", np.full((3, 2), 7, np.int32), "rows of 3 tracks"),
        ("counted_shares", np.full((3, 2), 2, np.float32), r"in \[0, 1\]"),
        ("counted_strength", np.full((), -1.0), "must be a finite number of at least 0"),
        ("counted_strength", np.array("x"), "must be an array of float64 with 0 dimensions"),
        ("counted_uncounted", np.full((), 2.0), r"must be a number in \[0, 1\]"),
        ("counted_age_weights", np.array(["x"]), "must be an array of float32 with 1 dimensions"),
        ("counted_age_weights", np.ones(3, np.float32), "must be 1 to 2 finite numbers"),
    ],
)
def test_a_damaged_part_is_refused(name: str, value: np.ndarray, message: str) -> None:
    from segue.runs.counted_part import CountedPart

    part = CountedPart(
        rows=np.zeros((3, 2), np.int32),
        shares=np.full((3, 2), 0.5, np.float32),
        age_weights=np.ones(2, np.float32),
        strength=0.2,
    )
    given = {"num_tracks": 3, "max_length": 2}
    assert CountedPart.of_arrays(part.arrays(), **given) is not None
    with pytest.raises(ValueError, match=message):
        CountedPart.of_arrays(part.arrays() | {name: value}, **given)
