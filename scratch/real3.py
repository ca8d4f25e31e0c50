from real import *
R = dict(alpha=.5, dim=64, lr=5e-3, batch=1024, patience=2, edrop=.2, bias="i")
go("yes", "a .5 edrop .2 bias i", **R)
go("yes", "a .8 edrop .2 bias i temp .1", **{**R, "alpha": .8, "temp": .1})
go("polimi", "a .5 edrop .2 bias i", **R)
go("yes", "contextual lr5e-3 dim64", head="dot", dim=64, init=.03, lr=5e-3, patience=2)
go("yes", "a .5 edrop .3 bias i dim128", **{**R, "edrop": .3, "dim": 128})
go("polimi", "a .5 edrop .3 bias i dim128", **{**R, "edrop": .3, "dim": 128})
go("polimi", "a .5 edrop .2 bias i temp .1", **{**R, "temp": .1})
