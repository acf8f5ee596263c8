"""Renders the page's examples: one tune as it would have been arranged, played and recorded in each decade.

    python assets/examples/render.py             # all of them, beside this file
    python assets/examples/render.py 1950s       # one

Needs FluidSynth and the sound font FluidR3 GM (on Debian: apt-get install fluidsynth fluid-soundfont-gm).
Every random number follows from the decade's name, so the same versions render the same files.

From top to bottom: the tune, ways to arrange it, ways to play it, ways to record it, the decades.
A sound is [samples, 2] float64 at 44,100 Hz; times are in beats, until a part is played.
"""

import argparse
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import which
from zlib import crc32

import av
import numpy as np
from scipy import ndimage, signal

RATE = 44100  # Hz
SOUND_FONT = Path("/usr/share/sounds/sf2/FluidR3_GM.sf2")
BARS = 8
TAIL = 1.3  # seconds for the last chord to ring
Sound = np.ndarray
Tone = Callable[[float, np.ndarray, float], Sound]


# The tune ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Note:
    start: float  # beats from the beginning
    length: float  # beats
    pitch: float  # MIDI: 60 is middle C
    velocity: float = 90  # 1 to 127


MELODY = [  # a bar of four beats a line, in C: (pitch, length)
    [(67, 1.5), (69, 0.5), (67, 1), (64, 1)],
    [(69, 1.5), (71, 0.5), (69, 1), (65, 1)],
    [(74, 1.5), (72, 0.5), (71, 1), (69, 1)],
    [(67, 3), (67, 0.5), (71, 0.5)],
    [(72, 1.5), (74, 0.5), (76, 1), (72, 1)],
    [(69, 1), (72, 1), (76, 2)],
    [(74, 1), (72, 0.5), (69, 0.5), (67, 1), (71, 1)],
    [(72, 3)],
]
CHORDS = ["C", "Dm", "G", "C", "Am", "F", "Dm G", "C"]  # a bar each; two share the bar
ROOTS = {"C": 0, "D": 2, "F": 5, "G": 7, "A": 9}
TRIAD = {"major": (0, 4, 7), "minor": (0, 3, 7), "dominant": (0, 4, 7)}
SIXTH = {"major": (0, 4, 7, 9), "minor": (0, 3, 7, 10), "dominant": (4, 7, 10, 14)}
RICH = {"major": (4, 7, 9, 14), "minor": (0, 3, 7, 10), "dominant": (4, 9, 10, 14)}
POWER = {"major": (0, 7), "minor": (0, 7), "dominant": (0, 7)}
Colour = dict[str, tuple[int, ...]]


def melody(transpose: float = 0) -> list[Note]:
    """The tune's notes."""
    notes = []
    for bar, line in enumerate(MELODY):
        start = 4.0 * bar
        for pitch, length in line:
            notes.append(Note(start, length, pitch + transpose, 96 if start % 2 == 0 else 88))
            start += length
    return notes


def chords(colour: Colour) -> list[tuple[float, float, int, tuple[int, ...]]]:
    """The tune's harmony: (start, length, root's pitch class, intervals above the root)."""
    found = []
    for bar, symbols in enumerate(CHORDS):
        for position, symbol in enumerate(symbols.split()):
            length = 4.0 / len(symbols.split())
            kind = "minor" if symbol.endswith("m") else "dominant" if symbol == "G" else "major"
            found.append((4.0 * bar + position * length, length, ROOTS[symbol[0]], colour[kind]))
    return found


def chord_at(beat: float, colour: Colour) -> tuple[int, tuple[int, ...]]:
    """The root's pitch class and the intervals above it."""
    return [(root, intervals) for start, _, root, intervals in chords(colour) if start <= beat][-1]


# Ways to arrange it -----------------------------------------------------------------------------------------


def voicing(root: int, intervals: Iterable[int], low: float, key: float = 0) -> list[float]:
    """The chord's pitches, each in the octave above ``low``: neighbouring chords then move by small steps."""
    return sorted(low + (root + key + interval - low) % 12 for interval in intervals)


def comp(pattern: str, colour: Colour, low: float, key: float = 0, length: float = 0.5) -> list[Note]:
    """Chords in the rhythm of a bar: a character a step, "X" loud, "x" normal, "o" soft, "." nothing."""
    notes = []
    for start, lasts, root, intervals in chords(colour):
        for beat, velocity in steps(pattern, start % 4, start % 4 + lasts):
            at = start - start % 4 + beat
            hold = min(length, start + lasts - at)
            notes += [Note(at, hold, pitch, velocity) for pitch in voicing(root, intervals, low, key)]
    return notes


def steps(pattern: str, first: float = 0, last: float = 4) -> list[tuple[float, float]]:
    """(beat, velocity) of each sign in a bar's pattern, from beat ``first`` to before ``last``."""
    loudness = {"X": 112.0, "x": 90.0, "o": 60.0}
    signs = [(4 * place / len(pattern), sign) for place, sign in enumerate(pattern)]
    return [(beat, loudness[sign]) for beat, sign in signs if sign in loudness and first <= beat < last]


