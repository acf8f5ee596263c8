"""Training, on a dozen short sounds: it learns, repeats itself, and survives an interruption."""

import csv
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import melody

from erarec import training
from erarec.artist import ArtistLibrary
from erarec.audio import level
from erarec.clips import (
    FeatureCache,
    Material,
    Song,
    build_biographies,
    damaged,
    read_manifest,
)
from erarec.damage import DAMAGES
from erarec.encoders import BiographyReader
from erarec.evaluation import answer_clips
from erarec.models import Config, Inputs, gather, load_checkpoint, save_checkpoint
from erarec.training import Settings, balanced_weights, default_settings, train
from erarec.years import best_year

ROOT = Path(__file__).parents[1]
ARTISTS = ["ABBA", "The Beatles", "Nirvana", "Drake", "Nobody At All In Particular", "Elvis Presley"]
COLUMNS = ["id", "file", "source", "artist", "title", "artist_key", "year_lo", "year_hi", "scored", "fold"]


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory):
    """A manifest of twelve sounds of 1.5 to 7 s, one of them no sound at all; their features and texts."""
    folder = tmp_path_factory.mktemp("material")
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for n in range(12):
            artist = ARTISTS[n % len(ARTISTS)]
            key = artist.lower().removeprefix("the ")
            year = 1955 + 5 * n
            writer.writerow(
                [f"c{n}", f"c{n}.wav", "made", artist, f"t{n}", key, year, year + n % 2, 1, n % 5]
            )
            soundfile.write(folder / f"c{n}.wav", melody(1.5 + n / 2, 22050, seed=n), 22050)
    (folder / "c11.wav").write_text("no sound")
    clips = read_manifest(folder / "manifest.csv")
    hearings = [*training.TRAINING_HEARINGS, "low-pass-4k"]
    features = FeatureCache(folder / "cache").features(clips, hearings, with_mel=True)
    songs = [Song("abba", 1976), Song("beatles", 1966), Song("nirvana", 1991), Song("drake", 2015)] * 4
    leads = {"abba": "ABBA were a Swedish group formed in 1972. They won a contest in 1974."}
    biographies = build_biographies(clips, songs, leads, ArtistLibrary.load(), BiographyReader())
    return clips, features, songs, biographies


def tiny(model: str, **changes) -> Settings:
    settings = default_settings(model)
    few = {name: 1 for name in ("artist_epochs", "sound_epochs", "cnn_epochs", "tagger_epochs")}
    few |= {"epochs": 2, "distil_epochs": min(1, settings.distil_epochs), "batch_size": 6}
    return replace(settings, **few | changes)


def run(material, settings: Settings, **arguments):
    clips, features, songs, biographies = material
    return train(Material(clips, features, songs, biographies), settings, device="cpu", **arguments)[0]


