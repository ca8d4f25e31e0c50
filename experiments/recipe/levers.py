"""Variants of the convex head that were tried and are no part of it; `study.py` says what they bring.

B pairs, N tracks, V width of a vector, E events. The settings are those of `CosineMix` and `BCELoss`, unless they are
told here.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Int64
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import EMAWeightAveraging
from torch import Tensor, nn

from src.catalog import Vocabulary
from src.datamodules.pair_datamodule import PairDataModule
from src.datamodules.pairs import Pairs, Sessions, reach, split_sessions
from src.errors import InputError
from src.models.heads import CosineMix
from src.models.losses import BCELoss, Scorer, SoftmaxLoss


class _ByVectors(CosineMix):
    """A mix whose parts are no cosines of rows of the tables, and is scored by its two vectors."""

    def forward(self, previous: Int[Tensor, "B"], following: Int[Tensor, "B"]) -> Float[Tensor, "B"]:
        score: Tensor = torch.linalg.vecdot(self.query(previous), self.item(following))
        return score


class ArtistPrior(_ByVectors):
    """The artist's vector is what is expected of a track beforehand; a track has a vector of its own added to it."""

    def _directions(self, rows: Int[Tensor, "B"], *, in_second_place: bool) -> Float[Tensor, "B V"]:  # noqa: ARG002
        assert self.track is not None
        assert self.artist is not None
        alpha = torch.as_tensor(self.alpha())
        artist = self.artist(self.artist_of[rows])
        track = artist + self.track_dropout(self.track(rows))
        parts = [(track, alpha), (artist, 1 - alpha)]
        return torch.cat([self.dropout(F.normalize(part, dim=-1)) * share.sqrt() for part, share in parts], dim=-1)


class TwoTables(_ByVectors):
    """A table of its own for each place of a pair; otherwise the mix."""

    def __init__(self, vocabulary: Vocabulary, **settings: Any) -> None:
        super().__init__(vocabulary, **{**settings, "order_std": settings["init_std"]})

    def _directions(self, rows: Int[Tensor, "B"], *, in_second_place: bool) -> Float[Tensor, "B V"]:
        alpha = torch.as_tensor(self.alpha())
        tracks, artists = (self.track_offset, self.artist_offset) if in_second_place else (self.track, self.artist)
        assert tracks is not None
        assert artists is not None
        parts = [(self.track_dropout(tracks(rows)), alpha), (artists(self.artist_of[rows]), 1 - alpha)]
        return torch.cat([self.dropout(F.normalize(part, dim=-1)) * share.sqrt() for part, share in parts], dim=-1)


class AlphaByCount(_ByVectors):
    """α of a track grows with how often it was seen: α·n/(n + κ), κ learned; the artist is trusted where it is rare."""

    seen: Tensor

    def __init__(self, vocabulary: Vocabulary, **settings: Any) -> None:
        super().__init__(vocabulary, **settings)
        self.register_buffer("seen", torch.from_numpy(vocabulary.previous_counts + vocabulary.next_counts).float())
        self.log_kappa = nn.Parameter(torch.tensor(5.0).log())

    def _directions(self, rows: Int[Tensor, "B"], *, in_second_place: bool) -> Float[Tensor, "B V"]:  # noqa: ARG002
        assert self.track is not None
        assert self.artist is not None
        seen = self.seen[rows]
        alpha = (self.alpha() * seen / (seen + self.log_kappa.exp()))[:, None]
        track = F.normalize(self.track_dropout(self.track(rows)), dim=-1)
        artist = F.normalize(self.artist(self.artist_of[rows]), dim=-1)
        return torch.cat([self.dropout(track) * alpha.sqrt(), self.dropout(artist) * (1 - alpha).sqrt()], dim=-1)


