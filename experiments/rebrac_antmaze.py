r"""ReBRAC on AntMaze at its published size (Tarasov et al. 2023): γ = 0.999, rewards times 100, slow critics.

    python launch/train.py --config=experiments/rebrac_antmaze.py:medium-play --config.dataset.download=true \
        --workdir=runs/rebrac_antmaze
    python launch/evaluate.py --workdir=runs/rebrac_antmaze --episodes=100

Published on D4RL -v2 with the penalties below (CORL's table, last checkpoint, 4 seeds x 100 episodes): umaze 97.8 ± 1.5,
umaze-diverse 83.5 ± 7.0, medium-play 89.5 ± 3.4, medium-diverse 83.5 ± 8.2, large-play 52.3 ± 29.0, large-diverse 64.0 ± 5.4.
Differs: Minari's antmaze sets are a new collection of the same tasks; what rebrac_mujoco.py says.
"""

from diffrl.algorithms import rebrac
from diffrl.config import Config, DatasetConfig

# β_1 of the policy and β_2 of the critics: github.com/tinkoff-ai/CORL, configs/offline/rebrac.
PENALTIES = {
    "umaze": (0.003, 0.002),
    "umaze-diverse": (0.003, 0.001),
    "medium-play": (0.001, 0.0005),
    "medium-diverse": (0.001, 0.0),
    "large-play": (0.002, 0.001),
    "large-diverse": (0.002, 0.002),
}


def get_config(dataset: str = "medium-play") -> Config:
    """One of the six AntMaze datasets.

    Raises:
        ValueError: no penalties are published for this dataset.
    """
    if dataset not in PENALTIES:
        raise ValueError(f"no penalties are published for {dataset!r}; choose one of {', '.join(PENALTIES)}")
    policy_penalty, critic_penalty = PENALTIES[dataset]
    return Config(
        algorithm=rebrac.Config(
            policy_learning_rate=3e-4,
            critic_learning_rate=5e-5,
            discount=0.999,
            policy_penalty=policy_penalty,
            critic_penalty=critic_penalty,
            batch_size=256,
        ),
        dataset=DatasetConfig(id=f"D4RL/antmaze/{dataset}-v1", reward_factor=100.0),
        updates_per_chunk=5_000,
        checkpoint_every=100_000,
    )
