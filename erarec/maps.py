"""The map of embeddings: known recordings laid out in two dimensions, and new ones placed among them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

PLACING_NEIGHBOURS = 10  # a new song goes where its nearest recordings are


@dataclass(frozen=True)
class EmbeddingMap:
    """Known recordings, their embeddings and where each lies on the map.

    Attributes:
        coordinates: [N, 2] float32, from UMAP.
        embeddings: [N, D] float32, each of length 1.
        artists, titles: [N] str.
        years: [N] int, the middle of what is known of each recording's year.
    """

    coordinates: np.ndarray
    embeddings: np.ndarray
    artists: np.ndarray
    titles: np.ndarray
    years: np.ndarray

    @classmethod
    def load(cls, path: Path) -> "EmbeddingMap":
        with np.load(path, allow_pickle=False) as arrays:
            return cls(
                coordinates=arrays["coordinates"].astype(np.float32),
                embeddings=arrays["embeddings"].astype(np.float32),
                artists=arrays["artists"],
                titles=arrays["titles"],
                years=arrays["years"].astype(np.int64),
            )

    def save(self, path: Path) -> None:
        np.savez_compressed(
            path,
            coordinates=self.coordinates.astype(np.float32),
            embeddings=self.embeddings.astype(np.float16),
            artists=self.artists,
            titles=self.titles,
            years=self.years.astype(np.int16),
        )

    def nearest(self, embedding: np.ndarray, count: int = 10) -> tuple[np.ndarray, np.ndarray]:
        """The most similar recordings by cosine.

        Shape: [D] -> indices [count] int64 and similarities [count] float32, nearest first.
        """
        similarity = self.embeddings @ embedding.astype(np.float32)
        count = min(count, len(similarity))
        found = np.argpartition(-similarity, count - 1)[:count]
        found = found[np.argsort(-similarity[found])]
        return found, similarity[found]

    def neighbours(self, embedding: np.ndarray, count: int = 10) -> list[dict[str, str | int | float]]:
        """As ``nearest``, by name: artist, title, year and similarity of each. Shape: [D]."""
        return [
            {
                "artist": str(self.artists[row]),
                "title": str(self.titles[row]),
                "year": int(self.years[row]),
                "similarity": round(float(similarity), 4),
            }
            for row, similarity in zip(*self.nearest(embedding, count), strict=True)
        ]

    def place(self, embedding: np.ndarray) -> np.ndarray:
        """Where a new recording lies: its nearest recordings' places, weighed by similarity.

        Shape: [D] -> [2] float32.
        """
        found, similarity = self.nearest(embedding, PLACING_NEIGHBOURS)
        # Neighbours lie close together in cosine, so the weights look at differences among them.
        weights = np.exp((similarity - similarity[0]) / 0.02)
        # The weighted medoid of the neighbourhood, not the mean: a mean of two islands is the sea.
        places = self.coordinates[found]
        distances = np.linalg.norm(places[:, None] - places[None], axis=-1)
        centre = int((distances @ weights).argmin())
        near = weights * (distances[centre] <= np.median(distances[centre]) + 1e-6)
        return (near @ places / near.sum()).astype(np.float32)


def build_map(
    embeddings: np.ndarray, artists: list[str], titles: list[str], years: np.ndarray, seed: int = 0
) -> EmbeddingMap:
    """Lay recordings out in two dimensions with UMAP (McInnes et al. 2018, arXiv 1802.03426).

    Shape: embeddings [N, D] of length 1, years [N].
    """
    from umap import UMAP  # numba compiles for seconds, and only here is it needed

    neighbours = min(15, len(embeddings) - 1)
    # One thread: with more, the seed would not decide.
    fit = UMAP(n_neighbors=neighbours, min_dist=0.1, metric="cosine", random_state=seed, n_jobs=1)
    coordinates = np.asarray(fit.fit_transform(embeddings), np.float32)
    return EmbeddingMap(
        coordinates=coordinates,
        embeddings=embeddings.astype(np.float32),
        artists=np.array(artists),
        titles=np.array(titles),
        years=np.round(years).astype(np.int64),
    )


def neighbour_agreement(places: np.ndarray, decades: np.ndarray, count: int = 10) -> float:
    """How often a recording's nearest neighbours are of its own decade.

    Shape: places [N, D] (coordinates, or embeddings), decades [N] -> a share of 1.
    """
    squares = np.square(places).sum(1)
    distance = squares[:, None] + squares[None] - 2 * places @ places.T
    count = min(count, len(places) - 1)
    np.fill_diagonal(distance, np.inf)
    nearest = np.argpartition(distance, count - 1, axis=1)[:, :count]
    return float((decades[nearest] == decades[:, None]).mean())
