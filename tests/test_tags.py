"""What is read from files' own tags. The files are encoded here, and tagged by mutagen."""

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import av
import mutagen
import numpy as np
import pytest
import soundfile
from conftest import melody
from mutagen import id3
from mutagen.mp4 import MP4FreeForm
from typer.testing import CliRunner

from erarec.cli import app
from erarec.tags import Tags, find_recordings, manifest_rows, read_tags

SOUNDFILE_FORMATS = {".opus": ("OGG", "OPUS"), ".ogg": ("OGG", "VORBIS"), ".mp3": ("MP3", None)}
PYAV_CODECS = {".m4a": "aac", ".wma": "wmav2", ".wv": "wavpack"}
APPLE = "----:com.apple.iTunes:"


def encode(path: Path) -> None:
    """A second of sound in the format that the name says."""
    sound = melody(1, 48000)
    if path.suffix not in PYAV_CODECS:
        container, subtype = SOUNDFILE_FORMATS.get(path.suffix, (None, None))
        soundfile.write(path, sound, 48000, format=container, subtype=subtype)
        return
    with av.open(str(path), "w") as file:
        stream = file.add_stream(PYAV_CODECS[path.suffix], rate=48000, layout="mono", bit_rate=96000)
        # Whole frames of 1,024 samples: wmav2 takes no more at a time.
        for samples in sound[: len(sound) // 1024 * 1024].reshape(-1, 1, 1024):
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), "fltp", "mono")
            frame.sample_rate = 48000
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))


@pytest.fixture(scope="session")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """An untagged file of each suffix, encoded once."""
    folder = tmp_path_factory.mktemp("encoded")

    def get(suffix: str) -> Path:
        path = folder / f"sound{suffix}"
        if not path.exists():
            encode(path)
        return path

    return get


@pytest.fixture
def tagged(encoded: Callable[[str], Path], tmp_path: Path) -> Callable[..., Path]:
    """A copy of a file with tags by their native names, of ID3 "FRAME" or "TXXX:description"."""

    def make(name: str, tags: dict, id3_version: int = 4) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(encoded(path.suffix), path)
        file = mutagen.File(path)
        if file.tags is None:
            file.add_tags()
        if not isinstance(file.tags, id3.ID3):
            for key, value in tags.items():
                file.tags[key] = value
            file.save()
            return path
        for key, value in tags.items():
            frame, _, description = key.partition(":")
            described = {"desc": description} if description else {}
            file.tags.add(getattr(id3, frame)(encoding=1, text=[value], **described))
        file.save(v2_version=id3_version)
        return path

    return make


ID3 = {"TPE1": "Nina Simone", "TIT2": "Sinnerman", "TALB": "Gold", "TPE2": "Nina Simone", "TCON": "Jazz"}
VORBIS = {
    "ARTIST": "Nina Simone",
    "TITLE": "Sinnerman",
    "ALBUM": "Gold",
    "ALBUMARTIST": "Nina Simone",
    "GENRE": "Jazz",
}
MP4 = {
    "\xa9ART": "Nina Simone",
    "\xa9nam": "Sinnerman",
    "\xa9alb": "Gold",
    "aART": "Nina Simone",
    "\xa9gen": "Jazz",
}
ASF = {
    "Author": "Nina Simone",
    "Title": "Sinnerman",
    "WM/AlbumTitle": "Gold",
    "WM/AlbumArtist": "Nina Simone",
    "WM/Genre": "Jazz",
}
APE = {
    "Artist": "Nina Simone",
    "Title": "Sinnerman",
    "Album": "Gold",
    "Album Artist": "Nina Simone",
    "Genre": "Jazz",
}


