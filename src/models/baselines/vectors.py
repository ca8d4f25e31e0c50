"""Baselines that learn a vector for each track and recommend the tracks with the nearest vectors.

N tracks in the catalogue, M of them with a vector, D embedding width.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Float32, Int64
from scipy.sparse import csr_array, csr_matrix

from segue.catalog import Listens
from segue.models.baselines.counting import NUM_NEIGHBOURS, Counter, Window, played_enough, session_weights
from segue.models.retrieval.sparse import largest_positive, no_scores
from segue.settings import Setting, settings

Dim = Annotated[int, Setting("width of a vector, without a bias", least=1)]
Seed = Annotated[int, Setting("decides the initial vectors and the samples", least=0, most=2**32 - 1)]
SUBSAMPLE, EPOCHS = 1e-5, 110
"""Of item2vec: tracks with a larger share of the events are drawn less; and passes over the sessions."""


@settings("model")
@dataclass(kw_only=True, eq=False)
class Item2Vec(Counter):
    """Skip-gram with negative sampling: sessions are sentences and tracks are words. Neighbours by cosine.

    With a `negative_exponent` below 0, rare tracks are drawn more often as negatives. Words have no weights, therefore
    events with a small share played are dropped.

    Source:
        Barkan and Koenigstein, Item2vec, MLSP 2016;
        Caselles-Dupré, Lesaint and Royo-Letelier, Word2vec applied to recommendation: hyperparameters matter, RecSys
        2018.

    Raises:
        ModuleNotFoundError: gensim is not installed.
    """

    dim: Dim = 50
    window: Window = 3
    negative_exponent: Annotated[
        float, Setting("negatives are drawn by plays^exponent: -0.5 suits music, 0.75 words", least=-2, most=2)
    ] = -0.5
    seed: Seed

    def __post_init__(self) -> None:
        import gensim  # noqa: F401 - a missing library is named before the source is read

        super().__post_init__()

    def count(self, listens: Listens) -> csr_array:
        """Learn vectors and find the best candidates of each track."""
        from gensim.models import Word2Vec

        played = played_enough(listens)
        if not len(played.track):
            return no_scores(self.num_tracks)
        sentences = np.split(played.track.astype(str), 1 + np.flatnonzero(np.diff(played.session)))
        vectors = Word2Vec(
            [sentence.tolist() for sentence in sentences],
            sg=1,
            vector_size=self.dim,
            window=self.window,
            ns_exponent=self.negative_exponent,
            sample=SUBSAMPLE,
            epochs=EPOCHS,
            min_count=1,
            seed=self.seed,
            workers=1,  # with more, the same seed gives different vectors
        ).wv
        return _nearest(np.array(vectors.index_to_key, np.int64), vectors.get_normed_vectors(), self.num_tracks)


@dataclass(kw_only=True, eq=False)
class _Factorised(Counter, ABC):
    """Vectors of tracks that implicit learns from the matrix sessions × tracks. Tracks without plays have none.

    Attributes:
        has_weights: whether shares played are weights of events; otherwise those with a small share are dropped.

    Raises:
        ModuleNotFoundError: implicit is not installed.
    """

    dim: Dim = 100
    regularization: Annotated[float, Setting("L2 regularization of the vectors", least=0)] = 0.01
    seed: Seed
    has_weights = False

    def __post_init__(self) -> None:
        import implicit  # noqa: F401 - a missing library is named before the source is read

        super().__post_init__()

    @abstractmethod
    def build(self, given: Mapping[str, Any]) -> Any:
        """Build what learns them; what is not given is as implicit has it."""

    def count(self, listens: Listens) -> csr_array:
        """Learn vectors and find the best candidates of each track."""
        played = session_weights(listens if self.has_weights else played_enough(listens), self.num_tracks)
        rows = np.unique(played.indices).astype(np.int64)
        if len(rows) < 2:  # no neighbour and no negative sample
            return no_scores(self.num_tracks)
        from threadpoolctl import threadpool_limits

        with threadpool_limits(1, "blas"):  # implicit recommends it
            given = {"factors": self.dim, "regularization": self.regularization, "random_state": self.seed}
            model = self.build(given | {"num_threads": 1})  # with more, the same seed gives different vectors
            table = played[np.flatnonzero(np.diff(played.indptr))][:, rows]
            model.fit(csr_matrix(table.astype(np.float32)), show_progress=False)
        vectors = torch.nn.functional.normalize(torch.from_numpy(np.asarray(model.item_factors, np.float32)))
        return _nearest(rows, vectors.numpy(), self.num_tracks)


@settings("model")
@dataclass(kw_only=True, eq=False)
class Als(_Factorised):
    """Alternating least squares on the matrix sessions × tracks (implicit): sessions are users. Nearest vectors.

    Source:
        Hu, Koren and Volinsky, Collaborative filtering for implicit feedback datasets, ICDM 2008.
    """

    confidence: Annotated[
        float, Setting("weight of an event, times its share played; that of a track not played is 1", above=0)
    ] = 1.0
    has_weights = True

    def build(self, given: Mapping[str, Any]) -> Any:
        """Build what learns them."""
        from implicit.cpu.als import AlternatingLeastSquares

        return AlternatingLeastSquares(**given, alpha=self.confidence)


@settings("model")
@dataclass(kw_only=True, eq=False)
class Bpr(_Factorised):
    """Bayesian personalised ranking on the matrix sessions × tracks (implicit): sessions are users. Nearest vectors.

    The bias of a track is one more number of its vector, as in `similar_items` of implicit. In an epoch as many events
    are drawn as there are.

    Source:
        Rendle et al., BPR: Bayesian personalized ranking from implicit feedback, UAI 2009.
    """

    def build(self, given: Mapping[str, Any]) -> Any:
        """Build what learns them."""
        from implicit.cpu.bpr import BayesianPersonalizedRanking

        return BayesianPersonalizedRanking(**given)


def _nearest(rows: Int64[np.ndarray, "M"], vectors: Float32[np.ndarray, "M D"], num_tracks: int) -> csr_array:
    """The highest positive inner products of each vector, without itself."""
    table = torch.from_numpy(np.ascontiguousarray(vectors))
    return largest_positive(lambda part: table[part] @ table.T, rows, num_tracks=num_tracks, num_kept=NUM_NEIGHBOURS)
