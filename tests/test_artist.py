"""The artist library, what people type, and the texts made of it."""

import csv
import json
import lzma
import random
import string
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from conftest import DATA, needs_data
from hypothesis import given, settings
from hypothesis import strategies as st

from erarec.artist import (
    BIOGRAPHY_LIMIT,
    LIBRARY,
    Artist,
    ArtistLibrary,
    artist_key,
    clip_biography,
    compose_biography,
    split_sentences,
    year_mentions,
)
from erarec.tools.build_library import library_columns

INVENTED = [
    "Velvet Harbour Collective",
    "The Copper Lanterns of Tulsa",
    "Marguerite Oldenshaw",
    "Quiet Tractor Parade",
    "DJ Plumbline",
    "Ezekiel Thornbarrow",
    "Neon Abacus",
    "The Sleepwalking Cartographers",
    "Oluwaferanmi Brightwater",
    "Glass Herring",
    "Tandem Volcano Club",
    "Lil Thermostat",
    "Björn Kvistgaardsen",
    "Static Marmalade",
    "Orchestra of the Ninth Canal",
    "Fenwick and the Paper Tigers",
    "Saltwater Almanac",
    "Paulo Trindadeira",
    "Murmuring Gearbox",
    "Хор Северных Трамваев",
]

FLEETWOOD = Artist(
    key="fleetwood mac",
    name="Fleetwood Mac",
    kind="group",
    country="Great Britain",
    begin=1967,
    end=2022,
    active_from=1968,
    active_to=2021,
    first_decade=1960,
    genres=("soft rock", "pop rock"),
    mention_years=(1969, 1973, 1989, 2009, 2018),
    mentions=120,
    release_years=((1968, 2), (1975, 3), (1977, 5), (1987, 2)),
    releases=12,
)
ONE_HIT = Artist(key="one hit", name="One Hit", release_years=((1958, 1),), releases=1)


@pytest.fixture(scope="module")
def library() -> ArtistLibrary:
    return ArtistLibrary.load()


def found(library: ArtistLibrary, query: str) -> tuple[str | None, str]:
    match = library.find(query)
    assert match.query == query
    return (match.artist.name if match.artist else None), match.match


# Names


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("The Mamas & the Papas", "mamas and the papas"),
        ("Florence + the Machine", "florence and the machine"),
        ("Ke$ha", "kesha"),
        ("Møme", "mome"),
        ("Beyoncé", "beyonce"),
        ("Guns N’ Roses", "guns n roses"),
        ("R.E.M.", "rem"),
        ("AC/DC", "ac dc"),
        ("The The", "the"),
        ("КИНО", "кино"),
        ("!!!", "!!!"),
    ],
)
def test_a_key_is_the_plain_name(name: str, key: str):
    assert artist_key(name) == key


@needs_data
def test_every_key_of_the_table_finds_its_artist(library: ArtistLibrary):
    with (DATA / "library.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(library) == len(rows)
    for row in rows:
        artist = library.by_key(row["artist_key"] or artist_key(row["name"]))  # "!!!" has no key there
        assert artist is not None
        assert artist.name == row["name"]
    assert library.by_key("no such key") is None


def test_an_artist_has_the_facts_of_the_table(library: ArtistLibrary):
    elvis = library.by_key("elvis presley")
    assert elvis is not None
    assert (elvis.kind, elvis.country, elvis.begin, elvis.end) == ("person", "the United States", 1935, 1977)
    assert elvis.genres == ("pop", "traditional pop")
    assert elvis.mention_years == (1956, 1960, 1967, 1975, 2002)
    assert elvis.release_years[:2] == ((1953, 1), (1954, 5))
    assert elvis.releases == sum(count for _, count in elvis.release_years) == 559


def test_the_library_is_small():
    assert LIBRARY.stat().st_size < 4_000_000


def test_the_library_keeps_no_identifiers():
    columns = json.loads(lzma.decompress(LIBRARY.read_bytes()))
    assert set(columns) <= set(Artist.__dataclass_fields__)
    assert len({len(column) for column in columns.values()}) == 1


@needs_data
def test_building_twice_gives_the_same_bytes(tmp_path):
    out = tmp_path / "artists.json.xz"
    command = [
        sys.executable,
        "-m",
        "erarec.tools.build_library",
        str(DATA / "library.csv"),
        "--out",
        str(out),
    ]
    subprocess.run(command, check=True, capture_output=True, cwd=LIBRARY.parents[1])
    assert out.read_bytes() == LIBRARY.read_bytes()


# Looking up


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("The Beatles", "The Beatles"),
        ("beatles", "The Beatles"),
        ("  BEATLES ", "The Beatles"),
        ("beyonce", "Beyoncé"),
        ("motorhead", "Motörhead"),
        ("Sigur Ros", "Sigur Rós"),
        ("Simon and Garfunkel", "Simon & Garfunkel"),
        ("Simon & Garfunkel", "Simon & Garfunkel"),
        ("Earth, Wind & Fire", "Earth, Wind & Fire"),
        ("earth wind and fire", "Earth, Wind & Fire"),
        ("BLØF", "Bløf"),
        ("run dmc", "Run-D.M.C."),
        ("!!!", "!!!"),
    ],
)
def test_case_accents_article_and_ampersand_do_not_matter(library: ArtistLibrary, query: str, name: str):
    assert found(library, query) == (name, "exact")


