"""DIAR on D4RL's maze2d-{umaze,medium,large}-v1, with the paper's settings as far as they are known.

    python launch/collect.py --recipe=d4rl/maze2d-umaze-v1 --format=d4rl
    python launch/train.py --config=experiments/published/diar_maze2d.py:umaze --workdir=runs/diar_umaze
    python launch/evaluate.py --workdir=runs/diar_umaze --episodes=100 --act=reconsider=constrained,resample

`small/umaze` is a reduced form for machines without an accelerator: skills of 15 steps and 8 numbers, encoded by layers in place
of a GRU; 20,000 updates of each stage at rates of 1e-3; networks of a quarter of the width; 8 skills for V in place of 32, drawn
in 5 steps; 64 candidates in place of 500. A tenth of it (2,000 updates a stage, one seed) took 44 s, 4 s and 93 s on two cores
that a dozen processes shared, compiling 65 s; most of the last is drawing skills for 987,541 rows, once. It scored 11.2, success
90 %, in 50 episodes (JAX maze), with `act.reconsider=never` 12.0 and 96 %; cloning's published score is 0.4.

Published, Park et al. 2024 (arXiv 2410.11338), umaze, medium, large: DIAR 141.8 ± 4.3, 139.2 ± 3.5, 200.3 ± 3.4; LDCQ
134.2 ± 4.0, 125.3 ± 2.5, 184.3 ± 3.8. They are quoted from memory and not verified: only the abstract could be read. And they
may not be comparable: LDCQ's code scores an episode by the steps that are left of its time limit when it first touches the goal,
D4RL, as here, by the steps that it stays there.
The settings are those that a reimplementation (github.com/valvarl/diar) quotes from the paper's tables, with what it does not say
from LDCQ's code (github.com/ldcq/ldcq).
Differs: the goal is not in the observation, being the same for all; a skill's value is discounted by γ^H, not γ; V sees 32 skills
of a state, not 500; rows count as they would on average in prioritised replay; acting is constrained to skills that lead on
(`act.reconsider=resample` draws again, as the paper does); the autoencoder's prior is a U-Net as the diffusion model is, in place
of a transformer; latents are the encoder's means, as in LDCQ's code.
"""

from diffrl.algorithms import diar
from diffrl.config import Config, DatasetConfig
from diffrl.data.minari import dataset_path


def get_config(argument: str = "umaze") -> Config:
    """`MAZE` or `small/MAZE`. The published widths, rates and lengths are the method's defaults."""
    small, _, maze = argument.rpartition("/")
    algorithm = diar.Config(act=diar.Act(tolerance=0.2))
    if small:
        algorithm = diar.Config(
            vae_learning_rate=1e-3,
            behavior_learning_rate=1e-3,
            critic_learning_rate=1e-3,
            horizon=15,
            latent_dim=8,
            encoder_hidden_dims=(),
            behavior_hidden_dims=(64, 32),
            num_denoising_steps=5,
            num_polish_steps=1,
            num_latents=8,
            critic_hidden_dims=(64, 64),
            latent_hidden_dims=(64, 64),
            vae_updates=20_000,
            behavior_updates=20_000,
            critic_updates=20_000,
            act=diar.Act(num_candidates=64, tolerance=0.2, execution_steps=15),
        )
    return Config(
        algorithm=algorithm,
        dataset=DatasetConfig(
            id=f"{dataset_path(f'diffrl/d4rl/maze2d-{maze}-v1')}.hdf5",
            env_id=f"maze2d-{maze}-v1",
            standardize_observations=True,
        ),
        num_seeds=4,
        checkpoint_every=5_000 if small else 100_000,
    )
