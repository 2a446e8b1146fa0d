r"""ReBRAC on locomotion at its published size (Tarasov et al. 2023): 1 M updates, batches of 1,024, three layers of 256.

    python launch/train.py --config=experiments/rebrac_mujoco.py:halfcheetah-medium --config.dataset.download=true \
        --workdir=runs/rebrac
    python launch/evaluate.py --workdir=runs/rebrac --episodes=10

Published on D4RL -v2 with the penalties below (CORL's table, last checkpoint, 4 seeds x 10 episodes): halfcheetah, hopper,
walker2d medium 64.0 ± 0.7, 102.3 ± 0.2, 85.8 ± 0.8; medium-replay 51.2 ± 0.3, 95.0 ± 6.5, 84.3 ± 2.3; medium-expert 103.8 ±
3.0, 109.5 ± 2.3, 111.9 ± 0.4.
Differs: Minari's sets of the same names were made by other policies. The target policy follows the policy after its step, where
the code takes it before; the actions after a timeout, whose rows D4RL's reader drops, are unknown, and not penalised.
"""

from diffrl.algorithms import rebrac
from diffrl.config import Config, DatasetConfig

# β_1 of the policy and β_2 of the critics: github.com/tinkoff-ai/CORL, configs/offline/rebrac.
PENALTIES = {
    "halfcheetah-medium": (0.001, 0.01),
    "halfcheetah-medium-replay": (0.01, 0.001),
    "halfcheetah-medium-expert": (0.01, 0.1),
    "hopper-medium": (0.01, 0.01),
    "hopper-medium-replay": (0.05, 0.5),
    "hopper-medium-expert": (0.1, 0.01),
    "walker2d-medium": (0.05, 0.1),
    "walker2d-medium-replay": (0.05, 0.01),
    "walker2d-medium-expert": (0.01, 0.01),
}


def get_config(dataset: str = "halfcheetah-medium") -> Config:
    """One of nine locomotion datasets; observations and rewards as they are.

    Raises:
        ValueError: no penalties are published for this dataset.
    """
    if dataset not in PENALTIES:
        raise ValueError(f"no penalties are published for {dataset!r}; choose one of {', '.join(PENALTIES)}")
    task, quality = dataset.split("-", 1)
    policy_penalty, critic_penalty = PENALTIES[dataset]
    return Config(
        algorithm=rebrac.Config(policy_penalty=policy_penalty, critic_penalty=critic_penalty),
        dataset=DatasetConfig(id=f"mujoco/{task}/{quality}-v0"),
        updates_per_chunk=5_000,
        checkpoint_every=100_000,
    )
