"""SWG on locomotion at its published size (Tagle et al. 2025; the released configuration): 1.0 M + 1.0 M updates.

    python launch/train.py --config=experiments/swg_mujoco.py:hopper-medium --config.dataset.download=true \\
        --config.num_seeds=5 --workdir=runs/swg_hopper
    python launch/evaluate.py --workdir=runs/swg_hopper --step=last --act=guidance_scale=1,5,10,15,20,25,30 --act=noise_scale=0
    python launch/evaluate.py --workdir=runs/swg_hopper --step=last --act=num_candidates=16 --act=guidance_scale=0,1,5    # SWG-R

The first evaluation is the released one: deterministic, the guidance scale swept. Its sampler is --act=sampler=ddpm_boxed.
The paper's table could not be read; no score is quoted. Time: launch/benchmark.py --config=experiments/swg_mujoco.py
measures every stage on your machine.
"""

from diffrl.algorithms import swg
from diffrl.config import Config, DatasetConfig


def get_config(dataset: str = "hopper-medium") -> Config:
    """`<task>-<quality>`: expectile 0.7, T = 15, dropout 0.1, rewards scaled by the range of returns, raw observations."""
    task, _, quality = dataset.partition("-")
    return Config(
        algorithm=swg.Config(),
        dataset=DatasetConfig(id=f"mujoco/{task}/{quality}-v0", reward_scale="return_range"),
        num_seeds=5,
        updates_per_chunk=5_000,
        checkpoint_every=100_000,
    )
