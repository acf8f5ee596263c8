"""Sound that is still being recorded, in chunks of any length."""

from dataclasses import dataclass, field

import numpy as np
import soxr

from erarec.audio import EXCERPT_SECONDS, SAMPLE_RATE, WHOLE_SECONDS

WINDOW_SECONDS = 9.0  # what the needle goes by
EVERY_SECONDS = 2.0  # how much new sound moves it again


@dataclass
class Recording:
    """What has been heard so far, of which the last minute or two are kept.

    A browser's chunks come late, early and in odd lengths, so how often to answer is counted in sound, not in
    chunks.

    Attributes:
        chunks: [samples] float32 each, at ``SAMPLE_RATE``.
        seconds: of sound so far. answered: how much of it the last answer knew.
    """

    chunks: list[np.ndarray] = field(default_factory=list)
    seconds: float = 0.0
    answered: float = 0.0

    def add(self, samples: np.ndarray, sample_rate: int) -> None:
        """Shape: [samples] or [samples, channels], int16 or float, at ``sample_rate`` Hz."""
        if not len(samples):
            return
        scale = np.iinfo(samples.dtype).max if np.issubdtype(samples.dtype, np.integer) else 1
        mono = samples.astype(np.float32).reshape(len(samples), -1).mean(axis=1) / scale
        heard = soxr.resample(mono, sample_rate, SAMPLE_RATE)
        self.chunks.append(heard)
        self.seconds += len(heard) / SAMPLE_RATE
        if self.seconds > 2 * WHOLE_SECONDS:  # memory is bounded, the window is always there
            self.chunks = [self.sound[-int(WHOLE_SECONDS * SAMPLE_RATE) :]]

    def clear(self) -> None:
        self.chunks, self.seconds, self.answered = [], 0.0, 0.0

    @property
    def sound(self) -> np.ndarray:
        """All that is kept. Shape: [samples] float32 at ``SAMPLE_RATE``."""
        return np.concatenate([np.zeros(0, np.float32), *self.chunks])

    def due(self) -> np.ndarray | None:
        """The last nine seconds, if there is enough new sound for another answer; else None."""
        if self.seconds < EXCERPT_SECONDS or self.seconds - self.answered < EVERY_SECONDS:
            return None
        self.answered = self.seconds
        return self.sound[-int(WINDOW_SECONDS * SAMPLE_RATE) :]
