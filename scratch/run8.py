from common import *
cache(S/'night', S/'night.npz')
from fast import *
d = data("mixed", "night")
log(f"# run8: one more night: mixed + 60k sessions of the model's own uniform traffic, {len(d.share)} pairs")
C = dict(dim=16, alpha=.5, lr=1e-2, batch=8192, bias="u", epochs=7, patience=1)
go(d, "C + one night of its own", hows=(("uniform", 0), ("ranked", 3)), **C)
