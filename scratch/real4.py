from real import *
R = dict(alpha=.5, dim=64, lr=5e-3, batch=1024, patience=2, edrop=.2, bias="i")
go("polimi", "a learned edrop .2 bias i", **{**R, "alpha": "learned"})
go("yes", "a learned edrop .2 bias i", **{**R, "alpha": "learned"})
go("polimi", "a count edrop .2 bias i", **{**R, "alpha": "count"})
