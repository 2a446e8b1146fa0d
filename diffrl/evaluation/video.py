"""The best, the median and the worst scored episode as videos."""

import contextlib
import importlib.util
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from diffrl import files
from diffrl.data.dataset import Card
from diffrl.envs import make as environments
from diffrl.envs import rendering
from diffrl.envs.gymnasium_backend import GymnasiumEnvironments, make_env
from diffrl.errors import UserError
from diffrl.evaluation import results
from diffrl.evaluation.evaluate import make_rollout
from diffrl.evaluation.results import Result
from diffrl.evaluation.rollout import Rollouts, episode_seeds
from diffrl.training.trained import Trained

# Films play in real time. Frames are left out where a simulator steps faster than this, and of long episodes: without a
# GPU, drawing takes 0.02 to 0.1 s per frame.
FRAMES_PER_SECOND, MAX_FRAMES = 25, 500


class VideoError(UserError, RuntimeError):
    """No video can be made; one line says why."""


def record(workdir: Path, result: Result) -> list[Path]:
    """Write the best, the median and the worst episode of a result, over all runs, beside it: MP4, or GIF without ffmpeg.

    The whole evaluation is repeated, with the same seeds and the same compiled program, to learn the states or actions of
    these three episodes; the repetition must give the scored returns. What one of JAX's simulators computed is drawn state by
    state; host simulators are driven through the recorded actions once more, and must give the scored return again.

    Raises:
        VideoError: simulator, imageio or an off-screen renderer is missing, or the episodes do not repeat.
    """
    drawable = rendering.prepare_offscreen()
    try:
        return [_write(workdir, *episode) for episode in _episodes(workdir, result)]
    except VideoError:
        raise
    # Renderers fail in many ways (no EGL, no driver, no window); none of them may cost the evaluation.
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        why = f"{reason} (MUJOCO_GL={os.environ.get('MUJOCO_GL', '')})" if drawable else rendering.NO_RENDERER
        raise VideoError(f"no video, rendering failed: {why}") from error


