"""DIAR, and LDCQ, on PointMaze with one fixed goal, small.

    python launch/collect.py --recipe=pointmaze/medium-fixedgoal-v0
    python launch/train.py --config=experiments/diar_pointmaze.py:diar,medium --workdir=runs/diar
    python launch/train.py --config=experiments/diar_pointmaze.py:ldcq,medium --workdir=runs/ldcq
    python launch/evaluate.py --workdir=runs/diar --act=reconsider=constrained,resample,never

Time, one seed, on two cores that a dozen processes shared: vae 99 s, behavior 23 s, critic 67 s, compiling 76 s.
Score on medium, collection seed 0, last checkpoint, one seed x 64 episodes (JAX maze): 7.0, success 75 %; with
`act.reconsider=resample` 6.8, 72 %; with never 5.2, 70 %. The data's mean return is 2.9, cloning (bc_pointmaze.py) has -1.3 and
11 %, IQL 16.4 and 100 %.
Nobody has published DIAR on these sets, and nothing is tuned here.
"""

from diffrl.algorithms import diar
from diffrl.config import Config, DatasetConfig


def get_config(cell: str = "diar,medium") -> Config:
    """`FORM,MAZE`: skills of ten steps."""
    form, _, maze = cell.partition(",")
    algorithm = diar.Config(
        form=form,  # pyright: ignore[reportArgumentType]
        vae_learning_rate=1e-3,
        behavior_learning_rate=1e-3,
        critic_learning_rate=1e-3,
        discount=0.98,
        tau=0.02,
        horizon=10,
        latent_dim=8,
        encoder_hidden_dims=(),
        behavior_hidden_dims=(64, 32),
        num_denoising_steps=5,
        num_polish_steps=1,
        num_latents=8,
        critic_hidden_dims=(64, 64),
        latent_hidden_dims=(64, 64),
        vae_updates=5_000,
        behavior_updates=8_000,
        critic_updates=10_000,
        act=diar.Act(num_candidates=32, reconsider="never" if form == "ldcq" else "constrained", execution_steps=10),
    )
    return Config(
        algorithm=algorithm,
        dataset=DatasetConfig(id=f"diffrl/pointmaze/{maze}-fixedgoal-v0", standardize_observations=True),
        checkpoint_every=5_000,
    )
