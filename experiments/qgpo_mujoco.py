r"""QGPO on locomotion at its published size (Lu et al. 2023): 600,000 + 500,000 + 1,000,000 updates, K = 16.

    python launch/train.py --config=experiments/qgpo_mujoco.py:halfcheetah-medium --config.dataset.download=true \
        --config.num_seeds=5 --workdir=runs/qgpo
    python launch/evaluate.py --workdir=runs/qgpo --step=last --act=guidance_scale=0,1,2,3,5,8,10

Published on D4RL -v2, 5 seeds, last checkpoint, 10 episodes a seed, the guidance scale of each dataset chosen on these very
returns: halfcheetah, hopper, walker2d medium-expert 93.5, 108.0, 110.7; medium 54.1, 98.0, 86.0; medium-replay 47.6, 96.9, 84.4.
Differs: Minari's sets are other data, for which the scales below were not chosen; f is trained after Q and on the final Q alone,
where the code trains both side by side; support actions are clipped. They take 4 · rows · 16 · action size bytes for each seed:
--config.num_seeds=1 where that is too much.
"""

from diffrl.algorithms import qgpo
from diffrl.config import Config, DatasetConfig

GUIDANCE_SCALE = {
    "halfcheetah-medium-expert": 3.0,
    "halfcheetah-medium": 10.0,
    "halfcheetah-medium-replay": 8.0,
    "hopper-medium-expert": 2.0,
    "hopper-medium": 8.0,
    "hopper-medium-replay": 3.0,
    "walker2d-medium-expert": 5.0,
    "walker2d-medium": 10.0,
    "walker2d-medium-replay": 5.0,
}


def get_config(dataset: str = "halfcheetah-medium") -> Config:
    """One of the nine locomotion datasets of the paper's table.

    Raises:
        ValueError: the paper has no guidance scale for this dataset.
    """
    if dataset not in GUIDANCE_SCALE:
        raise ValueError(f"no guidance scale is published for {dataset!r}; choose one of {', '.join(GUIDANCE_SCALE)}")
    task, quality = dataset.split("-", 1)
    return Config(
        algorithm=qgpo.Config(act=qgpo.Act(guidance_scale=GUIDANCE_SCALE[dataset])),
        dataset=DatasetConfig(id=f"mujoco/{task}/{quality}-v0", reward_scale="return_range"),
        updates_per_chunk=5_000,
        checkpoint_every=100_000,
    )
