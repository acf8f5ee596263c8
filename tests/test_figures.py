"""What is shown says what was predicted, in colours and words that everybody can tell apart."""

from dataclasses import replace

import numpy as np
from plotly.colors import unlabel_rgb

from erarec import figures
from erarec.maps import EmbeddingMap
from erarec.prediction import EraPrediction
from erarec.texts import Texts
from erarec.years import DECADES, YEARS


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
        figures.comparison_figure([("one", prediction), ("two", prediction)]),
    ):
        assert figure.layout.height > 100


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


def test_each_known_recording_is_one_dot_in_its_decades_colour(known: EmbeddingMap) -> None:
    figure = figures.map_figure(known)
    assert sum(len(decade.x) for decade in figure.data) == len(known.years)
    for decade in figure.data:
        assert decade.marker.color == figures.DECADE_COLOURS[decade.name]
    assert ["Artist 0", "Title 0", 1921] in [list(row) for row in figure.data[0].customdata]


def test_the_song_is_a_star_and_its_ten_nearest_are_ringed(
    known: EmbeddingMap, prediction: EraPrediction
) -> None:
    traces = {trace.name: trace for trace in figures.map_figure(known, prediction).data}
    star, rings = traces["this song"], traces["nearest ten"]
    assert star.marker.symbol == "star"
    assert [star.x[0], star.y[0]] == prediction.map
    assert [row[0] for row in rings.customdata] == [near["artist"] for near in prediction.neighbours]


def test_a_known_recording_drawn_by_lot_stands_where_it_lies(known: EmbeddingMap) -> None:
    traces = {trace.name: trace for trace in figures.map_figure(known, drawn=7).data}
    star = traces["drawn by lot"]
    np.testing.assert_allclose([star.x[0], star.y[0]], known.coordinates[7])
    assert "Artist 7" in star.hovertemplate
    assert traces["nearest ten"].customdata[0][1] == "Title 7"


def test_a_comparison_draws_each_answer_on_the_same_years(
    prediction: EraPrediction, by_sound_alone: EraPrediction
) -> None:
    answers = [("as it is", prediction), ("by radio", replace(by_sound_alone, year=1950))]
    figure = figures.comparison_figure(answers)
    assert [curve.name for curve in figure.data] == [f"as it is: {prediction.year}", "by radio: 1950"]
    for curve, (_, answer) in zip(figure.data, answers, strict=True):
        np.testing.assert_array_equal(curve.y, answer.probabilities["both"])
    assert len({(curve.line.color, curve.line.dash) for curve in figure.data}) == 2


def test_figures_speak_the_readers_language(known: EmbeddingMap, prediction: EraPrediction) -> None:
    say = Texts("de")
    assert figures.year_figure(prediction, say).layout.separators == ",."
    assert figures.year_figure(prediction, say).data[0].name == "die Antwort"
    assert "1970er" in [trace.name for trace in figures.map_figure(known, prediction, say=say).data]
