"""Cache yes and polimi through PairDataModule, for each pairing."""
import sys; sys.path.insert(0,'scratch')
from common import *
for name in ("yes","polimi"):
    with initialize_config_dir(str(ROOT/"conf"), version_base="1.3"):
        cfg = compose("train", [f"datamodule={name}", "run_dir=scratch/tmp", "datamodule.pairing=window", "datamodule.window=5", f"datamodule.path=/work/shared/data/{'yes-small' if name=='yes' else 'polimi-2018'}", "datamodule.rejected_path=scratch/rej.jsonl"])
        dm = instantiate(cfg.datamodule, _convert_="all")
    dm.prepare_data(); dm.setup(); print(dm.summary())
    out = dict(artist_of=dm.catalog.artist_of, plays=dm.vocabulary.plays)
    # distance of a pair within its session: pairs are ordered by place, earlier; earlier ascending
    for part, p in dm.pairs.items():
        s, x = p.session, p.following
        out |= {f"{part}_session": p.session, f"{part}_previous": p.previous, f"{part}_following": p.following, f"{part}_share": p.played_ratio}
    np.savez(S/f"{name}.npz", **out)
