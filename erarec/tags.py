"""What a file's own tags say of it: who, what and when, and a training manifest made from that."""

import os
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import mutagen
from mutagen.id3 import TCON

from erarec.artist import ArtistLibrary, artist_fold, artist_key
from erarec.years import FIRST_YEAR, LAST_YEAR

AUDIO_SUFFIXES = (
    ".mp3", ".flac", ".ogg", ".oga", ".opus", ".m4a", ".m4b", ".mp4", ".aac", ".wav", ".aif", ".aiff",
    ".aifc", ".wma", ".asf", ".ape", ".wv", ".mpc", ".tta", ".mka", ".webm", ".caf", ".au", ".alac",
    ".ac3", ".mp2", ".spx",
)  # fmt: skip
REISSUE_YEARS = 15  # how far before a compilation's date its recordings are taken to lie

# Names of fields in ID3, Vorbis comments, MP4 atoms, ASF and APE, as ``_plain`` spells them. mutagen turns
# the frames of ID3v2.2 and 2.3 into those of 2.4: TYER into TDRC, TORY into TDOR.
_ARTIST = ("tpe1", "artist", "art", "author")
_TITLE = ("tit2", "title", "nam")
_ALBUM = ("talb", "album", "alb", "albumtitle")
_ALBUM_ARTIST = ("tpe2", "albumartist", "aart")
_GENRE = ("tcon", "genre", "gen")
_ORIGINAL = (
    "tdor", "tory", "originaldate", "originalyear", "originalreleasedate", "originalreleaseyear",
    "originalreleasetime", "origdate", "origyear",
)  # fmt: skip
_DATE = ("tdrc", "tyer", "date", "year", "day", "tdrl", "releasedate")
_COMPILATION = ("tcmp", "compilation", "itunescompilation", "cpil", "iscompilation")
_RELEASE_TYPE = ("musicbrainzalbumtype", "releasetype")
_ALBUM_ARTIST_ID = ("musicbrainzalbumartistid",)
_READ = frozenset(
    _ARTIST + _TITLE + _ALBUM + _ALBUM_ARTIST + _GENRE + _ORIGINAL + _DATE + _COMPILATION
    + _RELEASE_TYPE + _ALBUM_ARTIST_ID
)  # fmt: skip

_MUSICBRAINZ_VARIOUS = "89ad4ac3-39f7-470e-963a-56509c546377"
_VARIOUS = """
    Various Artists, Various, VA, V/A, Compilation, Soundtrack, Original Soundtrack, OST,
    Verschiedene Interpreten, Verschiedene, Diverse Interpreten, Diverse, Diverse Künstler,
    Artistes divers, Artistes variés, Multi-interprètes, Varios artistas, Varios, Varios intérpretes,
    Artistas varios, Artisti vari, Autori vari, AA.VV., Vários artistas, Vários intérpretes, Vários,
    Diverse artiesten, Verschillende artiesten, Diverse artister, Blandade artister, Diverse kunstnere,
    Eri esittäjiä, Eri artisteja, Różni wykonawcy, Różni artyści, Różni, Składanka, Různí interpreti,
    Různí umělci, Různí, Rôzni interpreti, Válogatás, Különböző előadók, Razni izvođači, Artiști diverși,
    Разные исполнители, Разные артисты, Сборник, Різні виконавці, Збірка, Разни изпълнители,
    Çeşitli Sanatçılar, Διάφοροι καλλιτέχνες, Διάφοροι, אמנים שונים, فنانون متنوعون,
    ヴァリアス・アーティスト, ヴァリアス・アーティスツ, オムニバス, 群星, 合輯, 合辑, 여러 아티스트
"""


def _plain(text: str) -> str:
    """Letters and digits only, lower case, without accents: "ALBUM_ARTIST" -> "albumartist"."""
    return "".join(c for c in unicodedata.normalize("NFKD", text.casefold()) if c.isalnum())


_VARIOUS_NAMES = frozenset(_plain(name) for name in _VARIOUS.split(","))


@dataclass(frozen=True)
class Tags:
    """What a file's tags say; "" and None where they say nothing.

    Attributes:
        artist: of the track, else of the album; "" for "Various Artists" and its like.
        year: of the original release where the tags give one, else of the release at hand.
        year_certainty: "high" when the original release's year is given; "medium" when only the release at
            hand is dated; "low" when that is a compilation, mostly of older recordings; "" without a year.
    """

    artist: str = ""
    title: str = ""
    album: str = ""
    album_artist: str = ""
    genres: tuple[str, ...] = ()
    year: int | None = None
    year_certainty: str = ""

    def year_range(self) -> tuple[int, int] | None:
        """First and last year that the recording may be of; None without a year."""
        if self.year is None:
            return None
        # A date is never too early: what it is the date of may have come out before, not after.
        back = {"high": 0, "medium": 1, "low": REISSUE_YEARS}[self.year_certainty]
        return max(FIRST_YEAR, self.year - back), self.year


