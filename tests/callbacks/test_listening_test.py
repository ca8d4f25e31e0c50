"""The listening test of a run: what is logged, written and kept, and that it chooses an epoch only if asked."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from pytorch_lightning import Trainer

from segue.callbacks.assembly import build_callbacks
from segue.callbacks.listening_test import Listening
from segue.callbacks.run_context import RunContext
from segue.datamodules.pair_datamodule import PairDataModule
from segue.errors import InputError
from segue.runs.recommendations import Recommendations
from segue.simulation.listening import ListeningTest, from_lists
from segue.simulation.policies import Lists
from segue.simulation.world import World
from segue.statistics.intervals import MeanInterval
from segue.statistics.online import TIME, VAL_TIME
from tests.callbacks.test_callbacks import export_of
from tests.callbacks.test_pictures import MONITOR, ranker
from tests.conftest import ROOT, build_datamodule
from tests.models.plain import LAST_TRACK, SESSION
from tests.simulation.test_mixed_logs import logs_of

SESSIONS = 600
QUIET: dict[str, Any] = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False}
QUIET |= {"enable_model_summary": False, "enable_checkpointing": False}


@pytest.fixture(scope="module")
def simulated(world: World, tmp_path_factory: pytest.TempPathFactory) -> PairDataModule:
    folder = tmp_path_factory.mktemp("simulated")
    datamodule = build_datamodule(folder, folder, prepare=logs_of(world, sessions=400))
    datamodule.prepare_data()
    datamodule.setup()
    return datamodule


def partial_of(run: Path, **changes: Any) -> Callable[[RunContext], Listening]:
    usual = {"world": None, "sessions": SESSIONS, "seed": 1, "k": 5, "num_lists": 3, "hits": 20, "neighbours": 8}
    return partial(Listening, **{**usual, "path": str(run / "listening.parquet"), "monitor": MONITOR, **changes})


def after_test(
    datamodule: PairDataModule, run: Path, *, export: bool = True, context_of: Any = LAST_TRACK, **changes: Any
) -> RunContext:
    """The context after the test of a model without training."""
    context = RunContext(datamodule=datamodule)
    chosen = {
        "export": (lambda _: export_of(datamodule, run, index="exact")) if export else None,
        "listening": partial_of(run, **changes),
    }
    callbacks, _ = build_callbacks(chosen, context, monitor=MONITOR)
    Trainer(callbacks=callbacks, **QUIET).test(ranker(datamodule, context=context_of), datamodule, verbose=False)
    return context


def test_a_run_logs_the_mean_over_reported_listeners_with_references(
    simulated: PairDataModule, world: World, tmp_path: Path
) -> None:
    context = after_test(simulated, tmp_path)
    metrics, frame = context.history.metrics(), pd.read_parquet(tmp_path / "listening.parquet")
    lists = Recommendations.read(tmp_path / "r.jsonl", simulated.catalog).rows
    heard = ListeningTest(world, sessions=SESSIONS, seed=1, hits=20).play(from_lists(lists), "test")
    interval = MeanInterval.of(heard.time, 0.95)
    assert metrics[TIME] == pytest.approx(interval.mean)
    assert metrics[f"{TIME}_half_width"] == pytest.approx(interval.upper - interval.mean)
    means = frame.groupby("part")["mean_time_per_session"].mean()
    assert (metrics[TIME], metrics[VAL_TIME]) == pytest.approx((means["test"], means["val"]))
    assert set(frame["listener"]) == set(world.listeners.user_ids.tolist())
    assert frame["test"].nunique() == 1
    floors = [metrics[f"{TIME}_{name}"] for name in ("random_floor", "popular_floor", "true_neighbours_reference")]
    assert floors[0] < floors[2]
    assert {f"online/{name}" for name in ("coverage", "share_of_hits", "share_of_same_artist")} <= metrics.keys()
    assert context.history.clock.seconds["listening"] > 0


def test_a_run_with_the_session_is_played_as_simulate_would(
    simulated: PairDataModule, world: World, tmp_path: Path
) -> None:
    session = partial(SESSION, decay=0.7, skipped=-0.2, repeats="never")
    folder = Path(simulated.path).parent
    data = build_datamodule(folder, tmp_path, prepare=logs_of(world, sessions=400), history=4)
    data.prepare_data()
    data.setup()
    context = after_test(data, tmp_path, context_of=session)
    policy = Lists.of(
        path=str(tmp_path / "r.jsonl"), pick="uniform", artist_gap=0, context=None, num_lists=3, world=world
    )
    heard = ListeningTest(world, sessions=SESSIONS, seed=1, hits=20).play(policy.choose, "test")
    assert context.history.metrics()[TIME] == pytest.approx(heard.time.mean(), abs=1e-12)
    without = after_test(data, tmp_path, export=False, context_of=session).history.metrics()
    assert without == context.history.metrics()
    last = after_test(simulated, tmp_path).history.metrics()
    assert last[TIME] != context.history.metrics()[TIME]


def test_logs_without_a_world_are_not_played(ring: PairDataModule, tmp_path: Path) -> None:
    metrics = after_test(ring, tmp_path).history.metrics()
    assert not [name for name in metrics if name.startswith("online/")]
    assert not (tmp_path / "listening.parquet").exists()


def test_logs_of_simulate_are_played_if_their_world_is_named(
    simulated: PairDataModule, world: World, tmp_path: Path
) -> None:
    logs = build_datamodule(Path(simulated.path), tmp_path)
    logs.setup()
    named = after_test(logs, tmp_path, world=world).history.metrics()
    assert named[TIME] == after_test(simulated, tmp_path).history.metrics()[TIME]


def test_a_world_without_the_tracks_of_the_logs_is_refused(ring: PairDataModule, world: World, tmp_path: Path) -> None:
    extra = build_datamodule(Path(ring.path), tmp_path)
    extra.setup()
    small = world.catalog.track_ids.max()
    extra.catalog.track_ids[-1] = small + 1
    with pytest.raises(InputError, match=rf"callbacks.listening.world has 400 tracks, and track .*{small + 1}"):
        partial_of(tmp_path, world=world)(RunContext(datamodule=extra))


def fitted(datamodule: PairDataModule, run: Path, monitor: str) -> RunContext:
    context = RunContext(datamodule=datamodule)
    chosen = {"listening": partial_of(run, monitor=monitor)}
    callbacks, _ = build_callbacks(chosen, context, monitor=monitor)
    Trainer(callbacks=callbacks, max_epochs=2, num_sanity_val_steps=0, **QUIET).fit(ranker(datamodule), datamodule)
    return context


def test_epochs_are_played_only_if_the_monitor_asks_for_it(simulated: PairDataModule, tmp_path: Path) -> None:
    usual, asked = (fitted(simulated, tmp_path, monitor).history for monitor in (MONITOR, VAL_TIME))
    assert len(usual.epochs) == 2
    assert not any(VAL_TIME in epoch for epoch in usual.epochs)
    assert min(epoch[VAL_TIME] for epoch in asked.epochs) > 1
    assert not [name for name in asked.epochs[0] if name == TIME]  # of listeners that choose nothing


def test_a_monitor_of_listeners_needs_the_callback_and_logs_of_a_world(
    simulated: PairDataModule, ring: PairDataModule, tmp_path: Path
) -> None:
    chosen = {"listening": partial_of(tmp_path, monitor=VAL_TIME)}
    for some, datamodule in (({}, simulated), ({"listening": None}, simulated), (chosen, ring)):
        with pytest.raises(InputError, match=r"it needs callbacks.listening, and logs of a simulated world \("):
            build_callbacks(some, RunContext(datamodule=datamodule), monitor=VAL_TIME)


def test_the_references_are_the_recommenders_that_simulate_plays() -> None:
    def conf(name: str) -> Any:
        return yaml.safe_load((ROOT / "conf" / name).read_text())

    settings = conf("callbacks/default.yaml")["listening"]
    assert settings["hits"] == conf("arm/popular.yaml")["num_tracks"]
    assert settings["neighbours"] == conf("arm/true_neighbours.yaml")["num_tracks"]
    assert conf("arm/recommendations.yaml")["pick"] == "uniform"
    num_lists = [conf(name)["num_lists"] for name in ("arm/recommendations.yaml", "serve.yaml")]
    assert num_lists == [settings["num_lists"]] * 2
