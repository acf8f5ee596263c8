"""Sounds to measure with: a tune made on the spot, and files in the formats that people have."""

from pathlib import Path
from typing import cast

import av
import numpy as np

CODECS = {".wav": "pcm_s16le", ".mp3": "mp3", ".m4a": "aac", ".opus": "libopus"}


def tune(seconds: float, sample_rate: int = 44100, seed: int = 0) -> np.ndarray:
    """Plucked chords and a little noise, different left and right. Shape: [samples, 2] float32."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * sample_rate)) / sample_rate
    note = (time * 4).astype(int)
    decay = np.exp(-5 * (time - note / 4))
    sound = 0.01 * rng.standard_normal((len(time), 2))
    for left in (0.06, 0.1, 0.14):
        pitch = 110 * 2 ** (rng.integers(0, 36, note[-1] + 1)[note] / 12)
        tone = sum(np.sin(2 * np.pi * pitch * harmonic * time) / harmonic for harmonic in range(1, 9))
        sound += np.outer(tone * decay, [left, 0.2 - left])
    return sound.astype(np.float32)


def read_sound(path: Path) -> tuple[np.ndarray, int]:
    """A whole file in any format of FFmpeg's, as it is. Shape: [samples, channels] float32, and Hz."""
    resampler = av.AudioResampler("fltp")
    with av.open(str(path)) as container:
        rate = container.streams.audio[0].rate
        blocks = [
            plain.to_ndarray().T for frame in container.decode(audio=0) for plain in resampler.resample(frame)
        ]
    return np.concatenate(blocks), rate


def write_sound(
    path: Path, sound: np.ndarray, sample_rate: int, bits_per_second: int | None = None, repeats: int = 1
) -> None:
    """Write a wav (16 bit), mp3, m4a or opus file, as the name ends.

    With ``repeats``, what was encoded once is written so many times over: an hour in a second or two.

    Shape: sound [samples, channels] float32, one channel or two.
    """
    layout = "mono" if sound.shape[1] == 1 else "stereo"
    with av.open(str(path), "w") as container:
        codec = CODECS[path.suffix]
        stream = cast(av.AudioStream, container.add_stream(codec, rate=sample_rate, layout=layout))
        if bits_per_second is not None:
            stream.bit_rate = bits_per_second
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound.T), format="fltp", layout=layout)
        frame.sample_rate, frame.pts = sample_rate, 0
        converter = av.AudioResampler(stream.format, layout, sample_rate, frame_size=stream.frame_size)
        frames = [*converter.resample(frame), *converter.resample(None)]
        packets = [packet for part in [*frames, None] for packet in stream.encode(part) if packet.size]
        times = [packet.pts or 0 for packet in packets]
        length = times[-1] + (packets[-1].duration or 0) - times[0]
        for repeat in range(repeats):
            for packet, time in zip(packets, times, strict=True):
                copy = av.Packet(bytes(packet))
                copy.stream, copy.time_base, copy.duration = stream, packet.time_base, packet.duration
                copy.pts = copy.dts = time + repeat * length
                container.mux(copy)
