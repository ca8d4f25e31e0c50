"""What every accuracy metric offers: it is computed, explained, compared, and may choose the best epoch."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.callbacks.ranking_metrics import check_monitor_mode
from segue.errors import InputError
from segue.reports.tables import tables_of_test
from segue.statistics.direction import direction
from segue.statistics.ranking import ACCURACY, accuracy
from segue.verdicts.comparison.analysis import TESTED


@pytest.mark.parametrize("metric", ACCURACY)
@given(ranks=st.lists(st.integers(2, 400).map(lambda rank: rank / 2), min_size=2))
def test_a_better_rank_is_no_worse_and_the_first_place_is_worth_one(metric: str, ranks: list[float]) -> None:
    values = ACCURACY[metric].of(np.array([1.0, *sorted(ranks)]))
    assert values[0] == 1
    assert (np.diff(values) <= 0).all()
    assert values.min() >= 0


@pytest.mark.parametrize("metric", ACCURACY)
def test_it_is_logged_compared_and_may_choose_the_epoch(metric: str) -> None:
    assert metric in accuracy(np.ones(1))
    assert metric in TESTED
    assert direction(f"val/{metric}") == "max"
    check_monitor_mode(f"val/{metric}", "max")
    with pytest.raises(InputError, match="would keep the worst epoch"):
        check_monitor_mode(f"val/{metric}", "min")


@pytest.mark.parametrize("metric", ACCURACY)
def test_the_table_of_a_run_says_what_it_is(metric: str) -> None:
    (table,) = tables_of_test({f"test/{metric}": 0.25}, title="")
    assert table.rows[0][-1] == ACCURACY[metric].meaning != ""
