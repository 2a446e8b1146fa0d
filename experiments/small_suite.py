"""Every baseline on every dataset of the small suite, at budgets for a laptop.

    python launch/collect.py --suite=small
    python launch/suite.py --out=runs/suite
    python launch/report.py --suite 'runs/suite/*/*' --out=runs/suite/report

Two hidden layers of 128 for everything but the denoisers, batches of 128, 20,000 updates of critics on mazes and 10,000 on
locomotion, which is far from enough there (papers: 256 wide, batches of 256, 1,000,000 updates). The table says what a method
gives in a minute, not what it can give; launch/suite.py --budget=10 lengthens it. Scores and times: docs/suite.md.
"""

import dataclasses
from typing import Any

from diffrl.algorithms import (
    bc,
    dac,
    diffusion_bc,
    diffusion_ql,
    edp,
    fql,
    gaussian_bc,
    idql,
    iql,
    qgpo,
    qsm,
    rebrac,
    srpo,
    swg,
    td3_bc,
)
from diffrl.config import Config, DatasetConfig

BATCH_SIZE = 128
METHODS = (
    "bc",
    "gaussian_bc",
    "diffusion_bc",
    "iql",
    "td3_bc",
    "srpo",
    "swg",
    "qsm",
    "dac",
    "diffusion_ql",
    "edp",
    "idql",
    "fql",
    "rebrac",
    "qgpo",
)
# Of the PointMaze experiments, chosen on the medium maze of collection seed 1 by IQL's and SRPO's returns.
MAZE: dict[str, Any] = {"discount": 0.98, "tau": 0.02}
EXPECTILE = {"pointmaze": 0.9, "hopper": 0.7, "halfcheetah": 0.7, "walker2d": 0.7}
# SRPO's beta of a task serves all its datasets. Locomotion: best of .002, .01, .05 (on Hopper also .2 and .8) on the medium
# dataset alone, training seeds 100 and 101, evaluation seed 77, with 8,000 + 20,000 + 8,000 updates.
BETA = {"pointmaze": 0.2, "hopper": 0.002, "halfcheetah": 0.01, "walker2d": 0.05}
# Cloning demonstrations with two ways at every fork takes longer: diffusion cloning succeeded in 2 % of the episodes after 8,000
# updates of 64 units, in 56, 78, 86 and 94 % after 10,000, 20,000, 30,000 and 40,000 of 128 units (2 seeds).
FORKS = "pointmaze/tworoutes"
CLONING: dict[str, Any] = {"num_updates": 40_000, "batch_size": 256}
# QSM with its denoising term: best of .001, .01, .1 and 1 on the medium-replay dataset (training seed 100, evaluation seed 77);
# mazes and Walker2d have not been tuned.
Q_GAIN = {"pointmaze": 0.1, "hopper": 0.1, "halfcheetah": 1.0, "walker2d": 0.1}
PESSIMISM = {"pointmaze": 1.0, "hopper": 1.5, "halfcheetah": 0.0, "walker2d": 1.0}  # DAC's published ρ
# DAC's b: of .15, .3 and .6, likewise on Hopper and HalfCheetah. The published 1 is no bound here: a clone is at .14, and with
# values of 10,000 updates the policy left the data (scores of 8 and 3).
BC_THRESHOLD = {"pointmaze": 1.0, "hopper": 0.15, "halfcheetah": 0.15, "walker2d": 0.15}
# FQL's α with Q of mean size 1, which is its authors' advice for new tasks; locomotion has not been tuned.
ALPHA = {"pointmaze": 1.0, "hopper": 1.0, "halfcheetah": 1.0, "walker2d": 1.0}
# ReBRAC's β of policy and critics: published for the medium datasets; of the maze see rebrac_pointmaze.py.
PENALTIES = {"pointmaze": (0.1, 0.0), "hopper": (0.01, 0.01), "halfcheetah": (0.001, 0.01), "walker2d": (0.05, 0.1)}
GUIDANCE_SCALE = 5.0  # of SWG: the least of the released grid above 1
# QGPO's β_Q is the paper's: of AntMaze for mazes, else of locomotion; its scale is not tuned.
BACKUP_BETA = {"pointmaze": 20.0, "hopper": 1.0, "halfcheetah": 1.0, "walker2d": 1.0}
QGPO_SCALE = 3.0


def get_config(cell: str = "srpo,pointmaze/medium-fixedgoal") -> Config:
    """`METHOD,DATASET`, as in srpo,hopper/medium.

    Raises:
        ValueError: no such method here.
    """
    method, _, dataset = cell.partition(",")
    if method not in METHODS:
        raise ValueError(f"no method {method!r} in this suite; choose one of {', '.join(METHODS)}")
    task = dataset.partition("/")[0]
    maze = task == "pointmaze"
    algorithm = _algorithm(method, task)
    if dataset == FORKS and method in ("bc", "gaussian_bc", "diffusion_bc"):
        algorithm = dataclasses.replace(algorithm, **CLONING)
    if dataset == FORKS and method == "diffusion_bc":
        algorithm = dataclasses.replace(algorithm, hidden_dim=128)
    return Config(
        algorithm=algorithm,
        dataset=DatasetConfig(
            id=f"diffrl/{dataset}-v0", standardize_observations=True, reward_scale="none" if maze else "return_range"
        ),
        checkpoint_every=1_000_000,  # the end of each stage only
    )