@pytest.mark.parametrize(
    "query",
    [
        "Elvis Presley feat. Somebody Unheardof",
        "Elvis Presley ft. Somebody Unheardof",
        "Elvis Presley (feat. Somebody Unheardof)",
        "Elvis Presley featuring Somebody Unheardof",
        "Elvis Presley & Somebody Unheardof",
        "Elvis Presley and Somebody Unheardof",
        "Elvis Presley, Somebody Unheardof",
        "Elvis Presley x Somebody Unheardof",
        "Elvis Presley vs. Somebody Unheardof",
        "Elvis Presley / Somebody Unheardof",
        "Elvis Presley with Somebody Unheardof",
        "Elvis Presley and his Unheardofs",
    ],
)
def test_of_several_artists_the_first_is_meant(library: ArtistLibrary, query: str):
    assert found(library, query) == ("Elvis Presley", "alias")


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("Beatles, The", "The Beatles"),
        ("acdc", "AC/DC"),
        ("Guns and Roses", "Guns N' Roses"),
        ("Earth, Wind & Fire & Somebody Unheardof", "Earth, Wind & Fire"),
        ("Drake & Somebody Unheardof", "Drake"),
    ],
)
def test_other_forms_of_a_name_are_found(library: ArtistLibrary, query: str, name: str):
    assert found(library, query) == (name, "alias")


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("Fletwood Mac", "Fleetwood Mac"),
        ("Michael Jakson", "Michael Jackson"),
        ("Bruce Springstien", "Bruce Springsteen"),
        ("Simon & Garfunkle", "Simon & Garfunkel"),
        ("Metalica", "Metallica"),
        ("uQeen", "Queen"),
    ],
)
def test_a_small_slip_is_put_right(library: ArtistLibrary, query: str, name: str):
    assert found(library, query) == (name, "fuzzy")


def test_a_misspelt_artist_is_found_before_a_guest(library: ArtistLibrary):
    assert found(library, "Metalica feat. Somebody") == ("Metallica", "fuzzy")


@pytest.mark.parametrize("query", INVENTED)
def test_invented_artists_are_not_found(library: ArtistLibrary, query: str):
    assert found(library, query) == (None, "none")


def test_one_word_before_and_is_not_taken_for_an_obscure_artist():
    """A band called "Somebody and the Others" is not an unknown singer of the first name alone."""
    columns = _columns(["Filler"] * 3000 + ["Fenwick"])
    assert found(ArtistLibrary(columns), "Fenwick & Sons") == (None, "none")
    assert found(ArtistLibrary(_columns(["Fenwick"])), "Fenwick & Sons") == ("Fenwick", "alias")


@pytest.mark.parametrize("query", ["", "   ", "\n", "a" * 100_000, "\0", "&", "feat.", "ft. x", "…"])
def test_absurd_queries_find_nobody(library: ArtistLibrary, query: str):
    assert found(library, query) == (None, "none")
    assert len(library.suggest(query)) <= 8


