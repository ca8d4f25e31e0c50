from common import *
import torch.nn.functional as F
from torch import nn
W = world(); AO = W.catalog.artist_of; N = len(AO); M = int(AO.max()) + 1

def data(*names):
    """Concatenate cached logs; each with its own split."""
    from src.assignment import treatments
    parts = []
    for name in names:
        d = dict(np.load(S / f"{name}.npz")); s = d["session"]
        d["split"] = d["part"][s]; d["user"] = d["user_of"][s]
        # artist repeats so far in the session (first track counted)
        a = AO[d["following"]]; fa = AO[d["first"]]
        start = np.r_[True, s[1:] != s[:-1]]
        o = np.lexsort((np.arange(len(s)), a, s)); so, ao = s[o], a[o]
        newrun = np.r_[True, (so[1:] != so[:-1]) | (ao[1:] != ao[:-1])]
        idx = np.arange(len(s)); runstart = np.maximum.accumulate(np.where(newrun, idx, 0))
        rep = np.empty(len(s), np.int32); rep[o] = idx - runstart; rep += (a == fa)
        d["rep"] = rep
        pos = idx - np.maximum.accumulate(np.where(start, idx, 0)); d["pos"] = pos.astype(np.int32)
        # a track that was played before in the session is worth 0 whatever it is
        t = d["following"]; o = np.lexsort((idx, t, s)); same = np.r_[False, (s[o][1:] == s[o][:-1]) & (t[o][1:] == t[o][:-1])]
        again = np.empty(len(s), bool); again[o] = same; again |= t == d["first"]; d["again"] = again
        d["log"] = np.full(len(s), len(parts), np.int32)
        if name == "mixed": d["random"] = np.isin(treatments(W.listeners.user_ids, experiment="MIXED", num_arms=4)[d["user"]], [0, 1])
        elif name.startswith("random"): d["random"] = np.ones(len(s), bool)
        else: d["random"] = np.zeros(len(s), bool)
        parts.append({k: d[k] for k in ("first", "before", "following", "share", "split", "user", "rep", "pos", "again", "random", "log")})
    return NS(**{k: np.concatenate([p[k] for p in parts]) for k in parts[0]})

class Model(nn.Module):
    """mix | prior | dot"""
    def __init__(self, c, counts, seen_q, seen_i):
        super().__init__(); self.c = c; d, da = c.dim, c.dim_a or c.dim
        def tab(n, d, std, seen=None):
            w = torch.randn(n, d) * std
            if seen is not None: w[~seen] = 0
            return nn.Parameter(w)
        self.ao = torch.from_numpy(AO); seen = torch.from_numpy(seen_q | (seen_i > 0))
        self.counts = torch.from_numpy(counts).float()
        tstd = c.init * c.tinit
        if c.head == "dot":
            self.ctx = tab(N, d, c.init, torch.from_numpy(seen_q)); self.t = tab(N, d, c.init, torch.from_numpy(seen_i > 0))
        else:
            if c.alpha != 0: self.t = tab(N, d, tstd, seen)
            if c.alpha != 1: self.a = tab(M, da, c.init)
            if c.asym: self.t2 = tab(N, d, tstd, seen); self.a2 = tab(M, da, c.init)
        if c.alpha == "learned": self.al = nn.Parameter(torch.zeros(()))
        if c.alpha == "count": self.kappa = nn.Parameter(torch.tensor(float(np.log(c.kappa)))); self.al = nn.Parameter(torch.tensor(2.0))
        self.bi = nn.Parameter(torch.zeros(N)); self.bq = nn.Parameter(torch.zeros(N)); self.bu = nn.Parameter(torch.zeros(10000)); self.su = nn.Parameter(torch.zeros(10000))
        self.bia = nn.Parameter(torch.zeros(M))
        self.ls = nn.Parameter(torch.tensor(float(np.log(c.scale)))); self.b = nn.Parameter(torch.tensor(float(c.b0)))
        self.ci = torch.from_numpy(seen_i).float(); self.gam = nn.Parameter(torch.tensor(0.0)); self.app_w = nn.Parameter(torch.tensor(0.0))
    def alpha(self, rows):
        c = self.c
        if c.alpha == "learned": return torch.sigmoid(self.al)
        if c.alpha == "count": n = self.counts[rows]; return (torch.sigmoid(self.al) * n / (n + self.kappa.exp()))[:, None]
        return c.alpha
    def vec(self, rows, t, a, drop=0.0):
        c = self.c; ra = self.ao[rows]
        if c.head == "prior":
            tv = F.embedding(rows, t)
            if drop: tv = tv * (torch.rand(len(rows), 1) >= drop)
            v = F.embedding(ra, a) + tv
            return F.normalize(v, dim=-1)
        al = self.alpha(rows); parts = []
        keep = None
        if drop: keep = (torch.rand(len(rows), 1) >= drop)
        if c.alpha != 0:
            x = F.dropout(F.normalize(F.embedding(rows, t), dim=-1), c.edrop, self.training) * (al ** .5)
            parts.append(x if keep is None else x * keep)
        if c.alpha != 1: parts.append(F.dropout(F.normalize(F.embedding(ra, a), dim=-1), c.edrop, self.training) * ((1 - al) ** .5))
        return torch.cat(parts, -1)
    def q(self, rows):
        if self.c.head == "dot": return F.embedding(rows, self.ctx)
        return self.vec(rows, self.t if self.c.alpha != 0 else None, self.a if self.c.alpha != 1 else None, self.c.drop if self.training else 0)
    def i(self, rows):
        if self.c.head == "dot": return F.embedding(rows, self.t)
        if self.c.asym: return self.vec(rows, self.t2, self.a2, self.c.drop if self.training else 0)
        return self.q(rows)
    def bias_i(self, rows):
        b = self.bi[rows] if "i" in self.c.bias else 0
        if "p" in self.c.bias: b = b + self.app_w * torch.log1p(self.ci[rows])
        return b + self.bia[self.ao[rows]] if "A" in self.c.bias else b

