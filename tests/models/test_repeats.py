"""Boosts of tracks already heard: fitted to what is repeated, chosen by validation, and kept in a checkpoint."""

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from segue.catalog import Listens
from segue.histories import Histories
from segue.models.after_training import fit_boosts
from segue.models.baselines.counting import Rules
from segue.models.baselines.module import Baseline
from segue.models.losses import BCELoss, SoftmaxLoss
from segue.models.pair_ranker import PairRanker
from segue.models.repeats import (
    ARTISTS,
    HEARD,
    MOST_AGES,
    OF_ARTISTS,
    Repeats,
    boosted_shares,
    fitted_boosts,
    newest_targets,
)
from segue.models.retrieval.ranks import ndcg
from tests.conftest import make_vocabulary
from tests.models.plain import COSINES, SESSION

NUM = 30
PLACES = OF_ARTISTS.stop
NO_ARTISTS = np.arange(NUM)


def repeating(num_sessions: int = 3000, played: float = math.nan) -> Listens:
    """Tracks in random order; in four of ten sessions the third place plays the first track again."""
    rng = np.random.default_rng(0)
    track = rng.permuted(np.tile(np.arange(NUM), (num_sessions, 1)), axis=1)[:, :4]
    track[:, 2] = np.where(rng.random(num_sessions) < 0.4, track[:, 0], track[:, 2])
    session = np.repeat(np.arange(num_sessions), 4)
    return Listens(session=session, track=track.ravel(), played_ratio=np.full(len(session), played, np.float32))


def test_the_targets_are_those_of_the_newest_tenth_of_the_events() -> None:
    listens = repeating()
    found = newest_targets(listens, NO_ARTISTS)
    assert found is not None
    assert found.first_event == 2700 * 4
    newest = listens.track[found.first_event :].reshape(-1, 4)
    assert found.following.tolist() == newest[:, 1:].ravel().tolist()
    assert found.histories.newest(3)[0][:3].tolist() == [
        [*line[:place][::-1], -1, -1][:3] for line in newest[:1].tolist() for place in (1, 2, 3)
    ]
    assert (found.weight == 1).all()


@pytest.mark.parametrize(
    "listens", [repeating(900), repeating(played=0.0), repeating(1), make_vocabulary([0]).listens], ids=str
)
def test_few_repeats_that_were_played_are_not_fitted(listens: Listens) -> None:
    assert newest_targets(listens, NO_ARTISTS) is None


@pytest.mark.parametrize("adds", [False, True])
def test_expected_repeats_are_those_observed_at_each_age(adds: bool) -> None:
    """The known answer: targets drawn from shares whose odds were multiplied and added to."""
    rng = np.random.default_rng(1)
    shares = rng.dirichlet([1.0] * 12, 20_000)[:, :4]  # three quarters of the probability is that of others
    true_factor, true_added = np.array([0.2, 3.0, 1.0, 6.0]), np.array([0.05, 0.0, 0.2, 0.0]) * adds
    raised = shares * true_factor + true_added
    both = np.column_stack([raised, 1 - shares.sum(1)])
    drawn = (both.cumsum(1) < (rng.random(len(both)) * both.sum(1))[:, None]).sum(1)
    is_next = drawn[:, None] == np.arange(4)
    weight = np.ones(len(shares))
    there = np.ones(shares.shape, np.int64)
    of_next = np.where(drawn < 4, shares[np.arange(len(shares)), drawn.clip(max=3)], 0)
    factor, added = fitted_boosts(shares, num=there, is_next=is_next, of_next=of_next, weight=weight, adds=adds)
    assert factor[:4] == pytest.approx(true_factor, rel=0.1, abs=0.1)
    assert added[:4] == pytest.approx(true_added, abs=0.01)
    fitted = shares * factor[:4] + added[:4]
    expected = (fitted / (1 - shares.sum(1) + fitted.sum(1))[:, None]).sum(0)
    assert expected == pytest.approx(is_next.sum(0), rel=0.01)


