r"""QSM with a cloning term on chunks of five actions on OGBench's single tasks (curves released with QAM, arXiv 2601.14234).

    python launch/collect.py --recipe=ogbench/cube-double-play-v0
    python launch/train.py --config=experiments/published/qsm_ogbench.py:cube-double-play --workdir=runs/qsm_cube
    python launch/train.py --config=experiments/published/qsm_ogbench.py:scene-play --config.dataset.task=2 \
        --workdir=runs/qsm_scene_task2
    python launch/evaluate.py --workdir=runs/qsm_cube --step=all --episodes=50

1 M updates of 512 x 4 with batches of 256, ten critics, the mean less half a deviation in targets, T = 10. Rewards of puzzle and
scene are sparse, those of cubes minus the number out of place. Published success in %, 12 seeds x 50 episodes, of single
evaluations, the mean of all five tasks at 100,000 / 300,000 / 1 M updates: puzzle-3x3 2 / 19 / 53, scene 16 / 52 / 86,
cube-double 0 / 13 / 56, cube-triple 3 at 1 M.
Differs: their two optimisers are one, whose gradient is clipped to a norm of 1 over actor and critics together, which this has
not; the actor's network is MLPDenoiser's, with `hidden_dims` for the trunk alone; the policy's rate falls by 1e-5 of itself; of
chunks what `diffrl.action_chunks.in_chunks` says.
"""

from diffrl.algorithms import qsm
from diffrl.config import Config, DatasetConfig
from diffrl.envs.ogbench.tasks import Reward

# What rewards are, M (their inverse temperature) and the weight of the denoising loss.
SETTINGS: dict[str, tuple[Reward, float, float]] = {
    "puzzle-3x3-play": ("sparse", 10.0, 30.0),
    "scene-play": ("sparse", 3.0, 30.0),
    "cube-double-play": ("dense", 1.0, 10.0),
    "cube-triple-play": ("dense", 10.0, 10.0),
}


def get_config(name: str = "cube-double-play") -> Config:
    """A dataset of `SETTINGS`, with its environment's first task.

    Raises:
        ValueError: no settings are published for this dataset.
    """
    if name not in SETTINGS:
        raise ValueError(f"no settings are published for {name!r}; choose one of {', '.join(SETTINGS)}")
    reward, q_gain, bc_weight = SETTINGS[name]
    return Config(
        algorithm=qsm.Config(
            q_gain=q_gain,
            bc_weight=bc_weight,
            target_noise=0.0,
            hidden_dims=(512, 512, 512, 512),
            critic_hidden_dims=(512, 512, 512, 512),
            num_critics=10,
            num_diffusion_steps=10,
            gradient_of="target",
            target_value="lcb",
            critic_activation="gelu",
            layer_norm=True,
            policy_decay_updates=2**29 - 1,
        ),
        dataset=DatasetConfig(id=f"diffrl/ogbench/{name}-v0", task="1", reward=reward, ogbench="1.1"),
        action_chunk=5,
        num_seeds=4,
        updates_per_chunk=1_000,
        checkpoint_every=100_000,
    )