def same(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    ("settings", "epochs"),
    [
        (tiny("audio-cnn"), 1),
        (tiny("audio-cnn", distil_epochs=3, epochs=1), 2),  # in the midst of distillation
        (tiny("audio-suc"), 1),
        (tiny("audio-suc"), 4),  # after both towers alone and one of both
        (tiny("audioart-mmc"), 2),
    ],
)
def test_an_interrupted_run_ends_at_the_same_weights(material, settings, epochs, tmp_path, monkeypatch):
    straight = run(material, settings)
    save, saved = training._save_state, []

    def save_and_stop(*arguments):
        save(*arguments)
        saved.append(arguments)
        if len(saved) == epochs:
            raise KeyboardInterrupt

    monkeypatch.setattr(training, "_save_state", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        run(material, settings, state=tmp_path)
    monkeypatch.setattr(training, "_save_state", save)
    assert same(run(material, settings, state=tmp_path), straight)


def test_a_distilled_tower_hears_what_the_tagger_hears(material, monkeypatch):
    fit, lost = training._fit, {}

    def watched(accelerator, model, batches, losses_of, *arguments, **named):
        def losses(*batch):
            found = losses_of(*batch)
            for name, loss in found.items():
                lost.setdefault(name, []).append(loss.item())
            return found

        fit(accelerator, model, batches, losses, *arguments, **named)

    monkeypatch.setattr(training, "_fit", watched)
    run(material, tiny("audio-cnn", distil_epochs=80, epochs=1))
    assert np.mean(lost["tagger"][-20:]) < 0.8 * np.mean(lost["tagger"][:20])
    assert len(lost["MLE"]) == 2  # two batches of the one epoch of years


def test_a_teacher_tells_the_features_apart_by_what_varies_together(material):
    _, features, _, _ = material
    clean = features["clean"]
    teacher = training.Teacher(clean, np.arange(len(clean.tagger)))
    taught = teacher(torch.from_numpy(clean.tagger.astype(np.float32)))
    assert taught.shape == (len(clean.tagger), min(len(clean.tagger), teacher.COMPONENTS))
    covariance = (taught.T @ taught / len(taught)).numpy()
    variances = np.diag(covariance)
    assert (np.diff(variances[:-1]) <= 1e-3).all()  # the last is no more than rounding
    np.testing.assert_allclose(covariance - np.diag(variances), 0, atol=0.01 * variances[0])


def test_lessons_pair_what_is_heard_with_the_same_excerpt_undamaged(material):
    clips, features, _, _ = material
    settings = tiny("audio-cnn", clean=0.0)
    members = np.arange(11)  # the twelfth is no sound
    weights = np.full(11, 1 / 11)
    lessons = training.Lessons(training.Labels.of(clips), features, members, weights, settings, None)
    drawn = []
    draw = lessons.draw
    lessons.draw = lambda *arguments: drawn.append(draw(*arguments)) or drawn[-1]
    for inputs, labels in lessons.epoch(np.random.default_rng(0)):
        hearings, excerpts = drawn[-1]
        assert "clean" not in hearings
        assert labels["tagger"].shape == (inputs.present.sum(), features["clean"].tagger.shape[1])
        rows = np.concatenate(excerpts)
        np.testing.assert_array_equal(labels["tagger"], features["clean"].tagger[rows].astype(np.float32))
        for hearing, row, present in zip(hearings, excerpts, inputs.present, strict=True):
            assert present.sum() == len(row)
            assert hearing in training.TRAINING_HEARINGS


def test_both_towers_begin_with_what_each_has_learned_alone(material):
    settings = tiny("audio-suc", epochs=1, learning_rate=0.0)
    together = run(material, settings)
    cnn, tagger = training.tower_settings(settings)
    assert (cnn.distil_epochs, tagger.distil_epochs) == (1, 0)
    for name, alone in (("cnn", cnn), ("tagger", tagger)):
        tower = run(material, alone).sound_encoder.towers[name]
        for part, weight in tower.named_parameters():
            assert torch.equal(together.sound_encoder.towers[name].get_parameter(part), weight)


def test_the_sound_side_is_trained_as_the_model_that_only_hears():
    for towers in (("cnn", "tagger"), ("tagger",), ("cnn",)):
        _, sound = training.side_settings(default_settings("audioart-mmc", 3, towers))
        assert sound == default_settings("audio-suc", 3, towers)


def test_batches_come_in_order_and_failures_come_out():
    assert list(training._ahead(iter(range(10)), pinned=False)) == list(range(10))

    def broken():
        yield from range(3)
        raise OSError("the disk is gone")

    drawn = training._ahead(broken(), pinned=False)
    assert [next(drawn) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(OSError, match="the disk is gone"):
        next(drawn)


def test_a_gpu_fetches_batches_from_pinned_memory(monkeypatch):
    """As far as that can be seen without one."""
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor)
    inputs, labels = Inputs(torch.ones(2, 1, dtype=torch.bool)), {"target": torch.zeros(2, 140)}
    [(moved, _)] = training._ahead(iter([(inputs, labels)]), pinned=True)
    assert pinned == [inputs.present, labels["target"]]
    assert moved.present is inputs.present
    assert moved.tagger is None


TWO_PROCESSES = """
import sys
import torch
from erarec import training
from erarec.clips import Biographies, Features, Material, Song, TextTable, read_manifest
from erarec.tagger import TAGGER_FEATURES
from erarec.training import Settings, train
import numpy as np

rng = np.random.default_rng(0)
clips = read_manifest(sys.argv[1])
first = np.arange(len(clips) + 1) * 2
features = rng.normal(size=(first[-1], TAGGER_FEATURES)).astype(np.float16)
heard = {"clean": Features(features, None, np.full(first[-1], 3, np.float32), first)}
songs = [Song(clip.artist_key, clip.year_lo) for clip in clips]
words = np.arange(len(clips) + 1, dtype=np.int64) * 3
table = TextTable(
    rng.normal(size=(words[-1], 384)).astype(np.float16),
    np.arange(words[-1], dtype=np.int32),
    np.full((words[-1], 2), -1, np.int16),
    words,
)
each = np.arange(len(clips))
composed, leads = np.stack([each] * 4, 1), np.full((len(clips), 2), -1)
texts = Biographies(table, each, composed, leads, composed, leads)
settings = Settings("audioart-mmc", epochs=2, batch_size=4, sound_epochs=1, artist_batch_size=4)
fit = training._fit

def fit_and_compare(accelerator, model, *arguments, title, **named):
    fit(accelerator, model, *arguments, title=title, **named)
    weights = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    both = accelerator.gather(weights[None])
    assert len(both) == 2
    assert torch.equal(both[0], both[1]), "the processes have parted"
    sys.stdout.write(title + "\\n")  # in one piece, beside the other process

training._fit = fit_and_compare
train(Material(clips, heard, songs, texts), settings, device="cpu")
"""


def test_two_processes_train_one_model(tmp_path):
    """Each draws its own clips, so that only averaged gradients keep them together: in all three stages."""
    (tmp_path / "two.py").write_text(TWO_PROCESSES)
    lines = [f"{n}.wav,Artist {n},{1950 + 2 * n},{1950 + 2 * n}" for n in range(24)]
    (tmp_path / "manifest.csv").write_text("\n".join(["file,artist,year_lo,year_hi", *lines]))
    launch = "torch.distributed.run --standalone --nproc_per_node 2 two.py manifest.csv"
    command = [sys.executable, "-m", *launch.split()]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == sorted(["audio-suc", "artist side", "audioart-mmc"] * 2)
    assert done.stderr.count("artist side") == 1  # one of them shows how far it is


def test_a_seed_decides_the_run(material):
    settings = tiny("audio-suc")
    first = run(material, settings)
    assert same(first, run(material, settings))
    assert not same(first, run(material, replace(settings, seed=1)))


def test_runs_share_the_sides_that_they_have_in_common(material, tmp_path, monkeypatch):
    settings = tiny("audioart-mmc")
    straight = run(material, replace(settings, beta=0.7))
    run(material, settings, sides=tmp_path)
    fit, fitted = training._fit, []

    def spy(*arguments, state, **named):
        fitted.append((named["title"], state is not None and (state / "state").exists()))
        fit(*arguments, state=state, **named)

    monkeypatch.setattr(training, "_fit", spy)
    assert same(run(material, replace(settings, beta=0.7), sides=tmp_path), straight)
    towers, both = [("CNN tower", True), ("audio-cnn", True), ("audio-suc", True)], ("audio-suc", True)
    assert fitted == [("artist side", True), *towers, both, ("audioart-mmc", False)]
    fitted.clear()
    run(material, replace(settings, alpha=0.0), sides=tmp_path)
    without = [("audio-suc", False), ("audio-suc", False)]  # L_EC is in the tagger tower's and in both's
    assert fitted == [("artist side", True), *towers[:2], *without, ("audioart-mmc", False)]


def test_the_denominator_is_the_settings(material):
    first, second = (run(material, tiny("audio-suc", denominator=name)) for name in ("pair", "negatives"))
    assert not same(first, second)


def test_training_learns_its_clips(material):
    clips, features, _, biographies = material
    settings = tiny("audioart-mmc", epochs=60, without_text=0.0, without_sound=0.0)
    model = run(material, settings)
    answers = answer_clips(model, features["clean"], biographies.table, biographies.whole)
    probabilities, embeddings = answers["years"], answers["embedding"]
    readable = np.diff(features["clean"].first) > 0
    errors = np.abs(best_year(probabilities) - [clip.year for clip in clips])[readable]
    assert np.median(errors) <= 3
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)


