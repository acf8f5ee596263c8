"""What might make the year heard better from sound, each thing by itself: what was tried, and what it gave.

    python -m erarec.tools.levers DATA [--work build/models] [--out docs/levers.md] [--only mixup ...]

A plain classifier on the mean of a clip's frozen tagger features stands for Audio-SUC's tagger tower: it
reaches nearly the same figures, and a training takes seconds. Each lever changes one thing in it. All are
asked about clips of artists, and of whole sources, that they have not heard: clean, through the phone, and of
one excerpt alone. Differences are paired, with intervals over artists.

What has been asked is kept in the work folder.
"""

import argparse
import multiprocessing
import os
import textwrap
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import track
from torch import Tensor, nn

import erarec
from erarec.clips import CACHE_VERSION, PROGRESS, Clip, FeatureCache, Features, fast_bfloat16, read_manifest
from erarec.evaluation import METRICS, cell, change_cells, metrics, paired_difference, table
from erarec.tagger import MUSICNN_FEATURES
from erarec.training import TRAINING_HEARINGS, balanced_weights, fingerprint
from erarec.years import TARGET_SIGMA, YEAR_COUNT, YEARS, target_distribution

BATCH = 128
LEARNING_RATE = 2e-3
FAST_BFLOAT16 = fast_bfloat16(torch.device("cpu"))
KNOTS = np.arange(1915, 2026, 10)  # of the years' basis under the sources' effects
QUESTIONS = {"clean": "clean", "phone": "through the phone", "excerpt": "one excerpt of 3 s"}


@dataclass(frozen=True)
class Lever:
    """How the classifier is trained. One field differs from the defaults, or two that belong together."""

    epochs: int = 60
    weight_decay: float = 0.05
    width: int = 256
    hearings: tuple[str, ...] = TRAINING_HEARINGS
    clean: float = 0.5  # share of the clips that are heard undamaged
    columns: int | None = None  # so many of the tagger's features, all if None
    sigma: float = TARGET_SIGMA  # years, of the labels
    balance: float = 1.0  # exponent of the sampling weights, which go by decade
    balance_sources: float = 0.0  # the same by source
    mixup: float = 0.0  # of features and labels, arXiv 1710.09412: both parameters of the Beta distribution
    average: float = 0.0  # decay of the moving average of weights that answers in the end
    order: float = 0.0  # weight of the ranked probability score, which knows that years have an order
    distance: float = 0.0  # weight of the absolute error of the expected year
    noise: float = 0.0  # deviation of noise on the standardised features
    change_source: float = 0.0  # share of the clips that are moved to another source's mean
    agree: float = 0.0  # weight of the damaged clip's answer being the clean one's
    artists: float = 1.0  # share of the artists that is trained on
    teachers: int = 0  # networks whose mean answer to the clean clip is half of the label
    seeds: int = 1  # answers averaged


LEVERS: dict[str, tuple[str, Lever]] = {
    "base": ("as it is", Lever()),
    "seed": ("another seed: what chance alone changes", Lever()),
    "musicnn": ("without MSD_vgg's features", Lever(columns=MUSICNN_FEATURES)),
    "undamaged": ("trained on clean sound alone", Lever(clean=1.0)),
    "no-phone": ("without the two copies by phone", Lever(hearings=TRAINING_HEARINGS[:-2])),
    "damaged": ("trained on damaged sound alone", Lever(clean=0.0)),
    "wide": ("hidden layers twice as wide", Lever(width=512)),
    "decay": ("weight decay 0.2", Lever(weight_decay=0.2)),
    "sharp": ("labels of 1.5 years", Lever(sigma=1.5)),
    "soft": ("labels of 4 years", Lever(sigma=4.0)),
    "unbalanced": ("clips drawn as they come", Lever(balance=0.0)),
    "balanced": ("all decades drawn equally often", Lever(balance=2.0)),
    "sources": ("small sources drawn more often, by the root of their size", Lever(balance_sources=0.5)),
    "mixup": ("mixup, 0.4", Lever(mixup=0.4)),
    "average": ("moving average of weights, 0.995", Lever(average=0.995)),
    "order": ("ranked probability score in the loss", Lever(order=1.0)),
    "distance": ("expected year's error in the loss", Lever(distance=0.05)),
    "noise": ("noise on the features", Lever(noise=0.3)),
    "change-source": ("half of the clips moved to another source's mean", Lever(change_source=0.5)),
    "agree": ("damaged and clean clip shall say the same", Lever(agree=0.5)),
    "seeds": ("three seeds averaged", Lever(seeds=3)),
    "distilled": ("three seeds distilled into one", Lever(teachers=3)),
    "half": ("half of the artists, as many steps", Lever(artists=0.5, epochs=120)),
    "quarter": ("a quarter of the artists, as many steps", Lever(artists=0.25, epochs=240)),
}


