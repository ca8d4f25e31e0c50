from real import *
R = dict(alpha=.5, dim=64, lr=2e-3, batch=1024, patience=2, edrop=.2, bias="i", asym=True, shared=.1, cap=20000)
rs = [go("yes", f"order .01 dim64, all val, seed {s}", **{**R, "seed": s}) for s in (2, 3)]
vq = queries(load("yes"), "val")
Q = np.concatenate([r.Q for r in rs], 1); I = np.concatenate([r.I for r in rs], 1)
log(f"yes two seeds' vectors side by side: {metrics(ranks(lambda r: Q[r] @ I.T, *vq))}")
go("yes", "order full softmax, all val", **{**R, "cands": "full", "batch": 512})
