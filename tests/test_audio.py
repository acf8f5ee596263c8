"""From files to excerpts and spectrograms: every format, every length, and what cannot be used."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import av
import librosa
import numpy as np
import pytest
import soundfile
import torch
from conftest import melody
from hypothesis import given
from hypothesis import strategies as st

from erarec import audio
from erarec.audio import (
    EXCERPT_SAMPLES,
    EXCERPT_SECONDS,
    HOP,
    MAX_EXCERPTS,
    MEL_BANDS,
    MEL_F_MAX,
    MEL_F_MIN,
    MEL_FLOOR,
    N_FFT,
    SAMPLE_RATE,
    TAGGER_HOP,
    TAGGER_MEL_BANDS,
    TAGGER_N_FFT,
    TAGGER_SAMPLE_RATE,
    LogMel,
    TaggerMel,
    UnusableAudio,
    cut_excerpts,
    excerpt_starts,
    level,
    read_beginning,
    read_excerpts,
    tagger_sound,
)

ROOT = Path(__file__).parents[1]

# Extension: codec and sample rate; the container follows from the extension.
BY_FFMPEG = {
    "mp3": ("libmp3lame", 44100),
    "m4a": ("aac", 44100),
    "aac": ("aac", 44100),
    "webm": ("libopus", 48000),
    "mp4": ("aac", 44100),
    "mkv": ("pcm_s16le", 44100),
    "ac3": ("ac3", 44100),
    "ts": ("aac", 44100),
}


def encode(path: Path, sound: np.ndarray, codec: str, sample_rate: int, **options: str) -> Path:
    """Write by FFmpeg; an mp4 gets a picture beside its sound. Shape: [samples] float32."""
    with av.open(str(path), "w", options=options) as container:
        video = container.add_stream("mpeg4", rate=1) if path.suffix == ".mp4" else None
        if video is not None:
            video.width = video.height = 64
            video.pix_fmt = "yuv420p"
        stream = container.add_stream(codec, rate=sample_rate, layout="mono")
        if video is not None:
            for _ in range(int(len(sound) / sample_rate)):
                container.mux(video.encode(av.VideoFrame(64, 64, "yuv420p")))
            container.mux(video.encode(None))
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound[None]), format="fltp", layout="mono")
        frame.sample_rate = sample_rate
        resampler = av.AudioResampler(
            stream.format, "mono", sample_rate, frame_size=stream.frame_size or 1024
        )
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return path


def staircase(seconds: float, sample_rate: int) -> np.ndarray:
    """A tone that says what time it is: 300 Hz at the beginning, 10 Hz more every ten seconds."""
    time = np.arange(round(seconds * sample_rate)) / sample_rate
    frequency = 300.0 + 10.0 * np.floor(time / 10)
    phase = 2 * np.pi * np.cumsum(frequency) / sample_rate
    return (0.5 * np.sin(phase)).astype(np.float32)


def told_times(sound: np.ndarray) -> np.ndarray:
    """The times that excerpts of a staircase tell, by their second second. Shape: [E, 66150] -> [E]."""
    middle = sound[:, SAMPLE_RATE : 2 * SAMPLE_RATE]
    peaks = np.abs(np.fft.rfft(middle * np.hanning(SAMPLE_RATE))).argmax(axis=1)
    return 10 * (peaks - 300) / 10


def spectrum(sound: np.ndarray) -> np.ndarray:
    """How loud each band of each excerpt is. Shape: [E, 66150] -> [E, 224] decibels."""
    return 10 / np.log(10) * LogMel()(torch.from_numpy(sound)).mean(-1).numpy()


# Excerpts


@given(st.floats(0, 20_000))
def test_excerpts_cover_a_minute_and_spread_over_more(duration):
    starts = excerpt_starts(duration)
    assert 1 <= len(starts) <= MAX_EXCERPTS
    assert starts[0] == 0
    assert (np.diff(starts) > 0).all()
    ends = np.append(starts, duration)[1:]
    if duration >= EXCERPT_SECONDS:
        assert starts[-1] == pytest.approx(duration - EXCERPT_SECONDS)
    if duration <= 60:
        assert (np.maximum(0, ends - starts - EXCERPT_SECONDS)).sum() <= EXCERPT_SECONDS / 10 + 1e-5
    np.testing.assert_allclose(np.diff(starts), np.diff(starts)[:1].repeat(len(starts) - 1), atol=1e-6)


@pytest.mark.parametrize("seconds", [1.0, 1.7, 2.9])
def test_a_short_recording_is_padded_and_says_so(seconds):
    excerpts = cut_excerpts(melody(seconds, SAMPLE_RATE), SAMPLE_RATE)
    assert excerpts.sound.shape == (1, EXCERPT_SAMPLES)
    assert excerpts.seconds == pytest.approx([seconds], abs=1e-4)
    samples = round(seconds * SAMPLE_RATE)
    assert np.abs(excerpts.sound[0, samples - 100 : samples]).max() > 0
    assert (excerpts.sound[0, samples:] == 0).all()


@pytest.mark.parametrize(("seconds", "count"), [(30, 10), (30.03, 10), (31, 11), (3.2, 1), (59.9, 20)])
def test_an_encoders_padding_does_not_add_an_excerpt(seconds, count):
    assert len(excerpt_starts(seconds)) == count


def test_every_excerpt_is_brought_to_the_same_level():
    loud = melody(15, SAMPLE_RATE)
    quiet_then_loud = loud * np.repeat([0.01, 0.1, 1, 0.5, 0.03], 3 * SAMPLE_RATE).astype(np.float32)
    expected = cut_excerpts(loud).sound
    np.testing.assert_allclose(cut_excerpts(quiet_then_loud).sound, expected, atol=1e-5)
    np.testing.assert_allclose(np.quantile(np.abs(expected), 0.99, axis=1), 0.6, rtol=1e-2)


def test_clipped_peaks_hardly_change_the_level():
    rng = np.random.default_rng(0)
    sound = rng.standard_normal((1, 3 * SAMPLE_RATE)).astype(np.float32)
    peak = np.abs(sound).max()
    whole, clipped = level(sound), level(np.clip(sound, -0.7 * peak, 0.7 * peak))
    quiet = np.abs(sound) < 0.7 * peak
    np.testing.assert_allclose(clipped[quiet], whole[quiet], rtol=1e-3)


def test_one_click_does_not_drown_the_rest_and_sparse_sound_stays_within_bounds():
    sound = melody(3, SAMPLE_RATE)
    clicked = sound.copy()
    clicked[1000] = 5 * np.abs(sound).max()
    np.testing.assert_allclose(level(clicked[None])[0, 2000:], level(sound[None])[0, 2000:], rtol=0.01)
    click = np.full((1, 3 * SAMPLE_RATE), 0.01, np.float32)
    click[0, 1000] = 1
    assert np.abs(level(click)).max() == pytest.approx(12)
    assert (level(np.zeros((2, 100))) == 0).all()


def test_padding_does_not_make_a_short_recording_louder():
    sound = melody(3, SAMPLE_RATE)
    half = SAMPLE_RATE * 3 // 2
    short = cut_excerpts(sound[:half]).sound[0, :half]
    np.testing.assert_allclose(short, level(sound[None, :half])[0], rtol=1e-6)


def test_silent_excerpts_are_left_out():
    sound = melody(15, SAMPLE_RATE)
    sound[3 * SAMPLE_RATE : 6 * SAMPLE_RATE] = 0
    excerpts = cut_excerpts(sound)
    assert excerpts.starts.tolist() == [0, 6, 9, 12]
    assert len(excerpts.sound) == len(excerpts.seconds) == 4


@pytest.mark.parametrize(
    ("seconds", "starts"), [(3.2, [0]), (3.6, [0, 0.6]), (4, [0, 0.5, 1]), (6, [0, 1, 2, 3])]
)
def test_excerpts_of_a_fragment_overlap(seconds, starts):
    assert excerpt_starts(seconds).tolist() == pytest.approx(starts)


def test_channels_are_averaged():
    left, right = melody(4, SAMPLE_RATE, 1), melody(4, SAMPLE_RATE, 2)
    both = cut_excerpts(np.stack([left, right], axis=1))
    np.testing.assert_allclose(both.sound, cut_excerpts((left + right) / 2).sound, atol=1e-6)


@pytest.mark.parametrize("codec", ["soundfile", "ffmpeg"])
def test_stereo_files_are_averaged(tmp_path, codec):
    left, right = melody(4, 44100, 1), melody(4, 44100, 2)
    path = tmp_path / "stereo.wav"
    soundfile.write(path, np.stack([left, right], axis=1), 44100, subtype="FLOAT")
    if codec == "ffmpeg":
        path = path.rename(tmp_path / "stereo.raw")
    np.testing.assert_allclose(
        read_excerpts(path).sound, cut_excerpts((left + right) / 2, 44100).sound, atol=1e-4
    )


# Formats


@pytest.fixture(scope="module")
def tune() -> np.ndarray:
    """Ten seconds at 44.1 kHz, loud from the first to the last."""
    return melody(10, 44100, seed=3)


@pytest.mark.parametrize("extension", ["wav", "flac", "ogg", "opus", "aiff", "caf", *BY_FFMPEG])
def test_every_format_gives_about_the_same_excerpts(tmp_path, tune, extension):
    expected = cut_excerpts(tune, 44100)
    path = tmp_path / f"tune.{extension}"
    if extension in BY_FFMPEG:
        codec, sample_rate = BY_FFMPEG[extension]
        sound = tune if sample_rate == 44100 else librosa.resample(tune, orig_sr=44100, target_sr=sample_rate)
        encode(path, sound, codec, sample_rate)
    elif extension == "opus":
        sound = librosa.resample(tune, orig_sr=44100, target_sr=48000)
        soundfile.write(path, sound, 48000, format="OGG", subtype="OPUS")
    else:
        soundfile.write(path, tune, 44100)
    heard = read_excerpts(path)
    assert heard.duration == pytest.approx(10, abs=0.1)
    assert len(heard.sound) == len(expected.sound)
    np.testing.assert_allclose(heard.starts, expected.starts, atol=0.1)
    # Up to 4 kHz, which all codecs keep.
    difference = (spectrum(heard.sound) - spectrum(expected.sound))[:, :120]
    assert np.abs(difference).mean() < 1.5


@pytest.mark.parametrize("sample_rate", [8000, 96000])
def test_odd_rates_sound_the_same(tmp_path, sample_rate):
    time = np.arange(5 * sample_rate) / sample_rate
    path = tmp_path / "tone.wav"
    soundfile.write(path, 0.5 * np.sin(2 * np.pi * 441 * time), sample_rate)
    excerpts = read_excerpts(path)
    assert excerpts.duration == pytest.approx(5, abs=0.01)
    assert np.abs(np.fft.rfft(excerpts.sound[0])).argmax() == 441 * EXCERPT_SECONDS


def test_what_is_no_number_is_silence(tmp_path):
    sound = melody(4)
    sound[5000:5100] = np.nan
    sound[9000:9010] = np.inf
    path = tmp_path / "nan.wav"
    soundfile.write(path, sound, 44100, subtype="FLOAT")
    heard = read_excerpts(path).sound
    expected = cut_excerpts(np.nan_to_num(sound, posinf=0), 44100).sound
    np.testing.assert_allclose(heard, expected, atol=1e-6)


def test_24_bits_are_enough(tmp_path, tune):
    path = tmp_path / "tune.wav"
    soundfile.write(path, tune, 44100, subtype="PCM_24")
    np.testing.assert_allclose(read_excerpts(path).sound, cut_excerpts(tune, 44100).sound, atol=1e-5)


def test_a_name_need_not_say_what_the_file_is(tmp_path, tune):
    encode(tmp_path / "tune.m4a", tune, "aac", 44100)
    for name in ("tune.txt", "tune", "tune.raw", "tune.wav"):
        path = (tmp_path / "tune.m4a").rename(tmp_path / name)
        assert read_excerpts(path).duration == pytest.approx(10, abs=0.1)
        path.rename(tmp_path / "tune.m4a")


@pytest.mark.skipif(sys.platform != "linux", reason="names are UTF-8 here")
@pytest.mark.parametrize("extension", ["wav", "m4a"])
def test_a_name_need_not_be_utf8(tmp_path, tune, extension):
    path = tmp_path / os.fsdecode(b"caf\xe9." + extension.encode())
    if extension == "wav":
        soundfile.write(os.fsencode(path), tune, 44100)
    else:
        encode(tmp_path / "x.m4a", tune, "aac", 44100).rename(path)
    assert read_excerpts(path).duration == pytest.approx(10, abs=0.1)


def test_tags_need_not_be_utf8(tmp_path, tune):
    path = tmp_path / "tune.m4a"
    with av.open(str(path), "w", format="ipod") as container:
        container.metadata["title"] = "TITLE"
        stream = container.add_stream("aac", rate=44100, layout="mono")
        frame = av.AudioFrame.from_ndarray(tune[None], format="fltp", layout="mono")
        frame.sample_rate = 44100
        for part in av.AudioResampler("fltp", "mono", 44100, frame_size=1024).resample(frame):
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    data = path.read_bytes()
    assert data.count(b"TITLE") == 1
    path.write_bytes(data.replace(b"TITLE", b"TITL\xe9"))
    assert read_excerpts(path).duration == pytest.approx(10, abs=0.1)


# Long recordings, and those that do not say how long they are


def write_hour(path: Path) -> None:
    """An hour of staircase at 8 kHz."""
    sound = staircase(3600, 8000)
    if path.suffix in (".wav", ".flac", ".mp3"):
        soundfile.write(path, sound, 8000)
    else:
        encode(path, sound, "pcm_s16le", 8000)


@pytest.mark.parametrize("extension", ["wav", "flac", "mp3", "mkv"])
def test_an_hour_gives_twenty_excerpts_from_where_they_say(tmp_path, extension):
    path = tmp_path / f"hour.{extension}"
    write_hour(path)
    program = f"""
        import resource, sys
        import numpy as np
        from erarec.audio import read_excerpts
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        excerpts = read_excerpts(sys.argv[1])
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
        np.savez({str(tmp_path / "excerpts.npz")!r}, **vars(excerpts))
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(path)]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    grown = int(answer.stdout) * (1 if sys.platform == "darwin" else 1024)  # bytes there, kilobytes here
    assert grown < 60e6  # an hour of float32 at 22,050 Hz takes 318 MB
    with np.load(tmp_path / "excerpts.npz") as excerpts:
        assert excerpts["duration"] == pytest.approx(3600, abs=0.2)
        assert excerpts["sound"].shape == (MAX_EXCERPTS, EXCERPT_SAMPLES)
        np.testing.assert_allclose(np.diff(excerpts["starts"]), (3600 - 3) / 19, atol=0.1)
        told = told_times(excerpts["sound"])
        assert (np.abs(told + 5 - (excerpts["starts"] + 1.5)) < 6).all()


