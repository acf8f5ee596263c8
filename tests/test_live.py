"""A browser's chunks come in odd lengths; how often is answered must not depend on that."""

import numpy as np
import pytest
from conftest import melody

from erarec.audio import SAMPLE_RATE
from erarec.live import EVERY_SECONDS, WINDOW_SECONDS, Recording

SOUND = (melody(20, 48000) * 20000).astype(np.int16)


@pytest.mark.parametrize("seconds", [0.1, 0.5, 1.0, 2.7])
def test_an_answer_is_due_after_three_seconds_and_then_every_two_or_three(seconds: float) -> None:
    recording, due = Recording(), []
    for first in range(0, len(SOUND), round(seconds * 48000)):
        recording.add(SOUND[first : first + round(seconds * 48000)], 48000)
        if recording.due() is not None:
            due.append(recording.seconds)
    assert 3 <= due[0] < 3 + seconds
    gaps = np.diff(due)
    assert (gaps > EVERY_SECONDS - 0.01).all()
    assert (gaps < EVERY_SECONDS + seconds + 0.01).all()


def test_the_window_is_the_last_nine_seconds() -> None:
    recording = Recording()
    recording.add(SOUND, 48000)
    window = recording.due()
    assert len(window) / SAMPLE_RATE == pytest.approx(WINDOW_SECONDS)
    np.testing.assert_array_equal(window, recording.sound[-len(window) :])
    assert recording.due() is None


def test_chunks_make_the_sound_they_were_cut_from() -> None:
    whole, pieces = Recording(), Recording()
    whole.add(SOUND, 48000)
    for piece in np.split(SOUND, range(48000, len(SOUND), 48000)):
        pieces.add(piece, 48000)
    assert whole.seconds == pytest.approx(20, abs=0.01)
    assert len(pieces.sound) == pytest.approx(len(whole.sound), abs=20)
    error = np.abs(pieces.sound[:SAMPLE_RATE] - whole.sound[:SAMPLE_RATE])
    assert error[: SAMPLE_RATE - 200].max() < 1e-3


def test_stereo_and_floats_are_taken_too() -> None:
    mono, stereo = Recording(), Recording()
    mono.add(SOUND, 48000)
    stereo.add(np.stack([SOUND / 32767] * 2, axis=1), 48000)
    np.testing.assert_allclose(stereo.sound, mono.sound, atol=1e-5)


def test_an_hour_does_not_fill_the_memory() -> None:
    recording = Recording()
    for _ in range(200):
        recording.add(SOUND, 48000)
        recording.due()
    assert recording.seconds == pytest.approx(4000, rel=1e-3)
    assert len(recording.sound) / SAMPLE_RATE <= 121


def test_an_empty_chunk_is_nothing() -> None:
    recording = Recording()
    recording.add(np.zeros(0, np.int16), 48000)
    assert recording.seconds == 0
    assert recording.due() is None
