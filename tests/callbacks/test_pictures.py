"""Pictures of runs that are as small and as odd as runs can be."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint

from segue.callbacks import pictures as module
from segue.callbacks.assembly import build_callbacks
from segue.callbacks.pictures import Pictures
from segue.callbacks.ranking_metrics import RankingMetrics
from segue.callbacks.run_context import RunContext
from segue.datamodules.pair_datamodule import PairDataModule
from segue.models.baselines.counting import Popular
from segue.models.baselines.module import Baseline
from segue.models.head_ranker import artist_vectors
from segue.models.losses import BCELoss, SoftmaxLoss
from segue.models.pair_ranker import PairRanker
from segue.reports import training_pictures as drawing
from tests.conftest import make_vocabulary
from tests.models.plain import COSINES, LAST_TRACK

Make = Callable[..., PairDataModule]
MONITOR = "val/loss"
SCORERS: dict[float | str, Any] = {alpha: partial(COSINES, dim=8, alpha=alpha) for alpha in ("learned", 1.0)}
LOSSES: dict[str, Any] = {"bce": BCELoss, "softmax": partial(SoftmaxLoss, temperature=0.2, logq=1.0)}


def ranker(
    datamodule: PairDataModule, alpha: float | str = "learned", loss: str = "bce", context: Any = LAST_TRACK
) -> PairRanker:
    torch.manual_seed(0)
    return PairRanker(
        vocabulary=datamodule.vocabulary,
        scorer=SCORERS[alpha],
        loss=LOSSES[loss],
        context=context,
        optimizer=partial(torch.optim.Adam, lr=0.02),
        scheduler=None,
        monitor=MONITOR,
    )


def baseline(datamodule: PairDataModule) -> Baseline:
    model = partial(Popular, artist_weight=1.0)
    return Baseline(vocabulary=datamodule.vocabulary, model=model, context=LAST_TRACK, monitor="val/mrr")


def trainer_of(
    datamodule: PairDataModule, run: Path, *more: Callback, max_test_queries: int | None = None, **settings: Any
) -> tuple[Trainer, RunContext]:
    context = RunContext(datamodule=datamodule)
    chosen: dict[str, Any] = {
        "ranking": partial(
            RankingMetrics,
            max_val_queries=100,
            max_test_queries=max_test_queries,
            list_length=2,
            queries_path=str(run / "queries.parquet"),
            seed=1,
        ),
        "plots": Pictures(folder=str(run / "plots"), monitor=MONITOR, mode="min", seed=1),
    }
    made, _ = build_callbacks(chosen, context, monitor=MONITOR)
    checkpoint = ModelCheckpoint(
        dirpath=run, filename="best", monitor=MONITOR, mode="min", save_last=True, enable_version_counter=False
    )
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[*made, *more, checkpoint],
        **{"max_epochs": 1, **settings},
    )
    return trainer, context


def drawn(run: Path) -> set[str]:
    """Names of the pictures; each is one."""
    files = list((run / "plots").iterdir())
    for file in files:
        assert file.read_bytes().startswith(b"\x89PNG")
        assert file.stat().st_size > 5000
    return {file.name for file in files}


def kept(_: object) -> Figure:
    """What a function draws whose arguments were kept."""
    return Figure()


def test_of_a_baseline_nothing_is_drawn(ring: PairDataModule, tmp_path: Path) -> None:
    trainer, _ = trainer_of(ring, tmp_path)
    trainer.test(baseline(ring), ring, verbose=False)
    assert drawn(tmp_path) == set()


def test_without_shares_there_is_no_calibration(ring: PairDataModule, tmp_path: Path) -> None:
    unknown = {name: np.full(len(pairs), np.nan, np.float32) for name, pairs in ring.pairs.items()}
    ring.pairs = {name: replace(pairs, played_ratio=unknown[name]) for name, pairs in ring.pairs.items()}
    ring.vocabulary = replace(ring.vocabulary, mean_played_ratio=None)
    trainer, _ = trainer_of(ring, tmp_path)
    trainer.test(ranker(ring, loss="softmax"), ring, verbose=False)
    assert drawn(tmp_path) == {"artists.png"}


def test_the_calibration_is_that_of_the_pairs_or_of_a_seeded_part_of_very_many(
    ring: PairDataModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[np.ndarray, np.ndarray]] = []

    def drawn_of(*given: np.ndarray) -> Figure:
        told.append((given[0], given[1]))
        return kept(given)

    monkeypatch.setattr(drawing, "draw_calibration", drawn_of)
    model = ranker(ring)
    for most in (module.MAX_PAIRS, 30, 30):
        monkeypatch.setattr(module, "MAX_PAIRS", most)
        trainer, _ = trainer_of(ring, tmp_path)
        trainer.test(model, ring, verbose=False)
    (predicted, real), one, other = told
    assert real.tolist() == ring.pairs["test"].played_ratio.tolist()
    mse = ((predicted - real) ** 2).mean()
    assert mse == pytest.approx(float(trainer.callback_metrics["test/mse"]), rel=1e-5)
    assert len(one[0]) == 30
    assert np.array_equal(one, other)


def test_the_vector_of_an_artist_is_the_mean_of_its_tracks() -> None:
    artist_of = [0, 0, 0, 1, 1, 2, 3]
    counts = [1, 2, 0, 0, 1, 0, 3]  # of artist 2 nothing is seen
    vocabulary = make_vocabulary(artist_of, previous_counts=counts, next_counts=counts)
    scorer = SCORERS[1.0](vocabulary)
    vectors = artist_vectors(scorer, np.array(artist_of)).detach().numpy()
    for artist in range(4):
        seen = [row for row in range(7) if artist_of[row] == artist and counts[row]]
        expected = np.mean([scorer.item(torch.tensor([row]))[0].detach().numpy() for row in seen] or [np.zeros(8)], 0)
        np.testing.assert_allclose(vectors[artist], expected, atol=1e-6)
    assert not vectors[2].any()


@pytest.mark.parametrize("alpha", ["learned", 1.0])
def test_artists_are_drawn_by_their_own_vectors_where_the_head_has_them(
    ring: PairDataModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alpha: float | str
) -> None:
    told: dict[str, Any] = {}
    monkeypatch.setattr(drawing, "draw_artists", lambda **given: kept(told.update(given)))
    model = ranker(ring, alpha)
    assert model.scorer is not None
    own = model.scorer.query_parts().get("artist")
    expected = artist_vectors(model.scorer, ring.catalog.artist_of)
    if own is not None:  # that of any of its tracks
        tracks = np.unique(ring.catalog.artist_of, return_index=True)[1]
        expected = model.scorer.item_vectors()[tracks, own.columns]
    trainer, _ = trainer_of(ring, tmp_path)
    trainer.test(model, ring, verbose=False)
    assert (told["what"] == "Embeddings") == (own is not None) == (alpha == "learned")
    np.testing.assert_allclose(told["vectors"], expected.detach().numpy(), atol=1e-6)
