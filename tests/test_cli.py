"""The command line, as people and scripts use it. What is answered comes from the shipped checkpoints."""

import csv
import functools
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import av
import mutagen
import numpy as np
import pytest
import soundfile
from conftest import melody
from mutagen.id3 import TPE1
from typer.testing import CliRunner, Result

import erarec
from erarec import MODELS, __version__
from erarec.cli import app
from erarec.prediction import EraPrediction

ERAREC = [sys.executable, "-m", "erarec"]
CONTRACT = set(EraPrediction.__dataclass_fields__)


@pytest.fixture(scope="module", autouse=True)
def _models_are_loaded_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(erarec, "load", functools.cache(erarec.load))
        yield


def run(*arguments: str | Path) -> Result:
    """The command in this process, which spares loading torch anew."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def run_process(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [*ERAREC, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


# What needs no model


def test_help_is_there_at_once() -> None:
    begin = time.perf_counter()
    done = run_process("--help")
    assert time.perf_counter() - begin < 2  # about 0.2 s where nothing else runs
    assert done.returncode == 0
    assert all(command in done.stdout for command in ("predict", "annotate", "manifest"))


def test_the_commands_are_known_without_torch() -> None:
    code = "import sys, erarec.cli; sys.exit(bool({'torch', 'transformers', 'av'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_version_is_the_package_s() -> None:
    assert run("--version").stdout.strip() == __version__


@pytest.mark.parametrize(
    "arguments",
    [
        ["predict"],
        ["predict", "a.mp3", "b.mp3"],
        ["predict", "a.mp3", "--model", "no-such-model"],
        ["predict", "a.mp3", "--device", "abacus"],
        ["predict", "a.mp3", "--no-such-option"],
        ["annotate"],
        ["annotate", "a.mp3", "--format", "xml"],
        ["manifest", "no-such-folder"],
        ["reproduce", "no-such-folder"],
        ["no-such-command"],
    ],
)
def test_wrong_use_exits_with_2_and_says_why_on_standard_error(arguments: list[str]) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.strip()


def test_an_unknown_model_is_told_which_there_are() -> None:
    said = run("predict", "a.mp3", "--model", "no-such-model").stderr
    assert len(said.splitlines()) == 1
    assert all(model in said for model in MODELS)


def test_a_folder_without_recordings_has_no_answer(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("Dear all")
    result = run("annotate", tmp_path)
    assert (result.exit_code, result.stdout) == (2, "")
    assert len(result.stderr.splitlines()) == 1


# One recording


def test_json_is_one_document_that_keeps_the_contract(song: Path) -> None:
    done = run_process("predict", song, "--artist", "Fleetwood Mac", "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert set(answer) == CONTRACT
    assert answer["model"] == "audioart-mmc"
    assert answer["artist"]["name"] == "Fleetwood Mac"
    low, high = answer["interval"]
    assert 1890 <= low <= high <= 2029
    assert len(answer["years"]) == len(answer["probabilities"]["both"]) == 140
    assert sum(answer["decades"].values()) == pytest.approx(1, abs=0.001)
    assert sum(answer["attention"].values()) == pytest.approx(1, abs=0.001)
    assert len(answer["neighbours"]) == 10


def test_people_read_the_answer_in_one_line_and_the_decades_below(song: Path) -> None:
    answer = json.loads(run("predict", song, "--json").stdout)
    low, high = answer["interval"]
    lines = run("predict", song).stdout.splitlines()
    assert lines[0] == f"Probably {answer['year']}, most likely between {low} and {high}."
    best = max(answer["decades"], key=answer["decades"].get)
    [bar] = [line for line in lines if line.startswith(best)]
    assert all(bar.count("█") >= line.count("█") for line in lines)
    assert f"{answer['decades'][best]:.0%}" in bar


def test_people_read_whether_the_artist_was_found(song: Path) -> None:
    assert "Artist: Fleetwood Mac" in run("predict", song, "--artist", "fleetwood mac").stdout
    said = run("predict", song, "--artist", "Qwxyz [bold] Vbnmpf").stdout
    assert "Qwxyz [bold] Vbnmpf is not in the library" in said
    said = run("predict", song, "--biography", "A singer of the nineteen-fifties.").stdout
    assert "from the biography given" in said
    assert "Artist" not in run("predict", song).stdout


def test_an_artist_in_the_tags_is_only_pointed_out(song: Path) -> None:
    plain = run("predict", song, "--json")
    assert plain.stderr == ""
    file = mutagen.File(song)
    file.add_tags()
    file.tags.add(TPE1(text=["Fleetwood Mac"]))
    file.save()
    hinted = run("predict", song, "--json")
    assert "Fleetwood Mac" in hinted.stderr
    assert json.loads(hinted.stdout)["year"] == json.loads(plain.stdout)["year"]
    assert run("predict", song, "--json", "--artist", "ABBA").stderr == ""


@pytest.mark.parametrize("model", MODELS)
def test_every_model_answers(song: Path, model: str) -> None:
    result = run("predict", song, "--model", model, "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["model"] == model


def write_silent_video(path: Path) -> None:
    """Pictures without any sound stream."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 32
        for _ in range(20):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), "rgb24")))
        file.mux(stream.encode(None))


