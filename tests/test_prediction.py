"""Answers of the shipped models: the contract, and what must not change them."""

import json
import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import melody

import erarec
from erarec import prediction
from erarec.artist import BIOGRAPHY_LIMIT
from erarec.years import DECADES, FIRST_YEAR, LAST_YEAR

ROOT = Path(__file__).parents[1]
SHIPPED = [name for name in erarec.MODELS if (prediction.CHECKPOINTS / f"{name}.safetensors").exists()]
READS = "audioart-mmc"
NOBODY = "Zorblax and the Unheard Quuxes"
BIOGRAPHY = "They were a skiffle group from Liverpool. Their records appeared in 1957 and 1958."

needs_reader = pytest.mark.skipif(READS not in SHIPPED, reason=f"there is no checkpoint {READS}")
KINDS = {  # of the contract; exactly these keys
    "model": str,
    "version": str,
    "year": int,
    "interval": list,
    "years": list,
    "probabilities": dict,
    "decades": dict,
    "attention": dict,
    "sound_attention": list,
    "word_attention": list,
    "shift_without": dict,
    "artist": dict,
    "embedding": list,
    "map": list,
    "neighbours": list,
    "notices": list,
    "seconds": dict,
}


@pytest.fixture(scope="module")
def recognizers() -> dict[str, erarec.EraRecognizer]:
    return {name: erarec.load(name, "cpu") for name in SHIPPED}


@pytest.fixture(scope="module")
def reader(recognizers) -> erarec.EraRecognizer:
    return recognizers[READS]


def test_recognisers_share_what_is_not_their_own(recognizers: dict[str, erarec.EraRecognizer]) -> None:
    assert len({id(each.library) for each in recognizers.values()}) == 1
    assert len({id(each.hearing) for each in recognizers.values()}) == 1
    assert len({id(each.model) for each in recognizers.values()}) == len(recognizers)


