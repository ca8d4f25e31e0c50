"""Baselines that learn a vector for each track, and recommend the tracks whose vectors are near.

N tracks in the catalogue, M of them with a vector, D embedding width.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64
from scipy.sparse import csr_array, csr_matrix
from torch.nn.functional import normalize

from src.catalog import Listens, Vocabulary
from src.errors import InputError, check_number
from src.models.baselines.counting import played_in

_CELLS = 2**25
"""Scores that are looked through at once, to find the best of a track."""

_SIMILARITIES = ("cosine", "inner")


class Item2Vec:
    """Skip-gram with negative sampling over sessions, as if tracks were words; then neighbours by cosine.

    Args:
        vocabulary: what the training pairs show.
        num_neighbours: best candidates that are kept of each track.
        dim: width of a vector.
        window: largest distance in a session.
        negatives: tracks drawn against each one that was there.
        negative_exponent: they are drawn in proportion to plays^exponent: below 0, rare ones more often.
        subsample: share of all listens above which a track is left out now and then; 0 for never.
        epochs: times that the sessions are gone through.
        lr: learning rate at the start.
        least_played: listens with a smaller share are left out, in [0, 1]: words have no weights.
        artist_weight: added to the score of a track by the artist of the query.
        seed: decides initial vectors and draws.

    Raises:
        InputError: gensim is not installed, or an argument is out of range.

    Source: Barkan and Koenigstein, Item2vec, MLSP 2016; Caselles-Dupré, Lesaint and Royo-Letelier, Word2vec applied to
        recommendation: hyperparameters matter, RecSys 2018.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        num_neighbours: int,
        dim: int,
        window: int,
        negatives: int,
        negative_exponent: int | float,
        subsample: int | float,
        epochs: int,
        lr: int | float,
        least_played: int | float,
        artist_weight: int | float,
        seed: int,
    ) -> None:
        whole = {"num_neighbours": num_neighbours, "dim": dim, "window": window, "negatives": negatives}
        for name, value in {**whole, "epochs": epochs}.items():
            check_number(name, value, whole=True, least=1)
        _check_seed(seed)
        check_number("negative_exponent", negative_exponent, least=-2, most=2, hint="-0.5 suits music, 0.75 words")
        check_number("subsample", subsample, least=0, most=1, hint="0 leaves out nothing")
        check_number("lr", lr, above=0, hint="0.025 is usual")
        check_number("least_played", least_played, least=0, most=1)
        try:
            from gensim.models import Word2Vec
        except ModuleNotFoundError:
            raise InputError("model=item2vec needs gensim; install it with: pip install -e '.[rivals]'") from None
        self.num_tracks, self.artist_weight = len(vocabulary.catalog), artist_weight
        self.order = vocabulary.plays
        self._num_neighbours, self._least_played = num_neighbours, least_played
        self._learn: Callable[[list[list[str]]], Any] = lambda sentences: Word2Vec(
            sentences,
            sg=1,
            vector_size=dim,
            window=window,
            negative=negatives,
            ns_exponent=negative_exponent,
            sample=subsample,
            epochs=epochs,
            alpha=lr,
            min_count=1,
            seed=seed,
            workers=1,  # more would not give the same vectors twice
        )

    def count(self, listens: Listens) -> csr_array:
        """The best candidates of each track."""
        heard = listens.where(~(listens.played_ratio < self._least_played))
        words = heard.track.astype(str).tolist()
        ends = [*(np.flatnonzero(np.diff(heard.session)) + 1).tolist(), len(words)]
        if not words:
            return _near(heard.track, np.empty((0, 1), np.float32), self.num_tracks, self._num_neighbours)
        learned = self._learn([words[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]).wv
        rows = np.array(learned.index_to_key, np.int64)
        return _near(rows, learned.get_normed_vectors(), self.num_tracks, self._num_neighbours)


class Als:
    """Alternating least squares of sessions × tracks (implicit), as if sessions were users; then what is near.

    Args:
        vocabulary: what the training pairs show.
        num_neighbours: best candidates that are kept of each track.
        dim: width of a vector.
        regularization: of vectors; at least 0.
        confidence: what a listen weighs, times the share that was played, where a track that was not played weighs 1.
        epochs: times that sessions and tracks are solved for.
        similarity: `cosine`, or `inner` for the inner product, which favours long vectors, so what is played much.
        artist_weight: added to the score of a track by the artist of the query.
        seed: decides initial vectors.

    Raises:
        InputError: implicit is not installed, or an argument is out of range.

    Source: Hu, Koren and Volinsky, Collaborative filtering for implicit feedback datasets, ICDM 2008.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        num_neighbours: int,
        dim: int,
        regularization: int | float,
        confidence: int | float,
        epochs: int,
        similarity: str,
        artist_weight: int | float,
        seed: int,
    ) -> None:
        _check(num_neighbours=num_neighbours, dim=dim, epochs=epochs, regularization=regularization, seed=seed)
        check_number("confidence", confidence, above=0, hint="a track that was not played has 1")
        try:
            from implicit.cpu.als import AlternatingLeastSquares
        except ModuleNotFoundError:
            raise InputError("model=als needs implicit; install it with: pip install -e '.[rivals]'") from None
        self.num_tracks, self.artist_weight = len(vocabulary.catalog), artist_weight
        self.order = vocabulary.plays
        self._num_neighbours, self._unit = num_neighbours, _is_cosine(similarity)
        self._make: Callable[[], Any] = lambda: AlternatingLeastSquares(
            factors=dim,
            regularization=regularization,
            alpha=confidence,
            iterations=epochs,
            random_state=seed,
            num_threads=1,  # as for Bpr
        )

    def count(self, listens: Listens) -> csr_array:
        """The best candidates of each track."""
        return _factorised(self._make, played_in(listens, self.num_tracks), self._unit, self._num_neighbours)


class Bpr:
    """Bayesian personalised ranking of sessions × tracks (implicit), as if sessions were users; then what is near.

    The bias of a track is one number more of its vector, as in implicit's own `similar_items`.

    Args:
        vocabulary: what the training pairs show.
        num_neighbours: best candidates that are kept of each track.
        dim: width of a vector without its bias.
        regularization: of vectors; at least 0.
        epochs: times that as many listens are drawn as there are.
        lr: learning rate.
        least_played: listens with a smaller share are left out, in [0, 1]: the method has no weights.
        similarity: `cosine`, or `inner` for the inner product, which favours long vectors, so what is played much.
        artist_weight: added to the score of a track by the artist of the query.
        seed: decides initial vectors and draws.

    Raises:
        InputError: implicit is not installed, or an argument is out of range.

    Source: Rendle et al., BPR: Bayesian personalized ranking from implicit feedback, UAI 2009.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        num_neighbours: int,
        dim: int,
        regularization: int | float,
        epochs: int,
        lr: int | float,
        least_played: int | float,
        similarity: str,
        artist_weight: int | float,
        seed: int,
    ) -> None:
        _check(num_neighbours=num_neighbours, dim=dim, epochs=epochs, regularization=regularization, seed=seed)
        check_number("lr", lr, above=0, hint="0.01 is usual")
        check_number("least_played", least_played, least=0, most=1)
        try:
            from implicit.cpu.bpr import BayesianPersonalizedRanking
        except ModuleNotFoundError:
            raise InputError("model=bpr needs implicit; install it with: pip install -e '.[rivals]'") from None
        self.num_tracks, self.artist_weight = len(vocabulary.catalog), artist_weight
        self.order = vocabulary.plays
        self._num_neighbours, self._least_played, self._unit = num_neighbours, least_played, _is_cosine(similarity)
        self._make: Callable[[], Any] = lambda: BayesianPersonalizedRanking(
            factors=dim,
            learning_rate=lr,
            regularization=regularization,
            iterations=epochs,
            random_state=seed,
            num_threads=1,  # more would not give the same vectors twice
        )

    def count(self, listens: Listens) -> csr_array:
        """The best candidates of each track."""
        heard = listens.where(~(listens.played_ratio < self._least_played))
        return _factorised(self._make, played_in(heard, self.num_tracks), self._unit, self._num_neighbours)