def _algorithm(method: str, task: str) -> Any:
    mlp: dict[str, Any] = {"learning_rate": 1e-3, "hidden_dims": (128, 128), "batch_size": BATCH_SIZE}
    maze = task == "pointmaze"
    values = MAZE if maze else {}
    critic_updates, denoiser_updates, policy_updates = (20_000, 8_000, 8_000) if maze else (10_000, 6_000, 6_000)
    match method:
        case "bc":
            return bc.Config(**mlp, num_updates=10_000)
        case "gaussian_bc":
            return gaussian_bc.Config(**mlp, num_updates=10_000)
        case "diffusion_bc":
            return diffusion_bc.Config(
                learning_rate=1e-3,
                hidden_dim=64,
                num_blocks=2,
                dropout_rate=0.0,
                num_updates=denoiser_updates,
                batch_size=BATCH_SIZE,
            )
        case "iql":
            return iql.Config(**mlp, **values, expectile=EXPECTILE[task], num_updates=critic_updates)
        case "swg":
            return swg.Config(
                **values,
                learning_rate=1e-3,
                expectile=EXPECTILE[task],
                hidden_dim=64,
                num_blocks=2,
                time_dim=64,
                dropout_rate=0.0,
                ema_decay=0.998,
                normalize_value_input=not maze,
                critic_hidden_dims=(128, 128),
                critic_updates=critic_updates,
                diffusion_updates=denoiser_updates,
                critic_batch_size=BATCH_SIZE,
                diffusion_batch_size=BATCH_SIZE,
                cosine_horizon=denoiser_updates,
                act=swg.Act(guidance_scale=GUIDANCE_SCALE),
            )
        case "qsm":
            return qsm.Config(
                **values,
                policy_learning_rate=1e-3,
                critic_learning_rate=1e-3,
                q_gain=Q_GAIN[task],
                bc_weight=1.0,
                hidden_dims=(128, 128),
                critic_hidden_dims=(128, 128),
                gradient_of="target",
                policy_decay_updates=critic_updates,
                num_updates=critic_updates,
                batch_size=BATCH_SIZE,
                act=qsm.Act(num_candidates=10),
            )
        case "dac":
            return dac.Config(
                **values,
                policy_learning_rate=1e-3,
                critic_learning_rate=1e-3,
                pessimism=PESSIMISM[task],
                bc_threshold=BC_THRESHOLD[task],
                hidden_dims=(128, 128),
                critic_hidden_dims=(128, 128),
                num_critics=5,
                num_next_actions=2,
                num_updates=critic_updates,
                batch_size=BATCH_SIZE,
            )
        case "idql":
            return idql.Config(
                **values,
                learning_rate=1e-3,
                expectile=EXPECTILE[task],
                ema_decay=0.998,
                hidden_dim=64,
                num_blocks=2,
                dropout_rate=0.0,
                critic_hidden_dims=(128, 128),
                behavior_updates=denoiser_updates,
                critic_updates=critic_updates,
                behavior_batch_size=BATCH_SIZE,
                critic_batch_size=BATCH_SIZE,
                act=idql.Act(num_candidates=32),
            )
        case "qgpo":
            return qgpo.Config(
                **values,
                learning_rate=1e-3,
                critic_learning_rate=1e-3,
                energy_learning_rate=1e-3,
                backup_beta=BACKUP_BETA[task],
                support_denoising_steps=7,
                behavior_hidden_dims=(64, 32),
                critic_hidden_dims=(128, 128),
                energy_hidden_dims=(128, 128),
                behavior_updates=denoiser_updates,
                critic_updates=critic_updates,
                energy_updates=policy_updates,
                behavior_batch_size=BATCH_SIZE,
                batch_size=BATCH_SIZE,
                act=qgpo.Act(guidance_scale=QGPO_SCALE),
            )
        case "fql":
            return fql.Config(
                **mlp,
                **values,
                alpha=ALPHA[task],
                normalize_q=True,
                critic_hidden_dims=(128, 128),
                num_updates=critic_updates,
            )
        case "rebrac":
            policy_penalty, critic_penalty = PENALTIES[task]
            return rebrac.Config(
                **values,
                policy_learning_rate=1e-3,
                critic_learning_rate=1e-3,
                policy_penalty=policy_penalty,
                critic_penalty=critic_penalty,
                hidden_dims=(128, 128),
                critic_hidden_dims=(128, 128),
                num_updates=critic_updates,
                batch_size=BATCH_SIZE,
            )
        case "diffusion_ql":
            return diffusion_ql.Config(
                **values,
                policy_learning_rate=1e-3,
                critic_learning_rate=1e-3,
                hidden_dims=(128, 128),
                critic_hidden_dims=(128, 128),
                num_updates=critic_updates,
                batch_size=BATCH_SIZE,
                act=diffusion_ql.Act(num_candidates=10),
            )
        case "edp":
            return edp.Config(
                **values,
                form="iql" if maze else "td3",
                learning_rate=1e-3,
                expectile=EXPECTILE[task],
                hidden_dims=(128, 128),
                critic_hidden_dims=(128, 128),
                num_updates=critic_updates,
                batch_size=BATCH_SIZE,
                act=edp.Act(num_candidates=10),
            )
        case "td3_bc":
            return td3_bc.Config(**mlp, **values, num_updates=critic_updates)
        case _:
            return srpo.Config(
                **values,
                learning_rate=1e-3,
                beta=BETA[task],
                expectile=EXPECTILE[task],
                normalize_q_gradient=True,
                behavior_hidden_dim=64,
                behavior_blocks=2,
                dropout_rate=0.0,
                critic_hidden_dims=(128, 128),
                policy_hidden_dims=(128, 128),
                behavior_updates=denoiser_updates,
                critic_updates=critic_updates,
                policy_updates=policy_updates,
                behavior_batch_size=BATCH_SIZE,
                critic_batch_size=BATCH_SIZE,
                policy_batch_size=BATCH_SIZE,
            )
