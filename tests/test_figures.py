"""What is shown says what was predicted, in colours and words that everybody can tell apart."""

import re
from dataclasses import replace

import numpy as np
import pytest
from plotly.colors import unlabel_rgb

from erarec import figures
from erarec.maps import EmbeddingMap
from erarec.prediction import EraPrediction
from erarec.years import DECADES, YEARS, best_year, by_decade, interval


def hill(year: float, width: float) -> np.ndarray:
    """A Gaussian over the years. Shape: [140]."""
    weight = np.exp(-0.5 * ((YEARS - year) / width) ** 2)
    return weight / weight.sum()


@pytest.fixture
def known() -> EmbeddingMap:
    rng = np.random.default_rng(0)
    embeddings = rng.standard_normal((60, 64)).astype(np.float32)
    return EmbeddingMap(
        coordinates=rng.standard_normal((60, 2)).astype(np.float32),
        embeddings=embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True),
        artists=np.array([f"Artist {i}" for i in range(60)]),
        titles=np.array([f"Title {i}" for i in range(60)]),
        years=np.linspace(1921, 2024, 60).astype(int),
    )


@pytest.fixture
def prediction(known: EmbeddingMap) -> EraPrediction:
    sound, artist = hill(1981, 6), hill(1976, 4)
    both = sound * artist / (sound * artist).sum()
    found, similarity = known.nearest(known.embeddings[7])
    return EraPrediction(
        model="audioart-mmc",
        version="0",
        year=int(best_year(both)),
        interval=list(interval(both)),
        years=YEARS.tolist(),
        probabilities={"sound": sound.tolist(), "artist": artist.tolist(), "both": both.tolist()},
        decades=dict(zip(DECADES, by_decade(both).tolist(), strict=True)),
        attention={"sound": 0.7, "artist": 0.3},
        sound_attention=[
            {"start": 0.0, "end": 3.0, "share": 0.2},
            {"start": 60.0, "end": 63.0, "share": 0.5},
        ],
        word_attention=[{"word": "formed", "share": 0.1}, {"word": "1976.", "share": 0.2}],
        shift_without={"sound": 1, "artist": 4},
        artist={
            "query": "a",
            "name": "A",
            "match": "exact",
            "biography": "formed 1976.",
            "source": "library",
        },
        embedding=known.embeddings[7].tolist(),
        map=known.coordinates[7].tolist(),
        neighbours=[
            {
                "artist": str(known.artists[i]),
                "title": str(known.titles[i]),
                "year": int(known.years[i]),
                "similarity": float(near),
            }
            for i, near in zip(found, similarity, strict=True)
        ],
        notices=["Taken for A."],
        seconds={},
    )


@pytest.fixture
def by_sound_alone(prediction: EraPrediction) -> EraPrediction:
    both = prediction.probabilities["both"]
    return replace(
        prediction,
        probabilities={"sound": both, "artist": None, "both": both},
        attention={"sound": 1.0, "artist": 0.0},
        word_attention=[],
        shift_without={"sound": None, "artist": None},
        notices=[],
    )


def test_later_decades_are_lighter() -> None:
    assert list(figures.DECADE_COLOURS) == DECADES
    rgb = np.array([unlabel_rgb(colour) for colour in figures.DECADE_COLOURS.values()])
    assert (np.diff(rgb @ [0.2126, 0.7152, 0.0722]) > 0).all()


def test_every_figure_has_a_height(known: EmbeddingMap, prediction: EraPrediction) -> None:
    for figure in (
        figures.year_figure(prediction),
        figures.known_years_figure(known),
        figures.map_figure(known),
        figures.map_figure(known, prediction),
    ):
        assert figure.layout.height > 100


def test_the_sentence_names_the_year_and_the_interval(prediction: EraPrediction) -> None:
    told = replace(prediction, year=1977, interval=[1972, 1983])
    assert figures.answer_sentence(told) == "Probably 1977, most likely between 1972 and 1983."