DEF = dict(head="mix", alpha=0.9, dim=64, dim_a=None, init=0.1, tinit=1.0, loss="bce", scale=1.0, b0=None, lr=1e-3, wd=0.0, wd_t=None, epochs=10, batch=4096, bias="", wb=1e-6, drop=0.0, edrop=0.0,
           asym=False, kappa=20.0, rep=False, pairing="first", noagain=False, temp=.15, logq=1.0, smx=0.5, omega=0.0, seed=1, weight=None, patience=2, avg=False, traffic=None, decay=None, popw=0.0,
           final=False, split="time", monitor="vloss", eps=1e-8, beta2=.999, unit_scale=False, minep=0, ext=None)

def train(d, verbose=False, **kw):
    c = NS(**{**DEF, **kw}); torch.manual_seed(c.seed); rng = np.random.default_rng(c.seed)
    prev = d.first if c.pairing in ("first", "both") else d.before
    if c.split == "pair":
        split = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], np.diff(np.round(np.cumsum([0, .8, .1, .1]) * len(prev)).astype(int))))
    else: split = d.split
    tr = split == 0; va = split == 1
    if c.traffic == "random": tr = tr & d.random
    if c.noagain: tr = tr & ~d.again
    if c.final: tr = tr | va
    nxt = d.following
    ip = [prev[tr]]
    P = torch.from_numpy(prev[tr].astype(np.int64)); X = torch.from_numpy(nxt[tr].astype(np.int64)); Y = torch.from_numpy(d.share[tr]); U = torch.from_numpy(d.user[tr].astype(np.int64)); R = torch.from_numpy(d.rep[tr]).float()
    wt = torch.ones(len(Y))
    if c.pairing == "both":   # also the pair (before, next), weighted by the share that the one before was played
        P2 = d.before[tr].astype(np.int64)
        shb = np.r_[1.0, d.share[:-1]]; shb = np.where(d.pos == 0, 1.0, shb)[tr].astype(np.float32)
        k = (d.pos[tr] > 0) & (shb > 0.5)
        P = torch.cat([P, torch.from_numpy(P2[k])]); X = torch.cat([X, X[torch.from_numpy(k)]]); Y = torch.cat([Y, Y[torch.from_numpy(k)]]); U = torch.cat([U, U[torch.from_numpy(k)]]); R = torch.cat([R, R[torch.from_numpy(k)]])
        wt = torch.cat([wt, torch.full((int(k.sum()),), c.decay or .5)])
    if c.weight == "ips":  # tracks that traffic shows more often weigh less, per pair
        n = np.bincount(X.numpy(), minlength=N).astype(np.float64); w = (n[X.numpy()] / n.mean()) ** -c.popw
        wt = wt * torch.from_numpy((w / w.mean()).astype(np.float32))
    cq = np.bincount(P.numpy(), minlength=N); ci = np.bincount(X.numpy(), minlength=N); plays = ci + cq
    mean = float(Y.mean())
    if c.b0 is None: c.b0 = np.log(mean / (1 - mean)) if c.loss in ("bce", "bce+smx") else 0.0
    m = Model(c, cq + ci, cq > 0, ci)
    big = [p for n, p in m.named_parameters() if n in ("t", "a", "t2", "a2", "ctx")]
    bias = [p for n, p in m.named_parameters() if n in ("bi", "bq", "bu", "su", "bia")]
    oth = [p for n, p in m.named_parameters() if n in ("ls", "b", "gam", "al", "kappa", "app_w")]
    tt = [p for n, p in m.named_parameters() if n in ("t", "t2")]; aa = [p for n, p in m.named_parameters() if n in ("a", "a2", "ctx")]
    groups = [dict(params=tt, weight_decay=c.wd if c.wd_t is None else c.wd_t), dict(params=aa, weight_decay=c.wd), dict(params=bias, weight_decay=c.wb, lr=max(c.lr, 3e-3)), dict(params=oth, weight_decay=0.0, lr=max(c.lr, 5e-3))]
    opt = torch.optim.Adam([g for g in groups if g["params"]], lr=c.lr, fused=True, eps=c.eps, betas=(.9, c.beta2))
    logq = torch.from_numpy(np.log(np.maximum(ci, 1) / ci.sum())).float() * c.logq
    def link(p, x, u, r, q=None, i=None):
        s = ((m.q(p) if q is None else q) * (m.i(x) if i is None else i)).sum(-1)
        z = m.ls.exp() * s + m.b if c.loss != "mse0" else s
        if "i" in c.bias or "p" in c.bias: z = z + m.bias_i(x)
        if "q" in c.bias: z = z + m.bq[p]
        if "u" in c.bias: z = z + m.bu[u]
        if "s" in c.bias: z = z * m.su[u].exp()
        return z
    def prob(z, r):
        if c.loss in ("mse", "mse0"): y = z
        else: y = torch.sigmoid(z)
        if c.rep: y = y * torch.exp(-F.softplus(m.gam - 1.3) * r)   # starts at about 0.79 a repeat
        return y
    def lossf(p, x, y, u, r, w):
        q, i = m.q(p), m.i(x); l = 0
        if c.loss in ("mse", "mse0", "smse"): l = (w * (prob(link(p, x, u, r, q, i), r) - y) ** 2).mean()
        if c.loss in ("bce", "bce+smx"):
            z = link(p, x, u, r, q, i)
            if c.rep: pr = prob(z, r).clamp(1e-6, 1 - 1e-6); l = -(w * (y * pr.log() + (1 - y) * (1 - pr).log())).mean()
            else: l = F.binary_cross_entropy_with_logits(z, y, weight=w)
        if c.loss in ("smx", "bce+smx"):
            for a in range(0, len(p), 1024):
                b = slice(a, a + 1024)
                lg = q[b] @ i[b].T / c.temp - logq[x[b]]
                if "i" in c.bias: lg = lg + m.bias_i(x[b])
                same = (x[b][:, None] == x[b]) | (p[b][:, None] == x[b]); same.fill_diagonal_(False)
                lg = lg.masked_fill(same, -torch.inf)
                ww = y[b] * (p[b] != x[b])
                sm = -(lg.log_softmax(1).diagonal() * ww).sum() / ww.sum().clamp(min=1e-9) * (len(p[b]) / len(p))
                l = l + sm * (c.smx if c.loss == "bce+smx" else 1.0)
        return l
    vp, vx, vy, vu, vr, vrand = (torch.from_numpy(np.ascontiguousarray(z[va])) for z in (prev.astype(np.int64), nxt.astype(np.int64), d.share, d.user.astype(np.int64), d.rep.astype(np.float32), d.random))
    @torch.inference_mode()
    def vectors():
        m.eval(); al = torch.arange(N); q, i = m.q(al), m.i(al)
        if c.omega: q = torch.cat([q, torch.ones(N, 1)], 1); i = torch.cat([i, (c.omega * m.bias_i(al) / m.ls.exp())[:, None]], 1)
        m.train(); return q.numpy().copy(), i.numpy().copy()
    nq = np.flatnonzero((vy.numpy() >= .8) & (vp != vx).numpy()); nq = np.random.default_rng(1).permutation(nq)[:2000]
    rr = vrand.numpy(); 
    @torch.inference_mode()
    def evaluate(full=False):
        m.eval()
        ls, mses, n = [], [], 0
        for b in range(0, len(vp), 32768):
            e = slice(b, b + 32768)
            z = link(vp[e], vx[e], vu[e], vr[e]); y = prob(z, vr[e]); mses.append(((y - vy[e]) ** 2).double()); 
            yy = y.clamp(1e-6, 1 - 1e-6); ls.append(-(vy[e] * yy.log() + (1 - vy[e]) * (1 - yy).log()).double())
        ls, mses = torch.cat(ls), torch.cat(mses); out = NS(vbce=float(ls.mean()), vmse=float(mses.mean()), rbce=float(ls[vrand].mean()), rmse=float(mses[vrand].mean()))
        m.train()
        if full or c.monitor in ("ndcg", "v1"):
            qv, iv = vectors(); qv, iv = map(torch.from_numpy, (qv, iv))
            sc = qv[vp[nq]] @ iv.T; tg = sc.gather(1, vx[nq][:, None]); sc.scatter_(1, vp[nq][:, None], -torch.inf)
            rk = ((sc > tg + 1e-6).sum(1) + 1 + (sc >= tg - 1e-6).sum(1)).double() / 2
            out.ndcg = float(torch.where(rk <= 10, 1 / torch.log2(1 + rk), 0.).mean()); out.mrr = float((1 / rk).mean()); out.rec10 = float((rk <= 10).double().mean())
            # off-policy value: share of what random traffic happened to play among the best 1 % of the catalogue
            ri = np.flatnonzero(rr); up, inv = np.unique(vp[ri].numpy(), return_inverse=True)
            smp = torch.from_numpy(np.random.default_rng(2).integers(N, size=4000))
            th = torch.cat([(qv[up[k:k + 2000]] @ iv[smp].T).topk(41, 1).values[:, 40] for k in range(0, len(up), 2000)])
            hit = ((qv[vp[ri]] * iv[vx[ri]]).sum(-1) >= th[inv]).numpy(); out.v1 = float(vy[ri].numpy()[hit].mean()); out.nv1 = int(hit.sum())
        return out
    best, bad, state = None, 0, None; curve = []; snaps = []
    t0 = time.time()
    for ep in range(c.epochs):
        order = torch.randperm(len(P))
        for k in order.split(c.batch):
            loss = lossf(P[k], X[k], Y[k], U[k], R[k], wt[k]); opt.zero_grad(set_to_none=True); loss.backward(); opt.step()
        e = evaluate()
        crit = dict(vloss=lambda: e.vmse if c.loss in ("mse", "mse0") else e.vbce, rbce=lambda: e.rbce, rmse=lambda: e.rmse, ndcg=lambda: -e.ndcg, v1=lambda: -e.v1, last=lambda: -ep)[c.monitor]()
        curve.append((ep, e.vbce, e.vmse, e.rbce, getattr(e, "ndcg", 0), getattr(e, "v1", 0)))
        if verbose: print(curve[-1], f"{time.time()-t0:.1f}s scale {m.ls.exp():.2f} b {m.b:.2f}", flush=True)
        if best is None or crit < best - 1e-6 or ep < c.minep: best, bad, state, bep = crit, 0, {k: v.clone() for k, v in m.state_dict().items()}, ep
        else:
            bad += 1
            if bad > c.patience: break
    m.load_state_dict(state); e = evaluate(True)
    qv, iv = vectors()
    e.epoch = bep + 1; e.secs = time.time() - t0; e.scale = float(m.ls.exp()); e.al = float(torch.sigmoid(m.al)) if hasattr(m, "al") else c.alpha
    return NS(m=m, c=c, q=qv, i=iv, e=e, plays=plays)

def online(r, k=50, hows=(("uniform", 0),), sessions=20000, seed=77, lists=None):
    l = nearest2(r.q, r.i, np.arange(N), k) if lists is None else lists
    return l, {f"{h}{g or ''}": play_policy(W, L(W, l, h, g), sessions=sessions, seed=seed) for h, g in hows}

def go(d, name, hows=(("uniform", 0),), **kw):
    r = train(d, **kw); t = time.time(); l, res = online(r, hows=hows); ds = describe(l, W); e = r.e
    log(f"{name:34s} " + " ".join(f"{k}={fmt(v)}" for k, v in res.items()) + f" | vbce {e.vbce:.4f} vmse {e.vmse:.4f} rbce {e.rbce:.4f} ndcg {e.ndcg:.4f} v1 {e.v1:.3f} | cov10 {ds['cov10']:.3f} pop10 {ds['pop10']:.0f} same10 {ds['same10']:.2f} same50 {ds['same50']:.2f} | ep {e.epoch} {e.secs:.0f}s+{time.time()-t:.0f}s scale {e.scale:.1f} al {e.al}")
    r.lists, r.res = l, res
    return r
