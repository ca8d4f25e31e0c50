from real import *
import pandas as pd
d = load("polimi"); plays = np.load(S/"polimi.npz")["plays"]
q = d.test; k = (q.d == 1) & (q.p != q.x); p, x = q.p[k], q.x[k]
r = {n: pd.read_parquet(S/{"convex":"f_polimi_convex","track":"f_polimi_track2"}[n]/"test_queries.parquet") for n in ("convex", "track")}
assert all(len(v) == len(p) for v in r.values())
for label, m in (("following cold (<3 plays)", plays[x] < 3), ("previous cold (<3 plays)", plays[p] < 3), ("either cold", (plays[x] < 3) | (plays[p] < 3)), ("unseen following", plays[x] == 0), ("neither", (plays[x] >= 3) & (plays[p] >= 3))):
    print(label, int(m.sum()))
    for n, v in r.items(): print("   ", n, {c: round(float(v[c][m].mean()), 4) for c in ("recall_at_10", "recall_at_50", "ndcg_at_10", "mrr")}, "median rank", float(v["rank"][m].median()))
    dd = (r["convex"]["mrr"] - r["track"]["mrr"])[m]; d10 = (r["convex"]["recall_at_50"] - r["track"]["recall_at_50"])[m]
    print("    difference mrr %.4f ± %.4f, recall50 %.4f ± %.4f" % (dd.mean(), 1.96*dd.std()/len(dd)**.5, d10.mean(), 1.96*d10.std()/len(d10)**.5))
