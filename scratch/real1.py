from real import *
V = {}
for name in ("polimi", "yes"):
    a = .5 if name == "polimi" else .9
    R = dict(alpha=a, dim=64, lr=5e-3, batch=1024, patience=2)
    V[name] = [("R lr5e-3 dim64", R), ("R bias i", {**R, "bias": "i"}), ("R window3 .5 sym", {**R, "window": 3, "decay": .5}), ("R logq0", {**R, "logq": 0.0}), ("R edrop .2", {**R, "edrop": .2}), ("R drop .3", {**R, "drop": .3}),
               ("R batch4096", {**R, "batch": 4096, "lr": 1e-2}), ("R asym bias", {**R, "asym": True, "bias": "i"}), ("R prior", {**R, "head": "prior"}), ("R count", {**R, "alpha": "count"}), ("contextual lr5e-3 dim64", dict(head="dot", dim=64, init=.03, lr=5e-3, patience=2))]
for i in range(11):
    for name in ("polimi", "yes"):
        go(name, V[name][i][0], **V[name][i][1])
