"""The command line. Answers go to standard output, everything else to standard error.

Exit codes: 0 answered; 1 some files of a batch could not be read, the rest is answered; 2 wrong use, or
nothing that can be used. What takes long to import is imported by the command that needs it.
"""

import csv
import json
import os
import sys
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from enum import StrEnum
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TextIO

import typer

import erarec

if TYPE_CHECKING:
    from erarec.prediction import EraPrediction, EraRecognizer

TOP_DECADES = 3  # in a row of annotate
SHOWN_DECADE = 0.01  # probability from which a decade is in the chart
ROW_COLUMNS = ("file", "year", "interval", "decades", "artist", "match", "error")
WORKERS = 2  # one file is decoded while another is in the model


class Device(StrEnum):
    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"
    MPS = "mps"


class Table(StrEnum):
    JSONL = "jsonl"
    CSV = "csv"


class Precision(StrEnum):
    AUTO = "auto"
    NO = "no"
    BF16 = "bf16"
    FP16 = "fp16"


class Damage(StrEnum):  # the names of erarec.damage, which takes long to import
    CLEAN = "clean"
    PHONE = "phone"
    LOW_PASS_4K = "low-pass-4k"
    ANYTHING = "anything"


NAMES = ", ".join(erarec.MODELS)


def _model_name(name: str) -> str:
    if name not in erarec.MODELS:
        _refuse(f"There is no model {name}; there are {NAMES}.")
    return name


def _known_model(name: str) -> str:
    return name if Path(name).suffix == ".safetensors" else _model_name(name)


ModelNameOption = Annotated[str, typer.Option("--model", callback=_model_name, help=f"One of {NAMES}.")]
ModelOption = Annotated[
    str, typer.Option("--model", callback=_known_model, help=f"One of {NAMES}, or a checkpoint of your own.")
]
DeviceOption = Annotated[Device, typer.Option("--device", help="What to compute on.")]

app = typer.Typer(
    name="erarec",
    help="Hear a recording, name its year.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(erarec.__version__)
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    # Names and artists of all scripts, whatever the locale; file names need not be text at all.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


@app.command()
def predict(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A recording in any common format.")],
    artist: Annotated[str | None, typer.Option(help="Who plays, as far as it is known.")] = None,
    biography: Annotated[
        str | None, typer.Option(help="Some sentences about the artist, instead of the library's.")
    ] = None,
    model: ModelOption = erarec.MODELS[0],
    device: DeviceOption = Device.AUTO,
    as_json: Annotated[bool, typer.Option("--json", help="Print all of the answer as JSON.")] = False,
) -> None:
    """Name the year of one recording."""
    _silence_decoders()
    from erarec.audio import UnusableAudio
    from erarec.tags import read_tags

    recognizer = _load(model, device)
    try:
        prediction = recognizer.predict(file, artist=artist or None, biography=biography or None)
    except UnusableAudio as unusable:
        _refuse(str(unusable))
    if as_json:
        typer.echo(prediction.to_json())
    else:
        _print_for_people(prediction)
    tagged = read_tags(file).artist
    if tagged and not artist and not biography:
        _note(f"The file's tags name an artist, who was not asked about: {tagged}. See --artist.")


@app.command()
def annotate(
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH...", help="Recordings, or folders to search for them.")
    ],
    artist: Annotated[
        str | None, typer.Option(help='Who plays, instead of what each file\'s tags say; "" for nobody.')
    ] = None,
    out: Annotated[Path | None, typer.Option(help="File to write, instead of standard output.")] = None,
    table: Annotated[
        Table | None,
        typer.Option("--format", help="As the name of --out ends, else jsonl.", show_default=False),
    ] = None,
    model: ModelOption = erarec.MODELS[0],
    device: DeviceOption = Device.AUTO,
) -> None:
    """Name the years of many recordings, one row each, as they are done."""
    _silence_decoders()
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    from erarec.tags import find_recordings

    files = [file for path in paths for file in (find_recordings(path) if path.is_dir() else [path])]
    files = list(dict.fromkeys(files))
    if not files:
        _refuse(f"There are no recordings in {', '.join(map(str, paths))}.")
    if table is None:
        table = Table.CSV if out is not None and out.suffix.lower() == ".csv" else Table.JSONL
    recognizer = _load(model, device)
    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    # Rows that go to the terminal show the progress themselves.
    bar = console.is_terminal and (out is not None or not sys.stdout.isatty())
    executor = ThreadPoolExecutor(WORKERS)
    done = failed = 0
    with (
        _writing(out) as stream,
        Progress(
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            redirect_stdout=False,  # else rows would go where the bar is
            disable=not bar,
        ) as progress,
    ):
        rows = executor.map(lambda file: _row(recognizer, file, artist), files)
        write = _row_writer(stream, table)
        try:
            for row in progress.track(rows, total=len(files)):
                done += 1  # before anyone can see the row, and interrupt
                write(row)
                stream.flush()
                if row["error"]:
                    failed += 1
                    console.print(f"{row['file']}: {row['error']}", soft_wrap=True)
        except KeyboardInterrupt:
            console.print(f"Stopped after {done} of {len(files)} files.")
            raise typer.Exit(130) from None
        finally:
            executor.shutdown(cancel_futures=True)
    if failed:
        _note(f"{failed} of {len(files)} files could not be answered.")
        raise typer.Exit(1 if failed < len(files) else 2)