def test_an_unreadable_clip_has_no_excerpts(material):
    clips, features, _, _ = material
    for heard in features.values():
        counts = np.diff(heard.first)
        assert counts[11] == 0
        assert (counts[:11] > 0).all()
        assert heard.tagger.shape[0] == heard.mel.shape[0] == counts.sum()
    assert len(clips) == 12


def test_features_are_computed_once(material, tmp_path, monkeypatch):
    clips = material[0][:2]
    cache = FeatureCache(tmp_path)
    first = cache.features(clips, ["clean"], with_mel=False)["clean"]
    monkeypatch.setattr(FeatureCache, "_compute", lambda *_: pytest.fail("computed again"))
    again = cache.features(clips, ["clean"], with_mel=False)["clean"]
    assert np.array_equal(first.tagger, again.tagger)


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damage_is_the_same_for_the_same_clip_only(name):
    sound = melody(6, 22050).reshape(2, -1)
    once = damaged(sound, name, "clip")
    assert once.shape == sound.shape
    np.testing.assert_allclose(once, level(once), rtol=1e-5)
    assert np.array_equal(once, damaged(sound, name, "clip"))
    if name not in ("low-pass-4k", "loud-2000s"):  # nothing in these is random
        assert not np.array_equal(once, damaged(sound, name, "another"))


