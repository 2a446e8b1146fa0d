"""Observations that a file keeps in parts: which of them are put together, and in what order."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from diffrl.data.dataset import DatasetError


def choose(id: str, there: Mapping[str, bool], keys: tuple[str, ...]) -> tuple[str, ...]:
    """The parts that an observation is put together from, in order.

    Args:
        id: name of the data.
        there: whether a part is a vector, by name; images are none.
        keys: the choice; () for all vectors in alphabetical order.

    Raises:
        DatasetError: a part is not there or no vector.
    """
    vectors = sorted(name for name in there if there[name])
    unknown = [key for key in keys if key not in vectors]
    if unknown or not vectors:
        wanted = f"no vector {', '.join(unknown)}" if unknown else "no vector"
        listed = f"{', '.join(vectors) or 'none'}{_others(there, vectors)}"
        raise DatasetError(f"dataset {id!r} has {wanted} among its observations; there are {listed}")
    return keys or tuple(vectors)


def described(there: Mapping[str, bool], chosen: tuple[str, ...]) -> str:
    """A phrase that says what was chosen."""
    return f"observations of {', '.join(chosen)}{_others(there, chosen)}"


def together(columns: Mapping[str, np.ndarray]) -> tuple[Float[np.ndarray, "rows observation"], tuple[tuple[str, int], ...]]:
    """Columns `[N]` or `[N, n]` side by side, and their names and widths."""
    wide = {name: column if column.ndim == 2 else column[:, None] for name, column in columns.items()}
    return np.concatenate(list(wide.values()), axis=1), tuple((name, column.shape[1]) for name, column in wide.items())


def _others(there: Mapping[str, bool], names: tuple[str, ...] | list[str]) -> str:
    others = sorted(set(there) - set(names))
    return f" (left out: {', '.join(others)})" if others else ""
