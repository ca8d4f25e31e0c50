from fast import *
d = data("mixed")
log("# run5: picks and list length with C; longer training; prior")
C = dict(dim=16, alpha=.5, lr=1e-2, batch=8192, bias="u", epochs=8, patience=1)
r = train(d, **C)
np.savez(S / "C.npz", q=r.q, i=r.i)
L200 = nearest2(r.q, r.i, np.arange(N), 200)
def cap(l, m, k):
    out = np.full((len(l), k), -1, np.int32)
    a = AO[l]
    # how many of the same artist stand before
    o = np.argsort(a, axis=1, kind="stable"); so = np.take_along_axis(a, o, 1); new = np.c_[np.ones(len(l), bool), so[:, 1:] != so[:, :-1]]; idx = np.arange(l.shape[1]); st = np.maximum.accumulate(np.where(new, idx, 0), 1); nth = np.empty_like(o); np.put_along_axis(nth, o, idx - st, 1)
    own = a == AO[:, None]
    ok = (nth < m) & ~(own if m == 1 else np.zeros_like(own))
    rank = ok.cumsum(1) - 1
    rr, cc = np.nonzero(ok & (rank < k)); out[rr, rank[rr, cc]] = l[rr, cc]
    return out
l50 = L200[:, :50]
for how in ("uniform", "uniform_norepeat", "weighted", "ranked"):
    for gap in (0, 1, 3, 10):
        if how == "uniform" and gap: continue
        log(f"C {how} gap={gap} {fmt(play_policy(W, L(W, l50, how, gap)))}")
for k in (20, 100, 200):
    for how, gap in (("uniform", 0), ("ranked", 3), ("ranked", 10)): log(f"C k={k} {how}{gap} {fmt(play_policy(W, L(W, L200[:, :k], how, gap)))}")
for m in (1, 2, 4):
    lc = cap(L200, m, 50); log(f"C list cap {m} an artist: uniform {fmt(play_policy(W, L(W, lc)))} norepeat {fmt(play_policy(W, L(W, lc, 'uniform_norepeat')))} ranked3 {fmt(play_policy(W, L(W, lc, 'ranked', 3)))} {describe(lc, W)} short {(lc < 0).any(1).mean():.3f}")
go(d, "C 16 epochs", hows=(("uniform", 0), ("ranked", 3)), **{**C, "epochs": 16})
go(d, "C prior", hows=(("uniform", 0), ("ranked", 3)), **{**C, "head": "prior", "tinit": .3})
go(d, "C prior 16 epochs dim 24", hows=(("uniform", 0), ("ranked", 3)), **{**C, "head": "prior", "tinit": .3, "epochs": 16, "dim": 24})