def test_a_low_pass_leaves_nothing_above_it():
    sound = np.random.default_rng(0).standard_normal((1, 66150)).astype(np.float32)
    spectrum = np.abs(np.fft.rfft(damaged(sound, "low-pass-4k", "")[0])) ** 2
    frequencies = np.fft.rfftfreq(66150, 1 / 22050)
    below, above = spectrum[frequencies < 3500].mean(), spectrum[frequencies > 8000].mean()
    assert 10 * np.log10(above / below) < -40


def test_a_radio_of_the_1930s_is_narrow():
    noise = np.random.default_rng(0).standard_normal((1, 66150)).astype(np.float32)
    power = np.abs(np.fft.rfft(damaged(noise, "radio-1930s", "")[0])) ** 2
    frequencies = np.fft.rfftfreq(66150, 1 / 22050)
    inside = power[(frequencies > 300) & (frequencies < 3000)].mean()
    for low, high in ((0, 50), (7000, 11025)):
        outside = power[(frequencies > low) & (frequencies < high)].mean()
        assert 10 * np.log10(outside / inside) < -15


def test_a_loud_master_is_pressed_flat():
    swell = np.geomspace(0.05, 1, 66150, dtype=np.float32)
    sound = level((melody(3, 22050) * swell)[None])
    loud = damaged(sound, "loud-2000s", "")

    def crest(samples):
        return np.abs(samples).max() / np.sqrt(np.mean(np.square(samples)))

    assert crest(loud) < 0.75 * crest(sound)
    beginning, end = np.sqrt(np.mean(np.square(loud[0].reshape(2, -1)), axis=1))
    assert end / beginning < 0.6 * np.sqrt(np.mean(sound[0, 33075:] ** 2) / np.mean(sound[0, :33075] ** 2))


def test_rare_decades_are_drawn_more_often(material):
    clips = [replace(material[0][0], year_lo=1955, year_hi=1955)] + [
        replace(material[0][0], year_lo=1985, year_hi=1985)
    ] * 16
    weights = balanced_weights(clips, np.arange(17))
    assert weights.sum() == pytest.approx(1)
    assert weights[0] == pytest.approx(4 * weights[1])


