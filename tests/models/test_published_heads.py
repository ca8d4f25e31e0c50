"""The heads of two parts give the numbers that they gave before a head could have more parts.

`published_heads.json` was written by `numbers_of` at commit 069ccb3.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import instantiate

from segue.catalog import Vocabulary
from segue.models.contracts import PairBatch
from segue.models.pair_ranker import PairRanker
from tests.conftest import make_listens, make_vocabulary
from tests.contracts.building import composed

NUMBERS = Path(__file__).with_name("published_heads.json")
HEADS = {
    "track": ("model=track",),
    "artist": ("model=artist",),
    "mean": ("model=mean",),
    "convex": ("model=convex",),
    "0.9": ("model=convex", "model.alpha=0.9"),
}
RECIPES = {
    "shares": ("recipe=shares", "model.shrinkage=0", "model.item_bias=false", "model.init_std=0.1"),
    "session": ("recipe=radio", "context=session"),
}
NUM_TRACKS, NUM_PAIRS, NUM_STEPS = 40, 64, 12


def vocabulary_of_ring() -> Vocabulary:
    counts = [1 + row % 5 for row in range(NUM_TRACKS - 2)] + [0, 0]
    sessions = [[(row % NUM_TRACKS, 0.5) for row in range(start, start + 6)] for start in range(20)]
    listens = make_listens(sessions)
    artists = [row // 3 for row in range(NUM_TRACKS)]
    return make_vocabulary(artists, previous_counts=counts, next_counts=counts, listens=listens)


def batch(rng: np.random.Generator) -> PairBatch:
    previous, step = rng.integers(NUM_TRACKS - 2, size=NUM_PAIRS), rng.integers(1, 4, NUM_PAIRS)
    following = (previous + step) % (NUM_TRACKS - 2)
    history = np.where(rng.random((NUM_PAIRS, 3)) < 0.8, rng.integers(NUM_TRACKS - 2, size=(NUM_PAIRS, 3)), -1)
    history[:, 0] = previous
    return PairBatch(
        torch.from_numpy(previous),
        torch.from_numpy(following),
        torch.from_numpy(rng.random(NUM_PAIRS).astype(np.float32)),
        torch.from_numpy(rng.integers(3, size=NUM_PAIRS)),
        torch.from_numpy(history),
        torch.from_numpy(np.where(history < 0, np.nan, rng.random((NUM_PAIRS, 3))).astype(np.float32)),
    )


def numbers_of(head: str, recipe: str) -> dict[str, Any]:
    """Losses of some steps of training, and then some scores."""
    config = composed(*HEADS[head], *RECIPES[recipe], "model.dim=8")
    torch.manual_seed(7)
    ranker: PairRanker = instantiate(config.ranker, _convert_="all")(vocabulary=vocabulary_of_ring())
    chosen = ranker.configure_optimizers()
    optimizer = chosen["optimizer"] if isinstance(chosen, dict) else chosen
    rng = np.random.default_rng(3)
    ranker.train()
    losses = []
    for _ in range(NUM_STEPS):
        optimizer.zero_grad()
        loss = ranker.loss(ranker.scorer, batch(rng), ranker.context)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    ranker.eval()
    with torch.no_grad():
        scores = (ranker.scorer.query_vectors() @ ranker.scorer.item_vectors().T)[::7, ::5]
    return {"losses": losses, "scores": scores.tolist(), "logged": dict(ranker.scorer.logged())}


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("head", HEADS)
def test_the_four_heads_and_their_corner_keep_their_numbers(head: str, recipe: str) -> None:
    expected, found = json.loads(NUMBERS.read_text())[f"{head} {recipe}"], numbers_of(head, recipe)
    np.testing.assert_allclose(found["losses"], expected["losses"], rtol=1e-6)
    np.testing.assert_allclose(found["scores"], expected["scores"], rtol=0, atol=2e-6)
    assert found["logged"] == pytest.approx(expected["logged"], abs=1e-7)
