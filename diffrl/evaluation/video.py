"""One episode as a video, from the original simulator."""

import importlib.util
import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np

from diffrl import config as configs
from diffrl.data.dataset import Card
from diffrl.data.flatten import flatten_one, select_keys
from diffrl.envs.gymnasium_backend import make_env
from diffrl.evaluation import results
from diffrl.evaluation.evaluate import abstract_policies, build_algorithm
from diffrl.evaluation.results import Result
from diffrl.evaluation.rollout import episode_seeds
from diffrl.training.checkpoint import Checkpoints
from diffrl.training.runs import make_runs
from diffrl.types import Spec


class VideoError(RuntimeError):
    """This machine cannot render; one line says why."""


def record(workdir: Path, result: Result, run: int = 0) -> Path:
    """Record one episode of one run beside its result: MP4, or GIF without ffmpeg.

    An illustration: it is none of the scored episodes, its action noise differs.

    Raises:
        VideoError: simulator, imageio or an off-screen renderer is missing.
    """
    if sys.platform.startswith("linux"):
        os.environ.setdefault("MUJOCO_GL", "egl")  # no display needed
    try:
        frames, fps = _frames(workdir, result, run)
        import imageio.v3 as imageio

        suffix = ".mp4" if importlib.util.find_spec("imageio_ffmpeg") else ".gif"
        path = results.path_of(workdir, result.step, result.settings).with_suffix(suffix)
        options: Any = {"fps": fps} if suffix == ".mp4" else {"duration": 1000 / fps, "loop": 0}
        with warnings.catch_warnings():
            # JAX warns of any fork; the encoder's is followed by exec at once, which is safe.
            warnings.filterwarnings("ignore", message="os.fork", category=RuntimeWarning)
            imageio.imwrite(path, np.stack(frames), **options)
    # Renderers fail in many ways (no EGL, no driver, no window); none of them may cost the evaluation.
    except Exception as error:
        reason = str(error).strip().splitlines()
        hint = (
            "" if "MUJOCO_GL" in str(error) else f" (MUJOCO_GL={os.environ.get('MUJOCO_GL', '')}; osmesa renders without a GPU)"
        )
        raise VideoError(f"no video, rendering failed: {reason[0] if reason else type(error).__name__}{hint}") from error
    return path


def _frames(workdir: Path, result: Result, run: int) -> tuple[list[np.ndarray], float]:
    card = Card.from_json(json.loads((workdir / "dataset.json").read_text()))
    spec = Spec.from_json(json.loads((workdir / "spec.json").read_text()))
    algorithm = build_algorithm(workdir, spec, result.settings.act)
    checkpoints = Checkpoints(workdir)
    try:
        policies = checkpoints.restore_policy(result.step, abstract_policies(algorithm, make_runs(configs.load(workdir))))
    finally:
        checkpoints.close()
    policy = jax.tree.map(lambda x: x[run], policies)
    env_spec = json.loads(card.env_spec or "{}")
    env_spec["kwargs"] = {**(env_spec.get("kwargs") or {}), "render_mode": "rgb_array"}
    env = make_env(json.dumps(env_spec))
    keys = select_keys(env.observation_space, card.observation_keys)
    act, carry = jax.jit(algorithm.act), algorithm.init_carry(policy, 1)
    seed = result.settings.seed
    observation, _ = env.reset(seed=episode_seeds([result.seeds[run]], seed, 1)[0])
    frames, ended = [np.asarray(env.render())], False
    while not ended:
        key = jax.random.fold_in(jax.random.key(seed), len(frames))
        action, carry = act(policy, carry, flatten_one(observation, keys)[None], key)
        observation, _, terminated, truncated, _ = env.step(np.asarray(action[0]))
        frames.append(np.asarray(env.render()))
        ended = terminated or truncated
    fps = float(env.metadata.get("render_fps", 30))
    env.close()
    # PointMaze renders 50 frames per second or more; half of them make the same film at half the size.
    return (frames[::2], fps / 2) if fps > 40 else (frames, fps)
