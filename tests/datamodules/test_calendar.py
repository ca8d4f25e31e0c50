"""How fast plays age: known answers on a radio whose rotation changes, and on one whose rotation does not."""

from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from segue.callbacks.ranking_metrics import measured
from segue.catalog import Calendar
from segue.datamodules.calendar import calendar_of
from segue.datamodules.pair_datamodule import PairDataModule
from segue.datamodules.pairs.pairs import Pairs
from segue.datamodules.splits import SPLITS
from segue.errors import InputError
from segue.models.retrieval.ranks import ranks_by_plays
from segue.statistics.ranking import accuracy
from tests.conftest import make_listens, make_vocabulary, read_datamodule
from tests.contracts.building import composed, fit
from tests.datamodules.describing.building import DAY, START, Play, data_of
from tests.radio_logs import write_radio_log

SMALL = {"sessions_a_day": 20, "num_back": 300}
Read = Callable[..., PairDataModule]


@pytest.fixture
def radio(tmp_path: Path) -> Read:
    """Reads a radio log of a shape, with settings of a datamodule."""

    def read(shape: dict[str, Any], **changes: Any) -> PairDataModule:
        path = write_radio_log(tmp_path, 1, **SMALL | shape)
        return read_datamodule(path, tmp_path / "out", source="table", **{"split": "auto", **changes})

    return read


def its_calendar(datamodule: PairDataModule) -> Calendar:
    calendar = datamodule.vocabulary.calendar
    assert calendar is not None
    return calendar


def test_the_trend_compares_the_plays_of_now_with_all_and_few_plays_say_little() -> None:
    calendar = Calendar(age=np.array([4.0, 2.0, 1.0, 0.0], np.float32), half_life=2.0)
    listens = make_listens([[(0, 1.0), (1, 1.0)], [(0, 0.1)], [(2, 1.0)], [(2, 1.0)]])
    aged = np.array([0.25 + 0.5, 0.25, 0.5**0.5 + 1, 0])
    np.testing.assert_allclose(calendar.aged_plays(listens, 4), aged)
    newest = [replace(calendar, newest_days=days).newest_plays(listens, 4).tolist() for days in (2.0, 2.5, None)]
    assert newest == [[0, 0, 2, 0], [1, 0, 2, 0], [2, 1, 2, 0]], "that many days ago is not in the last days"
    words = replace(make_vocabulary([0, 1, 2, 3], listens=listens), plays=np.array([2, 1, 2, 0]))
    assert (words.trend == 1).all()
    assert words.popularity is words.plays
    words = replace(words, calendar=calendar)
    expected = (aged + 1) / (np.array([2, 1, 2, 0]) * aged.sum() / 5 + 1)
    np.testing.assert_allclose(words.trend, expected, rtol=1e-6)
    assert words.trend[3] == 1, "nothing is known"
    assert words.popularity.tolist() == [2, 1, 3, 0]
    assert words.by_popularity.tolist() == [2, 0, 1, 3]


def test_where_the_rotation_changes_validation_chooses_the_days_of_this_one(radio: Read) -> None:
    datamodule = radio({}, half_life="auto")
    calendar, val, plays = its_calendar(datamodule), datamodule.pairs["val"], datamodule.vocabulary.plays
    assert calendar.half_life in (1, 2, 3)
    assert calendar.newest_days in (3, 4, 5)
    known = partial(ranks_by_plays, previous=val.previous, following=val.following)
    assert np.mean(known(datamodule.vocabulary.recent) <= 10) > 4 * np.mean(known(plays) <= 10)
    [line] = [line for line in datamodule.remarks() if line.startswith("calendar")]
    assert f"plays count half after {calendar.half_life:g} day" in line
    assert f"the last {calendar.newest_days:g} days of training" in line
    assert "datamodule.half_life=auto" in line


def test_where_nothing_changes_all_plays_count_alike(radio: Read) -> None:
    datamodule = radio({"days_of_rotation": 1000}, half_life="auto")
    assert its_calendar(datamodule).half_life is None
    assert any("all plays count alike (chosen" in line for line in datamodule.remarks())
    assert its_calendar(radio({})).half_life is None, "nobody has asked for one"


def test_a_half_life_needs_a_clock_and_earlier_sessions_in_training(radio: Read) -> None:
    for changes in ({"columns": {"timestamp": None}}, {"split": "session"}, {"split": "pair"}):
        assert radio({}, half_life="auto", **changes).vocabulary.calendar is None
        with pytest.raises(InputError, match=r"datamodule.half_life=3 lets older plays count less, and .* no clock"):
            radio({}, half_life=3, **changes)


def test_a_head_knows_the_rotation_of_today(radio: Read) -> None:
    """At least 0.95 of the most played tracks of the last days, where nothing else decides."""
    datamodule = radio({}, half_life="auto", history=20, batch_size=1024)
    torch.manual_seed(1)
    config = composed("datamodule=table", "recipe=radio", "context=session")
    ranker = instantiate(config.ranker, _convert_="all")(vocabulary=datamodule.vocabulary)
    fit(ranker, datamodule, epochs=2)
    settings = OmegaConf.to_container(config.callbacks.ranking, resolve=True)
    assert isinstance(settings, dict)
    means, queries = measured(ranker.eval(), datamodule, "val", {str(name): value for name, value in settings.items()})
    previous, following = (datamodule.catalog.rows_of(queries[name].to_numpy()) for name in ("previous", "following"))
    ranks = ranks_by_plays(datamodule.vocabulary.recent, previous, following)
    for name in ("recall_at_10", "ndcg_at_10"):
        recent = accuracy(ranks)[name].mean()
        assert means[name] > 0.95 * recent
        assert recent > 2 * means[f"{name}_popular_floor"]


def test_a_session_whose_first_play_was_left_out_is_not_older_than_those_before() -> None:
    data = data_of([Play(listener, START + listener, 0, 1.0) for listener in range(4)])
    sessions = replace(data.sessions, timestamp=np.array([0, 3, 1, 5]) * DAY)
    kinds = {"played_ratio": np.float32}
    nothing = Pairs(**{one.name: np.empty(0, kinds.get(one.name, np.int64)) for one in fields(Pairs)})
    divided = replace(data, sessions=sessions, part=np.zeros(4, np.int8), pairs=dict.fromkeys(SPLITS, nothing))
    calendar = calendar_of(divided, None)
    assert calendar is not None
    assert calendar.age.tolist() == [5, 2, 2, 0]
