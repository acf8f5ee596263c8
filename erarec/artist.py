"""Artists: the library of facts, looking a name up in it, and the biography that the model reads."""

import json
import lzma
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from rapidfuzz import process
from rapidfuzz.distance import OSA

from erarec import ASSETS
from erarec.years import LAST_YEAR

LIBRARY = ASSETS / "artists.json.xz"
BIOGRAPHY_LIMIT = 2000  # characters that the model reads
FOLDS = 5  # parts of a data set, by artist, so that none is in two
QUERY_LIMIT = 200  # characters; no artist's name is longer

# What training hides from a biography, so that every combination of known facts is seen.
DROP_FACT = 0.2
DROP_MENTIONS = 0.3
DROP_RELEASES = 0.15
DROP_RELEASE = 0.3


# Names


def _plain(name: str) -> str:
    """Lower case, signs spelled out, accents and apostrophes dropped."""
    name = name.lower()
    for sign, letters in (("&", " and "), ("+", " and "), ("$", "s"), ("ø", "o")):
        name = name.replace(sign, letters)
    if not name.isascii():
        decomposed = unicodedata.normalize("NFKD", name)
        name = "".join(character for character in decomposed if not unicodedata.combining(character))
    return re.sub(r"['’‘`.]", "", name)


def artist_key(name: str) -> str:
    """What joins an artist across tables: "The Mamas & the Papas" -> "mamas and the papas".

    Where nothing of a-z and 0-9 is left (other scripts, "!!!"), the name in lower case.
    """
    key = re.sub("[^a-z0-9]+", " ", _plain(name)).strip().removeprefix("the ")
    return key or name.lower()


def artist_fold(key: str) -> int:
    """Which fifth of a data set an artist is in: the same for all recordings, on every machine."""
    return int.from_bytes(blake2b(key.encode(errors="replace"), digest_size=8).digest()) % FOLDS


_LETTERS = str.maketrans({"æ": "ae", "œ": "oe", "ß": "ss", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "ı": "i"})


def _fold(name: str) -> str:
    """As :func:`artist_key`, but letters of every script count: people's spelling is compared by this."""
    folded = re.sub(r"[\W_]+", " ", _plain(name).translate(_LETTERS)).strip().removeprefix("the ")
    return folded or name.lower().strip()


def _compact(folded: str) -> str:
    """Without spaces, because people write "ACDC" and "Fleet wood Mac", and "N'" for "and"."""
    return folded.replace(" n ", " and ").replace(" ", "")


@dataclass(frozen=True, slots=True)
class Artist:
    """What the library knows of one artist. None, "" or an empty tuple where it does not.

    Attributes:
        kind: "person", "group", "orchestra" or "".
        country: as it stands in a sentence after "from": "the United States".
        begin, end: years of birth and death, or of formation and split.
        active_from, active_to: years. first_decade: of recording, its first year.
        mention_years: the 10, 25, 50, 75 and 90 % points of the years that an article mentions.
        mentions: how many years it mentions.
        release_years: (year, known releases in it), in order. releases: how many in all.
    """

    key: str
    name: str
    kind: str = ""
    country: str = ""
    begin: int | None = None
    end: int | None = None
    active_from: int | None = None
    active_to: int | None = None
    first_decade: int | None = None
    genres: tuple[str, ...] = ()
    mention_years: tuple[int, ...] = ()
    mentions: int = 0
    release_years: tuple[tuple[int, int], ...] = ()
    releases: int = 0


@dataclass(frozen=True, slots=True)
class ArtistMatch:
    """Whom a query means. "alias": found by another form of the name or as the first of several artists."""

    query: str
    artist: Artist | None
    match: Literal["exact", "alias", "fuzzy", "none"]


_FEATURING = re.compile(r"\s+[(\[]?(?:feat|ft|featuring)\b\.?\s", re.IGNORECASE)
_TOGETHER = re.compile(r"\s*[,;]\s+|\s+[(\[]?(?:&|\+|/|(?:and|with|x|vs)\b\.?)\s+", re.IGNORECASE)
_BAND_OF = re.compile(r"(?:the|his|her|their)\b", re.IGNORECASE)  # after "A and": a band's own name
_ARTICLE_LAST = re.compile(r",\s*(?:the|a|an|los|las|les|die|der)\s*$", re.IGNORECASE)


