"""Train, evaluate and write all in checkpoints, maps and what is familiar in assets, results in the README.

    python -m erarec.tools.build_models DATA [--work build/models] [--only audio-suc ...]

Each model is trained six times: on four of five folds, to be measured on the fifth (no artist is in two
folds), and on all clips, to be shipped; one also without each source. What is finished is kept in the work
folder, so an interrupted run goes on where it was.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self, cast

import numpy as np
import torch
from torch import nn

import erarec
from erarec import ASSETS, CHECKPOINTS
from erarec.cards import LOSSES
from erarec.clips import Clip, FeatureCache, Material, read_leads, read_manifest, read_songs
from erarec.evaluation import (
    BOTH,
    SOUND,
    Ask,
    at_temperature,
    describe_change,
    fit_temperature,
    fit_weights,
    map_manifest,
    markdown_table,
    paired_difference,
    report,
    with_weights,
)
from erarec.familiarity import FAMILIARITY, Familiarity
from erarec.models import (
    MODALITIES,
    AudioArtMMC,
    Config,
    EraModel,
    Weighing,
    load_checkpoint,
    resolve_device,
    save_checkpoint,
    sureness,
)
from erarec.prediction import EraRecognizer
from erarec.training import Settings, clear_state, default_settings, prepare, train
from erarec.years import YEAR_COUNT

ROOT = Path(__file__).parents[2]
CARD = Path(__file__).with_name("card.md")
TAGGER_ALONE = "audio-cnn, tagger tower"
CNN_DISTILLED = "audio-cnn, distilled"
CNN_SOURCES_LEFT_OUT = "audio-cnn, distilled, whole source left out"
SOURCES_LEFT_OUT = "audio-suc, whole source left out"


@dataclass(frozen=True)
class Run:
    """One row of the results: a model, whether it is shipped, and what is left out of each training."""

    name: str
    settings: Settings
    shipped: bool = True
    leaving_out: Literal["fold", "source"] = "fold"
    second_ear: str | None = None  # name of the run whose models are asked beside

    @property
    def folder(self) -> str:
        return self.name.replace(", ", "-").replace(" ", "-")


DISTILLED = replace(
    default_settings("audio-cnn"), distil_epochs=40, epochs=15, learning_rate=1e-3, pretrained_rate=0.4
)
RUNS = [
    Run("audio-cnn", default_settings("audio-cnn")),
    Run(CNN_DISTILLED, DISTILLED, shipped=False),
    # Eleven trainings more, so they are shorter.
    Run(
        CNN_SOURCES_LEFT_OUT,
        replace(DISTILLED, distil_epochs=20, epochs=8),
        shipped=False,
        leaving_out="source",
    ),
    # The sound encoder of the other two without their losses: what L_EC adds is seen against this one.
    Run(TAGGER_ALONE, replace(default_settings("audio-suc"), model="audio-cnn"), shipped=False),
    Run("audio-suc", default_settings("audio-suc"), second_ear=CNN_DISTILLED),
    # A source has its own recordings, rips and encoders: how it is with one that was never heard.
    Run(
        SOURCES_LEFT_OUT,
        default_settings("audio-suc"),
        shipped=False,
        leaving_out="source",
        second_ear=CNN_SOURCES_LEFT_OUT,
    ),
    Run("audioart-mmc", default_settings("audioart-mmc"), second_ear=CNN_DISTILLED),
]


def by_name(name: str) -> Run:
    return next(run for run in RUNS if run.name == name)


SOUND_PHONE = Ask("sound alone, through the phone", hearing="phone")
SOUND_4K = Ask("sound alone, low-passed at 4 kHz", hearing="low-pass-4k")
BOTH_PHONE = Ask("sound and artist, through the phone", hearing="phone", with_artist=True)
ARTIST = Ask("artist alone", with_sound=False, with_artist=True)
# No questions to a model: what it has to beat, and what its tagger tower says without the second ear.
PRODUCT = "sound alone times artist alone"
FIRST_EAR = "sound alone, by the tagger tower alone"
FIRST_EAR_PHONE = f"{FIRST_EAR}, through the phone"
FITTED = ("clean", "phone")  # hearings in which weights are fitted


def asks(run: Run) -> list[Ask]:
    return [
        SOUND,
        SOUND_PHONE,
        SOUND_4K,
        *([BOTH, BOTH_PHONE, ARTIST] if run.settings.model == "audioart-mmc" else []),
    ]


def build(run: Run, material: Material, work: Path, device: str, precision: str) -> dict[str, np.ndarray]:
    """Train a run's models; returns the distributions [N, 140] for each question, by models that have not
    heard the clip."""
    kept = work / run.folder / "out-of-fold.npz"  # written last
    if kept.exists():
        with np.load(kept) as arrays:
            return {name: arrays[name] for name in arrays.files}
    parts = np.array([getattr(clip, run.leaving_out) for clip in material.clips])
    answers = {ask.name: np.zeros((len(parts), YEAR_COUNT), np.float32) for ask in asks(run)}
    whole = run.shipped or any(run.name == other.second_ear for other in RUNS if other.shipped)
    for part in [*sorted(set(parts)), *([None] if whole else [])]:
        name = "all" if part is None else f"{run.leaving_out}-{part}"
        path = work / run.folder / f"{name}.safetensors"
        if not path.exists():
            print(f"{run.name}, {name}", flush=True)
            state = path.with_suffix(".state")
            members = None if part is None else parts != part
            save_checkpoint(*train(material, run.settings, members, state, device, precision), path)
            clear_state(state)
        if part is None:
            continue
        model, _ = load_checkpoint(path)
        test = np.flatnonzero(parts == part)
        for ask in asks(run):
            answers[ask.name][test] = ask.of(model, material, test)["years"]
    np.savez_compressed(kept, **cast(dict[str, Any], answers))
    return answers


@dataclass(frozen=True)
class Heard:
    """What a run's models say of clips that they have not heard, as log-probabilities [N, 140].

    Attributes:
        first, second: of each ear alone, in each hearing; second is empty where there is one ear.
        artist: of the artist alone; None of a model that does not read.
        added: what the fusion adds to the product of sound and artist, in the hearings of FITTED.
        reads: [N] bool, where there is something to read about the artist.
    """

    first: dict[str, np.ndarray]
    second: dict[str, np.ndarray]
    artist: np.ndarray | None
    added: dict[str, np.ndarray]
    reads: np.ndarray

    @classmethod
    def of(
        cls,
        run: Run,
        material: Material,
        answers: dict[str, np.ndarray],
        second: dict[str, np.ndarray],
        work: Path,
    ) -> Self:
        """From the run's own answers and its second ear's, by question, and the models of its folds."""
        first, other = (
            {ask.hearing: _log(by_ask[ask.name]) for ask in (SOUND, SOUND_PHONE, SOUND_4K) if by_ask}
            for by_ask in (answers, second)
        )
        artist = _log(answers[ARTIST.name]) if ARTIST.name in answers else None
        added: dict[str, np.ndarray] = {}
        reads = np.zeros(len(material.clips), bool)
        if artist is not None and material.biographies is not None:
            reads = material.biographies.whole >= 0
            folds = np.array([clip.fold for clip in material.clips])
            for ask in (BOTH, BOTH_PHONE):
                added[ask.hearing] = _log(answers[ask.name])
                for fold in np.unique(folds):
                    model = load_checkpoint(work / run.folder / f"fold-{fold}.safetensors")[0]
                    pair = first[ask.hearing][folds == fold], artist[folds == fold]
                    with torch.inference_mode():
                        known = sureness(*map(torch.from_numpy, pair))
                        learned = cast(AudioArtMMC, model).weighing(known).numpy()
                    added[ask.hearing][folds == fold] -= sum(learned[:, [n]] * pair[n] for n in (0, 1))
        return cls(first, other, artist, added, reads)


def _log(probabilities: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(probabilities, 1e-12))


def _known(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """What two answers' weights go by. Shape: log-probabilities [N, 140] twice -> [N, 5]."""
    sure = sureness(torch.from_numpy(first), torch.from_numpy(second)).numpy()
    return np.column_stack([np.ones(len(first)), sure])


