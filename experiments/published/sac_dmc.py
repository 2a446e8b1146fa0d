r"""SAC on the DeepMind Control Suite, online, beside TD-MPC2's SAC curves (github.com/nicklashansen/tdmpc2, results/sac).

    python launch/train.py --config=experiments/published/sac_dmc.py:cartpole-swingup --workdir=runs/sac_cartpole
    python launch/evaluate.py --workdir=runs/sac_cartpole --episodes=10

Published return at 100,000 environment steps with action repeat 2, mean (least to most) of 3 seeds: cartpole-swingup 835 (826 to
845), pendulum-swingup 96 (0 to 188), walker-walk 708 (510 to 918), cheetah-run 310 (237 to 362), finger-spin 762, reacher-easy
540.
Differs: those curves are most likely of denisyarats/pytorch_sac: 1,024 x 2, batches of 1,024, 1e-4, targets moved at every second
update, log sigma within [-5, 2] by a tanh. `full/TASK` has these sizes and this rate; TASK has a fortieth of their cost, 256 x 2,
batches of 256 and 3e-4. In both targets move at every update, by 0.0025 and 0.005, and log sigma is clipped to [-10, 2].
"""

from diffrl.algorithms import sac
from diffrl.config import Config, OnlineConfig


def get_config(argument: str = "cartpole-swingup") -> Config:
    """`task` as dm_control names it, or `full/task`: 50,000 decisions of two steps, an update after each of the last 47,500."""
    full, _, task = argument.rpartition("/")
    width, rate, tau = (1_024, 1e-4, 0.0025) if full else (256, 3e-4, 0.005)
    return Config(
        algorithm=sac.Config(
            hidden_dims=(width, width), batch_size=width, learning_rate=rate, tau=tau, initial_entropy_weight=0.1
        ),
        online=OnlineConfig(
            env_id=f"dmc/{task}-v0", action_repeat=2, num_env_steps=100_000, warmup_steps=5_000, buffer_size=100_000
        ),
        num_seeds=4,
        checkpoint_every=5_000,
    )
