"""The study of rivals: trials, the file of pieces, and ranks by vectors of other libraries."""

import sys
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from experiments.rivals import fitting, rank_files, study, tables
from experiments.rivals.sequence_parts import ASKS, VECTORS, Task, cut, softmax_loss
from experiments.rivals.spaces import DATA, MODELS, Log, settings_of
from experiments.studying import append_rows
from segue.catalog import Listens, Vocabulary
from segue.histories import Histories
from segue.models.baselines.counting import Rules
from segue.models.baselines.module import Baseline
from segue.models.repeats import OF_ARTISTS
from tests.conftest import make_vocabulary
from tests.contracts.building import composed
from tests.models.plain import SESSION

IN_PROCESS = [name for name, model in MODELS.items() if model.kind in ("counting", "head")]


@pytest.mark.parametrize("name", IN_PROCESS)
def test_the_words_of_every_trial_compose(name: str) -> None:
    model, data = MODELS[name], "polimi"
    words = [*DATA[data], *model.words, *model.of_data.get(data, ()), *settings_of(data, name, 1)]
    assert composed(*words).model._target_


@pytest.mark.parametrize("name", MODELS)
def test_trials_are_drawn_from_the_space_and_are_the_same_in_every_process(name: str) -> None:
    assert settings_of("yes", name, 0) == ()
    drawn = dict(setting.split("=") for setting in settings_of("yes", name, 3))
    assert dict(setting.split("=") for setting in settings_of("yes", name, 3)) == drawn
    assert drawn.keys() == MODELS[name].space.keys()
    for key, choices in MODELS[name].space.items():
        if isinstance(choices, list):
            assert drawn[key] in map(str, choices)
        else:
            low, high = (choices.low, choices.high) if isinstance(choices, Log) else choices
            assert 0.999 * low <= float(drawn[key]) <= 1.001 * high


def test_a_stopped_study_goes_on_with_the_missing_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "PIECES", tmp_path / "pieces.csv")
    monkeypatch.setattr(study, "RANKS", tmp_path)

    def left() -> list[tuple[str, ...]]:
        return [piece.key for piece in study.missing("yes", "convex, session", trials=2, hours=1, seeds=2)]

    assert [key[2:] for key in left()] == [("trial", "0"), ("trial", "1"), ("final", "1"), ("final", "2")]
    for number, value in (("0", "0.1"), ("1", "0.3")):
        line = dict.fromkeys(study.COLUMNS, "")
        line |= {"data": "yes", "model": "convex, session", "part": "trial", "number": number, "val_ndcg_at_10": value}
        append_rows(study.PIECES, [{**line, "settings": f"dim={number}", "fit_s": "1800"}])
    assert [key[2:] for key in left()] == [("final", "1"), ("final", "2")]
    more = study.missing("yes", "convex, session", trials=9, hours=1, seeds=1)
    assert [piece.part for piece in more] == ["final"]  # the trials took an hour: there is no third one
    assert study.chosen("yes", "convex, session") == ("dim=1",)
    for number, settings in (("1", "dim=1"), ("2", "dim=0")):
        line = {**dict.fromkeys(study.COLUMNS, ""), "data": "yes", "model": "convex, session", "part": "final"}
        append_rows(study.PIECES, [{**line, "number": number, "settings": settings}])
    [first, second] = study.missing("yes", "convex, session", trials=2, hours=1, seeds=2)  # their ranks are not here
    for piece in (first, second):
        piece.ranks_path.parent.mkdir(parents=True, exist_ok=True)
        piece.ranks_path.touch()
    assert [key[2:] for key in left()] == [("final", "2")]  # of a trial that is not the best any more


def test_the_softmax_of_the_networks_is_that_of_torch() -> None:
    rng = np.random.default_rng(0)
    queries, tracks = (torch.from_numpy(rng.normal(size=size)).requires_grad_() for size in ((600, 4), (9, 4)))
    following = torch.from_numpy(rng.integers(9, size=600))
    losses = cross_entropy(queries @ tracks.T, following), softmax_loss(queries, tracks, following)
    assert_close(*losses)
    for left, right in zip(*(torch.autograd.grad(3 * loss, (queries, tracks)) for loss in losses), strict=True):
        assert_close(left, right)


