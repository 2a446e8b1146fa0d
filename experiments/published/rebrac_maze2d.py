"""ReBRAC on D4RL's maze2d-{umaze,medium,large}-v1 with CORL's settings (configs/offline/rebrac/maze2d).

    python launch/collect.py --recipe=d4rl/maze2d-umaze-v1 --format=d4rl
    python launch/train.py --config=experiments/published/rebrac_maze2d.py:umaze --workdir=runs/rebrac_umaze
    python launch/evaluate.py --workdir=runs/rebrac_umaze --episodes=100

CORL's table (last checkpoint, 4 seeds x 100 episodes, mean ± std): umaze 106.9 ± 22.2, medium 105.1 ± 31.7, large 78.3 ± 61.8.
Differs: CORL evaluates all its seeds' checkpoints from the same 100 starts; the target policy follows the policy after its step.
"""

from diffrl.algorithms import rebrac
from diffrl.config import Config, DatasetConfig
from diffrl.data.minari import dataset_path


def get_config(maze: str = "umaze") -> Config:
    """Observations and rewards as they are; penalties 0.003 and 0.001."""
    return Config(
        algorithm=rebrac.Config(
            policy_learning_rate=3e-4, critic_learning_rate=3e-4, policy_penalty=0.003, critic_penalty=0.001, batch_size=256
        ),
        dataset=DatasetConfig(id=f"{dataset_path(f'diffrl/d4rl/maze2d-{maze}-v1')}.hdf5", env_id=f"maze2d-{maze}-v1"),
        num_seeds=4,
        checkpoint_every=100_000,
    )