def _fit_product(
    pairs: list[tuple[np.ndarray, np.ndarray, np.ndarray]], who: np.ndarray, *span: np.ndarray
) -> np.ndarray:
    """Weights [2, 5] of two answers beside a third, in several hearings at once."""
    parts = np.concatenate([np.stack(pair)[:, who] for pair in pairs], 1)
    known = np.concatenate([_known(*pair[:2])[who] for pair in pairs])
    return fit_weights(parts, known, *(np.tile(years, len(pairs)) for years in span))


@dataclass(frozen=True)
class Calibration:
    """What is fitted on clips that the models have not heard, and kept in a shipped checkpoint.

    A modality by itself has a temperature, fitted on clean sound and used whatever the sound came through.
    Where there are two answers, two ears' or both modalities', the weights of their product take its place:
    they are fitted on clean sound and through the phone. Those of sound and artist take the place, too, of
    what was learned in training: there, both had seen the clips.

    Attributes:
        temperatures: of the first ear alone and of the artist.
        ears, product: [2, 5], the bias and weight of a ``Weighing``; None where there is none.
    """

    temperatures: np.ndarray
    ears: np.ndarray | None
    product: np.ndarray | None

    @classmethod
    def fit(cls, heard: Heard, who: np.ndarray, lo: np.ndarray, hi: np.ndarray) -> Self:
        """On the clips ``who`` [N] bool."""
        temperatures, ears, product = np.ones(len(MODALITIES), np.float32), None, None
        if heard.second:
            pairs = [(heard.first[h], heard.second[h], np.zeros_like(heard.first[h])) for h in FITTED]
            ears = _fit_product(pairs, who, lo[who], hi[who])
        temperatures[0] = fit_temperature(np.exp(heard.first["clean"][who]), lo[who], hi[who])
        if heard.artist is not None:
            temperatures[1] = fit_temperature(np.exp(heard.artist[who]), lo[who], hi[who])
            sound = cls(temperatures, ears, None)
            pairs = [(sound.sound_logs(heard, h), heard.artist, heard.added[h]) for h in FITTED]
            who = who & heard.reads
            product = _fit_product(pairs, who, lo[who], hi[who])
        return cls(temperatures, ears, product)

    def sound_logs(self, heard: Heard, hearing: str) -> np.ndarray:
        """Log-probabilities [N, 140] from all that is heard, as they go into the product with the artist."""
        first = heard.first[hearing]
        if self.ears is None:
            return first
        second = heard.second[hearing]
        parts = np.stack([first, second, np.zeros_like(first)])
        return _log(with_weights(parts, _known(first, second) @ self.ears.T))

    def answers(self, heard: Heard) -> dict[str, np.ndarray]:
        """Probabilities [N, 140] for each question."""
        temperature = self.temperatures[0] if self.ears is None else 1.0
        said = {
            ask.name: at_temperature(np.exp(self.sound_logs(heard, ask.hearing)), temperature)
            for ask in (SOUND, SOUND_PHONE, SOUND_4K)
        }
        if self.ears is not None:
            for name, hearing in ((FIRST_EAR, "clean"), (FIRST_EAR_PHONE, "phone")):
                said[name] = at_temperature(np.exp(heard.first[hearing]), self.temperatures[0])
        if heard.artist is not None and self.product is not None:
            said[ARTIST.name] = at_temperature(np.exp(heard.artist), self.temperatures[1])
            beside = said[SOUND.name] * said[ARTIST.name]
            products = {PRODUCT: (SOUND, beside / beside.sum(1, keepdims=True))}
            for ask, alone in ((BOTH, SOUND), (BOTH_PHONE, SOUND_PHONE)):
                sound = self.sound_logs(heard, ask.hearing)
                parts = np.stack([sound, heard.artist, heard.added[ask.hearing]])
                joined = with_weights(parts, _known(sound, heard.artist) @ self.product.T)
                products[ask.name] = alone, joined
            # Where nothing is known of the artist, the answer is that of sound alone.
            for name, (alone, joined) in products.items():
                said[name] = np.where(heard.reads[:, None], joined, said[alone.name])
        return said

    def ship(self, model: EraModel) -> None:
        model.temperatures.copy_(torch.from_numpy(self.temperatures))
        if self.ears is not None:
            model.temperatures[0] = 1.0
        for fitted, of in ((self.ears, model.second_ear), (self.product, model)):
            if fitted is not None:
                weighing = cast(Weighing, cast(nn.Module, of).weighing)
                weighing.bias.data.copy_(torch.from_numpy(fitted[:, 0]))
                weighing.weight.data.copy_(torch.from_numpy(fitted[:, 1:]))


