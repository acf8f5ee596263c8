"""Measures of an embedding space, on spaces of which the answer is known."""

import doctest

import numpy as np
import pytest

from erarec import spaces
from erarec.spaces import alignment, neighbour_hits, own_ranks, silhouette, uniformity


def unit(count: int, width: int = 64, seed: int = 0) -> np.ndarray:
    points = np.random.default_rng(seed).standard_normal((count, width))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def test_the_docstring_examples_hold():
    assert doctest.testmod(spaces).attempted > 0
    assert doctest.testmod(spaces).failed == 0


def test_gathered_eras_are_aligned_and_still_spread():
    eras = np.arange(40) % 4
    gathered = np.eye(64)[eras]
    assert alignment(gathered, eras) == 0
    assert alignment(unit(40), eras) == pytest.approx(2, abs=0.1)
    assert uniformity(unit(40)) < uniformity(gathered) < uniformity(np.ones((40, 64)) / 8) == 0


def test_silhouette_knows_clusters_from_none():
    decades = np.arange(60) % 3
    assert silhouette(np.eye(64)[decades] + 0.01 * unit(60), decades) > 0.95
    assert abs(silhouette(unit(60), decades)) < 0.05
    assert np.isnan(silhouette(unit(3), np.array([1, 1, 1])))


def test_a_neighbour_by_the_same_artist_does_not_count():
    points = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    years, artists = np.array([1970, 1970, 1990]), np.array(["a", "a", "b"])
    hits, chances = neighbour_hits(points, years, artists)
    assert hits.tolist() == chances.tolist() == [0, 0, 0]
    assert np.isnan(neighbour_hits(points[:2], years[:2], artists[:2])[0]).all()


def test_a_text_competes_with_one_of_each_other_artist_of_its_era():
    sounds = unit(4)
    eras, artists = np.array([1, 1, 1, 2]), np.array(["a", "b", "b", "c"])
    ranks, counts = own_ranks(sounds, sounds, eras, artists)
    assert ranks.tolist() == [1, 1, 1, 1]
    assert counts.tolist() == [2, 2, 2, 1]


def test_equal_texts_are_no_answer():
    """A space in which all texts are one point would else be perfect."""
    ranks, counts = own_ranks(unit(5), np.ones((5, 64)) / 8, np.zeros(5), np.arange(5))
    assert ranks.tolist() == counts.tolist() == [5] * 5
