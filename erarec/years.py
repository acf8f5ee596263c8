"""Years as classes: decades, eras, soft targets, and how one year is read off a distribution.

A distribution here is always an array over :data:`YEARS` in its last axis.
"""

import numpy as np

FIRST_YEAR = 1890
LAST_YEAR = 2029
YEARS = np.arange(FIRST_YEAR, LAST_YEAR + 1)  # [140] int64: the classes
YEAR_COUNT = len(YEARS)
ERA_YEARS = 5  # an era, for the contrastive losses
WINDOW = 3  # years either side that count as right, as in the paper
DECADES = [f"{year}s" for year in range(FIRST_YEAR, LAST_YEAR, 10)]
TARGET_SIGMA = 2.5  # years: how much a label's uniform range is softened
COVERAGE = 0.8  # probability that the reported interval holds


def decade(year: float) -> str:
    """Name of the decade that a year lies in: 1977 -> "1970s"."""
    return f"{int(year) // 10 * 10}s"


def era(year: np.ndarray | float) -> np.ndarray:
    """Index of the five-year era, counted from 1890. Shape as given, int64."""
    return (np.asarray(year, dtype=np.int64) - FIRST_YEAR) // ERA_YEARS


def target_distribution(year_lo: np.ndarray, year_hi: np.ndarray, sigma: float = TARGET_SIGMA) -> np.ndarray:
    """Uniform over ``year_lo..year_hi``, smoothed with a Gaussian of ``sigma`` years.

    Shape: ([N], [N]) int -> [N, 140] float32, each row summing to 1.
    """
    lo, hi = np.atleast_1d(year_lo)[:, None], np.atleast_1d(year_hi)[:, None]
    if (lo > hi).any():
        raise ValueError("A label's first year is after its last year.")
    uniform = ((lo <= YEARS) & (hi >= YEARS)).astype(np.float64)
    if not uniform.sum(-1).all():
        raise ValueError(f"A label lies outside {FIRST_YEAR} to {LAST_YEAR}.")
    kernel = np.exp(-0.5 * ((YEARS[:, None] - YEARS[None, :]) / max(sigma, 1e-6)) ** 2)
    smooth = uniform @ kernel
    return (smooth / smooth.sum(-1, keepdims=True)).astype(np.float32)


def best_year(probabilities: np.ndarray) -> np.ndarray:
    """The year whose +-3 years hold most probability; among equals the likeliest itself.

    Shape: [..., 140] -> [...] int64.
    """
    sides = [(0, 0)] * (probabilities.ndim - 1) + [(WINDOW + 1, WINDOW)]
    padded = np.pad(probabilities.astype(np.float64), sides)
    cumulative = padded.cumsum(-1)
    mass = cumulative[..., 2 * WINDOW + 1 :] - cumulative[..., : -(2 * WINDOW + 1)]
    return YEARS[(mass + 1e-9 * probabilities).argmax(-1)]


def median_year(probabilities: np.ndarray) -> np.ndarray:
    """Median of the distribution, the answer of least absolute error. Shape: [..., 140] -> [...]."""
    return YEARS[(probabilities.astype(np.float64).cumsum(-1) >= 0.5).argmax(-1)]


def interval(probabilities: np.ndarray, coverage: float = COVERAGE) -> tuple[int, int]:
    """Smallest span of years that holds ``coverage`` of one distribution. Shape: [140] -> (lo, hi)."""
    cumulative = np.concatenate([[0.0], probabilities.astype(np.float64).cumsum()])
    goal = cumulative[:-1] + coverage * cumulative[-1] - 1e-9
    ends = np.searchsorted(cumulative, goal)  # first end (exclusive) that holds enough
    lengths = np.where(ends < len(cumulative), ends - np.arange(YEAR_COUNT), YEAR_COUNT + 1)
    lo = int(lengths.argmin())
    return int(YEARS[lo]), int(YEARS[ends[lo] - 1])


def by_decade(probabilities: np.ndarray) -> np.ndarray:
    """Probability of each decade. Shape: [..., 140] -> [..., 14], in the order of DECADES."""
    return probabilities.reshape(*probabilities.shape[:-1], len(DECADES), 10).sum(-1)