def with_artists(fitted: np.ndarray, used: str = "boosts", num_artists: int = 8) -> Repeats:
    """Boosts of tracks heard and of artists, in force."""
    repeats = Repeats("auto", make_vocabulary(np.arange(NUM) % num_artists, listens=repeating()), length=20)
    repeats.fitted, repeats.used, repeats.by_artist = fitted, used, True
    return repeats


@pytest.mark.parametrize("used", ["boosts", "always"])
def test_boosted_shares_are_those_of_a_slow_loop(used: str) -> None:
    """A track already heard has its own boost, where there are such, and others that of their artist's newest track."""
    rng = np.random.default_rng(2)
    scores = rng.integers(0, 3, (4, NUM)).astype(np.float32)
    scores[3] = 0
    fitted = np.array([rng.normal(size=PLACES), rng.random(PLACES)])
    repeats, sessions = with_artists(fitted, used), [[3, 7, 11], [5], [2, 1, 2, 9], [4, 9, 8]]  # newest first
    tracks, length = np.concatenate([one[::-1] for one in sessions]), np.array([len(one) for one in sessions])
    histories = Histories(
        tracks=tracks, played_ratio=np.ones(len(tracks), np.float32), last=length.cumsum() - 1, length=length,
        previous=np.array([one[0] for one in sessions]),
    )  # fmt: skip
    both = (repeats.added(histories, values) for values in (np.expm1(repeats.in_force()[0]), repeats.in_force()[1]))
    found = boosted_shares(csr_array(scores), *both).toarray()
    for line, heard in enumerate(sessions):
        total, artists = scores[line].sum(), [row % 8 for row in heard]
        for row in range(NUM):
            share = scores[line, row] / total if total else 0.0
            place = heard.index(row) if row in heard and used == "boosts" else None
            if place is None and row % 8 in artists:
                place = MOST_AGES + artists.index(row % 8)
            if place is not None:
                share = share * math.exp(fitted[0, place]) + fitted[1, place]
            assert found[line, row] == pytest.approx(share, abs=1e-6)


def choose(repeats: Repeats, ndcg: dict[str, float]) -> None:
    """Validation measures these numbers, in this order."""
    values = iter(ndcg.values())
    repeats.choose(lambda: np.array([next(values)]))
    assert list(repeats.compared or ()) == list(ndcg)


def test_validation_chooses_and_the_line_has_both_numbers() -> None:
    repeats = Repeats("auto", make_vocabulary(range(NUM), listens=repeating()), length=20)
    assert repeats.rule == "never"
    assert not repeats.in_force().any()
    assert not repeats.in_force(every=True).any()
    repeats.fitted = np.array([[0.5] * MOST_AGES + [0.0] * (PLACES - MOST_AGES), [0.0] * PLACES])
    choose(repeats, {"boosts": 0.2, "always": 0.1, "never": 0.05})
    line = "repeats      13.6% of training targets were heard before in their session"
    assert repeats.describe() == f"{line}: boosts (validation ndcg@10: boosts 0.2000, always 0.1000, never 0.0500)"
    assert repeats.boosts().tolist() == [0.5] * MOST_AGES
    assert repeats.logged()["repeats_ndcg_boosts"] == 0.2
    choose(repeats, {"boosts": 0.1, "always": 0.1, "never": 0.05})
    assert repeats.describe() == f"{line}: always (validation ndcg@10: boosts 0.1000, always 0.1000, never 0.0500)"
    assert not len(repeats.boosts())
    assert repeats.boosts(every=True).tolist() == [0.5] * MOST_AGES, "where every track is a candidate they hold"


def test_where_never_is_best_tracks_heard_come_last_although_training_had_them() -> None:
    repeats = Repeats("auto", make_vocabulary(range(NUM), listens=repeating()), length=20)
    choose(repeats, {"always": 0.1, "never": 0.2})
    assert repeats.boosts().tolist() == [-np.inf] * 20
    line = "repeats      13.6% of training targets were heard before in their session"
    assert repeats.describe() == f"{line}: never (validation ndcg@10: always 0.1000, never 0.2000)"