def beat_bars(pattern: str, pitch: int, fill: str | None = None) -> list[Note]:
    """One drum through all bars; ``fill`` replaces the fourth bar's pattern and the eighth's."""
    return [
        Note(4 * bar + beat, 0.2, pitch, velocity)
        for bar in range(BARS)
        for beat, velocity in steps(fill if fill and bar % 4 == 3 else pattern)
    ]


def bass(pattern: str, low: int = 36, key: float = 0, hold: float = 0.9) -> list[Note]:
    """A bass line: at each step of a bar "1" root, "3" third, "5", "6", "8" octave, or "." nothing."""
    notes = []
    for start, lasts, root, intervals in chords(TRIAD):
        degrees = {"1": 0, "3": intervals[1], "5": 7, "6": 9, "8": 12}
        step = 4 / len(pattern)
        bottom = low + (root + key - low) % 12
        for place, sign in enumerate(pattern):
            beat = place * step
            if sign in degrees and start % 4 <= beat < start % 4 + lasts:
                shift = 0 if beat == start % 4 else degrees[sign]  # a new chord begins on its root
                loud = 100 if beat % 2 == 0 else 92
                notes.append(Note(start - start % 4 + beat, step * hold, bottom + shift, loud))
    return notes


def harmonised(notes: list[Note], colour: Colour, voices: int = 3, key: float = 0) -> list[Note]:
    """Block harmony: under each note of a melody the chord's next lower tones, as a section plays it."""
    played = []
    for note in notes:
        root, intervals = chord_at(note.start, colour)
        classes = {(root + key + interval) % 12 for interval in intervals}
        below = [note.pitch - step for step in range(3, 13) if (note.pitch - step) % 12 in classes]
        played += [replace(note, pitch=pitch) for pitch in [note.pitch, *below[: voices - 1]]]
    return played


def swung(notes: list[Note]) -> list[Note]:
    """As a jazz player phrases it: third beats come an eighth early, long notes are led into from a semitone
    below, and the longest are cut short for a little turn."""
    starts: list[float] = []
    for note in notes:
        early = note.start - 0.5 * (note.start % 4 in (1.5, 2))
        starts.append(early if starts and early > starts[-1] else note.start)
    played = []
    for note, start, following in zip(notes, starts, [*starts[1:], 4.0 * BARS], strict=True):
        length = min(note.start + note.length, following) - start
        if note.length >= 1.5 and start > 0:
            played.append(Note(start - 0.25, 0.25, note.pitch - 1, note.velocity - 15))
        turn = [(1.5, 0), (2.0, -1), (2.5, 0)] if note.length >= 2 else []
        played.append(replace(note, start=start, length=1.4 if turn else 0.9 * length))
        for later, step in turn:
            if later < length:
                played.append(Note(start + later, 0.45, note.pitch + step, note.velocity - 8))
    return sorted(played, key=lambda note: note.start)


def answers(colour: Colour, low: float, key: float = 0) -> list[Note]:
    """Three rising notes of the chord at the end of each bar, in between the tune's phrases."""
    notes = []
    for start in np.arange(BARS) * 4 + 2.5:
        root, intervals = chord_at(start, colour)
        rising = voicing(root, intervals, low, key)[:3]
        notes += [Note(start + 0.5 * place, 0.4, pitch, 80) for place, pitch in enumerate(rising)]
    return notes


def held(colour: Colour, low: float, key: float = 0, velocity: float = 80) -> list[Note]:
    """Each chord, held."""
    return [
        Note(start, lasts * 0.98, pitch, velocity)
        for start, lasts, root, intervals in chords(colour)
        for pitch in voicing(root, intervals, low, key)
    ]


# Ways to play it --------------------------------------------------------------------------------------------


