"""Locomotion data in the manner of D4RL: policies of a training from scratch, stopped early and late, and what it saw on its way.

For each task one PPO training (ppo.py) serves all its datasets:
* random: uniform actions. * medium: the policy whose return is nearest a third of D4RL's reference maximum.
* expert: the best policy. * medium-replay: what the training saw up to the medium policy. * medium-expert: half of each.
Policies are sampled from, as D4RL does, and chosen by fresh evaluation episodes. Environments are gymnasium's v5 tasks in
MuJoCo's C simulator. This module imports neither JAX nor a simulator.
"""

import functools
import importlib.metadata
import math
from typing import Any, NamedTuple

import numpy as np

from diffrl.collection import ppo
from diffrl.collection.recipe import Cost, Product, Recipe, RecipeError, Shard, split_episodes

ROWS_PER_SHARD = 50_000
PARALLEL_EPISODES = 25
CHECKPOINT_STEPS = 50_000
REPLAY_STEPS = 1_000_000  # the medium policy is looked for among these first steps
EVALUATION_EPISODES = 32
MEDIUM_BAND = (0.6, 1.5)  # of the medium target, where a policy's return must lie
ATTEMPTS = 3  # training seeds tried before giving up
_EVALUATION_STREAM, _DATA_STREAM = 1, 2
QUALITIES = ("random", "medium", "medium-replay", "medium-expert", "expert")


class Task(NamedTuple):
    """A gymnasium task and its training.

    Attributes:
        env_id: gymnasium id.
        num_steps: of the training.
        reference: episode returns that count as 0 and 100, D4RL's (d4rl/infos.py).
        expert: return that the best policy must reach at least.
    """

    env_id: str
    num_steps: int
    reference: tuple[float, float]
    expert: float

    @property
    def medium(self) -> float:
        """Target return of the medium policy."""
        return self.reference[1] / 3.0


TASKS = {
    "hopper": Task("Hopper-v5", 1_500_000, (-20.272305, 3234.3), 2_000.0),
    "halfcheetah": Task("HalfCheetah-v5", 2_500_000, (-280.178953, 12135.0), 4_500.0),
    "walker2d": Task("Walker2d-v5", 1_500_000, (1.629008, 4592.3), 3_000.0),
}


def train_policies(name: str, seed: int) -> dict[str, np.ndarray]:
    """Shared by all datasets of a task: the medium and the expert policy, and the experience up to the medium one.

    Training seeds are tried in turn, because PPO sometimes stays in a local optimum.

    Raises:
        RecipeError: none of them reached both qualities.
    """
    task = TASKS[name]
    found = []
    for attempt in range(ATTEMPTS):
        training = ppo.train(
            _environments(task, ppo.NUM_ENVS),
            task.num_steps,
            ATTEMPTS * seed + attempt,
            CHECKPOINT_STEPS,
            REPLAY_STEPS,
            # A training that has not reached medium by then is stuck; the next seed is the better use of time.
            lambda steps, returns: steps[-1] >= REPLAY_STEPS and max(returns) < MEDIUM_BAND[0] * task.medium,
        )
        returns = np.array(training.returns)
        early = [i for i, steps in enumerate(training.steps) if steps <= REPLAY_STEPS]
        near = sorted(early, key=lambda i: abs(returns[i] - task.medium))[:4]
        best = sorted(range(len(returns)), key=lambda i: -returns[i])[:3]
        scores = {i: _evaluate(task, training.policies[i], seed, attempt) for i in sorted({*near, *best})}
        medium = min(near, key=lambda i: abs(scores[i] - task.medium))
        expert = max(scores, key=lambda i: scores[i])
        low, high = (factor * task.medium for factor in MEDIUM_BAND)
        found.append(f"seed {ATTEMPTS * seed + attempt}: medium {scores[medium]:.0f}, best {scores[expert]:.0f}")
        if low <= scores[medium] <= high and scores[expert] >= task.expert:
            length = training.steps[medium] // ppo.NUM_ENVS
            kept = {field: value[:length] for field, value in training.experience._asdict().items()}
            chosen = {"medium": medium, "expert": expert}
            numbers = {f"{quality}.steps": np.array(training.steps[i]) for quality, i in chosen.items()}
            numbers |= {f"{quality}.return": np.array(scores[i]) for quality, i in chosen.items()}
            policies = {
                f"{quality}.{part}": value
                for quality, i in chosen.items()
                for part, value in _unpacked(training.policies[i]).items()
            }
            return {"training_seed": np.array(ATTEMPTS * seed + attempt), **policies, **numbers, **_episodes_of(kept)}
    low, high = (factor * task.medium for factor in MEDIUM_BAND)
    raise RecipeError(
        f"no training of {task.env_id} gave a medium policy between {low:.0f} and {high:.0f} and one above {task.expert:.0f} "
        f"({'; '.join(found)}): try another --seed"
    )


