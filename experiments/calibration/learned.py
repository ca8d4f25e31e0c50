"""Contextual by the published recipe, without files: 40 seconds of one core instead of minutes.

The recipe of `experiment=published model=contextual`: pairs of the first track with each later one, MSE of the share,
dense Adam with weight decay, plateau scheduler, early stopping, a random split of pairs. It is narrower (32 numbers
instead of 100). With listeners in place of first tracks it makes lists per user.

N tracks, P pairs, D width.
"""

from copy import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.studying import sized
from segue.picking.picker import draw
from segue.picking.places import PICKS, shares_of
from segue.simulation.listener import Crowd
from segue.simulation.policies import Policy, Popular, Random, Recommended, StickyArtist
from segue.simulation.traffic import Day, Plays, play
from segue.simulation.world import World

MIXED: tuple[str, ...] = ("C", "T1", "T2", "T3")
SESSIONS, EPOCHS = sized((200_000, 50), (500, 1))
DIM, BATCH, PATIENCE = 32, 4096, 5
LIST, USER_LIST = 50, 100
"""Tracks of the list of a track, and of a listener."""

GROUP = 50
"""Tracks that are searched together: the best tracks are in the groups with the best maxima."""


def mixed_traffic(world: World, sessions: int) -> Plays:
    """The sessions of `datamodule=simulated`: half random, a quarter sticky_artist, a quarter popular."""
    sticky, popular = StickyArtist(world=world), Popular(num_tracks=100, world=world)
    policies: tuple[Policy, ...] = (Random(world=world), Random(world=world), sticky, popular)
    day = Day.plan(world, day=1, sessions=sessions, experiment="MIXED", arms=MIXED, seed=1)
    tasks = [task for shard in day.shards for task in shard]
    parts = [play(world, policies[task.arm], [task], keep_events=True) for task in tasks]
    return Plays.join([plays for part in parts for plays in part])


