"""Every baseline on every dataset of the small suite, at budgets for a laptop.

    python launch/collect.py --suite=small
    python launch/suite.py --out=runs/suite
    python launch/report.py --suite 'runs/suite/*/*' --out=runs/suite/report

One budget per family of tasks: two hidden layers of 128, batches of 256 (mazes) or 128 (locomotion). 20,000 updates are far from
what locomotion needs (papers: 1,000,000); the table says what a method gives in seconds, not what it can give.
"""

from diffrl.algorithms import bc, diffusion_bc, gaussian_bc, iql, srpo, td3_bc
from diffrl.config import Config, DatasetConfig

METHODS = ("bc", "gaussian_bc", "diffusion_bc", "iql", "td3_bc", "srpo")
_WIDTHS = (128, 128)


def _maze(method: str) -> object:
    # The values of the PointMaze experiments, chosen on the medium maze of collection seed 1.
    values = {"discount": 0.98, "tau": 0.02, "learning_rate": 1e-3}
    return {
        "bc": lambda: bc.Config(learning_rate=1e-3, hidden_dims=_WIDTHS, num_updates=20_000),
        "gaussian_bc": lambda: gaussian_bc.Config(learning_rate=1e-3, hidden_dims=_WIDTHS, num_updates=20_000),
        "diffusion_bc": lambda: diffusion_bc.Config(
            learning_rate=1e-3, hidden_dim=64, num_blocks=2, dropout_rate=0.0, num_updates=10_000, batch_size=256
        ),
        "iql": lambda: iql.Config(**values, expectile=0.9, hidden_dims=_WIDTHS, num_updates=30_000),
        "td3_bc": lambda: td3_bc.Config(**values, hidden_dims=_WIDTHS, num_updates=30_000),
        "srpo": lambda: srpo.Config(
            **values,
            beta=0.2,
            expectile=0.9,
            normalize_q_gradient=True,
            behavior_hidden_dim=64,
            behavior_blocks=2,
            dropout_rate=0.0,
            critic_hidden_dims=_WIDTHS,
            policy_hidden_dims=_WIDTHS,
            behavior_updates=8_000,
            critic_updates=30_000,
            policy_updates=9_000,
            behavior_batch_size=256,
        ),
    }[method]()


def _locomotion(method: str) -> object:
    rate = {"learning_rate": 1e-3}
    return {
        "bc": lambda: bc.Config(**rate, hidden_dims=_WIDTHS, num_updates=20_000, batch_size=128),
        "gaussian_bc": lambda: gaussian_bc.Config(**rate, hidden_dims=_WIDTHS, num_updates=20_000, batch_size=128),
        "diffusion_bc": lambda: diffusion_bc.Config(
            **rate, hidden_dim=64, num_blocks=2, dropout_rate=0.0, num_updates=10_000, batch_size=256
        ),
        "iql": lambda: iql.Config(**rate, hidden_dims=_WIDTHS, num_updates=20_000, batch_size=128),
        "td3_bc": lambda: td3_bc.Config(**rate, hidden_dims=_WIDTHS, num_updates=20_000, batch_size=128),
        "srpo": lambda: srpo.Config(
            **rate,
            beta=0.2,
            normalize_q_gradient=True,
            behavior_hidden_dim=64,
            behavior_blocks=2,
            dropout_rate=0.0,
            critic_hidden_dims=_WIDTHS,
            policy_hidden_dims=_WIDTHS,
            behavior_updates=10_000,
            critic_updates=20_000,
            policy_updates=10_000,
            behavior_batch_size=256,
            critic_batch_size=128,
            policy_batch_size=128,
        ),
    }[method]()


def get_config(cell: str = "srpo,pointmaze/medium-fixedgoal") -> Config:
    """`METHOD,DATASET`, as in srpo,hopper/medium.

    Raises:
        ValueError: no such method here.
    """
    method, _, dataset = cell.partition(",")
    if method not in METHODS:
        raise ValueError(f"no method {method!r} in this suite; choose one of {', '.join(METHODS)}")
    maze = dataset.startswith("pointmaze/")
    return Config(
        algorithm=_maze(method) if maze else _locomotion(method),
        dataset=DatasetConfig(
            id=f"diffrl/{dataset}-v0", standardize_observations=True, reward_scale="none" if maze else "return_range"
        ),
        checkpoint_every=1_000_000,
    )