@dataclass
class Band:
    """What the players share: a tempo, a feel, and a source of small human inaccuracies."""

    bpm: float
    rng: np.random.Generator
    swing: float = 0.5  # where the second eighth falls in its beat: 0.5 straight, 0.67 triplets
    loose: float = 0.008  # seconds, standard deviation of a note's start

    @property
    def samples(self) -> int:
        return round((BARS * 4 * 60 / self.bpm + TAIL) * RATE)

    def seconds(self, beats: float) -> float:
        beat, part = divmod(beats, 1)
        bent = part * self.swing / 0.5 if part < 0.5 else self.swing + (part - 0.5) * (1 - self.swing) / 0.5
        return (beat + bent) * 60 / self.bpm

    def timed(self, notes: list[Note]) -> list[tuple[float, float, float, int]]:
        """(start s, end s, pitch, velocity) with a player's small deviations."""
        played = []
        for note in notes:
            start = max(0.0, self.seconds(note.start) + self.rng.normal(0, self.loose))
            end = max(start + 0.04, self.seconds(note.start + note.length))
            velocity = int(np.clip(note.velocity + self.rng.normal(0, 5), 1, 127))
            played.append((start, end, note.pitch, velocity))
        return played

    def play(self, program: int, notes: list[Note], vibrato: int = 0, detune: float = 4) -> Sound:
        """General MIDI instrument ``program``; voices are out of tune with each other by some cents."""
        tracks = [channel for channel in range(16) if channel != 9][:8]
        events = []
        for channel in tracks:
            bend = int(8192 + np.clip(self.rng.normal(0, detune), -12, 12) * 8192 / 200)
            events += [
                (0.0, 0, bytes([0xC0 | channel, program])),
                (0.0, 0, bytes([0xE0 | channel, bend & 127, bend >> 7])),
                (0.0, 0, bytes([0xB0 | channel, 1, vibrato])),
            ]
        for number, (start, end, pitch, velocity) in enumerate(self.timed(notes)):
            channel = tracks[number % len(tracks)]
            events.append((start, 2, bytes([0x90 | channel, round(pitch), velocity])))
            events.append((end, 1, bytes([0x80 | channel, round(pitch), 0])))
        return fluidsynth(events, self.samples)

    def drums(self, kit: int, *parts: list[Note]) -> Sound:
        """General MIDI drum kit ``kit``."""
        events = [(0.0, 0, bytes([0xC9, kit]))]
        for start, end, pitch, velocity in self.timed([note for part in parts for note in part]):
            events.append((start, 2, bytes([0x99, int(pitch), velocity])))
            events.append((end, 1, bytes([0x89, int(pitch), 0])))
        return fluidsynth(events, self.samples)

    def machine(self, hit: Sound, notes: list[Note]) -> Sound:
        """A drum machine: the same hit each time, exactly in time."""
        sound = np.zeros(self.samples + len(hit))
        for note in notes:
            at = round(self.seconds(note.start) * RATE)
            sound[at : at + len(hit)] += hit * (note.velocity / 100) ** 1.5
        return stereo(sound[: self.samples])

    def synth(self, notes: list[Note], tone: Tone) -> Sound:
        """A synthesizer: ``tone(frequency, times of the samples, length in seconds)`` makes each note."""
        sound = np.zeros((self.samples + 4 * RATE, 2))
        for start, end, pitch, velocity in self.timed(notes):
            time = np.arange(int((end - start + 0.8) * RATE)) / RATE
            note = stereo(tone(440 * 2 ** ((pitch - 69) / 12), time, end - start))
            at = round(start * RATE)
            sound[at : at + len(time)] += note * (velocity / 100) ** 1.5
        return sound[: self.samples]

    def sing(self, notes: list[Note], vowels: str = "a", tract: float = 1.0, breath: float = 0.02) -> Sound:
        """A wordless voice: harmonics of a gliding, trembling pitch, shaped by the vowels' formants.

        ``tract`` scales the formants: 1 a man, 1.17 a woman.
        """
        formants = {  # Hz, and how strong each is
            "a": ((730, 1090, 2440, 3400), (1, 0.6, 0.3, 0.2)),
            "o": ((500, 850, 2410, 3300), (1, 0.5, 0.15, 0.1)),
            "u": ((320, 800, 2240, 3200), (1, 0.25, 0.06, 0.04)),
            "e": ((530, 1840, 2480, 3500), (1, 0.5, 0.4, 0.2)),
        }
        step = 64  # samples from one value of the controls to the next
        frames = self.samples // step + 2
        pitch, loud = np.zeros(frames), np.zeros(frames)
        places, strengths = np.zeros((frames, 4)), np.zeros((frames, 4))
        for number, (start, end, note, velocity) in enumerate(self.timed(notes)):
            first, last = int(start * RATE / step) if number else 0, int(end * RATE / step)
            pitch[first:] = note
            loud[first : max(first + 1, last - 12)] = velocity / 100
            places[first:], strengths[first:] = np.array(formants[vowels[number % len(vowels)]])
        smooth = ndimage.gaussian_filter1d
        slow = smooth(self.rng.standard_normal(frames), 60) * 60**0.5
        vibrato = 0.28 * smooth((loud > 0).astype(float), 120) * np.sin(np.arange(frames) * step / RATE * 34)
        control = 440 * 2 ** ((smooth(pitch, 22) + vibrato + 0.04 * slow - 69) / 12)
        loud = smooth(loud, 14) * (1 + 0.05 * slow)
        places, strengths = smooth(places, 25, axis=0) * tract, smooth(strengths, 25, axis=0)

        def spread(values: np.ndarray) -> np.ndarray:
            return np.interp(np.arange(self.samples) / step, np.arange(frames), values)

        phase = 2 * np.pi * np.cumsum(spread(control)) / RATE
        sound = breath * spread(loud) * band(self.rng.standard_normal(self.samples), 1500, 9000)
        for harmonic in range(1, 41):
            partial = harmonic * control
            shape = strengths / (1 + ((partial[:, None] - places) / (60 + 0.06 * places)) ** 2)
            amplitude = (shape.sum(1) + 0.015) * harmonic**-0.6 * (partial < 9000) * loud
            sound += spread(amplitude) * np.sin(harmonic * phase)
        return stereo(sound)


