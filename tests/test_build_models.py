"""What is fitted on held-out clips: from clips whose years were drawn, and models that were not trained."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from erarec.clips import Clip, Features, Material
from erarec.evaluation import SOUND, answer_clips
from erarec.models import Config, save_checkpoint
from erarec.tagger import TAGGER_FEATURES
from erarec.tools import build_models
from erarec.tools.build_models import (
    ARTIST,
    BOTH,
    BOTH_PHONE,
    FIRST_EAR,
    PRODUCT,
    SOUND_PHONE,
    Calibration,
    Heard,
    assemble,
    by_name,
    calibrate,
)
from erarec.years import YEARS, target_distribution

CLIPS = 600


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    years = np.random.default_rng(0).integers(1940, 2015, CLIPS).tolist()
    return [
        Clip(f"{n}", Path("none"), "made", f"artist {n}", "song", f"artist {n}", year, year, True, n % 5)
        for n, year in enumerate(years)
    ]


def saying(clips: list[Clip], deviation: float, seed: int) -> np.ndarray:
    """Log-probabilities around years that are off by so much, and honest about it."""
    rng = np.random.default_rng(seed)
    middles = np.array([clip.year for clip in clips]) + rng.normal(0, deviation, len(clips)).round()
    middles = middles.clip(YEARS[0], YEARS[-1])
    return np.log(target_distribution(middles, middles, deviation) + 1e-9)


@pytest.fixture(scope="module")
def heard(clips: list[Clip]) -> Heard:
    """The first ear is good at clean sound, the second at what comes through the phone."""
    first = {h: saying(clips, wide, n) for n, (h, wide) in enumerate({"clean": 5, "phone": 25}.items())}
    second = {h: saying(clips, wide, n + 5) for n, (h, wide) in enumerate({"clean": 15, "phone": 9}.items())}
    first["low-pass-4k"], second["low-pass-4k"] = first["clean"], second["clean"]
    none = np.zeros((CLIPS, len(YEARS)))
    reads = np.arange(CLIPS) % 10 > 0
    return Heard(first, second, saying(clips, 6, 20), {"clean": none, "phone": none}, reads)


def likelihood(probabilities: np.ndarray, clips: list[Clip]) -> float:
    years = np.array([clip.year_lo for clip in clips])
    return float(np.log(probabilities[np.arange(len(clips)), years - YEARS[0]] + 1e-9).mean())


def test_each_ear_is_believed_where_it_is_good(heard: Heard, clips: list[Clip]) -> None:
    said, calibration = calibrate(clips, heard)
    assert calibration.ears is not None
    better_ear = {SOUND.name: heard.first["clean"], SOUND_PHONE.name: heard.second["phone"]}
    for name, alone in better_ear.items():
        assert likelihood(said[name], clips) > likelihood(np.exp(alone), clips) - 0.02
        np.testing.assert_allclose(said[name].sum(1), 1, atol=1e-4)
    assert likelihood(said[SOUND_PHONE.name], clips) > likelihood(np.exp(heard.first["phone"]), clips) + 0.3
    np.testing.assert_allclose(said[FIRST_EAR].argmax(1), heard.first["clean"].argmax(1))


def test_both_are_better_than_each_and_unknown_artists_leave_it_to_sound(heard, clips) -> None:
    said, _ = calibrate(clips, heard)
    assert likelihood(said[BOTH.name], clips) > likelihood(said[SOUND.name], clips) + 0.2
    assert likelihood(said[BOTH.name], clips) > likelihood(said[ARTIST.name], clips) + 0.2
    for name, alone in ((BOTH.name, SOUND), (PRODUCT, SOUND), (BOTH_PHONE.name, SOUND_PHONE)):
        np.testing.assert_array_equal(said[name][~heard.reads], said[alone.name][~heard.reads])


def test_a_folds_answers_do_not_know_its_own_clips(heard: Heard, clips: list[Clip]) -> None:
    other_years = [replace(clip, year_lo=1900, year_hi=1900) if clip.fold == 0 else clip for clip in clips]
    before, after = calibrate(clips, heard)[0], calibrate(other_years, heard)[0]
    own = np.array([clip.fold == 0 for clip in clips])
    assert set(before) == set(after)
    for name, said in before.items():
        np.testing.assert_array_equal(said[own], after[name][own])
        assert not np.array_equal(said[~own], after[name][~own])


def test_one_ear_has_a_temperature(heard: Heard, clips: list[Clip]) -> None:
    sharp = {hearing: 2 * logs for hearing, logs in heard.first.items()}
    one = Heard(sharp, {}, None, {}, np.zeros(CLIPS, bool))
    said, calibration = calibrate(clips, one)
    assert calibration.ears is None
    assert calibration.product is None
    assert calibration.temperatures[0] == pytest.approx(2, rel=0.2)
    assert set(said) == {ask.name for ask in build_models.asks(by_name("audio-suc"))}


@pytest.mark.parametrize("name", ["audio-suc", "audioart-mmc"])
def test_what_is_shipped_answers_as_was_measured(name: str, clips: list[Clip], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    few, first = clips[:6], np.arange(0, 19, 3)
    features = Features(
        rng.normal(size=(18, TAGGER_FEATURES)).astype(np.float16),
        rng.normal(size=(18, 224, 130)).astype(np.float16),
        np.full(18, 3.0, np.float32),
        first,
    )
    run = by_name(name)
    for part, folder in ((run, run.folder), (by_name(str(run.second_ear)), "ear")):
        torch.manual_seed(len(folder))
        config = Config(part.settings.model, part.settings.towers)
        model = config.build()
        torch.nn.init.normal_(model.sound_head[-1].weight, std=0.5)
        save_checkpoint(model, config, tmp_path / part.folder / "all.safetensors")
    ears = rng.normal(0, 0.2, (2, 5)).astype(np.float32) + [[1, 0, 0, 0, 0]] * 2
    product = np.full((2, 5), 0.3) if name == "audioart-mmc" else None
    calibration = Calibration(np.array([1.3, 0.8], np.float32), ears, product)
    model, config = assemble(run, calibration, tmp_path)
    save_checkpoint(model, config, tmp_path / "shipped.safetensors")
    shipped = build_models.load_checkpoint(tmp_path / "shipped.safetensors")[0].eval()
    assert shipped.hears == ("tagger", "cnn")

    logs = {}
    for part in (run, by_name(str(run.second_ear))):
        alone = build_models.load_checkpoint(tmp_path / part.folder / "all.safetensors")[0]
        logs[part.name] = np.log(answer_clips(alone, features)["years"])
    none = np.zeros(len(few), bool)
    by_hearing = {ear: dict.fromkeys(("clean", "phone", "low-pass-4k"), said) for ear, said in logs.items()}
    first_ear, second_ear = by_hearing.values()
    measured = calibration.answers(Heard(first_ear, second_ear, None, {}, none))[SOUND.name]
    np.testing.assert_allclose(answer_clips(shipped, features)["years"], measured, atol=2e-3)
    assert np.abs(measured - np.exp(logs[run.name])).max() > 0.01  # the second ear is heard


def test_what_the_fusion_adds_is_what_is_left_of_its_answer(clips: list[Clip], tmp_path: Path) -> None:
    run, rng = by_name("audioart-mmc"), np.random.default_rng(0)
    for fold in range(5):
        config = Config(run.name)
        model = config.build()
        model.weighing.bias.data.copy_(torch.tensor([0.5 + fold / 10, 1.5]))
        save_checkpoint(model, config, tmp_path / run.folder / f"fold-{fold}.safetensors")
    names = [
        SOUND.name,
        SOUND_PHONE.name,
        build_models.SOUND_4K.name,
        ARTIST.name,
        BOTH.name,
        BOTH_PHONE.name,
    ]
    answers = {name: np.exp(saying(clips, 8, n)).astype(np.float32) for n, name in enumerate(names)}
    folds = np.array([clip.fold for clip in clips])
    added = rng.normal(size=len(YEARS)).astype(np.float32)
    weights = np.column_stack([0.5 + folds / 10, np.full(CLIPS, 1.5)])
    logs = np.log(answers[SOUND.name]) * weights[:, :1] + np.log(answers[ARTIST.name]) * weights[:, 1:]
    answers[BOTH.name] = np.exp(logs + added)
    answers[BOTH.name] /= answers[BOTH.name].sum(1, keepdims=True)

    class Texts:
        whole = np.arange(CLIPS) - 1

    material = Material(clips, {}, (), Texts())
    found = Heard.of(run, material, answers, {}, tmp_path)
    likely = answers[BOTH.name] > 1e-10
    constant = (found.added["clean"] - added)[likely.all(1)]
    np.testing.assert_allclose(constant - constant[:, :1], 0, atol=0.05)
    assert found.reads.sum() == CLIPS - 1
