from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from erarec.clips import Clip, Features
from erarec.tagger import TAGGER_FEATURES
from erarec.tools import levers
from erarec.tools.levers import LEVERS, Data, answers, source_effects
from erarec.training import TRAINING_HEARINGS
from erarec.years import median_year

CLIPS = 240


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    """Two sources of unequal size, each of its own level; 1930 to 2020 in both."""
    years = np.linspace(1930, 2020, CLIPS).astype(int)
    return [
        Clip(
            f"{n}",
            Path("none"),
            "ab"[n % 3 == 0],
            f"artist {n}",
            "song",
            f"artist {n}",
            year,
            year,
            True,
            n % 5,
        )
        for n, year in enumerate(years.tolist())
    ]


@pytest.fixture(scope="module")
def features(clips: list[Clip]) -> dict[str, Features]:
    """One number tells the year, another the source; the damaged ones are noisier."""
    rng = np.random.default_rng(0)
    first = np.arange(0, 3 * CLIPS + 1, 3)
    heard = {}
    for hearing, noise in zip(TRAINING_HEARINGS, (0.1, *[0.5] * 4), strict=True):
        tagger = noise * rng.normal(size=(3 * CLIPS, TAGGER_FEATURES))
        for clip in clips:
            rows = slice(3 * int(clip.id), 3 * int(clip.id) + 3)
            tagger[rows, :200] += (clip.year_lo - 1975) / 20
            tagger[rows, 2000:2200] += 3 * (clip.source == "b")
        heard[hearing] = Features(tagger.astype(np.float16), None, np.full(3 * CLIPS, 3.0), first)
    return heard


@pytest.fixture(scope="module")
def data(clips: list[Clip], features: dict[str, Features]) -> Data:
    return Data(clips, features)


@pytest.mark.parametrize("name", LEVERS)
def test_each_lever_learns_years_of_clips_left_out(data: Data, clips: list[Clip], name: str) -> None:
    left_out = np.array([clip.fold == 0 for clip in clips])
    lever = LEVERS[name][1]
    lever = replace(lever, epochs=lever.epochs // 5, seeds=min(2, lever.seeds))
    if lever.average:
        lever = replace(lever, average=0.5)  # of 24 steps, not of a thousand
    said = answers(data, lever, left_out, seed=0)
    truth = np.array([clip.year_lo for clip in clips])[left_out]
    guess = np.abs(truth - np.median(truth)).mean()
    assert set(said) == set(levers.QUESTIONS)
    for years in said.values():
        assert years.shape == (left_out.sum(), 140)
        np.testing.assert_allclose(years.sum(1), 1, atol=1e-3)
        assert np.abs(median_year(years) - truth).mean() < 0.7 * guess


def test_each_lever_changes_what_is_trained(data: Data) -> None:
    members = np.arange(CLIPS)
    short = {name: replace(lever, epochs=1) for name, (_, lever) in LEVERS.items() if name != "seeds"}
    weights = {
        name: torch.cat(
            [p.flatten()[:50] for p in levers.train(data, lever, members, name == "seed").parameters()]
        )
        for name, lever in short.items()
    }
    same = [name for name in short if name != "base" and torch.equal(weights[name], weights["base"])]
    assert same == []


def test_the_effect_of_a_source_is_what_years_do_not_explain(data: Data) -> None:
    effects = source_effects(data, np.arange(CLIPS))
    differing = effects[1] - effects[0]
    assert differing[2000:2200].mean() > 10 * differing[:200].abs().mean()


def test_what_was_asked_is_kept_and_written(
    clips: list[Clip], features: dict[str, Features], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    brief = {name: (what, replace(lever, epochs=1)) for name, (what, lever) in LEVERS.items()}
    monkeypatch.setattr(levers, "LEVERS", brief)
    said = levers.ask(clips, features, ["base", "mixup"], tmp_path / "kept", 1)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "kept").iterdir()}
    assert len(kept) == 2 * (5 + 2)
    levers.ask(clips, features, ["base", "mixup"], tmp_path / "kept", 1)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "kept").iterdir()} == kept

    levers.write(clips, said, tmp_path / "levers.md", "the command")
    text = (tmp_path / "levers.md").read_text()
    assert text.count("\n## ") == 6
    assert text.count("| mixup, 0.4 | ") == 6
    assert "the command" in text
