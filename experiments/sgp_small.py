"""SGP on the datasets of the small suite, for a laptop: the next steps are planned anew at every step.

    python launch/collect.py --recipe=halfcheetah/medium-replay-v0
    python launch/train.py --config=experiments/sgp_small.py:halfcheetah/medium-replay --workdir=runs/sgp
    python launch/evaluate.py --workdir=runs/sgp --step=last --episodes=10 --act=beta=0,0.1,1,10
    python launch/plan.py --workdir=runs/sgp --closed_loop --starts=10 --variant='beta=0,0.1,1,10'

Three layers of 64 units and plans of 6 steps in 20 iterations, where the released configuration has four of 1024 and 8 steps
in 50. Five seeds train in 8 min (the maze) on two cores beside other jobs, and ten episodes of each take 1 to 3 min per β. Scores
with the best β (docs/planning.md): halfcheetah/medium-replay 2.8 (β = 30; −1.6 without), hopper/medium 29.1 (1,000; 1.3), the
small dense maze 50.7 (0.1; 43.6). β counts distances to the data ("dist"), as its released transcriptions do, which is one scale
at all noise levels.
"""

from diffrl.algorithms import sgp
from diffrl.config import Config, DatasetConfig
from diffrl.planning.choice import Act


def get_config(dataset: str = "halfcheetah/medium-replay") -> Config:
    """`TASK/QUALITY` of `launch/collect.py --suite=small`."""
    return Config(
        algorithm=sgp.Config(
            hidden_dim=64,
            num_layers=3,
            dynamics_updates=20_000,
            reward_updates=10_000,
            score_updates=20_000,
            batch_size=256,
            act=Act(horizon=6, num_iterations=20, learning_rate=0.1, weighting="dist", beta=1.0),
        ),
        dataset=DatasetConfig(id=f"diffrl/{dataset}-v0", standardize_observations=True),
        num_seeds=5,
        checkpoint_every=1_000_000,
    )
