"""An answer made visible: Plotly figures from an EraPrediction. What is said in words is in ``panels``.

Colours that must suit light and dark pages alike (text, grid lines) are left to ``assets/page.css``;
what has a meaning (decades, sound, artist, the answer) has its colour here. ``say`` says names in the
reader's language.
"""

from collections.abc import Sequence
from html import escape

import numpy as np
import plotly.graph_objects as go
from plotly.colors import hex_to_rgb, sample_colorscale

from erarec.maps import EmbeddingMap
from erarec.prediction import EraPrediction
from erarec.texts import ENGLISH, Texts
from erarec.years import DECADES, FIRST_YEAR, LAST_YEAR, decade

# Viridis: readable with every kind of colour blindness, and its lightness grows with the decade, so that
# the order shows without a legend. Its darkest and lightest ends vanish on black and on white.
DECADE_COLOURS = dict(
    zip(DECADES, sample_colorscale("Viridis", list(np.linspace(0.05, 0.95, len(DECADES)))), strict=True)
)
# White text can be read on each; hue and lightness differ for the colour-blind too, and the curves' dashes.
SOUND_COLOUR = "#2f74b5"
ARTIST_COLOUR = "#a06b00"
ANSWER_COLOUR = "#d6336c"

COMPARED = ((ANSWER_COLOUR, "solid"), (SOUND_COLOUR, "dash"), (ARTIST_COLOUR, "dot"), ("#5b8a3a", "dashdot"))

YEAR_FIGURE_HEIGHT = 300  # pixels; Gradio draws a Plotly figure without a height as nothing (gradio #13539)
MAP_FIGURE_HEIGHT = 420
RECORDING = "<b>{}</b><br>{}<br>{}"  # artist, title and year, as shown under the pointer

SHOWN_PROBABILITY = 0.01  # decades below this in every curve are left out of the figure's range


def year_figure(prediction: EraPrediction, say: Texts = ENGLISH) -> go.Figure:
    """How likely each year is, by sound, by artist and by both, over a ribbon of decades."""
    figure = go.Figure()
    # The answer comes first, its area lies beneath the lines of what it was made from.
    styles = [
        ("both", say("the answer"), {"color": ANSWER_COLOUR, "width": 3}),
        ("sound", say("sound alone"), {"color": SOUND_COLOUR, "width": 2, "dash": "dash"}),
        ("artist", say("artist alone"), {"color": ARTIST_COLOUR, "width": 2, "dash": "dot"}),
    ]
    curves = {key: prediction.probabilities.get(key) for key, _, _ in styles}
    # Where only one side was heard, it is the answer: a second line on top of it would say nothing.
    if curves["sound"] is None or curves["artist"] is None:
        curves["sound"] = curves["artist"] = None
    for key, name, line in styles:
        if curves[key] is not None:
            figure.add_scatter(
                x=prediction.years,
                y=curves[key],
                name=name,
                mode="lines",
                line={**line, "shape": "spline", "smoothing": 0.6},
                fill="tozeroy" if key == "both" else None,
                fillcolor=f"rgba{(*hex_to_rgb(ANSWER_COLOUR), 0.15)}" if key == "both" else None,
                hovertemplate="%{y:.1%}",
            )
    low, high = prediction.interval
    figure.add_vrect(
        x0=low - 0.5, x1=high + 0.5, fillcolor=ANSWER_COLOUR, opacity=0.08, line_width=0, layer="below"
    )
    figure.add_vline(x=prediction.year, line={"color": ANSWER_COLOUR, "width": 1})
    figure.add_annotation(
        x=prediction.year,
        y=1,
        yref="paper",
        yanchor="bottom",
        text=f"<b>{prediction.year}</b>",
        showarrow=False,
    )
    _lay_out_years(figure, *shown_decades([curve for curve in curves.values() if curve is not None]), say)
    figure.update_layout(
        hovermode="x unified", showlegend=True, yaxis={"tickformat": ".2~%", "rangemode": "tozero"}
    )
    return figure


def shown_decades(curves: Sequence[Sequence[float]]) -> tuple[int, int]:
    """First year of the first decade worth showing, and of the one after the last.

    Shape: any number of distributions over YEARS.
    """
    shares = np.max([np.reshape(curve, (-1, 10)).sum(-1) for curve in curves], axis=0)
    likely = np.flatnonzero(shares >= SHOWN_PROBABILITY)
    # One decade either side, so that the hills are seen to end.
    first, last = max(0, likely[0] - 1), min(len(DECADES) - 1, likely[-1] + 1)
    return FIRST_YEAR + 10 * int(first), FIRST_YEAR + 10 * int(last) + 10


def comparison_figure(answers: Sequence[tuple[str, EraPrediction]], say: Texts = ENGLISH) -> go.Figure:
    """How likely each year is by several answers, at most four, each with its name."""
    figure = go.Figure()
    curves = [prediction.probabilities["both"] or [] for _, prediction in answers]
    for (name, prediction), curve, (colour, dash) in zip(answers, curves, COMPARED, strict=False):
        figure.add_scatter(
            x=prediction.years,
            y=curve,
            name=f"{escape(name)}: {prediction.year}",
            mode="lines",
            line={"color": colour, "width": 3, "dash": dash, "shape": "spline", "smoothing": 0.6},
            hovertemplate="%{y:.1%}",
        )
    _lay_out_years(figure, *shown_decades(curves), say)
    figure.update_layout(
        hovermode="x unified", showlegend=True, yaxis={"tickformat": ".2~%", "rangemode": "tozero"}
    )
    return figure


