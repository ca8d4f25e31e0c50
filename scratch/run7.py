from fast import *
d = data("mixed")
log("# run7: random traffic again, epoch chosen on the random arms' validation pairs (before it was on all arms, whose listeners it had never seen: confounded)")
C = dict(dim=16, alpha=.5, lr=1e-2, batch=8192, bias="u", epochs=8, patience=1)
go(d, "C random traffic, monitor rbce", hows=(("uniform", 0), ("ranked", 3)), **{**C, "traffic": "random", "monitor": "rbce"})
