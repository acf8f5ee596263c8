"""Train, evaluate and write all in checkpoints, maps and what is familiar in assets, results in the README.

    python -m erarec.tools.build_models DATA [--work build/models] [--only audio-suc ...]

Each model is trained six times: on four of five folds, to be measured on the fifth (no artist is in two
folds), and on all clips, to be shipped; Audio-SUC also without each source. What is finished is kept in the
work folder, so an interrupted run goes on where it was.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch

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
    fitted_by_fold,
    log_likelihood,
    map_manifest,
    markdown_table,
    mean_interval,
    paired_difference,
    report,
    with_weights,
)
from erarec.familiarity import FAMILIARITY, Familiarity
from erarec.models import (
    MODALITIES,
    AudioArtMMC,
    EraModel,
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
TAGGER_WITHOUT = "audio-cnn, tagger tower"
TAGGER_ALONE = "audio-suc, tagger tower"
TAGGER_SOURCES_LEFT_OUT = "audio-suc, tagger tower, whole source left out"
SOURCES_LEFT_OUT = "audio-suc, whole source left out"
TAGGER_WITH_ARTIST = "audioart-mmc, tagger tower"


@dataclass(frozen=True)
class Run:
    """One row of the results: a model, whether it is shipped, and what is left out of each training."""

    name: str
    settings: Settings
    shipped: bool = True
    leaving_out: Literal["fold", "source"] = "fold"

    @property
    def folder(self) -> str:
        return self.name.replace(", ", "-").replace(" ", "-")


TAGGER = default_settings("audio-suc", towers=("tagger",))
BOTH_TOWERS = default_settings("audio-suc")
RUNS = [
    Run("audio-cnn", default_settings("audio-cnn")),
    # Without L_EC and with it: what the loss adds is seen where a training takes a minute.
    Run(TAGGER_WITHOUT, replace(TAGGER, model="audio-cnn"), shipped=False),
    Run(TAGGER_ALONE, TAGGER, shipped=False),
    Run("audio-suc", BOTH_TOWERS),
    # A source has its own recordings, rips and encoders: how it is with one that was never heard.
    Run(TAGGER_SOURCES_LEFT_OUT, TAGGER, shipped=False, leaving_out="source"),
    # Eleven trainings more, so each tower has half of its time, and both together.
    Run(
        SOURCES_LEFT_OUT,
        replace(BOTH_TOWERS, distil_epochs=20, cnn_epochs=8, epochs=10),
        shipped=False,
        leaving_out="source",
    ),
    Run(TAGGER_WITH_ARTIST, default_settings("audioart-mmc", towers=("tagger",)), shipped=False),
    Run("audioart-mmc", default_settings("audioart-mmc")),
]


SOUND_PHONE = Ask("sound alone, through the phone", hearing="phone")
SOUND_4K = Ask("sound alone, low-passed at 4 kHz", hearing="low-pass-4k")
BOTH_PHONE = Ask("sound and artist, through the phone", hearing="phone", with_artist=True)
ARTIST = Ask("artist alone", with_sound=False, with_artist=True)
PRODUCT = "sound alone times artist alone"  # no question to a model: what it has to beat


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
    for part in [*sorted(set(parts)), *([None] if run.shipped else [])]:
        name = "all" if part is None else f"{run.leaving_out}-{part}"
        path = work / run.folder / f"{name}.safetensors"
        if not path.exists():
            print(f"{run.name}, {name}", flush=True)
            state = path.with_suffix(".state")
            members = None if part is None else parts != part
            sides = work / "sides" / name  # what Audio-SUC and AudioArt-MMC begin with
            save_checkpoint(*train(material, run.settings, members, state, device, precision, sides), path)
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
class Calibration:
    """What is fitted on held-out clips and kept in a shipped checkpoint."""

    temperatures: np.ndarray
    weights: np.ndarray | None = None  # [2, 5]: the bias and weight of the product's weighing

    def ship(self, model: EraModel) -> None:
        model.temperatures.copy_(torch.from_numpy(self.temperatures))
        if self.weights is not None:
            weighing, fitted = cast(AudioArtMMC, model).weighing, torch.from_numpy(self.weights)
            weighing.bias.data.copy_(fitted[:, 0])
            weighing.weight.data.copy_(fitted[:, 1:])


def calibrate(
    run: Run, material: Material, answers: dict[str, np.ndarray], work: Path
) -> tuple[dict[str, np.ndarray], Calibration]:
    """Answers calibrated on the other folds, NaN where there is none; the calibration of what is shipped.

    Each modality alone has a temperature, fitted on clean sound and used whatever the sound came through.
    Where there are both, the product's weights are fitted anew, on clean sound and through the phone, in
    place of those that it learned in training: there, both had seen the clips.
    """
    clips = material.clips
    everyone = np.ones(len(clips), bool)
    scored = np.array([clip.scored for clip in clips])
    lo, hi = np.array([c.year_lo for c in clips]), np.array([c.year_hi for c in clips])
    temperatures = np.ones(len(MODALITIES), np.float32)
    calibrated: dict[str, np.ndarray] = {}
    reads = everyone if material.biographies is None else material.biographies.whole >= 0
    alone = (("sound", everyone, [SOUND, SOUND_PHONE, SOUND_4K]), ("artist", reads, [ARTIST]))
    for modality, told, questions in alone:
        if questions[0].name not in answers:
            continue
        raw, chosen = answers[questions[0].name], scored & told
        by_clip = fitted_by_fold(clips, told, lambda who, *span: fit_temperature(raw[who], *span))  # noqa: B023
        temperatures[MODALITIES.index(modality)] = fit_temperature(raw[chosen], lo[chosen], hi[chosen])
        for ask in questions:  # of an artist that is not known there is no answer
            at = at_temperature(answers[ask.name], by_clip)
            calibrated[ask.name] = np.where(told[:, None], at, np.nan)
    if BOTH.name not in answers or material.biographies is None:
        return calibrated, Calibration(temperatures)

    models = {
        fold: cast(AudioArtMMC, load_checkpoint(work / run.folder / f"fold-{fold}.safetensors")[0])
        for fold in {clip.fold for clip in clips}
    }
    pairs = [(BOTH, SOUND), (BOTH_PHONE, SOUND_PHONE)]
    parts, known = zip(*(product_parts(models, clips, answers, *pair) for pair in pairs), strict=True)

    def fit(who: np.ndarray, *span: np.ndarray) -> np.ndarray:
        joined = np.concatenate([part[:, who] for part in parts], 1)
        return fit_weights(joined, np.concatenate([k[who] for k in known]), *(np.tile(s, 2) for s in span))

    by_fold = fitted_by_fold(clips, reads, fit)
    for (both, sound), part, regressors in zip(pairs, parts, known, strict=True):
        # Where nothing is known of the artist, the answer is that of sound alone.
        product = with_weights(part, np.einsum("nwk,nk->nw", by_fold, regressors))
        calibrated[both.name] = np.where(reads[:, None], product, calibrated[sound.name])
    plain = calibrated[SOUND.name] * calibrated[ARTIST.name]
    plain /= plain.sum(1, keepdims=True)
    calibrated[PRODUCT] = np.where(reads[:, None], plain, calibrated[SOUND.name])
    shipped = fit(scored & reads, lo[scored & reads], hi[scored & reads])
    named = {ask.name: calibrated[ask.name] for ask in asks(run)}
    return named | {PRODUCT: calibrated[PRODUCT]}, Calibration(temperatures, shipped.astype(np.float32))


def product_parts(
    models: dict[int, AudioArtMMC],
    clips: Sequence[Clip],
    answers: dict[str, np.ndarray],
    both: Ask,
    sound: Ask,
) -> tuple[np.ndarray, np.ndarray]:
    """What the product is made of and what the fusion has added to it, and what its weights go by.

    ``models`` are those that have not heard a fold, by the fold.

    Shape: -> parts [3, N, 140] and [N, 5].
    """
    logs = [np.log(np.maximum(answers[ask.name], 1e-12)) for ask in (sound, ARTIST, both)]
    alone = [torch.from_numpy(part) for part in logs[:2]]
    learned = np.zeros((len(clips), 2), np.float32)
    folds = np.array([clip.fold for clip in clips])
    for fold, model in models.items():
        here = folds == fold
        with torch.inference_mode():
            learned[here] = model.product_weights(*(part[torch.from_numpy(here)] for part in alone)).numpy()
    added = logs[2] - learned[:, :1] * logs[0] - learned[:, 1:] * logs[1]
    known = np.column_stack([np.ones(len(clips)), sureness(*alone).numpy()])
    return np.stack([*logs[:2], added]), known


def answered(probabilities: np.ndarray) -> np.ndarray:
    """Which clips have an answer. Shape: [N, 140] -> [N] bool."""
    return ~np.isnan(probabilities).any(1)


def report_answered(clips: Sequence[Clip], probabilities: np.ndarray) -> dict:
    """A report of the clips that have an answer."""
    there = answered(probabilities)
    some = [clip for clip, is_there in zip(clips, there, strict=True) if is_there]
    return report(some, probabilities[there], out_of_fold=True)


def table(reports: dict[str, dict[str, dict]], beside: bool = True) -> str:
    """Results as the README and the cards show them, with the baselines beside them or without."""
    rows: dict[str, dict] = {}
    for run, by_question in reports.items():
        for question, result in by_question.items():
            rows[f"{run}: {question}"] = result["overall"]
    if beside:
        baselines = next(iter(next(iter(reports.values())).values()))["baselines"]
        rows["always the median year"] = baselines["median"]
        rows["always the source's own median year"] = baselines["source_median"]
    return markdown_table(rows)


def differences(clips: list[Clip], answers: dict[str, dict[str, np.ndarray]]) -> Iterator[str]:
    """What each step adds, on the same clips, with intervals over artists."""
    scored = np.array([clip.scored for clip in clips])
    lo, hi = np.array([c.year_lo for c in clips]), np.array([c.year_hi for c in clips])
    artists = np.array([clip.artist_key for clip in clips])
    tower = "the CNN tower, beside the tagger's"
    pairs = [
        ((TAGGER_WITHOUT, SOUND.name), (TAGGER_ALONE, SOUND.name), "L_EC, tagger tower"),
        *(
            ((before, ask.name), (after, ask.name), f"{tower}, in {after}, {ask.name}")
            for before, after, questions in (
                (TAGGER_ALONE, "audio-suc", (SOUND, SOUND_PHONE)),
                (TAGGER_SOURCES_LEFT_OUT, SOURCES_LEFT_OUT, (SOUND, SOUND_PHONE)),
                (TAGGER_WITH_ARTIST, "audioart-mmc", (SOUND, SOUND_PHONE, BOTH, BOTH_PHONE)),
            )
            for ask in questions
        ),
        (("audio-suc", SOUND.name), ("audioart-mmc", SOUND.name), "training with the artist, at sound alone"),
        (("audioart-mmc", SOUND.name), ("audioart-mmc", BOTH.name), "telling the artist"),
        (("audioart-mmc", ARTIST.name), ("audioart-mmc", BOTH.name), "the sound, beside the artist"),
        (
            ("audioart-mmc", PRODUCT),
            ("audioart-mmc", BOTH.name),
            "the model, beside the product of its two parts",
        ),
    ]
    for (run, ask), (other, other_ask), what in pairs:
        if run not in answers or other not in answers:
            continue
        before, after = answers[run][ask], answers[other][other_ask]
        here = scored & answered(before) & answered(after)
        first, second, span = before[here], after[here], (lo[here], hi[here])
        change = paired_difference(first, second, *span, artists[here])
        line = f"- {what}: {describe_change(change)}"
        if ask == PRODUCT:  # what both say as a whole, and not only their best year
            gain = log_likelihood(second, *span) - log_likelihood(first, *span)
            line += "; log-likelihood of the year {value:+.3f} ({low:+.3f} to {high:+.3f})".format(
                **mean_interval(gain, artists[here])
            )
        yield line


def write_card(run: Run, reports: dict[str, dict], clips: list[Clip]) -> None:
    """A model card from the template, with this run's figures."""
    main = reports[BOTH.name if BOTH.name in reports else SOUND.name]
    groups = {name: score for key in ("by_source", "by_decade") for name, score in main[key].items()}
    settings = {k: v for k, v in vars(run.settings).items() if k not in ("model", "towers")}
    text = CARD.read_text(encoding="utf-8")
    values = {
        "name": run.name,
        "version": erarec.__version__,
        "towers": " and ".join(run.settings.towers),
        "losses": LOSSES[run.settings.model],
        "clips": f"{len(clips):,}",
        "scored": f"{main['scored']:,}",
        "settings": ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in settings.items()),
        "question": BOTH.name if BOTH.name in reports else SOUND.name,
        "results": table({run.name: reports}),
        "groups": markdown_table(groups),
    }
    for name, value in values.items():
        text = text.replace("{{" + name + "}}", value)
    (CHECKPOINTS / f"{run.name}.md").write_text(text, encoding="utf-8")


