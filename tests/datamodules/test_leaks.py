"""Nothing of validation and test data reaches training: in these data, any leak is an impossible count or share.

Each session is one pair, therefore a split assigns sessions and pairs alike. What is in a split is written after the
split is known, because it depends only on the order, the keys or the number of the sessions.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segue.datamodules.pair_datamodule import PairDataModule
from segue.datamodules.splits import SPLITS

Make = Callable[..., PairDataModule]

NUM = 60
OPENING = {"train": 1, "val": 3, "test": 5}
"""The first track of each session of a split: one that the other splits do not have."""
COMMON, RARE = 7, 8
"""The second track of most sessions; that of two training sessions and of most sessions of val and test."""
USER = {"train": "a", "val": "b", "test": "c"}


def write(folder: Path, parts: list[str] | None, *, is_alike: bool = False) -> Path:
    """Sessions a day apart; in training COMMON is played for 100 s at most, elsewhere for 1,000 s.

    Args:
        parts: the split of each session; None if it is unknown.
        is_alike: whether the first track is COMMON in all sessions.
    """
    lines, nth = ["user,timestamp,session,track,seconds_played"], dict.fromkeys(SPLITS, 0)
    for session in range(NUM):
        part = "train" if parts is None else parts[session]
        place, nth[part] = nth[part], nth[part] + 1
        is_rare = place < 2 if part == "train" else place > 0
        played = (100 if place % 2 else 50) if part == "train" else 1000
        start = 1_700_000_000 + 86_400 * session
        user = "listener" if parts is None else USER[part]
        lines.append(f"{user},{start},{session},{COMMON if is_alike else OPENING[part]},20")
        lines.append(f"{user},{start + 60},{session},{RARE if is_rare else COMMON},{played}")
    path = folder / "plays.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def built(make: Make, path: Path, split: str, **policies: Any) -> PairDataModule:
    return make(
        path,
        source="table",
        split=split,
        columns={"user": None if split == "session" else "user", "duration": None},
        units={"timestamp": "s", "played": "s"},
        policies=policies,
    )


def poisoned(make: Make, folder: Path, split: str, *, is_alike: bool = False, **policies: Any) -> PairDataModule:
    """Data whose splits differ in everything."""
    return built(make, write(folder, parts_of(make, folder, split), is_alike=is_alike), split, **policies)


def parts_of(make: Make, folder: Path, split: str) -> list[str]:
    """The split of each session."""
    neutral = built(make, write(folder, None), split)
    parts = [""] * NUM
    for name in SPLITS:
        for session in neutral.pairs[name].session.tolist():
            parts[session] = name
    assert [parts.count(name) for name in SPLITS] == [48, 6, 6]
    return parts


def row_of(datamodule: PairDataModule, track: int) -> int:
    return int(datamodule.catalog.track_ids.tolist().index(track))


@pytest.mark.parametrize("split", ["time", "session", "pair"])
def test_every_count_is_of_training_data_alone(read_of: Make, tmp_path: Path, split: str) -> None:
    datamodule = poisoned(read_of, tmp_path, split)
    vocabulary = datamodule.vocabulary
    counts = {
        track: (
            int(vocabulary.plays[row_of(datamodule, track)]),
            int(vocabulary.previous_counts[row_of(datamodule, track)]),
            int(vocabulary.next_counts[row_of(datamodule, track)]),
        )
        for track in (1, 3, 5, COMMON, RARE)
    }
    openings = 0 if split == "pair" else 48  # a pair does not say that its first track was played
    assert counts == {1: (openings, 48, 0), 3: (0, 0, 0), 5: (0, 0, 0), COMMON: (46, 0, 46), RARE: (2, 0, 2)}
    assert set(datamodule.catalog.track_ids[vocabulary.listens.track].tolist()) == {1, COMMON, RARE}
    assert len(vocabulary.listens.track) == 2 * 48
    assert vocabulary.listener_counts.sum() == 48
    if split != "session":  # there, one listener has all sessions: the key of a session decides
        assert vocabulary.listener_counts.tolist() == [48, 0, 0]


@pytest.mark.parametrize("split", ["time", "session", "pair"])
def test_the_longest_play_is_that_of_training_data_alone(read_of: Make, tmp_path: Path, split: str) -> None:
    datamodule = poisoned(read_of, tmp_path, split)
    assert datamodule.reading.share == "longest"
    train, test = datamodule.pairs["train"], datamodule.pairs["test"]
    assert set(train.played_ratio.tolist()) == {0.5, 1.0}  # with a leak, 0.05 and 0.1
    assert set(test.played_ratio.tolist()) == {1.0}
    assert datamodule.vocabulary.mean_played_ratio == pytest.approx(0.75)
    listens = datamodule.vocabulary.listens
    of_common = listens.played_ratio[listens.track == row_of(datamodule, COMMON)]
    assert set(of_common.tolist()) == {0.5, 1.0}


@pytest.mark.parametrize("split", ["time", "session", "pair"])
@pytest.mark.parametrize(("least", "is_kept"), [(2, True), (3, False)])
def test_the_least_number_of_plays_is_counted_in_training_data_alone(
    read_of: Make, tmp_path: Path, split: str, least: int, is_kept: bool
) -> None:
    """RARE has 2 plays in training and 12 in all; with a leak it would be kept."""
    datamodule = poisoned(read_of, tmp_path, split, is_alike=True, min_count=least)
    following = np.concatenate([datamodule.pairs[name].following for name in SPLITS])
    num_rare = int((datamodule.catalog.track_ids[following] == RARE).sum())
    assert num_rare == (12 if is_kept else 0)
    assert datamodule.dropped["min_count"] == (0 if is_kept else 12)
    if split != "pair":
        assert len(datamodule.sessions.listens.track) == (120 if is_kept else 108)
