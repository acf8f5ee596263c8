"""From any file to three-second excerpts, and from excerpts to the spectrograms the two towers read."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import av
import numpy as np
import soundfile
import soxr
import torch
from torch import Tensor, nn

from erarec.texts import Sentence


def _import_transforms() -> ModuleType:
    """torchaudio's transforms, which are plain Python, even where its native library does not load.

    torchaudio links CUDA: beside a CPU build of torch it fails to load, and beside one of another CUDA
    version it objects. Only then is its extension module replaced by an empty one.
    """
    try:
        import torchaudio.transforms
    except (ImportError, OSError, RuntimeError):
        for name in [name for name in sys.modules if name.split(".")[0] == "torchaudio"]:
            del sys.modules[name]
        stub = ModuleType("torchaudio._extension")
        stub.__dict__.update(
            _IS_TORCHAUDIO_EXT_AVAILABLE=False,
            _IS_ALIGN_AVAILABLE=False,
            _check_cuda_version=lambda: None,
            fail_if_no_align=lambda function: function,
        )
        sys.modules["torchaudio._extension"] = stub
        import torchaudio.transforms
    return torchaudio.transforms


transforms = _import_transforms()

SAMPLE_RATE = 22050  # Hz: everything after decoding
N_FFT = 2048
HOP = 512
MEL_BANDS = 224
MEL_F_MIN, MEL_F_MAX = 30.0, 11025.0  # Hz
MEL_FLOOR = 1e-6

TAGGER_SAMPLE_RATE = 16000  # Hz
TAGGER_N_FFT = 512
TAGGER_HOP = 256
TAGGER_MEL_BANDS = 96
TAGGER_FRAMES = 187

EXCERPT_SECONDS = 3.0
EXCERPT_SAMPLES = round(EXCERPT_SECONDS * SAMPLE_RATE)  # 66,150
MEL_FRAMES = EXCERPT_SAMPLES // HOP + 1  # 130
MAX_EXCERPTS = 20
FEWEST_EXCERPTS = 4  # of what is long enough for them to begin half a second apart
STEP_SECONDS = 0.5
MIN_SECONDS = 1.0
SILENCE = 1e-4  # peak, -80 dB of full scale
LOUD_QUANTILE = 0.99  # of the absolute samples: what clipping on the way, or one click, hardly moves
LOUD = 0.6  # what that quantile is brought to; about what it is in music with a peak of 1
MAX_PEAK = 12.0  # however sparse the sound
SPARE = 0.1  # of an excerpt: so much may stay unheard rather than be heard almost twice
WHOLE_SECONDS = MAX_EXCERPTS * EXCERPT_SECONDS  # up to here all is decoded, beyond only the excerpts
NO_INDEX = 0x0100  # FFmpeg's AVFMT_GENERIC_INDEX
LONGEST_SECONDS = 1e6  # eleven days: a header that promises more does not know


Read = TypeVar("Read")


class UnusableAudio(ValueError):
    """The sound cannot be answered; ``sentence`` says why to the user."""

    def __init__(self, template: str, **values: Any) -> None:
        self.sentence = Sentence(template, **values)
        super().__init__(self.sentence)


@dataclass(frozen=True)
class Excerpts:
    """Up to twenty excerpts of a recording.

    Attributes:
        sound: [E, 66150] float32 at 22,050 Hz, each at the level of ``level``.
        starts: [E] seconds from the beginning of the recording.
        seconds: [E] how much of each excerpt is sound; the rest is padding, zeros.
        duration: seconds, of the recording.
    """

    sound: np.ndarray
    starts: np.ndarray
    seconds: np.ndarray
    duration: float


def excerpt_starts(duration: float) -> np.ndarray:
    """Where excerpts begin in ``duration`` seconds: evenly spread, together covering all up to a minute, but
    for a tenth of an excerpt at most (encoders add some milliseconds).

    Of a fragment they overlap, so that there are up to four of them, half a second apart: of 200 fragments
    of 5 s four excerpts brought 4.0 points more within 3 years than two.

    Shape: [E] float64 seconds, 1 <= E <= 20.
    """
    overlapping = min(FEWEST_EXCERPTS, 1 + max(0, int((duration - EXCERPT_SECONDS) / STEP_SECONDS)))
    count = min(MAX_EXCERPTS, max(overlapping, int(np.ceil(duration / EXCERPT_SECONDS - SPARE))))
    return np.linspace(0.0, max(0.0, duration - EXCERPT_SECONDS), count)


def cut_excerpts(sound: np.ndarray, sample_rate: int = SAMPLE_RATE) -> Excerpts:
    """Excerpts of a whole recording that is in memory.

    Shape: [samples] or [samples, channels] float, at ``sample_rate`` Hz.
    Raises UnusableAudio when it is shorter than a second, or silent.
    """
    sound = _resample(sound[:, None] if sound.ndim == 1 else sound, sample_rate)
    duration = len(sound) / SAMPLE_RATE
    starts = excerpt_starts(duration)
    firsts = (starts * SAMPLE_RATE).round().astype(int)
    return _assemble([sound[first : first + EXCERPT_SAMPLES] for first in firsts], starts, duration)


def read_excerpts(path: str | Path) -> Excerpts:
    """Decode what the excerpts need of a recording, in any format that libsndfile or FFmpeg reads.

    Memory does not grow with the recording: of more than a minute, only the excerpts are decoded.
    Raises UnusableAudio when there is nothing to hear, with a sentence that says why.
    """
    return _read(Path(path), _excerpts_by_soundfile, _excerpts_by_ffmpeg)


def read_beginning(path: str | Path) -> np.ndarray:
    """The first minute of a recording. Shape: [samples] float32 at 22,050 Hz.

    Raises UnusableAudio as ``read_excerpts`` does.
    """
    sound = _read(Path(path), _beginning_by_soundfile, _beginning_by_ffmpeg)
    if not len(sound) or np.abs(sound).max() <= SILENCE:
        raise UnusableAudio("The recording is silent.")
    return sound


def _read(path: Path, by_soundfile: Callable[[Path], Read], by_ffmpeg: Callable[[Path], Read]) -> Read:
    """Read a file with the one, else with the other; every failure is UnusableAudio with a sentence."""
    name = _shown(path)
    try:
        if path.is_dir():
            raise UnusableAudio("{name} is a folder, not a recording.", name=name)
        if not path.exists():
            raise UnusableAudio("There is no file {name}.", name=name)
        if path.stat().st_size == 0:
            raise UnusableAudio("{name} is empty.", name=name)
        if path.suffix.lower() != ".raw":  # soundfile takes these for samples without a header
            try:
                return by_soundfile(path)
            except soundfile.LibsndfileError:
                pass  # a format of FFmpeg's: m4a, webm, video, ...
        return by_ffmpeg(path)
    except (av.FFmpegError, OSError) as error:
        raise UnusableAudio("{name} is not a recording that can be read.", name=name) from error


def _shown(path: Path) -> str:
    """A file's name as it can be printed: names need not be UTF-8, and a folder may have none (".")."""
    return os.fsencode(path.name or path).decode(errors="replace")