@pytest.mark.parametrize("plays", [[2, 2, 2, 2, 2, 2], [9, 1, 1, 4, 2, 30]])
def test_the_softmax_of_drawn_candidates_comes_near_that_of_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plays: list[int]
) -> None:
    monkeypatch.setattr(sys, "argv", ["model.py", str(tmp_path)])
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)  # other tests share the process
    np.savez(tmp_path / "sessions.npz", track=np.repeat(np.arange(6), plays))
    (tmp_path / "settings.json").write_text('{"seed": 1, "max_epochs": 1, "sampled": 20000}', encoding="utf-8")
    rng = np.random.default_rng(0)
    queries, tracks = (torch.from_numpy(rng.normal(size=size)) for size in ((50, 4), (7, 4)))
    following = torch.from_numpy(1 + rng.integers(6, size=50))  # the first track is padding
    torch.manual_seed(0)
    drawn = Task({"sampled": 0}).loss(queries, tracks, following, lambda: np.array([-1, 5, 4, 3, 2, 1, 0]))
    assert_close(drawn, cross_entropy(queries @ tracks[1:].T, following - 1), rtol=0.01, atol=0.01)


def test_long_sessions_are_cut_so_that_each_track_follows_once() -> None:
    assert [piece.tolist() for piece in cut(torch.arange(8), 3)] == [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7]]
    assert [piece.tolist() for piece in cut(torch.arange(4), 3)] == [[0, 1, 2, 3]]
    assert not cut(torch.arange(1), 3)


NUM, NUM_KNOWN, NUM_SESSIONS = 30, 26, 3000
"""Tracks, tracks that a network knows, and sessions."""


def of_artists(num_artists: int = 6) -> Vocabulary:
    """Tracks in random order; the third is often the first one, and the fourth is by the artist of the second one."""
    rng = np.random.default_rng(3)
    track = rng.permuted(np.tile(np.arange(NUM), (NUM_SESSIONS, 1)), axis=1)[:, :4]
    track[:, 2] = np.where(rng.random(NUM_SESSIONS) < 0.3, track[:, 0], track[:, 2])
    track[:, 3] = (track[:, 1] + num_artists * rng.integers(1, 5, NUM_SESSIONS)) % NUM
    session, unknown = np.repeat(np.arange(NUM_SESSIONS), 4), np.full(4 * NUM_SESSIONS, np.nan, np.float32)
    listens = Listens(session=session, track=track.ravel(), played_ratio=unknown)
    return make_vocabulary(np.arange(NUM) % num_artists, listens=listens)


class Sparse(fitting.Network):
    """The same network, ranked by the code of the baselines."""

    ranks: Any = Baseline.ranks
    top: Any = Baseline.top

    def _scores_of(self, histories: Histories) -> csr_array:
        return csr_array(self._softmax(self._queries[np.searchsorted(self._last, histories.last)]).numpy())


@pytest.mark.parametrize("by_artist", [False, True])
@pytest.mark.parametrize("used", ["boosts", "always", "never"])
def test_a_network_is_ranked_by_the_rule_of_the_baselines(used: str, by_artist: bool) -> None:
    rng, vocabulary, every = np.random.default_rng(0), of_artists(), list[np.ndarray]()
    for kind in (fitting.Network, Sparse):
        context = partial(SESSION, decay=0.8, skipped=0.1, max_length=20, repeats="auto")
        network = kind(vocabulary=vocabulary, model=partial(Rules, window=1), context=context, monitor="val/mrr")
        repeats = network.context.repeats
        assert repeats.asked is not None
        histories, following = repeats.asked.histories, repeats.asked.following
        if not every:
            queries = rng.normal(size=(len(histories), 4)).astype(np.float32)
            queries[:2] = 0  # the network knows no track of these sessions
            vectors: dict[str, Any] = {
                "queries_fit": queries,
                "queries_val": queries[:400],
                "item_rows": np.arange(NUM_KNOWN),
            }
            vectors["items"] = rng.normal(size=(NUM_KNOWN, 4)).astype(np.float32)
        network.learn(vectors, {"val": histories.last[:400], "test": np.arange(3)})
        assert repeats.fitted[1, 2] > repeats.fitted[1, 0], "the first track often comes again, the newest never"
        assert repeats.fitted[:, OF_ARTISTS].any()
        repeats.used, repeats.by_artist, asked = used, by_artist, histories.part(0, 400)
        is_target = following[:400] != asked.previous
        every.append(network.ranks(asked, following[:400], lambda _: None)[is_target])
        rows, _ = network.top(asked, 5)
        every.append(rows)
    ranks, lists, slow_ranks, slow_lists = every
    is_last = slow_ranks > NUM - 4  # where tracks heard come last, their order does not matter
    np.testing.assert_array_equal(ranks[~is_last], slow_ranks[~is_last])
    assert (ranks[is_last] > NUM - 4).all()
    assert (lists == slow_lists).mean() > 0.99


