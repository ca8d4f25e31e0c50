"""A mixture of finished runs: the probabilities, the weights, what is dropped, and what is refused."""

import json
from collections.abc import Iterator
from copy import copy
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from pytorch_lightning import LightningModule

from segue.datamodules.pair_datamodule import PairDataModule
from segue.errors import InputError
from segue.histories import Histories
from segue.models import counted
from segue.models.counted import Chosen
from segue.models.fitted import FittedModel
from segue.models.mixture import Members, Mixture, fit_weights
from segue.models.pair_ranker import PairRanker
from segue.models.ranker import Ranker
from segue.picking.counted_scores import CountedScores
from segue.picking.session_query import SessionQuery, boosts_of
from segue.runs.session_vectors import FILE, SessionVectors
from tests.conftest import NUM_RING_TRACKS, build_datamodule, make_search
from tests.contracts.building import composed, fit, make_ranker
from tests.e2e.test_train import train
from tests.models.plain import LAST_TRACK

ROWS = np.arange(NUM_RING_TRACKS)


def counted_auto() -> Any:
    """The factory of what is counted around heads by default."""
    return instantiate(composed("recipe=playlists").counted, _convert_="all")


@pytest.fixture(scope="module")
def ring(ring_logs: Path, tmp_path_factory: pytest.TempPathFactory) -> PairDataModule:
    datamodule = build_datamodule(ring_logs, tmp_path_factory.mktemp("mixture"), batch_size=512, history=4)
    datamodule.setup()
    return datamodule


@pytest.fixture(scope="module")
def members(ring: PairDataModule) -> dict[str, Ranker]:
    found = {}
    for name in ("rules", "neighbours", "popular"):
        found[name] = make_ranker(name, ring.vocabulary, "session")
        fit(cast("LightningModule", found[name]), ring, epochs=1)
    return found


@pytest.fixture(scope="module")
def of_order(ring: PairDataModule) -> Ranker:
    torch.manual_seed(0)
    words = ["model=gru4rec", "recipe=playlists", "model.dim=8", "context.encoder.dim=8"]
    made = instantiate(composed(*words).ranker, _convert_="all")(vocabulary=ring.vocabulary)
    fit(made, ring, epochs=1)
    found: Ranker = made.eval()
    return found


@pytest.fixture(scope="module")
def heads(ring: PairDataModule, of_order: Ranker) -> dict[str, Ranker]:
    """A weighted sum, and the order beside it; their widths differ."""
    torch.manual_seed(1)
    words = ["model=convex", "recipe=playlists", "model.dim=6", "context=session"]
    made = instantiate(composed(*words).ranker, _convert_="all")(vocabulary=ring.vocabulary)
    fit(made, ring, epochs=1)
    return {"sum": cast("Ranker", made.eval()), "gru4rec": of_order}


class Given(Members):
    """Members that are in memory."""

    rankers: dict[str, Ranker]

    def read(self, name: str) -> Ranker:
        return self.rankers[name]


def mixture_of(ring: PairDataModule, members: dict[str, Ranker], counted: Any = None) -> Mixture:
    def given(vocabulary: Any) -> Members:
        made = Given(vocabulary, models=dict.fromkeys(members, "no folder"))
        made.rankers = members
        return made

    made = Mixture(vocabulary=ring.vocabulary, model=given, context=LAST_TRACK, counted=counted)
    made.on_fit_start()
    return made