def known_years_figure(known: EmbeddingMap, say: Texts = ENGLISH) -> go.Figure:
    """How many recordings of each year the model has heard: what stands there before any answer."""
    years, counts = np.unique(known.years, return_counts=True)
    figure = go.Figure()
    figure.add_bar(
        x=years.tolist(),
        y=counts.tolist(),
        marker={"color": [DECADE_COLOURS[decade(year)] for year in years], "line": {"width": 0}},
        showlegend=False,
        hovertemplate=say("%{x}: %{y} recordings") + "<extra></extra>",
    )
    _lay_out_years(figure, int(years[0]) // 10 * 10, int(years[-1]) // 10 * 10 + 10, say)
    figure.update_layout(bargap=0.15)
    return figure


def map_figure(
    known: EmbeddingMap,
    prediction: EraPrediction | None = None,
    say: Texts = ENGLISH,
    drawn: int | None = None,
) -> go.Figure:
    """Every known recording as a dot in its decade's colour; the song, if any, as a star.

    The ten recordings nearest in the embedding space are ringed; on the map they need not be the nearest.

    Args:
        drawn: the row of a known recording that stands in a song's place.
    """
    figure = go.Figure()
    decades = known.years // 10 * 10
    for start in range(FIRST_YEAR, LAST_YEAR, 10):
        chosen = np.flatnonzero(decades == start)
        if len(chosen):
            _add_recordings(
                figure,
                known,
                chosen,
                name=say("{year}s", year=start),
                marker={"color": DECADE_COLOURS[decade(start)], "size": 6, "line": {"width": 0.5}},
                showlegend=False,  # the buttons under the map have the colours
            )
    star = None
    if prediction is not None:
        embedding, star = np.asarray(prediction.embedding, dtype=np.float32), prediction.map
        name, hover = say("this song"), say("probably {year}", year=prediction.year)
    elif drawn is not None:
        embedding, star = known.embeddings[drawn], known.coordinates[drawn].tolist()
        name, hover = say("drawn by lot"), RECORDING.format(*_recording(known, drawn))
    if star is not None:
        nearest, _ = known.nearest(embedding)
        _add_recordings(
            figure,
            known,
            nearest,
            name=say("nearest ten"),
            marker={
                "symbol": "circle-open",
                "size": 13,
                "color": ANSWER_COLOUR,
                "line": {"width": 2, "color": ANSWER_COLOUR},
            },
            showlegend=True,
        )
        figure.add_scatter(
            x=star[:1],
            y=star[1:],
            name=name,
            mode="markers",
            marker={
                "symbol": "star",
                "size": 22,
                "color": ANSWER_COLOUR,
                "line": {"width": 2, "color": "white"},
            },
            hovertemplate=f"<b>{name}</b><br>{hover}<extra></extra>",
        )
    _lay_out(figure, MAP_FIGURE_HEIGHT, say)
    figure.update_layout(
        hovermode="closest",
        legend={"y": 0, "yanchor": "top", "itemsizing": "constant"},
        margin={"t": 8, "b": 8},
        # The axes of a UMAP have no meaning of their own, only nearness has: no ticks, equal scales.
        xaxis={"visible": False},
        yaxis={"visible": False, "scaleanchor": "x"},
    )
    return figure


def _add_recordings(
    figure: go.Figure, known: EmbeddingMap, chosen: np.ndarray, name: str, marker: dict, showlegend: bool
) -> None:
    x, y = known.coordinates[chosen].T
    figure.add_scatter(
        x=x,
        y=y,
        name=name,
        mode="markers",
        marker=marker,
        showlegend=showlegend,
        # Plotly reads a little HTML in what it shows; its tags stand in the template alone, once.
        customdata=[_recording(known, i) for i in chosen],
        hovertemplate=RECORDING.format(*(f"%{{customdata[{column}]}}" for column in range(3)))
        + "<extra></extra>",
    )


def _recording(known: EmbeddingMap, row: int) -> tuple[str, str, int]:
    return escape(known.artists[row]), escape(known.titles[row]), int(known.years[row])


def _lay_out(figure: go.Figure, height: int, say: Texts) -> None:
    figure.update_layout(
        separators=say.separators,
        template="none",
        height=height,
        margin={"l": 8, "r": 8, "t": 28, "b": 36},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "inherit", "size": 13},
        hoverlabel={"bgcolor": "#27272a", "bordercolor": "#27272a", "font": {"color": "white", "size": 13}},
        legend={"orientation": "h", "x": 0, "xanchor": "left"},
        dragmode=False,  # a drag on a phone scrolls the page
        modebar={"remove": ["select2d", "lasso2d", "autoScale2d"]},
    )


def _lay_out_years(figure: go.Figure, first: int, last: int, say: Texts) -> None:
    """An axis from ``first`` to ``last``, both the first year of a decade, with the decades as a ribbon."""
    _lay_out(figure, YEAR_FIGURE_HEIGHT, say)
    for start in range(first, last, 10):
        figure.add_shape(
            type="rect",
            x0=start - 0.5,
            x1=start + 9.5,
            y0=-0.045,
            y1=-0.01,
            yref="paper",
            fillcolor=DECADE_COLOURS[decade(start)],
            line_width=0,
        )
    wide = last - first > 80
    starts = list(range(first, last, 20 if wide else 10))
    figure.update_layout(
        xaxis={
            "range": [first - 0.5, last - 0.5],
            "tickvals": starts,
            "ticktext": [str(start) for start in starts],
            "ticklabelstandoff": 10,
            "tickangle": 0,
            "showgrid": True,
            "zeroline": False,
            "hoverformat": "d",
            "fixedrange": True,
        },
        yaxis={"nticks": 4, "zeroline": False, "fixedrange": True, "automargin": True},
        legend={"y": -0.2, "yanchor": "top"},
    )
