"""What the loaders and the derived columns mean, as loops over rows."""

from typing import Any

import numpy as np


def rows_of(t: Any) -> list[tuple]:
    """(observation, action, reward, next observation, terminal, timeout) of every row, as Python values."""
    return [tuple(np.asarray(value[i]).tolist() for value in t) for i in range(len(t.reward))]


def qlearning_rows(data: dict[str, np.ndarray]) -> list[tuple]:
    """D4RL's `qlearning_dataset(terminate_on_end=False)` with `timeouts`, as its source reads: (s, a, r, s', terminal).

    But for one thing: a row that is both keeps its terminal, where D4RL leaves it out.
    """
    rows = []
    for i in range(len(data["rewards"]) - 1):
        if data["timeouts"][i] and not data["terminals"][i]:
            continue
        rows.append(
            (
                data["observations"][i].tolist(),
                data["actions"][i].tolist(),
                float(data["rewards"][i]),
                data["observations"][i + 1].tolist(),
                bool(data["terminals"][i]),
            )
        )
    return rows


def ogbench_rows(data: dict[str, np.ndarray]) -> list[tuple]:
    """OGBench's regular form of a downloaded file: (s, a, r, s', mask, end of trajectory), trajectory by trajectory."""
    rows, trajectory = [], []
    for i in range(len(data["rewards"])):
        trajectory.append(i)
        if data["terminals"][i]:
            for j in trajectory[:-1]:
                rows.append(
                    (
                        data["observations"][j].tolist(),
                        data["actions"][j].tolist(),
                        float(data["rewards"][j]),
                        data["observations"][j + 1].tolist(),
                        float(data["masks"][j]),
                        j == trajectory[-2],
                    )
                )
            trajectory = []
    return rows


def episodes_of(ends: np.ndarray) -> list[range]:
    """Rows of each episode; `ends` `[N]` marks last rows."""
    found, start = [], 0
    for i, end in enumerate(ends):
        if end or i == len(ends) - 1:
            found.append(range(start, i + 1))
            start = i + 1
    return found
