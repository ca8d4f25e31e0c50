"""The contextual model by the published recipe, without files: 40 seconds of one core instead of minutes.

The recipe of `experiment=published model=contextual`: pairs of the first track with each later one, MSE of the share,
dense Adam with weight decay, plateau scheduler, early stopping, a random split of pairs. It is narrower (32 numbers
instead of 100). N tracks, P pairs, D width.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from src.simulation.listener import Crowd
from src.simulation.policies import Policy, Popular, Random, StickyArtist
from src.simulation.traffic import Day, Plays, play
from src.simulation.world import World

MIXED: tuple[str, ...] = ("C", "T1", "T2", "T3")
SESSIONS, DIM, LIST, BATCH, EPOCHS, PATIENCE = 200_000, 32, 50, 4096, 50, 5
GROUP = 50


def mixed_traffic(world: World, sessions: int) -> Plays:
    """The sessions of `datamodule=simulated`: half random, a quarter sticky_artist, a quarter popular."""
    sticky, popular = StickyArtist(world=world), Popular(num_tracks=100, world=world)
    policies: tuple[Policy, ...] = (Random(world=world), Random(world=world), sticky, popular)
    day = Day.plan(world, day=1, sessions=sessions, experiment="MIXED", arms=MIXED, seed=1)
    tasks = [task for shard in day.shards for task in shard]
    parts = [play(world, policies[task.arm], [task], keep_events=True, with_propensity=False) for task in tasks]
    return Plays.join([plays for part in parts for plays in part])


class Contextual(Policy):
    """Recommends one of the 50 best tracks of the last track, uniformly.

    Args:
        world: the world whose tracks are recommended.
        plays: the traffic from which it learns.
        diversity: 0 for the best tracks; above 0 the list is re-ranked, see `_lists_of`.
    """

    is_stateless = True

    def __init__(self, *, world: World, plays: Plays) -> None:
        super().__init__(world=world)
        num_tracks = len(world.catalog)
        ends = plays.lengths.cumsum()
        session = np.repeat(np.arange(len(ends)), plays.lengths)
        later = np.ones(len(session), bool)
        later[ends - plays.lengths] = False
        previous = torch.from_numpy(plays.tracks[(ends - plays.lengths)[session]][later].astype(np.int64))
        following = torch.from_numpy(plays.tracks[later].astype(np.int64))
        share = torch.from_numpy((plays.shares[later] / 100).astype(np.float32))
        self.queries, self.items, self.epochs = _train(previous, following, share, num_tracks)
        plays_of = np.bincount(plays.tracks, minlength=num_tracks)
        self._order = np.argsort(-plays_of, kind="stable")  # of equal scores the track with more plays comes first
        self._place = np.argsort(self._order)
        self._lists = np.full((num_tracks, LIST), -1, np.int32)

    def recommend(self, crowd: Crowd) -> Any:
        """Recommend the next track of each session."""
        rows = np.unique(crowd.current)
        self._lists_of(rows[self._lists[rows, 0] < 0])
        return self._lists[crowd.current, self.rng.integers(LIST, size=len(crowd))].astype(np.int64)

    def _lists_of(self, rows: Any) -> None:
        items = self.items[torch.from_numpy(self._order.copy())].T.contiguous()
        whole = items.shape[1] // GROUP * GROUP
        for start in range(0, len(rows), 256):
            block = rows[start : start + 256].astype(np.int64)
            scores = (self.queries[torch.from_numpy(block)] @ items)[:, :whole]
            scores -= torch.arange(whole) * 1e-9
            own = torch.from_numpy(self._place[block])
            inside = torch.nonzero(own < whole)[:, 0]
            scores[inside, own[inside]] = -torch.inf
            groups = scores.view(len(block), -1, GROUP).amax(2).topk(min(LIST, whole // GROUP)).indices
            members = (groups[:, :, None] * GROUP + torch.arange(GROUP)).view(len(block), -1)
            best = members.gather(1, scores.gather(1, members).topk(LIST).indices)
            self._lists[block] = self._order[best.numpy()]


def _train(previous: Tensor, following: Tensor, share: Tensor, num_tracks: int) -> tuple[Tensor, Tensor, int]:
    """The tables of the best epoch, and the number of epochs."""
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(share), generator=generator)
    train, val = order[: int(0.8 * len(order))], order[int(0.8 * len(order)) : int(0.9 * len(order))]
    tables = [torch.zeros(num_tracks, DIM), torch.zeros(num_tracks, DIM)]
    for table, rows in zip(tables, (previous[train], following[train]), strict=True):
        seen = rows.unique()
        table[seen] = torch.randn(len(seen), DIM, generator=generator)
        table.requires_grad_()
    context, track = tables
    optimizer = torch.optim.Adam(tables, lr=1e-2, weight_decay=1e-5, fused=True)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=3)

    def loss(rows: Tensor) -> Tensor:
        score = (context[previous[rows]] * track[following[rows]]).sum(1)
        return ((score - share[rows]) ** 2).mean()

    best, kept, waited = float("inf"), [table.detach().clone() for table in tables], 0
    for epoch in range(EPOCHS):  # noqa: B007 - the number of epochs is returned
        for rows in train[torch.randperm(len(train), generator=generator)].split(BATCH):
            optimizer.zero_grad(set_to_none=True)
            loss(rows).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        with torch.no_grad():
            val_loss = float(loss(val))
        scheduler.step(val_loss)
        if val_loss < best:
            best, kept, waited = val_loss, [table.detach().clone() for table in tables], 0
        elif (waited := waited + 1) >= PATIENCE:
            break
    return kept[0], kept[1], epoch + 1
