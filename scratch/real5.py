from real import *
R = dict(alpha="learned", dim=64, lr=5e-3, batch=1024, patience=2, edrop=.2, bias="i")
go("yes", "a learned edrop .2 bias i lr2e-3", **{**R, "lr": 2e-3})
go("yes", "a learned edrop .2 bias i temp .25", **{**R, "temp": .25})
go("yes", "contextual default lr1e-3 dim128", head="dot", dim=128, init=.03, lr=1e-3, patience=2)
go("polimi", "a learned edrop .2 bias i lr2e-3", **{**R, "lr": 2e-3})
