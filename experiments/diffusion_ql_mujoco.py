r"""Diffusion-QL on locomotion at its published size (Wang, Hunt, Zhou 2023; the authors' code): 2 M updates, 256 × 3.

    python launch/train.py --config=experiments/diffusion_ql_mujoco.py:halfcheetah-medium --config.dataset.download=true \
        --config.num_seeds=5 --workdir=runs/dql_halfcheetah

On D4RL -v2: the paper's table 1, of each seed's best evaluation, and another implementation's last checkpoint over five seeds
(FlowRL), both with 50 candidates.

                    halfcheetah           hopper                walker2d
    medium          51.1 · 50.7 ± 0.7     90.5 · 80.4 ± 15.7    87.0 · 86.7 ± 1.6
    medium-replay   47.8 · 47.4 ± 0.6     101.3 · 101.0 ± 0.3   95.5 · 95.7 ± 1.4
    medium-expert   96.8 · 96.0 ± 0.7     111.1 · 106.9 ± 11.7  110.1 · 108.7 ± 0.2

Rate 3e-4, η = 1, rewards and observations as they are; only the bound on gradients differs between the nine. The authors'
cosine of the rates is advanced so seldom that they stay. Minari's sets of the same names were made by other policies: do not
expect these scores there. Evaluate the last checkpoint: --step=last --episodes=10.
"""

from diffrl.algorithms import diffusion_ql
from diffrl.config import Config, DatasetConfig

MAX_GRADIENT_NORM = {
    "halfcheetah-medium": 9.0,
    "hopper-medium": 9.0,
    "walker2d-medium": 1.0,
    "halfcheetah-medium-replay": 2.0,
    "hopper-medium-replay": 4.0,
    "walker2d-medium-replay": 4.0,
    "halfcheetah-medium-expert": 7.0,
    "hopper-medium-expert": 5.0,
    "walker2d-medium-expert": 5.0,
}


def get_config(dataset: str = "halfcheetah-medium") -> Config:
    """One of the nine locomotion datasets of the authors' table.

    Raises:
        ValueError: the authors have no settings for this dataset.
    """
    if dataset not in MAX_GRADIENT_NORM:
        raise ValueError(f"no settings are published for {dataset!r}; choose one of {', '.join(MAX_GRADIENT_NORM)}")
    task, quality = dataset.split("-", 1)
    return Config(
        algorithm=diffusion_ql.Config(max_gradient_norm=MAX_GRADIENT_NORM[dataset]),
        dataset=DatasetConfig(id=f"mujoco/{task}/{quality}-v0"),
        num_seeds=5,
        updates_per_chunk=5_000,
        checkpoint_every=100_000,
    )
