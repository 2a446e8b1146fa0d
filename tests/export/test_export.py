"""Policies elsewhere: each format acts as JAX does, in a process without diffrl."""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contract.cases import shrink
from contract.small_methods import METHODS
from documents import python
from programs import run
from support import quick_compilation, unchecked

from diffrl.acting import choose
from diffrl.evaluation import results
from diffrl.export import arrays, check, onnx, stablehlo
from diffrl.export.export import export
from diffrl.export.function import Acting, ExportError, acting_of
from diffrl.registry import REGISTRY, make
from diffrl.types import Spec

PARTS = (("observation", 2), ("desired_goal", 1))
SPEC = Spec(3, 2, (1.0, -2.0, 0.5), (2.0, 0.5, 1.0), (-2.0, 0.0), (2.0, 1.0), (-1.0,) * 3, (1.0,) * 3, PARTS)
ACROSS = pytest.mark.parametrize("name", [*REGISTRY, *METHODS])


@cache
def acting(name: str, chunk: int = 1) -> Acting:
    """A small policy of a method whose weights are random numbers, which compiles nothing."""
    method = (REGISTRY | METHODS)[name]
    spec = SPEC if "box" in method.actions else Spec(3, 4, *((x,) * 3 for x in (0.0, 1.0)), (0.0,) * 4, (1.0,) * 4, num_actions=4)
    config = shrink(method.config())
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(REGISTRY, name, method)
        algorithm = make(config, spec, chunk)
    hparams = jax.tree.map(np.float32, algorithm.hparams)
    shapes = jax.eval_shape(lambda key: algorithm.policy(algorithm.init(key, hparams)), jax.random.key(0))
    rng = np.random.default_rng(0)

    def filled(x: Any) -> Any:
        floating = jnp.issubdtype(x.dtype, jnp.floating)
        return (0.3 * rng.standard_normal(x.shape)).astype(x.dtype) if floating else np.zeros(x.shape, x.dtype)

    with unchecked():
        return acting_of(algorithm, jax.tree.map(filled, shapes), spec)


@ACROSS
def test_draws_can_be_taken_out_of_every_method(name: str) -> None:
    found = acting(name)
    assert not found.undrawable
    assert found.random == (name in RANDOM)


RANDOM = {
    "beso",
    "bridger",
    "cep",
    "cfgrl",
    "dsrl",
    "qc",
    "dac",
    "diar",
    "diffusion_bc",
    "diffusion_ql",
    "edp",
    "fql",
    "idql",
    "qgpo",
    "qsm",
    "sgp",
    "swg",
}


