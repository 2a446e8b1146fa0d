r"""MAAC on the DeepMind Control Suite, online, beside SAC of sac_dmc.py.

    python launch/train.py --config=experiments/published/maac_dmc.py:cartpole-swingup --workdir=runs/maac_cartpole
    python launch/evaluate.py --workdir=runs/maac_cartpole --episodes=10

Published are curves alone, of MuJoCo's locomotion and without code (Clavera et al. 2020); to be read against are TD-MPC2's SAC
curves at 100,000 environment steps with action repeat 2, 3 seeds: cartpole-swingup 835, pendulum-swingup 96, walker-walk 708,
cheetah-run 310.
Differs: sizes are ours, for no published ones could be verified. One update of model, critics and policy a decision; the model
learns from the same batch and critics from an imagined step of each row, where the paper fits the model in turns and keeps a
buffer of imagined ones. `full/TASK` has a model of 4 x 200 units a member and 100,000 steps, TASK of 2 x 128, which is a fifth of
its cost, and 50,000: 62 minutes for four runs on two cores beside much other work. pendulum-swingup, 10 episodes a run: 0, 0, 212
and 12.
"""

from diffrl.algorithms import maac
from diffrl.config import Config, OnlineConfig


def get_config(argument: str = "cartpole-swingup") -> Config:
    """`task` as dm_control names it, or `full/task`: decisions of two steps, an update after each but the first 2,500."""
    full, _, task = argument.rpartition("/")
    steps = 100_000 if full else 50_000
    return Config(
        algorithm=maac.Config(
            model_hidden_dims=(200, 200, 200, 200) if full else (128, 128), num_elites=4, initial_entropy_weight=0.1
        ),
        online=OnlineConfig(env_id=f"dmc/{task}-v0", action_repeat=2, num_env_steps=steps, warmup_steps=5_000, buffer_size=steps),
        num_seeds=4,
        checkpoint_every=5_000,
    )
