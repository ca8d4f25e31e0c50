"""The contenders of `quality.py`: each trains on the same sessions and says when its model can be evaluated.

N tracks in the catalogue, E events, Q queries, M tracks with a vector, V width of a vector.
"""

import os
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.studying import sized
from experiments.throughput.quality_clock import LIMIT_S, Clock
from segue.models.baselines.counting import Counter
from segue.runs.provenance import ROOT

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    from segue.catalog import Listens
    from segue.datamodules.pair_datamodule import PairDataModule

PATIENCE_S = sized(30.0, 0.1)
"""A contender has at least this much training time, in s, before it may be stopped because it improves no more."""
PATIENCE = 3.0
"""A contender is stopped when it has trained this many times as long as it needed for its best value."""

NUM_NEIGHBOURS = 500
"""Best candidates of a query of SASRec that are ranked; conf/model has this value for the others."""
QUERIES_AT_ONCE = 512
LEAST_PLAYED = 0.5
"""SASRec does not learn from events with a smaller share played; conf/model has this value for item2vec and BPR."""

Point = tuple[float, float]
"""Seconds of training, and the validation metric after them."""


class FinishedError(Exception):
    """Ends the training of a library that cannot be stopped otherwise."""


def is_finished(points: list[Point]) -> bool:
    """Whether a contender has used its time, or has not improved for long enough."""
    seconds, _ = points[-1]
    best_s, _ = max(points, key=lambda point: point[1])
    return seconds >= LIMIT_S or seconds >= max(PATIENCE_S, PATIENCE * best_s)


class Trial:
    """The clock and the curve of one contender, and the queries on which it is judged.

    Args:
        config: of the run that `train.py` would make.
        datamodule: the data, set up.
    """

    def __init__(self, config: Any, datamodule: "PairDataModule") -> None:
        from hydra.utils import instantiate

        from segue.callbacks.run_context import RunContext

        self.config, self.vocabulary, self.datamodule = config, datamodule.vocabulary, datamodule
        ranking = instantiate(config.callbacks.ranking, _convert_="all")(RunContext(datamodule=datamodule))
        self.queries = ranking.queries["val"]  # the sample on which train.py validates
        self.points: list[Point] = []
        self.clock = Clock()

    def look(self, ranks: Callable[[], np.ndarray]) -> bool:
        """Evaluate the model if it is time. Evaluation does not count as training.

        Args:
            ranks: ranks the queries by the present model.

        Returns:
            Whether the contender is finished.
        """
        if not self.clock.is_due:
            return False
        self.evaluate(ranks)
        return is_finished(self.points)

    def evaluate(self, ranks: Callable[[], np.ndarray]) -> None:
        """Evaluate the model now.

        Args:
            ranks: ranks the queries by the present model.
        """
        with self.clock.evaluation() as seconds:
            self.add(seconds, ranks())

    def add(self, seconds: float, ranks: np.ndarray) -> None:
        """Append a point to the curve."""
        from segue.statistics.ranking import ndcg_at

        self.points.append((seconds, float(ndcg_at(ranks, 10).mean())))

    def ranks_by(self, ranker: Any) -> np.ndarray:
        """Rank the queries by a model of ours."""
        import torch

        from segue.histories import Histories

        with torch.inference_mode():
            return np.asarray(
                ranker.ranks(Histories.of_tracks(self.queries.previous), self.queries.following, lambda _: None)
            )

    def ranks_by_vectors(
        self, *, query_rows: np.ndarray, queries: np.ndarray, item_rows: np.ndarray, items: np.ndarray
    ) -> np.ndarray:
        """Rank the queries by inner products, as the baselines of `train.py` do.

        Tracks without a vector come after all others. A query without a vector ranks all tracks by their plays.

        Args:
            query_rows: rows of the tracks that have a query vector.
            queries: their query vectors.
            item_rows: rows of the tracks that have an item vector.
            items: their item vectors.
        """
        from hydra.utils import instantiate

        from segue.models.baselines.module import Baseline

        asked = np.isin(query_rows, self.queries.previous)
        model = self.config.model
        nearest = Nearest(
            order=self.vocabulary.plays,
            artist_weight=model.get("artist_weight", 0.0),
            num_kept=model.get("num_neighbours", NUM_NEIGHBOURS),
            query_rows=query_rows[asked],
            queries=queries[asked],
            item_rows=item_rows,
            items=items,
        )
        context = instantiate(self.config.context, _convert_="all")
        baseline = Baseline(
            vocabulary=self.vocabulary, model=lambda _: nearest, context=context, monitor="val/ndcg_at_10"
        )
        baseline.on_train_start()
        return self.ranks_by(baseline)