@pytest.mark.parametrize("extension", ["m4a", "aac", "ts", "webm"])
def test_ninety_seconds_by_ffmpeg_come_from_where_they_say(tmp_path, extension):
    codec, sample_rate = BY_FFMPEG[extension]
    path = encode(tmp_path / f"long.{extension}", staircase(90, sample_rate), codec, sample_rate)
    excerpts = read_excerpts(path)
    assert excerpts.duration == pytest.approx(90, abs=0.1)
    assert len(excerpts.starts) == MAX_EXCERPTS
    assert (np.abs(told_times(excerpts.sound) + 5 - (excerpts.starts + 1.5)) < 6).all()


@pytest.mark.parametrize(("extension", "options"), [("m4a", {}), ("ts", {"output_ts_offset": "5000"})])
def test_only_what_the_excerpts_need_is_decoded(tmp_path, monkeypatch, extension, options):
    """Also of a recording of a broadcast, whose clock does not begin at zero."""
    path = encode(tmp_path / f"long.{extension}", staircase(300, 8000), "aac", 8000, **options)
    frames, decoded = audio._frames, []

    def counted(*arguments):
        for frame in frames(*arguments):
            decoded.append(frame.samples / frame.sample_rate)
            yield frame

    monkeypatch.setattr(audio, "_frames", counted)
    excerpts = read_excerpts(path)
    assert len(excerpts.starts) == MAX_EXCERPTS
    assert (np.abs(told_times(excerpts.sound) + 5 - (excerpts.starts + 1.5)) < 6).all()
    assert 60 <= sum(decoded) < 120