def test_a_checkpoint_has_what_was_decided() -> None:
    repeats = Repeats("auto", make_vocabulary(range(NUM), listens=repeating()), length=20)
    repeats.fitted = np.array([[0.5] * PLACES, [0.25] * PLACES])
    choose(repeats, {"boosts": 0.2, "always": 0.1, "never": 0.05, ARTISTS: 0.3})
    assert repeats.by_artist
    other = Repeats("never", make_vocabulary([0]), length=3)
    other.load_state_dict(repeats.state_dict())
    assert other.get_extra_state() == repeats.get_extra_state()
    assert (other.in_force() == repeats.fitted).all()
    np.testing.assert_array_equal(other.fitted, repeats.fitted)


def baseline(listens: Listens, artists: Any = NO_ARTISTS, **context: Any) -> Baseline:
    vocabulary = make_vocabulary(artists, listens=listens)
    settings = {"decay": 0.8, "skipped": 0.1, "max_length": 20, "repeats": "auto", **context}
    made = Baseline(
        vocabulary=vocabulary, model=partial(Rules, window=1), context=partial(SESSION, **settings), monitor="val/mrr"
    )
    made.on_train_start()
    return made


def test_a_model_that_counts_learns_what_is_repeated_from_sessions_that_it_has_not_counted() -> None:
    made = baseline(repeating())
    targets = made.context.repeats.asked
    assert targets is not None
    chosen = targets.histories.length == 2
    histories, following = targets.histories.where(chosen), targets.following[chosen]

    def mean_rank(used: str) -> float:
        made.context.repeats.used = used
        return float(made.ranks(histories, following, lambda _: None).mean())

    assert mean_rank("boosts") < 0.75 * mean_rank("always")
    made.context.repeats.used = "boosts"
    rows, _ = made.top(histories, 1)
    assert (rows[:, 0] == histories.newest(2)[0][:, 1]).mean() > 0.9
    # not at the fourth place, where the track before the newest seldom comes again
    assert made.context.repeats.fitted[1, 0] < 0.01 < made.context.repeats.fitted[1, 1]


NUM_ARTISTS = 6


def of_artists(num_sessions: int = 3000) -> Listens:
    """Tracks in random order; the fourth is by the artist of the second one, and is none of those before it."""
    rng = np.random.default_rng(3)
    track = rng.permuted(np.tile(np.arange(NUM), (num_sessions, 1)), axis=1)[:, :4]
    track[:, 3] = (track[:, 1] + NUM_ARTISTS * rng.integers(1, 5, num_sessions)) % NUM
    track[:, 3] = np.where((track[:, 3] == track[:, 2]) | (track[:, 3] == track[:, 0]), -1, track[:, 3])
    track = track[track[:, 3] >= 0]
    session = np.repeat(np.arange(len(track)), 4)
    return Listens(session=session, track=track.ravel(), played_ratio=np.full(len(session), np.nan, np.float32))


def test_a_model_that_counts_learns_after_how_many_tracks_artists_return() -> None:
    made = baseline(of_artists(), np.arange(NUM) % NUM_ARTISTS)
    repeats, targets = made.context.repeats, made.context.repeats.asked
    assert targets is not None
    assert not repeats.fitted[:, HEARD].any(), "no track is repeated"
    chosen = targets.histories.length == 3
    histories, following = targets.histories.where(chosen), targets.following[chosen]

    def ranks_of() -> np.ndarray:
        return made.ranks(histories, following, lambda _: None)

    without, ranks = ranks_of(), repeats.choose(ranks_of, ndcg)
    assert list(repeats.compared or ()) == ["never", ARTISTS]
    assert ranks.mean() < 0.5 * without.mean()
    assert repeats.by_artist
    np.testing.assert_array_equal(ranks_of(), ranks)
    rows, _ = made.top(histories, 4)
    is_same = rows % NUM_ARTISTS == histories.newest_rows(2)[:, 1:] % NUM_ARTISTS
    assert is_same.mean() > 0.9, "the tracks of the artist before the last one, without the one that was heard"
    shares = made.shares(histories).numpy()
    assert (shares.argsort(1)[:, ::-1][:, 0] == rows[:, 0]).mean() > 0.99


