"""Read a source from its files to pairs, for the scripts here: prints sizes, seconds and the largest memory as JSON."""

import json
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.processes import cpu_s, memory_gb
from experiments.studying import composed, data_of

if __name__ == "__main__":
    began, used = time.monotonic(), cpu_s(os.getpid())
    data = data_of(composed("train", *sys.argv[1:]))
    found = {
        "rows": data.reading.num_rows,
        "pairs": sum(map(len, data.pairs.values())),
        "tracks": len(data.catalog),
        "sessions": len(data.sessions),
        "seconds": round(time.monotonic() - began, 1),
        "CPU s": round(cpu_s(os.getpid()) - used, 1),
    }
    print(json.dumps({**found, "GB": round(memory_gb(os.getpid(), "VmHWM") * 1024 / 1000, 2)}))
