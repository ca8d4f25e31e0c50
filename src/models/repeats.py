"""Repeats: how tracks already heard are ranked.

B pairs, H tracks of a history.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from segue.catalog import Listens, Vocabulary
from segue.errors import InputError

SELDOM, _FEW = 0.01, 1000
"""A track is repeated seldom where fewer than this share of training targets do it; fewer targets cannot tell."""
MOST_REPEATED = 0.05
"""Largest share of repeats among the training targets for which `auto` is `never`."""


class Repeats(nn.Module):
    """One rule for tracks already heard: in the softmax (`losses.py`), in ranks (`retrieval/ranks.py`), in the scores
    of baselines, and in the candidates of a session (`picking/session_search.py`).

    With the list of the last track, the rule of `pick` decides alone whether a track is picked again.

    The rule is for tracks among the `within` newest ones: where `auto` chooses `never`, those of `seldom_repeated`,
    otherwise all. Tracks heard before them are candidates like all others. In training it is for those of a batch's
    history alone.

    Args:
        rule: `always` (they are candidates like all others), `never` (they come after all others, and are no negatives
            in training), `penalty` (a learned number is subtracted from their scores), or `auto`: `never` up to
            MOST_REPEATED, and above it `penalty`.
        vocabulary: the training sessions.
        length: largest number of newest tracks.
        learns: whether a penalty can be learned. Baselines cannot: above the share they get `always`.

    Raises:
        InputError: the rule needs what is missing.
    """

    def __init__(self, rule: str, vocabulary: Vocabulary, *, length: int, learns: bool) -> None:
        super().__init__()
        if rule == "penalty" and not learns:
            raise InputError(
                "context.repeats=penalty is learned by gradient descent, and this model has none; use never or always"
            )
        self.within = self._length = length
        self.share = None
        if rule == "auto":
            self.share = share_of_repeats(vocabulary.listens)
            rule = "penalty" if learns else "always"
            if self.share <= MOST_REPEATED:
                self.within = seldom_repeated(vocabulary.listens, length)
                rule = "never" if self.within > 1 else "always"  # the newest track is never a candidate
        self.rule = rule
        self.log_penalty = nn.Parameter(torch.zeros(())) if rule == "penalty" else None

    def decided(self) -> dict[str, str | int]:
        """What was decided from the training sessions, for checkpoints: `rule` and `within`."""
        return {"rule": self.rule, "within": self.within}

    def recent(self, history: Int64[Tensor, "B H"]) -> Int64[Tensor, "B h"]:
        """Select the tracks of each history that the rule is for.

        Args:
            history: rows of the tracks, newest first.
        """
        return history[:, : self.within]

    def penalty(self) -> Float[Tensor, ""] | float:
        """Return what is subtracted from the score of a track already heard.

        Returns:
            0 for `always`, infinity for `never`, and the learned penalty otherwise.
        """
        if self.log_penalty is not None:
            return F.softplus(self.log_penalty)
        return np.inf if self.rule == "never" else 0.0

    def without_penalty(self) -> None:
        """Give up a penalty, because the loss compares no candidates and cannot learn it: `auto` is then `always`.

        Raises:
            InputError: the penalty was asked for.
        """
        if self.rule == "penalty" and self.share is None:
            raise InputError("context.repeats=penalty is learned by loss=softmax alone; use it, or never or always")
        if self.rule == "penalty":
            self.rule, self.log_penalty = "always", None

    def describe(self) -> str | None:
        """One line about what `auto` chose; None if nothing was chosen.

        Returns:
            The line.
        """
        if self.share is None:
            return None
        within = f", of the newest {self.within} tracks" if self.within < self._length and self.rule != "always" else ""
        found = f"{self.share:.1%} of training targets were heard before in their session"
        return f"repeats      {found}: {self.rule}{within}"

    def logged(self) -> Mapping[str, float]:
        """Report the share of repeats and the penalty, where there are such numbers.

        Returns:
            Values by name.
        """
        within = None if self.rule == "always" else float(self.within)
        penalty = None if self.log_penalty is None else as_number(self.penalty())
        values = {"repeats_share": self.share, "repeats_within": within, "heard_penalty": penalty}
        return {name: value for name, value in values.items() if value is not None}


def share_of_repeats(listens: Listens) -> float:
    """Share of the events after the first of a session that repeat a track of it, other than the track directly before.

    Args:
        listens: the events.

    Returns:
        The share, in [0, 1].
    """
    session, track = listens.session, listens.track
    is_target = (session[1:] == session[:-1]) & (track[1:] != track[:-1])
    is_again = pd.DataFrame({"session": session, "track": track}).duplicated().to_numpy()[1:]
    return float((is_again & is_target).sum() / max(1, is_target.sum()))


def seldom_repeated(listens: Listens, length: int) -> int:
    """How many of the newest tracks of a session are seldom played next: each in fewer than 1 % of the targets.

    Radio plays a hit again after an hour, and not after three songs. The places are read from the second newest track
    on, until one of them is repeated more often, or fewer than 1,000 training targets have so many tracks before them.

    Args:
        listens: the events of the training sessions.
        length: the largest number.

    Returns:
        The number, in [1, length]; `length` if no place is repeated more often.
    """
    session, track = listens.session, listens.track
    targets = 1 + np.flatnonzero((session[1:] == session[:-1]) & (track[1:] != track[:-1]))
    for age in range(2, length + 1):
        targets = targets[targets >= age]
        targets = targets[session[targets - age] == session[targets]]  # those that have so many tracks before them
        if len(targets) < _FEW:
            break
        if (track[targets - age] == track[targets]).mean() >= SELDOM:
            return age - 1
    return length


def as_number(value: Float[Tensor, ""] | float) -> float:
    """The value of a tensor or a number.

    Args:
        value: a number that may be learned.

    Returns:
        Its value.
    """
    return value if isinstance(value, float) else value.item()