def test_other_scripts_are_compared_letter_by_letter():
    library = ArtistLibrary(_columns(["Кино", "2", "Аквариум", "宇多田ヒカル"]))
    assert found(library, "КИНО") == ("Кино", "exact")
    assert found(library, "Акварум") == ("Аквариум", "fuzzy")
    assert found(library, "宇多田ヒカル") == ("宇多田ヒカル", "exact")
    assert found(library, "Жуки 2") == (None, "none")  # whose artist_key is "2"
    assert library.suggest("ки") == ["Кино"]


def test_of_equal_names_the_best_known_is_found():
    library = ArtistLibrary(_columns(["The Band", "Band", "BAND!"]))
    assert found(library, "band") == ("The Band", "exact")
    artist = library.by_key("band")
    assert artist is not None
    assert artist.name == "The Band"


def test_numbers_are_no_slips():
    assert found(ArtistLibrary(_columns(["Blink 182"])), "Blink 183") == (None, "none")


def test_slips_are_mostly_put_right_and_hardly_ever_wrongly(library: ArtistLibrary):
    """One inserted, lost, swapped or replaced letter in each of 500 names of the 10,000 best known."""
    rng = random.Random(0)
    names = rng.sample(library._names[:10_000], 500)
    answers = [library.find(_slip(name, rng)) for name in names]
    right = sum(
        answer.artist is not None and answer.artist.name == name
        for answer, name in zip(answers, names, strict=True)
    )
    wrong = sum(
        answer.match == "fuzzy" and answer.artist is not None and answer.artist.name != name
        for answer, name in zip(answers, names, strict=True)
    )
    assert right / len(names) > 0.8
    assert wrong / len(names) < 0.01


def test_artists_that_are_not_in_the_library_are_rarely_taken_for_others(library: ArtistLibrary):
    """1,000 artists taken out of the index; some stand in it under another spelling all the same."""
    out = set(random.Random(0).sample(range(len(library)), 1000))
    kept = {
        attribute: [value for row, value in enumerate(column) if row not in out]
        for attribute, column in library._columns.items()
    }
    without = ArtistLibrary(kept)
    answers = [without.find(library._names[row]) for row in sorted(out)]
    assert sum(answer.match == "fuzzy" for answer in answers) / len(answers) < 0.02
    whole = [answer for answer in answers if answer.match == "exact" and answer.artist]
    assert len(whole) / len(answers) < 0.005


# Suggestions


def test_suggestions_begin_as_typed_best_known_first(library: ArtistLibrary):
    assert library.suggest("beatl")[0] == "The Beatles"
    assert library.suggest("The Beatl")[0] == "The Beatles"
    assert library.suggest("BEYONC")[0] == "Beyoncé"
    assert len(library.suggest("a")) == 8
    assert len(library.suggest("a", limit=3)) == 3


def test_suggestions_go_on_with_later_words_and_slips(library: ArtistLibrary):
    assert library.suggest("presley")[0] == "Elvis Presley"
    assert "Fleetwood Mac" in library.suggest("fletwood m")
    small = ArtistLibrary(_columns(["Zoe Marker", "Merker", "Market", "Marketa"]))
    assert small.suggest("marke") == ["Market", "Marketa", "Zoe Marker", "Merker"]


def test_suggestions_are_as_fast_as_typing(library: ArtistLibrary):
    for text in ("b", "the", "metalica", "zzzzqq", "presley", "qwertyuiop asdf", "a" * 200):
        assert min(_seconds(lambda text=text: library.suggest(text)) for _ in range(3)) < 0.1


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=300))
def test_no_text_makes_look_up_or_reading_fail(text: str):
    library = _shared()
    match = library.find(text)
    assert (match.artist is None) == (match.match == "none")
    assert len(library.suggest(text)) <= 8
    artist_key(text)
    mentions = year_mentions(text)
    assert all(0 <= mention.start < mention.end <= len(text) for mention in mentions)
    assert " ".join(split_sentences(text)) == " ".join(text.split())


