"""Videos show the very episodes that were scored."""

import dataclasses
import io
import json
import os
import subprocess
from pathlib import Path

import gymnasium
import imageio_ffmpeg
import numpy as np
import pytest
from rich.console import Console
from workdirs import card, describe, env_spec, save_checkpoint, tiny_config

from diffrl.envs import rendering, trust
from diffrl.evaluation import video
from diffrl.evaluation.evaluate import Options, evaluate_workdir
from diffrl.evaluation.video import VideoError


class Counting(gymnasium.Env):
    """The reward is the first action, plus a tenth per step; a frame holds the return so far and the steps done."""

    observation_space = gymnasium.spaces.Box(-9, 9, (6,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.total = 0, 0.0
        self.end = int(self.np_random.integers(3, 9))
        self.x = self.np_random.normal(size=6).astype(np.float32)
        return self.x, {}

    def step(self, action):
        self.t += 1
        self.x = (self.x + 0.1 * float(action[1])).astype(np.float32)
        reward = float(action[0]) + 0.1 + float(self.x[0])
        self.total += reward
        return self.x, reward, self.t == self.end, False, {}

    def render(self):
        assert self.render_mode == "rgb_array"
        return np.array([self.total, self.t])


def scored(path: Path, spec: str, backend: str, sizes: tuple[int, int] = (6, 2), episodes: int = 4):
    """A workdir whose environment is `spec`, and the result of evaluating it."""
    keys = ("observation", "desired_goal") if "PointMaze" in spec else None
    bounds = {"action_low": (-1.0,) * sizes[1], "action_high": (1.0,) * sizes[1]}
    describe(path, tiny_config(sweep=""), card(env_spec=spec, observation_keys=keys, **bounds), *sizes)
    save_checkpoint(path, 10)
    (result,) = evaluate_workdir(path, Options(episodes=episodes, backend=backend), Console(file=io.StringIO()))
    assert result.returns.shape == (2, episodes)
    return result


def registered(name: str, steps: int) -> str:
    return json.dumps({**json.loads(gymnasium.spec(name).to_json()), "max_episode_steps": steps})


class StateCamera:
    """Instead of drawing, hands out the state."""

    def __init__(self, env_spec_json):
        assert json.loads(env_spec_json)["id"]

    def frame(self, qpos, qvel, goal=None):
        return np.concatenate([qpos, qvel, [] if goal is None else goal])

    def close(self):
        pass


def films(path: Path, result) -> list[tuple[str, np.ndarray, float]]:
    return [(file.name, np.stack(list(frames)), fps) for file, frames, fps in video._episodes(path, result)]


def test_best_median_worst():
    returns = np.array([[3.0, 9.0, 1.0], [np.nan, 5.0, 4.0]])
    assert video.choose(returns) == [(0, 1), (1, 2), (0, 2)]
    assert video.choose(np.array([[2.0]])) == [(0, 0)] * 3
    assert video.choose(np.array([[1.0, 2.0]])) == [(0, 1), (0, 0), (0, 0)]
    with pytest.raises(VideoError, match="every run has diverged"):
        video.choose(np.full((2, 2), np.nan))


@pytest.mark.slow
def test_gymnasium_repeats_the_scored_episodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(trust.VARIABLE, __name__)
    entry = {"id": "Counting-v0", "entry_point": f"{__name__}:Counting", "max_episode_steps": 20, "kwargs": {}}
    rest = {"reward_threshold": None, "nondeterministic": False, "order_enforce": True, "disable_env_checker": False}
    spec = json.dumps({**entry, **rest, "additional_wrappers": [], "vector_entry_point": None})
    result = scored(tmp_path, spec, "auto")
    assert result.settings.backend == "gymnasium"
    names, frames, rates = zip(*films(tmp_path, result), strict=True)
    assert names == tuple(f"gymnasium-4episodes-seed0-{which}" for which in ("best", "median", "worst"))
    assert rates == (20.0,) * 3
    ordered = np.sort(result.returns.ravel())
    for film, expected in zip(frames, (ordered[-1], ordered[3], ordered[0]), strict=True):
        assert film[-1, 0] == pytest.approx(expected, abs=1e-5)
        np.testing.assert_array_equal(film[:, 1], np.arange(len(film)))
        assert len(film) - 1 in result.lengths
    assert len(set(ordered)) == 8
    # A file that says something else than what happens is found out.
    with pytest.raises(VideoError, match=r"gave .* when repeated.*--force"):
        films(tmp_path, dataclasses.replace(result, returns=result.returns + 0.01))


@pytest.mark.slow
def test_jax_maze_shows_the_scored_states(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rendering, "Camera", StateCamera)
    monkeypatch.setattr(video, "FRAMES_PER_SECOND", 50)
    result = scored(tmp_path, env_spec(), "jax")
    for (run, episode), (_, film, fps) in zip(video.choose(result.returns), films(tmp_path, result), strict=True):
        assert film.shape == (16, 6)
        assert fps == 50
        # The dense reward of the positions shown is the return.
        rewards = np.exp(-np.linalg.norm(film[1:, :2] - film[1:, 4:], axis=1))
        assert rewards.sum() == pytest.approx(result.returns[run, episode], rel=1e-5)
    monkeypatch.setattr(video, "FRAMES_PER_SECOND", 25)
    monkeypatch.setattr(video, "MAX_FRAMES", 4)
    assert [(len(film), fps) for _, film, fps in films(tmp_path, result)] == [(4, 12.5)] * 3


@pytest.mark.slow
def test_mujoco_repeats_the_scored_episodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rendering, "Camera", StateCamera)
    result = scored(tmp_path, registered("Walker2d-v5", 60), "auto", (17, 6))
    assert result.settings.backend == "mujoco"
    for (run, episode), (_, film, fps) in zip(video.choose(result.returns), films(tmp_path, result), strict=True):
        assert film.shape == (result.lengths[run, episode] // 5 + 1, 18)
        assert fps == 25.0
        assert abs(film[0, 0]) < 5e-3  # x at the start
    assert len(set(result.lengths.ravel())) > 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:os.fork")  # counting frames forks
def test_files_or_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """MuJoCo's own pictures where this machine can draw; else the one message."""
    monkeypatch.setenv("MUJOCO_GL", "")
    result = scored(tmp_path, env_spec(), "gymnasium", episodes=1)
    if not rendering.prepare_offscreen():
        with pytest.raises(VideoError, match="apt install libegl1"):
            video.record(tmp_path, result)
        return
    paths = video.record(tmp_path, result)
    folder = tmp_path / "evaluations" / "10"
    assert paths == [folder / f"gymnasium-1episodes-seed0-{which}.mp4" for which in ("best", "median", "worst")]
    assert [imageio_ffmpeg.count_frames_and_secs(str(path))[0] for path in paths] == [8] * 3
    drawn = [film for _, film, _ in films(tmp_path, result)]
    assert all(film.shape == (8, 480, 480, 3) for film in drawn)
    assert drawn[0].std() > 10  # not one colour
    assert (drawn[0][-1] != drawn[2][-1]).any()
    assert not list(folder.glob(".*"))


@pytest.mark.slow
def test_without_any_renderer_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def broken(self, env_spec_json):
        raise RuntimeError("an OpenGL platform library has not been loaded")

    result = scored(tmp_path, registered("Walker2d-v5", 5), "mujoco", (17, 6), episodes=1)
    monkeypatch.setattr(rendering.Camera, "__init__", broken)
    monkeypatch.setattr(rendering, "prepare_offscreen", lambda: False)
    with pytest.raises(VideoError, match="neither EGL nor OSMesa draws here; on Debian and Ubuntu install one: apt install"):
        video.record(tmp_path, result)
    monkeypatch.setattr(rendering, "prepare_offscreen", lambda: True)
    monkeypatch.setenv("MUJOCO_GL", "egl")
    with pytest.raises(VideoError, match=r"platform library has not been loaded \(MUJOCO_GL=egl\)"):
        video.record(tmp_path, result)


@pytest.mark.parametrize("working, found", [(("egl", "osmesa"), "egl"), (("osmesa",), "osmesa"), ((), "")])
def test_the_first_renderer_that_works(working: tuple[str, ...], found: str, monkeypatch: pytest.MonkeyPatch):
    def run(command, env, **options):
        return subprocess.CompletedProcess(command, 0 if env["MUJOCO_GL"] in working else 1)

    monkeypatch.setattr(rendering.subprocess, "run", run)
    monkeypatch.setattr(rendering.sys, "platform", "linux")
    monkeypatch.setenv("MUJOCO_GL", "")
    assert rendering.prepare_offscreen() == bool(working)
    assert os.environ["MUJOCO_GL"] == found
    monkeypatch.setenv("MUJOCO_GL", "glfw")
    assert rendering.prepare_offscreen()
    assert os.environ["MUJOCO_GL"] == "glfw"


def test_the_view_follows_the_robot():
    assert json.loads(rendering.drawing(registered("HalfCheetah-v5", 5)))["kwargs"] == {
        "camera_name": "track",
        "render_mode": "rgb_array",
    }
    assert json.loads(rendering.drawing(registered("Hopper-v5", 5)))["kwargs"] == {"render_mode": "rgb_array"}
