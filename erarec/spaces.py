"""What an embedding space is like: do eras gather, is the sphere used, are neighbours of the same years?

Embeddings are rows of length 1. Those of different models, of different folds too, are not comparable, so
each is measured within one model's space.
"""

import numpy as np

from erarec.years import WINDOW


def alignment(embeddings: np.ndarray, eras: np.ndarray) -> float:
    """Mean squared distance between two songs of one era: 0 when each era is a point, 4 at most.

    Source: Wang and Isola 2020, "Understanding Contrastive Representation Learning through Alignment and
    Uniformity on the Hypersphere", arXiv 2005.10242, with alpha = 2. Not a number when no era has two songs.

    Shape: [N, D], [N].

    Example:

        >>> alignment(np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]), np.array([1, 1, 2]))
        2.0
    """
    first, second = np.triu_indices(len(embeddings), 1)
    of_one_era = eras[first] == eras[second]
    if not of_one_era.any():
        return float("nan")
    return float(_squared_distances(embeddings)[first, second][of_one_era].mean())


def uniformity(embeddings: np.ndarray) -> float:
    """log of the mean over pairs of exp(-2 squared distance): 0 when all is one point, lower when spread.

    Source: as :func:`alignment`, with t = 2. Shape: [N, D].

    Example: two opposite points are as far apart as can be.

        >>> uniformity(np.array([[1.0, 0.0], [-1.0, 0.0]]))
        -8.0
    """
    if len(embeddings) < 2:
        return float("nan")
    pairs = np.triu_indices(len(embeddings), 1)
    return float(np.log(np.exp(-2 * _squared_distances(embeddings)[pairs]).mean()))


def neighbour_hits(
    embeddings: np.ndarray, years: np.ndarray, artists: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Whether each song's nearest song by another artist is within 3 years, and how likely that is by chance.

    Shape: [N, D], [N], [N] -> hits [N] and chances [N] float64; not a number where there is no other artist.

    Example: the song of 1970 lies beside that of 1971, and either of the other two would be chosen alike.

        >>> points = np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
        >>> hits, chances = neighbour_hits(points, np.array([1970, 1971, 1999]), np.array(["a", "b", "c"]))
        >>> hits.tolist(), chances.tolist()
        ([1.0, 1.0, 0.0], [0.5, 0.5, 0.0])
    """
    others = artists[:, None] != artists[None, :]
    near = np.abs(years[:, None] - years[None, :]) <= WINDOW
    distances = np.where(others, _squared_distances(embeddings), np.inf)
    hits = near[np.arange(len(years)), distances.argmin(1)].astype(float)
    some = others.any(1)
    chances = (near & others).sum(1) / np.maximum(others.sum(1), 1)
    return np.where(some, hits, np.nan), np.where(some, chances, np.nan)


def silhouette(embeddings: np.ndarray, decades: np.ndarray) -> float:
    """Mean silhouette of the decades in cosine distance, from -1 over 0 (no clusters) to 1.

    Source: Rousseeuw 1987, as scikit-learn computes it; a song alone in its decade counts 0. Not a number
    when there are not two decades, or no decade has two songs.

    Shape: [N, D], [N].
    """
    from sklearn.metrics import silhouette_score  # of the extra [train]

    if not 2 <= len(np.unique(decades)) < len(decades):
        return float("nan")
    return float(silhouette_score(embeddings, decades, metric="cosine"))


def own_ranks(
    queries: np.ndarray, texts: np.ndarray, eras: np.ndarray, artists: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The rank of each sound's own text among one text of each other artist of its era.

    Another artist's text is that of their first song of the era here.

    Shape: queries [N, D], texts [N, D], eras [N], artists [N] -> rank [N] int64 (1: nothing is nearer) and
    count [N] int64 of texts to choose from, own included; a count of 1 leaves no choice.

    Example: three artists of one era, the third song's own text farther from it than both others.

        >>> sounds = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
        >>> written = np.array([[1.0, 0.0], [0.6, 0.8], [-1.0, 0.0]])
        >>> ranks, counts = own_ranks(sounds, written, np.array([7, 7, 7]), np.array(["a", "b", "c"]))
        >>> ranks.tolist(), counts.tolist()
        ([1, 1, 3], [3, 3, 3])
    """
    firsts: dict[tuple, int] = {}
    for song, pair in enumerate(zip(eras.tolist(), artists.tolist(), strict=True)):
        firsts.setdefault(pair, song)
    candidate = np.zeros(len(eras), bool)
    candidate[list(firsts.values())] = True
    others = candidate & (eras[:, None] == eras[None, :]) & (artists[:, None] != artists[None, :])
    similarity = queries @ texts.T
    # As near is not nearer by rounding alone: texts that are all one point find nothing.
    nearer = others & (similarity >= similarity.diagonal()[:, None] - 1e-6)
    return 1 + nearer.sum(1), 1 + others.sum(1)


def _squared_distances(embeddings: np.ndarray) -> np.ndarray:
    """Between rows of length 1. Shape: [N, D] -> [N, N]."""
    embeddings = embeddings.astype(np.float64)
    return np.maximum(2 - 2 * embeddings @ embeddings.T, 0)
