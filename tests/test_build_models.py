"""What is fitted on held-out clips: answers made on the spot, around years that are off by so much."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from erarec.clips import Clip, Material
from erarec.evaluation import BOTH, SOUND, log_likelihood, report
from erarec.models import Config, save_checkpoint
from erarec.tools import build_models
from erarec.tools.build_models import ARTIST, BOTH_PHONE, PRODUCT, RUNS, SOUND_4K, SOUND_PHONE, calibrate
from erarec.years import target_distribution

CLIPS = 600
SUC, MMC = (next(run for run in RUNS if run.name == name) for name in ("audio-suc", "audioart-mmc"))
LEARNED = (0.6, 1.7)  # weights of sound and artist, of the folds' models


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    years = np.random.default_rng(0).integers(1940, 2015, CLIPS).tolist()
    return [
        Clip(f"{n}", Path("none"), "made", f"artist {n}", "song", f"artist {n}", year, year, True, n % 5)
        for n, year in enumerate(years)
    ]


class Texts:
    """Biographies, as far as it matters which clips have one: all but every tenth."""

    whole = np.where(np.arange(CLIPS) % 10 == 0, -1, 0)


def said(clips: list[Clip], deviation: float, seed: int) -> np.ndarray:
    """Answers that are as sure as they may be. Shape: [N, 140] float32."""
    years = np.array([clip.year_lo for clip in clips])
    heard = (years + np.random.default_rng(seed).normal(0, deviation, len(clips)).round()).clip(1890, 2029)
    return target_distribution(heard, heard, deviation) + np.float32(1e-9)


@pytest.fixture(scope="module")
def answers(clips: list[Clip]) -> dict[str, np.ndarray]:
    """Of sound and artist, and of both what models say that weigh them as in LEARNED."""
    said_by = {
        SOUND.name: said(clips, 6, 1),
        SOUND_PHONE.name: said(clips, 15, 2),
        ARTIST.name: said(clips, 6, 3),
    }
    said_by[SOUND_4K.name] = said_by[SOUND.name]
    for both, sound in ((BOTH, SOUND), (BOTH_PHONE, SOUND_PHONE)):
        product = said_by[sound.name] ** LEARNED[0] * said_by[ARTIST.name] ** LEARNED[1]
        said_by[both.name] = product / product.sum(1, keepdims=True)
    return said_by


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    for fold in range(5):
        config = Config(MMC.name)
        model = config.build()
        model.weighing.bias.data.copy_(torch.tensor(LEARNED))
        save_checkpoint(model, config, folder / MMC.folder / f"fold-{fold}.safetensors")
    return folder


def likelihood(probabilities: np.ndarray, clips: list[Clip]) -> float:
    years = np.array([clip.year_lo for clip in clips])
    return float(log_likelihood(probabilities, years, years).mean())


def test_sound_alone_has_a_temperature_from_clean_sound(answers, clips, work) -> None:
    sharp = {
        ask.name: answers[ask.name] ** 2 / (answers[ask.name] ** 2).sum(1, keepdims=True)
        for ask in build_models.asks(SUC)
    }
    calibrated, calibration = calibrate(SUC, Material(clips, {}), sharp, work)
    assert set(calibrated) == {ask.name for ask in build_models.asks(SUC)}
    assert calibration.temperatures[0] == pytest.approx(2, rel=0.2)
    assert calibration.weights is None
    for name, probabilities in calibrated.items():
        np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-4)
        assert likelihood(probabilities, clips) > likelihood(sharp[name], clips) + 0.1


def test_both_are_better_than_each_and_unknown_artists_leave_it_to_sound(answers, clips, work) -> None:
    calibrated, calibration = calibrate(MMC, Material(clips, {}, (), Texts()), answers, work)
    assert calibration.weights is not None
    unknown = Texts.whole < 0
    told = [clip for clip, is_unknown in zip(clips, unknown, strict=True) if not is_unknown]
    for alone in (SOUND.name, ARTIST.name):
        both, one = (likelihood(calibrated[name][~unknown], told) for name in (BOTH.name, alone))
        assert both > one + 0.2
    assert np.isnan(calibrated[ARTIST.name][unknown]).all()
    assert build_models.report_answered(clips, calibrated[ARTIST.name])["overall"]["n"] == len(told)
    # What had been learned believed the artist too much.
    assert likelihood(calibrated[BOTH.name], clips) > likelihood(answers[BOTH.name], clips) + 0.02
    for name, alone in ((BOTH.name, SOUND), (PRODUCT, SOUND), (BOTH_PHONE.name, SOUND_PHONE)):
        np.testing.assert_array_equal(calibrated[name][unknown], calibrated[alone.name][unknown])
        assert not np.array_equal(calibrated[name][~unknown], calibrated[alone.name][~unknown])


@pytest.mark.parametrize("run", [SUC, MMC], ids=lambda run: run.name)
def test_a_folds_answers_do_not_know_its_own_years(run, answers, clips, work) -> None:
    others = [replace(clip, year_lo=1900, year_hi=1900) if clip.fold == 0 else clip for clip in clips]
    asked = {ask.name: answers[ask.name] for ask in build_models.asks(run)}
    before, after = (
        calibrate(run, Material(some, {}, (), Texts()), asked, work)[0] for some in (clips, others)
    )
    own = np.array([clip.fold == 0 for clip in clips])
    assert set(before) == set(after)
    for name, probabilities in before.items():
        np.testing.assert_array_equal(probabilities[own], after[name][own])
        assert not np.array_equal(probabilities[~own], after[name][~own])


def test_what_is_shipped_has_what_was_fitted(work) -> None:
    model = Config(MMC.name).build()
    weights = np.arange(10, dtype=np.float32).reshape(2, 5)
    build_models.Calibration(np.array([1.3, 0.8], np.float32), weights).ship(model)
    assert model.temperatures.tolist() == pytest.approx([1.3, 0.8])
    assert model.weighing.bias.tolist() == [0, 5]
    assert model.weighing.weight.tolist() == [[1, 2, 3, 4], [6, 7, 8, 9]]


def test_what_is_shipped_comes_first_and_the_rest_is_folded_up(answers, clips, tmp_path, monkeypatch) -> None:
    by_name = {run.name: run for run in RUNS}
    runs = [SUC, by_name[build_models.TAGGER_ALONE]]
    reports = {
        run.name: {SOUND.name: report(clips, answers[ask.name], out_of_fold=True)}
        for run, ask in zip(runs, (SOUND, SOUND_PHONE), strict=True)
    }
    said = {run.name: {ask.name: answers[ask.name] for ask in (SOUND, SOUND_PHONE)} for run in runs}
    changes = list(build_models.differences(clips, said))
    assert [change.split(":")[0] for change in changes] == [
        f"- the CNN tower, beside the tagger's, in audio-suc, {ask.name}" for ask in (SOUND, SOUND_PHONE)
    ]
    assert "no measurable effect" in changes[0]
    before, folded = build_models.results(runs, reports, changes).split("<details>")
    assert "| audio-suc: sound alone |" in before
    assert changes[0] in before
    assert "| always the median year |" in before
    assert "| audio-suc, tagger tower: sound alone |" in folded
    assert "always the median" not in folded
    assert "<details>" not in build_models.results(runs[:1], reports, [])
    mmc = {ask.name: report(clips, answers[ask.name], out_of_fold=True) for ask in build_models.asks(MMC)}
    hits = [f"{100 * mmc[ask.name]['overall']['within_3']['value']:.0f} %" for ask in (SOUND, BOTH_PHONE)]
    first, *_ = build_models.results([MMC], {MMC.name: mmc}, []).splitlines()
    assert f"dates {hits[0]} of" in first
    assert first.endswith(f"and {hits[1]}.")

    monkeypatch.setattr(build_models, "CHECKPOINTS", tmp_path)
    build_models.write_card(SUC, reports[SUC.name], clips)
    card = (tmp_path / "audio-suc.md").read_text(encoding="utf-8")
    assert "cnn and tagger tower" in card
    assert "| audio-suc: sound alone |" in card
    assert "tagger tower: sound alone" not in card
    assert "{{" not in card
