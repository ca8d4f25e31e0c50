from common import *
import torch.nn.functional as F
from torch import nn
D = {}
def load(name):
    if name in D: return D[name]
    z = np.load(S / f"{name}.npz"); d = NS(ao=z["artist_of"], N=len(z["artist_of"]))
    for part in ("train", "val", "test"):
        s = z[f"{part}_session"]; start = np.r_[True, s[1:] != s[:-1]]; idx = np.arange(len(s)); k = idx - np.maximum.accumulate(np.where(start, idx, 0))
        g = np.where(k < 10, ((np.sqrt(8 * k + 1) - 1) / 2).astype(int) + 1, 5)       # pairs of the place
        off = np.where(k < 10, k - g * (g - 1) // 2, (k - 10) % 5)
        setattr(d, part, NS(s=s, p=z[f"{part}_previous"], x=z[f"{part}_following"], d=g - off))
    D[name] = d; return d

def metrics(rk): return dict(rec10=float((rk <= 10).mean()), ndcg=float(np.where(rk <= 10, 1 / np.log2(1 + rk), 0).mean()), mrr=float((1 / rk).mean()))
def ranks(score_rows, p, x, tol=1e-6):
    out = []
    for k in range(0, len(p), 512):
        sc = score_rows(p[k:k + 512]); e = np.arange(len(sc)); tg = sc[e, x[k:k + 512]][:, None].copy(); sc[e, p[k:k + 512]] = -np.inf
        out.append(((sc > tg + tol).sum(1) + 1 + (sc >= tg - tol).sum(1)) / 2)
    return np.concatenate(out)
def queries(d, part, cap=None):
    q = getattr(d, part); k = (q.d == 1) & (q.p != q.x); p, x = q.p[k], q.x[k]
    if cap and len(p) > cap: o = np.random.default_rng(1).permutation(len(p))[:cap]; p, x = p[o], x[o]
    return p, x

DEF = dict(head="mix", alpha=.5, dim=64, init=.1, tinit=1.0, lr=1e-3, lr_a=None, wd=0.0, wd_t=None, wb=0.0, epochs=40, batch=1024, temp=.15, ltemp=False, logq=1.0, cands="batch", bias="", omega=1.0, drop=0.0, window=1, decay=.5, sym=0.0,
           asym=False, kappa=5.0, seed=1, patience=3, edrop=0.0, smooth=0.0, shared=0.0, beta_same=False, cap=4000, ema=0.0, negs=2048)
def train(name, verbose=False, **kw):
    c = NS(**{**DEF, **kw}); d = load(name); torch.manual_seed(c.seed); N = d.N; M = int(d.ao.max()) + 1; ao = torch.from_numpy(d.ao)
    t = d.train; k = (t.d <= c.window) & (t.p != t.x)
    P, X = t.p[k], t.x[k]; w = c.decay ** (t.d[k] - 1.0)
    if c.sym: P, X, w = np.r_[P, X], np.r_[X, P], np.r_[w, c.sym * w]
    cons = t.d == 1; cq = np.bincount(t.p[cons], minlength=N); ci = np.bincount(t.x[cons], minlength=N); seen = torch.from_numpy((cq + ci) > 0); cnt = torch.from_numpy(cq + ci).float()
    seen_a = torch.zeros(M, dtype=torch.bool); seen_a[ao[seen]] = True
    wq = np.bincount(X, w, minlength=N); logq = torch.from_numpy(np.log(np.maximum(wq, 1) / wq.sum())).float() * c.logq
    P, X, w = torch.from_numpy(P), torch.from_numpy(X), torch.from_numpy(w).float()
    class PD(dict):
        __getattr__ = dict.__getitem__
        __setattr__ = dict.__setitem__
    par = PD()
    def tab(n, dd, std, s): v = torch.randn(n, dd) * std; v[~s] = 0; return nn.Parameter(v)
    if c.head == "dot": par.t, par.t2 = tab(N, c.dim, c.init, torch.from_numpy(cq > 0)), tab(N, c.dim, c.init, torch.from_numpy(ci > 0))
    else:
        if c.alpha != 0: par.t = tab(N, c.dim, c.init * c.tinit, seen)
        if c.alpha != 1: par.a = tab(M, c.dim, c.init, seen_a)
        if c.asym and c.alpha != 0: par.t2 = tab(N, c.dim, c.init * c.tinit * (c.shared or 1), torch.from_numpy(ci > 0))
        if c.asym and c.alpha != 1: par.a2 = tab(M, c.dim, c.init * (c.shared or 1), seen_a)
    lc = torch.from_numpy(np.log1p(ci)).float(); par.w = nn.Parameter(torch.tensor(0.0)); par.bi = nn.Parameter(torch.zeros(N)); par.bia = nn.Parameter(torch.zeros(M)); par.lt = nn.Parameter(torch.tensor(float(np.log(c.temp)))); par.al = nn.Parameter(torch.zeros(())); par.ka = nn.Parameter(torch.tensor(float(np.log(c.kappa)))); par.bs = nn.Parameter(torch.zeros(()))
    tr = [True]
    def alpha(r):
        if c.alpha == "learned": return torch.sigmoid(par.al)
        if c.alpha == "count": return (torch.sigmoid(par.al) * cnt[r] / (cnt[r] + par.ka.exp()))[:, None]
        if c.alpha == "countfix": return (c.amax * cnt[r] / (cnt[r] + c.kappa))[:, None]
        return c.alpha
    def vec(r, T, A):
        ra = ao[r]
        if c.head == "prior":
            tv = F.embedding(r, T)
            if tr[0] and c.drop: tv = tv * (torch.rand(len(r), 1) >= c.drop)
            return F.normalize(F.embedding(ra, A) + tv, dim=-1)
        al = alpha(r); out = []
        if T is not None:
            v = F.normalize(F.embedding(r, T), dim=-1)
            if tr[0] and c.drop: v = v * (torch.rand(len(r), 1) >= c.drop)
            if tr[0] and c.edrop: v = F.dropout(v, c.edrop)
            out.append(v * al ** .5)
        if A is not None:
            v = F.normalize(F.embedding(ra, A), dim=-1)
            if tr[0] and c.edrop: v = F.dropout(v, c.edrop)
            out.append(v * (1 - al) ** .5)
        return torch.cat(out, -1)
    T, A = (par.t if "t" in par else None), (par.a if "a" in par else None)
    def q(r):
        if c.head == "dot": return F.dropout(F.embedding(r, par.t), c.edrop, tr[0])
        return vec(r, T, A)
    def i(r):
        if c.head == "dot": return F.dropout(F.embedding(r, par.t2), c.edrop, tr[0])
        if c.asym:
            if c.shared: return vec(r, T + par.t2 if T is not None else None, A + par.a2 if A is not None else None)
            return vec(r, par.t2 if T is not None else None, par.a2 if A is not None else None)
        return q(r)
    def bias(r):
        b = 0
        if "i" in c.bias: b = b + par.bi[r]
        if "a" in c.bias: b = b + par.bia[ao[r]]
        if "p" in c.bias: b = b + par.w * lc[r]
        return b
    tb = [par[k] for k in ("t", "t2") if k in par]; ab = [par[k] for k in ("a", "a2") if k in par]; bb = [par.bi, par.bia]; ob = [par.lt, par.al, par.ka, par.w]
    opt = torch.optim.Adam([g for g in [dict(params=tb, weight_decay=c.wd if c.wd_t is None else c.wd_t), dict(params=ab, weight_decay=c.wd, lr=c.lr_a or c.lr), dict(params=bb, weight_decay=c.wb, lr=max(c.lr, 3e-3)), dict(params=ob, lr=5e-3)] if g["params"]], lr=c.lr, fused=True)
    temp = lambda: par.lt.exp() if c.ltemp else c.temp
    allc = torch.nonzero(torch.from_numpy(ci > 0))[:, 0]; place = torch.full((N,), -1); place[allc] = torch.arange(len(allc))
    def loss(p, x, ww):
        if c.cands == "full":
            lg = q(p) @ i(allc).T / temp() + (bias(allc) if c.bias else 0)
            lg[torch.arange(len(p)), place[p].clamp(min=0)] += torch.where(place[p] >= 0, -1e9, 0.)
            return (F.cross_entropy(lg, place[x], reduction="none", label_smoothing=c.smooth) * ww).sum() / ww.sum()
        lg = q(p) @ i(x).T / temp() - logq[x] + (bias(x) if c.bias else 0)
        same = (x[:, None] == x) | (p[:, None] == x); same.fill_diagonal_(False); lg = lg.masked_fill(same, -torch.inf)
        return -(lg.log_softmax(1).diagonal() * ww).sum() / ww.sum()
    @torch.inference_mode()
    def vectors():
        tr[0] = False; al = torch.arange(N); Q, I = q(al), i(al); tr[0] = True
        if c.bias: Q = torch.cat([Q, torch.ones(N, 1)], 1); I = torch.cat([I, (c.omega * temp() * bias(al))[:, None]], 1)
        return Q.numpy(), I.numpy()
    vq = queries(d, "val", c.cap)
    best, bad, bl = None, 0, None; t0 = time.time()
    for ep in range(c.epochs):
        for kk in torch.randperm(len(P)).split(c.batch):
            l = loss(P[kk], X[kk], w[kk]); opt.zero_grad(set_to_none=True); l.backward(); opt.step()
        with torch.inference_mode():
            tr[0] = False; vl = []
            vps, vxs = map(torch.from_numpy, queries(d, "val")); 
            for b in range(0, len(vps) - 1, c.batch if c.batch <= 4096 else 4096): e = slice(b, b + min(c.batch, 4096)); vl.append(float(loss(vps[e], vxs[e], torch.ones(len(vps[e])))) * len(vps[e]))
            tr[0] = True; vl = sum(vl) / len(vps)
        if bl is None or vl < bl[0]: bl = (vl, ep + 1, None)
        Q, I = vectors(); mt = metrics(ranks(lambda r: Q[r] @ I.T, *vq))
        if bl[1] == ep + 1: bl = (vl, ep + 1, mt['ndcg'])
        if verbose: print(ep, mt, vl, f"{time.time()-t0:.0f}s", float(temp()), flush=True)
        if best is None or mt["ndcg"] > best[1]["ndcg"]: best, bad, QI = (ep + 1, mt), 0, (Q.copy(), I.copy())
        else:
            bad += 1
            if bad > c.patience: break
    return NS(Q=QI[0], I=QI[1], ep=best[0], val=best[1], byloss=bl, secs=time.time() - t0, al=float(torch.sigmoid(par.al.detach())), temp=float(temp()), ka=float(par.ka.detach().exp()))
def go(name, label, show=True, **kw):
    r = train(name, **kw)
    Lq = np.unique(queries(load(name), "val", 4000)[0]); l = nearest2(r.Q, r.I, Lq, 10)
    log(f"{name:7s} {label:46s} val ndcg {r.val['ndcg']:.4f} rec10 {r.val['rec10']:.4f} mrr {r.val['mrr']:.4f} cov10 {len(np.unique(l))/load(name).N:.3f} | ep {r.ep} (by val loss: ep {r.byloss[1]} ndcg {r.byloss[2]:.4f}) {r.secs:.0f}s al {r.al:.2f} temp {r.temp:.3f} ka {r.ka:.1f}")
    return r