# How well known somebody must be (row in the library) before a name that is not quite theirs is read as
# theirs. Measured with one slip in each of 2,000 names of the 10,000 best known, and with 2,000 names
# taken out of the library: 87 % are put right, under 1 % become someone else; of the names taken out
# 1.4 % are taken for another artist, a third of these being the same one under another spelling.
_KNOWN = 20_000
_KNOWN_SHORT = 10_000  # names of fewer than 8 letters
_KNOWN_WORDS = 5_000  # the query holds words of artists' names only: perhaps it is right, but nobody we know
_KNOWN_SINGLE = 2_000  # "James" of "James & Someone"


class ArtistLibrary:
    """All artists, best known first.

    ``columns`` holds one list an attribute, as ``erarec.tools.build_library`` writes them; an
    :class:`Artist` is made when it is asked for, which keeps loading fast.
    """

    def __init__(self, columns: dict[str, list]) -> None:
        self._columns = columns
        self._names: list[str] = columns["name"]
        self._folded = [_fold(name) for name in self._names]
        keys = [artist_key(name) for name in self._names]
        listed = [key or own for key, own in zip(columns["key"], keys, strict=True)]
        self._by_key = _first_rows(keys) | _first_rows(listed)
        self._by_folded = _first_rows(self._folded)
        self._by_compact = _first_rows(_compact(folded) for folded in self._folded)
        self._words = {word for folded in self._folded for word in folded.split()}
        self._text = "\n" + "\n".join(self._folded) + "\n"
        self._starts = np.cumsum([1] + [len(folded) + 1 for folded in self._folded])
        self._by_letter: dict[str, list[int]] = {}
        for row, folded in enumerate(self._folded):
            self._by_letter.setdefault(folded[:1], []).append(row)

    @classmethod
    def load(cls, path: Path = LIBRARY) -> Self:
        """Reads the file that ``erarec.tools.build_library`` wrote. Raises OSError when there is none."""
        return cls(json.loads(lzma.decompress(Path(path).read_bytes())))

    def __len__(self) -> int:
        return len(self._names)

    def by_key(self, key: str) -> Artist | None:
        """The artist of this :func:`artist_key`, the best known where several share it."""
        row = self._by_key.get(key)
        return None if row is None else self._artist(row)

    def find(self, query: str) -> ArtistMatch:
        """Whom a typed name means, "none" rather than a wrong artist. Never raises."""
        row, match = self._find(query)
        return ArtistMatch(query, None if row is None else self._artist(row), match)

    def _find(self, query: str) -> tuple[int | None, Literal["exact", "alias", "fuzzy", "none"]]:
        query = query.strip()
        if not query or len(query) > QUERY_LIMIT:
            return None, "none"
        folded = _fold(query)
        if (row := self._by_folded.get(folded)) is not None:
            return row, "exact"
        if (row := self._by_folded.get(_fold(_ARTICLE_LAST.sub("", query)))) is not None:
            return row, "alias"
        compact = _compact(folded)
        if len(compact) >= 4 and (row := self._by_compact.get(compact)) is not None:
            return row, "alias"
        if found := _FEATURING.search(query):
            row, match = self._find(query[: found.start()])
            return row, "alias" if match == "exact" else match
        if (row := self._misspelt(folded)) is not None:
            return row, "fuzzy"
        if (row := self._first_of_several(query)) is not None:
            return row, "alias"
        return None, "none"

    def _first_of_several(self, query: str) -> int | None:
        """The first of "A & B", the longest part that is an artist: "Earth, Wind & Fire, Someone"."""
        for found in reversed(list(_TOGETHER.finditer(query))):
            first = _fold(query[: found.start()])
            row = self._by_folded.get(first)
            if row is None:
                continue
            # One word before "and" is as likely the beginning of a band's name: "James and the Shame".
            if " " in first or (row < _KNOWN_SINGLE and not _BAND_OF.match(query, found.end())):
                return row
        return None

    def _misspelt(self, folded: str) -> int | None:
        """The artist whose name is a slip of the keyboard away, where it is clear enough who is meant."""
        familiar = all(word in self._words for word in folded.split())
        slips = 2 if len(folded) >= 14 and not familiar else 1
        close = process.extract(folded, self._folded, scorer=OSA.distance, score_cutoff=slips, limit=None)
        for name, distance, row in sorted(close, key=lambda found: found[1:]):
            length = min(len(name), len(folded))
            if length < 8:
                enough = length >= 5 and row < _KNOWN_SHORT and not familiar
            else:
                enough = row < (_KNOWN_WORDS if familiar else _KNOWN)
            if distance == 2:
                enough = enough and length >= 14 and name[0] == folded[0]
            if enough and re.findall("[0-9]", name) == re.findall("[0-9]", folded):
                return row
        return None

    def suggest(self, text: str, limit: int = 8) -> list[str]:
        """Names to complete what has been typed: those that begin so, those with a word that begins so,
        those that nearly begin so; best known first in each. Never raises."""
        if len(text) > QUERY_LIMIT or not text.strip():
            return []
        folded = _fold(text)
        rows = dict.fromkeys(self._rows_with("\n" + folded, limit))
        if len(rows) < limit:
            rows |= dict.fromkeys(self._rows_with(" " + folded, limit))
        if len(rows) < limit and len(folded) >= 4:
            rows |= dict.fromkeys(self._nearly_beginning_with(folded, limit))
        return [self._names[row] for row in list(rows)[:limit]]

    def _rows_with(self, part: str, limit: int) -> list[int]:
        """The first rows in whose text ``part`` occurs; a leading newline stands for the name's beginning."""
        rows: list[int] = []
        position = self._text.find(part)
        while position >= 0 and len(rows) < limit:
            row = int(np.searchsorted(self._starts, position + 1, side="right")) - 1
            rows.append(row)
            position = self._text.find(part, int(self._starts[row + 1]) - 1)
        return rows

    def _nearly_beginning_with(self, folded: str, limit: int) -> list[int]:
        candidates = self._by_letter.get(folded[:1], [])
        beginnings = [self._folded[row][: len(folded)] for row in candidates]
        slips = 1 if len(folded) < 8 else 2
        close = process.extract(folded, beginnings, scorer=OSA.distance, score_cutoff=slips, limit=limit)
        return [candidates[index] for _, _, index in close]

    def _artist(self, row: int) -> Artist:
        value = {attribute: column[row] for attribute, column in self._columns.items()}
        release_years = tuple(_release(entry) for entry in value["release_years"].split())
        return Artist(
            **value
            | {
                "key": value["key"] or artist_key(value["name"]),
                "genres": tuple(value["genres"].split(",")) if value["genres"] else (),
                "mention_years": tuple(int(year) for year in value["mention_years"].split()),
                "release_years": release_years,
            },
            releases=sum(count for _, count in release_years),
        )