def head(loss: Any, listens: Listens | None = None, artists: Any = NO_ARTISTS) -> PairRanker:
    torch.manual_seed(0)
    return PairRanker(
        vocabulary=make_vocabulary(artists, listens=listens or repeating()),
        scorer=partial(COSINES, dim=4, alpha=1.0),
        loss=loss,
        context=partial(SESSION, max_length=20, repeats="auto"),
        optimizer=partial(torch.optim.SGD, lr=0.1),
        scheduler=None,
        monitor="val/mrr",
    )


@torch.inference_mode()
def test_a_head_expects_as_many_repeats_as_there_are() -> None:
    """The track before the newest follows in four of ten sessions at the third place, and seldom at others."""
    made = head(partial(SoftmaxLoss, temperature=0.1))
    repeats = made.context.repeats
    targets = repeats.asked
    assert targets is not None
    fit_boosts(made)
    boosts = repeats.boosts(every=True)
    logits = (made.products(None)(targets.histories) / 0.1).double().numpy()
    for line, heard in enumerate(targets.histories.newest_rows(MOST_AGES).tolist()):
        for age, row in enumerate(heard):
            logits[line, row] += (boosts[age] / 0.1) * (row >= 0)
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    before = targets.histories.newest_rows(2)[:, 1]
    expected = shares[np.arange(len(before)), before][before >= 0].sum()
    assert expected == pytest.approx((before == targets.following)[before >= 0].sum(), rel=0.02)


@torch.inference_mode()
def test_a_head_expects_as_many_tracks_of_the_artists_heard_as_there_are() -> None:
    made = head(partial(SoftmaxLoss, temperature=0.1), of_artists(), np.arange(NUM) % NUM_ARTISTS)
    repeats = made.context.repeats
    targets = repeats.asked
    assert targets is not None
    fit_boosts(made)
    repeats.by_artist = True
    artist = targets.histories.newest_rows(2)[:, 1] % NUM_ARTISTS
    of_artist = torch.from_numpy(np.arange(NUM)[None] % NUM_ARTISTS == artist[:, None])
    heard = targets.histories.newest_rows(MOST_AGES)
    for line, row in zip(*(heard >= 0).nonzero(), strict=True):
        of_artist[line, heard[line, row]] = False
    longer = targets.histories.length > 1
    boosted = made.shares(targets.histories)
    expected = float((boosted * of_artist)[torch.from_numpy(longer)].sum())
    observed = of_artist[torch.arange(len(of_artist)), torch.from_numpy(targets.following)].numpy()[longer].sum()
    assert expected == pytest.approx(observed, rel=0.1)
    ranks = made.ranks(targets.histories, targets.following, lambda _: None)
    top = made.top(targets.histories, NUM - 1)[0]
    place = (top == targets.following[:, None]).argmax(1)
    assert np.abs(ranks - 1 - place).max() <= 1, "of tracks with equal scores one has to come first"
    repeats.by_artist = False
    assert ranks.mean() < 0.9 * made.ranks(targets.histories, targets.following, lambda _: None).mean()


def test_scores_that_are_no_probabilities_are_not_boosted() -> None:
    made = head(BCELoss)
    fit_boosts(made)
    assert made.context.repeats.asked is None
    assert not made.context.repeats.fitted.any()


def test_so_many_targets_have_their_scores_in_memory_together_as_the_catalogue_allows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a million tracks, 256 would need gigabytes. The boosts are the same."""
    sizes, usual = list[int](), Baseline._after

    def watched(made: Baseline, histories: Any) -> Any:
        sizes.append(len(histories))
        return usual(made, histories)

    monkeypatch.setattr(Baseline, "_after", watched)
    expected = baseline(repeating()).context.repeats.fitted
    sizes.clear()
    monkeypatch.setattr("segue.models.retrieval.ranks._MAX_SCORES", 50 * NUM)
    np.testing.assert_array_equal(baseline(repeating()).context.repeats.fitted, expected)
    assert max(sizes) == 50