def test_the_length_of_aac_without_container_is_counted(tmp_path):
    """FFmpeg guesses it from the bit rate of the beginning, here that of near silence."""
    sound = np.concatenate([melody(40) * 1e-3, np.random.default_rng(0).normal(0, 0.2, 40 * 44100)])
    path = encode(tmp_path / "changing.aac", sound.astype(np.float32), "aac", 44100)
    assert read_excerpts(path).duration == pytest.approx(80, abs=0.1)


@pytest.mark.parametrize("clock", ["0", "5000"])
@pytest.mark.parametrize("seconds", [10, 80])
def test_webm_from_a_browser_has_no_duration_and_is_answered(tmp_path, seconds, clock):
    options = {"live": "1", "output_ts_offset": clock}
    path = encode(tmp_path / "live.webm", staircase(seconds, 48000), "libopus", 48000, **options)
    with av.open(str(path)) as container:
        assert container.duration is None
        assert container.streams.audio[0].duration is None
    excerpts = read_excerpts(path)
    assert excerpts.duration == pytest.approx(seconds, abs=0.1)
    assert len(excerpts.starts) == min(MAX_EXCERPTS, -(-seconds // 3))
    assert (np.abs(told_times(excerpts.sound) + 5 - (excerpts.starts + 1.5)) < 6).all()


@pytest.mark.parametrize("seconds", [10, 80])
def test_a_flac_stream_of_unknown_length_is_answered(tmp_path, seconds):
    path = tmp_path / "stream.flac"
    soundfile.write(path, staircase(seconds, 22050), 22050)
    header = bytearray(path.read_bytes())
    header[21] &= 0xF0  # the 36 bits of STREAMINFO that count samples
    header[22:26] = bytes(4)
    path.write_bytes(header)
    assert read_excerpts(path).duration == pytest.approx(seconds, abs=0.1)


@pytest.mark.parametrize("extension", ["mp3", "ogg", "webm", "aac", "mkv"])
def test_a_truncated_file_is_answered_from_what_is_left(tmp_path, extension):
    path = tmp_path / f"cut.{extension}"
    if extension == "ogg":
        soundfile.write(path, melody(30), 44100)
    else:
        codec, sample_rate = BY_FFMPEG[extension]
        encode(path, melody(30, sample_rate), codec, sample_rate)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    excerpts = read_excerpts(path)
    assert 10 < excerpts.starts[-1] + excerpts.seconds[-1] < 20


def test_what_was_joined_is_read_through(tmp_path):
    """Rate and channels of AAC may change in the middle of a stream."""
    first = encode(tmp_path / "a.aac", melody(10, 44100), "aac", 44100).read_bytes()
    second = encode(tmp_path / "b.aac", melody(10, 32000), "aac", 32000).read_bytes()
    path = tmp_path / "joined.aac"
    path.write_bytes(first + second)
    excerpts = read_excerpts(path)
    assert len(excerpts.starts) >= 6
    assert np.isfinite(excerpts.sound).all()


def test_many_channels_are_averaged(tmp_path):
    """PyAV reads beyond a frame's planes where there are more than eight."""
    path = tmp_path / "many.raw"  # a name that goes to FFmpeg
    sound = np.stack([melody(4, 22050, seed) for seed in range(16)], axis=1)
    soundfile.write(tmp_path / "many.wav", sound, 22050, subtype="FLOAT")
    (tmp_path / "many.wav").rename(path)
    np.testing.assert_allclose(read_excerpts(path).sound, cut_excerpts(sound).sound, atol=1e-4)


@pytest.mark.parametrize("extension", ["wav", "mp3", "m4a"])
def test_the_beginning_is_the_first_minute_as_the_excerpts_hear_it(tmp_path, extension):
    sound = np.concatenate([melody(60, 44100, seed) for seed in (1, 2)])
    path = tmp_path / f"tune.{extension}"
    if extension in BY_FFMPEG:
        encode(path, sound, *BY_FFMPEG[extension])
    else:
        soundfile.write(path, sound, 44100)
    beginning = read_beginning(path)
    assert len(beginning) / SAMPLE_RATE == pytest.approx(60, abs=0.1)
    expected = cut_excerpts(sound[: 60 * 44100], 44100)
    difference = (spectrum(cut_excerpts(beginning).sound) - spectrum(expected.sound))[:, :120]
    assert np.abs(difference).mean() < 1.5


# What cannot be used


def write_video(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 64
        for _ in range(20):
            container.mux(stream.encode(av.VideoFrame(64, 64, "yuv420p")))
        container.mux(stream.encode(None))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: path.write_text("no sound, but words\n" * 50), "can be read"),
        (lambda path: path.write_bytes(np.random.default_rng(0).bytes(100_000)), "can be read"),
        (lambda path: soundfile.write(path, np.zeros(44100 * 5), 44100, format="WAV"), "silent"),
        (lambda path: soundfile.write(path, np.full(44100 * 5, 5e-5), 44100, format="WAV"), "silent"),
        (lambda path: soundfile.write(path, melody(0.5), 44100, format="WAV"), "at least one second"),
        (lambda path: soundfile.write(path, np.zeros(0), 44100, format="WAV"), "at least one second"),
        (lambda path: path.touch(), "empty"),
        (lambda path: path.mkdir(), "folder"),
        (lambda path: None, "no file"),
    ],
    ids=["text", "noise", "silence", "hum", "short", "no samples", "zero bytes", "folder", "missing"],
)
@pytest.mark.parametrize("name", [b"x.mp3", b"x.wav", b"x.m4a", b"x", b"caf\xe9.mp3"])
def test_unusable_files_are_told_in_one_sentence(tmp_path, make, says, name):
    path = tmp_path / os.fsdecode(name)
    made = tmp_path / "made"
    make(made)
    if made.exists():
        made.rename(path)
    with pytest.raises(UnusableAudio, match=says) as raised:
        read_excerpts(path)
    assert_one_sentence(raised.value)
    if "second" not in says:  # a beginning may be of any length
        with pytest.raises(UnusableAudio) as raised:
            read_beginning(path)
        assert_one_sentence(raised.value)