@dataclass(eq=False, kw_only=True)
class Nearest(Counter):
    """A `Counter` (`src/models/baselines/counting.py`) of vectors that are there already.

    Args:
        order: decides between equal scores.
        artist_weight: added to the score of every track by the artist of the query.
        num_kept: number of best candidates of each query.
        query_rows: rows of the tracks that have a query vector.
        queries: their query vectors.
        item_rows: rows of the tracks that have an item vector.
        items: their item vectors.
    """

    order: np.ndarray
    artist_weight: float
    num_kept: int
    query_rows: np.ndarray
    queries: np.ndarray
    item_rows: np.ndarray
    items: np.ndarray

    def __post_init__(self) -> None:
        self.trend = np.ones(len(self.order), np.float32)  # nothing ages

    def count(self, _: "Listens") -> "csr_array":
        """The positive scores of the best candidates of each query."""
        import torch
        from scipy.sparse import csr_array

        parts = []
        of_candidates = torch.from_numpy(self.items).T
        for start in range(0, len(self.queries), QUERIES_AT_ONCE):
            rows = self.query_rows[start : start + QUERIES_AT_ONCE]
            scores = torch.from_numpy(self.queries[start : start + QUERIES_AT_ONCE]) @ of_candidates
            scores[torch.from_numpy(rows[:, None] == self.item_rows)] = 0  # a track is no candidate for itself
            values, columns = scores.topk(min(self.num_kept, len(self.item_rows)))
            line, nth = (values > 0).nonzero(as_tuple=True)
            parts.append((values[line, nth].numpy(), rows[line.numpy()], self.item_rows[columns[line, nth].numpy()]))
        value, row, column = (np.concatenate(part) for part in zip(*parts, strict=True))
        return csr_array((value, (row, column)), shape=(len(self.order), len(self.order)))


def ours(trial: Trial) -> None:
    """A head of Segue, trained as `train.py` trains it, without its files and its tracking."""
    from hydra.utils import instantiate
    from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything

    class Evaluate(Callback):
        def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
            if not trial.clock.is_due:
                return
            pl_module.eval()
            trainer.should_stop = trial.look(lambda: trial.ranks_by(pl_module))
            pl_module.train()

    seed_everything(trial.config.seed, workers=True, verbose=False)
    trial.clock = Clock()
    ranker = instantiate(trial.config.ranker, _convert_="all")(vocabulary=trial.vocabulary)
    settings = {"callbacks": [Evaluate()], "logger": False, "enable_checkpointing": False, "limit_val_batches": 0}
    trainer = instantiate(trial.config.trainer, **settings, _convert_="all")
    trainer.fit(ranker, trial.datamodule)
    if not is_finished(trial.points):
        ranker.eval()
        trial.evaluate(lambda: trial.ranks_by(ranker))


def counting(trial: Trial) -> None:
    """A baseline that only counts: one point."""
    from hydra.utils import instantiate

    trial.clock = Clock()
    ranker = instantiate(trial.config.ranker, _convert_="all")(vocabulary=trial.vocabulary)
    ranker.on_train_start()  # counts
    trial.evaluate(lambda: trial.ranks_by(ranker))


