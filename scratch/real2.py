from real import *
log("# real2: together")
for name in ("polimi", "yes"):
    R = dict(alpha=.5, dim=64, lr=5e-3, batch=1024, patience=2, edrop=.2)
    w = dict(window=3, decay=.5)
    if name == "polimi":
        go(name, "edrop+bias p", **R, bias="p"); go(name, "edrop+bias p, window", **R, bias="p", **w); go(name, "edrop+bias i, window", **R, bias="i", **w)
        go(name, "edrop+bias p, window, count k2", **{**R, "alpha": "count", "kappa": 2.0}, bias="p", **w)
        go(name, "edrop.3+bias p, window dim128", **{**R, "dim": 128, "edrop": .3}, bias="p", **w)
        go(name, "edrop+bias p, window temp .1", **R, bias="p", **w, temp=.1)
        go(name, "edrop+bias p, window temp .2", **R, bias="p", **w, temp=.2)
    else:
        go(name, "a .5 edrop+bias p", **R, bias="p"); go(name, "a .9 edrop+bias p", **{**R, "alpha": .9}, bias="p"); go(name, "a .9 edrop+bias i", **{**R, "alpha": .9}, bias="i")
        go(name, "a .9 edrop+bias p, temp .1", **{**R, "alpha": .9}, bias="p", temp=.1); go(name, "a .7 edrop+bias pi temp .1", **{**R, "alpha": .7}, bias="pi", temp=.1)
        go(name, "a .9 edrop+bias p, window temp .1", **{**R, "alpha": .9}, bias="p", temp=.1, **w); go(name, "a .9 edrop .3 bias pi, dim128 temp .1", **{**R, "alpha": .9, "dim": 128, "edrop": .3}, bias="pi", temp=.1)
