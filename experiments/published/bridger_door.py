r"""BRIDGeR on the 25 human demonstrations of D4RL's door (door-human), with its authors' settings, from any of its sources.

    python launch/train.py --config=experiments/published/bridger_door.py:cvae,door-human.hdf5 --workdir=runs/bridger_cvae
    python launch/evaluate.py --workdir=runs/bridger_cvae --episodes=50 --act=num_denoising_steps=0,3,5,20

No steps act by the source alone. The paper's tables could not be read: it claims to beat diffusion policies, most of all with
few steps and few data, and that better sources end better (gaussian, then cvae and its scripts). A policy that was cloned before
is a source too:

    python launch/train.py --config=experiments/published/bc_door.py:door-human.hdf5 --config.action_chunk=64 \
        --config.dataset.standardize_observations=false --workdir=runs/bc_door_64
    python launch/train.py --config=experiments/published/bridger_door.py:bc,door-human.hdf5 \
        --config.algorithm.train_source=false --config.init_from.workdir=runs/bc_door_64 --config.init_from.fields=policy \
        --workdir=runs/bridger_bc

Differs: all windows are trained on, not the first 2,500; a chunk begins with the present action, the code's three steps before
it; two networks are trained in place of three; steps are exact increments (`act.steps_form=code` for theirs); actions are clipped
to their bounds; the variational source acts by its last weights, not by their average of 100 updates; its scripts are not known.
"""

from diffrl.algorithms import bridger
from diffrl.config import Config, DatasetConfig


def get_config(cell: str = "cvae,door-human.hdf5") -> Config:
    """`SOURCE,PATH`: the path is D4RL's file, or another of its form."""
    source, _, path = cell.partition(",")
    algorithm = bridger.Config(
        source=source,  # pyright: ignore[reportArgumentType]
        learning_rate=5e-6,
        source_learning_rate=5e-6,
        ema_decay=0.75,
        horizon=64,
        window=4,
        source_hidden_dims=(256, 256) if source in ("bc", "gaussian_bc") else (512, 512, 512),
        decay_every=10_000,
        decay=0.99,
        act=bridger.Act(execution_steps=48),
    )
    return Config(
        algorithm=algorithm,
        dataset=DatasetConfig(id=path, env_id="AdroitHandDoor-v1", clip_actions=True),
        num_seeds=4,
        updates_per_chunk=100,
        checkpoint_every=10_000,
    )
