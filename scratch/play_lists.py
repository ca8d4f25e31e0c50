from common import *
from src.recommendations import Recommendations
w = world()
for n in sys.argv[1:]:
    l = Recommendations.read(S / n / "recommendations.jsonl", w.catalog).rows.astype(np.int32)
    log(f"lists {n}: " + " ".join(f"{h}{g}={fmt(play_policy(w, L(w, l, h, g)))}" for h, g in (("uniform", 0), ("uniform_norepeat", 0), ("ranked", 0), ("ranked", 3), ("weighted", 3))) + f" {({k: round(v, 3) for k, v in describe(l, w).items()})}")