def _check(*, num_neighbours: int, dim: int, epochs: int, regularization: int | float, seed: int) -> None:
    for name, value in {"num_neighbours": num_neighbours, "dim": dim, "epochs": epochs}.items():
        check_number(name, value, whole=True, least=1)
    check_number("regularization", regularization, least=0)
    _check_seed(seed)


def _check_seed(seed: int) -> None:
    check_number("seed", seed, whole=True, least=0, most=2**32 - 1)


def _is_cosine(similarity: str) -> bool:
    if similarity not in _SIMILARITIES:
        raise InputError(f"similarity must be {' or '.join(_SIMILARITIES)}, got {similarity!r}")
    return similarity == "cosine"


def _factorised(make: Callable[[], Any], played: csr_array, unit: bool, num_kept: int) -> csr_array:
    """What is near by the item vectors that implicit learns; tracks that nobody played have none."""
    num_tracks = played.shape[1]
    rows = np.unique(played.indices).astype(np.int64)
    if len(rows) < 2:  # nothing to be near to, and nothing to draw against
        return _near(rows[:0], np.empty((0, 1), np.float32), num_tracks, num_kept)
    sessions = np.flatnonzero(np.diff(played.indptr))
    from threadpoolctl import threadpool_limits  # which implicit brings

    with threadpool_limits(1, "blas"):  # implicit asks for it
        model = make()
        model.fit(csr_matrix(played[sessions][:, rows].astype(np.float32)), show_progress=False)
    vectors = np.asarray(model.item_factors, np.float32)
    if unit:
        vectors = normalize(torch.from_numpy(vectors)).numpy()
    return _near(rows, vectors, num_tracks, num_kept)


def _near(
    rows: Int64[np.ndarray, "M"], vectors: Float32[np.ndarray, "M D"], num_tracks: int, num_kept: int
) -> csr_array:
    """The highest positive inner products of each vector but with itself; all of them are never there at once.

    Args:
        rows: the tracks that have a vector.
        vectors: of these.
        num_tracks: N.
        num_kept: candidates of a track.
    """
    table, found = torch.from_numpy(np.ascontiguousarray(vectors)), []
    for places in torch.arange(len(rows)).tensor_split(1 + len(rows) ** 2 // _CELLS):
        block = table[places] @ table.T
        block[torch.arange(len(places)), places] = 0
        values, columns = block.topk(min(num_kept, len(rows)))
        line, nth = (values > 0).nonzero(as_tuple=True)
        found.append((values[line, nth].numpy(), rows[places[line].numpy()], rows[columns[line, nth].numpy()]))
    value, row, column = (np.concatenate(part) for part in zip(*found, strict=True))
    return csr_array((value, (row, column)), shape=(num_tracks, num_tracks))
