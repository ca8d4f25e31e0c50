"""Baselines that learn a vector for each track and recommend the tracks with the nearest vectors.

N tracks in the catalogue, M of them with a vector (R with those of artists), D embedding width.
"""

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Float32, Int64
from scipy.sparse import csr_array, csr_matrix

from segue.catalog import Listens, Vocabulary
from segue.models.baselines.counting import NUM_NEIGHBOURS, ArtistWeight, Counter, played_enough, session_weights
from segue.models.retrieval.sparse import largest_positive, no_scores
from segue.settings import Setting, settings

Dim = Annotated[int, Setting("width of a vector, without a bias", least=1)]
Regularization = Annotated[float, Setting("L2 regularization of the vectors", least=0)]
Seed = Annotated[int, Setting("decides the initial vectors and the samples", least=0, most=2**32 - 1)]


@settings("model")
class Item2Vec(Counter):
    """Skip-gram with negative sampling: sessions are sentences and tracks are words. Neighbours by cosine.

    With a `negative_exponent` below 0, rare tracks are drawn more often as negatives. Words have no weights, therefore
    events with a small share played are dropped.

    Raises:
        ModuleNotFoundError: gensim is not installed.

    Source:
        Barkan and Koenigstein, Item2vec, MLSP 2016;
        Caselles-Dupré, Lesaint and Royo-Letelier, Word2vec applied to recommendation: hyperparameters matter, RecSys
        2018.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        dim: Dim = 50,
        window: Annotated[int, Setting("largest distance in a session", least=1)] = 3,
        negative_exponent: Annotated[
            float,
            Setting("negatives are drawn by plays^exponent", least=-2, most=2, hint="-0.5 suits music, 0.75 words"),
        ] = -0.5,
        subsample: Annotated[
            float,
            Setting("tracks with a larger share of events are drawn less", least=0, most=1, hint="0 switches it off"),
        ] = 1e-5,
        epochs: Annotated[int, Setting("number of passes over the sessions", least=1)] = 110,
        lr: Annotated[float, Setting("initial learning rate", above=0, hint="0.025 is usual")] = 0.025,
        artist_mean: Annotated[
            bool, Setting("whether a track without plays gets the mean of the unit vectors of its artist's tracks")
        ] = False,
        artist_weight: ArtistWeight = 0.0,
        seed: Seed,
    ) -> None:
        from gensim.models import Word2Vec

        super().__init__(vocabulary, artist_weight)
        self._has_means = artist_mean
        self._learn: Callable[[list[list[str]]], Any] = partial(
            Word2Vec,
            sg=1,
            vector_size=dim,
            window=window,
            negative=5,
            ns_exponent=negative_exponent,
            sample=subsample,
            epochs=epochs,
            alpha=lr,
            min_count=1,
            seed=seed,
            workers=1,  # with more, the same seed gives different vectors
        )

    def count(self, listens: Listens) -> csr_array:
        """Learn vectors and find the best candidates of each track."""
        played = played_enough(listens)
        words, starts = played.track.astype(str), 1 + np.flatnonzero(np.diff(played.session))
        if not len(words):
            return no_scores(self.num_tracks)
        vectors = self._learn([sentence.tolist() for sentence in np.split(words, starts)]).wv
        rows, units = np.array(vectors.index_to_key, np.int64), vectors.get_normed_vectors()
        if self._has_means:
            rows, units = _with_means(rows, units, self.artist_of)
        return _nearest(rows, units, self.num_tracks)


class _Factorised(Counter):
    """Vectors of tracks that implicit learns from the matrix sessions × tracks. Tracks without plays have none.

    Args:
        vocabulary: the catalogue and what the training data shows of it.
        build: builds what learns them, given `num_threads`.
        artist_weight: as for every baseline.
        has_weights: whether shares played are weights of events; otherwise those with a small share are dropped.
    """

    def __init__(
        self, vocabulary: Vocabulary, build: Callable[..., Any], artist_weight: float, *, has_weights: bool
    ) -> None:
        super().__init__(vocabulary, artist_weight)
        self._build, self._has_weights = build, has_weights

    def count(self, listens: Listens) -> csr_array:
        """Learn vectors and find the best candidates of each track."""
        played = session_weights(listens if self._has_weights else played_enough(listens), self.num_tracks)
        rows = np.unique(played.indices).astype(np.int64)
        if len(rows) < 2:  # no neighbour and no negative sample
            return no_scores(self.num_tracks)
        sessions = np.flatnonzero(np.diff(played.indptr))
        from threadpoolctl import threadpool_limits  # a dependency of implicit

        with threadpool_limits(1, "blas"):  # implicit recommends it
            model = self._build(num_threads=1)  # with more, the same seed gives different vectors
            model.fit(csr_matrix(played[sessions][:, rows].astype(np.float32)), show_progress=False)
        vectors = torch.nn.functional.normalize(torch.from_numpy(np.asarray(model.item_factors, np.float32)))
        return _nearest(rows, vectors.numpy(), self.num_tracks)


@settings("model")
class Als(_Factorised):
    """Alternating least squares on the matrix sessions × tracks (implicit): sessions are users. Nearest vectors.

    Raises:
        ModuleNotFoundError: implicit is not installed.

    Source:
        Hu, Koren and Volinsky, Collaborative filtering for implicit feedback datasets, ICDM 2008.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        dim: Dim = 100,
        regularization: Regularization = 0.01,
        confidence: Annotated[
            float,
            Setting("weight of an event, times its share played", above=0, hint="that of a track not played is 1"),
        ] = 1.0,
        epochs: Annotated[int, Setting("number of alternating steps", least=1)] = 15,
        artist_weight: ArtistWeight = 0.0,
        seed: Seed,
    ) -> None:
        from implicit.cpu.als import AlternatingLeastSquares

        build = partial(
            AlternatingLeastSquares,
            factors=dim,
            regularization=regularization,
            alpha=confidence,
            iterations=epochs,
            random_state=seed,
        )
        super().__init__(vocabulary, build, artist_weight, has_weights=True)


