"""Losses: how scores are compared with what listeners played.

B pairs in a batch, P validation pairs, V width of a vector, Q distinct queries, K distinct candidates, H tracks of a
history. The contract of a loss is in `contracts.py`. Shares played are in [0, 1], NaN if unknown.
"""

from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from segue.catalog import Vocabulary
from segue.errors import InputError
from segue.models.contracts import Context, Loss, PairBatch, Scorer
from segue.models.parts import Biases
from segue.settings import Setting, settings

_MASKED = -1e30  # logit of what is no candidate; a line of nothing else has a gradient of 0, not of NaN
LISTENER_SPREAD = 2.0
"""Expected standard deviation of the biases of listeners, in logits."""


class OfShares(Loss):
    """Base of the losses that compare the score of each pair with its share played. All pairs count alike.

    A subclass has `forward`, with a value for each pair handed to `mean`. The share that it predicts is the score.

    Args:
        vocabulary: counts and means of the training pairs.

    Raises:
        InputError: the training pairs have no shares.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__()
        if vocabulary.mean_played_ratio is None:
            name = type(self).__name__.removesuffix("Loss").lower()
            raise InputError(
                f"loss={name} learns from shares played, but this source has none; leave out loss=, or use "
                "recipe=playlists"
            )

    def mean(self, values: Float[Tensor, "B"], batch: PairBatch) -> Float[Tensor, ""]:
        """Mean over the pairs whose share is known; 0 if there are none.

        Args:
            values: one for each pair; whatever it is where the share is unknown, but not NaN.
            batch: the pairs.
        """
        is_known = ~batch.played_ratio.isnan()
        return torch.where(is_known, values, 0.0).sum() / is_known.sum().clamp(min=1)

    def predict(self, score: Float[Tensor, "B"], listener: Int[Tensor, "B"]) -> Float[Tensor, "B"]:  # noqa: ARG002
        """The score itself. It may lie outside [0, 1]."""
        return score


class MSELoss(OfShares):
    """Mean squared error of the bare score against the share played: the published recipe."""

    def forward(self, scorer: Scorer, batch: PairBatch, context: Context) -> Float[Tensor, ""]:
        """Mean over the pairs whose share is known; 0 if there are none."""
        return self.mean((context.score(scorer, batch) - batch.played_ratio.nan_to_num()) ** 2, batch)


class BCELoss(OfShares):
    """Cross entropy of `sigmoid(scale·score + bias + bias of the listener)` against the share played.

    Scale and biases are learned. Some listeners play nearly everything and some nearly nothing, whatever the tracks.
    A bias for each listener keeps this effect out of the embeddings. It is used in training only: it shifts all scores
    of a listener by the same amount, therefore it does not change a ranking. The bias of a listener with few training
    pairs stays near 0, that of a listener with none is 0.

    Args:
        vocabulary: counts and means of the training pairs. The initial bias is such that for an unknown listener a
            score of 0 predicts the mean share.

    Raises:
        InputError: the training pairs have no shares.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__(vocabulary)
        mean = min(max(vocabulary.mean_played_ratio or 0.0, 1e-3), 1 - 1e-3)
        self.log_scale = nn.Parameter(torch.zeros(()))
        self.bias = nn.Parameter(torch.tensor(mean).logit() / _shrunk(torch.tensor(LISTENER_SPREAD**2)))
        counts = torch.from_numpy(vocabulary.listener_counts)
        self.listener_bias = Biases(len(counts))
        # weight of a squared bias in each pair of its listener: summed over the pairs, the Gaussian prior
        self.pull = nn.Buffer(0.5 / (LISTENER_SPREAD**2 * counts.clamp(min=1).float()))
        # posterior variance of a bias after so many pairs, each as informative as a coin with that mean
        variance = 1 / (1 / LISTENER_SPREAD**2 + counts * mean * (1 - mean))
        self.shrink = nn.Buffer(_shrunk(variance.float()))

    def _logit(self, score: Float[Tensor, "B"], of_listener: Float[Tensor, "B"]) -> Float[Tensor, "B"]:
        return self.log_scale.exp() * score + self.bias + of_listener

    def forward(self, scorer: Scorer, batch: PairBatch, context: Context) -> Float[Tensor, ""]:
        """Mean over the pairs with a known share; 0 if there are none. In training it includes the listeners' prior."""
        of_listener = self.listener_bias(batch.listener)
        logit = self._logit(context.score(scorer, batch), of_listener)
        if self.training:
            prior = self.pull[batch.listener] * of_listener**2
        else:
            logit, prior = logit * self.shrink[batch.listener], torch.zeros_like(logit)
        share = batch.played_ratio.nan_to_num()
        return self.mean(F.binary_cross_entropy_with_logits(logit, share, reduction="none") + prior, batch)

    def predict(self, score: Float[Tensor, "B"], listener: Int[Tensor, "B"]) -> Float[Tensor, "B"]:
        """`sigmoid(scale·score + bias + bias of the listener)`, averaged over the posterior of that bias.

        The posterior is taken as normal: the logit is divided by √(1 + π/8·variance).

        Source:
            MacKay, The evidence framework applied to classification networks, Neural Computation 1992.
        """
        return torch.sigmoid(self._logit(score, self.listener_bias(listener)) * self.shrink[listener])


