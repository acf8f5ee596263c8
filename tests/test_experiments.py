"""The experiments, in small: everything is there, nothing is done twice, an interruption loses nothing."""

import csv
import json
import re
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import melody
from typer.testing import CliRunner

from erarec import experiments
from erarec.cli import app
from erarec.clips import FeatureCache, Material, build_biographies, read_manifest
from erarec.experiments import Answers, Workplace, chains, finished_model, pair, plan, shrink, wrong_texts
from erarec.models import save_checkpoint
from erarec.training import Settings, default_settings, train

ARTISTS = [
    "ABBA",
    "The Beatles",
    "Nirvana",
    "Drake",
    "Elvis Presley",
    "Madonna",
    "Queen",
    "Nobody In Particular",
]
COUNT = 24


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sounds of 1.5 s by eight artists in two folds, and some songs and a text."""
    folder = tmp_path_factory.mktemp("data")
    with (folder / "clips.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "file", "artist", "artist_key", "year_lo", "year_hi", "fold"])
        for n in range(COUNT):
            artist = n % len(ARTISTS)
            key, year = ARTISTS[artist].lower().removeprefix("the "), 1965 + 3 * (n // 2)
            writer.writerow([f"c{n}", f"c{n}.wav", ARTISTS[artist], key, year, year, artist % 2])
            soundfile.write(folder / f"c{n}.wav", melody(1.5, 22050, seed=n), 22050)
    songs = ["artist_key,year", *(f"{key},{year}" for key, year in [("abba", 1976), ("beatles", 1966)] * 4)]
    (folder / "songs.csv").write_text("\n".join(songs))
    lead = {"artist_key": "abba", "text": "ABBA were a Swedish group formed in 1972."}
    (folder / "biographies.jsonl").write_text(json.dumps(lead) + "\n")
    return folder


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The work folder of a quick run that was interrupted once and then went on."""
    work = tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patch:
        waits, wait = [], experiments.wait

        def interrupted_wait(*arguments, **named):
            if len(waits) == 5:
                raise KeyboardInterrupt
            waits.append(arguments)
            return wait(*arguments, **named)

        patch.setattr(experiments, "wait", interrupted_wait)
        stopped = reproduce(data, work)
    assert stopped.exit_code == 130
    assert "goes on" in stopped.stderr
    assert not (work / "results.md").exists()
    before = kept(work)
    assert len(before) >= 5
    assert reproduce(data, work).exit_code == 0
    after = kept(work)
    assert len(after) > len(before)
    assert {name: after[name] for name in before} == before  # done once
    return work


def reproduce(data: Path, work: Path):
    return CliRunner().invoke(app, ["reproduce", str(data), "--work", str(work), "--quick"])


def kept(work: Path) -> dict[str, int]:
    """What is finished, and when it was written."""
    return {path.name: path.stat().st_mtime_ns for path in (work / "experiments").glob("*.npz")}