@pytest.mark.parametrize(
    "name", ["fql", pytest.param("qsm", marks=pytest.mark.slow), pytest.param("idql", marks=pytest.mark.slow)]
)
def test_draws_given_are_those_that_were_made(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `jax.random.normal` gives while a policy acts, handed in from outside, makes the same action."""
    made: list[Any] = []
    normal = jax.random.normal

    def noted(*arguments: Any) -> Any:
        made.append(normal(*arguments))
        return made[-1]

    found, observation = acting(name), jnp.ones(3)
    with monkeypatch.context() as patch, unchecked():
        patch.setattr(jax.random, "normal", noted)
        expected, _ = found.by_key(observation, [], jax.random.key(3))
        action, _ = jax.jit(found.by_draws)(observation, [], made)
    assert [draw.shape for draw in found.draws] == [x.shape for x in made]
    np.testing.assert_allclose(action, expected, atol=1e-5)


@pytest.mark.parametrize(
    "name",
    [name if name in ("srpo", *METHODS) else pytest.param(name, marks=pytest.mark.slow) for name in (*REGISTRY, *METHODS)],
)
def test_every_method_as_stablehlo(name: str) -> None:
    """For 1 and for 4 environments by one program, with what is remembered; `write` compares it with JAX."""
    pytest.importorskip("flatbuffers")
    with unchecked(), quick_compilation():
        traced = acting(name)
        found = stablehlo.write(traced, "policy.stablehlo")
    assert found.difference <= 1e-5
    assert found.inputs[0].shape == ("batch", 3)
    assert [tensor.role for tensor in found.inputs][1:] == ["carry"] * len(traced.carry) + ["seed"] * (name in RANDOM)


CHOSEN = [("window", 1, "batch"), ("fql", 3, "batch"), ("dac", 3, 1)]
OTHERS = [(name, 1, 1) for name in ("sgp", "swg")] + [(name, 1, "batch") for name in ("idql", "qsm", "srpo", "discrete", "sac")]


@pytest.mark.parametrize(("name", "chunk", "batch"), CHOSEN + [pytest.param(*case, marks=pytest.mark.slow) for case in OTHERS])
def test_as_onnx(name: str, chunk: int, batch: int | str) -> None:
    """Memory, noise, a branch on who needs a chunk; `write` compares it with JAX by onnxruntime."""
    pytest.importorskip("jax2onnx")
    with unchecked(), quick_compilation():
        found = onnx.write(acting(name, chunk), "policy.onnx")
    assert found.difference <= 1e-5
    assert found.inputs[0].shape == (batch, 3)
    assert len([tensor for tensor in found.inputs if tensor.role == "noise"]) == len(acting(name, chunk).draws)


@pytest.mark.parametrize("name", ["bc", "window", "fql", pytest.param("qsm", marks=pytest.mark.slow), "discrete"])
def test_as_plain_arrays(name: str) -> None:
    with unchecked(), quick_compilation():
        found = arrays.write(acting(name), "policy.npz")
    assert found.difference <= 1e-5
    assert len(found.operations) < 100


@pytest.mark.parametrize(("name", "operation"), [("idql", "gather"), ("sgp", "scan")])
def test_plain_arrays_say_what_they_cannot_describe(name: str, operation: str) -> None:
    with unchecked(), pytest.raises(ExportError, match=f"describe no '{operation}', which this policy needs: --format=onnx or"):
        arrays.write(acting(name), "policy.npz")


def test_what_acts_otherwise_is_not_written() -> None:
    def off(observation: np.ndarray) -> list[np.ndarray]:
        return [observation[:, :2] + 3e-5]

    inputs = [check.Tensor("observation", ("batch", 3), "float32", "observation")]
    exact = lambda observation: [observation[:, :2]]  # noqa: E731
    with pytest.raises(ExportError, match=r"acts otherwise than JAX, by 6\.\de-05 of half an action's range"):
        check.difference(exact, off, inputs, SPEC)  # the second action's range is 1
    assert check.difference(exact, off, inputs, SPEC, tolerance=1e-4) > 5e-5


ALONE = """
import json, sys, time
sys.modules["diffrl"] = None
{blocked}
sys.path.insert(0, {folder!r})
import numpy as np
{load}
observation = np.array({observation}, np.float32)
actions = [act(observation) for _ in range(3)]
begun = time.perf_counter()
for _ in range(100):
    act(observation)
print(json.dumps([np.asarray(actions).tolist(), (time.perf_counter() - begun) * 1e4]))
"""
LOADS = {
    "npz": 'from read_policy import Policy; policy = Policy("{file}")\n'
    'noise = {{x["name"]: np.zeros(x["shape"], np.float32) for x in policy.description["inputs"] if x["role"] == "noise"}}\n'
    "act = lambda x: policy(x, **noise)",
    "stablehlo": "import jax; from jax import export, random\n"
    'policy = export.deserialize(bytearray(open("{file}", "rb").read()))\n'
    "call = jax.jit(policy.call); act = lambda x: call(x[None], np.uint32(7))[0][0]",
    "onnx": 'import onnxruntime; session = onnxruntime.InferenceSession("{file}")\n'
    "noise = {{i.name: np.zeros([1, *i.shape[1:]], np.float32) for i in session.get_inputs()[1:]}}\n"
    'act = lambda x: session.run(None, {{"observation": x[None], **noise}})[0][0]',
}


def test_each_format_acts_where_diffrl_is_not(workdir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("jax2onnx")
    ones = np.ones((4, 2), int)
    settings = results.Settings("jax", "a simulator", 2, 0)
    points = [{"learning_rate": rate} for rate in (0.1, 0.1, 0.2, 0.2)]
    evaluated = results.Result(30, settings, None, "", [0, 1, 0, 1], points, 1.0 * ones * [[1], [3], [9], [5]], ones, ones > 0)
    results.save(workdir, evaluated, np.zeros((4, 0, 1, 6), np.float32))
    chosen = choose(workdir, run="best")
    with unchecked(), quick_compilation():
        found = export(chosen, list(LOADS), tmp_path / "out", "diffrl-export --workdir=x")
        acts = acting_of(chosen.algorithm, chosen.arrays, chosen.trained.spec)
    observation = [0.1, -0.2, 0.3, 0.0, 1.0, -1.0]
    for name, load in LOADS.items():
        file = tmp_path / "out" / f"policy.{name}"
        blocked = "" if name == "stablehlo" else 'sys.modules["jax"] = None'
        code = ALONE.format(blocked=blocked, folder=str(file.parent), load=load.format(file=file), observation=observation)
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "JAX_PLATFORMS": "cpu"}
        )
        assert done.returncode == 0, done.stderr[-2000:]
        actions, microseconds = json.loads(done.stdout)
        print(f"{name}: {microseconds:.0f} µs an action in its process, {found[name].microseconds:.0f} here")
        assert np.all(np.abs(actions) <= 1.0)
        with unchecked(), quick_compilation():
            if name != "stablehlo":
                draws = [jnp.zeros(draw.shape) for draw in acts.draws]
                expected, _ = jax.jit(acts.by_draws)(jnp.asarray(observation), [], draws)
            else:
                key = jax.random.fold_in(jax.random.key(7), 0)
                expected, _ = jax.jit(acts.by_key)(jnp.asarray(observation), [], key)
        np.testing.assert_allclose(actions, [expected] * 3, atol=1e-5)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "robot").symlink_to("out")
    names: dict[str, Any] = {}
    (documented,) = python("docs/export.md")
    exec(documented, names)
    action = names["act"](np.array(observation))
    assert action.shape == (2,)
    assert np.all(np.abs(action) <= 1.0)
    described = json.loads((tmp_path / "out" / "policy.onnx.json").read_text())
    assert (described["method"], described["run"], described["step"]) == ("diffusion_bc", 2, 30)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "return: 9.0 of this run; mean 7.0, 95 % interval 5.0 … 9.0 of the 2 runs" in card
    assert "learning_rate=0.2" in card
    assert "diffrl-export --workdir=x" in card


@pytest.mark.parametrize(("module", "writer"), [("jax2onnx", onnx), ("onnxruntime", onnx), ("flatbuffers", stablehlo)])
def test_without_the_extra_it_names_the_command(module: str, writer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if module == "onnxruntime":
        pytest.importorskip("jax2onnx")
    for name in [name for name in sys.modules if name.split(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    if module == "flatbuffers":
        monkeypatch.delitem(sys.modules, "jax._src.export.serialization", raising=False)
    with unchecked(), pytest.raises(ExportError, match=rf"needs .*{module}.*: pip install 'diffrl\[export\]'"):
        writer.write(acting("bc"), "policy")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--workdir is required"),
        (["--workdir=/nonexistent/workdir"], "does not exist"),
        (["--workdir=x", "--act=a=1,2"], "one policy acts in one"),
    ],
)
def test_launcher_says_it_in_one_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    (line,) = run(tmp_path, "launch/export.py", *arguments, code=2).stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_the_program(workdir: Path, tmp_path: Path) -> None:
    said = run(tmp_path, "launch/export.py", f"--workdir={workdir}", "--format=npz", "--run=1").stdout
    assert "npz: " in said
    assert "µs an action here" in said
    assert {path.name for path in (workdir / "export").iterdir()} == {
        "policy.npz",
        "policy.npz.json",
        "read_policy.py",
        "README.md",
    }
    (line,) = run(tmp_path, "launch/export.py", f"--workdir={workdir}", "--format=torch", code=2).stderr.splitlines()
    assert line == "error: --format=torch is unknown; choose of onnx, stablehlo, npz"
