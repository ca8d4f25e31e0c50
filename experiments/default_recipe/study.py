"""Choose the default temperature by validation: python experiments/default_recipe/study.py

Each lever is moved alone, from the defaults, on the three real sets that are large enough to tell; the test sessions
are not looked at. Writes results.csv, results.md and provenance.json beside this file.
"""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from experiments.runs import markdown  # noqa: E402
from src.provenance import provenance  # noqa: E402

LEVERS = {
    "loss.temperature=0.1,0.15,0.2": ("botify", "yes", "polimi"),
}
SHOWN = ("val/ndcg_at_10", "val/recall_at_10", "val/mrr", "val/mse", "epoch")


def main() -> None:
    out, rows = Path(__file__).parent, []
    sweeps = ROOT / "outputs" / "default_recipe"
    for number, (lever, sources) in enumerate(LEVERS.items()):
        sweep = sweeps / str(number)
        if not sweep.exists():
            command = [sys.executable, "train.py", "-m", f"datamodule={','.join(sources)}", lever]
            command += ["optimizer=adam", "logger=none", "~callbacks.export", f"hydra.sweep.dir={sweep}"]
            subprocess.run(command, cwd=ROOT, check=True)
        for run in sorted(sweep.glob("*/metrics.json"), key=lambda path: int(path.parent.name)):
            config = yaml.safe_load((run.parent / "config.yaml").read_text(encoding="utf-8"))
            metrics = json.loads(run.read_text())
            loss = {"loss": config["loss"]["_target_"].rsplit(".")[-1]}
            loss |= {name: config["loss"].get(name) for name in ("temperature", "logq")}
            head = {"data": config["datamodule"]["reader"], "model": config["run_name"].split()[0]}
            rows.append(
                {**head, **loss, "lr": config["optimizer"]["lr"], **{name: metrics.get(name) for name in SHOWN}}
            )
    table = pd.DataFrame(rows).sort_values(["data", "model"], kind="stable")
    table.to_csv(out / "results.csv", index=False)
    (out / "results.md").write_text(markdown(table) + "\n", encoding="utf-8")
    (out / "provenance.json").write_text(json.dumps(provenance(ROOT), indent=2) + "\n")
    print(f"{len(table)} runs → {out / 'results.md'}")


if __name__ == "__main__":
    main()
