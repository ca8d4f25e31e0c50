import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from segue.datamodules.batches import BatchSampler
from segue.datamodules.pair_datamodule import PairDataModule
from segue.datamodules.splits import SPLITS
from tests.conftest import event, write_log

Make = Callable[..., PairDataModule]


@pytest.mark.parametrize("split", ["time", "session"])
def test_a_session_is_in_one_split(read_of: Make, ring_logs: Path, split: str) -> None:
    datamodule = read_of(ring_logs, split=split)
    sessions = [set(pairs.session.tolist()) for pairs in datamodule.pairs.values()]
    assert [len(part) for part in sessions] == [320, 40, 40]
    assert len(set.union(*sessions)) == 400


def test_each_epoch_shows_every_training_pair_once_in_another_order(ring: PairDataModule) -> None:
    loader = ring.train_dataloader()
    assert isinstance(loader.sampler, BatchSampler)
    epochs = []
    for epoch in (0, 1, 0):
        loader.sampler.set_epoch(epoch)
        batches = list(loader)
        assert len(batches) == len(loader)
        assert {len(batch.previous) for batch in batches[:-1]} == {64}
        epochs.append(torch.stack([torch.cat([b[column].double() for b in batches]) for column in range(4)]))
    assert torch.equal(epochs[0], epochs[2])
    assert not torch.equal(epochs[0], epochs[1])
    train = ring.pairs["train"]
    columns = (train.previous, train.following, train.played_ratio, train.listener)
    stored = sorted(zip(*(column.tolist() for column in columns), strict=True))
    assert sorted(map(tuple, epochs[1].T.tolist())) == stored


def test_a_batch_has_the_newest_tracks_of_each_session(read_of: Callable[..., PairDataModule], ring_logs: Path) -> None:
    datamodule = read_of(ring_logs, history=3)
    for name, loader in (("train", datamodule.train_dataloader()), ("test", datamodule.test_dataloader())):
        batches = list(loader)
        rows, shares = datamodule.histories(datamodule.pairs[name]).newest(3)
        if name == "test":
            assert torch.cat([batch.history for batch in batches]).tolist() == rows.tolist()
            ours = torch.cat([batch.history_share for batch in batches]).numpy()
            np.testing.assert_array_equal(ours, shares)
            assert (rows == -1).any()
        for batch in batches:
            assert torch.equal(batch.history[:, 0], batch.previous)
            assert (batch.history_share.isnan() == (batch.history == -1)).all()


def test_a_batch_is_no_wider_than_its_longest_history(read_of: Callable[..., PairDataModule], ring_logs: Path) -> None:
    datamodule = read_of(ring_logs, history=500)
    rows, _ = datamodule.histories(datamodule.pairs["test"]).newest(500)
    given = [line[line >= 0].tolist() for batch in datamodule.test_dataloader() for line in batch.history]
    assert given == [line[line >= 0].tolist() for line in rows]
    assert all((batch.history >= 0).any(0).all() for batch in datamodule.train_dataloader())


def test_validation_and_test_come_in_the_order_of_time(ring: PairDataModule) -> None:
    for name, loader in (("val", ring.val_dataloader()), ("test", ring.test_dataloader())):
        following = torch.cat([batch.following for batch in loader])
        assert following.tolist() == ring.pairs[name].following.tolist()


def test_the_summary_counts_what_each_split_holds(ring: PairDataModule) -> None:
    summary = ring.summary()
    assert summary.index.tolist() == ["train", "val", "test", "all"]
    assert summary.columns.tolist() == ["events", "sessions", "pairs", "tracks", "artists", "rejected"]
    assert list(summary.loc["train"])[:5] == [2560, 320, 2240, 60, 20]
    assert list(summary.loc["all"]) == [3200, 400, 2800, 60, 20, 0]
    assert summary.loc[["train", "val", "test"], "pairs"].sum() == 2800


def test_the_digest_changes_with_the_data_and_only_with_it(read_of: Make, ring_logs: Path) -> None:
    def digest(**changes: Any) -> str:
        return read_of(ring_logs, **changes).digest()

    same = digest()
    assert same == digest(seed=2, batch_size=7)
    assert len({same, digest(pairing="first"), digest(split="session")}) == 3