def calibrate(clips: Sequence[Clip], heard: Heard) -> tuple[dict[str, np.ndarray], Calibration]:
    """Answers calibrated on the other folds, and the calibration of the model to be shipped."""
    folds, scored = np.array([clip.fold for clip in clips]), np.array([clip.scored for clip in clips])
    span = np.array([c.year_lo for c in clips]), np.array([c.year_hi for c in clips])
    calibrated: dict[str, np.ndarray] = {}
    for fold in np.unique(folds):
        for name, said in Calibration.fit(heard, scored & (folds != fold), *span).answers(heard).items():
            calibrated.setdefault(name, np.zeros_like(said))[folds == fold] = said[folds == fold]
    return calibrated, Calibration.fit(heard, scored, *span)


def assemble(run: Run, calibration: Calibration, work: Path) -> tuple[EraModel, Config]:
    """The model to be shipped: trained on all clips, with its second ear, calibrated."""
    trained, config = load_checkpoint(work / run.folder / "all.safetensors")
    config = replace(config, version=erarec.__version__, second_ear=run.second_ear is not None)
    model = config.build()
    model.load_state_dict(trained.state_dict(), strict=run.second_ear is None)
    if run.second_ear is not None and model.second_ear is not None:
        other, _ = load_checkpoint(work / by_name(run.second_ear).folder / "all.safetensors")
        model.second_ear.sound_encoder.load_state_dict(other.sound_encoder.state_dict())
        model.second_ear.sound_head.load_state_dict(other.sound_head.state_dict())
    calibration.ship(model)
    return model, config


