"""Tracks that are hidden from training: nothing of them may reach a model, and everything of the others must."""

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from segue.datamodules.pair_datamodule import PairDataModule
from segue.datamodules.pairs.pairs_in_splits import hidden_tracks
from segue.errors import InputError
from tests.conftest import NUM_RING_TRACKS, event, make_catalog, write_log

Make = Callable[..., PairDataModule]


@pytest.mark.parametrize("split", ["time", "session"])
def test_training_is_that_of_a_log_that_never_had_the_hidden_tracks(read_of: Make, ring_logs: Path, split: str) -> None:
    """The oracle: each session without the hidden tracks, in a loop."""
    whole = read_of(ring_logs, split=split)
    cold = read_of(ring_logs, split=split, cold_share=0.2, cold_seed=3)
    hidden = cold.new_tracks
    assert hidden.sum() == round(0.2 * NUM_RING_TRACKS)
    sessions: dict[str, dict[int, list[int]]] = {}
    for name, datamodule in (("whole", whole), ("cold", cold)):
        listens = datamodule.vocabulary.listens
        tracks: dict[int, list[int]] = {}
        for session, track in zip(listens.session.tolist(), listens.track.tolist(), strict=True):
            tracks.setdefault(session, []).append(track)
        sessions[name] = tracks
    left = [[track for track in session if not hidden[track]] for session in sessions["whole"].values()]
    assert list(sessions["cold"].values()) == [session for session in left if session]
    pairs = cold.pairs["train"]
    expected = [pair for session in left for pair in itertools.pairwise(session)]
    assert list(zip(pairs.previous.tolist(), pairs.following.tolist(), strict=True)) == expected
    plays = np.bincount(np.concatenate(left), minlength=NUM_RING_TRACKS)
    assert cold.vocabulary.plays.tolist() == plays.tolist()
    num_left_out = sum(map(len, sessions["whole"].values())) - plays.sum()
    assert cold.dropped["cold_share"] == num_left_out > 0


@pytest.mark.parametrize("split", ["time", "session"])
def test_validation_and_test_keep_the_hidden_tracks(read_of: Make, ring_logs: Path, split: str) -> None:
    whole, cold = (read_of(ring_logs, split=split, cold_share=share) for share in (0.0, 0.2))
    for name in ("val", "test"):
        for column in ("previous", "following", "played_ratio", "listener"):
            assert np.array_equal(getattr(whole.pairs[name], column), getattr(cold.pairs[name], column))
        first, second = (one.histories(one.pairs[name]).newest(8)[0] for one in (whole, cold))
        assert np.array_equal(first, second)
        assert cold.new_tracks[cold.pairs[name].following].any()
    assert whole.digest() != cold.digest()


def test_no_batch_and_no_history_of_training_has_a_hidden_track(read_of: Make, ring_logs: Path) -> None:
    cold = read_of(ring_logs, cold_share=0.3, history=7)
    num_pairs = 0
    for batch in cold.train_dataloader():
        num_pairs += len(batch.previous)
        for rows in (batch.previous, batch.following, batch.history[batch.history >= 0]):
            assert not cold.new_tracks[rows.numpy()].any()
    assert num_pairs == len(cold.pairs["train"]) > 0
    words = cold.vocabulary
    for counts in (words.plays, words.previous_counts, words.next_counts):
        assert not counts[cold.new_tracks].any()


def test_what_is_hidden_depends_on_its_own_seed_alone(read_of: Make, ring_logs: Path) -> None:
    new = [
        read_of(ring_logs, cold_share=0.2, cold_seed=cold_seed, seed=seed).new_tracks.tolist()
        for cold_seed, seed in ((0, 1), (0, 2), (1, 1))
    ]
    assert new[0] == new[1] != new[2]


def test_only_played_tracks_are_hidden_and_longer_logs_hide_nearly_the_same() -> None:
    catalog = make_catalog(range(1000))
    plays = (np.arange(1000) % 2 == 0).astype(np.int64)
    hidden = hidden_tracks(catalog, plays, cold_share=0.1, cold_seed=0)
    assert hidden.sum() == 50
    assert not hidden[plays == 0].any()
    more = plays.copy()
    more[1:200:20] = 1  # 10 of 510
    assert (hidden & hidden_tracks(catalog, more, cold_share=0.1, cold_seed=0)).sum() >= 45
    assert not hidden_tracks(catalog, plays, cold_share=0.0, cold_seed=0).any()
    with pytest.raises(InputError, match=r"cold_share=0.0009 hides none of the 500 tracks that training plays"):
        hidden_tracks(catalog, plays, cold_share=0.0009, cold_seed=0)


def test_without_hiding_the_new_tracks_are_those_first_heard_after_training(read_of: Make, tmp_path: Path) -> None:
    lines = []
    for session in range(10):  # 8 train, 1 validates, 1 tests; nobody plays the last track
        for step, track in enumerate([0, 1] if session < 8 else [2, 0, 3] if session == 8 else [4, 1, 2]):
            lines.append(event(session, 1000 * session + step, 100 + track))
    write_log(tmp_path, range(6), lines)
    assert read_of(tmp_path).new_tracks.tolist() == [False, False, True, True, True, False]
    torn = read_of(tmp_path, split="pair")
    known = np.unique([torn.pairs["train"].previous, torn.pairs["train"].following])
    assert not torn.new_tracks[known].any()


def test_tracks_that_are_left_out_for_few_plays_are_not_new(read_of: Make, tmp_path: Path) -> None:
    lines = []
    for session in range(10):
        for step, track in enumerate([0, 1, 0, 2] if session in (0, 9) else [0, 1]):
            lines.append(event(session, 1000 * session + step, 100 + track))
    write_log(tmp_path, range(3), lines)
    assert not read_of(tmp_path, policies={"min_count": 2}).new_tracks.any()


def test_rare_tracks_are_left_out_by_their_plays_before_hiding(read_of: Make, ring_logs: Path) -> None:
    """Otherwise `min_count` would remove a hidden track, which has no training play, from the test too."""
    cold = read_of(ring_logs, cold_share=0.2, policies={"min_count": 2})
    assert cold.dropped["min_count"] == 0
    assert cold.new_tracks[cold.pairs["test"].following].any()


def test_settings_that_cannot_hide_tracks_are_refused(read_of: Make, ring_logs: Path) -> None:
    with pytest.raises(InputError, match=r"cold_share=0.1 leaves tracks out .* split=pair .*use datamodule.split=sess"):
        read_of(ring_logs, cold_share=0.1, split="pair")