@app.command()
def manifest(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the recordings are.")],
    out: Annotated[Path, typer.Option(help="CSV file to write.")] = Path("manifest.csv"),
) -> None:
    """Write a training manifest from the tags of a folder's recordings.

    Each recording's year is that of its original release where the tags give it.
    """
    from erarec.tags import manifest_rows

    if not folder.is_dir():
        _refuse(f"There is no folder {folder}.")
    lines = list(manifest_rows(folder, out))
    rows = [row for _, row in lines if row is not None]
    if not rows:
        _refuse(f"None of the {len(lines)} recordings in {folder} has a year in its tags.")
    with _writing(out) as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    _note(f"{out}: {len(rows)} recordings; {len(lines) - len(rows)} left out, without a year in their tags.")


Manifest = Annotated[
    Path, typer.Argument(metavar="MANIFEST", help="CSV of clips; files are relative to it. See manifest.")
]
CacheOption = Annotated[
    Path | None, typer.Option(help="Folder to keep the clips' features in, for the next time.")
]


@app.command()
def train(
    manifest: Manifest,
    out: Annotated[Path, typer.Option(help="Checkpoint to write, *.safetensors.")],
    model: ModelNameOption = erarec.MODELS[0],
    songs: Annotated[
        Path | None, typer.Option(help="CSV of artist_key and year, for the artist side.")
    ] = None,
    leads: Annotated[
        Path | None, typer.Option(help="JSON lines of artist_key and text: biographies that others wrote.")
    ] = None,
    towers: Annotated[
        str | None, typer.Option(help="Sound encoders: cnn, tagger or cnn,tagger.", show_default=False)
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            metavar="HUB_ID",
            help="An audio model (CLAP, AST, Wav2Vec2's kind) in the tagger's place: hub id[@revision] or "
            "folder.",
        ),
    ] = None,
    finetune: Annotated[bool, typer.Option("--finetune", help="Train the encoder too.")] = False,
    fold: Annotated[int | None, typer.Option(help="Leave the clips of this fold out.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, show_default=False)] = None,
    batch_size: Annotated[int | None, typer.Option(min=2, show_default=False)] = None,
    learning_rate: Annotated[float | None, typer.Option(min=0, show_default=False)] = None,
    alpha: Annotated[float | None, typer.Option(help="Weight of L_EC.", show_default=False)] = None,
    beta: Annotated[float | None, typer.Option(help="Weight of L_MMC.", show_default=False)] = None,
    seed: Annotated[int, typer.Option()] = 0,
    device: DeviceOption = Device.AUTO,
    precision: Annotated[
        Precision, typer.Option(help="Arithmetic of training; auto: bfloat16 where it is fast.")
    ] = Precision.AUTO,
    cache: CacheOption = Path("build/features"),
) -> None:
    """Train a model on the clips of a manifest.

    Interrupted, it goes on from the last whole epoch when it is started again. Writes a model card beside the
    checkpoint.
    """
    from dataclasses import replace

    from accelerate import PartialState

    from erarec.cards import model_card
    from erarec.clips import read_leads, read_manifest, read_songs
    from erarec.models import save_checkpoint
    from erarec.pretrained import Encoder
    from erarec.training import clear_state, default_settings, for_finetuning, prepare, train

    chosen = tuple(towers.split(",")) if towers else None
    if encoder is not None and chosen is None:
        chosen = ("tagger",)  # the encoder alone: it may be all that there is
    settings = default_settings(model, seed, chosen)
    if finetune:
        settings = for_finetuning(settings)
    changes: dict[str, Any] = {"epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate}
    changes |= {"alpha": alpha, "beta": beta}
    settings = replace(settings, **{name: value for name, value in changes.items() if value is not None})
    if finetune and encoder is None:
        _refuse("--finetune trains the encoder that --encoder names.")
    if encoder is not None and "tagger" not in settings.towers:
        _refuse("--encoder stands in the place of the tagger, which is not among --towers.")
    try:
        clips = read_manifest(manifest)
        found = None if encoder is None else Encoder.find(encoder, finetune)
        material = prepare(
            clips,
            settings,
            cache or Path("build/features"),
            read_songs(songs) if songs else [],
            read_leads(leads) if leads else {},
            device.value,
            found,
        )
        members = None if fold is None else [clip.fold != fold for clip in clips]
        state = out.with_suffix(".state")
        trained, config = train(material, settings, members, state, device.value, precision.value)
    except (OSError, ValueError) as error:
        _refuse(f"{error}")
    if not PartialState().is_main_process:
        return
    save_checkpoint(trained, config, out)
    heard = [clip for clip in clips if clip.fold != fold]
    out.with_suffix(".md").write_text(model_card(out.stem, config, heard), encoding="utf-8")
    clear_state(state)
    _note(f"{out}: {out.stat().st_size / 1e6:.1f} MB")


@app.command()
def evaluate(
    manifest: Manifest,
    model: ModelOption = erarec.MODELS[0],
    sound_only: Annotated[bool, typer.Option("--sound-only", help="Do not look at the artist.")] = False,
    through: Annotated[
        Damage, typer.Option(help="What happens to the sound first; the same for a clip each time.")
    ] = Damage.CLEAN,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all figures here.")] = None,
    predictions: Annotated[Path | None, typer.Option(help="Write a JSON line for each clip here.")] = None,
    device: DeviceOption = Device.AUTO,
    cache: CacheOption = None,
) -> None:
    """Measure a finished checkpoint on the scored clips of a manifest.

    Clips that the checkpoint was trained on flatter it.
    """
    import tempfile

    from erarec.clips import FeatureCache
    from erarec.evaluation import evaluate_manifest, markdown_table

    recognizer = _load(model, device)
    try:
        with tempfile.TemporaryDirectory() as temporary:
            features = FeatureCache(cache or Path(temporary), recognizer.device, recognizer.config.encoder)
            result, rows = evaluate_manifest(recognizer, manifest, features, sound_only, through.value)
    except (OSError, ValueError) as error:
        _refuse(f"{error}")
    if json_file:
        with _writing(json_file) as stream:
            stream.write(json.dumps(result, ensure_ascii=False, indent=1) + "\n")
    if predictions:
        with _writing(predictions) as stream:
            stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    baselines = result["baselines"]
    table = {result["model"]: result["overall"], "always the median year": baselines["median"]}
    table["the source's own median year"] = baselines["source_median"]
    for group in ("by_source", "by_decade"):
        table |= result[group]
    typer.echo(f"{result['scored']} scored clips of {result['clips']}.\n\n{markdown_table(table)}")
    for clip in result["unreadable"]:
        _note(f"{clip} cannot be read.")
    if result["unreadable"]:
        raise typer.Exit(1)


@app.command()
def reproduce(
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA", help="Folder with clips.csv (a manifest), songs.csv and biographies.jsonl."
        ),
    ],
    work: Annotated[
        Path, typer.Option(help="Folder for what is finished; checkpoints of make models are taken from it.")
    ] = Path("build/models"),
    full: Annotated[
        bool | None,
        typer.Option(
            "--full/--cheap",
            help="Every experiment with three seeds, or a part that two processors can do.",
            show_default="full where there is a CUDA GPU",
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Only see that all of it works, and write into the work folder.")
    ] = False,
    device: DeviceOption = Device.AUTO,
) -> None:
    """Run the paper's experiments and write docs/results.md.

    Interrupted, it goes on where it was when it is started again.
    """
    from erarec.experiments import Workplace, plan, run, shrink
    from erarec.models import resolve_device
    from erarec.results import write_results

    try:
        if full is None:
            full = not quick and resolve_device(device.value).type == "cuda"
        place = Workplace(data, work, device.value, Precision.AUTO.value, quick)
        sections = plan(place.folds, full)
        if quick:
            sections = shrink(sections)
        trained = run([row for rows in sections.values() for row in rows], place)
    except (OSError, ValueError) as error:
        _refuse(f"{error}")
    except BrokenExecutor:
        _refuse("A training was ended, perhaps for want of memory. The same command goes on from here.")
    except KeyboardInterrupt:
        _note("Stopped. The same command goes on from here.")
        raise typer.Exit(130) from None
    out = work / "results.md" if quick else erarec.ASSETS.parent / "docs" / "results.md"
    how = "--quick" if quick else "--full" if full else "--cheap"
    write_results(sections, place, out, f"erarec reproduce DATA {how}")
    _note(f"{out}: {trained} trainings.")


@app.command(name="map")
def map_command(
    manifest: Manifest,
    out: Annotated[Path, typer.Option(help="File to write, *.npz.")],
    model: ModelOption = erarec.MODELS[0],
    device: DeviceOption = Device.AUTO,
    seed: Annotated[int, typer.Option()] = 0,
    cache: CacheOption = None,
) -> None:
    """Lay the clips of a manifest out as a map of their embeddings."""
    import tempfile

    from erarec.clips import FeatureCache
    from erarec.evaluation import map_manifest

    recognizer = _load(model, device)
    try:
        with tempfile.TemporaryDirectory() as temporary:
            features = FeatureCache(cache or Path(temporary), recognizer.device, recognizer.config.encoder)
            laid_out, agreement = map_manifest(recognizer, manifest, features, seed)
    except (OSError, ValueError) as error:
        _refuse(f"{error}")
    out.parent.mkdir(parents=True, exist_ok=True)
    laid_out.save(out)
    typer.echo(f"{len(laid_out.years)} recordings. Of the ten nearest, of the same decade:")
    for name, share in agreement.items():
        typer.echo(f"  {name}: {share:.0%}")


def _note(sentence: str) -> None:
    typer.echo(sentence, err=True)


def _refuse(sentence: str) -> NoReturn:
    _note(sentence)
    raise typer.Exit(2)


def _silence_decoders() -> None:
    """Let only Python write to standard error: libmpg123 prints notes of its own on broken files."""
    if sys.__stderr__ is None or sys.stderr is not sys.__stderr__:
        return
    kept = os.dup(2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    sys.stderr = open(kept, "w", encoding="utf-8", errors="backslashreplace", buffering=1)  # noqa: SIM115


def _load(model: str, device: Device) -> "EraRecognizer":
    try:
        return erarec.load(model, device=device.value)
    except (OSError, ValueError, RuntimeError) as error:
        _refuse(f"The model {model} cannot be loaded: {error}")


def _writing(out: Path | None) -> AbstractContextManager[TextIO]:
    """Standard output, or ``out`` opened for writing."""
    from erarec.tags import AUDIO_SUFFIXES

    if out is None:
        return nullcontext(sys.stdout)
    if out.suffix.lower() in AUDIO_SUFFIXES:  # as in "--out *.mp3"
        _refuse(f"{out} is named like a recording and is not written over.")
    try:
        return out.open("w", encoding="utf-8", errors="backslashreplace", newline="")
    except OSError as error:
        _refuse(f"{out} cannot be written: {error.strerror}.")


def _print_for_people(prediction: "EraPrediction") -> None:
    from rich.bar import Bar
    from rich.console import Console
    from rich.table import Table as Grid

    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    low, high = prediction.interval
    console.print(f"Probably {prediction.year}, most likely between {low} and {high}.", style="bold")
    for sentence in _about_artist(prediction):
        console.print(sentence)
    console.print()
    shares = list(prediction.decades.items())
    shown = [index for index, (_, share) in enumerate(shares) if share >= SHOWN_DECADE]
    longest = max(prediction.decades.values())
    grid = Grid.grid(padding=(0, 1))
    for decade, share in shares[shown[0] : shown[-1] + 1]:
        grid.add_row(decade, Bar(longest, 0, share, width=40), f"{share:.0%}")
    console.print(grid)
    for notice in prediction.notices:
        _note(notice)


def _about_artist(prediction: "EraPrediction") -> list[str]:
    """Whether the artist was found, and how much hangs on it: up to two sentences."""
    artist, share = prediction.artist, prediction.attention["artist"]
    if artist["match"] == "biography":
        found = "Artist: from the biography given."
    elif artist["name"]:
        found = f"Artist: {artist['name']}, found in the library."
    elif artist["query"]:
        return [f"Artist: {artist['query']} is not in the library, so the sound alone answers."]
    else:
        return []
    return [found, f"Attention: {1 - share:.0%} on the sound, {share:.0%} on the artist."]


def _row(recognizer: "EraRecognizer", file: Path, artist: str | None) -> dict:
    """One file's row of ``annotate``; of one that cannot be answered, an ``error`` says why."""
    from erarec.audio import UnusableAudio
    from erarec.tags import read_tags

    row: dict = dict.fromkeys(ROW_COLUMNS)
    row["file"] = str(file)
    try:
        asked = read_tags(file).artist if artist is None else artist
        prediction = recognizer.predict(file, artist=asked or None)
    except UnusableAudio as unusable:
        row["error"] = str(unusable)
    except Exception as error:  # whatever it is, one file must not lose the rest of a long batch
        row["error"] = f"It could not be answered ({type(error).__name__}: {error})."
    else:
        decades = sorted(prediction.decades.items(), key=lambda item: -item[1])[:TOP_DECADES]
        row["year"] = prediction.year
        row["interval"] = prediction.interval
        row["decades"] = {decade: round(share, 3) for decade, share in decades}
        row["artist"] = prediction.artist["name"] or prediction.artist["query"] or None
        row["match"] = prediction.artist["match"]
    return row


def _row_writer(stream: TextIO, table: Table) -> Callable[[dict], object]:
    if table is Table.JSONL:
        return lambda row: stream.write(json.dumps(row, ensure_ascii=False) + "\n")
    writer = csv.DictWriter(stream, ROW_COLUMNS, lineterminator="\n")
    writer.writeheader()

    def write(row: dict) -> None:
        flat = dict(row)
        if row["interval"]:
            flat["interval"] = "{}-{}".format(*row["interval"])
            flat["decades"] = " ".join(f"{decade}:{share}" for decade, share in row["decades"].items())
        writer.writerow(flat)

    return write