class Learned(Policy):
    """Recommends one of the best tracks of a query, uniformly: the last track or the listener.

    Args:
        world: the world whose tracks are recommended.
        plays: the traffic from which it learns.
        of_users: whether there is a list for each listener, instead of one for each track.
        how: `best`; `weighted`, which draws a track by 1 / rank and never repeats one; or `diverse`, which re-ranks the
            best candidates before it draws uniformly.
    """

    is_stateless = True

    def __init__(self, *, world: World, plays: Plays, of_users: bool = False, how: str = "best") -> None:
        super().__init__(world=world)
        num_tracks = len(world.catalog)
        ends = plays.lengths.cumsum()
        session = np.repeat(np.arange(len(ends)), plays.lengths)
        later = np.ones(len(session), bool)
        later[ends - plays.lengths] = False
        queries = plays.users[session] if of_users else plays.tracks[(ends - plays.lengths)[session]]
        self.of_users, self.how, self._length = of_users, how, USER_LIST if of_users else LIST
        self.queries, self.items = _train(
            torch.from_numpy(queries[later].astype(np.int64)),
            torch.from_numpy(plays.tracks[later].astype(np.int64)),
            torch.from_numpy((plays.shares[later] / 100).astype(np.float32)),
            sizes=(len(world.listeners) if of_users else num_tracks, num_tracks),
        )
        self._order = np.argsort(-np.bincount(plays.tracks, minlength=num_tracks), kind="stable")
        self._forget()

    def picking(self, how: str) -> "Learned":
        """The same model with another way to make or use its lists."""
        other = copy(self)
        other.how = how
        other._forget()
        return other

    def _forget(self) -> None:
        self._lists = np.full((len(self.queries), self._length), -1, np.int32)

    def recommend(self, crowd: Crowd) -> Any:
        """Recommend the next track of each session."""
        queries = crowd.users if self.of_users else crowd.current
        rows = np.unique(queries)
        missing = rows[self._lists[rows, 0] < 0].astype(np.int64)
        for start in range(0, len(missing), 256):
            block = missing[start : start + 256]
            self._lists[block] = self._diverse(block) if self.how == "diverse" else self._best(block, self._length)[0]
        lists = self._lists[queries]
        available = np.ones(lists.shape, bool)
        if self.how == "weighted":
            for played in crowd.tracks:
                available &= lists != played[:, None]
        weights_of = PICKS["weighted" if self.how == "weighted" else "uniform"]
        rows, _ = draw(shares_of(weights_of(available)), lists, self.rng.random(len(crowd)))
        return Recommended(rows, np.full(len(crowd), np.nan))

    def _best(self, rows: Any, num: int) -> tuple[Any, Tensor]:
        """The best tracks of each query and their scores; of equal scores the track with more plays comes first."""
        items = self.items[torch.from_numpy(self._order)].T
        whole = items.shape[1] // GROUP * GROUP
        scores = (self.queries[torch.from_numpy(rows)] @ items)[:, :whole] - torch.arange(whole) * 1e-9
        if not self.of_users:  # a track is not in its own list
            scores[torch.from_numpy(rows)[:, None] == torch.from_numpy(self._order[:whole])] = -torch.inf
        groups = scores.view(len(rows), -1, GROUP).amax(2).topk(min(num, whole // GROUP)).indices
        members = (groups[:, :, None] * GROUP + torch.arange(GROUP)).view(len(rows), -1)
        found = scores.gather(1, members).topk(num)
        return self._order[members.gather(1, found.indices).numpy()], found.values

    def _diverse(self, rows: Any) -> Any:
        """Maximal marginal relevance with equal weights, from four times as many candidates as places.

        Each next track has the largest score, divided by the best of the list, minus the largest cosine to a track
        chosen before.
        """
        candidates, scores = self._best(rows, 4 * self._length)
        vectors = torch.nn.functional.normalize(self.items[torch.from_numpy(candidates.astype(np.int64))], dim=2)
        relevance = scores / scores[:, :1].clamp_min(1e-9)
        nearest = torch.zeros_like(relevance)
        chosen = []
        for _ in range(self._length):
            place = (relevance - nearest).argmax(1)
            chosen.append(place)
            relevance[torch.arange(len(rows)), place] = -torch.inf
            cosine = (vectors @ vectors[torch.arange(len(rows)), place][:, :, None])[:, :, 0]
            nearest = torch.maximum(nearest, cosine)
        return np.take_along_axis(candidates, torch.stack(chosen, 1).numpy(), 1)


def _train(queries: Tensor, tracks: Tensor, share: Tensor, *, sizes: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The tables of queries and of tracks, of the epoch with the smallest loss in validation."""
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(share), generator=generator)
    train, val = order[: int(0.8 * len(order))], order[int(0.8 * len(order)) : int(0.9 * len(order))]
    tables = [torch.zeros(size, DIM) for size in sizes]
    for table, rows in zip(tables, (queries[train], tracks[train]), strict=True):
        seen = rows.unique()
        table[seen] = torch.randn(len(seen), DIM, generator=generator)
        table.requires_grad_()
    optimizer = torch.optim.Adam(tables, lr=1e-2, weight_decay=1e-5, fused=True)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=3)

    def loss(rows: Tensor) -> Tensor:
        score = (tables[0][queries[rows]] * tables[1][tracks[rows]]).sum(1)
        return ((score - share[rows]) ** 2).mean()

    best, kept, waited = float("inf"), [table.detach().clone() for table in tables], 0
    for _ in range(EPOCHS):
        for rows in train[torch.randperm(len(train), generator=generator)].split(BATCH):
            optimizer.zero_grad(set_to_none=True)
            loss(rows).backward()
            optimizer.step()
        with torch.no_grad():
            val_loss = float(loss(val))
        scheduler.step(val_loss)
        if val_loss < best:
            best, kept, waited = val_loss, [table.detach().clone() for table in tables], 0
        elif (waited := waited + 1) >= PATIENCE:
            break
    return kept[0], kept[1]
