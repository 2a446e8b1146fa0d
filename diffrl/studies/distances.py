"""How far two samples of points are apart: sliced Wasserstein distance and maximum mean discrepancy.

Both are biased upwards by the noise of finite samples: compare with two equally large samples of one distribution.
"""

import numpy as np
from jaxtyping import Float
from scipy.spatial.distance import cdist


def _check(a: np.ndarray, b: np.ndarray) -> None:
    if a.shape != b.shape:
        raise ValueError(f"the samples must have one shape, got {a.shape} and {b.shape}")


def sliced_wasserstein(
    a: Float[np.ndarray, "n dim"], b: Float[np.ndarray, "n_b dim"], num_projections: int = 128, seed: int = 0
) -> float:
    """Mean over random directions of the one-dimensional W1 distance, in the units of the points.

    Raises:
        ValueError: the samples differ in shape.
    """
    _check(a, b)
    directions = np.random.default_rng(seed).normal(size=(a.shape[1], num_projections))
    directions /= np.linalg.norm(directions, axis=0)
    return float(np.mean(np.abs(np.sort(a @ directions, axis=0) - np.sort(b @ directions, axis=0))))


def mmd(a: Float[np.ndarray, "n dim"], b: Float[np.ndarray, "n_b dim"]) -> float:
    """√MMD² (biased) with the mean of Gaussian kernels of half, once and twice the median distance within `b`, the reference.

    Raises:
        ValueError: the samples differ in shape.
    """
    _check(a, b)
    within_b = cdist(b, b, "sqeuclidean")
    width = np.median(within_b)

    def mean_kernel(squared: np.ndarray) -> float:
        return float(np.mean([np.exp(-squared / (2.0 * scale**2 * width)).mean() for scale in (0.5, 1.0, 2.0)]))

    squared = mean_kernel(cdist(a, a, "sqeuclidean")) + mean_kernel(within_b) - 2.0 * mean_kernel(cdist(a, b, "sqeuclidean"))
    return float(np.sqrt(max(squared, 0.0)))