@pytest.fixture
def unusable(tmp_path: Path) -> dict[str, Path]:
    folder = tmp_path / "unusable"
    folder.mkdir()
    files = {
        "text": folder / "text.mp3",
        "empty": folder / "empty.flac",
        "silence": folder / "silence.wav",
        "short": folder / "short.wav",
        "video": folder / "video.mp4",
        "missing": folder / "missing.opus",
        "folder": folder,
    }
    files["text"].write_text("This is a letter, not a song.\n" * 200)
    files["empty"].touch()
    soundfile.write(files["silence"], np.zeros(5 * 44100), 44100)
    soundfile.write(files["short"], melody(0.5), 44100)
    write_silent_video(files["video"])
    return files


@pytest.mark.parametrize("kind", ["text", "empty", "silence", "short", "video", "missing", "folder"])
def test_what_cannot_be_heard_gets_one_sentence(unusable: dict[str, Path], kind: str) -> None:
    result = run("predict", unusable[kind], "--json")
    assert (result.exit_code, result.stdout) == (2, "")
    [sentence] = result.stderr.splitlines()
    assert sentence[0].isupper() or sentence.startswith(unusable[kind].name)
    assert sentence.endswith(".")


def test_decoders_add_nothing_to_the_sentence(unusable: dict[str, Path]) -> None:
    """libmpg123 would print notes of its own, past Python."""
    done = run_process("predict", unusable["text"])
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1


def test_an_endless_biography_is_no_harm(song: Path) -> None:
    result = run("predict", song, "--biography", "He sang in 1957. " * 6000)
    assert result.exit_code == 0
    assert result.stdout.startswith("Probably ")