def fluidsynth(events: list[tuple[float, int, bytes]], samples: int) -> Sound:
    """MIDI events (seconds, order, message) played by FluidSynth, dry."""
    ticks = 10000  # a second
    track, now = b"\0\xff\x51\x03" + (1_000_000).to_bytes(3, "big"), 0
    for at, _, message in sorted(events, key=lambda event: event[:2]):
        tick = round(at * ticks)
        gap, now = tick - now, tick
        track += bytes([(gap >> shift & 127) | (128 if shift else 0) for shift in (21, 14, 7, 0)]) + message
    track += b"\0\xff\x2f\0"
    with tempfile.TemporaryDirectory() as folder:
        midi, raw = Path(folder, "part.mid"), Path(folder, "part.raw")
        header = b"MThd" + struct.pack(">IHHH", 6, 0, 1, ticks)
        midi.write_bytes(header + b"MTrk" + struct.pack(">I", len(track)) + track)
        options = ["synth.dynamic-sample-loading=1", "synth.reverb.active=0", "synth.chorus.active=0"]
        subprocess.run(
            ["fluidsynth", "-niq", "-g", "0.5", "-r", str(RATE), "-T", "raw", "-O", "float", "-F", raw]
            + [word for option in options for word in ("-o", option)]
            + [SOUND_FONT, midi],
            check=True,
            capture_output=True,
        )
        sound = np.fromfile(raw, np.float32).reshape(-1, 2).astype(float)
    return np.pad(sound, ((0, max(0, samples - len(sound))), (0, 0)))[:samples]


def kick(low: float = 48, sweep: float = 180, decay: float = 0.25, click: float = 0.3) -> Sound:
    """An electronic bass drum: a sine that falls to ``low`` Hz."""
    time = np.arange(int(0.6 * RATE)) / RATE
    phase = 2 * np.pi * np.cumsum(low + sweep * np.exp(-time / 0.025)) / RATE
    beater = click * np.exp(-time / 0.002) * np.sin(2 * np.pi * 3000 * time)
    return np.sin(phase) * np.exp(-time / decay) + beater


def snare(rng: np.random.Generator, pitch: float = 190, noise: float = 0.8, decay: float = 0.11) -> Sound:
    """An electronic snare drum: two tones and a burst of noise."""
    time = np.arange(int(0.5 * RATE)) / RATE
    tone = np.sin(2 * np.pi * pitch * time) + 0.6 * np.sin(2 * np.pi * 1.7 * pitch * time)
    rattle = band(rng.standard_normal(len(time)), 900, 12000)
    return 0.7 * tone * np.exp(-time / 0.06) + noise * rattle * np.exp(-time / decay)


def hat(rng: np.random.Generator, decay: float = 0.03) -> Sound:
    """An electronic cymbal: bright noise."""
    time = np.arange(int(min(0.6, 8 * decay) * RATE)) / RATE
    return band(rng.standard_normal(len(time)), 7000, 17000) * np.exp(-time / decay)


def saw(frequency: float, time: np.ndarray, voices: int = 1, cents: float = 12) -> Sound:
    """Sawtooth oscillators, spread in pitch and from left to right."""
    sound = np.zeros((len(time), 2))
    for number in range(voices):
        place = 2 * number / (voices - 1) - 1 if voices > 1 else 0.0
        step = frequency * 2 ** (place * cents / 1200) / RATE
        phase = (step * RATE * time + 0.61 * number) % 1
        wave = 2 * phase - 1  # next, its edge is rounded, lest it alias (PolyBLEP)
        wave += np.where(phase < step, (1 - phase / step) ** 2, 0)
        wave -= np.where(phase > 1 - step, (1 - (1 - phase) / step) ** 2, 0)
        sound += wave[:, None] * np.sqrt([1 - 0.8 * place, 1 + 0.8 * place])
    return sound / voices**0.5


def envelope(
    time: np.ndarray, length: float, attack: float, decay: float, sustain: float, release: float
) -> Sound:
    """The loudness of a note of a synthesizer."""
    shape = sustain + (1 - sustain) * np.exp(-(time - attack).clip(0) / decay)
    return np.minimum(time / attack, 1) * shape * np.exp(-(time - length).clip(0) / release)


def keyed(voices: int, attack: float, decay: float, sustain: float, release: float = 0.05) -> Tone:
    """A synthesizer's sawtooth with that envelope."""
    return lambda frequency, time, length: (
        saw(frequency, time, voices) * envelope(time, length, attack, decay, sustain, release)[:, None]
    )


def electric_piano(frequency: float, time: np.ndarray, length: float) -> Sound:
    """Frequency modulation as in the digital synthesizers of 1983: a bell-like attack over a soft body."""
    bell = 1.1 * np.exp(-time / 0.25) * np.sin(2 * np.pi * 14 * frequency * time) * (14 * frequency < 15000)
    body = 1.6 * np.exp(-time / 0.7) * np.sin(2 * np.pi * frequency * time)
    phase = 2 * np.pi * frequency * time
    sound = np.sin(1.001 * phase + body) + 0.35 * np.sin(phase + bell)
    return sound * envelope(time, length, 0.002, 0.9, 0.1, 0.1)


