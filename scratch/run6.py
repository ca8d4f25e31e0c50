from fast import *
d = data("mixed")
C = dict(dim=64, alpha=.5, lr=5e-3, batch=4096, bias="u", epochs=6, patience=1, edrop=.2, wb=1.6e-7)
log("# run6: dims at alpha .5")
go(d, "dim64 edrop .2 a.5 lr5e-3 b4096", hows=(("uniform", 0), ("ranked", 3)), **C)
go(d, "dim32 a.5 lr5e-3 b4096", hows=(("uniform", 0), ("ranked", 3)), **{**C, "dim": 32, "edrop": 0.})
