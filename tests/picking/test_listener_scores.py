"""The listener's part of a score: what their own past says of a candidate."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segue.errors import InputError
from segue.picking.listener_scores import (
    FEATURES,
    OF_ARTIST,
    OF_TRACK,
    ListenerScores,
    Pasts,
    favourites,
    features_of,
    is_known,
    past_of,
)
from segue.runs.profiles import DAY_MS, ENTRY, Profiles, add_play, entries_of_events, padded

NOW, NOTHING = 1_700_000_000_000, np.empty((1, 0), np.int64)
ARTIST_OF = np.array([0, 0, 1, 2])


def profile(*plays: tuple[int, float, float], most: int = 10) -> np.ndarray:
    """The profile of one listener: track, share, and days ago of each play."""
    entries = np.zeros(most, ENTRY)
    for track, share, days in sorted(plays, key=lambda play: -play[2]):
        add_play(entries, track, share, int(NOW - days * DAY_MS))
    return entries[None]


def past(*plays: tuple[int, float, float], most: int = 10) -> Pasts:
    """The same, before a session that has heard nothing."""
    return past_of(profile(*plays, most=most), NOTHING, np.array([NOW]))


def added(past: Pasts, weights: dict[str, float], candidates: list[int]) -> list[float]:
    """What is added to scores of 0."""
    numbers = np.array([weights.get(name, 0.0) for name in FEATURES], np.float32)
    scores = np.zeros((1, len(candidates)), np.float32)
    ListenerScores(numbers, ARTIST_OF).add(scores, np.array([candidates]), past)
    return [round(value, 5) for value in scores[0].tolist()]


def test_the_tracks_whose_last_play_is_oldest_are_forgotten_first() -> None:
    kept = profile((0, 1.0, 9), (1, 1.0, 8), (0, 1.0, 3), (2, 1.0, 1), most=2)
    assert sorted(kept["track"][0].tolist()) == [0, 2]
    time = NOW - DAY_MS * np.array([9, 8, 3, 1])
    _, entries = entries_of_events(np.zeros(4, np.int64), np.array([0, 1, 0, 2]), np.ones(4, np.float32), time, most=2)
    assert entries["track"].tolist() == [2, 0]


def test_profiles_that_hold_all_tracks_are_equal_in_both_ways() -> None:
    num, rng = 200, np.random.default_rng(1)
    track, share = rng.integers(9, size=num), rng.random(num).astype(np.float32)
    time = NOW + np.sort(rng.choice(90 * DAY_MS, num, replace=False))
    _, entries = entries_of_events(np.zeros(num, np.int64), track, share, time)
    slow = np.zeros(9, ENTRY)
    for event in range(num):
        add_play(slow, int(track[event]), float(share[event]), int(time[event]))
    slow, fast = slow[np.argsort(slow["track"])], entries[np.argsort(entries["track"])]
    for name in ENTRY.names or ():
        np.testing.assert_allclose(slow[name], fast[name], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("num_entries", [0, 4])
def test_a_new_listener_gets_nothing(num_entries: int) -> None:
    weights = dict.fromkeys(FEATURES, 3.0)
    assert added(past_of(np.zeros((1, num_entries), ENTRY), NOTHING, np.array([NOW])), weights, [0, 1, 2, -1]) == [
        0,
        0,
        0,
        0,
    ]


def test_tracks_of_the_session_are_no_past() -> None:
    others = past_of(profile((0, 1.0, 2), (2, 1.0, 2)), np.array([[0, -1]]), np.array([NOW]))
    assert added(others, {"heard": 1.0, "artist_plays": 1.0}, [0, 1])[:2] == [0, 0]
    assert added(others, {"heard": 1.0}, [2, 3]) == [1, 0]


def test_a_track_is_judged_by_its_share_and_by_how_long_ago_it_was() -> None:
    both = past((0, 0.25, 0), (2, 1.0, 1))
    assert added(both, {"share": 2.0}, [0, 1, 2]) == [0.5, 0, 2]
    assert added(both, {"last_day": 1.0}, [0, 2]) == [1, round(float(np.exp(-1)), 5)]
    assert added(both, {"same_hour": 1.0}, [0, 2]) == pytest.approx([1, 1], abs=1e-3)


def test_an_artist_that_was_heard_counts_for_all_of_its_tracks() -> None:
    both = past((0, 1.0, 0), (0, 0.5, 0), (2, 1.0, 0))
    assert added(both, {"artist_share": 1.0}, [0, 1, 2, 3]) == [0.75, 0.75, 1, 0]
    assert added(both, {"artist_plays": 1.0}, [1, 3]) == [round(float(np.log(3)), 5), 0]


def test_candidates_of_many_sessions_get_the_weighted_features_of_their_tracks_and_artists() -> None:
    rng, num = np.random.default_rng(0), 7
    artist_of, weights = rng.integers(4, size=12), rng.normal(size=len(FEATURES)).astype(np.float32)
    profiles = np.zeros((num, 6), ENTRY)
    for line in profiles[1:]:  # the first listener is new
        for play in range(int(rng.integers(1, 9))):
            add_play(
                line, int(rng.integers(12)), float(rng.random()), NOW - int(rng.integers(90 * DAY_MS)) * (play % 3)
            )
    pasts = past_of(profiles, rng.integers(-1, 12, (num, 2)), np.full(num, NOW))
    candidates, scores = rng.integers(-1, 12, (num, 9)), rng.normal(size=(num, 9)).astype(np.float32)
    features, expected = features_of(pasts, artist_of), scores.copy()
    for session, candidate in np.ndindex(candidates.shape):
        track = candidates[session, candidate]
        heard = features.values[(features.session == session) & (features.track == track)]
        by_artist = features.values[(features.session == session) & (features.artist == artist_of[track])]
        expected[session, candidate] += heard[:, OF_TRACK].sum(0) @ weights[OF_TRACK]
        expected[session, candidate] += by_artist[:1, OF_ARTIST].sum(0) @ weights[OF_ARTIST]
    scorer = ListenerScores(weights, artist_of)
    for _ in range(2):  # nothing of one call is left for the next one
        found = scores.copy()
        scorer.add(found, candidates, pasts)
        np.testing.assert_allclose(found[candidates >= 0], expected[candidates >= 0], atol=1e-5)


def test_an_empty_entry_has_no_features() -> None:
    features = features_of(past((2, 1.0, 3), most=3), ARTIST_OF)
    assert (features.session.tolist(), features.track.tolist(), features.artist.tolist()) == ([0], [2], [1])
    assert features.values.all()


def test_a_track_is_known_from_a_share_of_four_fifths_on() -> None:
    assert is_known(past((0, 0.79, 1), (2, 0.8, 1)), np.array([[0, 1, 2, -1]])).tolist() == [
        [False, False, True, False]
    ]


def test_favourites_are_the_tracks_with_the_largest_sums_of_shares() -> None:
    assert favourites(past((0, 0.5, 0), (2, 1.0, 0), (2, 1.0, 1), (3, 0.0, 0), most=5), 4).tolist() == [[2, 0, -1, -1]]


@pytest.mark.parametrize("most", [1, 5, 30])
def test_of_favourites_with_equal_sums_the_first_entries_are_taken(most: int) -> None:
    """As in a slow loop, also for profiles of different lengths."""
    rng = np.random.default_rng(most)
    profiles = np.zeros((9, 20), ENTRY)
    profiles["track"], profiles["shares"] = np.arange(20), rng.integers(4, size=profiles.shape) / 4
    profiles["plays"] = rng.random((9, 20)) < np.linspace(0, 1, 9)[:, None]
    pasts = past_of(profiles, np.empty((9, 0), np.int64), np.full(9, NOW))
    for line, found in zip(profiles, favourites(pasts, most).tolist(), strict=True):
        of = {row: float(line["shares"][row]) for row in range(20) if line["plays"][row] and line["shares"][row]}
        expected = sorted(of, key=lambda row: -of[row])[:most]
        assert found == expected + [-1] * (min(most, 20) - len(expected))


def test_profiles_come_back_from_their_file(tmp_path: Path) -> None:
    owner, entries = entries_of_events(
        np.array([7, 7, 9]), np.array([5, 6, 5]), np.ones(3, np.float32), np.array([1, 2, 3]) + NOW
    )
    Profiles.of(owner, entries).write(tmp_path / "profiles.npz")
    lines = Profiles.read(tmp_path / "profiles.npz").of_listeners(np.array([9, 8, 7]))
    assert np.where(lines["plays"] > 0, lines["track"], -1).tolist() == [[5, -1], [-1, -1], [6, 5]]
    assert padded(np.array([0, 0, 2]), entries, 3).shape == (3, 2)


def test_a_damaged_file_of_profiles_is_refused(tmp_path: Path) -> None:
    (tmp_path / "profiles.npz").write_bytes(b"no zip")
    with pytest.raises(InputError, match=r"profiles\.npz is damaged"):
        Profiles.read(tmp_path / "profiles.npz")


def entry(**changes: Any) -> dict[str, Any]:
    """The arrays of a file with one entry."""
    owner, entries = entries_of_events(np.array([7]), np.array([5]), np.array([0.5], np.float32), np.array([NOW]))
    columns = {name: entries[name] for name in ENTRY.names or ()}
    return {"listeners": owner, "ends": np.array([1]), **columns, **changes}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"listeners": np.array(7)}, "must be int64 of the shape"),
        ({"ends": np.array(1)}, "ends must be int64 of the shape"),
        ({"ends": np.array([2])}, r"track must be int64 of the shape \(2,\), and is int64 of \(1,\)"),
        ({"track": np.array(5)}, r"track must be int64 of the shape \(1,\), and is int64 of \(\)"),
        ({"hour": np.zeros(2, np.float32)}, r"hour must be float32 of the shape \(1, 2\)"),
        ({"plays": np.array([0], np.float32)}, "plays must be above 0"),
        ({"plays": np.array([np.nan], np.float32)}, "all numbers must be finite"),
        ({"shares": np.array([-5], np.float32)}, "shares must be between 0 and plays"),
        ({"shares": np.array([2], np.float32)}, "shares must be between 0 and plays"),
        ({"best": np.array([9], np.float32)}, "best must be between 0 and 1"),
    ],
)
def test_a_file_with_other_numbers_than_profiles_have_is_refused(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    np.savez(tmp_path / "profiles.npz", **entry())
    assert len(Profiles.read(tmp_path / "profiles.npz").entries) == 1
    np.savez(tmp_path / "profiles.npz", **entry(**changes))
    with pytest.raises(InputError, match=rf"profiles\.npz is damaged: .*{message}"):
        Profiles.read(tmp_path / "profiles.npz")