def choose(returns: np.ndarray) -> list[tuple[int, int]]:
    """(run, episode) of the best, the median and the worst return of `[R, E]`; diverged runs (NaN) do not count.

    Raises:
        VideoError: all have diverged.
    """
    order = np.argsort(returns, axis=None, kind="stable")[: np.isfinite(returns).sum()]  # NaN is sorted to the end
    if not len(order):
        raise VideoError("no video: every run has diverged")
    chosen = (order[-1], order[(len(order) - 1) // 2], order[0])
    return [tuple(int(i) for i in np.unravel_index(index, returns.shape)) for index in chosen]  # pyright: ignore[reportReturnType]


def _episodes(workdir: Path, result: Result) -> Iterator[tuple[Path, Iterator[np.ndarray], float]]:
    """File, frames and frames per second of each."""
    trained = Trained.open(workdir)
    card = trained.card
    given = result.settings.backend, card.env_spec or "", card.observation_keys
    backend, times = environments.choose(*given, card.action_repeat), card.action_repeat
    chosen = choose(result.returns)
    rolled = _repeat(trained, result, backend, [episode for _, episode in chosen])
    # An environment on the device shows the states in which actions were chosen, a host's simulator is driven step by step.
    steps_per_second = _steps_per_second(card.env_spec or "") / (1 if backend.device is None else times)
    for position, (which, (run, episode)) in enumerate(zip(results.FILMED, chosen, strict=True)):
        scored = float(result.returns[run, episode])
        _check(scored, float(rolled.returns[run, episode]))
        length = int(rolled.lengths[run, episode])
        shown = length * (times if backend.device is None else 1)
        stride = max(1, round(steps_per_second / FRAMES_PER_SECOND), -(-shown // MAX_FRAMES))
        watched = jax.tree.map(lambda x: x[run, position, : length + 1], rolled.watched)  # noqa: B023
        if backend.device is not None:
            frames = _drawn(card, watched, stride)
        else:
            seed = episode_seeds([result.seeds[run]], result.settings.seed, episode + 1)[-1]
            frames = _driven(card, environments.choose(*given), seed, watched[:length].repeat(times, axis=0), scored, stride)
        path = results.path_of(workdir, result.step, result.settings)
        yield path.with_name(f"{path.stem}-{which}"), frames, steps_per_second / stride


def _repeat(trained: Trained, result: Result, backend: environments.Backend, watched: list[int]) -> Rollouts:
    """The scored evaluation once more."""
    algorithm, runs = trained.acting(result.settings.act).algorithm, trained.runs
    try:
        policies = trained.restore(result.step, algorithm)
    finally:
        trained.close()
    episodes, seed = result.settings.episodes, result.settings.seed
    with contextlib.ExitStack() as stack:
        envs: Any = backend.device
        if backend.host is not None:
            envs = backend.host(runs.size * episodes)
            stack.callback(envs.close)
        stack.enter_context(jax.default_matmul_precision(trained.config.matmul_precision))
        return make_rollout(algorithm, envs, trained.spec, runs.size, episodes)(policies, result.seeds, seed, watched=watched)


def _check(scored: float, repeated: float) -> None:
    if not np.isclose(scored, repeated, rtol=1e-4, atol=1e-4):
        raise VideoError(
            f"no video: an episode that scored {scored:.2f} gave {repeated:.2f} when repeated, as happens with other versions "
            "or hardware; evaluate again with --force"
        )


def _steps_per_second(env_spec: str) -> float:
    env = make_env(env_spec)
    env.close()
    return float(env.metadata.get("render_fps", 30))


def _drawn(card: Card, states: Any, stride: int) -> Iterator[np.ndarray]:
    """States `[T+1, ...]` of a DeviceEnvironment."""
    camera = rendering.Camera(card.env_spec or "")
    try:
        for t in range(0, len(jax.tree.leaves(states)[0]), stride):
            yield camera.frame(*jax.tree.map(lambda x: x[t], states))  # noqa: B023
    finally:
        camera.close()


def _driven(
    card: Card, backend: environments.Backend, seed: int, actions: np.ndarray, scored: float, stride: int
) -> Iterator[np.ndarray]:
    """Actions `[T, A]` applied to a host simulator from the start of the episode."""
    assert backend.host is not None
    with contextlib.ExitStack() as stack:
        camera: Any = None
        if backend.name == "mujoco":
            envs: Any = backend.host(1)
            camera = rendering.Camera(card.env_spec or "")
            stack.callback(camera.close)
        else:
            envs = GymnasiumEnvironments(rendering.drawing(card.env_spec or ""), card.observation_keys, 1)
        stack.callback(envs.close)

        def frame() -> np.ndarray:
            return envs.render() if camera is None else camera.frame(envs.qpos[0], envs.qvel[0])

        envs.reset([seed])
        yield frame()
        total = 0.0
        for t, action in enumerate(actions, start=1):
            total += float(envs.step(action[None]).reward[0])
            if t % stride == 0:
                yield frame()
        _check(scored, total)


def _write(workdir: Path, path: Path, frames: Iterator[np.ndarray], fps: float) -> Path:
    """Encode frame by frame: an episode's frames together would fill a gigabyte."""
    import imageio.v2 as imageio

    mp4 = importlib.util.find_spec("imageio_ffmpeg") is not None
    options: Any = {"fps": fps, "codec": "libx264"} if mp4 else {"duration": 1000 / fps, "loop": 0}
    suffix = ".mp4" if mp4 else ".gif"
    partial = path.with_name(f".{path.name}.partial{suffix}")
    whole = path.with_name(path.name + suffix)  # labels hold dots, which with_suffix would take for a suffix
    for target in (partial, whole):
        files.inside(target, workdir)
    try:
        with warnings.catch_warnings():
            # JAX warns of any fork; the encoder's is followed by exec at once, which is safe.
            warnings.filterwarnings("ignore", message="os.fork", category=RuntimeWarning)
            writer: Any
            with imageio.get_writer(partial, **options) as writer:
                for frame in frames:
                    writer.append_data(frame)
        return partial.replace(whole)
    finally:
        partial.unlink(missing_ok=True)