def test_a_reader_who_leaves_early_is_not_told_of_it(song: Path) -> None:
    command = [*ERAREC, "predict", str(song), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        assert process.stderr.read() == ""


# Many recordings


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    """Forty recordings, two of them tagged, in two folders, beside a letter, an empty file and a picture."""
    folder = tmp_path / "shelf"
    (folder / "more").mkdir(parents=True)
    first = folder / "song 00.opus"
    soundfile.write(first, melody(3, 48000), 48000, format="OGG", subtype="OPUS")
    for number in range(1, 40):
        shutil.copy(first, folder / ("more" if number % 2 else "") / f"song {number:02}.opus")
    for name, artist in {"song 00.opus": "Fleetwood Mac", "more/song 01.opus": "Qwxyz Vbnmpf"}.items():
        file = mutagen.File(folder / name)
        file["ARTIST"] = artist
        file.save()
    (folder / "letter.mp3").write_text("This is a letter, not a song.\n" * 200)
    (folder / "empty.flac").touch()
    (folder / "cover.jpg").write_bytes(b"\xff\xd8\xff")
    return folder


def test_a_batch_survives_what_cannot_be_read_and_names_it(shelf: Path) -> None:
    done = run_process("annotate", shelf, shelf / "missing.ogg")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 1
    assert len(rows) == 43
    failed = {Path(row["file"]).name for row in rows if row["error"]}
    assert failed == {"letter.mp3", "empty.flac", "missing.ogg"}
    assert "Traceback" not in done.stderr
    for row in rows:
        if row["error"]:
            assert row["year"] is None
            assert f"{row['file']}: {row['error']}" in done.stderr.splitlines()
        else:
            low, high = row["interval"]
            assert 1890 <= low <= high <= 2029
            assert 0 < sum(row["decades"].values()) <= 1.001
    by_name = {Path(row["file"]).name: row for row in rows}
    assert by_name["song 00.opus"]["artist"] == "Fleetwood Mac"
    assert by_name["song 00.opus"]["match"] == "exact"
    assert by_name["song 01.opus"]["match"] == "none"


def test_a_batch_answers_as_one_prediction_does(shelf: Path) -> None:
    file = shelf / "song 00.opus"
    row = json.loads(run("annotate", file).stdout)
    one = json.loads(run("predict", file, "--artist", "Fleetwood Mac", "--json").stdout)
    assert (row["year"], row["interval"]) == (one["year"], one["interval"])


def test_the_artist_given_goes_before_the_tags(shelf: Path) -> None:
    result = run("annotate", shelf / "song 00.opus", "--artist", "ABBA")
    assert (result.exit_code, json.loads(result.stdout)["artist"]) == (0, "ABBA")
    result = run("annotate", shelf / "song 00.opus", "--artist", "")
    assert json.loads(result.stdout)["match"] == "none"


def test_a_table_is_written_as_its_name_ends(shelf: Path, tmp_path: Path) -> None:
    files = [shelf / "song 00.opus", shelf / "empty.flac"]
    out = tmp_path / "years.csv"
    result = run("annotate", *files, "--out", out)
    assert (result.exit_code, result.stdout) == (1, "")
    answered, failed = csv.DictReader(io.StringIO(out.read_text(encoding="utf-8")))
    assert list(answered) == ["file", "year", "interval", "decades", "artist", "match", "error"]
    low, high = map(int, answered["interval"].split("-"))
    assert low <= high
    assert answered["decades"].startswith(("18", "19", "20"))
    assert (failed["year"], failed["error"]) == ("", "empty.flac is empty.")
    assert run("annotate", files[0], "--format", "csv").stdout.startswith("file,year,interval")
    assert run("annotate", files[0], "--out", tmp_path / "years.jsonl").exit_code == 0
    assert json.loads((tmp_path / "years.jsonl").read_text())["file"] == str(files[0])


def test_a_file_is_tried_whatever_its_name_when_it_is_asked_for(shelf: Path, tmp_path: Path) -> None:
    path = shutil.copy(shelf / "song 00.opus", tmp_path / "recording")
    assert json.loads(run("annotate", path).stdout)["year"]


def test_a_file_given_twice_is_answered_once(shelf: Path) -> None:
    path = shelf / "song 00.opus"
    assert len(run("annotate", path, path).stdout.splitlines()) == 1


def test_a_batch_of_which_nothing_can_be_used_exits_with_2(shelf: Path) -> None:
    result = run("annotate", shelf / "letter.mp3", shelf / "empty.flac")
    assert result.exit_code == 2
    assert len(result.stdout.splitlines()) == 2


def test_recordings_are_not_written_over(shelf: Path) -> None:
    """As by "--out *.opus", which the shell makes of a slip."""
    path = shelf / "song 00.opus"
    before = path.read_bytes()
    assert run("annotate", shelf, "--out", path).exit_code == 2
    assert path.read_bytes() == before
    result = run("annotate", path, "--out", shelf / "no such folder" / "years.csv")
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT to send")
def test_stopping_a_batch_keeps_what_is_done(shelf: Path) -> None:
    command = [*ERAREC, "annotate", str(shelf)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}

    def heed_interrupts() -> None:  # a shell has its background jobs ignore them, and children inherit that
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    with subprocess.Popen(command, preexec_fn=heed_interrupts, **pipes) as process:
        rows = [process.stdout.readline()]  # "empty.flac", the first
        rows.append(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        rest, said = process.communicate(timeout=60)
    rows += rest.splitlines()
    assert process.returncode == 130
    assert 2 <= len([json.loads(row) for row in rows]) < 42
    assert f"Stopped after {len(rows)} of 42 files." in said
    assert "Traceback" not in said


def test_a_name_that_is_not_text_does_not_end_a_batch(song: Path) -> None:
    odd = os.fsencode(song.parent) + b"/caf\xe9.wav"
    try:
        shutil.copy(song, odd)
    except OSError:
        pytest.skip("this file system takes only text for names")
    done = subprocess.run([*ERAREC, "annotate", odd, song], capture_output=True, timeout=120, check=False)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [Path(row["file"]).name for row in rows] == ["caf\udce9.wav", "song.wav"]
    assert rows[1]["year"]
