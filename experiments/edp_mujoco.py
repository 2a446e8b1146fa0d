r"""EDP with TD3's improvement on locomotion at its published size (Kang et al. 2023): 2 M updates, 256 × 3, 1,000 levels.

    python launch/train.py --config=experiments/edp_mujoco.py:halfcheetah-medium --config.dataset.download=true \
        --config.num_seeds=5 --workdir=runs/edp_halfcheetah

The paper's setting: α = 2 and one rate for all nine, DPM-Solver with 15 evaluations in targets and when acting, 50
candidates; the bound on gradients is Diffusion-QL's of the dataset. The released code's default of 100 levels, all of them
visited, is --config.algorithm.num_levels=100, .sampler=ddpm and .num_denoising_steps=100, and the same of .act. The paper's
table could not be read, so no score is quoted; it reports the last ten evaluations' mean and the best, of 10 episodes each.

The code clips the data's actions to ±0.999 and bounds the gradient of each critic by itself, here that of both together.
Minari's sets are other data than D4RL's -v2.
"""

from diffrl.algorithms import edp
from diffrl.config import Config, DatasetConfig

# Of Diffusion-QL: all that the code takes from its table.
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
    """One of the nine locomotion datasets.

    Raises:
        ValueError: there are no settings for this dataset.
    """
    if dataset not in MAX_GRADIENT_NORM:
        raise ValueError(f"no settings are published for {dataset!r}; choose one of {', '.join(MAX_GRADIENT_NORM)}")
    task, quality = dataset.split("-", 1)
    return Config(
        algorithm=edp.Config(form="td3", max_gradient_norm=MAX_GRADIENT_NORM[dataset]),
        dataset=DatasetConfig(id=f"mujoco/{task}/{quality}-v0"),
        num_seeds=5,
        updates_per_chunk=5_000,
        checkpoint_every=100_000,
    )