def test_every_section_has_its_figures(finished: Path) -> None:
    text = (finished / "results.md").read_text(encoding="utf-8")
    assert "{{" not in text
    assert "erarec reproduce DATA --quick" in text
    sections = dict(re.findall(r"^##+ ([^\n]+)\n(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL))
    del sections["Where it fails"]  # has sections of its own
    assert len(sections) == 12
    for name, section in sections.items():
        assert re.search(r"^\|.*\d", section, re.MULTILINE), name
    shown = set(re.findall(r"\]\((results/\S+\.svg)\)", text))
    assert len(shown) == 11
    for figure in shown:
        svg = (finished / figure).read_text(encoding="utf-8")
        assert svg.count("<path") > 5
        assert len(svg) < 100_000


def test_every_experiment_is_in_the_tables(finished: Path) -> None:
    text = (finished / "results.md").read_text(encoding="utf-8")
    for rows in plan(range(5), full=False).values():
        for row in rows:
            assert f"| {row.name}" in text


def test_a_second_run_computes_nothing_and_writes_the_same(finished: Path, data: Path) -> None:
    before, text = kept(finished), (finished / "results.md").read_bytes()
    figure = finished / "results" / "steps.svg"
    drawn = figure.read_bytes()
    begin = time.perf_counter()
    result = reproduce(data, finished)
    assert result.exit_code == 0
    assert "0 trainings" in result.stderr
    assert kept(finished) == before
    assert (finished / "results.md").read_bytes() == text
    assert figure.read_bytes() == drawn
    assert time.perf_counter() - begin < 30


def test_a_folder_of_one_fold_is_refused(data: Path, tmp_path: Path) -> None:
    (tmp_path / "clips.csv").write_text("file,artist,year_lo,year_hi,fold\na.mp3,A,1970,1970,0\n")
    result = reproduce(tmp_path, tmp_path / "work")
    assert result.exit_code == 2
    assert "two folds" in result.stderr


# The plan


def test_the_full_plan_runs_all_rows_on_all_folds_with_three_seeds() -> None:
    for rows in plan(range(5), full=True).values():
        assert all((row.folds, row.seeds) == ((0, 1, 2, 3, 4), (0, 1, 2)) for row in rows)


def test_cheap_and_quick_rows_are_among_those_of_the_full_plan() -> None:
    full, cheap = plan(range(5), full=True), plan(range(5), full=False)
    for other in (cheap, shrink(cheap)):
        assert list(other) == list(full)
        for section, rows in other.items():
            assert {row.name for row in rows} <= {row.name for row in full[section]}
            assert len(rows) >= 2


def test_rows_that_agree_share_their_trainings() -> None:
    for full, most in ((True, 0.7), (False, 0.8)):
        sections = plan(range(5), full=full)
        trainings = [t for rows in sections.values() for row in rows for t in row.trainings()]
        assert len(set(trainings)) < most * len(trainings)
        assert set(sections["alpha"][0].trainings()) <= set(sections["ours"][0].trainings())


def test_trainings_that_share_sides_are_one_chain() -> None:
    sections = plan(range(5), full=False)
    found = chains(dict.fromkeys(t for rows in sections.values() for row in rows for t in row.trainings()))
    reading = [chain for chain in found if chain[0][0].model == "audioart-mmc"]
    parts = [{(settings.towers, settings.seed, fold) for settings, fold in chain} for chain in reading]
    assert all(len(part) == 1 for part in parts)
    assert len(set.union(*parts)) == len(reading)
    assert all(len(chain) == 1 for chain in found if chain not in reading)
    assert found[: len(reading)] == reading


# What is kept


def test_a_changed_setting_or_clip_is_another_file(data: Path, tmp_path: Path) -> None:
    place = Workplace(data, tmp_path, "cpu", "no", quick=True)
    settings = default_settings("audio-suc")
    path = place.kept((settings, 0))
    assert path == replace(place).kept((settings, 0))
    assert path != place.kept((settings, 1))
    assert path != place.kept((replace(settings, denominator="all"), 0))
    other = tmp_path / "other"
    other.mkdir()
    (other / "clips.csv").write_text((data / "clips.csv").read_text().replace("1965", "1966"))
    assert path != replace(place, data=other).kept((settings, 0))


@pytest.fixture(scope="module")
def material(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Material:
    from erarec.artist import ArtistLibrary
    from erarec.encoders import BiographyReader

    clips = read_manifest(data / "clips.csv")[:12]
    features = FeatureCache(tmp_path_factory.mktemp("cache")).features(clips, ["clean"], with_mel=False)
    texts = build_biographies(clips, [], {}, ArtistLibrary.load(), BiographyReader(), variants=0)
    return Material(clips, features, [], texts)


def test_a_finished_checkpoint_of_the_same_settings_is_taken(material: Material, tmp_path: Path) -> None:
    settings = Settings("audio-suc", epochs=1, batch_size=6)
    save_checkpoint(*train(material, settings, device="cpu"), tmp_path / "mine" / "fold-3.safetensors")
    (tmp_path / "mine" / "fold-4.safetensors").write_text("no checkpoint")
    assert finished_model(tmp_path, (settings, 3)) is not None
    assert finished_model(tmp_path, (replace(settings, alpha=0.3), 3)) is None
    assert finished_model(tmp_path, (settings, 4)) is None


def test_a_wrong_artist_is_another_of_another_decade(material: Material) -> None:
    clips, whole = material.clips, material.biographies.whole
    test = np.arange(10)
    wrong = wrong_texts(material, test)
    assert (wrong[10:] == -1).all()
    assert (wrong >= 0).sum() > 5
    for clip, text in zip(clips, wrong, strict=True):
        if text >= 0:
            other = clips[int(np.flatnonzero(whole == text)[0])]
            assert other.artist_key != clip.artist_key
            assert other.year // 10 != clip.year // 10
    assert (wrong[whole < 0] == -1).all()


def test_answers_are_paired_by_clip_and_seed() -> None:
    first = Answers(np.array([3, 1, 2]), np.zeros(3, int), np.zeros(3, int), {"a": np.array([30, 10, 20])})
    second = Answers(
        np.array([1, 3, 1]), np.zeros(3, int), np.array([0, 0, 1]), {"a": np.array([11, 33, 99])}
    )
    ours, theirs = pair(first, second)
    assert ours["a"].tolist() == [10, 30]
    assert theirs["a"].tolist() == [11, 33]