def _first_rows(values: Iterable[str]) -> dict[str, int]:
    rows: dict[str, int] = {}
    for row, value in enumerate(values):
        rows.setdefault(value, row)
    return rows


def _release(entry: str) -> tuple[int, int]:
    """ "1969x2" -> (1969, 2)."""
    year, _, count = entry.partition("x")
    return int(year), int(count or 1)


# Years in a text


@dataclass(frozen=True, slots=True)
class YearMention:
    """Characters ``start:end`` of a text speak of the years ``year_lo..year_hi``."""

    start: int
    end: int
    year_lo: int
    year_hi: int


_TENS = ["twenties", "thirties", "forties", "fifties", "sixties", "seventies", "eighties", "nineties"]
_DECADE_WORDS = {word: 1920 + 10 * index for index, word in enumerate(_TENS)} | {"noughties": 2000}
_PARTS = {"early": (0, 3), "mid": (3, 6), "late": (6, 9), None: (0, 9)}  # offsets of years in a decade
_PART = r"(?:\b(?P<{0}>early|mid|late)(?:[-\s]+|\s+in\s+the\s+)['’‘]?)?"
_YEAR_MENTION = re.compile(
    rf"""
    {_PART.format("part")} (?<![\w$€£¥#]) (?<!\d,) (?<!\d{{3}}[-–])
    (?P<decade> (?:189|19[0-9]|20[0-2])0 ) ['’]?s \b
  | {_PART.format("short_part")} (?<![\w$€£¥:.,]) (?P<sign>['’‘])? (?P<short>[0-9]0) ['’]?s \b
  | {_PART.format("word_part")} (?: \b nineteen[-\s] | \b ) (?P<word>{"|".join(_DECADE_WORDS)}) \b
  | (?<![\w$€£¥#]) (?<!\d,) (?<!\d{{3}}[-–])
    (?P<year> (?:189|19[0-9]|20[0-2])[0-9] )
    (?: \s?[-–—/]\s? (?P<last> (?:189|19[0-9]|20[0-2])[0-9] | [0-9][0-9] (?!-[0-9]) ) )?
    (?![\w%]) (?!,[0-9]{{3}}) (?!\s(?:copies|people|units|dollars|pounds|euros)\b)
    """,
    re.VERBOSE | re.IGNORECASE,
)
_AGE = re.compile(r"\b(?:his|her|their|its|my|your|our)\s+$", re.IGNORECASE)
_THE = re.compile(r"\b(?:the|roaring|nineteen)[-\s]+$", re.IGNORECASE)


