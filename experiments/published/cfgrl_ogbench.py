r"""CFGRL on OGBench: guided flow clones of goals, and of good actions (Frans et al. 2025, arXiv 2505.23458, tables 3 and 2).

    python launch/collect.py --recipe=ogbench/pointmaze-giant-navigate-v0
    python launch/train.py --config=experiments/published/cfgrl_ogbench.py:pointmaze-giant-navigate,goals \
        --workdir=runs/cfgrl_goals
    python launch/evaluate.py --workdir=runs/cfgrl_goals --episodes=250 --act=guidance_scale=1,3
    python launch/train.py --config=experiments/published/cfgrl_ogbench.py:pointmaze-large-navigate --workdir=runs/cfgrl_large
    python launch/evaluate.py --workdir=runs/cfgrl_large --episodes=50 --act=guidance_scale=1,1.25,1.5,2,3

Goals: 1 M updates of batches of 1024, 512 x 4, 16 Euler steps, w = 3; w = 1 is a flow GCBC. Published success in %, 8 seeds, flow
GCBC and CFGRL (as two readers quote table 3): pointmaze-large 74 and 77, pointmaze-giant 4 and 30, cube-double 3 and 2. A
Gaussian GCBC has 9 on medium, 29 on large, 1 on giant and 25 on teleport (Park et al. 2025).
Single tasks: implicit values with an expectile of 0.9, w by the score. Published, 4 seeds, of AWR and of CFGRL on the default
task: pointmaze-large 70 ± 25 and 100 ± 0, pointmaze-teleport 3 ± 7 and 57 ± 7, cube-single 85 ± 8 and 82 ± 3, scene 18 ± 3 and
17 ± 9, puzzle-3x3 3 ± 7 and 3 ± 4.
Differs: the made sets agree with the published ones in distribution; the label is one per row and dropped for a tenth of them, as
in the paper's algorithm, where third-party code adds the losses of both.
"""

from diffrl.algorithms import cfgrl
from diffrl.config import Config, DatasetConfig
from diffrl.envs.ogbench.tasks import default_task

# γ of the single tasks.
DISCOUNT = {
    "pointmaze-medium-navigate": 0.99,
    "pointmaze-large-navigate": 0.99,
    "pointmaze-giant-navigate": 0.995,
    "pointmaze-teleport-navigate": 0.99,
    "cube-single-play": 0.99,
    "cube-double-play": 0.99,
    "scene-play": 0.99,
    "puzzle-3x3-play": 0.99,
}


def get_config(cell: str = "pointmaze-giant-navigate,goals") -> Config:
    """`DATASET,goals`, or `DATASET` with its environment's default task, of `DISCOUNT`.

    Raises:
        ValueError: no settings are published for this dataset, or it is neither form.
    """
    name, _, form = cell.partition(",")
    if name not in DISCOUNT:
        raise ValueError(f"no settings are published for {name!r}; choose one of {', '.join(DISCOUNT)}")
    if form not in ("", "goals"):
        raise ValueError(f"{form!r} is no form of it: {name} is a single task, and {name},goals has goals")
    if form:
        algorithm = cfgrl.Config(condition="goal", batch_size=1024, act=cfgrl.Act(guidance_scale=3.0))
        dataset = DatasetConfig(id=f"diffrl/ogbench/{name}-v0", task="goals")
    else:
        task = str(default_task(name.rsplit("-", 1)[0]))
        algorithm = cfgrl.Config(discount=DISCOUNT[name])
        dataset = DatasetConfig(
            id=f"diffrl/ogbench/{name}-v0",
            task=task,  # pyright: ignore[reportArgumentType]
            ogbench="1.1",
        )
    return Config(
        algorithm=algorithm,
        dataset=dataset,
        num_seeds=8 if form else 4,
        updates_per_chunk=1_000,
        checkpoint_every=100_000,
    )
