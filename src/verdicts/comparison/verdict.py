"""How the verdict of a comparison is worded; every report shows this sentence."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from segue.statistics.online import SHARE_OF_HITS, SHARE_OF_SAME_ARTIST, TIME

WORSE, BEATS, NOT_DISTINGUISHABLE = "is worse than", "beats", "is not distinguishable from"
"""The result of the best set-up by validation against another one on the test set."""

_CLEARLY_MORE = 0.05
"""Difference of two shares that can explain why listeners hear less."""


def verdict(
    *, best: str, others: Sequence[str], outcomes: Mapping[str, str], select: str, primary: str | None, alpha: float
) -> str:
    """One sentence: which set-up is best by validation, and what the test shows.

    Args:
        best: name of the set-up that validation chose.
        others: names of the others, best first.
        outcomes: by name, for those that were tested: WORSE, BEATS or NOT_DISTINGUISHABLE.
        select: the metric that chose.
        primary: the test metric that the verdict is about; None if there is none.
        alpha: accepted probability of a false alarm, such as 0.05.

    Returns:
        The sentence, without a full stop.
    """
    if not others:
        return f"{best} is the only set-up: there is nothing to compare it with"
    head = f"{best} is best by {select}"
    if primary is None or not outcomes:
        return f"{head}; whether the difference is real was not tested"
    words = (WORSE, BEATS, NOT_DISTINGUISHABLE)
    by_outcome = {word: [name for name in others if outcomes.get(name) == word] for word in words}
    significance = f" (Holm p < {alpha:.2g})"
    results = [
        f"{word} {listed(names)}{significance * (word != NOT_DISTINGUISHABLE)}"
        for word, names in by_outcome.items()
        if names
    ]
    untested = [name for name in others if name not in outcomes]
    left_out = f"; not tested: {listed(untested)}" if untested else ""
    warning = "; validation and test contradict each other" if by_outcome[WORSE] else ""
    where = "with the reported listeners" if primary == TIME else f"on {primary.replace('/', ' ')}"
    return f"{head}; {where} it {' and '.join(results)}{left_out}{warning}"


@dataclass(frozen=True, kw_only=True)
class Heard:
    """What simulated listeners heard from a set-up, means over its runs.

    Args:
        name: name of the set-up.
        time: mean time per session.
        hits: share of hits, in [0, 1]; NaN if it is not known.
        same_artist: share of tracks by the artist of the track before, in [0, 1]; NaN if it is not known.
    """

    name: str
    time: float
    hits: float
    same_artist: float

    @classmethod
    def of(cls, name: str, metrics: Mapping[str, float]) -> "Heard":
        """From the metrics of a set-up."""
        unknown = float("nan")
        shares = (metrics.get(share, unknown) for share in (SHARE_OF_HITS, SHARE_OF_SAME_ARTIST))
        return cls(name=name, time=metrics[TIME], **dict(zip(("hits", "same_artist"), shares, strict=True)))


def disagreement(*, metric: str, chosen: Heard, best: Heard, is_sure: bool) -> str:
    """One sentence: an offline metric would choose another set-up than the listeners, and why.

    Args:
        metric: the offline metric.
        chosen: the set-up that it would choose.
        best: the set-up that the listeners chose.
        is_sure: whether the difference of their times is significant.

    Returns:
        The sentence, with a full stop.
    """
    if not is_sure:
        return (
            f"Offline ranking disagrees: {metric} would choose {chosen.name}, whose time per session is not "
            f"distinguishable from that of {best.name}."
        )
    reasons = [
        f"{theirs:.0%} of what {chosen.name} plays {what} ({best.name}: {ours:.0%})"
        for theirs, ours, what in (
            (chosen.hits, best.hits, "are the most played tracks"),
            (chosen.same_artist, best.same_artist, "is by the artist of the track before"),
        )
        if theirs > ours + _CLEARLY_MORE
    ]
    return (
        f"Offline ranking disagrees: {metric} would choose {chosen.name}, with a mean time per session of "
        f"{chosen.time:.2f} ({best.name}: {best.time:.2f}); it measures how well the recommendations in the logs are "
        f"predicted, not how long listeners play{''.join(f', and {reason}' for reason in reasons)}."
    )


def listed(names: Sequence[str], most: int = 6) -> str:
    """Names separated by commas, at most `most` of them and then the number of the others."""
    if len(names) <= most + 1:
        return ", ".join(names)
    return f"{', '.join(names[:most])} and {len(names) - most} others"