def item2vec(trial: Trial) -> None:
    """`Word2Vec` of gensim, evaluated after epochs."""
    from gensim.models import Word2Vec
    from gensim.models.callbacks import CallbackAny2Vec

    model = trial.config.model
    listens = _played(trial, least=model.least_played)

    class Evaluate(CallbackAny2Vec):  # type: ignore[misc] # gensim has no types
        def on_epoch_end(self, learner: Any) -> None:
            if trial.look(lambda: ranks(learner)):
                raise FinishedError

    def ranks(learner: Any) -> np.ndarray:
        rows = np.array(learner.wv.index_to_key, np.int64)
        learner.wv.fill_norms(force=True)  # otherwise those of the first evaluation remain
        return _ranks_of_items(trial, rows, learner.wv.get_normed_vectors())

    trial.clock = Clock()
    words = listens.track.astype(str).tolist()
    ends = [*(np.flatnonzero(np.diff(listens.session)) + 1).tolist(), len(words)]
    sentences = [words[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]
    learner = Word2Vec(
        sg=1,
        vector_size=model.dim,
        window=model.window,
        negative=model.negatives,
        ns_exponent=model.negative_exponent,
        sample=model.subsample,
        alpha=model.lr,
        min_count=1,
        seed=model.seed,
        workers=os.cpu_count(),
    )
    learner.build_vocab(sentences)
    learner.train(
        sentences, total_examples=learner.corpus_count, epochs=model.epochs, callbacks=[Evaluate()], compute_loss=False
    )
    trial.evaluate(lambda: ranks(learner))


def als(trial: Trial) -> None:
    """`AlternatingLeastSquares` of implicit, evaluated after iterations."""
    from implicit.cpu.als import AlternatingLeastSquares

    model = trial.config.model
    _factorise(
        trial,
        trial.vocabulary.listens,
        lambda: AlternatingLeastSquares(
            factors=model.dim,
            regularization=model.regularization,
            alpha=model.confidence,
            iterations=model.epochs,
            random_state=model.seed,
            num_threads=os.cpu_count(),
        ),
    )


def bpr(trial: Trial) -> None:
    """`BayesianPersonalizedRanking` of implicit, evaluated after epochs."""
    from implicit.cpu.bpr import BayesianPersonalizedRanking

    model = trial.config.model
    _factorise(
        trial,
        _played(trial, least=model.least_played),
        lambda: BayesianPersonalizedRanking(
            factors=model.dim,
            learning_rate=model.lr,
            regularization=model.regularization,
            iterations=model.epochs,
            random_state=model.seed,
            num_threads=os.cpu_count(),
        ),
    )


def sasrec(trial: Trial, python: str) -> None:
    """`SASRecModel` of RecTools in its own Python, evaluated after batches. A query is one track, as for the others."""
    listens = _played(trial, least=LEAST_PLAYED)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.savez(
            folder / "sessions.npz",
            session=listens.session,
            track=listens.track,
            queries=np.unique(trial.queries.previous),
        )
        script = Path(__file__).with_name("quality_sasrec.py")
        command = [python, str(script), str(folder), str(trial.config.seed)]
        with subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
        ) as process:
            assert process.stdin
            assert process.stdout
            for line in process.stdout:
                trial.add(float(line), trial.ranks_by_vectors(**_positive(folder / "vectors.npz")))
                process.stdin.write("stop\n" if is_finished(trial.points) else "go\n")
                process.stdin.flush()
        if process.returncode:
            raise SystemExit(f"SASRec failed in {python}; the error is printed above")


def _positive(path: Path) -> dict[str, np.ndarray]:
    """The vectors of a file, with one more number that makes all scores positive and keeps their order."""
    with np.load(path) as file:
        vectors = dict(file)
    queries, items = vectors["queries"], vectors["items"]
    bound = np.linalg.norm(queries, axis=1, keepdims=True) * np.linalg.norm(items, axis=1).max() + 1
    ones = np.ones((len(items), 1), np.float32)
    return {**vectors, "queries": np.hstack([queries, bound]), "items": np.hstack([items, ones])}


def _played(trial: Trial, *, least: float) -> "Listens":
    """The events of the training sessions of which at least this share was played, for methods without weights."""
    listens = trial.vocabulary.listens
    return listens.where(~(listens.played_ratio < least))


def _factorise(trial: Trial, listens: "Listens", build: Callable[[], Any]) -> None:
    """Factorise sessions × tracks, as the baselines do, with all cores."""
    from scipy.sparse import csr_matrix
    from threadpoolctl import threadpool_limits

    from segue.models.baselines.counting import session_weights

    def ranks() -> np.ndarray:
        vectors = np.asarray(learner.item_factors, np.float32)
        if trial.config.model.similarity == "cosine":
            vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return _ranks_of_items(trial, rows, vectors)

    def evaluate(*_: object) -> None:
        if trial.clock.is_due:
            with threadpool_limits(os.cpu_count(), "blas"):
                finished = trial.look(ranks)
            if finished:
                raise FinishedError

    trial.clock = Clock()
    played = session_weights(listens, len(trial.vocabulary.catalog))
    rows = np.unique(played.indices).astype(np.int64)
    sessions = np.flatnonzero(np.diff(played.indptr))
    with threadpool_limits(1, "blas"):  # implicit recommends it
        learner = build()
        learner.fit(csr_matrix(played[sessions][:, rows].astype(np.float32)), show_progress=False, callback=evaluate)
    trial.evaluate(ranks)


def _ranks_of_items(trial: Trial, rows: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Ranks by vectors that a track has in both places of a pair."""
    return trial.ranks_by_vectors(query_rows=rows, queries=vectors, item_rows=rows, items=vectors)
