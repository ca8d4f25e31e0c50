"""Models of the order: the encoders against torch's own, loops and the service, and what is refused."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from hypothesis import given
from hypothesis import strategies as st
from onnxruntime import InferenceSession
from torch import Tensor, nn

from segue.errors import InputError
from segue.models.contexts import Session
from segue.models.head_ranker import session_vectors
from segue.models.heads import CosineMix
from segue.models.order import Encoder, prefixes_of
from segue.picking.session_query import SessionQuery
from segue.picking.session_scores import SessionScores
from segue.runs.session_vectors import FILE, SessionVectors
from tests.conftest import make_catalog, make_vocabulary
from tests.contracts.building import composed
from tests.models.plain import COSINES, SESSION

ARTISTS = [0, 0, 1, 1, 2, 3, 3, 4]
VOCABULARY, CATALOG = make_vocabulary(ARTISTS), make_catalog(ARTISTS)
PARTS = ["track", "artist"]
KINDS = ["gru", "ligr"]
NAN = math.nan

plays = st.lists(st.tuples(st.integers(0, 7), st.sampled_from([0.0, 0.5, 1.0, NAN])), min_size=1, max_size=6)


def encoder(kind: Any, width: int = 10, max_length: int = 5, *, dim: int = 6, **changes: Any) -> Encoder:
    """An encoder of which everything that is learned matters."""
    torch.manual_seed(1)
    made = Encoder(width, max_length, kind=kind, dim=dim, **changes)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return made.eval()


def context_of(kind: str, **changes: Any) -> Session:
    given: dict[str, Any] = {"max_length": 5, "decay": 0.6, "skipped": -0.4} | changes
    return SESSION(VOCABULARY, PARTS, learns=True, width=10, encoder=lambda *_: encoder(kind), **given)


@pytest.fixture
def scorer() -> CosineMix:
    torch.manual_seed(0)
    return COSINES(VOCABULARY, alpha="learned", dim=5, item_bias=True)


def columns_of(session: list[tuple[int, float]], width: int) -> tuple[Tensor, Tensor]:
    """The histories of the pairs of a session, in its order: rows and shares, newest first."""
    rows, shares = torch.full((len(session), width), -1), torch.full((len(session), width), NAN)
    for end in range(1, 1 + len(session)):
        newest = session[:end][::-1][:width]
        rows[end - 1, : len(newest)] = torch.tensor([row for row, _ in newest])
        shares[end - 1, : len(newest)] = torch.tensor([share for _, share in newest])
    return rows, shares


@given(sessions=st.lists(plays, min_size=1, max_size=4), width=st.integers(1, 7))
def test_a_history_is_read_in_the_one_that_goes_on_from_it(sessions: list[Any], width: int) -> None:
    rows, shares = (torch.cat(columns) for columns in zip(*(columns_of(one, width) for one in sessions), strict=True))
    found = prefixes_of(rows, shares)
    assert found.length.tolist() == (rows >= 0).sum(1).tolist()
    for line, (place, length) in enumerate(zip(found.of_history.tolist(), found.length.tolist(), strict=True)):
        longest = int(found.longest[place])
        first = int(found.length[longest]) - length
        assert torch.equal(rows[longest, first : first + length], rows[line, :length])
        torch.testing.assert_close(
            shares[longest, first : first + length], shares[line, :length], equal_nan=True, rtol=0, atol=0
        )
    whole = [one for one in sessions if len(one) <= width]
    if len(whole) == len(sessions):
        assert len(found.longest) <= len(sessions), "each session is read once"


def test_shares_distinguish_histories() -> None:
    rows = torch.tensor([[3, -1], [5, 3]])
    assert len(prefixes_of(rows, torch.tensor([[0.5, NAN], [1.0, 0.5]])).longest) == 1
    assert len(prefixes_of(rows, torch.tensor([[0.5, NAN], [1.0, 0.6]])).longest) == 2
    assert len(prefixes_of(rows, torch.tensor([[NAN, NAN], [1.0, 0.6]])).longest) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_may_be_empty(kind: str, scorer: CosineMix) -> None:
    """As that of the pairs whose shares are known, where the source has none."""
    rows, shares = torch.empty(0, 4, dtype=torch.int64), torch.empty(0, 4)
    assert context_of(kind, max_length=4).queries(scorer, rows[:, 0], rows, shares).vectors.shape == (0, 11)


@pytest.mark.parametrize("kind", KINDS)
def test_pairs_of_a_session_have_the_queries_that_they_have_alone(kind: str, scorer: CosineMix) -> None:
    context = context_of(kind, max_length=4)
    sessions: list[list[tuple[int, float]]] = [
        [(1, 0.3), (4, NAN), (4, 1.0), (2, 0.0), (6, 0.5), (0, 1.0)],
        [(7, NAN)],
        [(4, 1.0), (2, 0.0)],
    ]
    rows, shares = (torch.cat(columns) for columns in zip(*(columns_of(one, 4) for one in sessions), strict=True))
    together = context.queries(scorer, rows[:, 0], rows, shares)
    read_with = prefixes_of(rows, shares).of_history.tolist()
    assert read_with == [0, 0, 0, 0, 1, 2, 3, 4, 4], "a window of four tracks moves on after the fourth"
    for line in range(len(rows)):
        alone = context.queries(scorer, rows[line : line + 1, 0], rows[line : line + 1], shares[line : line + 1])
        torch.testing.assert_close(together.vectors[line : line + 1], alone.vectors)
    plain = SESSION(VOCABULARY, PARTS, learns=True, max_length=4, decay=0.6, skipped=-0.4)
    differs = (together.vectors - plain.queries(scorer, rows[:, 0], rows, shares).vectors).abs().amax(1) > 1e-3
    assert differs.tolist() == [False, True, True, True, True, True, False, False, True], "one track has no order"


@pytest.mark.parametrize("kind", KINDS)
def test_later_tracks_do_not_change_what_was_read(kind: str) -> None:
    reader, tracks = encoder(kind).reader, torch.randn(1, 5, 10)
    read = reader(tracks)[:, :3]
    torch.testing.assert_close(reader(tracks[:, :3]), read)
    others = reader(tracks[:, [1, 0, 2]])
    assert (others - read)[:, 2].abs().max() > 1e-3, "the order matters"


@pytest.mark.parametrize("kind", KINDS)
def test_the_onnx_model_has_sessions_of_any_length_and_no_dropout(kind: str) -> None:
    made = encoder(kind, dropout=0.5).train()
    network = InferenceSession(made.part().network, providers=["CPUExecutionProvider"])
    assert made.training, "it goes on as it was"
    for num, length in ((1, 1), (4, 3), (2, 5)):
        tracks, last = torch.randn(num, length, 10), torch.randint(length, (num,))
        with torch.inference_mode():
            expected = made.output(made.eval().reader(tracks)[torch.arange(num), last]).numpy()
        found = network.run(None, {"tracks": tracks.numpy(), "last": last.numpy()})[0]
        np.testing.assert_allclose(found, expected, atol=1e-5)


def exported(kind: str, scorer: CosineMix, folder: Path) -> tuple[Session, SessionVectors]:
    context = context_of(kind)
    session_vectors(scorer, context).write(folder / FILE, CATALOG)
    return context, SessionVectors.read(folder / FILE, CATALOG)


@pytest.mark.parametrize("kind", KINDS)
def test_the_service_has_the_queries_of_training(kind: str, scorer: CosineMix, tmp_path: Path) -> None:
    context, vectors = exported(kind, scorer, tmp_path)
    rng = np.random.default_rng(0)
    rows = np.sort(rng.integers(-4, 8, (60, 5)).clip(-1))[:, ::-1]  # -1 after the oldest
    rows = np.where(np.arange(5) == 0, rows[:, :1].clip(0), rows)
    shares = np.where(rng.random(rows.shape) < 0.3, np.nan, rng.random(rows.shape)).astype(np.float32)
    shares[rows < 0] = np.nan
    with torch.inference_mode():
        columns = torch.from_numpy(rows.copy()), torch.from_numpy(shares)
        expected = context.queries(scorer, columns[0][:, 0], *columns).vectors.numpy()
    np.testing.assert_allclose(SessionQuery(vectors).of(rows, shares), expected, atol=1e-5)
    place = np.array([3, 1, 2, 0, 7, 6, 4, 5])
    others = np.where(rows < 0, -1, np.argsort(place)[rows])
    np.testing.assert_allclose(SessionQuery(vectors.in_order(place)).of(others, shares), expected, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_tracks_that_are_not_in_the_catalogue_are_left_out_of_the_order(
    kind: str, scorer: CosineMix, tmp_path: Path
) -> None:
    _, vectors = exported(kind, scorer, tmp_path)
    scores = SessionScores(vectors, np.arange(8))

    def added(rows: list[int]) -> float:
        parts = scores.explain(np.array(rows), np.ones(len(rows), np.float32), 4)
        return float(parts["order"][0]) if "order" in parts else 0.0

    assert added([3, 5]) != pytest.approx(0, abs=1e-4)
    assert added([3, -1, 5]) == pytest.approx(added([3, 5]), abs=1e-6)
    assert added([-1, 3, 5, -1]) == pytest.approx(added([3, 5]), abs=1e-6)
    for short in ([3], [3, -1], [-1, 3], [-1, -1]):
        assert not added(short), "nothing has an order"


@pytest.mark.parametrize("kind", KINDS)
def test_the_explanation_adds_up_and_says_what_the_order_adds(kind: str, scorer: CosineMix, tmp_path: Path) -> None:
    _, vectors = exported(kind, scorer, tmp_path)
    rows, shares = np.array([3, 6, -1, 2]), np.array([0.2, NAN, NAN, 1.0], np.float32)
    score = float(SessionQuery(vectors).of(rows[None], shares[None])[0] @ vectors.items[4])
    scores = SessionScores(vectors, np.arange(8))
    explained = scores.explain(rows, shares, 4)
    whole, *without = explained["order"].tolist()
    assert sum(part[0] for name, part in explained.items() if name != "repeats") == pytest.approx(score, abs=1e-5)
    assert len(without) == 4
    assert without[2] == pytest.approx(whole, abs=1e-6), "a track that is not in the catalogue adds nothing"
    shorter = scores.explain(np.array([3, 2]), np.array([0.2, 1.0], np.float32), 4)["order"]
    assert without[1] == pytest.approx(float(shorter[0]), abs=1e-6)
    assert abs(whole) > 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_an_order_that_no_weighted_sum_has(kind: Any) -> None:
    """The next track is one after equal tracks and another after different ones, whichever came last."""
    torch.manual_seed(3)
    words = make_vocabulary([0, 1, 2, 3])
    rows = torch.tensor([[0, 0], [1, 1], [0, 1], [1, 0]])
    following, shares = torch.tensor([2, 2, 3, 3]), torch.full((4, 2), NAN)
    found = {}
    names: list[Any] = ["session", kind]
    for name in names:
        head = COSINES(words, alpha=1.0, dim=4)
        made: Any = (lambda *_: Encoder(4, 2, kind=name, dim=8)) if name == kind else None  # noqa: B023
        context = SESSION(words, ["track"], learns=True, width=4, decay="learned", encoder=made)
        optimizer = torch.optim.Adam([*head.parameters(), *context.parameters()], lr=0.05)
        for _ in range(150):
            queries = context.queries(head, rows[:, 0], rows, shares).vectors
            loss = nn.functional.cross_entropy(queries @ head.item(torch.tensor([2, 3])).T / 0.2, following - 2)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        found[name] = loss.item()
    assert found[kind] < 0.05
    assert found["session"] > 0.3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trains_on": "last"}, "context.encoder needs gradient descent on .* context.trains_on=last has not; leave"),
        ({"learns": False}, "context.encoder needs gradient descent on sessions, which baselines have not.*; leave"),
        ({"max_length": 0}, "context.max_length must be a whole number of at least 1 .*, got 0; context=last is one"),
        ({"max_length": 1001}, "context.max_length must be a whole number .*at most 1000, got 1001"),
    ],
)
def test_a_context_that_cannot_learn_an_order_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SESSION(VOCABULARY, PARTS, **{"learns": True, "encoder": lambda *_: encoder("gru"), **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "lstm"}, "context.encoder.kind must be gru or ligr, got 'lstm'"),
        ({"dim": 0}, "context.encoder.dim must be a whole number of at least 1, got 0"),
        ({"dropout": 1.0}, "context.encoder.dropout must be a number .*at most 0.9, got 1.0"),
        ({"rate": 0.0}, "context.encoder.rate must be a number above 0, got 0.0"),
    ],
)
def test_a_setting_that_is_out_of_range_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Encoder(10, 5, **{"kind": "gru", "dim": 4, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"order0": np.zeros(3, np.float32)}, "order0 must be bytes, with two numbers that name its columns"),
        ({"order_columns0": None}, "order0 must be bytes, with two numbers that name its columns"),
        ({"order_columns0": np.array([3, 8])}, "order_columns0 must be among the 10 columns of a query"),
        ({"order_columns0": np.array([-1, 10])}, "order_columns0 must be among the 10 columns of a query"),
    ],
)
def test_damaged_arrays_are_refused(changes: dict[str, Any], message: str, scorer: CosineMix, tmp_path: Path) -> None:
    _, vectors = exported("gru", scorer, tmp_path)
    arrays = {name: one for name, one in (vectors.arrays() | changes).items() if one is not None}
    with pytest.raises(InputError, match=f"v.npz is damaged: {message}; train again, or load the release again"):
        SessionVectors.of_arrays(arrays, num_tracks=8, where="v.npz")


def test_the_encoder_has_a_learning_rate_of_its_own() -> None:
    config = composed("model=gru4rec", "recipe=playlists", "optimizer.lr=0.02", "optimizer.weight_decay=0.1")
    ranker: Any = instantiate(config.ranker, _convert_="all")(vocabulary=VOCABULARY)
    groups = ranker.configure_optimizers().param_groups
    of_encoder = {id(one) for one in ranker.context.encoder.parameters()}
    own = [group for group in groups if of_encoder & {id(one) for one in group["params"]}]
    assert [{id(one) for one in group["params"]} for group in own] == [of_encoder]
    assert [(group["lr"], group["weight_decay"]) for group in own] == [(pytest.approx(0.3 * 0.02), 0.0)]
    assert {group["lr"] for group in groups if group is not own[0]} == {0.02}
    assert sum(len(group["params"]) for group in groups) == len(list(ranker.parameters()))