class Data:
    """Means of excerpts' features in each hearing, standardised by all excerpts' clean ones.

    Attributes:
        means: [views, N, width] float32 of each hearing: a clip's mean over all its excerpts, over the even
            and over the odd ones, and one excerpt alone.
    """

    def __init__(self, clips: Sequence[Clip], features: dict[str, Features]) -> None:
        self.clips = clips
        clean = features["clean"].tagger.astype(np.float32)
        mean, deviation = clean.mean(0), clean.std(0) + 1e-4
        self.means = {}
        for hearing, heard in features.items():
            rows = ((heard.tagger - mean) / deviation).clip(-8, 8)
            means = np.zeros((4, len(clips), rows.shape[1]), np.float32)
            for clip in range(len(clips)):
                excerpts = rows[heard.of(clip)]
                if len(excerpts):
                    odd = excerpts[1::2] if len(excerpts) > 1 else excerpts
                    alone = excerpts[len(excerpts) // 2]
                    means[:, clip] = excerpts.mean(0), excerpts[::2].mean(0), odd.mean(0), alone
            self.means[hearing] = torch.from_numpy(means)
        self.readable = np.diff(features["clean"].first) > 0
        self.lo, self.hi = np.array([c.year_lo for c in clips]), np.array([c.year_hi for c in clips])
        self.sources = np.unique([clip.source for clip in clips], return_inverse=True)[1]
        self.artists = np.unique([clip.artist_key for clip in clips], return_inverse=True)[1]

    def question(self, name: str, clips: np.ndarray) -> Tensor:
        means = self.means["phone" if name == "phone" else "clean"]
        return means[3 if name == "excerpt" else 0][torch.from_numpy(clips)]


def classifier(width_in: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Dropout(0.3),
        nn.Linear(width_in, width),
        nn.BatchNorm1d(width),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(width, width // 2),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Linear(width // 2, YEAR_COUNT),
    )


def source_effects(data: Data, members: np.ndarray) -> Tensor:
    """By how much each source's features differ from what their clips' years explain: ridge regression.

    Shape: -> [sources, width] float32.
    """
    years = (data.lo[members] + data.hi[members]) / 2
    basis = np.exp(-0.5 * ((years[:, None] - KNOTS) / 8.0) ** 2)
    basis /= basis.sum(1, keepdims=True)
    known = np.column_stack([basis, np.eye(data.sources.max() + 1)[data.sources[members]]])
    ridge = np.diag([1.0] * len(KNOTS) + [10.0] * (data.sources.max() + 1))
    features = data.means["clean"][0].numpy()[members]
    return torch.from_numpy(
        np.linalg.solve(known.T @ known + ridge, known.T @ features)[len(KNOTS) :]
    ).float()


def train(data: Data, lever: Lever, members: np.ndarray, seed: int) -> nn.Sequential:
    """Train the classifier on the clips ``members`` [M] int."""
    rng = np.random.default_rng(seed)
    if lever.artists < 1:
        known = np.unique(data.artists[members])
        kept = rng.choice(known, round(lever.artists * len(known)), replace=False)
        members = members[np.isin(data.artists[members], kept)]
    teachers = [
        train(data, replace(lever, teachers=0), members, 1000 * n + seed)
        for n in range(1, 1 + lever.teachers)
    ]
    torch.manual_seed(seed)
    network = classifier(lever.columns or data.means["clean"].shape[2], lever.width)
    target = torch.from_numpy(target_distribution(data.lo, data.hi, lever.sigma))
    weights = balanced_weights(data.clips, members) ** lever.balance
    weights *= np.bincount(data.sources[members])[data.sources[members]] ** -lever.balance_sources
    weights /= weights.sum()
    steps = -(-len(members) // BATCH)
    optimizer = torch.optim.AdamW(
        network.parameters(), LEARNING_RATE, weight_decay=lever.weight_decay, fused=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=lever.epochs * steps)
    average = torch.optim.swa_utils.AveragedModel(
        network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(lever.average), use_buffers=True
    )
    effects = source_effects(data, members) if lever.change_source else torch.zeros(0)
    for _ in range(lever.epochs):
        drawn = rng.choice(members, len(members), p=weights)
        for clips in np.array_split(drawn, steps):
            sound, undamaged = _heard(data, lever, clips, members, effects, rng)
            labels = target[clips]
            if lever.mixup:
                share = torch.from_numpy(rng.beta(lever.mixup, lever.mixup, (len(clips), 1))).float()
                partner = torch.from_numpy(rng.permutation(len(clips)))
                sound = share * sound + (1 - share) * sound[partner]
                labels = share * labels + (1 - share) * labels[partner]
            if teachers:
                with torch.inference_mode():
                    taught = torch.stack([teacher(undamaged).softmax(1) for teacher in teachers]).mean(0)
                labels = (labels + taught) / 2
            with torch.autocast("cpu", torch.bfloat16, enabled=FAST_BFLOAT16):
                logits = network(sound).float()
            loss = _loss(lever, logits, labels)
            if lever.agree:
                with torch.no_grad():
                    network.eval()
                    said_undamaged = network(undamaged).softmax(1)
                    network.train()
                loss = loss + lever.agree * F.cross_entropy(logits, said_undamaged)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            if lever.average:
                average.update_parameters(network)
    chosen = cast(nn.Sequential, average.module) if lever.average else network
    return chosen.eval()


def _heard(
    data: Data,
    lever: Lever,
    clips: np.ndarray,
    members: np.ndarray,
    effects: Tensor,
    rng: np.random.Generator,
) -> tuple[Tensor, Tensor]:
    """A batch as it is trained on, and the same excerpts undamaged. Shape: clips [B] -> [B, width] twice."""
    views = rng.integers(4, size=len(clips))
    copies = 1 + rng.integers(len(lever.hearings) - 1, size=len(clips))
    hearings = np.where(rng.random(len(clips)) < lever.clean, 0, copies)
    sound = torch.stack(
        [
            data.means[lever.hearings[hearing]][view, clip, : lever.columns]
            for hearing, view, clip in zip(hearings, views, clips, strict=True)
        ]
    )
    if lever.change_source:
        moved = torch.from_numpy(rng.random(len(clips)) < lever.change_source).float()[:, None]
        others = rng.choice(data.sources[members], len(clips))
        sound = sound + moved * (effects[others] - effects[data.sources[clips]])
    if lever.noise:
        sound = sound + lever.noise * torch.randn_like(sound)
    return sound, data.means["clean"][views, clips, : lever.columns]


def _loss(lever: Lever, logits: Tensor, labels: Tensor) -> Tensor:
    loss, said = F.cross_entropy(logits, labels), logits.softmax(1)
    if lever.order:
        loss = loss + lever.order * (said.cumsum(1) - labels.cumsum(1)).square().sum(1).mean()
    if lever.distance:
        years = torch.from_numpy(YEARS).float()
        loss = loss + lever.distance * ((said - labels) @ years).abs().mean()
    return loss


def answers(data: Data, lever: Lever, left_out: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Years [M, 140] of the clips left out, in their order, for each of QUESTIONS. Shape: [N] bool."""
    members, test = np.flatnonzero(~left_out & data.readable), np.flatnonzero(left_out)
    said = dict.fromkeys(QUESTIONS, np.zeros((len(test), YEAR_COUNT), np.float32))
    for number in range(lever.seeds):
        network = train(data, lever, members, 100 * number + seed)
        with torch.inference_mode():
            for name in QUESTIONS:
                years = network(data.question(name, test)[:, : lever.columns]).softmax(1).numpy()
                said[name] = said[name] + years / lever.seeds
    return said


_worker: Data  # of a process that trains


def _start_worker(clips: Sequence[Clip], features: dict[str, Features]) -> None:
    global _worker
    torch.set_num_threads(1)
    _worker = Data(clips, features)


def _answer(task: tuple[Lever, np.ndarray, int, Path]) -> None:
    lever, left_out, seed, path = task
    if not path.exists():
        half = path.with_suffix(".half.npz")
        np.savez(half, **cast(dict[str, Any], answers(_worker, lever, left_out, seed)))
        half.rename(path)


def ask(
    clips: Sequence[Clip], features: dict[str, Features], names: Sequence[str], folder: Path, processes: int
) -> dict[str, dict[str, dict[str, np.ndarray]]]:
    """Each lever's years [N, 140] for each question, with artists left out ("fold") and whole sources."""
    splits = {"fold": np.array([c.fold for c in clips]), "source": np.array([c.source for c in clips])}
    folder.mkdir(parents=True, exist_ok=True)
    known = fingerprint([[(c.id, c.year_lo, c.year_hi, c.fold, c.source) for c in clips], CACHE_VERSION])
    tasks, places = [], {}
    for name, (split, labels) in product(names, splits.items()):
        lever, seed = LEVERS[name][1], int(name == "seed")
        for part in np.unique(labels):
            places[name, split, part] = folder / f"{fingerprint([lever, seed, split, part, known])}.npz"
            tasks.append((lever, labels == part, seed, places[name, split, part]))
    with ProcessPoolExecutor(
        processes, multiprocessing.get_context("spawn"), _start_worker, (clips, features)
    ) as pool:
        for _ in track(pool.map(_answer, tasks), "Trying", total=len(tasks), console=PROGRESS):
            pass
    said: dict[str, dict[str, dict[str, np.ndarray]]] = {}
    for name, (split, labels) in product(names, splits.items()):
        years = {question: np.zeros((len(clips), YEAR_COUNT), np.float32) for question in QUESTIONS}
        for part in np.unique(labels):
            with np.load(places[name, split, part]) as arrays:
                for question in QUESTIONS:
                    years[question][labels == part] = arrays[question]
        said.setdefault(name, {})[split] = years
    return said


TEMPLATE = """\
# Levers

{made}

Brackets hold 95 % intervals over artists. Where an interval holds 0, nothing was measured; of so many
intervals, one in twenty misses 0 by chance; what another seed alone changes is each table's second row.
"""


def write(
    clips: Sequence[Clip], said: dict[str, dict[str, dict[str, np.ndarray]]], out: Path, command: str
) -> None:
    """The tables, one for each question, with artists and with sources left out."""
    scored = np.array([clip.scored for clip in clips])
    lo, hi = np.array([c.year_lo for c in clips])[scored], np.array([c.year_hi for c in clips])[scored]
    artists = np.array([clip.artist_key for clip in clips])[scored]
    about = str(__doc__).split("\n\n")[2]
    made = f"Made by `{command}` of erarec {erarec.__version__}. {about}"
    text = TEMPLATE.format(made=textwrap.fill(" ".join(made.split()), 120))
    shown = ("mae", "within_3", "decade")
    for (split, left), (question, heard) in product(
        {"fold": "artists", "source": "whole sources"}.items(), QUESTIONS.items()
    ):
        base, rows = said["base"][split][question], []
        for name in said:
            years = said[name][split][question]
            score = metrics(years[scored], lo, hi, artists)
            change = paired_difference(base[scored], years[scored], lo, hi, artists)
            changes = change_cells(change) if name != "base" else ["", ""]
            rows.append([LEVERS[name][0], *(cell(metric, score[metric]) for metric in shown), *changes])
        headings = [
            "",
            *(METRICS[metric] for metric in shown),
            "change, points within 3 years",
            "change, years of error",
        ]
        text += f"\n## {heard.capitalize()}, {left} left out\n\n{table(headings, rows)}"
    out.write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("data", type=Path, help="folder with clips.csv")
    parser.add_argument("--work", type=Path, default=Path("build/models"))
    parser.add_argument("--out", type=Path, default=Path("docs/levers.md"))
    parser.add_argument("--only", nargs="*", choices=LEVERS, help="names of levers, instead of all")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    clips = read_manifest(arguments.data / "clips.csv")
    names = ["base", *(name for name in arguments.only or LEVERS if name != "base")]
    cache = FeatureCache(arguments.work / "features")
    features = cache.features(clips, TRAINING_HEARINGS, with_mel=False)
    said = ask(clips, features, names, arguments.work / "levers", arguments.processes)
    only = f" --only {' '.join(arguments.only)}" if arguments.only else ""
    write(clips, said, arguments.out, f"python -m erarec.tools.levers DATA{only}")
    print(arguments.out.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