# Ways to record it ------------------------------------------------------------------------------------------


def stereo(sound: Sound) -> Sound:
    return sound if sound.ndim == 2 else np.repeat(sound[:, None], 2, axis=1)


def mono(sound: Sound) -> Sound:
    return stereo(sound.mean(1))


def band(sound: Sound, low: float | None = None, high: float | None = None, order: int = 2) -> Sound:
    """Only what lies between ``low`` and ``high`` Hz."""
    if low:
        sound = signal.sosfilt(signal.butter(order, low, "highpass", fs=RATE, output="sos"), sound, axis=0)
    if high:
        sound = signal.sosfilt(signal.butter(order, high, "lowpass", fs=RATE, output="sos"), sound, axis=0)
    return sound


def boost(sound: Sound, frequency: float, decibels: float, q: float = 1.0) -> Sound:
    """One band of an equaliser: R. Bristow-Johnson's peaking filter."""
    gain, omega = 10 ** (decibels / 40), 2 * np.pi * frequency / RATE
    alpha = np.sin(omega) / (2 * q)
    b = [1 + alpha * gain, -2 * np.cos(omega), 1 - alpha * gain]
    a = [1 + alpha / gain, -2 * np.cos(omega), 1 - alpha / gain]
    return signal.lfilter(b, a, sound, axis=0)


def saturate(sound: Sound, drive: float, bias: float = 0.1) -> Sound:
    """Valves and tape: peaks are rounded and harmonics added, the more the larger ``drive`` is."""
    loud = sound / (np.quantile(np.abs(sound), 0.999) + 1e-9)
    return np.tanh(drive * loud + bias) - np.tanh(bias)


def amplifier(sound: Sound, drive: float, tone: float = 4500) -> Sound:
    """A guitar's amplifier and its loudspeaker."""
    return boost(band(saturate(band(sound, 120), drive), 90, tone, 3), 2500, 4)


def compress(sound: Sound, decibels: float, ratio: float = 4, release: float = 0.12) -> Sound:
    """What is louder than ``decibels`` under the loudest moment is turned down."""
    pole = np.exp(-1 / (0.5 * release * RATE))
    power = signal.lfilter([1 - pole], [1, -pole], np.square(sound).mean(1))
    loud = np.sqrt(np.maximum(power, 1e-12))
    over = np.maximum(loud / (loud.max() * 10 ** (-decibels / 20)), 1)
    return sound * (over ** (1 / ratio - 1))[:, None]


def master(sound: Sound, decibels: float, ceiling: float = -1.0) -> Sound:
    """Bring the loudness (root mean square) to ``decibels`` of full scale; a limiter holds the peaks."""
    sound = sound * 10 ** (decibels / 20) / np.sqrt(np.mean(np.square(sound)))
    top = 10 ** (ceiling / 20)
    window = int(0.005 * RATE)
    needed = np.minimum(1, top / ndimage.maximum_filter1d(np.abs(sound).max(1) + 1e-9, 2 * window + 1))
    return sound * ndimage.uniform_filter1d(needed, window)[:, None]


def reverb(
    sound: Sound,
    rng: np.random.Generator,
    seconds: float,
    wet: float,
    high: float = 6000,
    delay: float = 0.01,
    gate: float | None = None,
) -> Sound:
    """A room, a chamber or a plate: noise that dies away, added at ``wet`` of the sound's own level.

    High notes die sooner. With ``gate`` the tail is loud and cut off after so many seconds.
    """
    time = np.arange(int((gate or seconds) * RATE)) / RATE
    tail = rng.standard_normal((len(time), 2)) * 10 ** (-3 * time / seconds)[:, None]
    dark = band(tail, 150, high / 3) * np.sqrt(3)
    mixing = np.exp(-time / (0.25 * seconds))[:, None]
    tail = band(tail, 200, high) * mixing + dark * (1 - mixing)
    tail = np.pad(tail / np.sqrt(np.square(tail).sum(0)), ((int(delay * RATE), 0), (0, 0)))
    return sound + wet * signal.oaconvolve(sound, tail, axes=0)[: len(sound)]


def echo(sound: Sound, seconds: float, level: float, times: int = 1, high: float = 6000) -> Sound:
    """A tape's echo."""
    total, late = sound.copy(), sound
    for number in range(1, times + 1):
        late = band(late, None, high) * level
        shift = int(number * seconds * RATE)
        total[shift:] += late[: max(0, len(sound) - shift)]
    return total


def warp(sound: Sound, seconds: np.ndarray) -> Sound:
    """The sound, late by so many seconds at each sample: wow, flutter, chorus."""
    at = np.arange(len(sound))
    return np.stack([np.interp(at - seconds * RATE, at, sound[:, side]) for side in (0, 1)], 1)