def results(runs: Sequence[Run], reports: dict[str, dict[str, dict]], changes: Sequence[str]) -> str:
    """What the README says: the models as they are shipped; what each step changes; the rest, folded up."""
    shipped: dict[str, dict] = {}
    others: dict[str, dict] = {}
    for run in runs:
        as_shipped = run.settings.towers == default_settings(run.settings.model).towers
        (shipped if as_shipped else others)[run.name] = reports[run.name]
    best = reports.get("audioart-mmc")
    lines = [in_short(best), ""] if best else []
    lines += [table(shipped), "What each step changes, on the same clips:", "", *changes, ""]
    if others:
        heading = "<summary>The same with the tagger tower alone, which is trained in minutes</summary>"
        lines += ["<details>", heading, "", table(others, beside=False), "</details>", ""]
    return "\n".join(lines)


def in_short(best: dict[str, dict]) -> str:
    """The answers of the model that is told the artist, in two sentences."""
    shares = {
        ask.name: f"{100 * best[ask.name]['overall']['within_3']['value']:.0f} %"
        for ask in (SOUND, BOTH, SOUND_PHONE, BOTH_PHONE)
    }
    error = "{value:.1f}".format(**best[BOTH.name]["overall"]["mae"])
    return (
        f"In short: audioart-mmc dates {shares[SOUND.name]} of the recordings to within 3 years from sound"
        f" alone, {shares[BOTH.name]} when told the artist (then it errs by {error} years on average)."
        f" Through a phone it is {shares[SOUND_PHONE.name]} and {shares[BOTH_PHONE.name]}."
    )


