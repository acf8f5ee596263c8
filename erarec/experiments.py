"""The experiments of the paper: what is trained, the training of it, and what the models say out of fold.

An experiment is plain data. Each of its trainings (settings with a seed, and the fold that is left out) is
done once, whichever experiments need it; what the model then says of the fold's clips is kept in the work
folder under a name made of all that it depends on. So a run that was interrupted goes on where it was, and a
changed setting is computed anew.
"""

import json
import multiprocessing
import os
import signal
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from safetensors import SafetensorError, safe_open

import erarec
from erarec.clips import CACHE_VERSION, PROGRESS, Clip, Material, Song, read_leads, read_manifest, read_songs
from erarec.evaluation import BOTH, SOUND
from erarec.models import AudioArtMMC, AudioCNN, AudioSUC, EraModel, load_checkpoint, resolve_device
from erarec.training import Settings, clear_state, default_settings, fingerprint, prepare, train
from erarec.years import decade

SEEDS = (0, 1, 2)
ALPHAS = (0.05, 0.2, 0.5, 1.0)  # and 0, which is L_MLE alone
BETAS = (0.05, 0.2, 0.5, 1.0)
TEMPERATURES = (0.05, 0.1, 0.2, 0.5)
QUICK_CLIPS, QUICK_SONGS = 48, 200
WORKERS = 8  # at most: each holds all texts' tokens, about 1 GB

Training = tuple[Settings, int]  # how, and the fold that is left out and asked about


@dataclass(frozen=True)
class Experiment:
    """A row of the results: settings, and the folds and seeds that they are trained for."""

    name: str
    settings: Settings
    folds: tuple[int, ...]
    seeds: tuple[int, ...]

    def trainings(self) -> list[Training]:
        return [(replace(self.settings, seed=seed), fold) for seed in self.seeds for fold in self.folds]

    @property
    def reads(self) -> bool:
        return self.settings.model == AudioArtMMC.name

    @property
    def how(self) -> str:
        """How it was run, for a table."""
        folds = f"{len(self.folds)} fold{'s' * (len(self.folds) > 1)}"
        seeds = f"{len(self.seeds)} seed{'s' * (len(self.seeds) > 1)}"
        settings = self.settings
        alone = f"{settings.sound_epochs} + {settings.artist_epochs} + " if self.reads else ""
        return f"{folds}, {seeds}, {alone}{settings.epochs} epochs"


def plan(folds: Sequence[int], full: bool) -> dict[str, list[Experiment]]:
    """All experiments by section; each section's differences are taken from its first row.

    All is run on all folds; in full, with all seeds. Otherwise, so that two processors can do it, with one
    seed, and sweeps have fewer places; where the seeds are the question, they are all run on one fold.
    """
    every, seeds = tuple(folds), SEEDS if full else SEEDS[:1]
    one = every if full else every[:1]
    alphas, taus, betas = (
        (ALPHAS, TEMPERATURES, BETAS) if full else (ALPHAS[1::2], TEMPERATURES[:2], BETAS[1:2])
    )
    cnn = default_settings(AudioCNN.name)
    suc, mmc = (default_settings(name, towers=("tagger",)) for name in (AudioSUC.name, AudioArtMMC.name))
    floor = replace(suc, model=AudioCNN.name)
    paper, ours = tower(cnn), tower(suc)
    cnn_mmc = default_settings(AudioArtMMC.name, towers=cnn.towers)

    def row(name: str, settings: Settings) -> Experiment:
        return Experiment(name, settings, every, seeds)

    return {
        "paper": [
            row(f"Audio-CNN, {paper}", cnn),
            row(f"Audio-SUC, {paper}", replace(cnn, model=AudioSUC.name)),
            row(f"AudioArt-MMC, {paper}", cnn_mmc),
        ],
        "ours": [
            row(f"Audio-CNN, {ours}", floor),
            row(f"Audio-SUC, {ours}", suc),
            row(f"AudioArt-MMC, {ours}", mmc),
        ],
        "losses": [
            row("all three", mmc),
            row("without L_EC", replace(mmc, alpha=0.0)),
            row("without L_MMC", replace(mmc, beta=0.0)),
            row("without both", replace(mmc, alpha=0.0, beta=0.0)),
        ],
        "alpha": [
            row("alpha 0", floor),
            *(row(f"alpha {alpha:g}", replace(suc, alpha=alpha)) for alpha in alphas),
        ],
        "tau": [
            row("L_MLE alone", floor),
            *(row(f"tau {tau:g}", replace(suc, temperature=tau)) for tau in taus),
        ],
        "beta": [
            row("beta 0", replace(mmc, beta=0.0)),
            *(row(f"beta {beta:g}", replace(mmc, beta=beta)) for beta in betas),
        ],
        "denominators": [
            row("L_MLE alone", floor),
            row("pair", suc),
            row("negatives, the paper's", replace(suc, denominator="negatives")),
            row("all, SupCon's", replace(suc, denominator="all")),
        ],
        "seeds": [
            Experiment("L_MLE alone", floor, one, SEEDS),
            Experiment("+ L_EC", suc, one, SEEDS),
        ],
    }


