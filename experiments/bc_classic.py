"""Cloning as EDM's yardstick (edm_classic.py): its network, batches and updates, without the density of states.

python launch/collect.py --recipe=classic/cartpole-expert-v0
python launch/train.py --config=experiments/bc_classic.py:cartpole --workdir=runs/bc
python launch/lab.py --imitation edm_classic bc_classic --task=cartpole --out=runs/imitation
"""

from diffrl.algorithms import bc
from diffrl.config import Config, DatasetConfig

TASKS = ("cartpole", "acrobot", "mountaincar-momentum", "mountaincar", "lunarlander")


def get_config(task: str = "cartpole") -> Config:
    """A softmax policy by maximum likelihood; every 20th row of ten demonstrations.

    Raises:
        ValueError: no such task.
    """
    if task not in TASKS:
        raise ValueError(f"no demonstrations of {task!r}; choose one of {', '.join(TASKS)}")
    return Config(
        algorithm=bc.Config(learning_rate=1e-3, hidden_dims=(64, 64), activation="elu", num_updates=10_000, batch_size=32),
        dataset=DatasetConfig(id=f"diffrl/classic/{task}-expert-v0", num_episodes=10, keep_every=20),
        num_seeds=10,
        checkpoint_every=1_000_000,  # the end only
    )
