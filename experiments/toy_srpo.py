"""SRPO's picture of modes (its figure 3): a policy is asked for points near a target, all β at once.

    python launch/train.py --config=experiments/toy_srpo.py:8gaussians --workdir=runs/toy/8gaussians/srpo
    python launch/lab.py runs/toy/8gaussians/srpo --out=runs/toy/8gaussians/modes

Q(x) = -‖x - target‖². A large β goes to the target, a small one to where the data are. The surrogate of eq. 14 with the "score"
weight, whose small diffusion times see the modes apart (the paper's figure uses the score itself, eq. 10). Two cores beside other
trainings: 13 min for five β; the picture is in docs/lab.md.
"""

from diffrl.algorithms import srpo
from diffrl.config import Config, DatasetConfig


def get_config(toy: str = "8gaussians") -> Config:
    """β over two decades."""
    return Config(
        algorithm=srpo.Config(
            learning_rate=1e-3,
            weighting="score",
            behavior_hidden_dim=64,
            dropout_rate=0.0,
            critic_hidden_dims=(128, 128),
            policy_hidden_dims=(128, 128),
            behavior_updates=10_000,
            critic_updates=5_000,
            policy_updates=5_000,
            behavior_batch_size=512,
        ),
        dataset=DatasetConfig(id=f"toy/{toy}@targets"),
        num_seeds=1,
        sweep="beta=10,1,0.3,0.1,0.01",
        checkpoint_every=1_000_000,
    )