def tower(settings: Settings) -> str:
    """What a model hears through, in words."""
    return f"{' and '.join(settings.towers).replace('cnn', 'CNN')} tower"


def shrink(sections: dict[str, list[Experiment]]) -> dict[str, list[Experiment]]:
    """The same experiments in a few seconds each, to see that all of it works: the figures mean nothing."""
    tiny: dict[str, Any] = {"epochs": 1, "sound_epochs": 1, "artist_epochs": 1, "batch_size": 16}
    return {
        section: [
            replace(row, settings=replace(row.settings, **tiny), folds=row.folds[:1], seeds=row.seeds[:2])
            for row in rows
        ]
        for section, rows in sections.items()
    }


@dataclass(frozen=True)
class Workplace:
    """Where the data is, where what is finished is kept, and what is computed on.

    Attributes:
        data: a folder with clips.csv (see ``clips.read_manifest``) and, where there are any, songs.csv and
            biographies.jsonl.
        work: also looked through for checkpoints as ``tools/build_models`` leaves them, of the same data.
        quick: take a few clips and songs.
    """

    data: Path
    work: Path
    device: str
    precision: str
    quick: bool

    @cached_property
    def clips(self) -> list[Clip]:
        clips = read_manifest(self.data / "clips.csv")
        return clips[:: -(-len(clips) // QUICK_CLIPS)] if self.quick else clips

    @cached_property
    def songs(self) -> list[Song]:
        path = self.data / "songs.csv"
        return (read_songs(path) if path.exists() else [])[: QUICK_SONGS if self.quick else None]

    @cached_property
    def leads(self) -> dict[str, str]:
        path = self.data / "biographies.jsonl"
        return read_leads(path) if path.exists() and not self.quick else {}

    @cached_property
    def folds(self) -> list[int]:
        """Those with scored clips. Raises ValueError when there are not two."""
        folds = sorted({clip.fold for clip in self.clips if clip.scored})
        if len(folds) < 2:
            raise ValueError("The experiments need scored clips in at least two folds.")
        return folds

    @cached_property
    def material(self) -> Material:
        """Features and texts for every model, computed if they are not in the work folder yet."""
        everything = default_settings(AudioArtMMC.name)
        return prepare(self.clips, everything, self.work / "features", self.songs, self.leads, self.device)

    @cached_property
    def digest(self) -> str:
        """Of all that trainings have in common."""
        clips = [(c.id, c.artist_key, c.year_lo, c.year_hi, c.scored, c.fold) for c in self.clips]
        return fingerprint([clips, self.songs, sorted(self.leads.items()), CACHE_VERSION, erarec.__version__])

    def kept(self, training: Training) -> Path:
        """The file of what the model of one training said."""
        settings, fold = training
        name = f"{settings.model}-fold-{fold}-{fingerprint([settings, self.digest])}"
        return self.work / "experiments" / f"{name}.npz"

    @property
    def sides(self) -> Path:
        """The folder of what AudioArt-MMC's trainings share; of use until all are done."""
        return self.work / "experiments" / "sides"


def run(experiments: Iterable[Experiment], place: Workplace) -> int:
    """Train what has not been trained yet and keep what the models say; returns how many trainings it did.

    On a CPU as many trainings run side by side as there are processors, with a thread each, which uses them
    better than many threads in one training.
    """
    trainings = dict.fromkeys(training for row in experiments for training in row.trainings())
    missing = [training for training in trainings if not place.kept(training).exists()]
    if not missing:
        return 0
    on_cpu = resolve_device(place.device).type == "cpu"
    _ = replace(place).material  # computed here, with progress, for the others to find
    bystanders = multiprocessing.active_children()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        Progress(*columns, console=PROGRESS) as progress,
        ProcessPoolExecutor(
            max_workers=min(os.cpu_count() or 1, WORKERS) if on_cpu else 1,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_start_worker,
            initargs=(replace(place), on_cpu),  # a copy that has read nothing yet
        ) as pool,
    ):
        bar = progress.add_task("Experiments", total=len(trainings), completed=len(trainings) - len(missing))
        try:
            waiting = {pool.submit(_keep_answers, chain.pop(0)): chain for chain in chains(missing)}
            while waiting:
                done, _ = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
                    progress.advance(bar)
                    if chain := waiting.pop(future):
                        waiting[pool.submit(_keep_answers, chain.pop(0))] = chain
        except BaseException:  # above all an interruption: nobody wants to wait for what is running
            for process in multiprocessing.active_children():
                if process not in bystanders:
                    process.terminate()
            raise
    clear_state(place.sides)
    return len(missing)


def chains(trainings: Iterable[Training]) -> list[list[Training]]:
    """Trainings that share sides stand in one chain, and are done one after the other; the longest first."""
    groups: dict[Any, list[Training]] = {}
    for settings, fold in trainings:
        shares = settings.model == AudioArtMMC.name
        key = (fold, settings.seed, settings.towers) if shares else (settings, fold)
        groups.setdefault(key, []).append((settings, fold))

    def cost(chain: list[Training]) -> tuple[bool, bool]:
        settings, _ = chain[0]
        return settings.model == AudioArtMMC.name, "cnn" in settings.towers

    return sorted(groups.values(), key=cost, reverse=True)


_worker: Workplace  # of a process that trains


def _start_worker(place: Workplace, on_cpu: bool) -> None:
    global _worker
    _worker = place
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process ends this one
    PROGRESS.quiet = True  # the bar is the first process's
    if on_cpu:
        torch.set_num_threads(1)


def _keep_answers(training: Training) -> None:
    """One training, if it is not there as a checkpoint, and what its model says of the fold left out."""
    place, (settings, fold) = _worker, training
    material, kept = place.material, place.kept(training)
    model = finished_model(place.work, training)
    state = kept.with_suffix(".state")
    if model is None:
        members = np.array([clip.fold != fold for clip in material.clips])
        sides = place.sides / f"fold-{fold}-{place.digest}"
        model, _ = train(material, settings, members, state, place.device, place.precision, sides)
    answers = fold_answers(model.to(resolve_device(place.device)), material, fold)
    kept.parent.mkdir(parents=True, exist_ok=True)
    new = kept.with_suffix(".new.npz")
    np.savez_compressed(new, **answers)  # type: ignore[arg-type]
    new.replace(kept)  # an interruption leaves all of it or nothing
    clear_state(state)


def finished_model(work: Path, training: Training) -> EraModel | None:
    """A checkpoint of this fold and exactly these settings in any folder of ``work``."""
    settings, fold = training
    for path in sorted(work.glob(f"*/fold-{fold}.safetensors")):
        try:
            with safe_open(path, "pt") as file:
                trained = json.loads(file.metadata()["config"])["training"]
            same = Settings(**{**trained, "towers": tuple(trained["towers"])}) == settings
        except (SafetensorError, KeyError, TypeError):  # not ours, or of other settings than there are now
            continue
        if same:
            return load_checkpoint(path)[0]
    return None


def fold_answers(model: EraModel, material: Material, fold: int) -> dict[str, np.ndarray]:
    """What a model says of a fold's clips, by question: "sound.years", "both.embedding" and so on.

    A model that reads is asked from sound alone, with the artist ("both"), and with a wrong artist
    ("wrong").

    Shape: "clips" [M] int64, which clips; "text", "wrong_text" [M] bool, whether they have one; the others as
    :func:`erarec.evaluation.answer_clips`.
    """
    test = np.flatnonzero([clip.fold == fold for clip in material.clips])
    answers = {"clips": test} | _named("sound", SOUND.of(model, material, test))
    if model.reads_text and material.biographies is not None:
        wrong = wrong_texts(material, test)
        answers |= _named("both", BOTH.of(model, material, test))
        answers |= _named("wrong", BOTH.of(model, material, test, wrong))
        answers["text"] = material.biographies.whole[test] >= 0
        answers["wrong_text"] = wrong[test] >= 0
    return answers


def _named(question: str, answers: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {f"{question}.{name}": array for name, array in answers.items()}


def wrong_texts(material: Material, test: np.ndarray) -> np.ndarray:
    """For each test clip that has a biography, another artist's, drawn from the test clips of other decades.

    Shape: [M] int -> [N] int64, -1 where there is none.
    """
    assert material.biographies is not None
    whole = material.biographies.whole
    decades = np.array([decade(clip.year) for clip in material.clips])
    artists = np.array([clip.artist_key for clip in material.clips])
    told = test[whole[test] >= 0]
    wrong = np.full(len(whole), -1)
    rng = np.random.default_rng(0)
    for clip in told:
        others = told[(artists[told] != artists[clip]) & (decades[told] != decades[clip])]
        if len(others):
            wrong[clip] = whole[rng.choice(others)]
    return wrong


@dataclass(frozen=True)
class Answers:
    """What the models of one experiment said of the scored clips: row by row, fold by fold, seed by seed.

    Attributes:
        clips, folds, seeds: [R] int64.
        arrays: as :func:`fold_answers`, [R, ...] each.
    """

    clips: np.ndarray
    folds: np.ndarray
    seeds: np.ndarray
    arrays: dict[str, np.ndarray]

    @classmethod
    def load(cls, experiment: Experiment, place: Workplace) -> "Answers":
        scored = np.array([clip.scored for clip in place.clips])
        parts: list[dict[str, np.ndarray]] = []
        for training in experiment.trainings():
            with np.load(place.kept(training)) as arrays:
                rows = scored[arrays["clips"]]
                part = {name: arrays[name][rows] for name in arrays.files}
            settings, fold = training
            part["fold"] = np.full(len(part["clips"]), fold)
            part["seed"] = np.full(len(part["clips"]), settings.seed)
            parts.append(part)
        whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return cls(whole.pop("clips"), whole.pop("fold"), whole.pop("seed"), whole)

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]

    def where(self, rows: np.ndarray) -> "Answers":
        """Some of the rows. Shape: [R] bool, or indices."""
        arrays = {name: array[rows] for name, array in self.arrays.items()}
        return Answers(self.clips[rows], self.folds[rows], self.seeds[rows], arrays)

    def spaces(self) -> list["Answers"]:
        """Row by row those of one model, which share an embedding space."""
        pairs = sorted(set(zip(self.seeds.tolist(), self.folds.tolist(), strict=True)))
        return [self.where((self.seeds == seed) & (self.folds == fold)) for seed, fold in pairs]


def pair(first: Answers, second: Answers) -> tuple[Answers, Answers]:
    """The rows of both that are about the same clip and seed, in the same order."""
    keys = [np.stack([answers.seeds, answers.clips], 1) for answers in (first, second)]
    seen = {tuple(key): row for row, key in enumerate(keys[0].tolist())}
    rows = [(seen[tuple(key)], row) for row, key in enumerate(keys[1].tolist()) if tuple(key) in seen]
    chosen = np.array(rows, dtype=int).reshape(-1, 2)
    return first.where(chosen[:, 0]), second.where(chosen[:, 1])
