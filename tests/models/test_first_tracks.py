"""First tracks of sessions, ranked from the listener's past, against loops; and what a run reports of them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import rankdata

from segue.callbacks.ranking_metrics import measured
from segue.histories import Histories
from segue.models.first_tracks import ranks_of_first_tracks
from segue.models.listener_part import ListenerPart
from segue.picking.listener_scores import features_of, past_of
from tests.conftest import build_datamodule, make_vocabulary
from tests.models.plain import COSINES
from tests.models.test_listener_part import WEIGHTS, habit_logs, log_of, slow_past, trained

NUM_TRACKS = 30
ARTISTS = np.arange(NUM_TRACKS) // 3


def firsts_of(seed: int) -> Histories:
    """The first track of each session, before which nothing was heard."""
    histories = log_of(seed, num_sessions=60, num_listeners=12)
    assert histories.timeline is not None
    first = np.flatnonzero(np.diff(histories.timeline.session, prepend=-1))
    return replace(histories, last=first, length=0 * first, previous=histories.tracks[first])


@pytest.mark.parametrize("seed", [0, 1])
def test_a_first_track_is_ranked_by_the_favourites_and_the_past_and_by_plays_without_one(seed: int) -> None:
    vocabulary, histories = make_vocabulary(ARTISTS), firsts_of(seed)
    torch.manual_seed(seed)
    scorer, plays = COSINES(vocabulary, dim=4, alpha=0.5), np.random.default_rng(seed).permutation(NUM_TRACKS)
    following, timeline, num_new = histories.tracks[histories.last], histories.timeline, 0
    assert timeline is not None
    with torch.inference_mode():
        found = ranks_of_first_tracks(scorer, ListenerPart(vocabulary, WEIGHTS), plays, histories, following)
        queries, items = scorer.query_vectors().numpy(), scorer.item_vectors().numpy()
    for query, track in enumerate(following.tolist()):
        past = slow_past(histories, query)
        scores = plays.astype(float)
        if (past["shares"] > 0).any():
            loved = past[past["shares"] > 0]["track"]  # fewer than NUM_FAVOURITES
            scores = items @ queries[loved].mean(0)
            now_ms = timeline.timestamp[histories.last[query : query + 1]]
            [features], [artists] = features_of(past_of(past[None], np.empty((1, 0), np.int64), now_ms), ARTISTS)
            for feature, heard, artist in zip(features, past["track"].tolist(), artists.tolist(), strict=True):
                scores[heard] += feature[:7] @ WEIGHTS[:7]
                num_same = (artists == artist).sum()
                scores[artist == ARTISTS] += feature[7:] @ WEIGHTS[7:] / num_same
        num_new += not (past["shares"] > 0).any()
        assert found[query] == pytest.approx(rankdata(-scores.round(5))[track]), (query, len(past))
    assert 0 < num_new < len(following) == 60


def test_a_run_with_listeners_reports_them_beside_popular(tmp_path: Path) -> None:
    folder = habit_logs(tmp_path)
    data = build_datamodule(folder, folder / "out", batch_size=512, history=4)
    data.setup()
    model: Any = trained(data, "playlists")
    given: dict[str, Any] = {"max_val_queries": 10, "max_test_queries": None, "list_length": 5, "seed": 1}
    given["queries_path"] = str(tmp_path / "queries.parquet")
    means, _ = measured(model, data, "test", given)
    assert data.data.part is not None
    assert means["num_first_tracks"] == (data.data.part == 2).sum() > 20
    popular = means["recall_at_10_position_0_popular_floor"]
    assert means["recall_at_10_position_0"] > 1.5 * popular
    sampled, _ = measured(model, data, "test", {**given, "max_test_queries": 20})
    assert sampled["num_first_tracks"] == 20
    model.listener = None
    means, _ = measured(model, data, "test", given)
    assert not [name for name in means if "position_0" in name or "first" in name]
