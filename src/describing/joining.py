"""From a datamodule to what is described."""

from src.datamodules.pair_datamodule import PairDataModule
from src.describing.material import Material, Reading, Splits


def material_of(datamodule: PairDataModule, *, refusal: str | None = None) -> Material:
    """What a datamodule has read.

    Args:
        datamodule: after `setup`, even if that ended with the refusal.
        refusal: why there are no pairs for each split; None where there are.

    Returns:
        The data to be described.
    """
    num_events = len(datamodule.sessions.listens.track)
    reading = Reading(num_rows=num_events, num_events=num_events)
    splits = None
    if refusal is None:
        frame = datamodule.summary()
        counts = {
            str(name): {
                str(key): None if value is None else int(value) for key, value in row.items() if key != "rejected"
            }
            for name, row in frame.astype(object).where(frame.notna(), None).to_dict("index").items()
            if name != "all"
        }
        splits = Splits(pairs=datamodule.pairs, vocabulary=datamodule.vocabulary, counts=counts)
    return Material(
        catalog=datamodule.catalog,
        sessions=datamodule.sessions,
        reading=reading,
        splits=splits,
        refusal=refusal,
        remarks=datamodule.remarks() if refusal is None else (),
    )