@pytest.mark.parametrize(
    ("suffix", "names", "original", "date", "version"),
    [
        (".mp3", ID3, {"TDOR": "1965-10"}, {"TDRC": "2003-05-01"}, 4),
        (".mp3", ID3, {"TORY": "1965"}, {"TYER": "2003"}, 3),
        (".mp3", ID3, {"TXXX:originalyear": "1965"}, {"TDRC": "2003"}, 4),
        (".mp3", ID3, {"TXXX:ORIGINALDATE": "1965-10-01"}, {"TYER": "2003"}, 3),
        (".wav", ID3, {"TDOR": "1965"}, {"TDRC": "2003"}, 4),
        (".aiff", ID3, {"TDOR": "1965"}, {"TDRC": "2003"}, 4),
        (".flac", VORBIS, {"ORIGINALDATE": "1965-10-01"}, {"DATE": "2003"}, 4),
        (".flac", VORBIS, {"ORIGINALYEAR": "1965"}, {"YEAR": "2003"}, 4),
        (".ogg", VORBIS, {"originalyear": "1965"}, {"date": "2003"}, 4),
        (".opus", VORBIS, {"ORIGINAL YEAR": "1965"}, {"DATE": "2003"}, 4),
        (".m4a", MP4, {APPLE + "ORIGINALDATE": MP4FreeForm(b"1965-10-01")}, {"\xa9day": "2003"}, 4),
        (".m4a", MP4, {APPLE + "originalyear": MP4FreeForm(b"1965")}, {"\xa9day": "2003"}, 4),
        (".wma", ASF, {"WM/OriginalReleaseYear": "1965"}, {"WM/Year": "2003"}, 4),
        (".wma", ASF, {"WM/OriginalReleaseTime": "1965-10-01"}, {"WM/Year": "2003"}, 4),
        (".wv", APE, {"Originaldate": "1965"}, {"Year": "2003"}, 4),
    ],
)
def test_the_original_year_goes_before_the_date_in_every_format(
    tagged: Callable, suffix: str, names: dict, original: dict, date: dict, version: int
) -> None:
    """A reissue overwrites the date; where nothing else stands it counts, for less."""
    reissue = Tags("Nina Simone", "Sinnerman", "Gold", "Nina Simone", ("Jazz",), 1965, "high")
    assert read_tags(tagged(f"both{suffix}", names | original | date, version)) == reissue
    dated = read_tags(tagged(f"date{suffix}", names | date, version))
    assert (dated.artist, dated.year, dated.year_certainty) == ("Nina Simone", 2003, "medium")
    assert dated.year_range() == (2002, 2003)


@pytest.mark.parametrize(
    ("suffix", "tags"),
    [
        (".flac", {"ALBUMARTIST": "Various Artists", "DATE": "1998"}),
        (".flac", {"ALBUMARTIST": "VA", "DATE": "1998"}),
        (".flac", {"ALBUMARTIST": "V.A.", "DATE": "1998"}),
        (".flac", {"ALBUMARTIST": "various", "DATE": "1998"}),
        (".flac", {"ALBUMARTIST": "Verschiedene Interpreten", "DATE": "1998"}),
        (".flac", {"ALBUMARTIST": "Artistes Divers", "DATE": "1998"}),
        (".flac", {"ALBUMARTIST": "VÁRIOS INTÉRPRETES", "DATE": "1998"}),
        (".flac", {"ALBUMARTIST": "Разные исполнители", "DATE": "1998"}),
        (".flac", {"ALBUMARTIST": "群星", "DATE": "1998"}),
        (".flac", {"ARTIST": "Various Artists", "DATE": "1998"}),
        (".flac", {"COMPILATION": "1", "DATE": "1998"}),
        (".flac", {"RELEASETYPE": ["album", "compilation"], "DATE": "1998"}),
        (".flac", {"MUSICBRAINZ_ALBUMARTISTID": "89ad4ac3-39f7-470e-963a-56509c546377", "DATE": "1998"}),
        (".mp3", {"TCMP": "1", "TDRC": "1998"}),
        (".mp3", {"TPE2": "Various Artists", "TDRC": "1998"}),
        (".mp3", {"TXXX:MusicBrainz Album Type": "album/compilation", "TDRC": "1998"}),
        (".m4a", {"cpil": True, "\xa9day": "1998-03-02T08:00:00Z"}),
        (".wma", {"WM/IsCompilation": True, "WM/Year": "1998"}),
    ],
)
def test_the_date_of_a_compilation_is_of_low_certainty(tagged: Callable, suffix: str, tags: dict) -> None:
    read = read_tags(tagged(f"a{suffix}", tags))
    assert (read.year, read.year_certainty) == (1998, "low")
    assert read.year_range() == (1983, 1998), "older than the compilation, never newer"


