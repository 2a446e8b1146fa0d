r"""ReBRAC on OGBench's single tasks (Park et al. 2025, tables 2 and 5): 1 M updates of 512 x 4.

    python launch/collect.py --recipe=ogbench/cube-single-play-v0
    python launch/train.py --config=experiments/published/rebrac_ogbench.py:cube-single-play --workdir=runs/rebrac_cube
    python launch/evaluate.py --workdir=runs/rebrac_cube --episodes=50

Published success in %, 8 seeds x 50 episodes, the mean of the evaluations at 800,000, 900,000 and 1 M updates ± std over seeds,
of the default task (and of all five): cube-single 92 ± 4 (91), cube-double 7 ± 3 (12), scene 50 ± 13 (41), puzzle-3x3 2 ± 1
(21), puzzle-4x4 10 ± 3 (14); of all five alone: antmaze-large 81, antmaze-giant 26, humanoidmaze-medium 22, humanoidmaze-large
2.
The mazes' sets come from trained agents: download antmaze-large-navigate-v0.npz and its like from the benchmark into this
folder.
Differs: what fql_ogbench.py says; the code takes the action after a trajectory's end from the next trajectory, which its
authors warn of; policy and targets follow networks after their steps, where the code takes them before.
"""

from diffrl.algorithms import rebrac
from diffrl.config import Config, DatasetConfig
from diffrl.envs.ogbench.tasks import default_task

# β_1 of the policy, β_2 of the critics, and γ.
SETTINGS = {
    "antmaze-large-navigate": (0.003, 0.01, 0.99),
    "antmaze-giant-navigate": (0.003, 0.01, 0.995),
    "humanoidmaze-medium-navigate": (0.01, 0.01, 0.995),
    "humanoidmaze-large-navigate": (0.01, 0.01, 0.995),
    "cube-single-play": (1.0, 0.0, 0.99),
    "cube-double-play": (0.1, 0.0, 0.99),
    "scene-play": (0.1, 0.01, 0.99),
    "puzzle-3x3-play": (0.3, 0.01, 0.99),
    "puzzle-4x4-play": (0.3, 0.01, 0.99),
}


def get_config(name: str = "cube-single-play") -> Config:
    """A dataset of `SETTINGS`, with its environment's default task.

    Raises:
        ValueError: no settings are published for this dataset.
    """
    if name not in SETTINGS:
        raise ValueError(f"no settings are published for {name!r}; choose one of {', '.join(SETTINGS)}")
    policy_penalty, critic_penalty, discount = SETTINGS[name]
    made = "maze" not in name
    return Config(
        algorithm=rebrac.Config(
            policy_learning_rate=3e-4,
            critic_learning_rate=3e-4,
            discount=discount,
            policy_penalty=policy_penalty,
            critic_penalty=critic_penalty,
            networks="ogbench",
            hidden_dims=(512, 512, 512, 512),
            critic_hidden_dims=(512, 512, 512, 512),
            batch_size=256,
        ),
        dataset=DatasetConfig(
            id=f"diffrl/ogbench/{name}-v0" if made else f"{name}-v0.npz",
            task=str(default_task(name.rsplit("-", 1)[0])),  # pyright: ignore[reportArgumentType]
            ogbench="1.1",
        ),
        num_seeds=8,
        updates_per_chunk=1_000,
        checkpoint_every=100_000,
    )
