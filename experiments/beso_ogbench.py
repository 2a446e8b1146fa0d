"""BESO on OGBench's goal-conditioned sets, with the network of its authors' Block-Push.

    python launch/collect.py --recipe=ogbench/pointmaze-medium-navigate-v0
    python launch/train.py --config=experiments/beso_ogbench.py:small/pointmaze-medium-navigate --workdir=runs/beso
    python launch/evaluate.py --workdir=runs/beso --episodes=50

Nobody has published BESO on these sets. The yardstick, goal-conditioned cloning (Park et al. 2025, arXiv 2410.20092, table 2),
has 9 ± 6 % on pointmaze-medium-navigate and 29 ± 6 % on large: five goals, 50 episodes each, after 1 M updates.
`small/` is a fiftieth of the cost of an update, for machines without an accelerator.
"""

from diffrl.algorithms import beso
from diffrl.config import Config, DatasetConfig


def get_config(argument: str = "small/pointmaze-medium-navigate") -> Config:
    """A set of states by its name in OGBench; goals are states that its trajectories come to."""
    small, _, name = argument.rpartition("/")
    algorithm = beso.Config(goal_dropout=0.1, num_updates=100_000, act=beso.Act(solver="ddim", sigma_min=0.1, guidance_scale=1.0))
    if small:
        algorithm = beso.Config(
            learning_rate=1e-3,
            goal_dropout=0.1,
            hidden_dim=64,
            num_layers=2,
            num_heads=4,
            batch_size=256,
            num_updates=20_000,
        )
    return Config(
        algorithm=algorithm,
        dataset=DatasetConfig(id=f"diffrl/ogbench/{name}-v0", task="goals", ogbench="1.1", standardize_observations=True),
        num_seeds=4,
        checkpoint_every=5_000,
    )
