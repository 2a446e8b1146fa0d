"""SGP on locomotion as released (Suh et al. 2023, `examples/d4rl`): 4 x 1024 networks, model-predictive control at test time.

    python launch/train.py --config=experiments/sgp_mujoco.py:halfcheetah-medium --config.dataset.download=true \\
        --config.num_seeds=5 --workdir=runs/sgp_halfcheetah
    python launch/evaluate.py --workdir=runs/sgp_halfcheetah --step=last --episodes=10 --act=beta=0,0.1,0.2,0.5,1,2,5,10
    python launch/plan.py --workdir=runs/sgp_halfcheetah --closed_loop --variant='beta=0,0.2,1,5'

The weight β of a dataset is known for the ones listed below; elsewhere sweep it, as the evaluation above does. The released
planner has no action bounds (--act=bound=none). The paper's table could not be read; no score is quoted. A thousand steps plan
a thousand times; what an action takes on your machine:

    python launch/benchmark.py --config=experiments/sgp_mujoco.py --sections=acting
"""

from diffrl.algorithms import sgp
from diffrl.config import Config, DatasetConfig
from diffrl.planning.choice import Act

# The released configurations: horizon, iterations, learning rate, β and the share of it that is left at the last iteration.
ACTS = {
    "halfcheetah-random": Act(horizon=14, num_iterations=100, learning_rate=0.2, beta=0.12, beta_end=0.75),
    "halfcheetah-medium": Act(horizon=8, num_iterations=50, learning_rate=0.1, beta=0.2, beta_end=0.5),
    "halfcheetah-medium-expert": Act(horizon=8, num_iterations=50, learning_rate=0.1, beta=5.0, beta_end=0.2),
    "hopper-medium-expert": Act(horizon=8, num_iterations=50, learning_rate=0.15, beta=0.2),
}


def get_config(dataset: str = "halfcheetah-medium") -> Config:
    """`<task>-<quality>`: raw observations and rewards; the random dataset's dynamics are fitted to rollouts of four steps."""
    task, _, quality = dataset.partition("-")
    return Config(
        algorithm=sgp.Config(model_horizon=4 if quality == "random" else 1, act=ACTS.get(dataset, Act())),
        dataset=DatasetConfig(id=f"mujoco/{task}/{quality}-v0"),
        num_seeds=5,
        updates_per_chunk=1_000,
        checkpoint_every=50_000,
    )
