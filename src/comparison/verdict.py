"""How the verdict of a comparison is worded; every report shows this sentence."""

from collections.abc import Mapping, Sequence

WORSE, BEATS, OPEN = "is worse than", "beats", "is not told apart from"
"""What the best set-up by validation is to another one on test; the last where no difference is shown."""


def verdict(
    *, best: str, others: Sequence[str], outcomes: Mapping[str, str], select: str, primary: str | None, alpha: float
) -> str:
    """One sentence: who is best by validation, and what the test says of it.

    Args:
        best: name of the set-up that validation chose.
        others: names of the others, best first.
        outcomes: for those that were tested, what the best is to them: WORSE, BEATS or OPEN.
        select: the metric that chose.
        primary: the test metric that the verdict is about; None where there is none.
        alpha: share of false alarms that is accepted.
    """
    if not others:
        return f"{best} is the only set-up: there is nothing to compare it with"
    head = f"{best} is best by {select}"
    if primary is None or not outcomes:
        return f"{head}; whether the difference is real was not tested"
    by_outcome = {word: [name for name in others if outcomes.get(name) == word] for word in (WORSE, BEATS, OPEN)}
    sure = f" (Holm p < {alpha:.2g})"
    said = [f"{word} {listed(names)}{sure * (word != OPEN)}" for word, names in by_outcome.items() if names]
    untested = [name for name in others if name not in outcomes]
    left_out = f"; not tested: {listed(untested)}" if untested else ""
    warning = "; validation and test contradict each other" if by_outcome[WORSE] else ""
    return f"{head}; on {primary.replace('/', ' ')} it {' and '.join(said)}{left_out}{warning}"


def listed(names: Sequence[str], most: int = 6) -> str:
    """A list for a sentence, which does not grow without end."""
    if len(names) <= most + 1:
        return ", ".join(names)
    return f"{', '.join(names[:most])} and {len(names) - most} others"