@settings("model")
class Bpr(_Factorised):
    """Bayesian personalised ranking on the matrix sessions × tracks (implicit): sessions are users. Nearest vectors.

    The bias of a track is one more number of its vector, as in `similar_items` of implicit.

    Raises:
        ModuleNotFoundError: implicit is not installed.

    Source:
        Rendle et al., BPR: Bayesian personalized ranking from implicit feedback, UAI 2009.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        dim: Dim = 100,
        regularization: Regularization = 0.01,
        epochs: Annotated[int, Setting("number of times that as many events are drawn as there are", least=1)] = 100,
        lr: Annotated[float, Setting("learning rate", above=0, hint="0.01 is usual")] = 0.01,
        artist_weight: ArtistWeight = 0.0,
        seed: Seed,
    ) -> None:
        from implicit.cpu.bpr import BayesianPersonalizedRanking

        build = partial(
            BayesianPersonalizedRanking,
            factors=dim,
            learning_rate=lr,
            regularization=regularization,
            iterations=epochs,
            random_state=seed,
        )
        super().__init__(vocabulary, build, artist_weight, has_weights=False)


def _with_means(
    rows: Int64[np.ndarray, "M"], units: Float32[np.ndarray, "M D"], artist_of: Int64[np.ndarray, "N"]
) -> tuple[Int64[np.ndarray, "R"], Float32[np.ndarray, "R D"]]:
    """Give tracks without a vector the mean of their artist, of unit length, where the artist has a vector."""
    sums = np.zeros((int(artist_of.max()) + 1, units.shape[1]), np.float32)
    np.add.at(sums, artist_of[rows], units)
    lengths = np.linalg.norm(sums, axis=1)
    others = np.setdiff1d(np.arange(len(artist_of)), rows)
    others = others[lengths[artist_of[others]] > 0]
    return np.concatenate([rows, others]), np.concatenate(
        [units, (sums[artist_of[others]] / lengths[artist_of[others], None])]
    )


def _nearest(rows: Int64[np.ndarray, "M"], vectors: Float32[np.ndarray, "M D"], num_tracks: int) -> csr_array:
    """The highest positive inner products of each vector, without itself."""
    table = torch.from_numpy(np.ascontiguousarray(vectors))
    return largest_positive(lambda part: table[part] @ table.T, rows, num_tracks=num_tracks, num_kept=NUM_NEIGHBOURS)
