"""The transitions of a run that learnt by interaction, as a dataset: behaviour of mixed quality for offline methods."""

from pathlib import Path

import numpy as np

from diffrl import records
from diffrl.collection.recipe import Product, Recipe, RecipeError, Shard, split_episodes
from diffrl.config import algorithm_name
from diffrl.data.replay import load_rows
from diffrl.data.scores import reference_for
from diffrl.envs.gymnasium_backend import make_env
from diffrl.training.trained import Trained
from diffrl.training.workdir import LOST, Done, Versions


def recipe(workdir: Path, run: int) -> tuple[Recipe, int]:
    """What makes a dataset of one run of a finished workdir, and how many transitions it has.

    Raises:
        RecipeError: the workdir was not trained by interaction to the end, or has no such run.
        ReplayError, RecordError: something of it is damaged.
    """
    trained = Trained.open(workdir)
    online = trained.config.online
    if not online.env_id or not (workdir / "DONE").exists():
        raise RecipeError(f"{workdir} holds no finished training by interaction (online.env_id)")
    if online.action_repeat > 1:
        raise RecipeError(f"{workdir} holds decisions of {online.action_repeat} steps (online.action_repeat), no single ones")
    iterations = records.read(workdir / "DONE", Done, LOST).online_steps // online.turn
    runs, envs, steps, _ = _saved(trained, iterations).shape
    if not 0 <= run < runs:
        raise RecipeError(f"{workdir} has runs 0 to {runs - 1}, not {run}")
    version = records.read(workdir / "versions.json", Versions, LOST).packages.get("diffrl")
    made = Recipe(
        name=f"replay/{workdir.name}-{run}",
        summary=f"replay buffer of {algorithm_name(trained.config)}",
        rows=envs * steps,
        shards=lambda seed, rows: [Shard("replay", rows, transitions, (str(workdir), run, iterations))],
        assemble=lambda seed, rows, shards: _product(trained, run, shards["replay"]),
        fingerprint=lambda: f"{algorithm_name(trained.config)}-{version}",
    )
    return made, envs * steps


def transitions(workdir: str, run: int, iterations: int) -> dict[str, np.ndarray]:
    """Rows in order of time, environment by environment, in the environment's units; the last episode of each is cut."""
    trained = Trained.open(Path(workdir))
    card, spec = trained.card, trained.spec
    o, a = spec.observation_dim, spec.action_dim
    mean, std = np.asarray(spec.observation_mean, np.float32), np.asarray(spec.observation_std, np.float32)
    low, high = np.asarray(spec.action_low, np.float32), np.asarray(spec.action_high, np.float32)
    saved = _saved(trained, iterations)[run]
    terminal, timeout = saved[..., -2] > 0.5, saved[..., -1] > 0.5
    timeout[:, -1] |= ~terminal[:, -1]
    rows = saved.reshape(-1, saved.shape[-1])
    action = rows[:, o : o + a]
    return {
        "observation": mean + rows[:, :o] * std,
        "action": action.argmax(axis=1) if spec.num_actions else np.clip(low + (action + 1.0) / 2.0 * (high - low), low, high),
        "next_observation": mean + rows[:, o + a : 2 * o + a] * std,
        "reward": (rows[:, 2 * o + a] - card.reward_shift) / card.reward_scale,
        "terminal": terminal.ravel(),
        "timeout": timeout.ravel(),
    }


def _saved(trained: Trained, iterations: int) -> np.ndarray:
    """What the buffer held after so many iterations: `[runs, envs, steps, packed]`."""
    online = trained.config.online
    return load_rows(trained.workdir / "replay", iterations, online.buffer_size // online.num_envs)


def _product(trained: Trained, run: int, rows: dict[str, np.ndarray]) -> Product:
    card, method = trained.card, algorithm_name(trained.config)
    assert card.env_spec is not None
    episodes = split_episodes(rows)
    returns = [float(episode["rewards"].sum()) for episode in episodes]
    reference = reference_for(card)
    if reference is None:
        span = (min(returns), max(max(returns), min(returns) + 1.0))
        source = "worst and best episode of these data"
    else:
        span, source = (reference.min, reference.max), reference.source
    return Product(
        episodes=episodes,
        env=make_env(card.env_spec),
        eval_env=make_env(card.env_spec),
        metadata={"algorithm_name": method, "mean_return": float(np.mean(returns))},
        reference=span,
        reference_source=source,
        description=f"Replay buffer of {method} in {card.id}, run {run}: {len(rows['reward'])} transitions in order of time.",
        requirements=["gymnasium>=1.2,<2"],
    )
