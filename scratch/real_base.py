from real import *
from scipy.sparse import csr_array
log("# simple rivals on yes, polimi (val, cap 4000 queries; and test, all)")
for name in ("yes", "polimi"):
    d = load(name); t = d.train; N = d.N
    plays = np.bincount(t.x[t.d == 1], minlength=N) + np.bincount(t.p[t.d == 1], minlength=N)
    for part in ("val",):
        p, x = queries(d, part, 4000 if part == "val" else None)
        def rep(label, C, extra=0):
            C = C.tocsr(); f = lambda r: np.asarray(C[r].todense(), np.float64) + extra
            log(f"{name} {part} {label} " + str({k: round(v, 4) for k, v in metrics(ranks(f, p, x, 1e-12)).items()}))
        def mat(sel, w): 
            k = sel & (t.p != t.x); return csr_array((w[k], (t.p[k], t.x[k])), shape=(N, N))
        one = np.ones(len(t.p)); eps = plays / (plays.max() + 1) * 1e-6
        rep("markov counts", mat(t.d == 1, one)); rep("markov counts+pop ties", mat(t.d == 1, one), eps)
        rep("sequential rules 1/d, w5, +pop", mat(t.d <= 5, 1 / t.d), eps)
        for dec in (.5, .7): rep(f"rules decay {dec} +pop", mat(t.d <= 5, dec ** (t.d - 1.0)), eps)
        C = mat(t.d <= 5, 1 / t.d); C = (C + .5 * C.T)
        rep("symmetrised rules (1, .5) +pop", C, eps)
        B = csr_array((np.ones(len(t.s)), (t.s, t.x)), shape=(t.s.max() + 1, N)); B.sum_duplicates(); B.data[:] = 1
        G = (B.T @ B).tocsr(); n = np.maximum(B.sum(0), 1); 
        from scipy.sparse import diags_array
        Dg = diags_array(1 / np.sqrt(n)); K = (Dg @ G @ Dg).tocsr(); rep("item-kNN cosine of sessions", K)
        Sh = diags_array(1 / (n + 20) ** .5); K2 = (Sh @ G @ Sh).tocsr(); rep("item-kNN, shrunk 20", K2)
        A = csr_array((np.ones(N), (np.arange(N), d.ao)), shape=(N, d.ao.max() + 1))
        pa = plays[:, None] 
        sa = lambda r: np.asarray(mat(t.d <= 5, 1 / t.d).tocsr()[r].todense()) + 0.3 * (d.ao[r][:, None] == d.ao) * (0.1 + plays / 100) + eps
        log(f"{name} {part} rules + same artist " + str({k: round(v, 4) for k, v in metrics(ranks(sa, p, x, 1e-12)).items()}))
