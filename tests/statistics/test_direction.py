"""Which way a metric is better."""

import pytest

from segue.callbacks.ranking_metrics import check_monitor_mode
from segue.errors import InputError
from segue.statistics.direction import direction


@pytest.mark.parametrize(
    ("metric", "better"),
    [
        ("test/recall_at_50", "max"),
        ("val/mrr", "max"),
        ("test/ndcg_at_20", "max"),
        ("test/mse", "min"),
        ("val/loss", "min"),
        ("fit_seconds", "min"),
        ("test/warm_ndcg_at_10", "max"),
        ("test/cold_previous_recall_at_100", "max"),
        ("test/cold_among_recall_at_10_half_width", None),
        ("test/num_cold_next_queries", None),
        ("test/mse_mean_floor", None),
        ("test/recall_at_10_popular_floor", None),
        ("test/coverage_at_10", None),
        ("test/same_artist_at_10", None),
        ("test/popularity_rank_at_10", None),
        ("test/num_queries", None),
        ("ab/mean_time_per_session_effect_percent", None),
    ],
)
def test_a_metric_is_better_when_it_is_higher_or_lower_or_neither(metric: str, better: str | None) -> None:
    assert direction(metric) == better


@pytest.mark.parametrize(
    ("metric", "mode", "better"), [("val/loss", "best", "min"), ("val/loss", "max", "min"), ("val/mrr", "min", "max")]
)
def test_a_mode_that_keeps_the_worst_epoch_is_refused(metric: str, mode: str, better: str) -> None:
    says = f"monitor.mode={mode} would keep the worst epoch by {metric}; use monitor.mode={better}"
    with pytest.raises(InputError, match=says):
        check_monitor_mode(metric, mode)
    check_monitor_mode(metric, better)
