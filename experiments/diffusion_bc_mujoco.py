r"""Diffusion behaviour cloning on locomotion: SRPO's first stage at its published size, acting by 15 denoising steps.

    python launch/train.py --config=experiments/diffusion_bc_mujoco.py:halfcheetah-medium --config.dataset.download=true \
        --workdir=runs/diffusion_bc
    python launch/evaluate.py --workdir=runs/diffusion_bc --step=last --act=num_denoising_steps=5,15
"""

from diffrl.algorithms import diffusion_bc
from diffrl.config import Config, DatasetConfig


def get_config(dataset: str = "halfcheetah-medium") -> Config:
    """`task-quality`, as in halfcheetah-medium."""
    task, _, quality = dataset.partition("-")
    return Config(
        algorithm=diffusion_bc.Config(),
        dataset=DatasetConfig(id=f"mujoco/{task}/{quality}-v0"),
        updates_per_chunk=5_000,
        checkpoint_every=100_000,
    )
