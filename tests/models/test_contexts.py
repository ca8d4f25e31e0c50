"""Contexts: the query vector of a history against a slow loop, and the rule for tracks already heard."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from segue.catalog import Listens, Vocabulary
from segue.errors import InputError
from segue.models.contexts import LastTrack, Session
from segue.models.contracts import PairBatch
from segue.models.heads import CosineMix, TwoTableDot
from segue.models.losses import BCELoss, MSELoss, SoftmaxLoss
from segue.models.repeats import Repeats, share_of_repeats
from tests.conftest import make_vocabulary
from tests.models.plain import COSINES, DOT, LAST, LAST_TRACK, SESSION

VOCABULARY = make_vocabulary([0, 0, 1, 1, 2, 3, 3, 4])
PARTS = ["track", "artist"]
HISTORY = torch.tensor([[2, 5, 1, -1], [0, -1, -1, -1], [3, 3, 0, 7], [6, 1, -1, -1]])
SHARE = torch.tensor(
    [[0.5, torch.nan, 0.0, torch.nan], [0.25] + [torch.nan] * 3, [1.0, 0.0, 0.5, 0.1], [0.0, 1.0, 0, 0]]
)
SHARE = SHARE.masked_fill(HISTORY < 0, torch.nan)
BATCH = PairBatch(
    previous=HISTORY[:, 0],
    following=torch.tensor([4, 2, 0, 1]),
    played_ratio=torch.tensor([1.0, 0.5, 0.25, 0.75]),
    listener=torch.tensor([0, 0, 1, 1]),
    history=HISTORY,
    history_share=SHARE,
)


def session(**changes: Any) -> Session:
    return SESSION(VOCABULARY, PARTS, learns=True, **changes)


@pytest.fixture
def scorer() -> CosineMix:
    torch.manual_seed(0)
    scorer = COSINES(VOCABULARY, alpha="learned", dim=5, item_bias=True)
    with torch.no_grad():
        scorer.get_parameter("parts.track.weight")[1] = 0  # a track of which nothing is known
    return scorer


def query_by_loops(scorer: CosineMix, decays: dict[str, float], earlier: float, skipped: float) -> Tensor:
    """The formula of `Session`, pair by pair and track by track."""
    alpha, lines = scorer.logged()["alpha"], []
    for rows, shares in zip(HISTORY.tolist(), SHARE.tolist(), strict=True):
        line = []
        for part, length in (("track", alpha**0.5), ("artist", (1 - alpha) ** 0.5)):
            weights, total = scorer.get_parameter(f"parts.{part}.weight").detach(), torch.zeros(5)
            for age, (row, share) in enumerate(zip(rows, shares, strict=True)):
                if row < 0:
                    continue
                embedding = weights[row if part == "track" else int(VOCABULARY.catalog.artist_of[row])]
                unit = embedding / max(float(embedding.norm()), 1e-12)
                played = 1.0 if math.isnan(share) else skipped + (1 - skipped) * share
                of_age = earlier * decays[part] ** age if age else 1.0
                total = total + of_age * played * length * unit
            line.append(total)
        lines.append(torch.cat([*line, torch.ones(1)]))
    return torch.stack(lines)


@pytest.mark.parametrize("skipped", [1.0, -0.5, 0.25])
def test_the_query_of_a_session_is_that_of_slow_loops(scorer: CosineMix, skipped: float) -> None:
    decays, earlier = {"track": 0.7, "artist": 0.25}, 0.4
    context = session(decay=decays, earlier=earlier, skipped=skipped)
    queries = context.queries(scorer, BATCH.previous, HISTORY, SHARE)
    expected = query_by_loops(scorer, decays, earlier, skipped)
    torch.testing.assert_close(queries.vectors, expected, atol=2e-5, rtol=1e-4)
    assert queries.of_pair.tolist() == [0, 1, 2, 3]
    score = torch.linalg.vecdot(expected, scorer.item(BATCH.following))
    torch.testing.assert_close(context.score(scorer, BATCH), score, atol=2e-5, rtol=1e-4)


def test_a_number_for_others_is_that_of_the_parts_without_one_of_their_own(scorer: CosineMix) -> None:
    context = session(decay={"track": 0.7, "others": 0.25}, earlier=0.8, skipped=1.0)
    expected = query_by_loops(scorer, {"track": 0.7, "artist": 0.25}, 0.8, 1.0)
    torch.testing.assert_close(
        context.queries(scorer, BATCH.previous, HISTORY, SHARE).vectors, expected, atol=2e-5, rtol=1e-4
    )
    logged = session(decay={"track": 0.7, "others": "learned"}).logged()
    assert logged == {"decay_track": pytest.approx(0.7), "decay_artist": pytest.approx(0.8)}


@pytest.mark.parametrize("head", [COSINES, DOT])
def test_without_weight_for_earlier_tracks_it_is_the_last_track_to_the_digit(head: Any) -> None:
    settings = {"alpha": 0.7} if head is COSINES else {}
    scorer = head(VOCABULARY, dim=5, **settings)
    context = SESSION(VOCABULARY, list(scorer.query_parts()), learns=True, decay=0.0)
    vectors = context.queries(scorer, BATCH.previous, HISTORY, SHARE).vectors
    assert torch.equal(vectors, scorer.query(BATCH.previous))


@pytest.mark.parametrize("repeats", ["always", "never"])
def test_gradients_of_all_that_is_learned_are_those_of_finite_differences(repeats: str) -> None:
    torch.manual_seed(3)
    scorer = COSINES(VOCABULARY, alpha="learned", dim=3).double()
    learned = dict.fromkeys(("decay", "earlier", "skipped"), "learned") | {"repeats": repeats}
    context = session(**learned).double()
    loss = SoftmaxLoss(VOCABULARY, temperature=0.7, logq=0.5).double()
    batch = BATCH._replace(played_ratio=BATCH.played_ratio.double(), history_share=SHARE.double())
    parameters = [p for module in (scorer, context) for p in module.parameters()]
    assert len(parameters) == 3 + 2 + 2 + 1
    assert torch.autograd.gradcheck(lambda *_: loss(scorer, batch, context), parameters, eps=1e-5, atol=1e-4)


def test_the_shares_of_bce_are_learned_from_the_session(scorer: CosineMix) -> None:
    context = session(decay="learned", earlier="learned", skipped="learned")
    BCELoss(VOCABULARY)(scorer, BATCH, context).backward()
    for name, parameter in context.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs() > 0, name


def plain_softmax(scorer: CosineMix, context: Session, heard: float) -> float:
    """Mean cross entropy of each pair against the other next tracks, pair by pair."""
    vectors, items = context.queries(scorer, BATCH.previous, HISTORY, SHARE).vectors, scorer.item(BATCH.following)
    total, weights = 0.0, 0.0
    for pair, rows in enumerate(HISTORY.tolist()):
        logits = []
        for other, row in enumerate(BATCH.following.tolist()):
            logit = (vectors[pair] @ items[other]).item() - heard * (row in rows)
            if other == pair or row != rows[0]:
                logits.append((logit / 0.5, other))
        own = next(logit for logit, other in logits if other == pair)
        weight = float(BATCH.played_ratio[pair]) * (heard < 1e6 or BATCH.following[pair].item() not in rows)
        total += weight * (math.log(sum(math.exp(logit) for logit, _ in logits)) - own) if weight else 0.0
        weights += weight
    return total / weights


@pytest.mark.parametrize(("repeats", "heard"), [("always", 0.0), ("never", 1e9)])
def test_the_softmax_treats_heard_tracks_by_the_rule(scorer: CosineMix, repeats: str, heard: float) -> None:
    context = session(repeats=repeats)
    loss = SoftmaxLoss(VOCABULARY, temperature=0.5, logq=0.0)
    assert loss(scorer, BATCH, context).item() == pytest.approx(plain_softmax(scorer, context, heard), rel=1e-4)


def test_one_previous_track_can_leave_out_heard_tracks_too(scorer: CosineMix) -> None:
    context = LAST_TRACK(VOCABULARY, PARTS, learns=True, max_length=4, repeats="never")
    queries = context.queries(scorer, BATCH.previous, HISTORY, SHARE)
    assert torch.equal(queries.vectors, scorer.query(BATCH.previous))


def listens(sessions: list[list[int]]) -> Listens:
    session = np.repeat(np.arange(len(sessions)), [len(tracks) for tracks in sessions])
    track = np.array([track for tracks in sessions for track in tracks], np.int64)
    return Listens(session=session, track=track, played_ratio=np.full(len(track), np.nan, np.float32))


def test_a_repeat_is_a_track_heard_before_but_not_the_one_directly_before() -> None:
    assert share_of_repeats(listens([[1, 2, 1, 3], [1, 4]])) == 1 / 4
    assert share_of_repeats(listens([[1, 1, 2, 1], [5]])) == 1 / 2  # the second track is no target
    assert share_of_repeats(listens([[3]])) == 0


def vocabulary_of(sessions: list[list[int]]) -> Vocabulary:
    return make_vocabulary(range(8), listens=listens(sessions))


@pytest.mark.parametrize(("most", "ways"), [(0.25, ["never"]), (0.24, ["always", "never"])])
def test_the_share_of_repeats_says_what_validation_compares(
    most: float, ways: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segue.models.repeats.MOST_REPEATED", most)
    repeats = Repeats("auto", vocabulary_of([[1, 2, 1, 3], [1, 4]]), length=20)
    assert repeats.rule == "never"
    assert repeats.describe() == "repeats      25.0% of training targets were heard before in their session: never"
    assert repeats.logged()["repeats_share"] == 0.25
    assert repeats.boosts().tolist() == [-math.inf] * 20
    assert repeats.asked is None, "too few targets to fit boosts to"
    repeats.choose(lambda: np.zeros(1))
    assert list(repeats.compared or ["never"]) == ways
    assert repeats.used == "never", "of equally good ways"


def test_learned_decays_and_factors_are_logged_for_each_part() -> None:
    assert session(decay="learned", earlier="learned").logged() == {
        "decay_track": pytest.approx(0.8),
        "decay_artist": pytest.approx(0.8),
        "earlier_track": 1.0,
        "earlier_artist": 1.0,
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"decay": 1.5}, r"context.decay must be a number of at least 0 and at most 1 or learned or a map.*, got 1.5"),
        (
            {"decay": {"track": 0.5}},
            "context.decay must have a value for each of track, artist, or for others.*got {",
        ),
        (
            {"decay": {"trak": 0.5, "others": 1.0}},
            "context.decay must have a value for each of track, artist, or for others.*trak",
        ),
        ({"decay": {"track": 0.5, "artist": 0.5, "others": 7}}, "context.decay must be a number of at least 0 and at"),
        ({"max_length": 0}, "context.max_length must be a whole number of at least 1 .*, got 0; context=last is one"),
        ({"repeats": "once"}, "context.repeats must be one of never, always, auto, got 'once'"),
        ({"decay": "learned", "learns": False}, "context.decay=learned needs gradient descent on sessions, which base"),
        (
            {"trains_on": "last", "skipped": "learned"},
            "context.skipped=learned needs .*, and context.trains_on=last has not; leave it out, or use",
        ),
    ],
)
def test_a_wrong_setting_is_refused_with_the_remedy(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SESSION(VOCABULARY, PARTS, **{"learns": True, **change})


@pytest.mark.parametrize("loss", [MSELoss, SoftmaxLoss], ids=["mse", "softmax"])
def test_a_session_that_trains_on_the_last_track_has_the_loss_of_the_last_track(scorer: CosineMix, loss: Any) -> None:
    context, whole = (session(repeats="never", trains_on=query) for query in ("last", "session"))
    last = LAST_TRACK(VOCABULARY, PARTS, learns=True, max_length=4, repeats="never")
    made = loss(VOCABULARY) if loss is MSELoss else loss(VOCABULARY, temperature=0.2, logq=1.0)
    assert made(scorer, BATCH, context.of_loss) == made(scorer, BATCH, last)
    assert made(scorer, BATCH, context.of_loss) != made(scorer, BATCH, whole.of_loss)
    arguments = (scorer, BATCH.previous, HISTORY, SHARE)
    assert torch.equal(context.queries(*arguments).vectors, whole.queries(*arguments).vectors)
    assert context.repeats is context.of_loss.repeats


def test_batches_without_histories_are_refused_with_the_remedy(scorer: CosineMix) -> None:
    batch = PairBatch.without_history(*BATCH[:4])
    with pytest.raises(InputError, match=r"datamodule\.history=0 leaves no tracks for context=session; leave"):
        session().score(scorer, batch)


def test_leaving_out_heard_tracks_without_looking_at_the_session_is_refused() -> None:
    message = (
        "context.repeats=never needs the tracks of the session, and context.max_length is 0; use context.max_length"
    )
    with pytest.raises(InputError, match=message):
        LAST_TRACK(VOCABULARY, PARTS, learns=True, repeats="never")


def test_a_head_of_one_table_is_one_part() -> None:
    scorer = DOT(VOCABULARY, dim=5, item_bias=True)
    assert isinstance(scorer, TwoTableDot)
    queries = SESSION(VOCABULARY, ["track"], learns=True).queries(scorer, BATCH.previous, HISTORY, SHARE)
    assert (queries.vectors[:, -1] == 1).all()
    assert isinstance(LAST, LastTrack)