def test_no_song_of_a_held_out_artist_is_trained_on(material, monkeypatch):
    clips = material[0]
    seen = []
    batches = training.SongBatches

    def spy(songs, allowed, *arguments):
        seen.extend(song.artist_key for song, is_allowed in zip(songs, allowed, strict=True) if is_allowed)
        return batches(songs, allowed, *arguments)

    monkeypatch.setattr(training, "SongBatches", spy)
    members = np.array([clip.artist_key != "abba" for clip in clips])
    run(material, tiny("audioart-mmc", epochs=1), members=members)
    assert set(seen) == {"beatles", "nirvana", "drake"}


def test_a_checkpoint_answers_as_the_model_did(material, tmp_path):
    _, features, _, biographies = material
    settings = tiny("audioart-mmc")
    model, config = run(material, settings), Config(settings.model, settings.towers)
    save_checkpoint(model, config, tmp_path / "m.safetensors")
    loaded, loaded_config = load_checkpoint(tmp_path / "m.safetensors")
    assert loaded_config == config
    assert (tmp_path / "m.safetensors").stat().st_size < 10e6
    before, after = (
        answer_clips(one, features["clean"], biographies.table, biographies.whole)["years"]
        for one in (model, loaded)
    )
    np.testing.assert_allclose(after, before, atol=2e-3)  # float16 weights


def test_padding_does_not_change_the_answer(material):
    _, features, _, _ = material
    model = run(material, tiny("audio-cnn", towers=("cnn", "tagger")))
    heard = features["clean"]
    spans = [np.arange(heard.first[n], heard.first[n + 1]) for n in (0, 10)]
    together = gather(features, ["clean"] * 2, spans, ("cnn", "tagger"))
    alone = gather(features, ["clean"], spans[:1], ("cnn", "tagger"))
    assert together.present.shape[1] > alone.present.shape[1]
    with torch.inference_mode():
        torch.testing.assert_close(model(together).years[:1], model(alone).years, atol=1e-4, rtol=1e-4)


def test_clips_of_unknown_artists_alone_are_answered_by_sound(material):
    clips, features, _, _ = material
    unknown = [replace(clip, artist_key="nobody at all") for clip in clips]
    texts = build_biographies(unknown, [], {}, ArtistLibrary.load(), BiographyReader(), variants=0)
    model = run(material, tiny("audioart-mmc"))
    told = answer_clips(model, features["clean"], texts.table, texts.whole)["years"]
    heard = answer_clips(model, features["clean"])["years"]
    np.testing.assert_allclose(told, heard, atol=1e-6)


def test_without_sound_and_text_nothing_breaks(material):
    _, features, _, biographies = material
    model = run(material, tiny("audioart-mmc"))
    texts = np.full(12, -1)
    answers = answer_clips(model, features["clean"], biographies.table, texts)
    probabilities, embeddings = answers["years"], answers["embedding"]
    assert np.isfinite(probabilities).all()
    assert np.isfinite(embeddings).all()


def test_a_manifest_says_which_line_is_wrong(tmp_path: Path):
    path = tmp_path / "manifest.csv"
    path.write_text(",".join(COLUMNS) + "\nx,x.wav,s,A,T,a,1980,1970,1,0\n")
    with pytest.raises(ValueError, match="line 2"):
        read_manifest(path)
    path.write_text("id,file\n")
    with pytest.raises(ValueError, match="artist, year_hi, year_lo"):
        read_manifest(path)


def test_a_manifest_needs_only_files_artists_and_years(tmp_path: Path):
    path = tmp_path / "manifest.csv"
    path.write_text("file,artist,year_lo,year_hi\na.mp3,The Kinks,1964,1964\nb.mp3,the kinks,1960,1969\n")
    first, second = read_manifest(path)
    assert (first.id, first.path, first.artist_key) == ("a.mp3", tmp_path / "a.mp3", "kinks")
    assert first.scored
    assert not second.scored
    assert first.fold == second.fold in range(5)
