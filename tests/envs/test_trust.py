"""Arguments of environments come from files: they are bounded before anything is made of them."""

import json

import pytest
from workdirs import env_spec

from diffrl.envs import make, trust
from diffrl.envs.gymnasium_backend import BackendError

HUGE = {
    "a stack": {"additional_wrappers": [{"name": "FrameStackObservation", "kwargs": {"stack_size": 10**9}}]},
    "a maze": {"kwargs": {"maze_map": [[0] * 400] * 400}},
    "a number inside": {"kwargs": {"task": {"size": [10**7]}}},
}


@pytest.mark.parametrize("changes", HUGE.values(), ids=HUGE)
def test_what_would_take_all_memory_is_refused_by_every_backend(changes: dict) -> None:
    spec = json.dumps({**json.loads(env_spec()), **changes})
    for backend in ("auto", "jax", "gymnasium"):
        with pytest.raises(BackendError, match="no environment needs that"):
            make.choose(backend, spec, None)
    with pytest.raises(BackendError, match="no environment needs that"):
        make.interface(spec, None)


def test_what_environments_ask_for_is_let_through() -> None:
    trust.bounded(json.loads(env_spec()))
    trust.bounded({"id": "x", "kwargs": {"seed": 2**31, "width": 640, "range": [0.2, 1e9], "maze_map": [["g"] * 100] * 100}})