# Years in a text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("released in 1977.", [("1977", 1977, 1977)]),
        ("1977-79", [("1977", 1977, 1977), ("79", 1979, 1979)]),
        ("1977–1979", [("1977", 1977, 1977), ("1979", 1979, 1979)]),
        ("(1890) 2029", [("1890", 1890, 1890), ("2029", 2029, 2029)]),
        ("1977's Rumours", [("1977", 1977, 1977)]),
        ("on 1984-05-06", [("1984", 1984, 1984)]),
        ("the 1970s", [("1970s", 1970, 1979)]),
        ("the 1970's", [("1970's", 1970, 1979)]),
        ("the 2000s", [("2000s", 2000, 2009)]),
        ("the '80s", [("'80s", 1980, 1989)]),
        ("the ’80s", [("’80s", 1980, 1989)]),
        ("an 80s band", [("80s", 1980, 1989)]),
        ("the 20s", [("20s", 1920, 1929)]),
        ("the '00s and '10s", [("'00s", 2000, 2009), ("'10s", 2010, 2019)]),
        ("the seventies", [("seventies", 1970, 1979)]),
        ("the Roaring Twenties", [("Twenties", 1920, 1929)]),
        ("nineteen-seventies", [("nineteen-seventies", 1970, 1979)]),
        ("early 1990s", [("early 1990s", 1990, 1993)]),
        ("mid-1990s", [("mid-1990s", 1993, 1996)]),
        ("mid-'80s", [("mid-'80s", 1983, 1986)]),
        ("Late sixties", [("Late sixties", 1966, 1969)]),
        ("late in the 1970s", [("late in the 1970s", 1976, 1979)]),
        ("1980s-1990s", [("1980s", 1980, 1989), ("1990s", 1990, 1999)]),
    ],
)
def test_years_and_decades_are_read(text: str, expected: list[tuple[str, int, int]]):
    mentions = year_mentions(text)
    assert [(text[m.start : m.end], m.year_lo, m.year_hi) for m in mentions] == expected


@pytest.mark.parametrize(
    "text",
    [
        "1,984 copies",
        "1984 copies",
        "$1995",
        "€1995",
        "19771",
        "11977",
        "1889 and 2030",
        "1920x1080",
        "1999%",
        "#1984",
        "in his sixties",
        "well into her early 40s",
        "20s and 10s and 00s",
        "twenties of them",
        "555-1984",
        "",
    ],
)
def test_other_numbers_are_no_years(text: str):
    assert year_mentions(text) == []


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.sampled_from(["1977", "-79", "–1981", " ", "mid-", "1990s", "'80s", "the ", "sixties", "s", ","])
    )
)
def test_mentions_stand_in_order_and_do_not_overlap(pieces: list[str]):
    mentions = year_mentions("".join(pieces))
    for mention, following in pairwise(mentions):
        assert mention.end <= following.start
    assert all(1890 <= mention.year_lo <= mention.year_hi <= 2029 for mention in mentions)


# Biographies


def test_a_biography_tells_the_facts_in_plain_sentences():
    assert split_sentences(compose_biography(FLEETWOOD)) == [
        "Fleetwood Mac, a group from Great Britain, formed in 1967 and disbanded in 2022.",
        "Active from 1968 to 2021, recording since the 1960s.",
        "Genres: soft rock, pop rock.",
        "An encyclopedia article speaks mostly of 1969, 1973, 1989, 2009 and 2018.",
        "About a dozen known releases from 1968 to 1987: a tenth of them by 1968, a quarter by 1975, "
        "half by 1977, three quarters by 1977, nine tenths by 1987, most of all in 1977.",
    ]


