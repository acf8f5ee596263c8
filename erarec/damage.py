"""What happens to sound on its way here: a loudspeaker, a room, a phone, a narrow band, a codec.

One module, so that training, evaluation and the page's "what if" mean the same by it. Random numbers come
from a generator that the caller seeds.
"""

import hashlib
import io
from collections.abc import Callable
from typing import cast

import av
import numpy as np
import soxr
from scipy import signal

from erarec.audio import SAMPLE_RATE, level

Generator = np.random.Generator


def band_limit(sound: np.ndarray, low: float | None, high: float | None) -> np.ndarray:
    """Fourth-order Butterworth high-pass at ``low`` and low-pass at ``high`` Hz. Shape: [E, S] -> same."""
    if low is not None:
        sound = signal.sosfilt(signal.butter(4, low, "highpass", fs=SAMPLE_RATE, output="sos"), sound)
    if high is not None:
        sound = signal.sosfilt(signal.butter(4, high, "lowpass", fs=SAMPLE_RATE, output="sos"), sound)
    return sound


def equalise(sound: np.ndarray, rng: Generator, decibels: float) -> np.ndarray:
    """A smooth random equaliser: a gain of up to +-``decibels`` drawn at eight points, an octave apart."""
    points = 80.0 * 2.0 ** np.arange(8)  # 80 Hz to 10 kHz
    gains = rng.uniform(-decibels, decibels, len(points))
    size = sound.shape[-1]
    frequencies = np.fft.rfftfreq(size, 1 / SAMPLE_RATE)
    gain = np.interp(np.log2(frequencies.clip(1)), np.log2(points), gains)
    return np.fft.irfft(np.fft.rfft(sound) * 10 ** (gain / 20), size)


def add_hiss(sound: np.ndarray, rng: Generator, decibels_below: float) -> np.ndarray:
    """White noise, so many decibels below the sound's own level (root mean square over all excerpts)."""
    deviation = np.sqrt(np.mean(np.square(sound))) * 10 ** (-decibels_below / 20)
    return sound + deviation * rng.standard_normal(sound.shape)


def add_room_noise(sound: np.ndarray, rng: Generator, decibels_below: float) -> np.ndarray:
    """As :func:`add_hiss`, but brown: a room's noise, people and streets, lies low."""
    noise = signal.lfilter([1], [1, -0.98], rng.standard_normal(sound.shape), axis=-1)
    deviation = np.sqrt(np.mean(np.square(sound))) * 10 ** (-decibels_below / 20)
    return sound + deviation * noise / noise.std()


def overdrive(sound: np.ndarray, drive: float) -> np.ndarray:
    """A loudspeaker driven too far: loud waves are bent. Shape: [E, S] -> the same."""
    return np.tanh(drive * sound / _loud(sound))


def press(sound: np.ndarray, power: float) -> np.ndarray:
    """Automatic gain: what is quiet comes up, by up to 24 dB times ``power``. Shape: [E, S] -> the same.

    The envelope follows the power over some 50 ms.
    """
    smoothing = signal.butter(1, 20.0, fs=SAMPLE_RATE, output="sos")
    envelope = np.sqrt(np.maximum(signal.sosfilt(smoothing, np.square(sound)), 0)) / _loud(sound)
    return sound * np.maximum(envelope, 0.06) ** -power


def reverberate(sound: np.ndarray, rng: Generator, seconds: float, direct_decibels: float) -> np.ndarray:
    """A room: exponentially decaying noise after the direct sound.

    Args:
        seconds: reverberation time, until the tail is 60 dB down.
        direct_decibels: how far the direct sound's energy lies above the tail's.
    """
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    tail = rng.standard_normal(len(time)) * 10 ** (-3 * time / seconds)
    tail[: round(0.002 * SAMPLE_RATE)] = 0  # the first reflection comes 2 ms later
    tail *= 10 ** (-direct_decibels / 20) / np.sqrt(np.sum(np.square(tail)))
    tail[0] = 1.0
    return signal.oaconvolve(sound, tail[None], axes=-1)[..., : sound.shape[-1]]


def change_speed(sound: np.ndarray, ratio: float) -> np.ndarray:
    """A turntable that runs ``ratio`` times as fast; excerpts keep their length."""
    changed = soxr.resample(sound.T.astype(np.float32), SAMPLE_RATE * ratio, SAMPLE_RATE).T
    return np.pad(changed, ((0, 0), (0, max(0, sound.shape[-1] - changed.shape[-1]))), mode="reflect")[
        :, : sound.shape[-1]
    ]


def encode(sound: np.ndarray, codec: str, bits_per_second: int) -> np.ndarray:
    """There and back through one of FFmpeg's encoders ("mp3", "aac", "libopus"). Shape: [E, S] -> [E, S]."""
    container_format = {"mp3": "mp3", "aac": "adts", "libopus": "ogg"}[codec]
    rate = 48000 if codec == "libopus" else 44100
    stretch = np.ascontiguousarray(sound.reshape(1, -1), dtype=np.float32)
    samples = soxr.resample(stretch[0] / (np.abs(stretch).max() + 1e-9), SAMPLE_RATE, rate)
    file = io.BytesIO()
    with av.open(file, "w", format=container_format) as container:
        stream = cast(av.AudioStream, container.add_stream(codec, rate=rate, layout="mono"))
        stream.bit_rate = bits_per_second
        if codec == "mp3":
            stream.options = {"compression_level": "7"}  # LAME's fast mode
        frame = av.AudioFrame.from_ndarray(samples[None].astype(np.float32), format="fltp", layout="mono")
        frame.sample_rate = rate
        fifo = av.AudioFifo()
        fifo.write(frame)
        to_encoder = av.AudioResampler(format=stream.format, layout="mono", rate=rate)
        while (part := fifo.read(stream.frame_size or 1152, partial=True)) is not None:
            for plain in to_encoder.resample(part):
                container.mux(stream.encode(plain))
        container.mux(stream.encode(None))
    file.seek(0)
    with av.open(file, "r") as encoded:
        from_decoder = av.AudioResampler(format="fltp", layout="mono", rate=rate)
        frames = [
            plain.to_ndarray()[0]
            for frame in encoded.decode(audio=0)
            for plain in from_decoder.resample(frame)
        ]
    heard = soxr.resample(np.concatenate(frames), rate, SAMPLE_RATE)
    heard = np.pad(heard, (0, max(0, stretch.size - len(heard))))[: stretch.size]
    return heard.reshape(sound.shape)