@pytest.fixture(scope="module")
def songs(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("songs")
    for n, seconds in enumerate((1.5, 8, 20)):
        soundfile.write(folder / f"{n}.wav", melody(seconds, 22050, seed=n), 22050)
    return sorted(folder.iterdir())


def is_number(value: object) -> bool:
    return type(value) is float and np.isfinite(value)


def assert_contract(answer: dict) -> None:
    assert list(answer) == list(KINDS)
    for key, kind in KINDS.items():
        assert type(answer[key]) is kind, key
    assert answer["version"] == erarec.__version__
    assert FIRST_YEAR <= answer["year"] <= LAST_YEAR
    assert answer["years"] == list(range(1890, 2030))
    assert set(answer["probabilities"]) == {"sound", "artist", "both"}
    for given in answer["probabilities"].values():
        if given is not None:
            assert len(given) == 140
            assert all(is_number(share) and share >= 0 for share in given)
            assert sum(given) == pytest.approx(1, abs=2e-4)  # six digits each
    both = answer["probabilities"]["both"]
    first, last = answer["interval"]
    assert type(first) is type(last) is int
    assert sum(both[first - FIRST_YEAR : last - FIRST_YEAR + 1]) >= 0.8 - 1e-3
    assert list(answer["decades"]) == DECADES
    assert sum(answer["decades"].values()) == pytest.approx(1, abs=1e-4)
    assert answer["decades"]["1970s"] == pytest.approx(sum(both[80:90]), abs=1e-4)
    windows = np.convolve(both, np.ones(7), "same")  # whichever year holds most within three
    assert windows[answer["year"] - FIRST_YEAR] == pytest.approx(windows.max(), abs=1e-5)

    assert set(answer["attention"]) == {"sound", "artist"}
    assert sum(answer["attention"].values()) == pytest.approx(1, abs=1e-5)
    excerpts, words = answer["sound_attention"], answer["word_attention"]
    for excerpt in excerpts:
        assert set(excerpt) == {"start", "end", "share"}
        assert all(is_number(value) for value in excerpt.values())
        assert 0 <= excerpt["start"] < excerpt["end"] <= excerpt["start"] + 3.001
    for word in words:
        assert set(word) == {"word", "share"}
        assert type(word["word"]) is str
        assert word["word"].strip() == word["word"] != ""
        assert is_number(word["share"])
    assert sum(excerpt["share"] for excerpt in excerpts) == pytest.approx(
        answer["attention"]["sound"], abs=1e-5
    )
    assert sum(word["share"] for word in words) == pytest.approx(answer["attention"]["artist"], abs=1e-5)

    assert set(answer["shift_without"]) == {"sound", "artist"}
    assert all(shift is None or type(shift) is int for shift in answer["shift_without"].values())
    assert set(answer["artist"]) == {"query", "name", "match", "biography", "source"}
    assert answer["artist"]["match"] in {"exact", "alias", "fuzzy", "biography", "none"}
    assert len(answer["embedding"]) == 64
    assert np.linalg.norm(answer["embedding"]) == pytest.approx(1, abs=1e-3)
    assert all(type(notice) is str and notice.endswith(".") for notice in answer["notices"])
    assert set(answer["seconds"]) == {"decode", "mel", "sound", "text", "fusion", "map"}
    assert all(is_number(value) and value >= 0 for value in answer["seconds"].values())
    json.dumps(answer, allow_nan=False)


def same(first: dict, second: dict) -> bool:
    """Equal but for the time they took and rounding."""
    for key in ("year", "interval", "artist", "notices"):
        if first[key] != second[key]:
            return False
    pairs = [(first["embedding"], second["embedding"])]
    pairs += [(first["probabilities"][key], second["probabilities"][key]) for key in ("sound", "both")]
    return all(np.allclose(a, b, atol=1e-4) for a, b in pairs)


@pytest.mark.parametrize("model", SHIPPED)
@pytest.mark.parametrize("artist", [None, "The Beatles", NOBODY])
def test_the_contract_is_kept(recognizers, songs, model, artist):
    for song in songs:
        answer = recognizers[model].predict(song, artist).to_dict()
        assert_contract(answer)
        assert answer["model"] == model
        assert answer["artist"]["query"] == (artist or "")


@pytest.mark.parametrize("model", SHIPPED)
def test_ten_neighbours_lie_on_a_map(recognizers, songs, model):
    recognizer = recognizers[model]
    assert recognizer.map is not None
    answer = recognizer.predict(songs[1]).to_dict()
    assert len(answer["map"]) == 2
    low, high = recognizer.map.coordinates.min(0), recognizer.map.coordinates.max(0)
    assert ((low <= answer["map"]) & (answer["map"] <= high)).all()
    assert len(answer["neighbours"]) == 10
    for neighbour in answer["neighbours"]:
        assert {key: type(value) for key, value in neighbour.items()} == {
            "artist": str,
            "title": str,
            "year": int,
            "similarity": float,
        }
    similarities = [neighbour["similarity"] for neighbour in answer["neighbours"]]
    assert similarities == sorted(similarities, reverse=True)


@needs_reader
def test_sound_and_artist_are_told_apart(reader, songs):
    answer = reader.predict(songs[2], "The Beatles").to_dict()
    assert answer["artist"]["name"] == "The Beatles"
    assert answer["artist"]["match"] == "exact"
    assert answer["artist"]["source"] == "library"
    sound, artist, both = (answer["probabilities"][key] for key in ("sound", "artist", "both"))
    assert not np.allclose(sound, artist, atol=1e-3)
    assert not np.allclose(sound, both, atol=1e-3)
    alone = reader.predict(songs[2]).to_dict()
    np.testing.assert_allclose(sound, alone["probabilities"]["both"], atol=1e-5)
    assert answer["shift_without"]["artist"] == abs(answer["year"] - alone["year"])
    assert answer["shift_without"]["sound"] is not None
    assert 0 < answer["attention"]["sound"] < 1


@needs_reader
def test_what_is_known_of_the_beatles_says_the_sixties(reader, songs):
    artist = reader.predict(songs[2], "The Beatles").to_dict()["probabilities"]["artist"]
    assert sum(artist[1957 - FIRST_YEAR : 1976 - FIRST_YEAR]) > 0.5


@needs_reader
def test_words_stand_in_the_order_of_the_text(reader, songs):
    answer = reader.predict(songs[1], biography=BIOGRAPHY).to_dict()
    words = [word["word"] for word in answer["word_attention"]]
    position = 0
    for word in words:
        position = BIOGRAPHY.index(word, position) + len(word)
    assert "".join(words) == BIOGRAPHY.replace(" ", "")
    assert {"1957", "1958.", "skiffle", "Liverpool."} <= set(words)


@needs_reader
@pytest.mark.parametrize("artist", [NOBODY, "\ud800", "?" * 100_000, "\x00"])
def test_an_artist_nobody_knows_leaves_what_the_sound_says(reader, songs, artist):
    for song in songs:
        unknown, alone = reader.predict(song, artist).to_dict(), reader.predict(song).to_dict()
        assert abs(unknown["year"] - alone["year"]) <= 1
        np.testing.assert_allclose(
            unknown["probabilities"]["both"], alone["probabilities"]["both"], atol=1e-5
        )
        assert unknown["attention"]["artist"] == 0
        assert unknown["probabilities"]["artist"] is None
        assert unknown["artist"]["match"] == "none"
        assert len(unknown["notices"]) == len(alone["notices"]) + 1
        assert max(map(len, unknown["notices"])) < 300


@needs_reader
def test_a_pasted_biography_goes_before_the_library(reader, songs):
    pasted = reader.predict(songs[1], "The Beatles", BIOGRAPHY).to_dict()
    assert pasted["artist"] == {
        "query": "The Beatles",
        "name": None,
        "match": "biography",
        "biography": BIOGRAPHY,
        "source": "your text",
    }
    assert same(
        pasted | {"artist": None}, reader.predict(songs[1], "", BIOGRAPHY).to_dict() | {"artist": None}
    )


@needs_reader
def test_a_long_biography_is_read_in_part_and_says_so(reader, songs):
    answer = reader.predict(songs[1], biography="He sang in many towns of 1931. " * 3226).to_dict()
    assert_contract(answer)
    assert len(answer["artist"]["biography"]) <= BIOGRAPHY_LIMIT
    notice = answer["notices"][0]
    assert "first 2,000 characters" in notice


@needs_reader
@pytest.mark.parametrize("biography", ["\u200b", "\x00\x01", "\ud800", "x" * 100_000, "\n\n 1931 \t" * 5000])
def test_odd_biographies_are_answered(reader, songs, biography):
    assert_contract(reader.predict(songs[1], biography=biography).to_dict())


@needs_reader
def test_a_biography_without_words_leaves_what_the_sound_says(reader, songs):
    answer, alone = reader.predict(songs[1], biography="\u200b").to_dict(), reader.predict(songs[1]).to_dict()
    assert answer["probabilities"] == alone["probabilities"]
    assert "nothing to read" in " ".join(answer["notices"])


@pytest.mark.parametrize("model", [name for name in SHIPPED if name != READS])
def test_a_model_that_only_listens_says_so(recognizers, songs, model):
    answer = recognizers[model].predict(songs[1], "The Beatles").to_dict()
    assert answer["probabilities"]["artist"] is None
    assert answer["attention"] == {"sound": pytest.approx(1), "artist": 0}
    notice = answer["notices"][0]
    assert "only listens" in notice
    assert same(answer | {"artist": 0, "notices": 0}, recognizers[model].predict(songs[1]).to_dict() | {
        "artist": 0, "notices": 0
    })  # fmt: skip


@pytest.mark.parametrize("model", SHIPPED)
def test_samples_in_memory_are_answered_as_their_file(recognizers, tmp_path, model):
    sound = np.stack([melody(9, seed=1), melody(9, seed=2)], axis=1)
    soundfile.write(tmp_path / "song.wav", sound, 44100, subtype="FLOAT")
    in_memory = recognizers[model].predict((sound, 44100)).to_dict()
    assert same(in_memory, recognizers[model].predict(tmp_path / "song.wav").to_dict())
    assert same(in_memory, recognizers[model].predict(str(tmp_path / "song.wav")).to_dict())


@pytest.mark.parametrize("model", SHIPPED)
def test_level_does_not_matter(recognizers, model):
    sound = melody(9)
    loud, soft = (recognizers[model].predict((sound * gain, 44100)).to_dict() for gain in (1.0, 0.01))
    assert same(loud, soft)


@pytest.mark.parametrize("model", SHIPPED)
def test_a_short_recording_is_answered_with_a_notice(recognizers, model):
    answer = recognizers[model].predict((melody(1.2), 44100)).to_dict()
    assert_contract(answer)
    assert "Only 1.2 s of sound: a longer recording is surer." in answer["notices"]
    (excerpt,) = answer["sound_attention"]
    assert excerpt["end"] == pytest.approx(1.2, abs=0.01)


@pytest.mark.parametrize("model", SHIPPED[:1])
def test_nothing_to_hear_raises_its_sentence(recognizers, tmp_path, model):
    (tmp_path / "words.mp3").write_text("These are words.\n" * 100)
    with pytest.raises(prediction.UnusableAudio, match=r"^words\.mp3 is not a recording that can be read\.$"):
        recognizers[model].predict(tmp_path / "words.mp3")


@pytest.mark.parametrize("name", ["no-such-model", "", ".", "checkpoints"])
def test_an_unknown_model_is_told(name):
    with pytest.raises(ValueError, match="no model"):
        erarec.load(name)


@pytest.mark.parametrize("content", [b"", b"words", bytes(1000)])
def test_a_file_that_is_no_checkpoint_is_told(tmp_path, content):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.safetensors is not a checkpoint"):
        erarec.load(str(tmp_path / "model.safetensors"))


@pytest.mark.parametrize("model", SHIPPED)
def test_threads_are_answered_as_if_alone(recognizers, songs, model):
    recognizer = recognizers[model]
    artists = ["The Beatles", NOBODY, None]
    alone = [recognizer.predict(*pair).to_dict() for pair in zip(songs, artists, strict=True)]
    if recognizer.reader is not None:
        recognizer.reader.kept.clear()
    together: dict[tuple[int, int], dict] = {}

    def ask(thread: int) -> None:
        for n in range(thread, thread + 3):
            together[thread, n % 3] = recognizer.predict(songs[n % 3], artists[n % 3]).to_dict()

    threads = [threading.Thread(target=ask, args=(thread,)) for thread in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(together) == 6
    for (_, n), answer in together.items():
        assert same(answer, alone[n])


@pytest.mark.parametrize("model", SHIPPED[:1])
def test_nothing_is_written_printed_or_sent(tmp_path, songs, model):
    """A first prediction in a fresh home, where every connection fails."""
    home, cwd = tmp_path / "home", tmp_path / "cwd"
    home.mkdir()
    cwd.mkdir()
    program = f"""
        import socket
        def refuse(*_):
            raise AssertionError("something is sent")
        socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
        import erarec
        recognizer = erarec.load({str(prediction.CHECKPOINTS / model)!r} + ".safetensors")
        recognizer.predict({str(songs[1])!r}, "The Beatles")
        recognizer.predict({str(songs[1])!r}, "", {BIOGRAPHY!r})
    """
    keep = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    environment = keep | {"HOME": str(home), "PYTHONPATH": str(ROOT), "TMPDIR": str(cwd)}
    answer = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout == answer.stderr == ""
    assert not [path for folder in (home, cwd) for path in folder.rglob("*") if path.is_file()]
