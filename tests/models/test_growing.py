"""A model with more tracks begins with what was learned of the others."""

from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import instantiate

from segue.attributes import Values
from segue.catalog import Vocabulary
from segue.errors import InputError
from segue.models.contracts import PairBatch
from segue.models.growing import Grown
from tests.conftest import make_vocabulary
from tests.contracts.building import composed

NUM_OLD = 6
PLAYS = np.array([3, 0, 1, 4, 5, 9, 2, 3, 0])
"""Of nine tracks; the second and the last are not played. The third has two plays more when the others have come."""
TAGS = [["a"], ["b"], [], ["a", "b"], ["a"], ["b"], ["c"], ["a", "c"], ["d"]]


def vocabularies() -> tuple[Vocabulary, Vocabulary]:
    """Of the first six tracks, and of all nine."""
    found = []
    for num in (NUM_OLD, len(PLAYS)):
        plays = PLAYS[:num] + (np.arange(num) == 2) * 2 * (num > NUM_OLD)
        made = make_vocabulary([0, 0, 1, 1, 2, 2, 3, 0, 4][:num], previous_counts=plays, next_counts=plays)
        catalog = replace(made.catalog, attributes={"tags": Values.from_lists(TAGS[:num], names=["a", "b"])})
        found.append(replace(made, catalog=catalog, plays=plays))
    return found[0], found[1]


def trained(build: Any, vocabulary: Vocabulary) -> tuple[Any, dict[str, Any]]:
    """A model after two steps, and its checkpoint."""
    torch.manual_seed(1)
    module = build(vocabulary=vocabulary)
    found = module.configure_optimizers()
    optimizer = found["optimizer"] if isinstance(found, dict) else found
    rows = torch.from_numpy(np.flatnonzero(vocabulary.plays))
    shares, listeners = torch.linspace(0.1, 1, len(rows)), torch.zeros(len(rows), dtype=torch.int64)
    for _ in range(2):
        optimizer.zero_grad()
        batch = PairBatch.without_history(rows, rows.roll(1), shares, listeners)
        module.loss(module.scorer, batch, module.context.of_loss).backward()
        optimizer.step()
    return module.eval(), {"state_dict": module.state_dict(), "optimizer_states": [optimizer.state_dict()]}


@pytest.mark.parametrize(
    "words",
    [
        "model=track",
        "model=convex",
        "model=contextual",
        "model=track model.min_plays=3",
        "model=convex model.order_std=0.1 model.item_bias=true",
        "model=convex model.parts=[track,artist,tags] model.track_dropout=0.1",
        "model=convex optimizer=adam loss=mse",
        "model=convex recipe=playlists",
    ],
)
def test_what_was_learned_of_the_old_tracks_stays(words: str) -> None:
    build = instantiate(composed(*words.split()).ranker, _convert_="all")
    before, now = vocabularies()
    old, saved = trained(build, before)
    grown = Grown(build, saved, before, now, "from=x")
    module: Any = grown.module.eval()
    same = np.arange(NUM_OLD) != (2 if "min_plays" in words else -1)  # which has its own vector only now
    for of_old, of_new in (
        (old.scorer.query_vectors(), module.scorer.query_vectors()),
        (old.scorer.item_vectors(), module.scorer.item_vectors()),
    ):
        torch.testing.assert_close(of_new[:NUM_OLD][same], of_old[same], rtol=1e-5, atol=1e-7)
        is_known = (of_new[:, : of_new.shape[1] - 1] != 0).any(1)
        assert is_known[[6, 7]].all() or "min_plays" in words
        assert is_known[2]
    found = module.configure_optimizers()
    optimizer = found["optimizer"] if isinstance(found, dict) else found
    optimizer.load_state_dict(grown.optimizer_state(optimizer))
    state, names = optimizer.state, {id(one): name for name, one in module.named_parameters()}
    of_saved = saved["optimizer_states"][0]["state"]
    assert len(state) == len([one for one in state if "listener" not in names[id(one)]]) > 0
    for parameter, of in state.items():
        for value in of.values():
            assert not isinstance(value, torch.Tensor) or value.ndim == 0 or len(value) == len(parameter)
    assert max(float(of["step"]) for of in state.values()) == max(float(of["step"]) for of in of_saved.values()) == 2


@pytest.mark.parametrize(
    ("words", "plays", "changed"),
    [
        ("model.parts=[track,artist,tags]", [3, 0, 1, 4, 5, 9, 0, 0, 0], [6, 7]),  # their tag is shown later, too
        ("model.min_plays=3", [3, 0, 1, 4, 5, 9, 2, 3, 0], [2]),  # which has its own vector only then
        ("model.min_plays=3", [3, 0, 9, 4, 5, 9, 2, 3, 0], [3]),  # which has it no more
    ],
)
def test_without_new_tracks_what_is_shown_is_that_of_today(words: str, plays: list[int], changed: list[int]) -> None:
    build = instantiate(composed("model=convex", *words.split()).ranker, _convert_="all")
    _, whole = vocabularies()
    before, now = (
        replace(whole, plays=of, previous_counts=of, next_counts=of)
        for of in (np.array(plays), np.where(np.arange(9) == 3, 2, whole.plays) if changed == [3] else whole.plays)
    )
    old, saved = trained(build, before)
    grown: Any = Grown(build, saved, before, now, "from=x").module.eval()
    fresh = build(vocabulary=now)
    own = dict(grown.named_buffers())
    for name, buffer in fresh.named_buffers():
        if name not in fresh.state_dict():
            assert torch.equal(own[name], buffer), name
    [of_old, of_new] = (
        one.scorer.parts["track"].vectors(torch.arange(9), in_second_place=False) for one in (old, grown)
    )
    same = ~np.isin(np.arange(9), changed)
    torch.testing.assert_close(of_new[same], of_old[same])
    assert bool(of_new[changed].any()) == (changed != [3])


def test_a_training_leaves_the_optimizer_state_of_the_checkpoint_as_it_was() -> None:
    build = instantiate(composed("model=convex", "optimizer=adam", "loss=mse").ranker, _convert_="all")
    before, now = vocabularies()
    _, saved = trained(build, before)
    of_saved = saved["optimizer_states"][0]["state"]
    was = deepcopy(of_saved)
    grown: Any = Grown(build, saved, before, now, "from=x")
    found = grown.module.configure_optimizers()
    optimizer = found["optimizer"] if isinstance(found, dict) else found
    optimizer.load_state_dict(grown.optimizer_state(optimizer))
    for parameter in optimizer.state:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    for number, of in was.items():
        for name, value in of.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(of_saved[number][name])), name


def test_a_checkpoint_of_another_model_is_refused() -> None:
    before, now = vocabularies()
    build, other = (instantiate(composed(f"model={name}").ranker, _convert_="all") for name in ("track", "contextual"))
    with pytest.raises(InputError, match="from=x: its checkpoint does not fit its config"):
        Grown(build, trained(other, before)[1], before, now, "from=x")
