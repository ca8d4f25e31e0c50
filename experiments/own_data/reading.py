"""Read a source from its files to pairs, for the scripts here: prints sizes, seconds and the largest memory as JSON."""

import json
import os
import sys
import time
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.processes import cpu_s, memory_gb
from segue.runs.provenance import ROOT
from segue.terminal.hydra_parts import know_defaults

if __name__ == "__main__":
    began, used = time.monotonic(), cpu_s(os.getpid())
    know_defaults()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("train", sys.argv[1:])
    data = instantiate(config.datamodule, _convert_="all")
    data.setup()
    found = {
        "rows": data.reading.num_rows,
        "pairs": sum(map(len, data.pairs.values())),
        "tracks": len(data.catalog),
        "sessions": len(data.sessions),
        "seconds": round(time.monotonic() - began, 1),
        "CPU s": round(cpu_s(os.getpid()) - used, 1),
    }
    print(json.dumps({**found, "GB": round(memory_gb(os.getpid(), "VmHWM") * 1024 / 1000, 2)}))
