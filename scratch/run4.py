from fast import *
d = data("mixed")
log("# run4: around C = bce, mix a=.5, dim16, lr1e-2, batch 8192, listener bias only (14.01)")
C = dict(dim=16, alpha=.5, lr=1e-2, batch=8192, bias="u", epochs=8, patience=1)
A = dict(dim=16, alpha=.9, lr=1e-2, batch=8192, bias="", epochs=8, patience=1)
V = {
 "A  (a=.9, no biases)": dict(A), "A + a=.5": {**A, "alpha": .5}, "A + listener bias": {**A, "bias": "u"}, "A + item bias": {**A, "bias": "i"}, "A + learned alpha": {**A, "alpha": "learned"},
 "A + count alpha": {**A, "alpha": "count"}, "A + prior": {**A, "head": "prior", "tinit": .3},
 "C learned": {**C, "alpha": "learned"}, "C count": {**C, "alpha": "count"}, "C track": {**C, "alpha": 1}, "C artist": {**C, "alpha": 0}, "C a=.75": {**C, "alpha": .75},
 "C mse": {**C, "loss": "mse", "b0": .2, "scale": .3}, "C bce+smx .3": {**C, "loss": "bce+smx", "smx": .3}, "C asym": {**C, "asym": True},
 "C pairs before": {**C, "pairing": "before"}, "C pairs first+before": {**C, "pairing": "both"}, "C ips .5": {**C, "weight": "ips", "popw": .5}, "C random traffic": {**C, "traffic": "random"},
 "C item bias at retrieval 1": {**C, "bias": "iu", "omega": 1.0}, "C item bias at retrieval .3": {**C, "bias": "iu", "omega": .3}, "C popularity at retrieval": {**C, "bias": "pu", "omega": 1.0}, "C edrop .2": {**C, "edrop": .2}, "C dropout .2": {**C, "drop": .2}, "C init .01": {**C, "init": .01}, "C init 1": {**C, "init": 1.0}, "C wd 1e-6": {**C, "wd": 1e-6},
 "C seed2": {**C, "seed": 2}, "C noagain": {**C, "noagain": True}, "C dim32": {**C, "dim": 32}, "A smx": {**A, "loss": "smx", "lr": 3e-3, "epochs": 2}, "A mse": {**A, "loss": "mse", "b0": .2, "scale": .3},
}
only = sys.argv[1:]
for k, v in V.items():
    if not only or k in only: go(d, k, hows=(("uniform", 0), ("ranked", 3)), **v)
