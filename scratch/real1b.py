from real import *
for name in ("yes", "polimi"):
    go(name, "contextual lr5e-3 dim64", head="dot", dim=64, init=.03, lr=5e-3, patience=2)
    if name == "yes": go(name, "R asym bias p", alpha=.5, dim=64, lr=5e-3, patience=2, asym=True, bias="p")
