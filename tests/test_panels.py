"""What is said in words is what was predicted, in every language, and nothing can be smuggled into it."""

import re
from dataclasses import replace

import numpy as np
import pytest
from conftest import melody

from erarec import figures, panels
from erarec.artist import Artist
from erarec.audio import cut_excerpts
from erarec.maps import EmbeddingMap
from erarec.prediction import EraPrediction
from erarec.texts import LANGUAGES, Sentence, Texts


def test_the_sentence_names_the_year_and_the_interval(prediction: EraPrediction) -> None:
    told = replace(prediction, year=1977, interval=[1972, 1983])
    assert panels.answer_sentence(told) == "Probably 1977, most likely between 1972 and 1983."


def test_a_wide_interval_is_not_called_probable(prediction: EraPrediction) -> None:
    sentence = panels.answer_sentence(replace(prediction, year=1977, interval=[1950, 1995]))
    assert "robably" not in sentence
    assert {"1977", "1950", "1995"} <= set(re.findall(r"\d{4}", sentence))


def test_notices_stand_beside_the_answer(prediction: EraPrediction) -> None:
    assert "Taken for A." in panels.answer(prediction)


def test_the_decade_bars_account_for_all_probability(prediction: EraPrediction) -> None:
    html = panels.decades(prediction)
    shares = [int(share) for share in re.findall(r">(\d+) %</span><span class='bar'", html)]
    assert sum(shares) == pytest.approx(100, abs=len(shares) / 2)
    assert re.findall(r"'decade'>(\d+)s<", html) == [str(year) for year in range(1960, 2000, 10)]


def test_attention_is_told_in_words(prediction: EraPrediction) -> None:
    html = panels.attention(prediction)
    assert "sound 70 %" in html
    assert "artist 30 %" in html
    assert "It listened most to 1:00–1:03." in html
    assert "“1976”, “formed”" in html
    assert "Without the sound the answer would move by one year." in html
    assert "Without the artist the answer would move by 4 years." in html


def test_attention_without_an_artist_speaks_of_sound_only(by_sound_alone: EraPrediction) -> None:
    html = panels.attention(by_sound_alone)
    assert "sound 100 %" in html
    assert "words that weighed" not in html
    assert "Without" not in html


def test_neighbours_are_listed_nearest_first(prediction: EraPrediction) -> None:
    html = panels.neighbours(prediction.neighbours)
    assert re.findall(r"Title \d+", html) == [near["title"] for near in prediction.neighbours]


def test_names_and_words_cannot_smuggle_in_html(known: EmbeddingMap, prediction: EraPrediction) -> None:
    evil = "<img src=x onerror=alert(1)>'\""
    hostile = replace(
        prediction,
        notices=[evil],
        word_attention=[{"word": evil, "share": 0.3}],
        neighbours=[{"artist": evil, "title": evil, "year": 1977, "similarity": 0.5}],
    )
    strange = replace(known, artists=np.full(60, evil), titles=np.full(60, evil))
    shown = [
        panels.answer(hostile),
        panels.attention(hostile),
        panels.neighbours(hostile.neighbours),
        panels.message(evil),
        *figures.map_figure(strange).data[0].customdata[0][:2],
    ]
    assert not any("<img" in html for html in shown)


@pytest.mark.parametrize(
    ("width", "says"), [(5, "quite sure"), (14, "fairly"), (24, "not very"), (40, "guessing")]
)
def test_how_sure_it_is_follows_the_interval(prediction: EraPrediction, width: int, says: str) -> None:
    assert says in panels.sureness(replace(prediction, interval=[1970, 1970 + width]))


def test_each_stretch_of_the_wave_plays_from_where_it_begins(prediction: EraPrediction) -> None:
    excerpts = cut_excerpts(melody(6, 22050), 22050)
    html = panels.attention(prediction, excerpts, "/gradio_api/file=/tmp/a%20song.mp3")
    assert re.findall(r"data-start='([\d.]+)'", html) == ["0.00", "60.00"]
    assert html.count("<path") == 2
    assert "data-file='/gradio_api/file=/tmp/a%20song.mp3'" in html
    assert "Play from 1:00; weight 50 %" in html


def test_releases_are_drawn_and_said() -> None:
    artist = Artist("a", "A", release_years=((1969, 2), (1971, 4)), releases=6)
    html = panels.releases(artist)
    assert "6 known releases, 1969 to 1971." in html
    assert html.count("<rect") == 2
    assert "height='0.500'" in html
    assert panels.releases(Artist("b", "B")) == ""


@pytest.mark.parametrize(("known_year", "winner"), [(1978, "model"), (1960, "you"), (None, "")])
def test_a_guess_is_judged_by_the_files_year(
    prediction: EraPrediction, known_year: int | None, winner: str
) -> None:
    told = replace(prediction, year=1978)
    html = panels.guess(told, 1970, known_year)
    assert f"data-winner='{winner}'" in html
    assert "You said 1970, I say 1978." in html
    assert (f"The file says {known_year}" in html) == (known_year is not None)


def test_equally_near_guesses_both_win(prediction: EraPrediction) -> None:
    assert "data-winner='both'" in panels.guess(replace(prediction, year=1978), 1974, 1976)


def test_numbers_are_written_as_the_reader_writes_them(
    known: EmbeddingMap, prediction: EraPrediction
) -> None:
    near = [{"artist": "A", "title": "B", "year": 1977, "similarity": 0.875}]
    assert "<td>0,875</td>" in panels.neighbours(near, Texts("de"))
    assert "1977" in panels.neighbours(near, Texts("de"))
    assert "9,0" in Texts("fr")("Only {seconds:.1f} s of sound: a longer recording is surer.", seconds=9)
    many = replace(known, years=np.repeat(known.years, 60))
    for language, count in (("en", "3,600"), ("de", "3.600"), ("fr", "3\u202f600")):
        assert f"{count} " in panels.known_years_caption(many, Texts(language))


@pytest.mark.parametrize(("language", "word"), [("en", "“1976”"), ("de", "„1976“"), ("ja", "「1976」")])
def test_words_stand_in_the_readers_quotation_marks(
    prediction: EraPrediction, language: str, word: str
) -> None:
    assert word in panels.attention(prediction, say=Texts(language))


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_whole_answer_can_be_said_in_every_language(
    prediction: EraPrediction, known: EmbeddingMap, language: str
) -> None:
    say = Texts(language)
    told = replace(prediction, notices=[Sentence("Taken for {name}.", name="Nobody")])
    said = [
        panels.answer(told, say),
        panels.decades(told, say),
        panels.attention(told, say=say),
        panels.map_caption(known, say),
        panels.known_years_caption(known, say),
    ]
    assert str(told.year) in said[0]
    assert "Nobody" in said[0]
    assert all("{" not in html for html in said)
    if language != "en":
        english = [panels.answer(told), panels.decades(told), panels.attention(told)]
        assert all(here != there for here, there in zip(said, english, strict=False))
