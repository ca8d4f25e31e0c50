"""The tables that end a training."""

import io

from rich.console import Console, RenderableType

from segue.reports.tables import tables_of_test

METRICS = {
    "test/num_queries": 1734.0,
    "test/popularity_rank_at_10": 12780.4,
    "test/recall_at_50": 0.1696,
    "test/recall_at_50_half_width": 0.00456,
    "test/recall_at_50_popular_floor": 0.2543,
    "test/recall_at_50_counts_floor": 0.177,
    "test/mse": 0.04929,
    "test/mse_mean_floor": 0.1094,
    "val/loss": 0.5,
}


def text_of(*shown: RenderableType, width: int = 80) -> list[str]:
    file = io.StringIO()
    for one in shown:
        Console(file=file, width=width).print(one)
    return [line.rstrip() for line in file.getvalue().splitlines()]


def test_metrics_are_shown_plainly_beside_their_floors_with_their_meaning() -> None:
    lines = text_of(*tables_of_test(METRICS, title="convex [seed=1]"))
    assert lines[0].strip() == "convex [seed=1]"
    rows = [" ".join(line.split()) for line in lines]
    assert "test model ± counts popular what it is" in rows
    assert "recall_at_50 0.1696 0.0046 0.177 0.2543 next in the top 50" in rows
    assert "mse 0.04929 0.1094 squared error of the share" in rows
    assert "num_queries 1,734 pairs that are ranked" in rows
    assert "popularity_rank_at_10 12,780 place by plays, top 10" in rows
    assert [line for line in rows if "±" in line][1:] == ["±: half the width of the 95 % interval over test sessions"]
    assert max(map(len, lines)) <= 80


def test_the_names_of_metrics_are_whole_in_a_narrow_terminal() -> None:
    recalls = {
        f"test/recall_at_{k}{floor}": 0.0123 for k in (1, 10) for floor in ("", "_counts_floor", "_popular_floor")
    }
    lines = text_of(*tables_of_test({**METRICS, **recalls}, title=""), width=60)
    names = [line.split()[0] for line in lines if line.startswith("  recall_at_")]
    assert sorted(names) == ["recall_at_1", "recall_at_10", "recall_at_50"]
    assert max(map(len, lines)) <= 60


def test_no_number_is_cut() -> None:
    floors = ("", "_half_width", "_counts_floor", "_popular_floor")
    many = {f"test/recall_at_{k}{floor}": 0.01234 for k in (1, 10, 50) for floor in floors}
    lines = text_of(*tables_of_test(many, title=""))
    rows = [" ".join(line.split()) for line in lines]
    assert "recall_at_50 0.01234 0.012 0.01234 0.01234 next in the top 50" in rows
    assert "…" not in "".join(lines)


def test_every_floor_that_is_shown_is_explained_in_a_line_and_no_other() -> None:
    text = "\n".join(text_of(*tables_of_test(METRICS, title="")))
    for floor in ("counts", "popular", "mean"):
        assert text.count(f"{floor}, a floor: ") == 1
    ranking_only = {name: value for name, value in METRICS.items() if "mse" not in name}
    text = "\n".join(text_of(*tables_of_test(ranking_only, title="")))
    assert "counts, a floor: ranks by how often the candidate came next in training" in text
    assert "mean, a floor: " not in text


NEWNESS = {
    **{
        f"test/{group}_{name}_at_{k}": 0.25
        for group in ("warm", "cold_previous", "cold_next", "cold_among")
        for name in ("recall", "ndcg")
        for k in (10, 100)
    },
    **{f"test/num_{group}_queries": 1234.0 for group in ("warm", "cold_previous", "cold_next", "cold_among")},
    "test/cold_among_recall_at_10_half_width": 0.01,
    "test/num_new_tracks": 3168.0,
}


def test_queries_with_new_tracks_have_a_table_of_their_own_which_fits() -> None:
    lines = text_of(*tables_of_test({**METRICS, **NEWNESS}, title=""))
    rows = [" ".join(line.split()) for line in lines]
    assert "new tracks recall@10 recall@100 queries what it is" in rows
    for group in ("warm", "cold_previous", "cold_next", "cold_among"):
        assert any(row.startswith(f"{group} 0.25 0.25 1,234 ") for row in rows)
    assert "new: not played in training; 3,168 such tracks" in rows
    assert max(map(len, lines)) <= 80
    assert "new tracks" not in "".join(text_of(*tables_of_test(METRICS, title="")))


ONLINE = {
    "online/mean_time_per_session": 6.193,
    "online/mean_time_per_session_half_width": 0.2412,
    "online/mean_time_per_session_random_floor": 2.191,
    "online/mean_time_per_session_popular_floor": 3.629,
    "online/mean_time_per_session_true_neighbours_reference": 6.54,
    "online/val_mean_time_per_session": 6.386,
    "online/coverage": 0.8472,
    "online/share_of_hits": 0.1346,
    "online/share_of_same_artist": 0.3002,
    "online/share_known": 0.03206,
    "online/share_heard": 0.06537,
    "online/share_known_artist": 0.2058,
    "online/num_listeners": 965.0,
    "online/num_sessions": 9650.0,
}


def test_what_listeners_heard_is_shown_above_its_floors_with_a_meaning_in_each_line() -> None:
    rows = [" ".join(line.split()) for line in text_of(*tables_of_test({**METRICS, **ONLINE}, title=""))]
    first = rows.index("listening test value ± what it is")
    assert rows[first + 2 : first + 6] == [
        "mean_time_per_session 6.193 0.24 the run, in full tracks",
        "random 2.191 a random track",
        "popular 3.629 one of the most played tracks",
        "true_neighbours 6.54 a near one, by the true tastes",
    ]
    others = ("share_of_hits", "share_of_same_artist", "share_heard", "share_known_artist")
    for name in ("coverage", *others):
        assert any(row.startswith(f"{name} ") and row[-1].isalpha() for row in rows)
    assert "listening test" not in "".join(text_of(*tables_of_test(METRICS, title="")))
