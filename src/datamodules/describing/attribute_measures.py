"""What is measured of the attributes of tracks.

K values, W width of a vector.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from segue.attributes import Attribute, Vectors


@dataclass(frozen=True, kw_only=True)
class AttributeFacts:
    """What `describe.py` reports of an attribute.

    Args:
        name: of the attribute.
        kind: `values`, `number` or `vector`.
        num_values: number of values that occur (K); None where it is no such attribute.
        width: number of columns (W); None where it has values.
        coverage: share of the tracks of the catalogue that have something.
        nothing: share that have nothing.
        values_per_track: mean number of values of the tracks that have some.
        commonest: the value that most tracks have.
        commonest_share: share of the catalogue that has it.
    """

    name: str
    kind: str
    num_values: int | None
    width: int | None
    coverage: float
    nothing: float
    values_per_track: float | None = None
    commonest: str | None = None
    commonest_share: float | None = None


def measure_attributes(attributes: Mapping[str, Attribute]) -> list[AttributeFacts]:
    """Measure attributes.

    Args:
        attributes: by name.

    Returns:
        The facts, in the same order.
    """
    facts = []
    for name, attribute in attributes.items():
        known = attribute.known
        coverage = float(known.mean())
        if isinstance(attribute, Vectors):
            kind, width = "number" if attribute.is_scaled else "vector", attribute.data.shape[1]
            facts.append(
                AttributeFacts(
                    name=name, kind=kind, num_values=None, width=width, coverage=coverage, nothing=1 - coverage
                )
            )
            continue
        tracks = attribute.tracks_of_values()
        top = int(tracks.argmax()) if len(tracks) else None
        facts.append(
            AttributeFacts(
                name=name,
                kind="values",
                num_values=int((tracks > 0).sum()),
                width=None,
                coverage=coverage,
                nothing=1 - coverage,
                values_per_track=float(attribute.counts[known].mean()) if known.any() else None,
                commonest=None if top is None else str(attribute.names[top]),
                commonest_share=None if top is None else float(tracks[top] / len(known)),
            )
        )
    return facts
