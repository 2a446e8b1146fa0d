r"""DAC on chunks of five actions on OGBench's single tasks (curves released with QAM, arXiv 2601.14234).

    python launch/collect.py --recipe=ogbench/cube-double-play-v0
    python launch/train.py --config=experiments/published/dac_ogbench.py:cube-double-play --workdir=runs/dac_cube
    python launch/train.py --config=experiments/published/dac_ogbench.py:scene-play --config.dataset.task=2 \
        --workdir=runs/dac_scene_task2
    python launch/evaluate.py --workdir=runs/dac_cube --step=all --episodes=50

1 M updates of 512 x 4 with batches of 256, ten critics, the mean less half a deviation in targets, T = 10. The gradient of Q is
not scaled and η stays at the published α. Rewards of puzzle and scene are sparse, those of cubes minus the number out of place.
Published success in %, 12 seeds x 50 episodes, of single evaluations, the mean of all five tasks at 100,000 / 300,000 / 1 M
updates: puzzle-3x3 1 / 5 / 68, scene 32 / 49 / 68, cube-double 1 / 6 / 35, cube-triple 5 at 1 M.
Differs: rates fall along a cosine where theirs are constant; targets are of an action of the averaged policy, where theirs are
of the policy itself; gradients are clipped for policy and critics by themselves; of chunks what `diffrl.action_chunks.in_chunks`
says.
"""

from diffrl.algorithms import dac
from diffrl.config import Config, DatasetConfig
from diffrl.envs.ogbench.tasks import Reward

# What rewards are, and η (their α).
SETTINGS: dict[str, tuple[Reward, float]] = {
    "puzzle-3x3-play": ("sparse", 1.0),
    "scene-play": ("sparse", 1.0),
    "cube-double-play": ("dense", 3.0),
    "cube-triple-play": ("dense", 0.3),
}


def get_config(name: str = "cube-double-play") -> Config:
    """A dataset of `SETTINGS`, with its environment's first task.

    Raises:
        ValueError: no settings are published for this dataset.
    """
    if name not in SETTINGS:
        raise ValueError(f"no settings are published for {name!r}; choose one of {', '.join(SETTINGS)}")
    reward, eta = SETTINGS[name]
    return Config(
        algorithm=dac.Config(
            eta=eta,
            eta_learning_rate=0.0,
            pessimism=0.5,
            hidden_dims=(512, 512, 512, 512),
            critic_hidden_dims=(512, 512, 512, 512),
            num_diffusion_steps=10,
            num_next_actions=1,
            normalize_gradient=False,
            critic_activation="gelu",
            layer_norm=True,
            num_updates=1_000_000,
            act=dac.Act(num_candidates=1),
        ),
        dataset=DatasetConfig(id=f"diffrl/ogbench/{name}-v0", task="1", reward=reward, ogbench="1.1"),
        action_chunk=5,
        num_seeds=4,
        updates_per_chunk=1_000,
        checkpoint_every=100_000,
    )
