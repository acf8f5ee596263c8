"""Noise and tones are told from music, however it comes."""

import numpy as np
import pytest
from conftest import DATA, needs_data

from erarec.audio import SAMPLE_RATE, cut_excerpts, read_excerpts
from erarec.clips import Hearing, read_manifest
from erarec.damage import damage
from erarec.familiarity import Familiarity
from erarec.tools.robustness import choose_clips

TIME = np.arange(9 * SAMPLE_RATE) / SAMPLE_RATE
NOISE = np.random.default_rng(0).standard_normal(len(TIME))
STRANGE = {
    "white noise": 0.1 * NOISE,
    "brown noise": 0.001 * np.cumsum(NOISE),
    "tone": 0.3 * np.sin(2 * np.pi * 440 * TIME),
    "mains": 0.01 * np.sin(2 * np.pi * 50 * TIME) + 0.001 * NOISE,
    "clicks": (np.abs(NOISE) > 3.5).astype(float),
}


@pytest.fixture(scope="module")
def hearing() -> Hearing:
    return Hearing()


@pytest.mark.parametrize("name", STRANGE)
def test_what_is_no_music_is_strange(hearing: Hearing, name: str) -> None:
    excerpts = cut_excerpts(STRANGE[name].astype(np.float32))
    features = hearing.tagger(excerpts.sound, excerpts.seconds)
    assert Familiarity.load().strangeness(features) > 1


@needs_data
def test_music_is_familiar_by_phone_too(hearing: Hearing) -> None:
    familiar = Familiarity.load()
    for clip in choose_clips(read_manifest(DATA / "clips.csv"), 5):
        excerpts = read_excerpts(clip.path)
        for sound in (excerpts.sound, damage(excerpts.sound, "phone", clip.id)):
            assert familiar.strangeness(hearing.tagger(sound, excerpts.seconds)) < 1


def test_the_distance_is_that_to_the_fifth_nearest() -> None:
    features = np.random.default_rng(1).standard_normal((300, 64)).astype(np.float32)
    familiarity = Familiarity.build(features)
    place = (features[0] - familiarity.mean) @ familiarity.components
    distances = np.sort(np.linalg.norm(familiarity.known - place, axis=1))
    assert familiarity.strangeness(features[:1]) * familiarity.limit == pytest.approx(distances[4], rel=1e-4)


def test_nearly_all_of_the_training_set_is_familiar_without_itself() -> None:
    features = np.random.default_rng(2).standard_normal((400, 64)).astype(np.float32)
    familiarity = Familiarity.build(features)
    own = [
        np.sort(np.linalg.norm(np.delete(familiarity.known, row, axis=0) - familiarity.known[row], axis=1))[4]
        for row in range(400)
    ]
    assert np.mean(np.array(own) <= familiarity.limit * (1 + 1e-5)) == pytest.approx(0.995, abs=0.003)