def _excerpts_by_soundfile(path: Path) -> Excerpts:
    with soundfile.SoundFile(os.fsencode(path)) as file:  # names need not be UTF-8
        rate = file.samplerate
        # A damaged header may promise any length; what can't be read is left out below.
        duration = file.frames / rate
        if duration > LONGEST_SECONDS:  # a FLAC stream that was written without knowing where it ends
            return _excerpts_by_ffmpeg(path)
        if duration <= WHOLE_SECONDS:
            return cut_excerpts(file.read(dtype="float32", always_2d=True), rate)
        starts, pieces = [], []
        for start in excerpt_starts(duration):
            try:
                file.seek(int(start * rate))
                samples = file.read(int(EXCERPT_SECONDS * rate) + 1, dtype="float32", always_2d=True)
            except soundfile.LibsndfileError:
                continue
            if len(samples) >= rate * MIN_SECONDS:
                starts.append(start)
                pieces.append(_resample(samples, rate))
    if not pieces:
        raise UnusableAudio("{name} breaks off before anything can be heard.", name=_shown(path))
    return _assemble(pieces, np.array(starts), duration)


def _beginning_by_soundfile(path: Path) -> np.ndarray:
    with soundfile.SoundFile(os.fsencode(path)) as file:
        samples = file.read(int(WHOLE_SECONDS * file.samplerate), dtype="float32", always_2d=True)
        return _resample(samples, file.samplerate)


