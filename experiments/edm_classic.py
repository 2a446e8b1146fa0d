"""EDM on a handful of sub-sampled demonstrations of gymnasium's small tasks (Jarrett et al. 2020, arXiv 2006.14154).

python launch/collect.py --recipe=classic/cartpole-expert-v0
python launch/train.py --config=experiments/edm_classic.py:cartpole --workdir=runs/edm
python launch/lab.py --imitation edm_classic bc_classic --task=cartpole --out=runs/imitation

Published experts, mean return: CartPole 500, Acrobot -85.1, LunarLander 269, MountainCar -111.9; those of these data are
closed-form controllers (`collection/classic.py`). The paper's own tables were not to be had, so no score of EDM's is expected.
"""

from diffrl.algorithms import edm
from diffrl.config import Config, DatasetConfig

TASKS = ("cartpole", "acrobot", "mountaincar-momentum", "mountaincar", "lunarlander")


def get_config(task: str = "cartpole") -> Config:
    """The authors' settings; every 20th row of ten demonstrations.

    Raises:
        ValueError: no such task.
    """
    if task not in TASKS:
        raise ValueError(f"no demonstrations of {task!r}; choose one of {', '.join(TASKS)}")
    return Config(
        algorithm=edm.Config(),
        dataset=DatasetConfig(id=f"diffrl/classic/{task}-expert-v0", num_episodes=10, keep_every=20),
        num_seeds=10,
        checkpoint_every=1_000_000,  # the end only
    )