def year_mentions(text: str) -> list[YearMention]:
    """Years and decades that a text mentions, in order, none overlapping.

    "1977", "1977-79" (two), "1970s", "'80s", "80s", "the seventies", "mid-1990s", "late sixties"; not
    "1,984 copies", "$1995" or "in his sixties". "20s" and "twenties" count with "the", an apostrophe or
    "early" before them only.
    """
    mentions: list[YearMention] = []
    for found in _YEAR_MENTION.finditer(text):
        mentions += _read_years(text, found)
    return mentions


def _read_years(text: str, found: re.Match) -> list[YearMention]:
    start, end = found.span()
    if found["year"]:
        year, last = int(found["year"]), found["last"]
        mentions = [YearMention(start, found.end("year"), year, year)]
        if last:
            last_year = int(last) if len(last) == 4 else year // 100 * 100 + int(last)
            if len(last) == 4 or year < last_year <= LAST_YEAR:
                mentions.append(YearMention(found.start("last"), end, last_year, last_year))
        return mentions
    part = found["part"] or found["short_part"] or found["word_part"]
    before = text[max(0, start - 20) : start]
    if found["decade"]:
        decade = int(found["decade"])
    else:
        if _AGE.search(before):
            return []
        decade = _DECADE_WORDS[found["word"].lower()] if found["word"] else 1900 + int(found["short"])
        sure = part or found["sign"] or _THE.search(before) or found[0].lower().startswith("nineteen")
        if (decade < 1930) and not sure:
            return []
        if decade < 1920:
            decade += 100
    first, last = _PARTS[part.lower() if part else None]
    return [YearMention(start, end, decade + first, decade + last)]


# Biographies

_NUMBERS = ["no", "one", "two", "three", "four", "five", "six", "seven", "eight"]
_KINDS = {"person": "a musician", "group": "a group", "orchestra": "an orchestra"}
_BEGIN = {"person": "was born in", "group": "formed in", "orchestra": "formed in"}
_END = {"person": "died in", "group": "disbanded in", "orchestra": "disbanded in"}


def compose_biography(
    artist: Artist, without: tuple[int, int] | None = None, rng: np.random.Generator | None = None
) -> str:
    """Plain sentences from the library's facts; "" when nothing but the name is known.

    Args:
        artist: whose facts.
        without: (year_lo, year_hi) of the recording at hand: one release within these years, the nearest
            to their middle, is left out, else the answer would stand in the text.
        rng: for training, drops facts at random.
    """
    if without:
        artist = _without_release(artist, *without)
    if rng:
        artist = _with_facts_dropped(artist, rng)
    facts = [_activity(artist), _genres(artist), _mentions(artist), _releases(artist)]
    facts = [sentence for sentence in facts if sentence]
    if not facts and not (artist.kind or artist.country or artist.begin or artist.end):
        return ""
    return " ".join([_identity(artist), *facts])


def _without_release(artist: Artist, year_lo: int, year_hi: int) -> Artist:
    own = [year for year, _ in artist.release_years if year_lo <= year <= year_hi]
    if not own:
        return artist
    nearest = min(own, key=lambda year: abs(year - (year_lo + year_hi) / 2))
    left = ((year, count - (year == nearest)) for year, count in artist.release_years)
    return replace(
        artist,
        release_years=tuple((year, count) for year, count in left if count),
        releases=artist.releases - 1,
    )


def _with_facts_dropped(artist: Artist, rng: np.random.Generator) -> Artist:
    facts: dict[str, Any] = {
        "kind": "",
        "country": "",
        "begin": None,
        "end": None,
        "active_from": None,
        "active_to": None,
        "first_decade": None,
        "genres": (),
    }
    dropped = {fact: empty for fact, empty in facts.items() if rng.random() < DROP_FACT}
    if rng.random() < DROP_MENTIONS:
        dropped["mention_years"] = ()
    left: tuple[tuple[int, int], ...] = ()
    if rng.random() >= DROP_RELEASES:
        kept = ((year, int(rng.binomial(count, 1 - DROP_RELEASE))) for year, count in artist.release_years)
        left = tuple((year, count) for year, count in kept if count)
    return replace(artist, **dropped, release_years=left, releases=sum(count for _, count in left))