def test_the_best_epoch_is_kept_and_the_time_of_questions_is_not_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arrays: dict[str, Any] = {f"history_{part}": np.array([[0, 1], [2, -1]]) for part in ("val", "test", "fit")}
    np.savez(tmp_path / "sessions.npz", track=np.arange(3), **arrays)
    (tmp_path / "settings.json").write_text('{"seed": 1, "max_epochs": 40, "dim": "7"}', encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["model.py", str(tmp_path)])
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)  # other tests share the process
    monkeypatch.setattr(sys, "stdin", StringIO("".join(f"{value}\n" for value in (0.1, 0.3, 0.2, 0.3, 0.1))))
    task, network, asked = Task({"dim": 3, "max_length": 2}), torch.nn.Linear(1, 1), list[str]()
    assert task.settings["dim"] == 7

    def encode(part: str) -> np.ndarray:
        assert not network.training
        asked.append(part)
        return np.full((2, 1), network.weight.item())

    def is_finished(epoch: int) -> bool:
        assert network.training
        torch.nn.init.constant_(network.weight, epoch)
        return task.is_finished(network, encode, lambda: (np.arange(3), np.eye(3)))

    assert [is_finished(epoch) for epoch in range(1, 6)] == [False] * 4 + [True]  # three epochs after the second
    assert capsys.readouterr().out.split("\n").count(ASKS) == 5
    assert sorted(set(asked)) == ["fit", "val"]  # training does not see the test
    task.finish(network, encode, lambda: (np.arange(3), np.eye(3)))
    with np.load(tmp_path / VECTORS) as found:
        assert [found[f"queries_{part}"][0, 0] for part in ("val", "test", "fit")] == [2, 2, 2]
        assert found["curve"][:, 1].tolist() == [0.1, 0.3, 0.2, 0.3, 0.1]
        assert (np.diff(found["curve"][:, 0]) >= 0).all()
        assert found["fit_s"] >= found["curve"][-1, 0]
    assert task.padded("val", np.array([0, 5, 6])).tolist() == [[5, 0], [6, 0]]  # the first track is not known


def test_a_process_gets_an_answer_to_each_question_and_its_output_if_it_fails(tmp_path: Path) -> None:
    answers = iter([0.5, 0.25])
    script = f"for nth in (1, 2): print('{ASKS}', flush=True); assert float(input()) == 0.5**nth"
    fitting.run([sys.executable, "-c", script], tmp_path, lambda: next(answers))
    assert next(answers, None) is None
    with pytest.raises(RuntimeError, match="no such thing"):
        fitting.run([sys.executable, "-c", "raise SystemExit('no such thing')"])


def test_the_tables_are_those_of_the_ranks_in_the_repository(tmp_path: Path) -> None:
    tables.write(tmp_path, study.known(), rank_files.RANKS)
    written = (study.HERE / "results.md").read_text(encoding="utf-8")
    assert (tmp_path / "results.md").read_text(encoding="utf-8") == written


def test_the_files_of_ranks_stay_small() -> None:
    sizes = [path.stat().st_size for path in rank_files.RANKS.rglob("*.parquet")]
    assert 0 < max(sizes) <= 1e6
    assert sum(sizes) <= 5e6
