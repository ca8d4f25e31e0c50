"""How fast plays age: the half-life and the newest days that predict the plays of validation best.

N tracks, Q validation queries.
"""

from dataclasses import replace

import numpy as np
from jaxtyping import Float64

from segue.catalog import Calendar, Vocabulary
from segue.datamodules.pairs.pairs import Pairs
from segue.datamodules.pairs.split_pairs import SplitPairs
from segue.datamodules.splits import SPLITS
from segue.errors import InputError
from segue.models.retrieval.ranks import ranks_by_plays
from segue.statistics.intervals import LEVEL, MeanInterval
from segue.statistics.ranking import is_query, ndcg_at, sample_sessions

# Half-lives, and numbers of newest days, that are compared.
_DAYS = (1.0, 2.0, 3.0, 4.0, 5.0, 7.0, 10.0, 14.0, 21.0, 30.0, 60.0, 90.0, 180.0, 365.0)
_DAY_MS = 86_400_000
_MOST_QUERIES = 50_000


def calendar_of(data: SplitPairs, half_life: int | float | str | None) -> Calendar | None:
    """Say how old sessions are, and choose what validation is to choose.

    Args:
        half_life: in days; None for no ageing; `auto` for the one with which plays predict validation best.

    Returns:
        None without a clock, and where the training sessions are not the earliest ones.

    Raises:
        InputError: plays shall age, and there is none.
    """
    sessions, vocabulary = data.sessions, data.vocabulary
    if data.part is None or not sessions.has_clock or not data.comes_in_order:
        if isinstance(half_life, int | float):
            raise InputError(
                f"datamodule.half_life={half_life:g} lets older plays count less, and this source has no clock, or is "
                "not split by time; leave half_life out, or give datamodule.columns.timestamp and datamodule.split=time"
            )
        return None
    starts = sessions.timestamp[sessions.place == 0]
    last = int(starts[data.part == SPLITS.index("train")].max(initial=0))
    starts = np.maximum.accumulate(starts)  # the first play of a session may have been left out
    age = (np.maximum(last - starts, 0) / _DAY_MS).astype(np.float32)
    calendar, val = Calendar(age=age, half_life=None if isinstance(half_life, str) else half_life), data.pairs["val"]
    queries = val.where(np.flatnonzero(is_query(val.previous, val.following, val.played_ratio)))
    if not len(queries):
        return calendar
    queries = queries.where(sample_sessions(queries.session, _MOST_QUERIES))
    if half_life == "auto":
        calendar = replace(calendar, half_life=_best_half_life(calendar, vocabulary, queries))
    return replace(calendar, newest_days=_best_days(calendar, vocabulary, queries))


def _candidates(calendar: Calendar) -> list[float]:
    """The days that are fewer than those of training."""
    return [days for days in _DAYS if days < calendar.age.max()]


def _best_half_life(calendar: Calendar, vocabulary: Vocabulary, queries: Pairs) -> float | None:
    """The half-life whose popularity makes the next tracks of the queries most likely.

    None if that is not better than with all plays alike, beyond its interval over sessions.
    """
    known = queries.where(vocabulary.plays[queries.following] > 0)  # no half-life can predict the others
    if not len(known) or not _candidates(calendar):
        return None

    def gain(half_life: float) -> Float64[np.ndarray, "Q"]:
        words = replace(vocabulary, calendar=replace(calendar, half_life=half_life))
        return np.asarray(np.log(words.trend[known.following] * (words.plays.sum() / words.plays_now.sum())))

    gains = {days: gain(days) for days in _candidates(calendar)}
    best = max(gains, key=lambda days: gains[days].mean())
    return best if MeanInterval.of_clusters(gains[best], known.session, LEVEL).lower > 0 else None


def _best_days(calendar: Calendar, vocabulary: Vocabulary, queries: Pairs) -> float | None:
    """The newest days whose most played tracks have the best NDCG@10; of equal ones the most."""

    def gain(days: float | None) -> float:
        ranked = replace(vocabulary, calendar=replace(calendar, newest_days=days)).recent
        return float(ndcg_at(ranks_by_plays(ranked, queries.previous, queries.following), 10).mean())

    return max([None, *reversed(_candidates(calendar))], key=gain)
