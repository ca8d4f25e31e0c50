"""A head of several parts: each part against a slow loop, and the settings of the mix."""

from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from segue.attributes import Attribute, Values, Vectors
from segue.catalog import Vocabulary
from segue.errors import InputError
from segue.models.contracts import PairBatch
from segue.models.heads import CosineMix
from segue.models.losses import SoftmaxLoss
from tests.conftest import make_vocabulary
from tests.models.plain import COSINES, LAST

ARTISTS = [0, 0, 1, 1, 2, 3]
SEEN = [1, 2, 1, 1, 3, 0]
"""Training pairs do not show the last track."""
TAGS = Values.from_lists([["a", "b"], ["b"], [], ["c", "a", "d"], ["d"], ["a", "z"]])
YEAR = Vectors.from_numbers([1990.0, 2000.0, None, 2010.0, 2005.0, 1980.0])
AUDIO = Vectors(
    data=np.random.default_rng(0).standard_normal((5, 3)).astype(np.float16),
    places=np.array([4, 3, 2, 1, -1, 0]),
    is_scaled=False,
)
PARTS = ["track", "artist", "tags", "year", "audio"]


def vocabulary() -> Vocabulary:
    found = make_vocabulary(ARTISTS, previous_counts=SEEN, next_counts=SEEN)
    attributes: dict[str, Attribute] = {"tags": TAGS, "year": YEAR, "audio": AUDIO, "values": TAGS}
    object.__setattr__(found.catalog, "attributes", attributes)
    return found


def mix(**changes: Any) -> CosineMix:
    torch.manual_seed(0)
    return COSINES(vocabulary(), **{"alpha": "learned", "parts": PARTS, "dim": 4} | changes).eval()


def without_prior(**changes: Any) -> CosineMix:
    head = mix(**changes)
    head.prior = None
    return head


def array_of(part: nn.Module | None, name: str) -> np.ndarray:
    assert part is not None
    numbers: np.ndarray = part.get_parameter(name).detach().double().numpy()
    return numbers


def slow_vectors(head: CosineMix, row: int) -> dict[str, np.ndarray]:
    """The vector of each part of a track, from the tables alone."""
    parts = head.parts
    tables = {name: array_of(part, "weight") for name, part in parts.items()}
    zero = np.zeros(4)
    seen = [r for r in range(6) if SEEN[r]]
    shown = {tag for r in seen for tag in TAGS.lists()[r]}
    of_tags = [tables["tags"][list(TAGS.names).index(tag)] for tag in TAGS.lists()[row] if tag in shown]
    vectors = {
        "track": tables["track"][row] if SEEN[row] else zero,
        "artist": tables["artist"][ARTISTS[row]],
        "tags": np.mean(of_tags, axis=0) if of_tags else zero,
    }
    for name, attribute in (("year", YEAR), ("audio", AUDIO)):
        given_of = {r: attribute.data[attribute.places[r]].astype(float) for r in range(6) if attribute.places[r] >= 0}
        known = np.array([given_of[r] for r in seen if r in given_of])
        vectors[name] = zero
        if row in given_of:
            vectors[name] = tables[name] @ ((given_of[row] - known.mean(0)) / known.std(0))
            vectors[name] = vectors[name] + array_of(parts[name], "bias")
    return vectors


def test_the_score_is_the_mix_of_the_cosines_of_slow_loops() -> None:
    head = without_prior()
    assert head.alpha_logit is not None
    head.alpha_logit.data = torch.tensor([4.0, 3.0, 1.0, 1.0]).log()
    scores = (head.query_vectors() @ head.item_vectors().T).detach().numpy()
    for previous in range(6):
        for following in range(6):
            first, second = slow_vectors(head, previous), slow_vectors(head, following)
            lengths = {name: np.linalg.norm(first[name]) * np.linalg.norm(second[name]) for name in PARTS}
            shares = {name: weight / 10 for name, weight in zip(PARTS, (4, 3, 1, 1, 1), strict=True)}
            expected = sum(
                share * first[name] @ second[name] / lengths[name] for name, share in shares.items() if lengths[name]
            )
            assert scores[previous, following] == pytest.approx(expected, abs=2e-6), (previous, following)


def test_a_new_track_without_a_known_artist_is_scored_by_its_attributes() -> None:
    head = without_prior()
    assert (head.get_parameter("parts.track.weight")[5] == 0).all()
    new = head(torch.tensor([5]), torch.tensor([0])).item()
    assert new != 0
    for part in list(head.parts.values())[2:]:
        with torch.no_grad():
            for parameter in part.parameters():
                parameter.zero_()
    assert head(torch.tensor([5]), torch.tensor([0])).item() == 0


@pytest.mark.parametrize("order_std", [0.0, 0.1])
def test_pairs_and_vectors_give_the_same_scores(order_std: float) -> None:
    head = without_prior(parts=["tags", "track", "audio"], order_std=order_std)
    rows = torch.cartesian_prod(torch.arange(6), torch.arange(6))
    expected = (head.query_vectors() @ head.item_vectors().T).flatten()
    torch.testing.assert_close(head(*rows.T), expected, atol=1e-6, rtol=1e-5)
    is_symmetric = torch.allclose(expected, head(*rows.flip(1).T), atol=1e-6)
    assert is_symmetric == (order_std == 0)


