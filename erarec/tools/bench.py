"""Where the time goes, and the memory.

    python -m erarec.tools.bench [RECORDING ...]

Without a recording, a tune of half a minute is made and encoded as mp3. Ratios mean more than times here:
those of the tagger are against a matrix product measured in the same run.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

import erarec
from erarec.audio import EXCERPT_SECONDS, TAGGER_FRAMES, TAGGER_MEL_BANDS
from erarec.clips import Hearing
from erarec.prediction import EraRecognizer
from erarec.tagger import Tagger
from erarec.tools.sounds import tune, write_sound

ARTIST = "The Beatles"  # with the longest of composed biographies
STAGES = ("decode", "mel", "tagger", "CNN", "text", "fusion", "map", "rest")
TUNE_SECONDS = 30
BITS_PER_SECOND = 192_000

FRESH = """
import json, resource, sys, time
begin = time.perf_counter()
import erarec
recognizer = erarec.load(sys.argv[1])
loaded = time.perf_counter()
recognizer.predict(sys.argv[2], artist=sys.argv[3])
answered = time.perf_counter()
try:  # what getrusage says of a child may be its parent's
    with open("/proc/self/status") as status:
        peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024
except FileNotFoundError:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(json.dumps({"load": loaded - begin, "predict": answered - loaded, "peak": peak}))
"""

ANNOTATE = """
import sys, torch
from erarec import cli
cli.WORKERS = int(sys.argv.pop(1))
torch.set_num_threads(int(sys.argv.pop(1)))
cli.app()
"""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Where the time goes, and the memory.")
    parser.add_argument("recordings", type=Path, nargs="*", metavar="RECORDING")
    parser.add_argument("--models", nargs="+", default=erarec.MODELS, help="names, or checkpoints")
    parser.add_argument("--artist", default=ARTIST)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--copies", type=int, default=40, help="recordings to annotate")
    parser.add_argument("--minutes", type=float, default=60, help="of the long recording")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        half_minute = folder / "tune.mp3"
        write_sound(half_minute, tune(TUNE_SECONDS), 44100, BITS_PER_SECOND)
        recordings = options.recordings or [half_minute]
        speed = matrix_speed()
        print(
            f"{os.cpu_count()} processors, {torch.get_num_threads()} threads, "
            f"{speed / 1e9:.0f} GFLOP/s in float32 matrix products"
        )
        print_tagger(speed)
        for recording in recordings:
            print_stages(recording, options.artist, options.models, options.runs)
        peaks = print_fresh(half_minute, options.artist, options.models)
        print_annotate(recordings[0], options.artist, options.models[0], options.copies, folder)
        print_long(options.artist, options.models[0], peaks[0], options.minutes, folder)


# --- the tagger against the machine -------------------------------------------------------------------


def matrix_speed(size: int = 2048) -> float:
    """Operations a second (multiplications and additions) in a float32 product of square matrices."""
    a, b = torch.rand(size, size), torch.rand(size, size)
    return 2 * size**3 / median_seconds(partial(torch.mm, a, b), 9)


def tagger_operations() -> dict[str, int]:
    """Multiply-adds that one excerpt takes by the shapes of the tagger's layers, by their group."""
    tagger = Tagger()
    weights = {name: t for name, t in tagger.musicnn.state_dict().items() if name.endswith(".weight")}
    counts = dict.fromkeys(("timbre", "temporal", "middle", "VGG", "dense"), 0)
    for name, weight in weights.items():
        layer, size = name.split(".")[0], weight.numel()
        if layer == "timbre":  # [time, frequency, filters], at each frame and where it fits in frequency
            counts[layer] += TAGGER_FRAMES * (TAGGER_MEL_BANDS - weight.shape[1] + 1) * size
        elif layer == "temporal":
            counts[layer] += TAGGER_FRAMES * TAGGER_MEL_BANDS * size
        elif layer == "middle":
            counts[layer] += TAGGER_FRAMES * size
        elif layer in ("dense", "tags"):
            counts["dense"] += size
    # [time, frequency] that each layer is computed at: every other frequency of the first, then as pooled.
    frames, bands = TAGGER_FRAMES, TAGGER_MEL_BANDS // 2
    for number in range(5):
        counts["VGG"] += frames * bands * tagger.vgg.get_parameter(f"layers.{number}.weight").numel()
        frames, bands = ((frames - 4) // 2 + 1, bands) if number == 0 else (frames // 2, bands // 2)
    counts["dense"] += tagger.vgg.tags.weight.numel()
    return counts


def print_tagger(speed: float) -> None:
    hearing = Hearing("cpu")
    groups = tagger_operations()
    operations = 2 * sum(groups.values())
    counted = ", ".join(f"{name} {count / 1e6:,.1f}" for name, count in groups.items())
    print(f"\nThe tagger: {operations / 1e9:.2f} GFLOP an excerpt (million multiply-adds: {counted})")
    for excerpts in (1, 10):
        mel = torch.rand(excerpts, TAGGER_FRAMES, TAGGER_MEL_BANDS)
        seconds = np.full(excerpts, EXCERPT_SECONDS)
        taken = median_seconds(partial(hearing.tags, mel, seconds), 9) / excerpts
        achieved = operations / taken
        print(
            f"  {excerpts:2d} at once: {1000 * taken:6.1f} ms an excerpt, {achieved / 1e9:.0f} GFLOP/s, "
            f"{achieved / speed:.0%} of the matrix product's speed"
        )


def median_seconds(call: Callable[[], object], runs: int) -> float:
    """How long a call takes once it is warm."""
    call()
    times = []
    for _ in range(runs):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


# --- one recording ------------------------------------------------------------------------------------


class Stopwatch:
    """How long a module takes, added up over its calls."""

    def __init__(self, module: nn.Module | None) -> None:
        self.seconds = 0.0
        if module is not None:
            module.register_forward_pre_hook(self._start)
            module.register_forward_hook(self._stop)

    def _start(self, *_: object) -> None:
        self.begin = time.perf_counter()

    def _stop(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self.begin


def measure_stages(model: str, recording: Path, artist: str, runs: int) -> dict[str, float]:
    """Seconds of each of STAGES in the run of median length, with the biography read anew each time."""
    recognizer = EraRecognizer(model, "cpu")
    towers = dict(recognizer.model.sound_encoder.towers.items())
    tagger = Stopwatch(recognizer.hearing.network)
    cnn = Stopwatch(towers.get("cnn"))
    measured = []
    for _ in range(runs + 1):
        if recognizer.reader is not None:
            recognizer.reader.kept.clear()
        tagger.seconds = cnn.seconds = 0.0
        begin = time.perf_counter()
        seconds = recognizer.predict(recording, artist=artist).seconds
        total = time.perf_counter() - begin
        spent = {name: seconds[name] for name in ("decode", "mel", "text", "map")}
        spent |= {"tagger": tagger.seconds, "CNN": cnn.seconds}
        spent["fusion"] = seconds["sound"] + seconds["fusion"] - tagger.seconds - cnn.seconds
        spent["rest"] = total - sum(spent.values())
        measured.append(spent)
    warm = sorted(measured[1:], key=lambda spent: sum(spent.values()))
    return warm[len(warm) // 2]


def print_stages(recording: Path, artist: str, models: Sequence[str], runs: int) -> None:
    by_model = {_short(model): measure_stages(model, recording, artist, runs) for model in models}
    print(f"\n{recording.name}, warm, artist {artist}: the run of median length of {runs}")
    print(" " * 12 + "".join(f"{model:>20}" for model in by_model))
    for stage in STAGES:
        cells = (f"{1000 * s[stage]:9.1f} ms {s[stage] / sum(s.values()):7.1%}" for s in by_model.values())
        print(f"  {stage:10}" + "".join(cells))
    print("  total     " + "".join(f"{1000 * sum(s.values()):9.1f} ms {1:7.1%}" for s in by_model.values()))
    print("  (fusion: with the heads; rest: looking the artist up, and putting the answer together)")


# --- whole processes ----------------------------------------------------------------------------------


def run_fresh(model: str, recording: Path, artist: str) -> dict[str, float]:
    """Seconds to load and to predict, and the peak of memory in MB, in a process of its own."""
    command = [sys.executable, "-c", FRESH, model, str(recording), artist]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return json.loads(done.stdout)


def print_fresh(recording: Path, artist: str, models: Sequence[str]) -> list[float]:
    """Print what each model takes from nothing to an answer; returns the peaks of memory in MB."""
    print("\nA process of its own: loading, first answer, peak of memory")
    peaks = []
    for model in models:
        fresh = run_fresh(model, recording, artist)
        peaks.append(fresh["peak"])
        print(
            f"  {_short(model):14} {fresh['load']:6.2f} s {fresh['predict']:6.2f} s {fresh['peak']:8.0f} MB"
        )
    return peaks


def annotate_speed(folder: Path, artist: str, model: str, workers: int, threads: int) -> float:
    """Recordings a second of ``annotate``, start-up left out: counted from the first answers to the last."""
    command = [sys.executable, "-c", ANNOTATE, str(workers), str(threads)]
    command += ["annotate", str(folder), "--artist", artist, "--model", model, "--device", "cpu"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        times = [time.perf_counter() for _ in process.stdout]
    first = workers - 1  # as many answers arrive together
    return (len(times) - 1 - first) / (times[-1] - times[first])


def print_annotate(recording: Path, artist: str, model: str, copies: int, folder: Path) -> None:
    album = folder / "album"
    album.mkdir()
    for number in range(copies):
        shutil.copy(recording, album / f"{number}{recording.suffix}")
    print(f"\nannotate, {copies} copies of {recording.name}, {_short(model)}")
    processors = os.cpu_count() or 1
    for workers, threads in ((1, processors), (2, processors), (2, max(1, processors // 2))):
        speed = annotate_speed(album, artist, model, workers, threads)
        print(f"  {workers} at once, {threads} threads each: {speed:.2f} recordings a second")


def print_long(artist: str, model: str, peak: float, minutes: float, folder: Path) -> None:
    """Print what a long recording takes, and how much more memory than ``peak`` MB."""
    print(
        f"\n{minutes:g} minutes, {_short(model)}: first answer, peak of memory above that of {TUNE_SECONDS} s"
    )
    sound = tune(TUNE_SECONDS)
    for suffix in (".mp3", ".m4a"):  # libsndfile decodes the one, FFmpeg the other
        path = folder / f"long{suffix}"
        write_sound(path, sound, 44100, BITS_PER_SECOND, repeats=round(minutes * 60 / TUNE_SECONDS))
        long = run_fresh(model, path, artist)
        print(f"  {suffix[1:]} {long['predict']:6.2f} s {long['peak'] - peak:+8.0f} MB")
        path.unlink()


def _short(model: str) -> str:
    return Path(model).stem


if __name__ == "__main__":
    main()
