"""Sounds and answers made on the spot, and the data folder where there is one."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from erarec.maps import EmbeddingMap
from erarec.prediction import EraPrediction
from erarec.years import DECADES, YEARS, best_year, by_decade, interval

DATA = Path(os.environ.get("ERAREC_DATA", Path(__file__).parents[2] / "shared" / "data"))

needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no recordings at {DATA}")


def melody(seconds: float, sample_rate: int = 44100, seed: int = 0) -> np.ndarray:
    """A little plucked tune over noise, so that it is sound but no silence. Shape: [samples] float32."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * sample_rate)) / sample_rate
    note = np.floor(time * 4).astype(int)
    frequency = 220 * 2 ** (rng.integers(0, 24, note.max() + 1)[note] / 12)
    since_onset = time - note / 4
    tone = sum(np.sin(2 * np.pi * frequency * harmonic * time) / harmonic for harmonic in (1, 2, 3, 5))
    hiss = rng.standard_normal(len(time)) * 0.01
    return (0.3 * tone * np.exp(-6 * since_onset) + hiss).astype(np.float32)


@pytest.fixture
def song(tmp_path: Path) -> Path:
    """A twelve-second wav file."""
    path = tmp_path / "song.wav"
    soundfile.write(path, melody(12), 44100)
    return path


def hill(year: float, width: float) -> np.ndarray:
    """A Gaussian over the years. Shape: [140]."""
    weight = np.exp(-0.5 * ((YEARS - year) / width) ** 2)
    return weight / weight.sum()


@pytest.fixture
def known() -> EmbeddingMap:
    rng = np.random.default_rng(0)
    embeddings = rng.standard_normal((60, 64)).astype(np.float32)
    return EmbeddingMap(
        coordinates=rng.standard_normal((60, 2)).astype(np.float32),
        embeddings=embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True),
        artists=np.array([f"Artist {i}" for i in range(60)]),
        titles=np.array([f"Title {i}" for i in range(60)]),
        years=np.linspace(1921, 2024, 60).astype(int),
    )


@pytest.fixture
def prediction(known: EmbeddingMap) -> EraPrediction:
    sound, artist = hill(1981, 6), hill(1976, 4)
    both = sound * artist / (sound * artist).sum()
    found, similarity = known.nearest(known.embeddings[7])
    return EraPrediction(
        model="audioart-mmc",
        version="0",
        year=int(best_year(both)),
        interval=list(interval(both)),
        years=YEARS.tolist(),
        probabilities={"sound": sound.tolist(), "artist": artist.tolist(), "both": both.tolist()},
        decades=dict(zip(DECADES, by_decade(both).tolist(), strict=True)),
        attention={"sound": 0.7, "artist": 0.3},
        sound_attention=[
            {"start": 0.0, "end": 3.0, "share": 0.2},
            {"start": 60.0, "end": 63.0, "share": 0.5},
        ],
        word_attention=[{"word": "formed", "share": 0.1}, {"word": "1976.", "share": 0.2}],
        shift_without={"sound": 1, "artist": 4},
        artist={
            "query": "a",
            "name": "A",
            "match": "exact",
            "biography": "formed 1976.",
            "source": "library",
        },
        embedding=known.embeddings[7].tolist(),
        map=known.coordinates[7].tolist(),
        neighbours=[
            {
                "artist": str(known.artists[i]),
                "title": str(known.titles[i]),
                "year": int(known.years[i]),
                "similarity": float(near),
            }
            for i, near in zip(found, similarity, strict=True)
        ],
        notices=["Taken for A."],
        seconds={},
    )


@pytest.fixture
def by_sound_alone(prediction: EraPrediction) -> EraPrediction:
    both = prediction.probabilities["both"]
    return replace(
        prediction,
        probabilities={"sound": both, "artist": None, "both": both},
        attention={"sound": 1.0, "artist": 0.0},
        word_attention=[],
        shift_without={"sound": None, "artist": None},
        notices=[],
    )
