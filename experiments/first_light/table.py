"""Gather the runs of a multirun into one table: python experiments/first_light/table.py <sweep folder>"""

import json
import sys
from pathlib import Path

import pandas as pd
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.runs import markdown
from src.console import ROOT
from src.provenance import provenance

REGRESSION = ["mse", "mse_mean_floor", "mse_random_floor", "mae", "mae_mean_floor", "mae_random_floor"]
RANKING = [
    *("recall_at_10", "recall_at_10_counts_floor", "recall_at_10_popular_floor"),
    *("ndcg_at_10", "ndcg_at_10_counts_floor", "mrr", "mrr_counts_floor"),
    *("coverage_at_10", "same_artist_at_10", "num_queries"),
]


def read_run(folder: Path) -> dict[str, str | float | None]:
    text = (folder / "config.yaml").read_text(encoding="utf-8")
    config = yaml.safe_load(text)
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    head = dict(line[2:].split(": ", 1) for line in text.splitlines() if line.startswith("# "))
    run = {"data": config["datamodule"]["reader"], "model": config["run_name"].split()[0], "commit": head["git_commit"]}
    return run | {name: metrics.get(f"test/{name}") for name in [*REGRESSION, *RANKING]} | {"epochs": metrics["epochs"]}


def main(sweep: Path, out: Path) -> None:
    folders = sorted((path.parent for path in sweep.glob("*/metrics.json")), key=lambda path: int(path.name))
    runs = pd.DataFrame(read_run(folder) for folder in folders)
    commits = sorted(set(runs.pop("commit")))
    facts = {**provenance(ROOT), "runs_at_commit": ", ".join(commits)}
    runs.to_csv(out / "results.csv", index=False)
    (out / "provenance.json").write_text(json.dumps(facts, indent=2) + "\n")
    with (out / "results.md").open("w", encoding="utf-8") as file:
        for title, names in (("Shares played", REGRESSION), ("Ranking over the whole catalogue", RANKING)):
            table = runs[["data", "model", *names]].dropna(subset=names)
            file.write(f"### {title}\n\n{markdown(table)}\n\n")
    print(f"{len(runs)} runs → {out / 'results.md'}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(__file__).parent)