class BCEAndSoftmax(BCELoss):
    """The sum of both losses, the softmax with a weight.

    Args:
        softmax: weight of the softmax.
        temperature: its temperature.
    """

    def __init__(self, vocabulary: Vocabulary, *, softmax: float, temperature: float, **settings: Any) -> None:
        super().__init__(vocabulary, **settings)
        self.softmax, self._weight = SoftmaxLoss(vocabulary, temperature=temperature, logq=1.0), softmax

    def forward(self, scorer: CosineMix, *batch: Tensor) -> Float[Tensor, ""]:  # type: ignore[override]
        """In training the sum, otherwise the cross entropy alone."""
        bce: Tensor = super().forward(scorer, *batch)
        return bce + self._weight * self.softmax(scorer, *batch) if self.training else bce


class BCEByRarity(BCELoss):
    """Importance weighting: what was played often, because logged traffic liked to play it, counts less.

    A pair weighs `q^(-power)` of the share q of its track among the training pairs, cut at 10 times the mean weight.

    Args:
        power: 0 leaves pairs alike, 1 is the inverse of how often a track was played.

    Source: Schnabel et al., Recommendations as treatments, ICML 2016, whose propensities are of items and users.
    """

    rarity: Tensor

    def __init__(self, vocabulary: Vocabulary, *, power: float, **settings: Any) -> None:
        super().__init__(vocabulary, **settings)
        counts = torch.from_numpy(vocabulary.next_counts).double().clamp(min=1)
        rarity = counts**-power
        rarity /= (rarity * counts).sum() / counts.sum()
        self.register_buffer("rarity", rarity.clamp(max=10).float())

    def each(self, scorer: CosineMix, *batch: Tensor) -> Float[Tensor, "B"]:  # type: ignore[override]
        """The weighted cross entropy in training, the bare one otherwise."""
        value: Tensor = super().each(scorer, *batch)
        return value * self.rarity[batch[1]] if self.training else value


class BCEAgainstNearest(BCELoss):
    """Harder negatives: of a few tracks of the batch that others heard, the one nearest to the query, as if skipped.

    Args:
        weight: of such a pair, of that of a pair that was heard.
        drawn: tracks of which the nearest is taken.

    Source: Zhang et al., Optimizing top-n collaborative filtering via dynamic negative item sampling, SIGIR 2013.
    """

    def __init__(self, vocabulary: Vocabulary, *, weight: float, drawn: int, **settings: Any) -> None:
        super().__init__(vocabulary, **settings)
        self._weight, self._drawn = weight, drawn

    def each(self, scorer: CosineMix, *batch: Tensor) -> Float[Tensor, "B"]:  # type: ignore[override]
        """Both cross entropies in training, the one of what was heard otherwise."""
        value: Tensor = super().each(scorer, *batch)
        if not self.training:
            return value
        previous, following, _, listener = batch
        others = torch.stack([following[torch.randperm(len(following))] for _ in range(self._drawn)])
        with torch.no_grad():
            scores = torch.stack([scorer(previous, other) for other in others])
        nearest = others.gather(0, scores.argmax(dim=0, keepdim=True))[0]
        return value + self._weight * super().each(scorer, previous, nearest, torch.zeros_like(value), listener)


class SoftmaxAgainstNearest(SoftmaxLoss):
    """Harder negatives: a candidate counts `exp(hardness·logit)` times, so that near ones count more.

    Args:
        hardness: 0 leaves the softmax as it is.

    Source: Robinson et al., Contrastive learning with hard negative samples, ICLR 2021.
    """

    def __init__(self, vocabulary: Vocabulary, *, hardness: float, **settings: Any) -> None:
        super().__init__(vocabulary, **settings)
        self._hardness = hardness

    def logits(self, scorer: Scorer, previous: Int[Tensor, "B"], following: Int[Tensor, "B"]) -> Float[Tensor, "B B"]:
        """In training with the weights of the negatives in them, whose mean in a line is 1."""
        logits = super().logits(scorer, previous, following)
        if not self.training:
            return logits
        extra = self._hardness * logits.detach()
        is_negative = extra.isfinite().fill_diagonal_(False)
        mean = extra.masked_fill(~is_negative, -torch.inf).logsumexp(dim=1) - is_negative.sum(dim=1).log()
        return logits + torch.where(is_negative, extra - mean[:, None], 0.0)