def phone(sound: np.ndarray, rng: Generator) -> np.ndarray:
    """A small loudspeaker, in a room, heard by a phone."""
    sound = band_limit(sound, rng.uniform(120, 250), None)
    sound = equalise(sound, rng, 5.0)
    sound = reverberate(sound, rng, rng.uniform(0.2, 0.7), rng.uniform(0, 8))
    sound = band_limit(sound, None, rng.uniform(5000, 7000))
    return add_hiss(sound, rng, rng.uniform(18, 30))


def another_phone(sound: np.ndarray, rng: Generator) -> np.ndarray:
    """Any small loudspeaker, room and phone: wider in all than :func:`phone`, which is one of them.

    Training hears both, so that it learns what rooms and phones have in common.
    """
    sound = band_limit(sound, rng.uniform(60, 350), None)
    sound = equalise(sound, rng, 8.0)
    if rng.random() < 0.4:
        sound = overdrive(sound, rng.uniform(0.5, 2.5))
    sound = reverberate(sound, rng, rng.uniform(0.1, 1.0), rng.uniform(-4, 10))
    noise = add_hiss if rng.random() < 0.5 else add_room_noise
    sound = noise(sound, rng, rng.uniform(10, 40))
    if rng.random() < 0.4:
        sound = press(sound, rng.uniform(0.3, 0.7))
    return band_limit(sound, None, rng.uniform(3000, 9500))


def low_pass_4k(sound: np.ndarray, rng: Generator) -> np.ndarray:
    """A narrow channel: nothing above 4 kHz."""
    return band_limit(sound, None, 4000.0)


def radio_1930s(sound: np.ndarray, rng: Generator) -> np.ndarray:
    """A valve radio of the 1930s: a band of 150 to 3,800 Hz, bent peaks, hum and hiss."""
    narrow = band_limit(sound, 150.0, 3800.0)
    bent = np.tanh(1.5 * narrow / _loud(narrow))
    time = np.arange(sound.shape[-1]) / SAMPLE_RATE
    hum = sum(np.sin(2 * np.pi * 60 * harmonic * time) / harmonic for harmonic in (1, 2, 3))
    return band_limit(add_hiss(bent + 0.02 * hum, rng, 28), 100.0, 4500.0)


def loud_2000s(sound: np.ndarray, rng: Generator) -> np.ndarray:
    """A master of the 2000s: lows and highs raised, dynamics pressed flat, driven into a limiter."""
    lows, highs = band_limit(sound, None, 120.0), band_limit(sound, 5000.0, None)
    bright = sound + 0.5 * lows + 0.8 * highs
    return overdrive(press(bright, 0.5), 2.0)


def _loud(sound: np.ndarray) -> np.ndarray:
    """Twice each row's root mean square: what its louder waves reach. Shape: [E, S] -> [E, 1]."""
    return 2 * np.sqrt(np.mean(np.square(sound), axis=-1, keepdims=True)) + 1e-9


def anything(sound: np.ndarray, rng: Generator) -> np.ndarray:
    """What training hears: now and then a phone, else some of all the rest."""
    if rng.random() < 0.4:
        return another_phone(sound, rng)
    if rng.random() < 0.3:
        sound = change_speed(sound, rng.uniform(0.97, 1.03))
    if rng.random() < 0.15:
        sound = band_limit(sound, rng.uniform(60, 300), None)
    if rng.random() < 0.5:
        sound = band_limit(sound, None, rng.uniform(2500, 7900))
    if rng.random() < 0.5:
        sound = equalise(sound, rng, 6.0)
    if rng.random() < 0.3:
        sound = add_hiss(sound, rng, rng.uniform(20, 45))
    if rng.random() < 0.4:
        codec, lowest, highest = [("mp3", 48, 192), ("aac", 48, 128), ("libopus", 24, 64)][rng.integers(3)]
        sound = encode(sound, codec, int(rng.uniform(lowest, highest)) * 1000)
    return sound


DAMAGES: dict[str, Callable[[np.ndarray, Generator], np.ndarray]] = {
    "phone": phone,
    "another-phone": another_phone,
    "low-pass-4k": low_pass_4k,
    "anything": anything,
    "radio-1930s": radio_1930s,
    "loud-2000s": loud_2000s,
}


def damage(sound: np.ndarray, name: str, seed: str) -> np.ndarray:
    """Excerpts of one recording after a damage, all through the same chain, then levelled again.

    Shape: [E, samples] float32 at 22,050 Hz -> the same.

    Args:
        name: one of DAMAGES.
        seed: any text; the same text gives the same damage, so that figures can be compared.
    """
    digest = hashlib.blake2b(f"{name}/{seed}".encode(), digest_size=8).digest()
    rng = np.random.default_rng(int.from_bytes(digest, "little"))
    return level(DAMAGES[name](sound.astype(np.float64), rng)[..., : sound.shape[-1]])
