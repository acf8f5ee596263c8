"""Whether a recording is like those that the models learned from, or speech, noise, something else entirely.

Deep nearest neighbours (Sun et al. 2022, arXiv 2204.06507): the distance to the k-th nearest recording of the
training set, here among the frozen tagger's features, which no training has bent towards eras.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from erarec import ASSETS
from erarec.tagger import MUSICNN_FEATURES

FAMILIARITY = ASSETS / "familiarity.npz"
COMPONENTS = 48
NEIGHBOUR = 5  # the k of the k-th nearest
FAMILIAR = 0.995  # share of the training set's own recordings that are called familiar


@dataclass(frozen=True)
class Familiarity:
    """What the training set sounds like.

    Attributes:
        mean: [1756] float32. components: [1756, 48] float32, the first principal components of the
            standardised features.
        known: [N, 48] float32, the training set's recordings. As they are: those heard through damages would
            make noise familiar.
        limit: the distance up to which a recording is familiar.
    """

    mean: np.ndarray
    components: np.ndarray
    known: np.ndarray
    limit: float

    @classmethod
    def build(cls, features: np.ndarray) -> "Familiarity":
        """Learn from the features of recordings, averaged over each. Shape: [N, 1756 or more] float."""
        features = features[:, :MUSICNN_FEATURES]
        mean, deviation = features.mean(0, dtype=np.float64), features.std(0, dtype=np.float64) + 1e-6
        standard = (features - mean) / deviation
        _, vectors = np.linalg.eigh(standard.T @ standard)
        components = vectors[:, -COMPONENTS:]
        known = standard @ components
        others = (np.delete(known, row, axis=0) for row in range(len(known)))
        own = [_distance(place, other) for place, other in zip(known, others, strict=True)]
        return cls(
            mean.astype(np.float32),
            (components / deviation[:, None]).astype(np.float32),
            known.astype(np.float32),
            float(np.quantile(own, FAMILIAR)),
        )

    @classmethod
    def load(cls, path: Path = FAMILIARITY) -> "Familiarity":
        with np.load(path, allow_pickle=False) as arrays:
            rest = {name: arrays[name].astype(np.float32) for name in ("mean", "components", "known")}
            return cls(**rest, limit=float(arrays["limit"]))

    def save(self, path: Path) -> None:
        known = self.known.astype(np.float16)
        np.savez_compressed(path, mean=self.mean, components=self.components, known=known, limit=self.limit)

    def strangeness(self, features: np.ndarray) -> float:
        """How far a recording is from all known ones; above 1 it is unlike them.

        Shape: [E, 1756 or more] float, the tagger's features of its excerpts.
        """
        return float(
            _distance((features[:, :MUSICNN_FEATURES].mean(0) - self.mean) @ self.components, self.known)
            / self.limit
        )


def _distance(place: np.ndarray, known: np.ndarray) -> float:
    """Distance to the k-th nearest. Shape: [D], [N, D]."""
    squares = np.square(known - place).sum(1)
    nearest = min(NEIGHBOUR, len(squares)) - 1
    return float(np.sqrt(np.partition(squares, nearest)[nearest]))
