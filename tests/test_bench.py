"""The measuring tools, on tiny sounds and untrained models: that they run, and that shares add up."""

import csv
import re
from pathlib import Path

import av
import pytest
import soundfile
from conftest import melody

from erarec.audio import read_excerpts
from erarec.models import Config, save_checkpoint
from erarec.tools import bench, robustness
from erarec.tools.sounds import read_sound, tune, write_sound


def untrained(folder: Path, model: str, tower: str, name: str | None = None) -> str:
    config = Config(model, (tower,))
    path = folder / f"{name or model}.safetensors"
    save_checkpoint(config.build(), config, path)
    return str(path)


@pytest.mark.parametrize("suffix", [".wav", ".mp3", ".m4a", ".opus"])
def test_what_is_written_lasts_as_long_as_asked(tmp_path: Path, suffix: str):
    path = tmp_path / f"tune{suffix}"
    write_sound(path, tune(4, 48000), 48000, None if suffix == ".wav" else 64000, repeats=2)
    assert read_excerpts(path).duration == pytest.approx(8, abs=0.2)
    sound, rate = read_sound(path)
    assert (sound.shape[1], rate) == (2, 48000)
    with av.open(str(path)) as container:
        assert container.bit_rate > 32000


def test_the_tagger_s_operations_are_those_of_its_shapes():
    counts = bench.tagger_operations()
    assert counts["timbre"] == 187 * 59 * 7 * 38 * 204 + 187 * 30 * 7 * 67 * 204
    assert counts["temporal"] == 187 * 96 * 51 * (128 + 64 + 32)
    assert counts["middle"] == 187 * 7 * 64 * (561 + 64 + 64)
    positions = [187 * 48, 92 * 48, 46 * 24, 23 * 12, 11 * 6]  # of each layer, time by frequency
    assert counts["VGG"] == positions[0] * 9 * 128 + sum(positions[1:]) * 9 * 128 * 128
    assert counts["dense"] == 1506 * 200 + 200 * 50 + 256 * 50


def test_the_bench_prints_shares_that_add_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    recording = tmp_path / "short.mp3"
    write_sound(recording, tune(2), 44100, 64000)
    models = [untrained(tmp_path, "audio-cnn", "cnn"), untrained(tmp_path, "audioart-mmc", "tagger")]
    bench.main([str(recording), "--models", *models, "--runs", "1", "--copies", "3", "--minutes", "1"])
    printed = capsys.readouterr().out
    shares = {
        stage: [float(share) for share in re.findall(r"([\d.]+)%", line)]
        for stage, line in re.findall(rf"^  ({'|'.join(bench.STAGES)}) (.*)$", printed, re.MULTILINE)
    }
    assert set(shares) == set(bench.STAGES)
    assert [sum(column) for column in zip(*shares.values(), strict=True)] == pytest.approx([100, 100], abs=1)
    assert shares["CNN"][0] > 0 == shares["CNN"][1]
    assert shares["tagger"][1] > 0 == shares["tagger"][0]
    assert len(re.findall(r"[\d.]+ recordings a second", printed)) == 3
    assert all(int(share) > 0 for share in re.findall(r"(\d+)% of the matrix product's speed", printed))
    assert all(abs(int(more)) < 500 for more in re.findall(r"^  (?:mp3|m4a) .* ([+-]\d+) MB", printed, re.M))


def test_robustness_asks_the_shipped_model_and_one_that_has_not_heard_the_clip(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    columns = [
        "id",
        "file",
        "source",
        "artist",
        "title",
        "artist_key",
        "year_lo",
        "year_hi",
        "scored",
        "fold",
    ]
    with (tmp_path / "clips.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        for fold in range(2):
            soundfile.write(tmp_path / f"clip{fold}.wav", melody(2, 48000, seed=fold), 48000)
            for name in (f"clip{fold}.wav", "unreadable.wav"):
                row = {
                    "id": f"{name} {fold}",
                    "file": name,
                    "source": "made",
                    "artist": "ABBA",
                    "title": name,
                }
                row |= {"artist_key": "abba", "year_lo": "1975", "year_hi": "1976", "scored": "1"}
                writer.writerow(row | {"fold": str(fold)})
    (tmp_path / "unreadable.wav").write_text("no sound")
    model = untrained(tmp_path, "audioart-mmc", "tagger")
    for fold in range(2):
        untrained(tmp_path, "audioart-mmc", "tagger", f"fold-{fold}")
    robustness.main([str(tmp_path), "--clips", "2", "--model", model, "--checkpoints", str(tmp_path)])
    printed = capsys.readouterr().out
    rows = re.findall(r"^  (.{20}) +([\d.]+) +([\d.]+) +(\d+) +([\d.]+)%$", printed, re.MULTILINE)
    names = [kind.name for kind in robustness.FORMATS] + ["all formats"]
    assert [name.strip() for name, *_ in rows] == names * 4  # with the artist and without, twice
    assert re.findall(r"nobody knows: ([\d.]+) years", printed) == ["0.00", "0.00"]