def play(name: str, quality: str, seed: int, shard: int, rows: int, trained: Any = None) -> dict[str, np.ndarray]:
    """`rows` transitions of whole episodes of one policy; the last is cut to fit.

    Args:
        name, quality: task, and "random", "medium" or "expert".
        seed, shard: of the noise and the starts.
        rows: number of transitions.
        trained: path of what `train_policies` left; unused for random.

    Returns:
        observation, action, reward, next_observation, terminal, timeout: `[rows, ...]`.
    """
    task = TASKS[name]
    policy = None if quality == "random" else load_policy(trained, quality)
    stream = [seed, _DATA_STREAM, QUALITIES.index(quality), shard]
    episodes, made = [], 0
    for episode in _play(task, policy, stream):
        episodes.append(episode)
        made += len(episode["reward"])
        if made >= rows:
            break
    joined = {field: np.concatenate([episode[field] for episode in episodes])[:rows] for field in episodes[0]}
    joined["timeout"][-1] |= ~joined["terminal"][-1]
    return joined


def load_policy(path: Any, quality: str) -> ppo.Policy:
    """A policy that `train_policies` chose, from the file its arrays were stored in."""
    with np.load(path, allow_pickle=False) as file:
        parts = {key.removeprefix(f"{quality}."): file[key] for key in file.files if key.startswith(f"{quality}.")}
    weights = {key.removeprefix("weights."): value for key, value in parts.items() if key.startswith("weights.")}
    return ppo.Policy(weights, parts["mean"], parts["std"])


def _unpacked(policy: ppo.Policy) -> dict[str, np.ndarray]:
    return {"mean": policy.mean, "std": policy.std, **{f"weights.{name}": value for name, value in policy.weights.items()}}


def _environments(task: Task, num_envs: int) -> Any:
    import gymnasium

    from diffrl.envs.locomotion import from_env_spec
    from diffrl.envs.mujoco_backend import MujocoEnvironments

    known = from_env_spec(gymnasium.spec(task.env_id).to_json())
    assert known is not None
    # One thread: processes are spread over the cores already.
    return MujocoEnvironments(known, num_envs, num_threads=1)


def _evaluate(task: Task, policy: ppo.Policy, seed: int, attempt: int) -> float:
    """Mean return of fresh episodes."""
    episodes = _play(task, policy, [seed, _EVALUATION_STREAM, attempt])
    return float(np.mean([next(episodes)["reward"].sum() for _ in range(EVALUATION_EPISODES)]))


def _play(task: Task, policy: ppo.Policy | None, stream: list[int]) -> Any:
    """Episodes without end, in the order in which they were started: taking those that end first would favour short ones."""
    envs = _environments(task, PARALLEL_EPISODES)
    rng = np.random.default_rng([*stream, 0])
    low, high = envs.task.model.actuator_ctrlrange.T.astype(np.float32)
    copies, playing = np.arange(PARALLEL_EPISODES), list(range(PARALLEL_EPISODES))  # the episode in each copy
    envs.restart(copies, [np.random.default_rng([*stream, 1, i]) for i in playing])
    age = np.zeros(PARALLEL_EPISODES, int)
    record: dict[str, np.ndarray] = {}
    finished: dict[int, dict[str, np.ndarray]] = {}
    wanted = 0
    while True:
        observation = envs.observation
        random = policy is None
        action = rng.uniform(low, high, (len(copies), len(low))).astype(np.float32) if random else policy.act(observation, rng)
        result = envs.step(action)
        timeout = ~result.terminated & (age + 1 == envs.max_episode_steps)
        row = ppo.Experience(observation, action, result.reward, result.observation, result.terminated, timeout)._asdict()
        for field, value in row.items():
            if field not in record:
                record[field] = np.empty((len(copies), envs.max_episode_steps, *value.shape[1:]), value.dtype)
            record[field][copies, age] = value
        age += 1
        for copy in np.flatnonzero(result.terminated | timeout).tolist():
            finished[playing[copy]] = {field: value[copy, : age[copy]].copy() for field, value in record.items()}
            playing[copy], age[copy] = max(playing) + 1, 0
            envs.restart(np.array([copy]), [np.random.default_rng([*stream, 1, playing[copy]])])
        while wanted in finished:
            yield finished.pop(wanted)
            wanted += 1


def _episodes_of(experience: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A training's experience `[time, envs, ...]` as rows, one environment after another; ends of the record are timeouts."""
    rows = {f"replay.{field}": np.swapaxes(value, 0, 1).copy() for field, value in experience.items()}
    rows["replay.timeout"][:, -1] |= ~rows["replay.terminal"][:, -1]
    return {field: value.reshape(-1, *value.shape[2:]) for field, value in rows.items()}


def versions() -> str:
    """What the rows depend on, for the record."""
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("mujoco", "gymnasium", "jax", "numpy"))