@pytest.mark.parametrize(
    ("facts", "sentence"),
    [
        ({"end": None}, "Fleetwood Mac, a group from Great Britain, formed in 1967."),
        ({"begin": None}, "Fleetwood Mac, a group from Great Britain, disbanded in 2022."),
        ({"begin": None, "end": None}, "Fleetwood Mac is a group from Great Britain."),
        ({"country": "", "end": None}, "Fleetwood Mac, a group, formed in 1967."),
        ({"kind": "", "end": None}, "Fleetwood Mac, an artist from Great Britain, began in 1967."),
        (
            {"kind": "person"},
            "Fleetwood Mac, a musician from Great Britain, was born in 1967 and died in 2022.",
        ),
        (
            {"kind": "orchestra", "begin": None, "end": None},
            "Fleetwood Mac is an orchestra from Great Britain.",
        ),
        ({"kind": "", "country": "", "begin": None, "end": None}, "Fleetwood Mac is an artist."),
    ],
)
def test_the_first_sentence_is_whole_whatever_is_missing(facts: dict, sentence: str):
    assert split_sentences(compose_biography(replace(FLEETWOOD, **facts)))[0] == sentence


@pytest.mark.parametrize(
    ("facts", "sentence"),
    [
        ({"active_to": None}, "Active from 1968, recording since the 1960s."),
        ({"active_from": None, "first_decade": None}, "Active until 2021."),
        ({"active_from": None, "active_to": None}, "Recording since the 1960s."),
        ({"release_years": ((1958, 1),)}, "One known release, in 1958."),
        ({"release_years": ((1968, 1), (1969, 2))}, "Three known releases, in 1968, 1969 and 1969."),
    ],
)
def test_the_other_sentences_are_whole_too(facts: dict, sentence: str):
    assert sentence in split_sentences(compose_biography(replace(FLEETWOOD, **facts)))


def test_nothing_known_gives_no_biography():
    assert compose_biography(Artist(key="nobody", name="Nobody")) == ""


def test_the_mentions_of_a_biography_are_the_facts():
    mentions = year_mentions(compose_biography(FLEETWOOD))
    assert [(mention.year_lo, mention.year_hi) for mention in mentions] == [
        *((year, year) for year in (1967, 2022, 1968, 2021)),
        (1960, 1969),
        *((year, year) for year in FLEETWOOD.mention_years),
        *((year, year) for year in (1968, 1987, 1968, 1975, 1977, 1977, 1987, 1977)),
    ]


def test_numbers_of_releases_are_not_read_as_years():
    prolific = Artist(key="prolific", name="Prolific", release_years=((1950, 1950),), releases=1950)
    assert {mention.year_lo for mention in year_mentions(compose_biography(prolific))} == {1950}
    assert "Over a hundred known releases" in compose_biography(prolific)


def test_every_artist_of_the_library_has_whole_sentences(library: ArtistLibrary):
    for name in library._names[::50]:
        artist = library.find(name).artist
        assert artist is not None
        biography = compose_biography(artist)
        assert biography == "" or biography.startswith(artist.name)
        assert len(biography) <= BIOGRAPHY_LIMIT
        assert "  " not in biography
        assert "None" not in biography.replace(artist.name, "")


# Leave one out


def test_a_one_hit_wonder_leaves_no_year():
    assert compose_biography(ONE_HIT, without=(1958, 1958)) == ""
    dated = replace(ONE_HIT, kind="person")
    assert year_mentions(compose_biography(dated, without=(1957, 1959))) == []


def test_the_recordings_own_year_is_gone():
    artist = replace(FLEETWOOD, release_years=((1968, 1), (1977, 1), (1987, 1)))
    assert "Two known releases, in 1968 and 1987." in compose_biography(artist, without=(1977, 1977))


def test_only_one_entry_is_left_out_the_nearest_to_the_middle():
    artist = replace(FLEETWOOD, release_years=((1970, 1), (1973, 2), (1976, 1)))
    assert "Three known releases, in 1970, 1973 and 1976." in compose_biography(artist, without=(1970, 1977))


def test_a_year_that_is_no_release_leaves_all():
    assert compose_biography(FLEETWOOD, without=(1999, 2001)) == compose_biography(FLEETWOOD)


def test_a_range_may_hold_the_last_release_only():
    artist = replace(FLEETWOOD, release_years=((1968, 1),))
    assert "known release" not in compose_biography(artist, without=(1960, 1970))


# Training mode