def write_results(text: str) -> None:
    """Put the results between the README's two marks."""
    readme = ROOT / "README.md"
    before, rest = readme.read_text(encoding="utf-8").split("<!-- results -->\n", 1)
    _, after = rest.split("<!-- end of results -->", 1)
    readme.write_text(f"{before}<!-- results -->\n{text}<!-- end of results -->{after}", encoding="utf-8")


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
    cache = arguments.work / "features"
    material = prepare(
        clips,
        default_settings("audioart-mmc"),
        cache,
        read_songs(arguments.data / "songs.csv"),
        read_leads(arguments.data / "biographies.jsonl"),
        arguments.device,
    )
    features = FeatureCache(cache, resolve_device(arguments.device))
    material.features.update(features.features(clips, ["phone", "low-pass-4k"], with_mel=True))
    clean = material.features["clean"]
    heard = [clean.tagger[clean.of(row)] for row in range(len(clips))]
    means = [rows.mean(0, dtype=np.float32) for rows in heard if len(rows)]
    Familiarity.build(np.array(means)).save(FAMILIARITY)

    answers, calibrations = {}, {}
    for run in runs:
        raw = build(run, material, arguments.work, arguments.device, arguments.precision)
        answers[run.name], calibrations[run.name] = calibrate(run, material, raw, arguments.work)
    clear_state(arguments.work / "sides")
    reports = {
        run: {ask: report_answered(clips, probabilities) for ask, probabilities in by_ask.items()}
        for run, by_ask in answers.items()
    }
    said = results(runs, reports, list(differences(clips, answers)))
    print(said)
    for run in runs:
        if run.shipped:
            model, config = load_checkpoint(arguments.work / run.folder / "all.safetensors")
            calibrations[run.name].ship(model)
            save_checkpoint(model, config, CHECKPOINTS / f"{run.name}.safetensors")
            write_card(run, reports[run.name], clips)
            full = json.dumps(reports[run.name], indent=1)
            (CHECKPOINTS / f"{run.name}.json").write_text(full + "\n", encoding="utf-8")
            recognizer = EraRecognizer(run.name)
            laid_out, agreement = map_manifest(recognizer, arguments.data / "clips.csv", features)
            laid_out.save(ASSETS / f"map-{run.name}.npz")
            print(f"map of {run.name}:", {name: round(share, 3) for name, share in agreement.items()})
    write_results(said)


if __name__ == "__main__":
    main()