def test_a_wide_interval_is_not_called_probable(prediction: EraPrediction) -> None:
    sentence = figures.answer_sentence(replace(prediction, year=1977, interval=[1950, 1995]))
    assert "robably" not in sentence
    assert {"1977", "1950", "1995"} <= set(re.findall(r"\d{4}", sentence))


def test_notices_stand_beside_the_answer(prediction: EraPrediction) -> None:
    assert "Taken for A." in figures.answer(prediction)


def test_the_caption_accounts_for_all_probability(prediction: EraPrediction) -> None:
    caption = figures.year_caption(prediction).split(". ")[0]
    shares = [int(share) for share in re.findall(r"(\d+) %", caption)]
    assert sum(shares) == pytest.approx(100, abs=len(shares) / 2)
    assert caption.startswith("By decade: 1970s")


def test_the_figure_draws_the_probabilities_that_were_given(prediction: EraPrediction) -> None:
    curves = {curve.name: curve for curve in figures.year_figure(prediction).data}
    assert curves.keys() == {"the answer", "sound alone", "artist alone"}
    for name, key in (("the answer", "both"), ("sound alone", "sound"), ("artist alone", "artist")):
        np.testing.assert_array_equal(curves[name].y, prediction.probabilities[key])
        np.testing.assert_array_equal(curves[name].x, YEARS)


def test_without_an_artist_one_curve_is_drawn(by_sound_alone: EraPrediction) -> None:
    assert [curve.name for curve in figures.year_figure(by_sound_alone).data] == ["the answer"]


def test_the_figure_shows_all_years_that_any_curve_finds_likely(prediction: EraPrediction) -> None:
    first, last = figures.year_figure(prediction).layout.xaxis.range
    for curve in prediction.probabilities.values():
        assert np.sum(np.array(curve)[(first < YEARS) & (last > YEARS)]) > 0.97


def test_attention_is_told_in_words(prediction: EraPrediction) -> None:
    html = figures.attention(prediction)
    assert "sound 70 %" in html
    assert "artist 30 %" in html
    assert "It listened most to 1:00–1:03." in html
    assert "“1976”, “formed”" in html
    assert "without the sound it would move by 1 year;" in html
    assert "without the artist it would move by 4 years." in html


def test_attention_without_an_artist_speaks_of_sound_only(by_sound_alone: EraPrediction) -> None:
    html = figures.attention(by_sound_alone)
    assert "sound 100 %" in html
    assert "words that weighed" not in html
    assert "A check" not in html


def test_each_known_recording_is_one_dot_in_its_decades_colour(known: EmbeddingMap) -> None:
    figure = figures.map_figure(known)
    assert sum(len(decade.x) for decade in figure.data) == len(known.years)
    for decade in figure.data:
        assert decade.marker.color == figures.DECADE_COLOURS[decade.name]
    texts = [text for decade in figure.data for text in decade.text]
    assert "<b>Artist 0</b><br>Title 0<br>1921" in texts


def test_the_song_is_a_star_and_its_ten_nearest_are_ringed(
    known: EmbeddingMap, prediction: EraPrediction
) -> None:
    traces = {trace.name: trace for trace in figures.map_figure(known, prediction).data}
    star, rings = traces["this song"], traces["nearest ten"]
    assert star.marker.symbol == "star"
    assert [star.x[0], star.y[0]] == prediction.map
    named = [f"<b>{near['artist']}</b>" for near in prediction.neighbours]
    assert [text.split("<br>")[0] for text in rings.text] == named


def test_neighbours_are_listed_nearest_first(prediction: EraPrediction) -> None:
    html = figures.neighbours(prediction)
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
        figures.answer(hostile),
        figures.attention(hostile),
        figures.neighbours(hostile),
        figures.message(evil),
        *figures.map_figure(strange).data[0].text,
    ]
    assert not any("<img" in html for html in shown)
