from fast import *
d = data("mixed")
log("# run3: around C = bce, mix a=.5, dim16, lr1e-2, batch 8192, listener bias only")
C = dict(dim=16, alpha=.5, lr=1e-2, batch=8192, bias="u", epochs=8, patience=1)
V = {
 "C": {}, "C a=.25": dict(alpha=.25), "C prior": dict(head="prior", tinit=.3), "C dim8": dict(dim=8), "C dim32": dict(dim=32),
 "C rep": dict(rep=True), "C noagain": dict(noagain=True), "C rep noagain": dict(rep=True, noagain=True),
 "C count": dict(alpha="count"), "C learned": dict(alpha="learned"), "C a=.75": dict(alpha=.75),
 "C artist": dict(alpha=0), "C track": dict(alpha=1),
}
only = sys.argv[1:]
for k, v in V.items():
    if not only or any(o in k for o in only): go(d, k, **{**C, **v})
