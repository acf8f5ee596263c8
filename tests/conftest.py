"""Sounds made on the spot, and the data folder where there is one."""

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

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
