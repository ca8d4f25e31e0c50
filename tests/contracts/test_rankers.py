"""What every ranker promises: each head once trained, and each baseline."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from pytorch_lightning import LightningModule

from segue.datamodules.pair_datamodule import PairDataModule
from segue.errors import InputError
from segue.histories import Histories
from segue.models.head_ranker import session_vectors
from segue.models.ranker import Ranker
from segue.models.restoring import CHECKPOINT, restore
from segue.picking.listener_scores import FEATURES
from segue.runs.session_vectors import FILE
from tests.conftest import NUM_RING_TRACKS, build_datamodule, write_lines
from tests.contracts.building import config_of_ranker, fit, make_ranker, models_of
from tests.contracts.test_heads import HEADS, OF_ORDER
from tests.datamodules.sharding import read_shards, shards_of

BASELINES = models_of("baselines")
K = 7
HALF_LIFE = 0.01
"""In days, a quarter of all the training sessions of the ring: every model counts plays by their age."""
ROWS = np.arange(NUM_RING_TRACKS)


@pytest.fixture(scope="module")
def ring(ring_logs: Path, tmp_path_factory: pytest.TempPathFactory) -> PairDataModule:
    folder = Path(shutil.copytree(ring_logs, tmp_path_factory.mktemp("contracts"), dirs_exist_ok=True))
    tracks = [json.loads(line) for line in (folder / "tracks.json").read_text().splitlines()]
    tagged = [one | {"tags": [f"third {row // 20}", f"odd {row % 2}"]} for row, one in enumerate(tracks)]
    write_lines(folder / "tracks.json", tagged)
    tags = {"tags": {"kind": "values", "most_shared": 1.0}}
    usual: dict[str, Any] = {"batch_size": 512, "history": 4, "half_life": HALF_LIFE}
    datamodule = build_datamodule(folder, folder / "out", attributes=tags, **usual)
    datamodule.setup()
    return datamodule


@pytest.fixture(scope="module")
def shards(ring: PairDataModule, tmp_path_factory: pytest.TempPathFactory) -> PairDataModule:
    folder = tmp_path_factory.mktemp("shards")
    shards_of(ring, folder)
    datamodule = read_shards(folder, batch_size=512, history=4, half_life=HALF_LIFE)
    datamodule.setup()
    return datamodule


CONTEXTS = [(name, "last") for name in [*HEADS, *BASELINES]]
CONTEXTS += [(name, "listener") for name in ("convex", "contextual")]
CONTEXTS += [(name, "session") for name in ("convex", "contextual", "rules", "neighbours", "popular", "vstan", "slist")]
CONTEXTS += [("convex", name) for name in OF_ORDER]


@pytest.fixture(scope="module", params=CONTEXTS, ids="-".join)
def ranker(request: pytest.FixtureRequest, ring: PairDataModule) -> Ranker:
    return fitted(request.param, ring)


def fitted(param: tuple[str, str], datamodule: PairDataModule) -> Ranker:
    name, context = param
    made = make_ranker(name, datamodule.vocabulary, context)
    assert isinstance(made, LightningModule)
    fit(made, datamodule, epochs=1)
    made.eval()
    if made.listener is not None:
        made.listener.weights = np.linspace(-0.5, 1, len(FEATURES), dtype=np.float32)
    return made


@pytest.fixture(autouse=True)
def no_gradients() -> object:
    with torch.inference_mode():
        yield


def nothing(_: int) -> None:
    pass


def test_it_keeps_the_contract(ranker: Ranker) -> None:
    assert (ranker.scorer is None) == (ranker.loss is None)


def test_shares_are_probabilities_in_the_order_of_the_top(ranker: Ranker) -> None:
    histories = Histories.of_tracks(ROWS[:20])
    if ranker.loss is not None and ranker.loss.temperature is None:
        with pytest.raises(InputError, match="are no probabilities; use loss=softmax"):
            ranker.shares(histories)
        return
    shares = ranker.shares(histories).numpy()
    assert shares[np.arange(20), ROWS[:20]].tolist() == [0] * 20, "the track itself is no candidate"
    sums = shares.sum(1)
    assert np.isclose(sums, 1, atol=1e-4).all()
    rows, _ = ranker.top(histories, K)
    of_top = np.take_along_axis(shares, rows.clip(0), axis=1)
    assert (np.diff(of_top) <= 1e-4).all()


def test_lists_hold_other_tracks_each_once_best_first(ranker: Ranker) -> None:
    rows, scores = ranker.lists(K).collect()
    assert rows.shape == scores.shape == (NUM_RING_TRACKS, K)
    assert (rows != ROWS[:, None]).all()
    assert all(len(set(line)) == K for line in rows.tolist())
    assert (np.diff(scores) <= 0).all()


def test_a_list_of_one_is_the_head_of_a_longer_one(ranker: Ranker) -> None:
    rows, _ = ranker.lists(K).collect()
    assert np.array_equal(ranker.lists(1).collect()[0], rows[:, :1])


def test_ranks_say_where_the_candidates_of_a_list_stand(ranker: Ranker) -> None:
    rows, _ = ranker.lists(NUM_RING_TRACKS - 1).collect()
    ranks = ranker.ranks(Histories.of_tracks(np.repeat(ROWS, rows.shape[1])), rows.ravel(), nothing).reshape(rows.shape)
    assert (np.diff(ranks) >= 0).all()
    assert ranks.sum(1).tolist() == [sum(range(1, NUM_RING_TRACKS))] * NUM_RING_TRACKS


def test_where_every_track_is_a_candidate_the_others_keep_their_order(ranker: Ranker, ring: PairDataModule) -> None:
    """The previous track takes one place; all others are as in our own protocol, which has the same rule here."""
    histories = ring.histories(ring.pairs["test"]).part(0, 20)
    of, rows = np.repeat(np.arange(20), NUM_RING_TRACKS), np.tile(ROWS, 20)
    every = ranker.ranks(histories.where(of), rows, nothing, every=True).reshape(20, -1)
    assert every.sum(1).tolist() == [NUM_RING_TRACKS * (NUM_RING_TRACKS + 1) / 2] * 20
    other = rows != histories.previous[of]
    ours = ranker.ranks(histories.where(of[other]), rows[other], nothing).reshape(20, -1)
    own = every[np.arange(20), histories.previous]
    behind = every[other.reshape(20, -1)].reshape(20, -1) - own[:, None]
    assert np.array_equal(own[:, None] + behind - ours, (np.sign(behind) + 1) / 2)


def test_the_top_of_a_history_has_the_ranks_from_one_on(ranker: Ranker, ring: PairDataModule) -> None:
    histories, among = ring.histories(ring.pairs["test"]).part(0, 40), ROWS % 4 != 1
    for chosen in (None, among):
        rows, scores = ranker.top(histories, NUM_RING_TRACKS - 1, among=chosen)
        is_there = rows >= 0
        assert (is_there.sum(1) == NUM_RING_TRACKS - 1 if chosen is None else is_there.sum(1) < among.sum() + 1).all()
        assert np.array_equal(is_there, np.isfinite(scores))
        of = np.repeat(np.arange(len(rows)), is_there.sum(1))
        ranks = ranker.ranks(histories.where(of), rows[is_there], nothing, among=chosen)
        for query in range(len(rows)):
            assert (np.diff(ranks[of == query]) >= 0).all()
        assert np.array_equal(ranker.top(histories, 3, among=chosen)[0], rows[:, :3])


def test_it_is_restored_from_its_checkpoint_without_the_data(
    ranker: Ranker, ring: PairDataModule, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    name, context = request.node.callspec.params["ranker"]
    assert isinstance(ranker, LightningModule)
    checkpoint = {"state_dict": ranker.state_dict()}
    ranker.on_save_checkpoint(checkpoint)
    (tmp_path / CHECKPOINT).parent.mkdir()
    torch.save(checkpoint, tmp_path / CHECKPOINT)
    if ranker.scorer is not None:
        session_vectors(ranker.scorer, ranker.context, listener=ranker.listener).write(tmp_path / FILE, ring.catalog)
    config = OmegaConf.to_container(config_of_ranker(name, context), resolve=True)
    assert isinstance(config, dict)
    restored = restore(
        {str(key): value for key, value in config.items()},
        tmp_path / CHECKPOINT,
        tmp_path / FILE,
        ring.catalog,
        ring.vocabulary.plays,
    )
    histories = ring.histories(ring.pairs["test"])
    for before, after in zip(ranker.top(histories, K), restored.top(histories, K), strict=True):
        assert np.array_equal(before, after)


def test_ranks_among_some_tracks_are_those_of_the_lists_without_the_others(ranker: Ranker) -> None:
    among = ROWS % 4 == 1
    rows, _ = ranker.lists(NUM_RING_TRACKS - 1).collect()
    queries = np.repeat(ROWS, rows.shape[1])[among[rows.ravel()]]
    ranks = ranker.ranks(Histories.of_tracks(queries), rows[among[rows]], nothing, among=among)
    for query in ROWS.tolist():
        of_query = ranks[queries == query]
        num = int(among.sum()) - int(among[query])
        assert (np.diff(of_query) >= 0).all()
        assert len(of_query) == num
        assert of_query.sum() == num * (num + 1) / 2


def test_progress_counts_every_query_once(ranker: Ranker) -> None:
    def counted(ask: Callable[[Callable[[int], None]], object]) -> int:
        done: list[int] = []
        ask(done.append)
        return sum(done)

    assert counted(lambda on_block: ranker.lists(K, ROWS).collect(on_block)) == NUM_RING_TRACKS
    assert (
        counted(lambda on_block: ranker.ranks(Histories.of_tracks(ROWS), np.roll(ROWS, 1), on_block)) == NUM_RING_TRACKS
    )
    for recall in (None, 0.9):
        search = ranker.lists(K, recall=recall)
        assert counted(search.collect) == search.num_queries == NUM_RING_TRACKS


def test_nothing_is_asked_of_no_queries(ranker: Ranker) -> None:
    nobody = ROWS[:0]
    assert len(ranker.ranks(Histories.of_tracks(nobody), nobody, nothing)) == 0


def test_ranks_of_sessions_do_not_depend_on_the_other_queries(ranker: Ranker, ring: PairDataModule) -> None:
    pairs = ring.pairs["test"]
    pairs = pairs.where(pairs.previous != pairs.following)
    histories = ring.histories(pairs)
    ranks = ranker.ranks(histories, pairs.following, nothing)
    assert ((ranks >= 1) & (ranks < NUM_RING_TRACKS)).all()
    some = np.arange(len(pairs)) % 5 == 3
    np.testing.assert_array_equal(ranker.ranks(histories.where(some), pairs.following[some], nothing), ranks[some])


def test_approximate_lists_hold_the_share_of_the_exact_ones_that_they_report(ranker: Ranker) -> None:
    exact, _ = ranker.lists(K).collect()
    search = ranker.lists(K, recall=1.0)
    (rows, scores), share = search.collect(), search.recall
    assert rows.shape == scores.shape == exact.shape
    assert (rows != ROWS[:, None]).all()
    found = np.mean([len(set(ours) & set(best)) / K for ours, best in zip(rows.tolist(), exact.tolist(), strict=True)])
    if share is None:
        assert found == 1
    else:
        assert found - 0.05 <= share <= 1  # ties count as found, and the query itself is among those searched for


def test_lists_of_some_tracks_are_those_among_the_lists_of_all(ranker: Ranker) -> None:
    search, some = ranker.lists(K), ROWS[::7]
    assert search.recall is None
    for ours, expected in zip(ranker.lists(K, some).collect(), search.collect(), strict=True):
        assert np.array_equal(ours, expected[some])


@pytest.mark.parametrize("k", [0, NUM_RING_TRACKS])
def test_a_list_that_the_catalogue_cannot_fill_is_refused(ranker: Ranker, k: int) -> None:
    with pytest.raises(InputError, match="k must"):
        ranker.lists(k).collect()


@pytest.mark.parametrize("name", ["convex", "recent", "attribute_neighbours"])
def test_from_shards_it_is_the_same(name: str, ring: PairDataModule, shards: PairDataModule) -> None:
    """A head, a model that reads the calendar, and one that reads attributes."""
    with torch.inference_mode(mode=False):
        ours, again = (fitted((name, "last"), data) for data in (ring, shards))
    pairs, same = ring.pairs["test"], shards.pairs["test"]
    ranks = ours.ranks(ring.histories(pairs), pairs.following, nothing)
    np.testing.assert_array_equal(again.ranks(shards.histories(same), same.following, nothing), ranks)
    for left, right in zip(again.lists(K).collect(), ours.lists(K).collect(), strict=True):
        np.testing.assert_array_equal(left, right)
