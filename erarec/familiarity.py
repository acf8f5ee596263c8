"""Whether a recording is like those that the models learned from, or speech, noise, something else entirely.

Deep nearest neighbours (Sun et al. 2022, arXiv 2204.06507): the distance to the k-th nearest recording of the
training set, here among the frozen tagger's features, which no training has bent towards eras. These are
brought to a few whitened principal components first.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from erarec import ASSETS

FAMILIARITY = ASSETS / "familiarity.npz"
COMPONENTS = 48
NEIGHBOUR = 5  # the k of the k-th nearest
FAMILIAR = 0.995  # share of the training set's own recordings that are called familiar


@dataclass(frozen=True)
class Familiarity:
    """What the training set sounds like.

    Attributes:
        mean: [1756] float32. components: [1756, 48] float32, whitening included.
        known: [N, 48] float32, the training set's recordings, each heard clean and damaged.
        limit: the distance up to which a recording is familiar.
    """

    mean: np.ndarray
    components: np.ndarray
    known: np.ndarray
    limit: float

    @classmethod
    def build(cls, features: np.ndarray, recordings: np.ndarray) -> "Familiarity":
        """Learn from features averaged over each hearing of a recording.

        Shape: features [N, 1756] float, recordings [N] int: rows of one number are hearings of one recording.
        """
        mean = features.mean(0, dtype=np.float64)
        centred = features - mean
        values, vectors = np.linalg.eigh(centred.T @ centred / len(features))
        components = vectors[:, -COMPONENTS:] / np.sqrt(values[-COMPONENTS:])
        known = centred @ components
        # Another hearing of the same recording is no proof that its like is known.
        own = np.array(
            [_distance(row, known[recordings != r]) for row, r in zip(known, recordings, strict=True)]
        )
        return cls(
            mean.astype(np.float32),
            components.astype(np.float32),
            known.astype(np.float32),
            float(np.quantile(own, FAMILIAR)),
        )

    @classmethod
    def load(cls, path: Path = FAMILIARITY) -> "Familiarity":
        with np.load(path, allow_pickle=False) as arrays:
            rest = {name: arrays[name].astype(np.float32) for name in ("mean", "components", "known")}
            return cls(**rest, limit=float(arrays["limit"]))

    def save(self, path: Path) -> None:
        rest = {name: getattr(self, name).astype(np.float16) for name in ("components", "known")}
        np.savez_compressed(path, mean=self.mean, limit=self.limit, **rest)

    def strangeness(self, features: np.ndarray) -> float:
        """How far a recording is from all known ones; above 1 it is unlike them.

        Shape: [E, 1756] float, the tagger's features of its excerpts.
        """
        return float(_distance((features.mean(0) - self.mean) @ self.components, self.known) / self.limit)


def _distance(place: np.ndarray, known: np.ndarray) -> float:
    """Distance to the k-th nearest. Shape: [D], [N, D]."""
    squares = np.square(known - place).sum(1)
    nearest = min(NEIGHBOUR, len(squares)) - 1
    return float(np.sqrt(np.partition(squares, nearest)[nearest]))