def _training(name: str, seed: int) -> Shard:
    return Shard(
        f"ppo-{name}", 0, train_policies, (name, seed), note=f"training PPO on {TASKS[name].env_id}, once for all its datasets"
    )


def _shards(name: str, quality: str, seed: int, rows: int) -> list[Shard]:
    if quality == "medium-replay":
        return [Shard("replay", rows, replay, (seed, rows), needs=(_training(name, seed),))]
    halves = {"medium-expert": {"medium": rows // 2, "expert": rows - rows // 2}}.get(quality, {quality: rows})
    shards = []
    for part, share in halves.items():
        needs = () if part == "random" else (_training(name, seed),)
        for number in range(math.ceil(share / ROWS_PER_SHARD)):
            made = min(ROWS_PER_SHARD, share - number * ROWS_PER_SHARD)
            shards.append(Shard(f"{part}-{number:04d}", made, play, (name, part, seed, number, made), needs=needs))
    return shards


def replay(seed: int, rows: int, trained: Any) -> dict[str, np.ndarray]:
    """At most `rows` of the training's experience, as whole episodes drawn without replacement, in their order."""
    with np.load(trained, allow_pickle=False) as file:
        experience = {field: file[f"replay.{field}"] for field in ppo.Experience._fields}
    ends = np.flatnonzero(experience["terminal"] | experience["timeout"]) + 1
    starts = np.concatenate([[0], ends[:-1]])
    order = np.random.default_rng([seed, _DATA_STREAM, QUALITIES.index("medium-replay")]).permutation(len(ends))
    fits = np.cumsum((ends - starts)[order]) <= rows
    kept = np.sort(order[fits])
    index = np.concatenate([np.arange(int(starts[i]), int(ends[i])) for i in kept])
    return {field: value[index] for field, value in experience.items()}


def _product(name: str, quality: str, seed: int, rows: int, shards: dict[str, dict[str, np.ndarray]]) -> Product:
    import gymnasium

    task = TASKS[name]
    episodes = [episode for key in sorted(shards) for episode in split_episodes(shards[key])]
    made = sum(len(episode["rewards"]) for episode in episodes)
    mean_return = float(np.mean([episode["rewards"].sum() for episode in episodes]))
    how = {
        "random": "uniformly random actions",
        "medium": f"an early PPO policy, return nearest {task.medium:.0f}, a third of D4RL's reference maximum; sampled",
        "expert": "the best policy of a PPO training; sampled",
        "medium-expert": "half of the medium and half of the expert dataset's policies; sampled",
        "medium-replay": "whole episodes that the PPO training saw up to the medium policy",
    }[quality]
    return Product(
        episodes=episodes,
        env=gymnasium.make(task.env_id),
        eval_env=gymnasium.make(task.env_id),
        metadata={"algorithm_name": "random" if quality == "random" else "PPO", "mean_return": mean_return},
        reference=task.reference,
        reference_source="D4RL's constants for the task (d4rl/infos.py)",
        description=(
            f"{task.env_id}, {made} transitions of {how}. Mean episode return {mean_return:.0f}. Not D4RL's data: policies of "
            f"another algorithm and strength. Seed {seed}, {versions()}."
        ),
        requirements=["mujoco>=3.5,<3.12", "gymnasium>=1.2,<2"],
    )


def _recipe(name: str, quality: str) -> Recipe:
    return Recipe(
        name=f"{name}/{quality}-v0",
        summary=f"{TASKS[name].env_id}, {quality}: "
        + ("uniform actions" if quality == "random" else "PPO policies trained here"),
        rows=200_000,
        shards=functools.partial(_shards, name, quality),
        assemble=functools.partial(_product, name, quality),
        fingerprint=versions,
        cost=_RANDOM_COSTS[name] if quality == "random" else _COSTS[name],
    )


# Measured with random actions, whose episodes last 22 steps but HalfCheetah's. Of the trained policies, computed: rows are
# simulated at BUILD.md's rates and stored as fast as HalfCheetah's; a row takes 4 bytes a number and 10 for reward and ends, and
# an episode 14,400, as all measured sets have it, here of 500 steps; a PPO step 110 µs, which the small suite's 9.6 min leave it.
_RANDOM_COSTS = {"hopper": Cost(2_800, 704), "halfcheetah": Cost(10_100, 117), "walker2d": Cost(2_600, 734)}
_COSTS = {"hopper": Cost(6_600, 95, 165), "halfcheetah": Cost(10_100, 117, 275), "walker2d": Cost(4_600, 131, 165)}
RECIPES = tuple(_recipe(name, quality) for name in TASKS for quality in QUALITIES)