def _shrunk(variance: Float[Tensor, "*L"]) -> Float[Tensor, "*L"]:
    return (1 + torch.pi / 8 * variance).rsqrt()


@settings("loss")
class SoftmaxLoss(Loss):
    """Softmax over next tracks of the batch: the track that followed a pair's query against the others.

    Each distinct track is computed once, with one draw of its dropout. A candidate that equals the pair's own next
    track or its query is masked (an accidental hit). The rule of `context.repeats` applies to tracks already heard:
    with `never` they are masked too, and a pair whose next track was heard has no weight. `logq` subtracts the
    logarithm of a candidate's share of the training pairs from its logit, because popular tracks are in a batch more
    often than in the catalogue. The weight of a pair is its share played, 1 if unknown, and 0 if a track follows
    itself, because a track is never its own candidate.

    Where plays age, the logarithm of a candidate's trend is subtracted too, in training alone: the scores learn the
    popularity of the end of training from all pairs. An item bias begins with that popularity, which it would reach
    after many epochs.

    Args:
        vocabulary: counts and means of the training pairs.

    Source:
        Yi et al., Sampling-bias-corrected neural modeling for large corpus item recommendations, RecSys 2019.
    """

    temperature: float

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        temperature: Annotated[float, Setting("divides the scores", above=0, hint="0.1 is usual for cosines")],
        logq: Annotated[
            float, Setting("correction for popular tracks", least=0, most=1, hint="0 is no correction, 1 the full one")
        ] = 1.0,
    ) -> None:
        super().__init__()
        self.temperature = temperature
        counts = torch.from_numpy(vocabulary.next_counts).double().clamp(min=1)
        trend = torch.from_numpy(vocabulary.trend).double()
        self.log_q = nn.Buffer((logq * (counts / counts.sum()).log() + trend.log()).float())
        if vocabulary.has_trend:
            popularity = (counts * trend).clamp(min=1).log()
            self.first_scores = (temperature * (popularity - popularity.mean())).float()

    def forward(self, scorer: Scorer, batch: PairBatch, context: Context) -> Float[Tensor, ""]:
        """Weighted mean over the pairs.

        Each distinct query and each distinct next track is computed once. The candidates of a pair are the next tracks
        of all pairs, each as often as it is one, but its own next track once.
        """
        never = context.repeats.rule == "never"
        weight = batch.played_ratio.nan_to_num(nan=1.0) * (batch.previous != batch.following)
        if never:
            weight = weight * ~(batch.history == batch.following[:, None]).any(1)
        queries = context.queries(scorer, batch.previous, batch.history, batch.history_share)
        rows, place, num = batch.following.unique(return_inverse=True, return_counts=True)
        items, bias, copies = scorer.item(rows), -self.log_q[rows], num.to(weight.dtype)
        vectors = queries.vectors / self.temperature
        # only the product may be in half precision: a rounded bias would favour the same tracks in every batch
        logits = (vectors @ items.T).to(bias.dtype).add_(bias + copies.log())
        column_of = rows.new_full((scorer.num_tracks + 1,), -1)  # the last one is that of the row -1
        column_of[rows] = torch.arange(len(rows), device=rows.device)
        for masked in (queries.previous[:, None], batch.history if never else batch.history[:, :0]):
            column = column_of[masked]
            line, _ = (column >= 0).nonzero(as_tuple=True)
            logits.detach()[line, column[column >= 0]] = _MASKED
        [counts] = weight.nonzero(as_tuple=True)
        query, own = queries.of_pair[counts], place[counts]
        log_sum, logit, num_own = logits.logsumexp(1)[query], logits[query, own], copies[own]
        share = (logit - log_sum).exp().clamp(max=1)  # of all copies of the own next track, of which one is to count
        loss = log_sum + torch.log1p(share * (1 / num_own - 1)) - (logit - num_own.log())
        return torch.as_tensor((loss * weight[counts]).sum() / weight.sum().clamp(min=1e-9))
