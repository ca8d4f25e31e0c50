from real import *
R = dict(alpha=.5, dim=64, lr=2e-3, batch=1024, patience=2, edrop=.2, bias="i")
go("yes", "asym shared .1 edrop .2 bias i", **{**R, "asym": True, "shared": .1})
go("yes", "asym edrop .2 bias i", **{**R, "asym": True})
go("polimi", "asym shared .1 edrop .2 bias i", **{**R, "asym": True, "shared": .1})