def test_facts_are_dropped_at_their_rates():
    rng = np.random.default_rng(0)
    texts = [compose_biography(FLEETWOOD, rng=rng) for _ in range(4000)]

    def share(part: str) -> float:
        return sum(part in text for text in texts) / len(texts)

    for part in ("Great Britain", " 1967", " 2022", "1960s", "Genres"):
        assert share(part) == pytest.approx(0.8, abs=0.03)
    assert share("a group") == pytest.approx(0.8, abs=0.03)
    assert share("encyclopedia") == pytest.approx(0.7, abs=0.03)
    assert share("known release") == pytest.approx(0.85, abs=0.03)


def test_single_releases_are_dropped():
    rng = np.random.default_rng(0)
    artist = Artist(key="a", name="A", kind="person", release_years=((1968, 1), (1977, 1)), releases=2)
    texts = [compose_biography(artist, rng=rng) for _ in range(4000)]
    assert np.mean(["1977" in text for text in texts]) == pytest.approx(0.85 * 0.7, abs=0.03)


def test_the_same_seed_gives_the_same_biography():
    first, second = (compose_biography(FLEETWOOD, rng=np.random.default_rng(3)) for _ in range(2))
    assert first == second


def test_training_never_shows_the_recordings_own_year():
    rng = np.random.default_rng(0)
    artist = replace(FLEETWOOD, release_years=((1968, 1), (1979, 1), (1987, 1)))
    for _ in range(200):
        assert "1979" not in compose_biography(artist, without=(1978, 1980), rng=rng)


# Sentences


@pytest.mark.parametrize(
    "sentences",
    [
        ["B. B. King met Sammy Davis Jr. in 1960.", "They sang."],
        ["It was a No. 1 hit feat. Drake in the U.S. Hot 100.", "Then came more."],
        ['He said "Yes!" and left.', '"Why?" they asked.', "It was late."],
        ["Godspeed You! Black Emperor, a group, formed in 1994.", "Genres: rock."],
        ["Will.i.am and R.E.M. have dots.", "So has the version 2.0 of it."],
        ["He left in 1977.", "1978 was the year of his return."],
    ],
)
def test_sentences_end_where_a_reader_ends_them(sentences: list[str]):
    assert split_sentences("  \n ".join(sentences)) == sentences


def test_no_text_no_sentences():
    assert split_sentences(" \n ") == []


def test_a_long_biography_is_cut_after_a_sentence():
    text = " ".join(f"This is sentence number {number} of many." for number in range(200))
    clipped = clip_biography(text)
    assert BIOGRAPHY_LIMIT - 50 < len(clipped) <= BIOGRAPHY_LIMIT
    assert clipped.endswith("of many.")
    assert text.startswith(clipped)


def test_one_long_sentence_is_cut_after_a_word():
    clipped = clip_biography("word " * 1000)
    assert BIOGRAPHY_LIMIT - 5 <= len(clipped) <= BIOGRAPHY_LIMIT
    assert set(clipped.split()) == {"word"}
    assert len(clip_biography("x" * 10_000)) == BIOGRAPHY_LIMIT


def test_a_short_biography_is_kept():
    assert clip_biography(" As  it\nis. ") == "As it is."


def test_splitting_takes_no_longer_than_the_text():
    assert _seconds(lambda: split_sentences("A! " * 100_000)) < 5


# Helpers


def _columns(names: list[str]) -> dict[str, list]:
    """A library of which only the names are known."""
    fields = [field for field in Artist.__dataclass_fields__ if field != "releases"] + ["genre"]
    empty = dict.fromkeys(fields, "")
    return library_columns([{**empty, "artist_key": artist_key(name), "name": name} for name in names])


_LIBRARY: list[ArtistLibrary] = []


def _shared() -> ArtistLibrary:
    """The library for tests that take no fixtures."""
    if not _LIBRARY:
        _LIBRARY.append(ArtistLibrary.load())
    return _LIBRARY[0]


def _slip(name: str, rng: random.Random) -> str:
    at = rng.randrange(len(name))
    letter = rng.choice(string.ascii_lowercase)
    return rng.choice(
        [
            name[:at] + letter + name[at:],
            name[:at] + name[at + 1 :],
            name[:at] + letter + name[at + 1 :],
            name[:at] + name[at + 1 : at + 2] + name[at : at + 1] + name[at + 2 :],
        ]
    )


def _seconds(call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
