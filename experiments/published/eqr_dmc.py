r"""EQR on the DeepMind Control Suite, online (github.com/boschresearch/dist-mbrl).

    python launch/train.py --config=experiments/published/eqr_dmc.py:pendulum-swingup --workdir=runs/eqr_pendulum
    python launch/evaluate.py --workdir=runs/eqr_pendulum --episodes=10

Published return after 250 episodes of 1,000 steps, mean and standard error of 10 seeds, by the mean of the quantiles (by mean and
one deviation): pendulum-swingup 834 (834), cheetah-run 854 +- 12 (820), walker-run 727 (779), cartpole-swingup_sparse 566 +- 54
(511), reacher-easy 931 (978), finger-spin 462 +- 154 (567), acrobot-swingup 218 +- 19 (229). Their SAC: 631, 552, 569, 694, 825,
828, 168.
Differs: one update of the model a decision on the same batch, where theirs is fitted anew every F steps; critic and policy
learn at states of fresh rollouts in place of a buffer of ten. Action repeat, F and the networks' sizes of the published runs
are not known; `full/TASK` has the code's sizes and the quantiles, draws and rollouts of the released scores. TASK has a
fortieth of their cost: 11 quantiles, 2 draws of 2 actions, batches of 128, a model of 2 x 128 units a member, and 50,000 steps:
14 to 27 minutes for four runs on two cores beside much other work. 10 episodes a run: pendulum-swingup 0, 10, 647 and 45,
cartpole-swingup 802, 818, 843 and 861.
"""

from diffrl.algorithms import eqr
from diffrl.config import Config, OnlineConfig


def get_config(argument: str = "pendulum-swingup") -> Config:
    """`task` as dm_control names it, or `full/task`: 125,000 decisions of two steps, of a task that is not full 25,000."""
    full, _, task = argument.rpartition("/")
    steps = 250_000 if full else 50_000
    algorithm = eqr.Config(initial_entropy_weight=0.1)
    if not full:
        algorithm = eqr.Config(
            initial_entropy_weight=0.1,
            num_quantiles=11,
            num_next=2,
            num_next_actions=2,
            batch_size=128,
            model_hidden_dims=(128, 128),
            model_learning_rate=1e-3,
        )
    return Config(
        algorithm=algorithm,
        online=OnlineConfig(env_id=f"dmc/{task}-v0", action_repeat=2, num_env_steps=steps, warmup_steps=5_000, buffer_size=steps),
        num_seeds=4,
        checkpoint_every=5_000,
    )
