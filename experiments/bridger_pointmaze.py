r"""BRIDGeR on PointMaze, from any of its sources, small.

    python launch/collect.py --recipe=pointmaze/tworoutes-v0
    python launch/train.py --config=experiments/bridger_pointmaze.py:cvae,tworoutes --workdir=runs/bridger_cvae
    python launch/evaluate.py --workdir=runs/bridger_cvae --act=num_denoising_steps=0,3,5,20

No steps act by the source alone. Sources: gaussian, cvae, bc, gaussian_bc; the script seek needs a goal in the observation, which
these sets do not have. A policy that was cloned before is one too, in chunks of the horizon:

    python launch/train.py --config=experiments/bc_pointmaze.py:tworoutes --config.action_chunk=16 --workdir=runs/bc
    python launch/train.py --config=experiments/bridger_pointmaze.py:bc,tworoutes --config.algorithm.train_source=false \
        --config.init_from.workdir=runs/bc --config.init_from.fields=policy --workdir=runs/bridger_bc

Nobody has published BRIDGeR on mazes, and nothing is tuned here.
"""

from diffrl.algorithms import bridger
from diffrl.config import Config, DatasetConfig


def get_config(cell: str = "cvae,tworoutes") -> Config:
    """`SOURCE,DATASET`; `medium` and its like are the fixed-goal sets. A cloned source is as wide as `bc_pointmaze.py` has it."""
    source, _, name = cell.partition(",")
    cloned = source in ("bc", "gaussian_bc")
    algorithm = bridger.Config(
        source=source,  # pyright: ignore[reportArgumentType]
        learning_rate=1e-3,
        source_learning_rate=1e-3,
        bridge_noise=0.1,
        horizon=16,
        window=1,
        hidden_dims=(32, 64),
        num_blocks=1,
        time_hidden_dim=64,
        source_hidden_dims=(128, 128) if cloned else (128, 128, 128),
        latent_dim=8,
        source_updates=10_000,
        num_updates=20_000,
        batch_size=128,
    )
    name = name if name == "tworoutes" else f"{name}-fixedgoal"
    return Config(
        algorithm=algorithm,
        dataset=DatasetConfig(id=f"diffrl/pointmaze/{name}-v0", standardize_observations=True),
        checkpoint_every=10_000,
    )