@given(st.lists(st.floats(-20, 20), min_size=1, max_size=4))
def test_learned_shares_are_on_the_simplex(logits: list[float]) -> None:
    names = ["track", "tags", "artist", "year", "audio"][: len(logits) + 1]
    head = mix(parts=names)
    assert list(head.logged().values()) == pytest.approx([1 / len(names)] * len(names))
    assert head.alpha_logit is not None
    head.alpha_logit.data = torch.tensor(logits)
    shares = list(head.logged().values())
    assert min(shares) >= 0
    assert sum(shares) == pytest.approx(1, abs=1e-6)


def test_every_part_is_trained_and_what_training_never_shows_stays_zero() -> None:
    head = mix(order_std=0.1).train()
    previous, following = torch.cartesian_prod(torch.arange(5), torch.arange(5)).T
    head(previous, following).square().sum().backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
    assert (array_of(head.parts["tags"], "weight")[list(TAGS.names).index("z")] == 0).all()
    assert len(TAGS.names) == 5


def test_a_track_that_training_does_not_show_is_no_negative() -> None:
    head = mix().train()
    batch_rows = torch.tensor([0, 1, 2, 3])
    batch = PairBatch.without_history(batch_rows, batch_rows + 1, torch.ones(4), torch.zeros(4, dtype=torch.int64))
    loss = SoftmaxLoss(vocabulary(), temperature=0.1, logq=1.0)
    asked: list[int] = []
    whole = head.item

    def item(rows: torch.Tensor) -> torch.Tensor:
        asked.extend(rows.tolist())
        return whole(rows)

    head.item = item  # type: ignore[method-assign]  # counts what is asked for
    loss(head, batch, LAST)
    assert sorted(asked) == [1, 2, 3, 4]


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"parts": ["track", "genre"]}, r"no attribute 'genre'.*they have track, artist, tags, year, audio, values; give"),
    ({"alpha": 0.9}, r"model.parts=\['track', 'artist', .*with model.alpha=learned, got alpha=0.9"),
    ({"parts": ["track", "track"]}, r"must name each part once"),
    ({"parts": []}, r"must name each part once"),
    ({"parts": ["track", "values"]}, r"torch uses the name itself"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_impossible_parts_are_refused(changes: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as where a user meets it
    with pytest.raises(InputError, match=message):
        mix(**changes)


def test_a_prior_gives_a_new_track_the_vector_and_the_bias_that_its_other_parts_predict() -> None:
    head = mix(parts=["track", "artist", "tags"], item_bias=True)
    assert head.prior is not None
    assert head.item_bias is not None
    with torch.no_grad():
        head.item_bias.weight[:5] = 1.0
        assert head.prior.item_bias is not None
        head.prior.item_bias.weight.normal_()
    row = torch.tensor([5])
    units = [part(row)[0].detach().double() for part in list(head.parts.values())[1:]]
    others = np.concatenate([unit / max(unit.norm(), 1e-12) for unit in units])
    predicted = head.prior.vector.weight.detach().double().numpy() @ others
    item = head.item(torch.tensor([5]))[0].detach().double().numpy()
    np.testing.assert_allclose(item[:4], predicted / np.linalg.norm(predicted) / 3**0.5, atol=1e-6)
    bias = head.prior.item_bias.weight.detach().double().numpy()[0] @ others
    assert item[-1] == pytest.approx(0.1 * bias, abs=1e-6)
    rows = torch.cartesian_prod(torch.arange(6), torch.arange(6))
    expected = (head.query_vectors() @ head.item_vectors().T).flatten()
    torch.testing.assert_close(head(*rows.T), expected)


def test_a_dropped_track_has_the_vector_of_a_new_one() -> None:
    head = mix(parts=["track", "artist", "tags"], item_bias=True, track_dropout=0.9).train()
    new, others = mix(parts=["track", "artist", "tags"], item_bias=True), torch.zeros(200, dtype=torch.int64)
    with torch.no_grad():
        new.get_parameter("parts.track.weight").zero_()
    found = head.item(others)
    is_dropped = torch.isclose(found, new.item(others), atol=1e-6).all(dim=1)
    assert 150 < is_dropped.sum() < 200


def test_a_prior_learns_from_the_other_parts_and_does_not_change_them() -> None:
    gradients = []
    for has_prior in (True, False):
        head = mix(parts=["track", "artist", "tags"], track_dropout=0.9)
        head.prior = head.prior if has_prior else None
        torch.manual_seed(0)
        head.train()(torch.tensor([0, 1, 2]), torch.tensor([3, 4, 4])).sum().backward()
        gradients.append(head.get_parameter("parts.artist.weight").grad)
        if head.prior is not None:
            assert head.prior.vector.weight.grad is not None
            assert head.prior.vector.weight.grad.any()
    torch.testing.assert_close(*gradients)