def test_the_pair_split_divides_sessions(read_of: Make, ring_logs: Path) -> None:
    datamodule = read_of(ring_logs, split="pair", pairing="first")
    sessions = [set(pairs.session.tolist()) for pairs in datamodule.pairs.values()]
    assert sessions[0] & sessions[2]
    assert datamodule.summary().isna().loc["train", "events"]
    train, listens = datamodule.pairs["train"], datamodule.vocabulary.listens
    assert np.isclose(len(train) / 2800, 0.8)
    assert listens.session.tolist() == np.repeat(np.arange(len(train)), 2).tolist()
    assert listens.track.reshape(-1, 2).tolist() == np.stack([train.previous, train.following], 1).tolist()
    assert np.isnan(listens.played_ratio[::2]).all()
    assert listens.played_ratio[1::2].tolist() == train.played_ratio.tolist()


def test_sessions_of_one_listener_share_a_listener(tmp_path: Path, read_of: Make) -> None:
    users = [70, 30, 70, 50, 30, 70, 70, 30, 70, 50]
    lines = [
        event(user, 1_000_000 * session + step, 100 + step, message="last" if step == 2 else "next")
        for session, user in enumerate(users)
        for step in range(3)
    ]
    datamodule = read_of(write_log(tmp_path, [0, 1, 2], lines))
    listeners = np.concatenate([datamodule.pairs[name].listener for name in SPLITS])
    assert listeners.tolist() == [{30: 0, 50: 1, 70: 2}[user] for user in users for _ in range(2)]
    assert datamodule.vocabulary.listener_counts.tolist() == [6, 2, 8]


def interleaved_log(folder: Path, *, num_sessions: int = 40) -> None:
    """Sessions 100 101 102 of users; user 0 plays 110 111 112 at the same time, with a pair of tracks at a time."""
    lines = []
    for n in range(num_sessions):
        steps = [(100, 101), (101, 102), (102, None)]
        if n == 0:
            steps = [(100, 101), (110, 111), (101, 102), (111, 112), (102, None), (112, None)]
        for place, (track, recommended) in enumerate(steps):
            line = event(n, 10_000 * n + place, track, 0.5, "last" if recommended is None else "next")
            lines.append({**line, "recommendation": recommended})
    write_log(folder, range(20), lines)


@pytest.mark.parametrize(
    ("policy", "num_first", "done"), [("separate", 4, "separated"), ("keep", 4, "kept as one"), ("drop", 0, "left out")]
)
def test_sessions_of_a_user_at_the_same_time_are_separated_kept_or_dropped_and_counted(
    read_of: Make, tmp_path: Path, policy: str, num_first: int, done: str
) -> None:
    interleaved_log(tmp_path)
    datamodule = read_of(tmp_path, policies={"interleaved": policy})
    pairs = [
        (int(previous), int(following))
        for part in datamodule.pairs.values()
        for previous, following in zip(part.previous, part.following, strict=True)
    ]
    usual = [(0, 1), (1, 2)]
    expected = {
        "separate": [*usual, (10, 11), (11, 12)],
        "keep": [(0, 10), (10, 1), (1, 11), (11, 2)],  # the last event 112 is left alone
        "drop": [],
    }[policy]
    assert sorted(pairs) == sorted(usual * 39 + expected)
    assert len(expected) == num_first
    [remark] = [line for line in datamodule.remarks() if line.startswith("interleaved")]
    assert remark == (
        f"interleaved  2 sessions ran at the same time as another one of their user: {done} "
        f"(datamodule.policies.interleaved={policy})"
    )


def test_lines_of_one_millisecond_that_differ_in_their_latency_are_two_events(read_of: Make, tmp_path: Path) -> None:
    interleaved_log(tmp_path)
    path = tmp_path / "logs" / "data.json"
    first = json.loads(path.read_text().splitlines()[-3])
    path.write_text(path.read_text() + json.dumps({**first, "user": 99, "latency": 0.1}) + "\n")
    path.write_text(path.read_text() + json.dumps({**first, "user": 99, "latency": 0.2}) + "\n")
    datamodule = read_of(tmp_path)
    assert datamodule.summary().loc["all", "events"] == 3 * 40 + 3 + 2


@pytest.mark.parametrize("recommendation", ['"abc"', "1e30", '{"track": 5}'])
def test_a_recommendation_that_is_no_track_rejects_no_line(read_of: Make, tmp_path: Path, recommendation: str) -> None:
    interleaved_log(tmp_path)
    path = tmp_path / "logs" / "data.json"
    lines = path.read_text().splitlines()
    lines[-2] = lines[-2].replace('"recommendation": 102', f'"recommendation": {recommendation}')
    path.write_text("\n".join(lines) + "\n")
    datamodule = read_of(tmp_path, max_rejected=0.0)
    assert datamodule.summary().loc["all", "rejected"] == 0
    assert datamodule.summary().loc["all", "pairs"] == 2 * 39 + 4