def assert_one_sentence(error: UnusableAudio) -> None:
    sentence = str(error)
    assert sentence.encode()  # whatever the file is called
    assert sentence[0].strip()
    assert sentence.endswith(".")
    assert "\n" not in sentence
    assert "Error" not in sentence
    assert str(Path(__file__).anchor) not in sentence  # no paths


def test_a_video_without_sound_says_so(tmp_path):
    path = tmp_path / "silent.mp4"
    write_video(path)
    with pytest.raises(UnusableAudio, match=r"^silent.mp4 has no sound in it\.$"):
        read_excerpts(path)


@pytest.mark.parametrize("path", [Path("."), Path("/"), Path("x" * 300), Path("a\0b")])
def test_impossible_names_are_told_in_one_sentence(path):
    with pytest.raises(UnusableAudio) as raised:
        read_excerpts(path)
    assert str(raised.value)[0].strip()


def test_a_playlist_opens_no_other_file(tmp_path):
    other = encode(tmp_path / "other.ts", melody(10), "aac", 44100)
    path = tmp_path / "list.m3u8"
    path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{other}\n#EXT-X-ENDLIST\n")
    with av.open(str(path)) as container:
        assert container.streams.audio  # FFmpeg left to itself would
    with pytest.raises(UnusableAudio):
        read_excerpts(path)