@pytest.fixture
def mixture(ring: PairDataModule, members: dict[str, Ranker]) -> Mixture:
    return mixture_of(ring, members)


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def test_weights_are_those_that_drew_the_targets_also_where_most_are_none_of_the_best(
    ring: PairDataModule, heads: dict[str, Ranker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segue.models.mixture._MOST_CANDIDATES", 3)
    rng, made = np.random.default_rng(0), mixture_of(ring, heads)
    scores = torch.from_numpy(rng.normal(size=(2, 20_000, len(ring.vocabulary.catalog)))).float()
    drawn_from = (0.8 * scores[0] + 0.2 * scores[1]).softmax(1)
    drawn_from[:, 0] = 0  # the track of the query is no candidate
    targets = torch.multinomial(drawn_from, 1, generator=torch.Generator().manual_seed(0))[:, 0].numpy()
    each = [(lambda _, own=own: own.log_softmax(1)) for own in scores]
    seen = made._candidates(each, Histories.of_tracks(np.zeros(len(targets), np.int64)), targets)
    assert len(seen) < len(targets) / 2
    weights = fit_weights(seen)
    assert weights[0] == pytest.approx(0.8, abs=0.05)
    with_noise = np.concatenate([seen, rng.normal(size=(*seen.shape[:2], 1))], axis=2)
    monkeypatch.setattr("segue.models.mixture._LEAST_WEIGHT", 0.1)
    np.testing.assert_allclose(fit_weights(with_noise), [*weights, 0], atol=1e-9, err_msg="a small weight is none")


def test_the_score_is_the_weighted_sum_of_what_each_adds(mixture: Mixture, members: dict[str, Ranker]) -> None:
    """That of a model that counts is what its share adds as a counted part of strength 1."""
    mixture.weights = {"rules": 0.25, "neighbours": 0.75}
    histories = Histories.of_tracks(ROWS)
    of_each = {name: np.log(1 + members[name].shares(histories).numpy() / 0.01) for name in mixture.weights}
    expected = 0.25 * of_each["rules"] + 0.75 * of_each["neighbours"]
    np.testing.assert_allclose(mixture.scoring()(histories), expected, atol=1e-5)
    np.fill_diagonal(expected, -np.inf)
    rows, scores = mixture.top(histories, 9)
    np.testing.assert_allclose(scores, -np.sort(-expected, axis=1)[:, :9], atol=1e-5)
    lists, of_lists = mixture.lists(9).collect()
    np.testing.assert_array_equal(lists, rows)
    np.testing.assert_array_equal(of_lists, scores)


def test_what_adds_nothing_is_dropped_and_weights_are_restored(ring: PairDataModule, mixture: Mixture) -> None:
    """On the ring the next track follows: popularity says nothing of it."""
    queries = ring.pairs["val"]
    mixture.fit_to(ring.histories(queries), queries.following)
    assert "popular" not in mixture.weights
    assert sum(mixture.weights.values()) == pytest.approx(1)
    lines = mixture.describe()
    assert any("popular: dropped" in line for line in lines)
    assert lines[-1].startswith("served       by the lists of the last track: not all of its runs are heads")
    state, weights = mixture.get_extra_state(), dict(mixture.weights)
    mixture.weights = dict.fromkeys(mixture.rankers, 1 / 3)
    mixture.set_extra_state(state)
    assert mixture.weights == weights
    del mixture.rankers
    assert "popular" not in mixture.rankers, "what was dropped is not needed again"
    assert any("popular: dropped" in line for line in mixture.describe())
    assert mixture.weights == weights


def test_what_is_counted_is_added_around_heads_and_models_that_count(
    ring: PairDataModule, members: dict[str, Ranker], of_order: Ranker
) -> None:
    mixture = mixture_of(ring, {"rules": members["rules"], "gru4rec": of_order}, counted_auto())
    histories = ring.histories(ring.pairs["val"]).part(0, 20)
    assert mixture.counts is not None
    mixture.counts.chosen = Chosen(1.5, 0.5)
    part = mixture.counted
    assert part is not None
    rows, played = histories.newest(10)
    found = CountedScores(part).of(rows, played, np.tile(ROWS, (len(rows), 1)))
    expected = 0.5 * of_order.scoring(alone=True)(histories) / (of_order.temperature or 1)
    expected += 0.5 * (1 + members["rules"].shares(histories) / 0.01).log()
    expected += 1.5 * (1 + torch.from_numpy(found) / 0.01).log()
    torch.testing.assert_close(mixture.scoring()(histories), expected)
    assert mixture.session_vectors() is None


def test_scores_of_heads_are_added_and_a_service_ranks_the_same(
    ring: PairDataModule, heads: dict[str, Ranker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for boost, head in zip((0.3, -0.2), heads.values(), strict=True):
        fitted = np.stack([np.append(np.linspace(boost, 0, 64), np.linspace(boost / 3, 0.05, 20)), np.zeros(84)])
        for name, value in {"fitted": fitted, "used": "boosts", "by_artist": True}.items():
            monkeypatch.setattr(head.context.repeats, name, value)
    mixture = mixture_of(ring, heads)
    mixture.fit_to(ring.histories(ring.pairs["val"]), ring.pairs["val"].following)
    assert len(mixture.weights) > 1, "each of the heads adds something"
    assert sum(mixture.weights.values()) == pytest.approx(1)
    vectors = mixture.session_vectors()
    assert vectors is not None
    vectors.write(tmp_path / FILE, ring.catalog)
    served = SessionVectors.read(tmp_path / FILE, ring.catalog)
    histories = ring.histories(ring.pairs["val"]).part(0, 40)
    shares = mixture.shares(histories).numpy()
    expected = sum(weight * heads[name].shares(histories).log().numpy() for name, weight in mixture.weights.items())
    for line, own in enumerate(shares):  # up to a constant
        known = own > 0
        differences = np.log(own[known]) - np.asarray(expected)[line, known]
        assert np.ptp(differences) < 1e-3
    rows, played = histories.newest(served.max_length)
    lists = np.tile(ROWS.astype(np.int32), (len(ROWS), 1))
    search = make_search(served, lists, ring.catalog.artist_of)
    found = search.best(rows, played, len(ROWS))
    num = int((shares > 0).sum(1).min())
    np.testing.assert_array_equal(found[:, :num], mixture.top(histories, num)[0])
    one = SessionQuery(served).of(rows, played) @ served.items.T
    assert np.ptp(one, axis=1).min() > 0.1, "scores differ"
    assert mixture.describe()[-1] == "served       with the session as the query"


def test_too_many_heads_are_not_served_with_the_session(ring: PairDataModule, heads: dict[str, Ranker]) -> None:
    many = {f"head{number}": heads["sum"] for number in range(9)}
    assert mixture_of(ring, many).session_vectors() is None, "18 parts"


def test_counts_around_heads_are_served_with_the_probabilities_that_were_validated(
    ring: PairDataModule, heads: dict[str, Ranker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Heads come without their own counted parts: what is counted is mixed once, with their sum."""
    for head in heads.values():
        fitted = np.stack([np.append(np.linspace(0.3, 0, 64), np.zeros(20)), np.zeros(84)])
        monkeypatch.setattr(head.context.repeats, "fitted", fitted)
        monkeypatch.setattr(head.context.repeats, "used", "boosts")
        monkeypatch.setattr(cast("PairRanker", head).counts, "chosen", Chosen(1.0, 0.5))
        assert head.counted is not None
    # with 16, scores are so large that single precision rounds them in the sixth digit after the point
    monkeypatch.setattr(counted, "STRENGTHS", tuple(one for one in counted.STRENGTHS if one <= 4))
    mixture = mixture_of(ring, heads, counted_auto())
    queries = ring.pairs["val"]
    mixture.fit_to(ring.histories(queries), queries.following)
    assert mixture.describe()[-2].startswith("counted      rules and neighbours: strength ")
    assert mixture.describe()[-1] == "served       with the session as the query"
    vectors = mixture.session_vectors()
    assert vectors is not None
    vectors.write(tmp_path / FILE, ring.catalog)
    served = SessionVectors.read(tmp_path / FILE, ring.catalog)
    assert served.counted is not None
    histories = ring.histories(queries).part(0, 40)
    rows, played = histories.newest(served.num_newest)
    query, counts = SessionQuery(served), CountedScores(served.counted)
    candidates = np.tile(ROWS, (len(rows), 1))
    of_session = query.of(rows, played)
    scores = of_session @ served.items.T
    counts.add(scores, rows, played, candidates)
    scores += boosts_of(served.boosts, candidates, histories.newest(64)[0])
    scores[np.arange(len(rows)), histories.previous] = -np.inf
    shares = mixture.shares(histories)
    np.testing.assert_allclose(torch.from_numpy(scores).softmax(1), shares, atol=1e-6)
    assert (shares - mixture.shares(histories, alone=True)).abs().max() > 0.01, "the counts matter"
    every = np.tile(ROWS.astype(np.int32), (len(ROWS), 1))
    search = make_search(served, every, ROWS)
    first = search.best(histories.newest(64)[0], histories.newest(64)[1], 1)[:, 0]
    np.testing.assert_array_equal(first, mixture.top(histories, 1)[0][:, 0])
    lists, of_lists = mixture.lists(5).collect()
    asked = ROWS[:1], np.full(1, np.nan, np.float32), int(lists[0, 0])
    explained = search.scores.explain(*asked)
    whole = sum(part[0] for name, part in explained.items() if name != "repeats")
    assert whole == pytest.approx(of_lists[0, 0], abs=1e-4)
    again, state = mixture_of(ring, heads, counted_auto()), BytesIO()
    torch.save(mixture.get_extra_state(), state)
    state.seek(0)
    again.set_extra_state(torch.load(state, weights_only=True))
    torch.testing.assert_close(again.shares(histories), shares)
    np.testing.assert_array_equal(again.lists(9).collect()[0], mixture.lists(9).collect()[0])


def test_counts_that_were_never_compared_are_described_alike_before_and_after_a_checkpoint(
    ring: PairDataModule, heads: dict[str, Ranker]
) -> None:
    mixture, again = (mixture_of(ring, heads, counted_auto()) for _ in range(2))
    again.set_extra_state(mixture.get_extra_state())
    line = "counted      nothing: validation has shown no strength that ranks better than the head alone"
    assert mixture.describe()[-2] == again.describe()[-2] == line


def test_a_mixture_is_a_run_of_another(ring: PairDataModule, heads: dict[str, Ranker]) -> None:
    """Without what is counted around it."""
    mixture, histories = mixture_of(ring, heads, counted_auto()), ring.histories(ring.pairs["val"]).part(0, 40)
    assert mixture.counts is not None
    mixture.counts.chosen = Chosen(1.5, 0.5)
    outer = mixture_of(ring, {"inner": cast("Ranker", mixture), "sum": heads["sum"]}).shares(histories)
    own = [ranker.shares(histories, alone=True).log() for ranker in (mixture, heads["sum"])]
    torch.testing.assert_close(outer, (0.5 * own[0] + 0.5 * own[1]).softmax(1))


def test_a_fit_that_stops_early_has_the_weights_that_it_came_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """An optimizer that gives up returns what is best so far, and the weights are divided by their sum."""
    candidates = np.random.default_rng(0).random((50, 4, 2))
    stopped = SimpleNamespace(x=np.array([0.5, 1.5]), success=False)
    monkeypatch.setattr("segue.models.mixture.minimize", lambda *_, **__: stopped)
    assert fit_weights(candidates).tolist() == [0.25, 0.75]
    stopped.x = np.zeros(2)
    assert fit_weights(candidates).tolist() == [0.5, 0.5], "no weights are no mixture"


def test_a_run_whose_scores_are_no_probabilities_is_refused(
    ring: PairDataModule, heads: dict[str, Ranker], monkeypatch: pytest.MonkeyPatch
) -> None:
    of_shares = copy(heads["sum"])
    of_shares.temperature = None
    monkeypatch.setattr("segue.models.mixture.FittedModel.read", lambda *_, **__: SimpleNamespace(ranker=of_shares))
    with pytest.raises(InputError, match=r"^model.models.a=/.*/x has no probabilities; train it with loss=softmax"):
        Members(ring.vocabulary, models={"a": "x", "b": "y"}).read("a")


def test_a_mixture_of_heads_of_the_last_track_is_served_by_its_lists(
    ring: PairDataModule, heads: dict[str, Ranker], monkeypatch: pytest.MonkeyPatch
) -> None:
    mixture = mixture_of(ring, heads, counted_auto())
    for head in heads.values():
        of_last = cast("SessionVectors", head.session_vectors())
        monkeypatch.setattr(head, "session_vectors", lambda given=of_last: replace(given, context="last"))
        monkeypatch.setattr(head.context, "is_last", True)
    assert mixture.describe()[-1] == "served       by the lists of the last track, as its runs"
    assert mixture.counts is not None
    mixture.counts.chosen = Chosen(1.0, 0.0)
    vectors = mixture.session_vectors()
    assert vectors is not None
    assert vectors.counted is not None
    assert vectors.counted.age_weights.tolist() == [1], "earlier tracks are no part of the query"


def test_a_model_that_only_has_an_order_has_its_shares(ring: PairDataModule, members: dict[str, Ranker]) -> None:
    [shares] = members["popular"].shares(Histories.of_tracks(ROWS[:1])).numpy()
    plays = np.where(ROWS == 0, 0, ring.vocabulary.popularity)
    np.testing.assert_allclose(shares, plays / plays.sum(), rtol=1e-5)


def test_what_a_run_cannot_say_is_said_of_it(ring: PairDataModule) -> None:
    with pytest.raises(InputError, match=r"cannot read .*nowhere/recommendations.jsonl"):
        Members(ring.vocabulary, models={"a": "nowhere", "b": "nowhere"}).read("a")


def test_a_mixture_has_no_context(ring: PairDataModule) -> None:
    for words in (["context=session"], ["context.max_length=5", "context.repeats=never"]):
        config = composed("model=mixture", "model.models={a: a, b: b}", *words).ranker
        with pytest.raises(InputError, match=r"have contexts of their own, .* use context=last"):
            instantiate(config, _convert_="all")(vocabulary=ring.vocabulary)


@pytest.fixture(scope="module")
def of_folders(ring_logs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two refitted runs and their mixture, below `a`, `b` and `mixed`."""
    cwd = tmp_path_factory.mktemp("folders")
    common = ["datamodule=botify", f"datamodule.path={ring_logs}", "logger=none", "callbacks.plots=null"]
    train(cwd, *common, "model=rules", "hydra.run.dir=a")
    train(cwd, *common, "model=neighbours", "hydra.run.dir=b")
    train(cwd, *common, "model=mixture", "model.models={a: a, b: b}", "hydra.run.dir=mixed")
    return cwd


def test_a_refit_mixes_the_refitted_models_with_the_weights_of_validation(of_folders: Path) -> None:
    tested, exported = (FittedModel.read(of_folders / "mixed", "m", evaluated=one).ranker for one in (True, False))
    assert isinstance(tested, Mixture)
    assert isinstance(exported, Mixture)
    assert tested.weights == exported.weights
    assert tested.weights != dict.fromkeys("ab", 0.5), "validation weights them"
    for mixture, evaluated in ((tested, True), (exported, False)):
        for name, own in mixture.rankers.items():
            run = FittedModel.read(of_folders / name, name, evaluated=evaluated).ranker
            np.testing.assert_array_equal(own.lists(5).collect()[1], run.lists(5).collect()[1])
    assert (tested.lists(5).collect()[1] != exported.lists(5).collect()[1]).any()


def test_a_mixture_of_heads_is_exported_with_what_all_sessions_counted(of_folders: Path, ring_logs: Path) -> None:
    common = ["datamodule=botify", f"datamodule.path={ring_logs}", "logger=none", "callbacks.plots=null"]
    of_head = ["recipe=playlists", "context=session", "model.dim=8", "trainer.max_epochs=1"]
    train(of_folders, *common, *of_head, "model=track", "hydra.run.dir=d")
    train(of_folders, *common, *of_head, "model=mean", "hydra.run.dir=e")
    done = train(of_folders, *common, "model=mixture", "model.models={d: d, e: e}", "hydra.run.dir=heads")
    assert "served       with the session as the query" in done.stdout
    weights = json.loads((of_folders / "heads" / "metrics.json").read_text())
    assert weights["counted_strength"] > 0
    tables = []
    for evaluated in (True, False):
        model = FittedModel.read(of_folders / "heads", "m", evaluated=evaluated)
        folder = of_folders / "heads" / "evaluated" if evaluated else of_folders / "heads"
        vectors = SessionVectors.read(folder / FILE, model.catalog)
        assert vectors.counted is not None
        assert model.ranker.counted is not None
        np.testing.assert_array_equal(vectors.counted.shares, model.ranker.counted.shares)
        tables.append(vectors.counted.shares)
        every, rows = np.tile(ROWS.astype(np.int32), (len(ROWS), 1)), np.array([[7, 6, 5]])
        search = make_search(vectors, every, model.catalog.artist_of)
        found = search.best(rows, np.ones((1, 3), np.float32), 5)
        np.testing.assert_array_equal(found[0], model.top(rows[0, ::-1].copy(), np.ones(3, np.float32), 5)[0])
    assert tables[0].shape != tables[1].shape or (tables[0] != tables[1]).any(), "a refit counts all sessions"


def test_the_tested_mixture_is_exported_if_a_run_has_no_refit(of_folders: Path, ring_logs: Path) -> None:
    common = ["datamodule=botify", f"datamodule.path={ring_logs}", "logger=none", "callbacks.plots=null"]
    train(of_folders, *common, "model=rules", "refit=none", "hydra.run.dir=c")
    train(of_folders, *common, "model=neighbours", "refit=none", "hydra.run.dir=f")
    done = train(of_folders, *common, "model=mixture", "model.models={c: c, f: f}", "hydra.run.dir=as_tested")
    assert "refit        none, the tested model is exported: model.models." in done.stdout
    assert not (of_folders / "as_tested" / "refit.json").exists()
    exported = FittedModel.read(of_folders / "as_tested", "m").ranker
    tested = FittedModel.read(of_folders / "mixed", "m", evaluated=True).ranker
    histories = Histories.of_tracks(ROWS)
    torch.testing.assert_close(exported.shares(histories), tested.shares(histories))


def test_a_run_that_has_not_learned_the_sessions_of_the_mixture_is_refused(
    of_folders: Path, ring: PairDataModule
) -> None:
    others = replace(ring.vocabulary, plays=ring.vocabulary.plays + 1)
    with pytest.raises(InputError, match=r"^model.models.a=/.*/a was trained on other sessions .* are refitted if the"):
        Members(others, models={name: str(of_folders / name) for name in "ab"}).read("a")


def test_a_mixture_needs_two_runs(ring: PairDataModule) -> None:
    with pytest.raises(
        InputError, match=r"model.models must give two finished runs or more, each with a name, got None; such"
    ):
        instantiate(composed("model=mixture").ranker, _convert_="all")(vocabulary=ring.vocabulary)
