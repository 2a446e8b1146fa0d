"""IDQL and IFQL on PointMaze with one fixed goal (`diffrl/pointmaze/{umaze,medium,large}-fixedgoal-v0`).

python launch/collect.py --recipe=pointmaze/medium-fixedgoal-v0
python launch/train.py --config=experiments/idql_pointmaze.py:medium --workdir=runs/idql
python launch/train.py --config=experiments/idql_pointmaze.py:flow/medium --workdir=runs/ifql
python launch/evaluate.py --workdir=runs/idql --step=last --act=num_candidates=1,8,32,128
python launch/evaluate.py --workdir=runs/idql --step=last --act=select=implicit
"""

import dataclasses

from diffrl.algorithms import idql
from diffrl.config import Config, DatasetConfig


def get_config(maze: str = "medium") -> Config:
    """Small networks, and IQL's discount, rate and expectile for a short budget; "flow/" before the maze for IFQL."""
    clone, _, maze = maze.rpartition("/")
    if clone not in ("", "flow"):
        raise ValueError(f"{clone!r} is no clone here: flow/MAZE, or MAZE for a diffusion model")
    algorithm = idql.Config(
        learning_rate=1e-3,
        discount=0.98,
        tau=0.02,
        expectile=0.9,
        ema_decay=0.998,
        hidden_dim=64,
        num_blocks=2,
        dropout_rate=0.0,
        critic_hidden_dims=(128, 128),
        behavior_updates=8_000,
        critic_updates=30_000,
        behavior_batch_size=256,
        act=idql.Act(num_candidates=32),
    )
    if clone == "flow":
        algorithm = dataclasses.replace(
            algorithm, clone="flow", flow_hidden_dims=(128, 128), act=idql.Act(num_candidates=32, num_denoising_steps=10)
        )
    return Config(
        algorithm=algorithm,
        dataset=DatasetConfig(id=f"diffrl/pointmaze/{maze}-fixedgoal-v0", standardize_observations=True),
        checkpoint_every=1_000_000,
    )
