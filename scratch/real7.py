from real import *
R = dict(alpha=.5, dim=64, lr=2e-3, batch=1024, patience=2, edrop=.2, bias="i", asym=True, shared=.1, cap=20000)
go("yes", "contextual default lr1e-3 dim128, all val", head="dot", dim=128, init=.03, lr=1e-3, patience=2, cap=20000)
go("yes", "order .01 dim64, all val", **R)
go("yes", "order .01 dim64 a .8, all val", **{**R, "alpha": .8})
go("yes", "order .03 dim128 edrop.3, all val", **{**R, "shared": .3, "dim": 128, "edrop": .3})
