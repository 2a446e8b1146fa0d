"""SAC on the DeepMind Control Suite, by interaction: the yardstick of `qsm_dmc.py`, at the same sizes and budgets.

python launch/train.py --config=experiments/sac_dmc.py:cartpole-swingup --workdir=runs/sac
python launch/train.py --config=experiments/sac_dmc.py:small/walker-walk --workdir=runs/sac_walker
"""

from diffrl.algorithms import sac
from diffrl.config import Config, OnlineConfig


def get_config(argument: str = "small/cartpole-swingup") -> Config:
    """`task` as dm_control names it, or `small/task`."""
    small, _, task = argument.rpartition("/")
    if not small:
        return Config(
            algorithm=sac.Config(initial_entropy_weight=0.1),
            online=OnlineConfig(env_id=f"dmc/{task}-v0"),
            checkpoint_every=50_000,
        )
    algorithm = sac.Config(initial_entropy_weight=0.1, hidden_dims=(128, 128), batch_size=128)
    backend = "mjx" if task.startswith("cartpole") else "auto"
    online = OnlineConfig(env_id=f"dmc/{task}-v0", backend=backend, num_env_steps=60_000, buffer_size=60_000)
    return Config(algorithm=algorithm, online=online, checkpoint_every=10_000)
