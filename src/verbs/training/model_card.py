"""The model card of a run: what it learned from, how well it ranks, and what its numbers do not say.

The headings are those of Mitchell et al., Model Cards for Model Reporting, FAT* 2019; the block at the top is what
Hugging Face reads.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from segue.atomic import write_text
from segue.reports.markdown import bullets, document
from segue.reports.tables import BESIDE, frame_table, tables_of_test
from segue.reports.writing import in_markdown
from segue.runs.folder import short_run_name
from segue.verbs.training.next_steps import FinishedRun, tested_and_exported

if TYPE_CHECKING:
    import pandas as pd

FILE = "model_card.md"


@dataclass(frozen=True, eq=False, kw_only=True)
class CardData:
    """The data of a run, for its card.

    Args:
        digest: changes whenever they do.
        sizes: a line for each split and a line `all`, as `PairDataModule.summary` returns them.
        span: times of the first and the last play; None where the source has no clock.
        remarks: what a run prints below these sizes.
    """

    path: str
    digest: str
    sizes: "pd.DataFrame"
    span: tuple[str, str] | None
    remarks: Sequence[str]


def write_model_card(run: FinishedRun, data: CardData, provenance: Mapping[str, str]) -> Path:
    """Write `model_card.md` into the run folder."""
    path = Path(run.config.run_dir) / FILE
    write_text(model_card(run, data, provenance), path)
    return path


def model_card(run: FinishedRun, data: CardData, provenance: Mapping[str, str]) -> str:
    """The card as Markdown; see `write_model_card`. Two runs of one command differ in the seconds alone."""
    choices, config, metrics = run.choices, run.config, run.metrics
    model = {
        "run": short_run_name(run.run_id) if run.run_id else config.run_dir,
        "choices": " ".join(f"{group}={choices[group]}" for group in ("model", "context", "recipe")),
        "seed": config.seed,
        "epochs": f"{metrics['epochs']}, the best by {config.monitor.metric} was tested",
        "training": f"{metrics['fit_seconds']:,.1f} seconds",
        **tested_and_exported(run),
    }
    source = {
        "source": f"datamodule={choices['datamodule']}, {data.path}",
        "digest": data.digest,
        "time": " to ".join(data.span) if data.span else "no timestamps",
        "split": config.datamodule.get("split", "none"),
    }
    use = f"Ranking the {int(data.sizes['tracks']['all']):,} tracks of one catalogue by how well they follow a session."
    return document(
        [
            f"---\n{_front_matter(run, Path(data.path).name)}---",
            f"# {config.run_name}",
            *("## Model details", bullets(f"{name}: {value}" for name, value in model.items())),
            *("## Intended use", f"{use} Other tracks are never recommended."),
            *("## Data", bullets(f"{name}: {value}" for name, value in source.items())),
            *in_markdown(frame_table(data.sizes, title="")),
            bullets(" ".join(line.split()) for line in data.remarks),
            *("## Metrics", *(block for table in tables_of_test(metrics, title="") for block in in_markdown(table))),
            *("## Limits", bullets(_limits(run))),
            *("## Command and versions", bullets(f"{name}: `{value}`" for name, value in provenance.items())),
        ]
    )


def _limits(run: FinishedRun) -> Iterator[str]:
    tested, every = (run.metrics.get(f"test/num_{name}") for name in ("queries", "all_queries"))
    if run.refit is not None:
        yield (
            "The exported model has learned the test sessions too: `val/…` and `test/…` are of the tested model, "
            "`online/…` of the exported one."
        )
    if tested is None:
        yield "The test ranked no queries: callbacks.ranking was left out."
    elif tested < every:
        yield f"The test ranked {tested:,.0f} of {every:,.0f} queries, a sample of whole sessions."
    yield (
        "Recall says how well the logs are predicted, which depend on what was recommended when they were written; an "
        "A/B test (serve.py, abtest.py) measures what listeners play longer."
    )
    if run.choices["datamodule"] == "simulated":
        yield f"The listeners are simulated. The numbers hold for the world `{run.choices['world']}`."
    yield "Intervals account for the variation across test sessions, and not for that across seeds: this is one seed."
    yield "No metric is computed by group of listeners or of artists; a mean can hide that some are served badly."


def _front_matter(run: FinishedRun, source: str) -> str:
    """What Hugging Face reads: the library, tags and the test metrics."""
    test = {name.removeprefix("test/"): value for name, value in run.metrics.items() if name.startswith("test/")}
    results = {
        "task": {"type": "recommendation", "name": "next track"},
        "dataset": {"type": str(run.choices["datamodule"]), "name": source},
        "metrics": [{"type": name, "value": value} for name, value in test.items() if not BESIDE.search(name)],
    }
    index = [{"name": str(run.config.run_name), "results": [results]}]
    tags = ["recommendation", "next-track", str(run.choices["model"])]
    return yaml.safe_dump(
        {"library_name": "segue", "tags": tags, "model-index": index}, sort_keys=False, allow_unicode=True
    )
