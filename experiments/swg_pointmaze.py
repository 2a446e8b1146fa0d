"""SWG and SWG-R on PointMaze with one fixed goal (`diffrl/pointmaze/{umaze,medium,large}-fixedgoal-v0`).

    python launch/collect.py --recipe=pointmaze/medium-fixedgoal-v0
    python launch/train.py --config=experiments/swg_pointmaze.py:medium --workdir=runs/swg
    python launch/evaluate.py --workdir=runs/swg --step=last --act=guidance_scale=0,1,5,10
    python launch/evaluate.py --workdir=runs/swg --step=last --act=guidance_scale=1 --act=num_candidates=16      # SWG-R

Ablations: --config.sweep="expectile=0.5,0.7,0.9"; --config.algorithm.weighting=exponential with
--config.algorithm.normalize_weights=true; --act=sampler=ddim,heun,dpm_solver.
"""

from diffrl.algorithms import swg
from diffrl.config import Config, DatasetConfig


def get_config(maze: str = "medium") -> Config:
    """Small networks, and IQL's discount, rate and expectile for a short budget."""
    return Config(
        algorithm=swg.Config(
            learning_rate=1e-3,
            discount=0.98,
            tau=0.02,
            expectile=0.9,
            hidden_dim=64,
            num_blocks=3,
            time_dim=64,
            dropout_rate=0.0,
            ema_decay=0.998,
            normalize_value_input=False,
            critic_hidden_dims=(128, 128),
            critic_updates=30_000,
            diffusion_updates=15_000,
            diffusion_batch_size=256,
            cosine_horizon=15_000,
        ),
        dataset=DatasetConfig(id=f"diffrl/pointmaze/{maze}-fixedgoal-v0", standardize_observations=True),
        checkpoint_every=1_000_000,
    )