@pytest.mark.parametrize("sound", [np.zeros(0, np.float32), np.zeros((0, 2), np.float32), np.zeros(66150)])
def test_nothing_in_memory_is_no_recording(sound):
    with pytest.raises(UnusableAudio):
        cut_excerpts(sound)


# Spectrograms


def test_log_mel_equals_librosas():
    sound = melody(3, SAMPLE_RATE)
    power = librosa.feature.melspectrogram(
        y=sound,
        sr=SAMPLE_RATE,
        n_fft=N_FFT,
        hop_length=HOP,
        n_mels=MEL_BANDS,
        fmin=MEL_F_MIN,
        fmax=MEL_F_MAX,
        power=2.0,
        pad_mode="reflect",
    )
    expected = np.log(np.maximum(power, MEL_FLOOR))
    heard = LogMel()(torch.from_numpy(sound)).numpy()
    assert heard.shape == expected.shape == (224, 130)
    np.testing.assert_allclose(heard, expected, atol=2e-3)
    assert heard.std() > 1


def test_log_mel_has_a_floor():
    assert LogMel()(torch.zeros(66150)).unique().tolist() == pytest.approx([np.log(1e-6)])


def test_the_taggers_mel_equals_librosas():
    sound = melody(3, TAGGER_SAMPLE_RATE)
    power = librosa.feature.melspectrogram(
        y=sound,
        sr=TAGGER_SAMPLE_RATE,
        n_fft=TAGGER_N_FFT,
        hop_length=TAGGER_HOP,
        n_mels=TAGGER_MEL_BANDS,
        pad_mode="reflect",
    )
    expected = np.log10(10000 * power + 1).T
    heard = TaggerMel()(torch.from_numpy(sound)).numpy()
    assert heard.shape == expected.shape == (188, 96)
    np.testing.assert_allclose(heard, expected, atol=1e-3)