def _beginning_by_ffmpeg(path: Path) -> np.ndarray:
    with _open(path) as container:
        _check_stream(container, path)
        rate, samples = _stream(container, 0.0, WHOLE_SECONDS)
    return _resample(samples[:, None], rate)


def _check_stream(container: av.container.InputContainer, path: Path) -> None:
    """Raises UnusableAudio when there is no sound, or none that can be decoded."""
    if not container.streams.audio:
        raise UnusableAudio("{name} has no sound in it.", name=_shown(path))
    codec = container.streams.audio[0].codec_context
    if codec is None or not codec.sample_rate:
        raise UnusableAudio("{name} is not a recording that can be read.", name=_shown(path))


@contextmanager
def _open(path: Path) -> Iterator[av.container.InputContainer]:
    """A file by FFmpeg, which is kept from opening any other: a playlist may name files and addresses."""
    alone = {"protocol_whitelist": "none"}
    with path.open("rb") as raw, av.open(raw, "r", metadata_errors="replace", options=alone) as container:
        yield container


def _excerpts_by_ffmpeg(path: Path) -> Excerpts:
    with _open(path) as container:
        _check_stream(container, path)
        duration = _duration(container)
    if duration <= WHOLE_SECONDS:
        with _open(path) as container:
            rate, samples = _stream(container, 0.0, WHOLE_SECONDS + EXCERPT_SECONDS)
        if not len(samples):
            raise UnusableAudio("{name} has no sound in it.", name=_shown(path))
        return cut_excerpts(samples, rate)
    starts, pieces = [], []
    with _open(path) as container:
        origin = _origin(container.streams.audio[0])
        for start in excerpt_starts(duration):
            container.seek(int((start + origin) * av.time_base))
            rate, samples = _stream(container, start, start + EXCERPT_SECONDS)
            if len(samples) >= rate * MIN_SECONDS:
                starts.append(start)
                pieces.append(_resample(samples[:, None], rate))
    if not pieces:
        raise UnusableAudio("{name} breaks off before anything can be heard.", name=_shown(path))
    return _assemble(pieces, np.array(starts), duration)


def _duration(container: av.container.InputContainer) -> float:
    """Seconds of the first audio stream; counted packet by packet where the file does not say."""
    stream = container.streams.audio[0]
    # Where there is no index (AAC without a container), FFmpeg guesses the length from the bit rate.
    if not container.format.flags & NO_INDEX:
        if stream.duration is not None and stream.time_base is not None:
            return float(stream.duration * stream.time_base)
        if container.duration is not None:
            return container.duration / av.time_base
    end = 0.0
    for packet in container.demux(stream):
        if packet.pts is not None and packet.time_base is not None:
            end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
    return end - _origin(stream)


def _origin(stream: av.AudioStream) -> float:
    """When a stream begins by its own clock, in seconds; that of a broadcast starts anywhere."""
    return float((stream.start_time or 0) * (stream.time_base or 0))


def _stream(container: av.container.InputContainer, start: float, end: float) -> tuple[int, np.ndarray]:
    """Decoded sound between two times, as its rate and [samples] float32, channels averaged."""
    stream = container.streams.audio[0]
    rate, origin = stream.rate, _origin(stream)
    resampler, form = None, None
    blocks = [np.zeros(0, np.float32)]
    missing = round((end - start) * rate)
    for frame in _frames(container, stream):
        time = (frame.time if frame.time is not None else start + origin) - origin
        if resampler is None or form != (frame.format.name, frame.layout.name, frame.sample_rate):
            # Channels and rate may change on the way, in broadcasts and in files that were joined.
            form = frame.format.name, frame.layout.name, frame.sample_rate
            resampler = av.AudioResampler(format="flt", rate=rate)  # PyAV miscounts more than 8 planes
        for plain in resampler.resample(frame):
            samples = plain.to_ndarray().reshape(plain.samples, -1).mean(axis=1)
            samples = samples[max(0, round((start - time) * rate)) :][:missing]
            time += plain.samples / rate
            if len(samples):
                blocks.append(samples)
                missing -= len(samples)
        if missing <= 0:
            break
    return rate, np.concatenate(blocks)


def _frames(container: av.container.InputContainer, stream: av.AudioStream) -> Iterator[av.AudioFrame]:
    """Decoded frames, stepping over packets that are damaged, as players do."""
    for packet in container.demux(stream):
        try:
            yield from packet.decode()
        except av.error.InvalidDataError:
            continue