def test_an_original_year_on_a_compilation_is_certain_unless_it_is_the_compilation_s_own(
    tagged: Callable,
) -> None:
    tags = {"ARTIST": "Nina Simone", "ALBUMARTIST": "Various Artists", "DATE": "1998"}
    assert read_tags(tagged("a.flac", tags | {"ORIGINALDATE": "1965"})).year_certainty == "high"
    own = read_tags(tagged("b.flac", tags | {"ORIGINALDATE": "1998-02-03"}))
    assert (own.year, own.year_certainty) == (1998, "low")


def test_an_ordinary_album_is_no_compilation(tagged: Callable) -> None:
    tags = {"ARTIST": "Various Cruelties", "ALBUMARTIST": "Various Cruelties", "COMPILATION": "0"}
    read = read_tags(tagged("a.flac", tags | {"DATE": "2012"}))
    assert (read.artist, read.year_certainty) == ("Various Cruelties", "medium")


@pytest.mark.parametrize(
    ("date", "year"),
    [
        ("1977", 1977),
        ("1977-05-01", 1977),
        ("19770501", 1977),
        ("01.05.1977", 1977),
        ("May 1977", 1977),
        ("1977-05-01T12:00:00Z", 1977),
        ("2003 / 1977", 1977),
        ("0000", None),
        ("77", None),
        ("1066", None),
        ("9999-12-31", None),
        ("unknown", None),
        ("", None),
    ],
)
def test_a_year_is_found_in_any_spelling_of_a_date(tagged: Callable, date: str, year: int | None) -> None:
    read = read_tags(tagged("a.flac", {"DATE": date}))
    assert read.year == year
    assert read.year_certainty == ("medium" if year else "")


def test_various_artists_play_nothing(tagged: Callable) -> None:
    assert read_tags(tagged("a.flac", {"ARTIST": "Various Artists"})).artist == ""
    assert read_tags(tagged("b.flac", {"ALBUMARTIST": "Various Artists"})).artist == ""


def test_the_album_s_artist_stands_in_for_the_track_s(tagged: Callable) -> None:
    assert read_tags(tagged("a.flac", {"ALBUMARTIST": "Nina Simone"})).artist == "Nina Simone"


def test_of_several_artists_the_first_is_read(tagged: Callable) -> None:
    assert read_tags(tagged("a.flac", {"ARTIST": ["Nina Simone", "Hal Mooney"]})).artist == "Nina Simone"


@pytest.mark.parametrize("suffix", [".mp3", ".wav", ".flac", ".opus", ".wma", ".wv"])
def test_untagged_files_have_empty_tags(encoded: Callable, suffix: str) -> None:
    assert read_tags(encoded(suffix)) == Tags()
    assert Tags().year_range() is None


@pytest.mark.parametrize("suffix", [".mp3", ".flac", ".opus", ".m4a", ".wma", ".wav", ".wv", ".ape", ".txt"])
def test_broken_files_have_empty_tags(tmp_path: Path, suffix: str) -> None:
    for name, content in {"text": b"a letter\n" * 99, "empty": b"", "zeros": bytes(9999)}.items():
        path = tmp_path / f"{name}{suffix}"
        path.write_bytes(content)
        assert read_tags(path) == Tags()
    assert read_tags(tmp_path / f"missing{suffix}") == Tags()
    assert read_tags(tmp_path) == Tags()


@pytest.mark.parametrize("suffix", [".mp3", ".flac", ".opus", ".m4a", ".wma", ".wav", ".wv"])
def test_damaged_tags_raise_nothing(tagged: Callable, suffix: str) -> None:
    names = {".mp3": ID3, ".wav": ID3, ".m4a": MP4, ".wma": ASF, ".wv": APE}.get(suffix, VORBIS)
    path = tagged(f"a{suffix}", names)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(30):
        damaged = bytearray(whole[: rng.integers(10, len(whole))])
        for place in rng.integers(0, min(len(damaged), 600), 20):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        assert isinstance(read_tags(path), Tags)