def tables(reports: dict[str, dict[str, dict]]) -> str:
    """The results as the README and the cards show them."""
    rows: dict[str, dict] = {}
    for run, by_question in reports.items():
        for question, result in by_question.items():
            rows[f"{run}: {question}"] = result["overall"]
    baselines = next(iter(next(iter(reports.values())).values()))["baselines"]
    rows["always the median year"] = baselines["median"]
    rows["always the source's own median year"] = baselines["source_median"]
    return markdown_table(rows)


def differences(clips: list[Clip], answers: dict[str, dict[str, np.ndarray]]) -> Iterator[str]:
    """What each step adds, on the same clips, with intervals over artists."""
    scored = np.array([clip.scored for clip in clips])
    lo, hi = np.array([c.year_lo for c in clips])[scored], np.array([c.year_hi for c in clips])[scored]
    artists = np.array([clip.artist_key for clip in clips])[scored]
    pairs = [
        ((TAGGER_ALONE, SOUND.name), ("audio-suc", FIRST_EAR), "L_EC, in the tagger tower"),
        (
            ("audio-suc", FIRST_EAR),
            ("audioart-mmc", FIRST_EAR),
            "training with the artist, at sound alone, in the tagger tower",
        ),
        (("audio-suc", FIRST_EAR), ("audio-suc", SOUND.name), "the CNN tower beside the tagger tower"),
        (("audio-suc", FIRST_EAR_PHONE), ("audio-suc", SOUND_PHONE.name), "the same, through the phone"),
        (
            (SOURCES_LEFT_OUT, FIRST_EAR),
            (SOURCES_LEFT_OUT, SOUND.name),
            "the same, whole source left out",
        ),
        (("audioart-mmc", SOUND.name), ("audioart-mmc", BOTH.name), "telling the artist"),
        (("audioart-mmc", ARTIST.name), ("audioart-mmc", BOTH.name), "the sound, beside the artist"),
        (
            ("audioart-mmc", PRODUCT),
            ("audioart-mmc", BOTH.name),
            "the model, beside the product of its two parts",
        ),
    ]
    for (run, ask), (other, other_ask), what in pairs:
        if run in answers and other in answers:
            first, second = answers[run][ask][scored], answers[other][other_ask][scored]
            change = paired_difference(first, second, lo, hi, artists)
            yield f"- {what}: {describe_change(change)}"


def _in_words(settings: Settings) -> str:
    chosen = {name: value for name, value in vars(settings).items() if name not in ("model", "towers")}
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in chosen.items())