def wow(sound: Sound, rng: np.random.Generator, percent: float, hertz: float) -> Sound:
    """A turntable or tape that runs unevenly, ``percent`` fast and slow, ``hertz`` times a second."""
    time = np.arange(len(sound)) / RATE
    drift = ndimage.gaussian_filter1d(rng.standard_normal(len(sound) // 441 + 2), 20)
    drift = np.interp(time * 100, np.arange(len(drift)), drift) / (np.abs(drift).max() + 1e-9)
    depth = percent / 100 / (2 * np.pi * hertz)
    return warp(sound, 2 * depth + depth * (np.sin(2 * np.pi * hertz * time) + 0.6 * drift))


def chorus(sound: Sound, wet: float = 0.6, hertz: float = 0.7, depth: float = 0.003) -> Sound:
    """Two copies, each gliding in pitch, one a side."""
    phase = 2 * np.pi * hertz * np.arange(len(sound)) / RATE
    left, right = (warp(sound, 0.012 + depth * np.sin(phase + turn)) for turn in (0, np.pi / 2))
    return sound + wet * np.stack([left[:, 0], right[:, 1]], 1)


def shellac(samples: int, rng: np.random.Generator) -> Sound:
    """What a needle hears in an empty groove of a 78: crackle, hiss, and a swish each turn. Peak about 1."""
    turn = 1 + 0.35 * np.sin(2 * np.pi * 78.26 / 60 * np.arange(samples) / RATE)
    rush = band(rng.standard_normal(samples), 500, 6500) * turn
    ticks = (rng.random(samples) < 60 / RATE) * rng.exponential(1, samples) * rng.choice([-1, 1], samples)
    pops = (rng.random(samples) < 2.5 / RATE) * rng.exponential(6, samples)
    return stereo(0.03 * rush + band(ticks + pops, 300, 6000, 1) * 0.3)


def hiss(samples: int, rng: np.random.Generator, high: float = 14000) -> Sound:
    """A tape's hiss, root mean square 1."""
    noise = band(rng.standard_normal((samples, 2)), 400, high)
    return noise / np.sqrt(np.mean(np.square(noise)))


def mix(*parts: tuple[Sound, float] | tuple[Sound, float, float]) -> Sound:
    """Sum of (sound, decibels of its loudest half second[, place from -1, left, to 1, right])."""
    total = np.zeros_like(parts[0][0])
    for sound, decibels, *place in parts:
        loudest = np.sqrt(ndimage.uniform_filter1d(np.square(sound).mean(1), RATE // 2).max())
        sides = np.sqrt([1 - sum(place), 1 + sum(place)])
        total += sound * (10 ** (decibels / 20) / (loudest + 1e-9)) * sides
    return total


# The decades ------------------------------------------------------------------------------------------------

KICK, STICK, SNARE, CLOSED, OPEN, CONGA = 36, 37, 38, 42, 46, 63  # General MIDI drums


def the_1920s(rng: np.random.Generator) -> Sound:
    """A hot dance band round one horn: no bass, no treble, all into shellac at once."""
    band_ = Band(180, rng, swing=0.66, loose=0.014)
    key = -2
    trumpet = band_.play(56, swung(melody(key)), vibrato=30)
    clarinet = band_.play(71, swung(melody(key)), vibrato=40)
    trombone = band_.play(57, bass("1..35.6.", 46, key, 0.8), vibrato=20)
    banjo = band_.play(105, comp("xXxX", SIXTH, 55, key, 0.3))
    tuba = band_.play(58, bass("1.5.", 29, key, 0.6))
    sound = mix((trumpet, 0), (clarinet, -4), (trombone, -7), (banjo, -4), (tuba, -4))
    sound = band(saturate(mono(reverb(sound, rng, 0.5, 0.1, 4500)), 1), 250, 4000, 4)
    sound = wow(boost(boost(sound, 2400, 8, 2), 1000, 3), rng, 0.15, 1.304)
    return master(sound / np.abs(sound).max() + 0.3 * shellac(len(sound), rng), -16)


def the_1930s(rng: np.random.Generator) -> Sound:
    """A small swing band before one ribbon microphone: the electrical 78."""
    band_ = Band(172, rng, swing=0.66, loose=0.014)
    key = -4
    trumpet = band_.play(56, swung(melody(key)), vibrato=30)
    clarinet = band_.play(71, swung(melody(key)), vibrato=40)
    stride = band_.play(0, bass("1.5.", 36, key, 0.6) + comp(".x.x", RICH, 55, key, 0.4))
    guitar = band_.play(26, comp("xXxX", SIXTH, 50, key, 0.35))
    upright = band_.play(32, bass("1356", 31, key))
    sound = mix((trumpet, 0), (clarinet, -2), (stride, -6), (guitar, -4), (upright, -9))
    sound = band(band(saturate(mono(reverb(sound, rng, 0.7, 0.15, 4500)), 1.2), 180), None, 4800, 5)
    sound = wow(boost(sound, 2300, 6, 2), rng, 0.12, 1.304)
    return master(sound / np.abs(sound).max() + 0.2 * shellac(len(sound), rng), -16)


def the_1940s(rng: np.random.Generator) -> Sound:
    """A singer close to the microphone; a big band's brass punctuates, in a larger studio."""
    band_ = Band(160, rng, swing=0.66, loose=0.012)
    key = -1
    voice = band_.sing(swung(melody(key)), "aoea", 1.17)
    brass = band_.play(61, comp("...X.X..", RICH, 62, key, 0.3))
    piano = band_.play(0, comp(".x.x", RICH, 55, key, 0.4))
    upright = band_.play(32, bass("1356", 31, key))
    brushes = band_.drums(40, beat_bars("o.x.o.x.", SNARE))
    sound = mix((voice, 0), (brass, -1), (piano, -7), (upright, -7), (brushes, -14))
    sound = band(band(saturate(mono(reverb(sound, rng, 1.3, 0.4, 4000)), 1.2), 120), None, 5500, 4)
    sound = boost(sound, 1500, 2)
    return master(sound / np.abs(sound).max() + 0.08 * shellac(len(sound), rng), -16)


def the_1950s(rng: np.random.Generator) -> Sound:
    """Doo-wop: a singer over oohs and triplets on the piano, an echo chamber, one track of tape."""
    band_ = Band(104, rng, swing=0.66, loose=0.01)
    key = 2
    voice = band_.sing(melody(key - 12), "uoao", 1.0)
    oohs = band_.play(53, held(TRIAD, 60, key), vibrato=30)
    piano = band_.play(0, comp("XxxXxxXxxXxx", TRIAD, 62, key, 0.25))
    upright = band_.play(32, bass("1..1.5.5", 31, key))
    guitar = band_.play(26, comp(".X.X", SIXTH, 50, key, 0.4))
    tenor = band_.play(66, answers(SIXTH, 55, key), vibrato=40)
    brushes = band_.drums(40, beat_bars("o.x.o.x.", SNARE))
    rhythm = (piano, -6), (upright, -3), (guitar, -8), (brushes, -16)
    sound = mix((voice, 0), (oohs, -6), (tenor, -8), *rhythm)
    sound = band(saturate(mono(reverb(sound, rng, 1.8, 0.45, 5000)), 1), 60, 7500, 3)
    return master(sound / np.abs(sound).max() + 0.001 * mono(hiss(len(sound), rng, 8000)), -16)


def the_1960s(rng: np.random.Generator) -> Sound:
    """A pop ballad: an electric bass doubles the double bass; band to the left, voice to the right."""
    band_ = Band(104, rng, swing=0.62, loose=0.013)
    key = -5
    voice = band_.sing(melody(key - 12), "uoao", 1.0)
    octave = [replace(note, pitch=note.pitch + 12) for note in melody(key)[::2]]
    strings = band_.play(48, held(SIXTH, 60, key) + octave)
    piano = band_.play(0, comp("...o..o.", RICH, 67, key, 0.8))
    guitar = band_.play(26, comp("xxxx", SIXTH, 50, key, 0.4))
    upright, picked = (band_.play(program, bass("1.5.", 31, key)) for program in (32, 34))
    brushes = band_.drums(40, beat_bars("o.x.o.x.", SNARE))
    rim = band_.drums(0, beat_bars("..x...x.", STICK))
    voices = [(voice, 0, 0.5), (strings, -5, 0.5)]
    rhythm = [(upright, -5), (picked, -7), (piano, -9), (guitar, -9), (brushes, -14), (rim, -13)]
    sound = mix(*voices, *[(part, decibels, -0.6) for part, decibels in rhythm])
    sound = band(saturate(reverb(sound, rng, 1.6, 0.4, 5000, 0.02), 1.3), 70, 8500, 3)
    return master(sound / np.abs(sound).max() + 0.001 * hiss(len(sound), rng, 9000), -16)


def the_1970s(rng: np.random.Generator) -> Sound:
    """Disco: damped, dry drums, electric piano, strings, many tracks of tape from left to right."""
    band_ = Band(112, rng, loose=0.008)
    key = 5
    voice = band_.sing(melody(key - 12), "aoea", 1.08)
    piano = chorus(band_.play(4, comp("x..x..x.", RICH, 57, key, 0.9)), 0.4)
    guitar = band_.play(27, comp("x.xx.xx.x.xx.xxo", TRIAD, 67, key, 0.12))
    strings = band_.play(48, held(RICH, 72, key))
    fingered = saturate(band_.play(33, bass("1.81.85.1.81.856", 29, key, 0.7)), 1)
    cymbals = beat_bars("x.xox.xox.xox.xo", CLOSED)
    drums = band_.drums(0, beat_bars("XXXX", KICK), beat_bars(".X.X", SNARE), cymbals)
    congas = band_.drums(0, beat_bars("x..o..x.xo.x..xx", CONGA))
    keys = (piano, -6, -0.4), (guitar, -12, 0.6), (strings, -6, 0.3)
    sound = mix((voice, 0), *keys, (fingered, -3), (band(drums, None, 5500), -4), (congas, -12, -0.5))
    sound = band(saturate(reverb(sound, rng, 1.3, 0.12, 6000, 0.03), 1.3), 60, 8500)
    return master(sound / np.abs(sound).max() + 0.0008 * hiss(len(sound), rng), -16)


def the_1980s(rng: np.random.Generator) -> Sound:
    """Synthesizer pop: a drum machine with a gated snare, frequency modulation, chorus, digital reverb."""
    band_ = Band(118, rng, loose=0.002)
    key = 9
    voice = echo(band_.sing(melody(key - 12), "aeoa", 1.15), 0.38, 0.25, 2)
    keys = chorus(band_.synth(comp("x..x..x.", RICH, 60, key, 0.8), electric_piano))
    pad = chorus(band(band_.synth(held(RICH, 57, key), keyed(3, 0.2, 1, 0.8, 0.3)), 200, 3000))
    low = band(band_.synth(bass("1111111111111181", 33, key, 0.6), keyed(1, 0.003, 0.15, 0.3)), 40, 1400)
    guitar = chorus(band_.play(28, comp("..x.xx.x..x.xx.x", TRIAD, 67, key, 0.1)))
    kicks = band_.machine(kick(52, 160, 0.12, 0.6), beat_bars("X.....X.X.......", KICK))
    snares = beat_bars("....X.......X...", SNARE, "....X.......X.XX")
    gated = reverb(band_.machine(snare(rng, 180, 1.0, 0.14), snares), rng, 2.0, 1.1, 9000, 0.005, gate=0.28)
    hats = band_.machine(hat(rng), beat_bars("xoxoxoxoxoxoxoxo", CLOSED))
    sound = mix(
        (voice, -1), (keys, -5, -0.2), (pad, -8), (low, -3), (guitar, -12, 0.5),
        (kicks, -3), (gated, -2), (hats, -14, 0.2),
    )  # fmt: skip
    return master(band(reverb(sound, rng, 2.2, 0.2, 9000, 0.04), 30, 16000), -16)


def the_1990s(rng: np.random.Generator) -> Sound:
    """Alternative rock: a wall of distorted guitars, one a side, big drums, a loud digital master."""
    band_ = Band(112, rng, loose=0.005)
    key = 0
    voice = band_.sing(melody(key - 12), "aeoa", 1.05)
    fifths = comp("XxXxXxXx", POWER, 40, key, 0.5)
    left, right = (amplifier(band_.play(27, fifths, detune=cents), 12) for cents in (2, 8))
    picked = band_.play(34, bass("11111111", 28, key))
    cymbals = beat_bars("xxxxxxxx", OPEN)
    drums = band_.drums(16, beat_bars("X...xX..", KICK), beat_bars("..X...X.", SNARE), cymbals)
    sound = mix((voice, 0), (left, -5, -0.8), (right, -5, 0.8), (picked, -3), (compress(drums, 14), -2))
    sound = saturate(reverb(sound, rng, 1.5, 0.12, 8000, 0.02), 0.3, 0)
    return master(compress(band(sound, 30, 16000), 8, 3), -12, -0.3)


DECADES: dict[str, Callable[[np.random.Generator], Sound]] = {
    "1920s": the_1920s,
    "1930s": the_1930s,
    "1940s": the_1940s,
    "1950s": the_1950s,
    "1960s": the_1960s,
    "1970s": the_1970s,
    "1980s": the_1980s,
    "1990s": the_1990s,
}


def save(path: Path, sound: Sound) -> None:
    """An MP3, which every browser plays: 64 kbit/s a channel, and one channel where both are the same."""
    sides = 1 if np.array_equal(sound[:, 0], sound[:, 1]) else 2
    layout = ("mono", "stereo")[sides - 1]
    sound[-RATE // 2 :] *= np.linspace(1, 0, RATE // 2)[:, None]
    samples = np.ascontiguousarray(sound[:, :sides].T, dtype=np.float32)
    with av.open(str(path), "w", format="mp3") as container:
        stream = container.add_stream("libmp3lame", rate=RATE, layout=layout)
        stream.bit_rate = 64000 * sides
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=layout)
        frame.rate = RATE
        container.mux([*stream.encode(frame), *stream.encode(None)])


def main() -> None:
    parser = argparse.ArgumentParser(description="Render the page's examples.")
    parser.add_argument("decades", nargs="*", metavar="DECADE", help=f"of {', '.join(DECADES)}; without, all")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder")
    arguments = parser.parse_args()
    if not which("fluidsynth") or not SOUND_FONT.exists():
        parser.error(f"needs FluidSynth and {SOUND_FONT}: apt-get install fluidsynth fluid-soundfont-gm")
    for decade in arguments.decades or DECADES:
        sound = DECADES[decade](np.random.default_rng(crc32(decade.encode())))
        save(arguments.out / f"{decade}.mp3", sound)
        print(f"{decade}: {len(sound) / RATE:.1f} s")


if __name__ == "__main__":
    main()