def test_the_tagger_hears_the_same_sound_at_its_own_rate():
    time = np.arange(EXCERPT_SAMPLES) / SAMPLE_RATE
    tone = np.sin(2 * np.pi * 1000 * time).astype(np.float32)
    heard = tagger_sound(np.stack([tone, 0.5 * tone]))
    assert heard.shape == (2, 48000)
    expected = np.sin(2 * np.pi * 1000 * np.arange(48000) / TAGGER_SAMPLE_RATE)
    np.testing.assert_allclose(heard[0, 2000:-2000], expected[2000:-2000], atol=1e-3)
    np.testing.assert_allclose(heard[1], heard[0] / 2, atol=1e-6)


# torchaudio


FAKE = """
import sys, types
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec

class Extension(MetaPathFinder, Loader):
    def find_spec(self, name, path, target=None):
        return ModuleSpec(name, self) if name == "torchaudio._extension" else None
    def exec_module(self, module):
        {what}
sys.meta_path.insert(0, Extension())
import torch
from erarec import audio
mel = audio.LogMel()(torch.ones(66150))
assert mel.shape == (224, 130), mel.shape
extension = sys.modules["torchaudio._extension"]
print(hasattr(extension, "mark"))
"""

WORKING = """module.__dict__.update(
            mark=True, _IS_TORCHAUDIO_EXT_AVAILABLE=False, _IS_ALIGN_AVAILABLE=False,
            _check_cuda_version=lambda: None, fail_if_no_align=lambda function: function)"""


@pytest.mark.parametrize(
    ("what", "left_alone"),
    [
        ("raise OSError('libcudart.so.13: cannot open shared object file')", False),
        ("raise RuntimeError('Detected that PyTorch and TorchAudio have different CUDA versions.')", False),
        (WORKING, True),
    ],
    ids=["does not load", "other CUDA", "works"],
)
def test_torchaudio_is_helped_only_where_it_fails(what, left_alone):
    program = FAKE.replace("{what}", what)
    answer = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.strip() == str(left_alone)