def test_recordings_are_found_in_folders_by_their_suffix(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    wanted = [tmp_path / "B.MP3", tmp_path / "a.flac", tmp_path / "deep" / "er" / "c.opus"]
    for path in [*wanted, tmp_path / "cover.jpg", tmp_path / "._a.flac", tmp_path / "notes.txt"]:
        path.touch()
    assert find_recordings(tmp_path) == wanted


@pytest.fixture
def collection(tagged: Callable, tmp_path: Path) -> Path:
    """Two sources, three artists, seven recordings, of which one says no year and one is broken."""
    for number, (artist, tags) in enumerate(
        [
            ("The Beatles", {"DATE": "2009", "ORIGINALDATE": "1965-08-06"}),
            ("The Beatles feat. Billy Preston", {"DATE": "1966"}),
            ("Björk", {"DATE": "1993", "ORIGINALYEAR": "1993", "GENRE": ["pop", "electronic"]}),
            ("Sœur Sourire", {"DATE": "1995", "ALBUMARTIST": "Various Artists", "ALBUM": "Nonnen"}),
            ("Björk", {}),
        ]
    ):
        folder = "shelf, one" if number < 2 else "shelf two/deeper"
        tagged(f"music/{folder}/{number}.flac", {"ARTIST": artist, "TITLE": f"song {number}"} | tags)
    tagged("music/loose.mp3", {"TPE1": "björk", "TDOR": "1995", "TDRC": "1995"})
    (tmp_path / "music" / "broken.mp3").write_text("no music")
    return tmp_path / "music"


def write_manifest(folder: Path, out: Path) -> tuple[list[dict[str, str]], str]:
    result = CliRunner().invoke(app, ["manifest", str(folder), "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    with out.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file)), result.stderr


def test_a_manifest_has_the_columns_of_training_and_leads_to_the_files(collection: Path) -> None:
    out = collection.parent / "lists" / "songs.csv"
    out.parent.mkdir()
    rows, said = write_manifest(collection, out)
    assert ",".join(rows[0]) == (
        "id,file,source,artist,title,artist_key,year_lo,year_hi,certainty,scored,fold,genres,note"
    )
    assert all((out.parent / row["file"]).is_file() for row in rows)
    assert len(rows) == 5
    assert "2 left out, without a year" in said
    assert len({row["id"] for row in rows}) == 5


def test_a_manifest_says_how_sure_each_year_is(collection: Path) -> None:
    rows, _ = write_manifest(collection, collection / "manifest.csv")
    said = {Path(row["file"]).stem: row for row in rows}
    ranges = {
        name: (row["year_lo"], row["year_hi"], row["certainty"], row["scored"]) for name, row in said.items()
    }
    assert ranges == {
        "0": ("1965", "1965", "high", "1"),
        "1": ("1965", "1966", "medium", "0"),
        "2": ("1993", "1993", "high", "1"),
        "3": ("1980", "1995", "low", "0"),
        "loose": ("1995", "1995", "high", "1"),
    }
    assert said["2"]["genres"] == "pop,electronic"
    assert said["3"]["note"] == "Nonnen"
    assert [said[name]["source"] for name in ("0", "2", "loose")] == ["shelf, one", "shelf two", "music"]


def test_no_artist_of_a_manifest_is_in_two_folds(collection: Path) -> None:
    rows, _ = write_manifest(collection, collection / "manifest.csv")
    folds = {}
    for row in rows:
        folds.setdefault(row["artist_key"], set()).add(row["fold"])
    assert len(folds) == 3, "the Beatles are one, and so is Björk"
    assert all(len(used) == 1 and used <= set("01234") for used in folds.values())


def test_a_manifest_says_the_same_when_other_files_have_come(collection: Path, tagged: Callable) -> None:
    before = dict_by_id(manifest_rows(collection, collection / "manifest.csv"))
    tagged("music/aaa.flac", {"ARTIST": "ABBA", "DATE": "1975"})
    after = dict_by_id(manifest_rows(collection, collection / "manifest.csv"))
    assert len(after) == len(before) + 1
    assert before.items() <= after.items()


def dict_by_id(lines: object) -> dict:
    return {row["id"]: row for _, row in lines if row}


def test_a_folder_without_years_gives_no_manifest(tmp_path: Path) -> None:
    out = tmp_path / "manifest.csv"
    result = CliRunner().invoke(app, ["manifest", str(tmp_path), "--out", str(out)])
    assert (result.exit_code, result.stdout) == (2, "")
    assert len(result.stderr.splitlines()) == 1
    assert not out.exists()
