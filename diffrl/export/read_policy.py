"""A policy that diffrl exported as plain arrays, in NumPy alone: policy = Policy("policy.npz"); action = policy(observation)."""

import json
from pathlib import Path

import numpy as np

SAME = (
    "add subtract multiply divide maximum minimum power negative absolute sign floor exp expm1 log log1p sqrt square tanh sin "
    "cos greater less greater_equal less_equal equal not_equal logical_and logical_or logical_not where argmax reshape "
    "broadcast_to transpose matmul tensordot"
)
OPERATIONS = {name: getattr(np, name) for name in SAME.split()} | {
    "sum": lambda x, axis: np.sum(x, axis=tuple(axis)),
    "max": lambda x, axis: np.max(x, axis=tuple(axis)),
    "min": lambda x, axis: np.min(x, axis=tuple(axis)),
    "logistic": lambda x: np.exp(-np.logaddexp(0.0, -x)),
    "slice": lambda x, bounds: x[tuple(slice(*bound) for bound in bounds)],
    "concatenate": lambda *x, axis: np.concatenate(x, axis),
    "astype": lambda x, dtype: np.asarray(x).astype(dtype),
    "einsum": lambda x, y, subscripts: np.einsum(subscripts, x, y),
}


class Policy:
    def __init__(self, path, seed=0):
        self.description = json.loads(Path(f"{path}.json").read_text())
        with np.load(path, allow_pickle=False) as arrays:
            self.arrays = dict(arrays)
        self.rng = np.random.default_rng(seed)
        self.reset()

    def reset(self):
        inputs = self.description["inputs"]
        self.carry = {x["name"]: np.array(x["initial"], x["dtype"]) for x in inputs if x["role"] == "carry"}

    def __call__(self, observation, **noise):
        draw = {"normal": self.rng.standard_normal, "gumbel": lambda shape: self.rng.gumbel(size=shape)}
        values = {**self.arrays, **self.carry, "observation": np.asarray(observation, np.float32), **noise}
        for x in self.description["inputs"]:
            if x["name"] not in values:
                values[x["name"]] = draw[x["distribution"]](x["shape"]).astype(np.float32)
        for step in self.description["operations"]:
            given = [values[x] if isinstance(x, str) else x for x in step["inputs"]]
            values[step["output"]] = OPERATIONS[step["name"]](*given, **step["options"])
        self.carry = {name: values[f"next_{name}"] for name in self.carry}
        return values["action"]
