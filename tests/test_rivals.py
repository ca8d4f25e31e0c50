"""The study of rivals: trials, the file of pieces, and ranks by vectors of other libraries."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from experiments.rivals import study, tables
from experiments.rivals.fitting import Fitted, ranks_by_vectors
from experiments.rivals.sequence_parts import cut, softmax_loss
from experiments.rivals.spaces import DATA, MODELS, Log, Model, settings_of
from tests.contracts.building import composed

IN_PROCESS = [name for name, model in MODELS.items() if model.kind in ("counting", "head")]


@pytest.mark.parametrize("name", IN_PROCESS)
def test_the_words_of_every_trial_compose(name: str) -> None:
    model, data = MODELS[name], next(iter(MODELS[name].of_data), "yes")
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
        study.append({**line, "settings": f"dim={number}", "fit_s": "1800"})
    assert [key[2:] for key in left()] == [("final", "1"), ("final", "2")]
    more = study.missing("yes", "convex, session", trials=9, hours=1, seeds=1)
    assert [piece.part for piece in more] == ["final"]  # the trials took an hour: there is no third one
    assert study.chosen("yes", "convex, session") == ("dim=1",)
    for number, settings in (("1", "dim=1"), ("2", "dim=0")):
        line = {**dict.fromkeys(study.COLUMNS, ""), "data": "yes", "model": "convex, session", "part": "final"}
        study.append({**line, "number": number, "settings": settings})
    [first, second] = study.missing("yes", "convex, session", trials=2, hours=1, seeds=2)  # their ranks are not here
    for piece in (first, second):
        piece.ranks_path.parent.mkdir(parents=True, exist_ok=True)
        piece.ranks_path.touch()
    assert [key[2:] for key in left()] == [("final", "2")]  # of a trial that is not the best any more


def test_networks_have_short_trials_and_the_best_are_trained_to_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "PIECES", tmp_path / "pieces.csv")
    monkeypatch.setattr(study, "RANKS", tmp_path)

    def fit(_: str, __: Model, settings: Sequence[str], *, seed: int, tests: bool, epochs: int) -> Fitted:
        """Trial 1 is the best of the short ones, and trial 4 of those to the end."""
        assert seed == 1
        number = next(number for number in range(6) if settings_of("yes", "SASRec", number) == tuple(settings))
        value = [0.1, 0.6, 0.2, 0.4, 0.5, 0.3][number] if epochs < 10 else {1: 0.7, 3: 0.6, 4: 0.8}[number]
        ranks = np.array([1.0, 5.0]) if tests else None
        return Fitted(val={"ndcg_at_10": value}, ranks=ranks, fit_s=1800, query_ms=1)

    monkeypatch.setattr(study, "fit", fit)
    monkeypatch.setattr(study, "queries_table", lambda _: pd.DataFrame({"session": [0, 1]}))
    ran = []
    for piece in study.missing("yes", "SASRec", trials=6, hours=8, seeds=1):
        study.run(piece)
        ran.append(piece.key[2:])
    assert ran == [*(("short", str(number)) for number in range(6)), *(("trial", nth) for nth in "143"), ("final", "1")]
    assert study.chosen("yes", "SASRec") == settings_of("yes", "SASRec", 4)
    result = tables.results("yes", study.known(), tmp_path)["SASRec"]
    assert (result.trials, result.val) == (6, 0.8)
    assert not [*study.missing("yes", "SASRec", trials=9, hours=4.5, seeds=1)]  # nine trials took 4.5 hours


def test_the_softmax_of_the_networks_is_that_of_torch() -> None:
    rng = np.random.default_rng(0)
    queries, tracks = (torch.from_numpy(rng.normal(size=size)).requires_grad_() for size in ((600, 4), (9, 4)))
    following = torch.from_numpy(rng.integers(9, size=600))
    losses = cross_entropy(queries @ tracks.T, following), softmax_loss(queries, tracks, following)
    assert_close(*losses)
    for left, right in zip(*(torch.autograd.grad(3 * loss, (queries, tracks)) for loss in losses), strict=True):
        assert_close(left, right)


def test_long_sessions_are_cut_so_that_each_track_follows_once() -> None:
    assert [piece.tolist() for piece in cut(torch.arange(8), 3)] == [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7]]
    assert [piece.tolist() for piece in cut(torch.arange(4), 3)] == [[0, 1, 2, 3]]
    assert not cut(torch.arange(1), 3)


def test_ranks_by_vectors_are_those_of_sorting() -> None:
    """Known tracks by score, then unknown ones by plays, then those that were heard; `previous` is left out."""
    plays = np.array([5, 1, 9, 3, 7, 2])
    item_rows, items = np.array([0, 1, 2]), np.array([[1.0, 0.0], [0.5, 0.0], [0.9, 0.0]])
    queries = np.array([[1.0, 0.0], [0.0, 0.0]])
    heard, previous = np.array([[5, 2, -1], [5, -1, -1]]), np.array([5, 5])
    orders = [[0, 1, 4, 3, 2], [2, 4, 0, 3, 1]]
    for line, order in enumerate(orders):
        for rank, following in enumerate(order, start=1):
            both = np.array([following, following])
            ranks = ranks_by_vectors(
                queries,
                items=items,
                item_rows=item_rows,
                heard=heard,
                previous=previous,
                following=both,
                plays=plays,
                block=1,
            )
            assert ranks[line] == rank
