from common import *
w = world()
t=time.time()
E = w.embeddings
print("worlds", time.time()-t)
tn = nearest2(E, E, np.arange(len(E)), 50); print("true lists", time.time()-t)
np.save(S/"true_lists.npy", tn)
log("# Yardsticks, in process, 20k sessions over all listeners, seed 77; uniform pick among 50 unless told")
for name, p in dict(random=Random(world=w), sticky=StickyArtist(world=w), popular=Popular(num_tracks=100, world=w)).items():
    log(f"{name} {fmt(play_policy(w,p))}")
for how in ("uniform","uniform_norepeat","weighted","ranked"):
    for gap in (0,1,3,10):
        if how=="uniform" and gap: continue
        log(f"true_neighbours {how} gap={gap} {fmt(play_policy(w, L(w, tn, how, gap)))} {describe(tn,w)}")
U = E/np.linalg.norm(E,axis=1,keepdims=True)
D = E[:, :-1]; A=E[:, -1:]
for name,(q,i) in dict(true_cosine=(U,U), direction_only=(D,D)).items():
    l = nearest2(q,i,np.arange(len(E)),50)
    log(f"{name} {fmt(play_policy(w, L(w,l)))} {describe(l,w)}")
print(time.time()-t)
