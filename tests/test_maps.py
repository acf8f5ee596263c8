"""The map: neighbours, places among them, and UMAP that repeats itself."""

import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from erarec.maps import EmbeddingMap, build_map, neighbour_agreement

ROOT = Path(__file__).parents[1]


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def made_map(embeddings: np.ndarray, coordinates: np.ndarray) -> EmbeddingMap:
    names = np.array([f"recording {n}" for n in range(len(embeddings))])
    return EmbeddingMap(
        np.asarray(coordinates, np.float32),
        unit(embeddings),
        names,
        names,
        np.arange(1950, 1950 + len(names)),
    )


def islands(seed: int = 0, count: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Three groups of directions, and which each is of. Shape: [3 * count, 64], [3 * count]."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((3, 64))
    group = np.repeat(np.arange(3), count)
    return unit(centres[group] + 0.2 * rng.standard_normal((len(group), 64))), group


def test_the_nearest_come_first_with_their_cosines():
    known = made_map(np.array([[1, 0], [0, 1], [-1, 0], [1, 1]]), np.zeros((4, 2)))
    found, similarity = known.nearest(np.array([1.0, 0.0]), 3)
    assert found.tolist() == [0, 3, 1]
    np.testing.assert_allclose(similarity, [1, np.sqrt(0.5), 0], atol=1e-6)


def test_a_small_map_has_fewer_neighbours():
    known = made_map(np.eye(3), np.zeros((3, 2)))
    assert sorted(known.nearest(np.ones(3), 10)[0]) == [0, 1, 2]


def test_a_known_recording_lies_near_its_own_place():
    embeddings, group = islands()
    coordinates = np.stack([10.0 * group, np.zeros(len(group))], axis=1)
    known = made_map(embeddings, coordinates)
    for row in (0, 25, 59):
        np.testing.assert_allclose(known.place(embeddings[row]), coordinates[row], atol=1e-5)


def test_a_song_between_two_islands_lies_on_one_of_them():
    embeddings = unit(
        np.array([[1, 0.1 + n / 100] for n in range(5)] + [[0.1 + n / 100, 1] for n in range(6)])
    )
    coordinates = np.array([[0, 0]] * 5 + [[100, 0]] * 6)
    x, _ = made_map(embeddings, coordinates).place(unit(np.array([1.0, 1.0])))
    assert x in (0, 100)


def test_one_that_is_near_outweighs_two_that_are_not():
    known = made_map(np.array([[1, 0.0], [1, 0.7], [1, 0.75]]), np.array([[0, 0], [50, 0], [51, 0]]))
    assert known.place(unit(np.array([1.0, 0.05])))[0] == pytest.approx(0, abs=0.1)


def test_a_map_comes_back_as_it_was_saved(tmp_path):
    embeddings, group = islands()
    saved = made_map(embeddings, np.random.default_rng(0).standard_normal((len(group), 2)))
    saved.save(tmp_path / "map.npz")
    loaded = EmbeddingMap.load(tmp_path / "map.npz")
    np.testing.assert_array_equal(loaded.coordinates, saved.coordinates)
    np.testing.assert_allclose(loaded.embeddings, saved.embeddings, atol=1e-3)  # kept as float16
    assert loaded.embeddings.dtype == loaded.coordinates.dtype == np.float32
    assert loaded.artists.tolist() == saved.artists.tolist()
    assert loaded.titles.tolist() == saved.titles.tolist()
    assert loaded.years.tolist() == saved.years.tolist()
    assert loaded.years.dtype == np.int64


def test_a_song_is_placed_without_numba_in_under_ten_milliseconds(tmp_path):
    rng = np.random.default_rng(0)
    known = made_map(rng.standard_normal((3300, 64)), rng.standard_normal((3300, 2)))
    known.save(tmp_path / "map.npz")
    program = f"""
        import statistics, sys, time
        from pathlib import Path
        import numpy as np
        from erarec.maps import EmbeddingMap
        known = EmbeddingMap.load(Path({str(tmp_path / "map.npz")!r}))
        songs = np.random.default_rng(1).standard_normal((50, 64)).astype(np.float32)
        times = []
        for song in songs:
            start = time.perf_counter()
            known.place(song)
            times.append(time.perf_counter() - start)
        assert not {{"numba", "umap", "sklearn", "torch"}} & set(sys.modules)
        print(statistics.median(times))
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert float(answer.stdout) < 0.010


def test_a_map_repeats_itself_and_keeps_what_belongs_together():
    embeddings, group = islands()
    names = [str(n) for n in range(len(group))]
    years = 1955.5 + 10 * group
    first = build_map(embeddings, names, names, years, seed=0)
    np.testing.assert_array_equal(
        first.coordinates, build_map(embeddings, names, names, years, seed=0).coordinates
    )
    assert np.isfinite(first.coordinates).all()
    assert neighbour_agreement(first.coordinates, group) > 0.95
    assert first.years.dtype == np.int64
    assert (np.abs(first.years - years) <= 0.5).all()


def test_neighbour_agreement_by_hand():
    places = np.array([[0.0], [1.0], [3.0], [10.0], [11.5]])
    decades = np.array([0, 0, 1, 1, 1])
    # Nearest one of each: 1, 0, 1, 4, 3; of the same decade: yes, yes, no, yes, yes.
    assert neighbour_agreement(places, decades, 1) == pytest.approx(4 / 5)
    # Nearest two: 1 2, 0 2, 1 0, 4 2, 3 2: of ten, 1 + 1 + 0 + 2 + 2.
    assert neighbour_agreement(places, decades, 2) == pytest.approx(6 / 10)


def test_neighbour_agreement_of_fewer_recordings_than_neighbours():
    assert neighbour_agreement(np.array([[0.0], [1.0], [2.0]]), np.array([0, 0, 1])) == pytest.approx(1 / 3)
