"""Losses: how scores are compared with what listeners played.

B pairs in a batch, P validation pairs, V width of a vector, Q distinct queries, K distinct candidates, H tracks of a
history, M masked pairs of a query and a candidate. The contract of a loss is in `contracts.py`. Shares played are in
[0, 1], NaN if unknown.
"""

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Int64
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from segue.catalog import Vocabulary
from segue.errors import InputError
from segue.models.contracts import Context, Loss, PairBatch, Queries, Scorer
from segue.models.heads import Biases
from segue.settings import Setting, settings

LISTENER_SPREAD = 2.0
"""Expected standard deviation of the biases of listeners, in logits."""


class _OfShares(Loss):
    """Base of the losses that compare the score of each pair with its share played. All pairs count alike.

    Args:
        vocabulary: counts and means of the training pairs.
        name: of the loss.

    Raises:
        InputError: the training pairs have no shares.
    """

    temperature = None

    def __init__(self, vocabulary: Vocabulary, name: str) -> None:
        super().__init__()
        if vocabulary.mean_played_ratio is None:
            raise InputError(
                f"loss={name} learns from shares played, but this source has none; leave out loss=, or use "
                "recipe=playlists"
            )

    def _mean(self, value: Float[Tensor, "B"], batch: PairBatch) -> Float[Tensor, ""]:
        """Mean over the pairs whose share is known; 0 if there are none."""
        is_known = ~batch.played_ratio.isnan()
        return torch.where(is_known, value, 0.0).sum() / is_known.sum().clamp(min=1)


class MSELoss(_OfShares):
    """Mean squared error of the bare score against the share played: the published recipe.

    Args:
        vocabulary: counts and means of the training pairs.

    Raises:
        InputError: the training pairs have no shares.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__(vocabulary, "mse")

    def forward(self, scorer: Scorer, batch: PairBatch, context: Context) -> Float[Tensor, ""]:
        """Mean over the pairs whose share is known; 0 if there are none."""
        return self._mean((context.score(scorer, batch) - batch.played_ratio.nan_to_num()) ** 2, batch)

    def predict(self, score: Float[Tensor, "B"], listener: Int[Tensor, "B"]) -> Float[Tensor, "B"]:  # noqa: ARG002
        """The score itself. It may lie outside [0, 1]."""
        return score


class BCELoss(_OfShares):
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
        super().__init__(vocabulary, "bce")
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
        return self._mean(F.binary_cross_entropy_with_logits(logit, share, reduction="none") + prior, batch)

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

    A softmax does not determine the level of the predicted share. If shares are known, `calibrate` learns it from
    validation pairs: the scores of training pairs are fitted to their own shares and would predict too much.

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
        level = torch.nan if vocabulary.mean_played_ratio is None else vocabulary.mean_played_ratio
        self.level, self.slope, self.centre = (nn.Buffer(torch.tensor(value)) for value in (level, 0.0, 0.0))

    def forward(self, scorer: Scorer, batch: PairBatch, context: Context) -> Float[Tensor, ""]:
        """Weighted mean over the pairs."""
        weight = _weights(batch, context)
        queries = context.queries(scorer, batch.previous, batch.history, batch.history_share)
        pairs = candidates_of(queries, batch.following, scorer.num_tracks, with_heard=context.repeats.rule == "never")
        items, bias = scorer.item(pairs.items), -self.log_q[pairs.items]
        share = weight / weight.sum().clamp(min=1e-9)
        return _weighted_softmax(queries.vectors, items, bias, pairs, share, self.temperature)

    def calibrate(self, score: Float[Tensor, "P"], played_ratio: Float[Tensor, "P"]) -> None:
        """Learn the slope from a score to the predicted share, from pairs that were not trained on.

        It is the least-squares slope, shrunk by its standard error: a slope within random variation becomes 0. The
        level stays the mean share of the training pairs, because they are more.
        """
        if not len(score):
            return
        centred, share = score - score.mean(), played_ratio - played_ratio.mean()
        spread = (centred**2).mean()
        slope = (centred * share).mean() / spread
        variance = ((share - slope * centred) ** 2).mean() / (spread * len(score))
        self.slope.copy_((slope.clamp(min=0) * (1 - variance / slope**2).clamp(min=0)).nan_to_num(nan=0.0))
        self.centre.copy_(score.mean())

    def predict(self, score: Float[Tensor, "B"], listener: Int[Tensor, "B"]) -> Float[Tensor, "B"]:  # noqa: ARG002
        """`level + slope·(score − centre)`, clipped to [0, 1]; NaN if the source has no shares."""
        return (self.level + self.slope * (score - self.centre)).clamp(0, 1)


class _WeightedSoftmax(torch.autograd.Function):
    """Weighted sum of the cross entropies of pairs, from the vectors of their distinct queries and candidates.

    The logit of pair b and candidate c is `query[query_of[b]] · item[item_of[c]] / temperature + bias[item_of[c]]`. The
    candidates of a pair are the next tracks of all pairs except other copies of its own next track and of its query.
    A query or a candidate that occurs several times is computed once: one Q×K array holds the logits, then the
    probabilities. Both gradients are computed from it in the forward pass, therefore it need not be kept.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Float[Tensor, "Q V"],
        item: Float[Tensor, "K V"],
        bias: Float[Tensor, "K"],
        pairs: "Candidates",
        weight: Float[Tensor, "B"],
        temperature: float,
    ) -> Float[Tensor, ""]:
        copies, own = pairs.copies.to(bias.dtype), (pairs.query_of, pairs.item_of)
        # only the product may be in half precision: a rounded bias would favour the same tracks in every batch
        logits = (query @ item.T).to(bias.dtype).mul_(1 / temperature).add_(bias + copies.log())
        logits[pairs.heard] = -torch.inf
        logits[pairs.same] = -torch.inf
        num_copies = copies[pairs.item_of]
        target = logits[own] - num_copies.log()
        largest = logits.amax(dim=1)
        share = torch.softmax(logits, dim=1, out=logits)
        share[largest == -torch.inf] = 0.0  # a query that has no candidate but itself
        log_sum = (largest - share.amax(dim=1).log())[pairs.query_of]
        in_all, once = share[own], 1 / num_copies
        total = (1 - in_all).clamp_(min=0) + in_all * once  # of the shares of a pair's candidates
        if any(ctx.needs_input_grad[:3]):
            weight_of_share = weight / total
            gradient = share.mul_(torch.zeros_like(largest).index_add_(0, pairs.query_of, weight_of_share)[:, None])
            gradient.index_put_(own, weight_of_share * in_all * (once - 1) - weight, accumulate=True)
            gradient.mul_(1 / temperature)
            ctx.save_for_backward(gradient @ item, gradient.T @ query)
        return torch.where(weight > 0, (log_sum + total.log() - target) * weight, 0.0).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Float[Tensor, ""]) -> tuple[Tensor | None, ...]:
        of_query, of_item = ctx.saved_tensors
        return gradient * of_query, gradient * of_item, None, None, None, None