def _identity(artist: Artist) -> str:
    origin = f" from {artist.country}" if artist.country else ""
    who = _KINDS.get(artist.kind, "an artist") + origin
    events = []
    if artist.begin:
        events.append(f"{_BEGIN.get(artist.kind, 'began in')} {artist.begin}")
    if artist.end:
        events.append(f"{_END.get(artist.kind, 'ended in')} {artist.end}")
    if events:
        return f"{artist.name}, {who}, {' and '.join(events)}."
    return f"{artist.name} is {who}."


def _activity(artist: Artist) -> str:
    parts = []
    if artist.active_from and artist.active_to:
        parts.append(f"active from {artist.active_from} to {artist.active_to}")
    elif artist.active_from:
        parts.append(f"active from {artist.active_from}")
    elif artist.active_to:
        parts.append(f"active until {artist.active_to}")
    if artist.first_decade:
        parts.append(f"recording since the {artist.first_decade}s")
    sentence = ", ".join(parts)
    return sentence[:1].upper() + sentence[1:] + "." if sentence else ""


def _genres(artist: Artist) -> str:
    return f"Genres: {', '.join(artist.genres)}." if artist.genres else ""


def _mentions(artist: Artist) -> str:
    if not artist.mention_years:
        return ""
    return f"An encyclopedia article speaks mostly of {_enumerate(artist.mention_years)}."


def _releases(artist: Artist) -> str:
    years = [year for year, count in artist.release_years for _ in range(count)]
    if not years:
        return ""
    if len(years) < len(_NUMBERS):
        number = _NUMBERS[len(years)].capitalize()
        return f"{number} known release{'s' * (len(years) > 1)}, in {_enumerate(years)}."
    # In words, because a number such as 1950 would be read as a year.
    many = "About a dozen" if len(years) < 20 else "Dozens of" if len(years) < 100 else "Over a hundred"
    tenth, quarter, half, most, nearly = (
        years[int(np.ceil(share * len(years))) - 1] for share in (0.1, 0.25, 0.5, 0.75, 0.9)
    )
    return (
        f"{many} known releases from {years[0]} to {years[-1]}: a tenth of them by {tenth}, a quarter by "
        f"{quarter}, half by {half}, three quarters by {most}, nine tenths by {nearly}, most of all in "
        f"{Counter(years).most_common(1)[0][0]}."
    )


def _enumerate(years: Iterable[int]) -> str:
    *first, last = map(str, years)
    return f"{', '.join(first)} and {last}" if first else last


# Sentences

_SENTENCE_END = re.compile(r"[.!?…][\"'”’»)\]]*\s+(?=[\"'“‘«(\[]*[^\W_])")
_ABBREVIATION = re.compile(
    r"(?:^|[\s(\[\"“])(?:[^\W\d_]\.)*(?:[^\W\d_]|Jr|Sr|Dr|Mr|Mrs|Ms|St|Mt|No|Nos|Vol|Pt|Op|feat|ft|vs|cf|ca|"
    r"Inc|Ltd|Co|Bros|Prof|Rev|Capt|Sgt|Lt|Col|Gen|Jan|Feb|Mar|Apr|Aug|Sept|Oct|Nov|Dec)\.[\"'”’»)\]]*\s*$",
    re.IGNORECASE,
)


def split_sentences(text: str) -> list[str]:
    """Sentences of a biography; joined by single spaces they are the text with its white space normalised.

    A piece ends no sentence when an abbreviation or initial ends it, when a small letter follows, or when
    it has no small word yet ("Godspeed You! Black Emperor").
    """
    text = " ".join(text.split())
    sentences: list[str] = []
    start = looked = 0
    small_word = False
    for found in _SENTENCE_END.finditer(text):
        small_word = small_word or any(word[0].islower() for word in text[looked : found.end()].split())
        looked = found.end()
        follows = text[looked : looked + 8].lstrip("\"'“‘«([")[:1]
        if (
            not small_word
            or follows.islower()
            or _ABBREVIATION.search(text[max(start, looked - 40) : looked])
        ):
            continue
        sentences.append(text[start:looked].rstrip())
        start, small_word = looked, False
    return [*sentences, text[start:]] if text[start:] else sentences


def clip_biography(text: str) -> str:
    """The first ``BIOGRAPHY_LIMIT`` characters, up to the end of a sentence or, failing that, of a word."""
    text = " ".join(text.split())
    if len(text) <= BIOGRAPHY_LIMIT:
        return text
    # What the cut leaves of the last sentence goes.
    whole = " ".join(split_sentences(text[: BIOGRAPHY_LIMIT + 1])[:-1])
    return whole or text[: BIOGRAPHY_LIMIT + 1].rpartition(" ")[0] or text[:BIOGRAPHY_LIMIT]
