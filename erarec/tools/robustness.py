"""How far the answer moves when the same recording comes in another format, quieter, or with an artist
that nobody knows.

    python -m erarec.tools.robustness DATA [--clips 50] [--model NAME] [--checkpoints FOLDER]

The clips are spread evenly over the folds. The shipped model has heard all of them in training, which may
hold its answers in place; FOLDER with fold-0.safetensors to fold-4.safetensors asks each clip's own, which
has not heard it.
"""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.progress import track

import erarec
from erarec.artist import FOLDS
from erarec.audio import UnusableAudio, read_excerpts
from erarec.clips import Clip, read_manifest
from erarec.prediction import EraPrediction, EraRecognizer
from erarec.tools.sounds import read_sound, write_sound
from erarec.years import best_year

SEED = 0
FAR = 10  # years
UNKNOWN_ARTIST = "Quenlimbra Vostok-Zarrowby"  # the tests' twenty invented artists say that none is found


@dataclass(frozen=True)
class Format:
    """One way in which a recording may come."""

    name: str
    suffix: str
    bits_per_second: int | None = None
    gain: float = 1.0


FORMATS = (
    Format("wav", ".wav"),
    Format("mp3, 192 kbit/s", ".mp3", 192_000),
    Format("mp3, 64 kbit/s", ".mp3", 64_000),
    Format("opus, 32 kbit/s", ".opus", 32_000),
    Format("wav, 6 dB quieter", ".wav", gain=10 ** (-6 / 20)),
)


@dataclass(frozen=True)
class Answers:
    """One clip's years.

    Attributes:
        original, unknown: from the file as it is, by sound alone, and when an unknown artist is named.
        informed: from the file as it is, with the artist.
        formats, informed_formats: the same in each of FORMATS.
    """

    original: int
    unknown: int
    informed: int
    formats: tuple[int, ...]
    informed_formats: tuple[int, ...]


def choose_clips(clips: Sequence[Clip], count: int) -> list[Clip]:
    """As many clips of each fold as can be, those that can be read, always the same ones."""
    rng = np.random.default_rng(SEED)
    chosen: list[Clip] = []
    for fold in range(FOLDS):
        members = [clip for clip in clips if clip.fold == fold]
        wanted = len(chosen) + count // FOLDS + (fold < count % FOLDS)
        for index in rng.permutation(len(members)):
            if len(chosen) == wanted:
                break
            try:
                read_excerpts(members[index].path)
            except UnusableAudio:
                continue
            chosen.append(members[index])
    return chosen


def ask(recognizer: EraRecognizer, clip: Clip, folder: Path) -> Answers:
    """A clip's years in every format; ``folder`` is for the files."""
    sound, rate = read_sound(clip.path)
    original = recognizer.predict(clip.path, artist=clip.artist)
    formats, informed_formats = [], []
    for kind in FORMATS:
        path = folder / f"clip{kind.suffix}"
        write_sound(path, sound * kind.gain, rate, kind.bits_per_second)
        prediction = recognizer.predict(path, artist=clip.artist)
        formats.append(_by_sound(prediction))
        informed_formats.append(prediction.year)
    return Answers(
        original=recognizer.predict(clip.path).year,
        unknown=recognizer.predict(clip.path, artist=UNKNOWN_ARTIST).year,
        informed=original.year,
        formats=tuple(formats),
        informed_formats=tuple(informed_formats),
    )


def _by_sound(prediction: EraPrediction) -> int:
    """The year without the artist; a prediction brings that distribution along, which spares another."""
    return int(best_year(np.array(prediction.probabilities["sound"])))


def print_movements(title: str, originals: np.ndarray, formats: np.ndarray) -> None:
    """A table of how far answers move. Shape: originals [N] years, formats [N, formats] years."""
    moved = np.abs(formats - originals[:, None])
    print(f"\n{title}, {len(originals)} clips: years by which the answer moves")
    print(f"  {'':20} {'median':>8} {'mean':>8} {'most':>8} {f'over {FAR}':>8}")
    rows = [(kind.name, moved[:, column]) for column, kind in enumerate(FORMATS)]
    for name, years in [*rows, ("all formats", moved.ravel())]:
        far = f"{np.mean(years > FAR):.1%}"
        print(f"  {name:20} {np.median(years):8.1f} {years.mean():8.2f} {years.max():8d} {far:>8}")


def print_report(name: str, answers: Sequence[Answers], informs: bool) -> None:
    originals = np.array([answer.original for answer in answers])
    formats = np.array([answer.formats for answer in answers])
    print_movements(f"{name}, sound alone", originals, formats)
    if informs:
        print_movements(
            f"{name}, with the artist",
            np.array([answer.informed for answer in answers]),
            np.array([answer.informed_formats for answer in answers]),
        )
    unknown = np.abs(np.array([answer.unknown for answer in answers]) - originals)
    print(f"\n{name}, an artist that nobody knows: {unknown.mean():.2f} years from sound alone, on average")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="How far the answer moves when only the file changes.")
    parser.add_argument("data", type=Path, help="folder with clips.csv")
    parser.add_argument("--clips", type=int, default=50)
    parser.add_argument("--model", default=erarec.MODELS[0], help="a model's name, or a checkpoint")
    parser.add_argument(
        "--checkpoints",
        type=Path,
        help="folder with fold-0.safetensors ...: models that have not heard a fold",
    )
    parser.add_argument("--device", default="auto")
    options = parser.parse_args(arguments)
    clips = choose_clips(read_manifest(options.data / "clips.csv"), options.clips)
    recognizer = EraRecognizer(options.model, options.device)
    informs = recognizer.reader is not None
    with tempfile.TemporaryDirectory() as folder:
        answers = [ask(recognizer, clip, Path(folder)) for clip in track(clips, "Shipped")]
        model = recognizer.config.model
        print_report(f"{model}, which was trained on these clips", answers, informs)
        if options.checkpoints is None:
            return
        answers = []
        for fold in sorted({clip.fold for clip in clips}):
            unheard = EraRecognizer(str(options.checkpoints / f"fold-{fold}.safetensors"), options.device)
            members = [clip for clip in clips if clip.fold == fold]
            answers += [ask(unheard, clip, Path(folder)) for clip in track(members, f"Fold {fold}")]
        print_report(f"{model}, never trained on the clip it is asked about", answers, informs)


if __name__ == "__main__":
    main()