def _resample(samples: np.ndarray, rate: int) -> np.ndarray:
    """Average the channels and resample. Shape: [samples, channels] -> [samples] float32 at 22,050 Hz."""
    # Channel by channel: mean() over so short an axis takes ten times as long.
    mono = sum(samples.T.astype(np.float32, copy=False)) / samples.shape[1]
    mono = np.nan_to_num(mono, posinf=0.0, neginf=0.0)
    return soxr.resample(mono, rate, SAMPLE_RATE) if len(mono) and rate != SAMPLE_RATE else mono


def _assemble(pieces: list[np.ndarray], starts: np.ndarray, duration: float) -> Excerpts:
    """Pad excerpts to three seconds, drop silent ones, level the others."""
    if duration < MIN_SECONDS:
        raise UnusableAudio(
            "The recording lasts {seconds:.2f} s; it takes at least one second.", seconds=duration
        )
    sound = np.zeros((len(pieces), EXCERPT_SAMPLES), np.float32)
    lengths = np.array([min(len(piece), EXCERPT_SAMPLES) for piece in pieces])
    for row, piece in zip(sound, pieces, strict=True):
        row[: len(piece)] = piece[:EXCERPT_SAMPLES]
    heard = np.abs(sound).max(axis=1) > SILENCE
    if not heard.any():
        raise UnusableAudio("The recording is silent.")
    return Excerpts(
        sound=level(sound[heard]),
        starts=starts[heard],
        seconds=lengths[heard] / SAMPLE_RATE,
        duration=duration,
    )


def level(sound: np.ndarray) -> np.ndarray:
    """Excerpts at one level: the 99 % quantile of the absolute samples at 0.6, no peak above 12.

    A peak would be the simpler measure, but a loud master's decoded peaks overshoot full scale, and whether
    they are clipped on the way (as any file of 16 bits does) moves it by some decibels. Samples 60 dB below
    the peak do not count: padding and pauses don't make the rest louder.

    Shape: [E, S] float -> [E, S] float32. Silence remains silence.
    """
    levelled = np.empty(sound.shape, np.float32)
    for row, samples in zip(levelled, np.abs(sound), strict=True):
        peak = samples.max()
        loud = np.quantile(samples[samples >= peak / 1000], LOUD_QUANTILE)
        row[:] = max(loud / LOUD, peak / MAX_PEAK, 1e-9)
    return np.divide(sound, levelled, out=levelled)


def tagger_sound(sound: np.ndarray) -> np.ndarray:
    """The same excerpts at the tagger's rate. Shape: [E, 66150] at 22,050 Hz -> [E, 48000] at 16 kHz."""
    return np.ascontiguousarray(soxr.resample(sound.T, SAMPLE_RATE, TAGGER_SAMPLE_RATE).T)


class LogMel(nn.Module):
    """Natural logarithm of a 224-band mel power spectrogram, floor 1e-6: what the CNN tower reads.

    Shape: [..., samples] float32 at 22,050 Hz -> [..., 224, samples // 512 + 1].
    """

    def __init__(self) -> None:
        super().__init__()
        self.mel = transforms.MelSpectrogram(
            SAMPLE_RATE,
            n_fft=N_FFT,
            hop_length=HOP,
            f_min=MEL_F_MIN,
            f_max=MEL_F_MAX,
            n_mels=MEL_BANDS,
            power=2.0,
            norm="slaney",
            mel_scale="slaney",
        )

    def forward(self, sound: Tensor) -> Tensor:
        return self.mel(sound).clamp_min(MEL_FLOOR).log()


class TaggerMel(nn.Module):
    """log10(10000 x + 1) of a 96-band mel power spectrogram: what MSD_musicnn was trained on.

    Shape: [..., samples] float32 at 16 kHz -> [..., samples // 256 + 1, 96], time before frequency.
    """

    def __init__(self) -> None:
        super().__init__()
        self.mel = transforms.MelSpectrogram(
            TAGGER_SAMPLE_RATE,
            n_fft=TAGGER_N_FFT,
            hop_length=TAGGER_HOP,
            n_mels=TAGGER_MEL_BANDS,
            power=2.0,
            norm="slaney",
            mel_scale="slaney",
        )

    def forward(self, sound: Tensor) -> Tensor:
        return torch.log10(10000 * self.mel(sound) + 1).transpose(-1, -2)
