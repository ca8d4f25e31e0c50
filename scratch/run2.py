from fast import *
d = data("mixed")
log("# run2: around B = bce, mix a=.5, dim16, lr5e-3, bias iqu (14.02)")
B = dict(dim=16, alpha=.5, lr=5e-3, bias="iqu", epochs=12)
V = {
 "B bias u": dict(bias="u"), "B bias iu": dict(bias="iu"), "B bias q": dict(bias="q"),
 "B bias ius (2PL)": dict(bias="ius"), "B bias iqus (2PL)": dict(bias="iqus"),
 "B bias iu rep": dict(bias="iu", rep=True), "B bias iu noagain": dict(bias="iu", noagain=True),
 "B bias iu rep noagain": dict(bias="iu", rep=True, noagain=True),
 "B bias iu a=.25": dict(bias="iu", alpha=.25), "B bias iu a=.75": dict(bias="iu", alpha=.75), "B bias iu a=.9": dict(bias="iu", alpha=.9),
 "B bias iu learned": dict(bias="iu", alpha="learned"), "B bias iu count": dict(bias="iu", alpha="count"),
 "B bias iu prior": dict(bias="iu", head="prior", tinit=.3), "B bias iu artist": dict(bias="iu", alpha=0),
 "B bias iu dim8": dict(bias="iu", dim=8), "B bias iu dim32": dict(bias="iu", dim=32), "B bias iu dim32 lr2e-3": dict(bias="iu", dim=32, lr=2e-3), "B bias iu dim64 lr1e-3": dict(bias="iu", dim=64, lr=1e-3),
}
only = sys.argv[1:]
for k, v in V.items():
    if not only or any(o in k for o in only): go(d, k, **{**B, **v})