def read_tags(path: str | Path) -> Tags:
    """The tags of an mp3, FLAC, Ogg, Opus, MP4, WAV, AIFF, WMA, APE or WavPack file.

    Raises nothing: of a file that is missing, broken or without tags, all fields are empty.
    """
    try:
        return _tags_of(_fields(path))
    except Exception:  # a broken file makes mutagen raise more than its own MutagenError
        return Tags()


def find_recordings(folder: Path) -> list[Path]:
    """All files under ``folder`` that audio is kept in, by their names, in order of their paths."""
    found = []
    for directory, _, names in os.walk(folder):
        # "._song.mp3" is what macOS leaves beside song.mp3 on foreign disks.
        found += [Path(directory, name) for name in names if not name.startswith(".")]
    return sorted(path for path in found if path.suffix.lower() in AUDIO_SUFFIXES)


def manifest_rows(folder: Path, manifest: Path) -> Iterator[tuple[Path, dict[str, str | int] | None]]:
    """Each recording under ``folder`` and its line of a training manifest; None where no tag has a year.

    Paths in the lines are relative to the folder that ``manifest`` lies in.
    """
    root = manifest.resolve().parent
    library = ArtistLibrary.load()
    for path in find_recordings(folder):
        tags = read_tags(path)
        years = tags.year_range()
        if years is None:
            yield path, None
            continue
        inside = path.relative_to(folder)
        source = inside.parts[0] if len(inside.parts) > 1 else folder.resolve().name
        # "A feat. B" is A, where the library knows A: that is whose facts training reads.
        known = library.find(tags.artist).artist
        key = known.key if known else artist_key(tags.artist)
        yield (
            path,
            {
                "id": f"{source}-{_digest(inside.as_posix()):016x}",  # stays when other files come
                "file": Path(os.path.relpath(path.resolve(), root)).as_posix(),
                "source": source,
                "artist": tags.artist,
                "title": tags.title or path.stem,
                "artist_key": key,
                "year_lo": years[0],
                "year_hi": years[1],
                "certainty": tags.year_certainty,
                "scored": int(tags.year_certainty == "high"),
                "fold": artist_fold(key),
                "genres": ",".join(tags.genres),
                "note": tags.album,
            },
        )


def _digest(text: str) -> int:
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest())


def _fields(path: str | Path) -> dict[str, list[str]]:
    """The text fields that are read here, under their plain names, whatever the container."""
    file = mutagen.File(path)
    if file is None or file.tags is None:
        return {}
    fields: dict[str, list[str]] = {}
    for key in dict.fromkeys(file.tags.keys()):
        name = _plain(re.sub(r"^(TXXX:|----:[^:]*:|WM/)", "", key, flags=re.IGNORECASE))
        if name not in _READ:  # above all not the pictures
            continue
        value = file.tags[key]
        if isinstance(value, TCON):
            value = value.genres  # which may be numbers in ID3
        for each in value if isinstance(value, list | tuple) else [value]:
            text = each.decode("utf-8", "replace") if isinstance(each, bytes) else str(each)
            fields.setdefault(name, []).extend(part.strip() for part in text.split("\0") if part.strip())
    return fields


def _tags_of(fields: Mapping[str, list[str]]) -> Tags:
    def values(names: tuple[str, ...]) -> list[str]:
        return [value for name in names for value in fields.get(name, [])]

    def first(names: tuple[str, ...]) -> str:
        return next(iter(values(names)), "")

    artist, album_artist = first(_ARTIST), first(_ALBUM_ARTIST)
    compilation = (
        any(_plain(name) in _VARIOUS_NAMES for name in (artist, album_artist) if name)
        or any(value.lower() in ("1", "true", "yes") for value in values(_COMPILATION))
        or any("compilation" in value.lower() for value in values(_RELEASE_TYPE))
        or _MUSICBRAINZ_VARIOUS in values(_ALBUM_ARTIST_ID)
    )
    original, date = _earliest(values(_ORIGINAL)), _earliest(values(_DATE))
    if original is not None and not (compilation and original == date):
        certainty = "high"
    elif original is None and date is None:
        certainty = ""
    else:
        # Taggers write the album's own first release as the original date, so on a compilation an
        # original year that is the album's own says no more than DATE does.
        certainty = "low" if compilation else "medium"
    names = [name for name in (artist, album_artist) if name and _plain(name) not in _VARIOUS_NAMES]
    return Tags(
        artist=names[0] if names else "",
        title=first(_TITLE),
        album=first(_ALBUM),
        album_artist=album_artist,
        genres=tuple(values(_GENRE)),
        year=date if original is None else original,
        year_certainty=certainty,
    )


def _earliest(dates: list[str]) -> int | None:
    """First year named in "1977", "1977-05-01", "19770501", "May 1977" or several of these."""
    found = [int(year) for date in dates for year in re.findall(r"(?<!\d)(\d{4})(?:\d{4})?(?!\d)", date)]
    return min((year for year in found if FIRST_YEAR <= year <= LAST_YEAR), default=None)