_weighted_softmax: Callable[..., Tensor] = _WeightedSoftmax.apply


class Candidates(NamedTuple):
    """The distinct candidates of B pairs, and which of them are masked for which query.

    Attributes:
        items: rows of the distinct next tracks, ascending.
        query_of: place of each pair's query among the query vectors.
        item_of: place of each pair's next track in `items`.
        copies: how many pairs have each candidate as their next track.
        same: places of queries and of candidates that are the same track.
        heard: places of queries and of candidates that the listener has heard.
    """

    items: Int64[Tensor, "K"]
    query_of: Int64[Tensor, "B"]
    item_of: Int64[Tensor, "B"]
    copies: Int64[Tensor, "K"]
    same: tuple[Int64[Tensor, "S"], Int64[Tensor, "S"]]
    heard: tuple[Int64[Tensor, "M"], Int64[Tensor, "M"]]


def candidates_of(
    queries: Queries, following: Int[Tensor, "B"], num_tracks: int, *, with_heard: bool = False
) -> Candidates:
    """Find the distinct candidates of pairs.

    Args:
        queries: the queries of the pairs.
        following: row of the next track of each pair.
        num_tracks: number of tracks in the catalogue (N).
        with_heard: whether to look for tracks already heard.

    Returns:
        The distinct rows, and for each pair its places among them.
    """
    items, item_of, copies = following.unique(return_inverse=True, return_counts=True)
    place_of = items.new_full((num_tracks + 1,), -1)  # the last one is that of the row -1
    place_of[items] = torch.arange(len(items), device=items.device)
    place = place_of[queries.previous]
    same = (place >= 0).nonzero()[:, 0], place[place >= 0]
    place = place_of[queries.heard if with_heard else queries.heard[:, :0]]
    line, _ = (place >= 0).nonzero(as_tuple=True)
    return Candidates(items, queries.of_pair, item_of, copies, same, (line, place[place >= 0]))


def _weights(batch: PairBatch, context: Context) -> Float[Tensor, "B"]:
    weight = batch.played_ratio.nan_to_num(nan=1.0) * (batch.previous != batch.following)
    if context.repeats.rule == "never":
        heard = context.repeats.recent(batch.history) == batch.following[:, None]
        return weight * ~heard.any(1)
    return weight


def share_errors(
    predicted: Float[Tensor, "P"], share: Float[Tensor, "P"], mean: float, *, with_floors: bool
) -> dict[str, Float[Tensor, "P"]]:
    """Compute the errors of predicted shares, by the name of the metric whose mean they have.

    Args:
        predicted: share played of each pair, as predicted.
        share: share played.
        mean: of the training pairs.
        with_floors: whether to add those of predicting the mean, and of a uniform random guess U.
    """
    error, off_mean = predicted - share, share - mean
    errors = {"mse": error**2, "mae": error.abs()}
    if with_floors:
        errors |= {"mse_mean_floor": off_mean**2, "mae_mean_floor": off_mean.abs()}
        # E(U−y)² and E|U−y| for U uniform on [0, 1]
        errors |= {"mse_random_floor": 1 / 3 - share + share**2, "mae_random_floor": (share**2 + (1 - share) ** 2) / 2}
    return errors