def write_card(run: Run, reports: dict[str, dict], everything: str, clips: list[Clip]) -> None:
    """A model card from the template, with this run's figures."""
    main = reports[BOTH.name if BOTH.name in reports else SOUND.name]
    groups = {name: score for key in ("by_source", "by_decade") for name, score in main[key].items()}
    training = _in_words(run.settings)
    hears = f"{' and '.join(run.settings.towers)} tower"
    if run.second_ear:
        hears += ", and a CNN tower with a head of its own beside it"
        training += f". The CNN tower: {_in_words(by_name(run.second_ear).settings)}"
    text = CARD.read_text(encoding="utf-8")
    values = {
        "name": run.name,
        "version": erarec.__version__,
        "hears": hears,
        "losses": LOSSES[run.settings.model],
        "clips": f"{len(clips):,}",
        "scored": f"{main['scored']:,}",
        "settings": training,
        "question": BOTH.name if BOTH.name in reports else SOUND.name,
        "everything": everything,
        "groups": markdown_table(groups),
    }
    for name, value in values.items():
        text = text.replace("{{" + name + "}}", value)
    (CHECKPOINTS / f"{run.name}.md").write_text(text, encoding="utf-8")


def write_results(everything: str, changes: list[str]) -> None:
    """Put the results between the README's two marks."""
    readme = ROOT / "README.md"
    before, rest = readme.read_text(encoding="utf-8").split("<!-- results -->\n", 1)
    _, after = rest.split("<!-- end of results -->", 1)
    block = "\n".join([everything, "", "What each step changes, on the same clips:", "", *changes, ""])
    readme.write_text(f"{before}<!-- results -->\n{block}<!-- end of results -->{after}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Train and evaluate all models, and write what is shipped.")
    parser.add_argument("data", type=Path, help="folder with clips.csv, songs.csv and biographies.jsonl")
    parser.add_argument("--work", type=Path, default=Path("build/models"))
    parser.add_argument("--only", nargs="*", help="names of runs, instead of all")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    arguments = parser.parse_args()
    clips = read_manifest(arguments.data / "clips.csv")
    runs = [run for run in RUNS if not arguments.only or run.name in arguments.only]
    ears = {run.second_ear for run in runs}
    runs = [run for run in RUNS if run in runs or run.name in ears]
    cache = arguments.work / "features"
    reader = replace(default_settings("audioart-mmc"), towers=("cnn", "tagger"))
    material = prepare(
        clips,
        reader,
        cache,
        read_songs(arguments.data / "songs.csv"),
        read_leads(arguments.data / "biographies.jsonl"),
        arguments.device,
    )
    features = FeatureCache(cache, resolve_device(arguments.device))
    material.features.update(features.features(clips, ["phone", "low-pass-4k"], with_mel=True))
    clean = material.features["clean"]
    excerpts = [clean.tagger[clean.of(row)] for row in range(len(clips))]
    means = [rows.mean(0, dtype=np.float32) for rows in excerpts if len(rows)]
    Familiarity.build(np.array(means)).save(FAMILIARITY)

    raw: dict[str, dict[str, np.ndarray]] = {}
    answers, calibrations = {}, {}
    for run in runs:
        raw[run.name] = build(run, material, arguments.work, arguments.device, arguments.precision)
        second = raw[run.second_ear] if run.second_ear else {}
        heard = Heard.of(run, material, raw[run.name], second, arguments.work)
        answers[run.name], calibrations[run.name] = calibrate(clips, heard)
    reports = {
        run: {ask: report(clips, probabilities, out_of_fold=True) for ask, probabilities in by_ask.items()}
        for run, by_ask in answers.items()
    }
    everything, changes = tables(reports), list(differences(clips, answers))
    print(everything, *changes, sep="\n")
    for run in runs:
        if run.shipped:
            model, config = assemble(run, calibrations[run.name], arguments.work)
            save_checkpoint(model, config, CHECKPOINTS / f"{run.name}.safetensors")
            write_card(run, reports[run.name], everything, clips)
            full = json.dumps(reports[run.name], indent=1)
            (CHECKPOINTS / f"{run.name}.json").write_text(full + "\n", encoding="utf-8")
            recognizer = EraRecognizer(run.name)
            laid_out, agreement = map_manifest(recognizer, arguments.data / "clips.csv", features)
            laid_out.save(ASSETS / f"map-{run.name}.npz")
            print(f"map of {run.name}:", {name: round(share, 3) for name, share in agreement.items()})
    write_results(everything, changes)


if __name__ == "__main__":
    main()