class AveragedWeights(EMAWeightAveraging):
    """A running mean of the weights is what is validated, tested and recommended by.

    Lightning's own gives the weights of the last step back when a checkpoint is loaded, for a test as well.
    """

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """The mean stays, which is the checkpoint's own state, unless training goes on."""
        if not trainer.testing:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)


class ItemBiasInTraining(CosineMix):
    """A bias of the candidate helps to foretell the share, and counts less when tracks are recommended.

    Args:
        weight: of the bias there; 0 to leave it out.
    """

    def __init__(self, vocabulary: Vocabulary, *, weight: float, **settings: Any) -> None:
        super().__init__(vocabulary, **{**settings, "item_bias": True})
        self._weight = weight

    def item_vectors(self) -> Float[Tensor, "N V"]:
        """With the weight on the bias, the last of the numbers."""
        vectors = super().item_vectors()
        return torch.cat([vectors[:, :-1], self._weight * vectors[:, -1:]], dim=-1)


class MeanOfTwo(CosineMix):
    """The mean score of two heads that start from different numbers; `BCEOfBoth` trains each as if it were alone."""

    def __init__(self, vocabulary: Vocabulary, **settings: Any) -> None:
        nn.Module.__init__(self)  # it has no tables but those of the two
        self.one, self.other = (CosineMix(vocabulary, **settings) for _ in range(2))
        self.register_buffer("artist_of", torch.from_numpy(vocabulary.catalog.artist_of))

    @property
    def heads(self) -> tuple[CosineMix, CosineMix]:
        """Both."""
        return self.one, self.other

    def alpha(self) -> Float[Tensor, ""]:
        """Mean of both."""
        return torch.stack([torch.as_tensor(head.alpha()) for head in self.heads]).mean()

    def forward(self, previous: Int[Tensor, "B"], following: Int[Tensor, "B"]) -> Float[Tensor, "B"]:
        """Mean of both."""
        return torch.stack([head(previous, following) for head in self.heads]).mean(dim=0)

    def query(self, rows: Int[Tensor, "B"]) -> Float[Tensor, "B V"]:
        """Vectors of both, side by side."""
        return torch.cat([head.query(rows) for head in self.heads], dim=-1) / 2**0.5

    def item(self, rows: Int[Tensor, "B"]) -> Float[Tensor, "B V"]:
        """Vectors of both, side by side."""
        return torch.cat([head.item(rows) for head in self.heads], dim=-1) / 2**0.5


class BCEOfBoth(BCELoss):
    """The cross entropies of both heads of a `MeanOfTwo`, which share scale and biases; of their mean in validation."""

    def each(self, scorer: MeanOfTwo, *batch: Tensor) -> Float[Tensor, "B"]:  # type: ignore[override]
        """The mean of both in training."""
        scorers = scorer.heads if self.training else [scorer]
        return torch.stack([super(BCEOfBoth, self).each(one, *batch) for one in scorers]).mean(dim=0)


class DecayingPairs(PairDataModule):
    """Pairs count less, the further apart in the session: training draws `decay^(distance − 1)` of them, by the seed.

    Args:
        decay: what each place more leaves, in (0, 1].
    """

    def __init__(self, *, decay: float, **settings: Any) -> None:
        if settings["split"] == "pair":
            raise InputError("split=pair tears sessions apart, whose distances decay; use datamodule.split=session")
        super().__init__(**settings)
        self._decay, self._drawn_by = decay, settings["seed"]

    def _split_up(self, sessions: Sessions, pairs: Pairs) -> None:
        place = _place(sessions.listens.session)
        earlier, later = reach(place, self._pairing, self._window)
        in_training = split_sessions(sessions, split=self._split, seed=self._split_seed)[pairs.session] == 0
        drawn = np.random.default_rng(self._drawn_by).random(len(pairs)) < self._decay ** (later - earlier - 1)
        super()._split_up(sessions, pairs.where(drawn | ~in_training))


def _place(session: Int64[np.ndarray, "E"]) -> Int64[np.ndarray, "E"]:
    """Place 0, 1, … of each event in its session, events of a session side by side."""
    begins = np.flatnonzero(np.diff(session, prepend=-1))
    return np.arange(len(session)) - np.repeat(begins, np.diff(begins, append=len(session)))
