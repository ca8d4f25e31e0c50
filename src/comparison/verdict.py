"""How the verdict of a comparison is worded; every report shows this sentence."""

from collections.abc import Mapping, Sequence

WORSE, BEATS, NOT_DISTINGUISHABLE = "is worse than", "beats", "is not distinguishable from"
"""The result of the best set-up by validation against another one on the test set."""


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
    return f"{head}; on {primary.replace('/', ' ')} it {' and '.join(results)}{left_out}{warning}"


def listed(names: Sequence[str], most: int = 6) -> str:
    """Names separated by commas, at most `most` of them and then the number of the others."""
    if len(names) <= most + 1:
        return ", ".join(names)
    return f"{', '.join(names[:most])} and {len(names) - most} others"
