"""QSM on the DeepMind Control Suite, by interaction (Psenka et al. 2024).

    python launch/train.py --config=experiments/qsm_dmc.py:cartpole-swingup --workdir=runs/qsm
    python launch/train.py --config=experiments/qsm_dmc.py:small/walker-walk --workdir=runs/qsm_walker
    python launch/evaluate.py --workdir=runs/qsm --episodes=5

As released: two layers of 512, batches of 256, M = 50, T = 5, a million steps. The paper prints curves and no table; any working
method of SAC's class is said to pass 840 on cartpole-swingup and 930 on walker-walk after a million steps. `small/` is for two
cores: two layers of 128, batches of 128, 60,000 steps and M = 5, which on cartpole-swingup was at least as good. Four runs there:
594 on cartpole-swingup in 17 minutes, 527 on walker-walk in 52, beside other trainings (docs/online.md).
"""

from diffrl.algorithms import qsm
from diffrl.config import Config, OnlineConfig


def get_config(argument: str = "small/cartpole-swingup") -> Config:
    """`task` as dm_control names it, or `small/task`."""
    small, _, task = argument.rpartition("/")
    if not small:
        algorithm = qsm.Config(q_gain=120.0 if task in ("quadruped-walk", "humanoid-walk") else 50.0)
        return Config(algorithm=algorithm, online=OnlineConfig(env_id=f"dmc/{task}-v0"), checkpoint_every=50_000)
    algorithm = qsm.Config(q_gain=5.0, hidden_dims=(128, 128), critic_hidden_dims=(128, 128), batch_size=128)
    backend = "mjx" if task.startswith("cartpole") else "auto"
    online = OnlineConfig(env_id=f"dmc/{task}-v0", backend=backend, num_env_steps=60_000, buffer_size=60_000)
    return Config(algorithm=algorithm, online=online, checkpoint_every=10_000)
