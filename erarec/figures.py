"""An answer made visible: Plotly figures, sentences and tables from an EraPrediction.

Colours that must suit light and dark pages alike (text, grid lines) are left to ``assets/page.css``;
what has a meaning (decades, sound, artist, the answer) has its colour here.
"""

from html import escape

import numpy as np
import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from erarec.maps import EmbeddingMap
from erarec.prediction import EraPrediction
from erarec.years import COVERAGE, DECADES, FIRST_YEAR, LAST_YEAR, decade

# Viridis: readable with every kind of colour blindness, and its lightness grows with the decade, so that
# the order shows without a legend. Its darkest and lightest ends vanish on black and on white.
DECADE_COLOURS = dict(
    zip(DECADES, sample_colorscale("Viridis", list(np.linspace(0.05, 0.95, len(DECADES)))), strict=True)
)
# White text can be read on each; hue and lightness differ for the colour-blind too, and the curves' dashes.
SOUND_COLOUR = "#2f74b5"
ARTIST_COLOUR = "#a06b00"
ANSWER_COLOUR = "#d6336c"

YEAR_FIGURE_HEIGHT = 300  # pixels; Gradio draws a Plotly figure without a height as nothing (gradio #13539)
MAP_FIGURE_HEIGHT = 520

UNSURE_YEARS = 25  # an interval wider than this is not called "probably"
SHOWN_PROBABILITY = 0.01  # decades below this in every curve are left out of the figure's range
SHOWN_DECADES = 4  # decades named in the sentence under the figure


def answer_sentence(prediction: EraPrediction) -> str:
    """The answer as a person would say it."""
    year, (low, high) = prediction.year, prediction.interval
    if high - low > UNSURE_YEARS:
        return f"Hard to tell: perhaps {year}, but anything from {low} to {high} would be no surprise."
    if low == high:
        return f"Almost certainly {year}."
    return f"Probably {year}, most likely between {low} and {high}."


def answer(prediction: EraPrediction) -> str:
    """HTML: the sentence, with the year set in bold, and what the listener should know beside it."""
    sentence = escape(answer_sentence(prediction))
    year = str(prediction.year)
    sentence = sentence.replace(year, f"<strong>{year}</strong>", 1)
    notices = "".join(f"<p class='notice'>{escape(notice)}</p>" for notice in prediction.notices)
    return f"<p class='sentence'>{sentence}</p>{notices}"


def message(sentence: str, kind: str = "hint") -> str:
    """HTML: a sentence in the place of an answer. ``kind``: "hint" or "problem"."""
    role = " role='alert'" if kind == "problem" else ""
    return f"<p class='{kind}'{role}>{escape(sentence)}</p>"


def year_caption(prediction: EraPrediction) -> str:
    """The figure over the years in words: "By decade: 1970s 71 %, 1980s 14 %, other decades 15 %."""
    ranked = sorted(prediction.decades.items(), key=lambda item: -item[1])
    named = [(name, share) for name, share in ranked[:SHOWN_DECADES] if round(100 * share) >= 1]
    parts = [f"{name} {_percent(share)}" for name, share in named]
    rest = 1 - sum(share for _, share in named)
    if round(100 * rest) >= 1:
        parts.append(f"other decades {_percent(rest)}")
    return f"By decade: {', '.join(parts)}. The shaded years together hold {_percent(COVERAGE)}."


def year_figure(prediction: EraPrediction) -> go.Figure:
    """How likely each year is, by sound, by artist and by both, over a ribbon of decades."""
    figure = go.Figure()
    # The answer comes first, its area lies beneath the lines of what it was made from.
    styles = [
        ("both", "the answer", {"color": ANSWER_COLOUR, "width": 3}),
        ("sound", "sound alone", {"color": SOUND_COLOUR, "width": 2, "dash": "dash"}),
        ("artist", "artist alone", {"color": ARTIST_COLOUR, "width": 2, "dash": "dot"}),
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
                fillcolor="rgba(214, 51, 108, 0.15)" if key == "both" else None,
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
    given = [np.asarray(curve) for curve in curves.values() if curve is not None]
    shares = np.max([curve.reshape(-1, 10).sum(-1) for curve in given], axis=0)
    likely = np.flatnonzero(shares >= SHOWN_PROBABILITY)
    # One decade either side, so that the hills are seen to end.
    first = max(0, likely[0] - 1)
    last = min(len(DECADES) - 1, likely[-1] + 1)
    _lay_out_years(figure, FIRST_YEAR + 10 * first, FIRST_YEAR + 10 * last + 10)
    figure.update_layout(
        hovermode="x unified", showlegend=True, yaxis={"tickformat": ".2~%", "rangemode": "tozero"}
    )
    return figure


def known_years_figure(known: EmbeddingMap) -> go.Figure:
    """How many recordings of each year the model has heard: what stands there before any answer."""
    years, counts = np.unique(known.years, return_counts=True)
    figure = go.Figure()
    figure.add_bar(
        x=years.tolist(),
        y=counts.tolist(),
        marker={"color": [DECADE_COLOURS[decade(year)] for year in years], "line": {"width": 0}},
        showlegend=False,
        hovertemplate="%{x}: %{y} recordings<extra></extra>",
    )
    _lay_out_years(figure, int(years[0]) // 10 * 10, int(years[-1]) // 10 * 10 + 10)
    figure.update_layout(bargap=0.15)
    return figure


def known_years_caption(known: EmbeddingMap) -> str:
    return f"The {len(known.years):,} recordings that it learned from, by year."


def attention(prediction: EraPrediction) -> str:
    """HTML: how much sound and artist weighed, which seconds and which words, and the check beside it."""
    sound, artist = prediction.attention["sound"], prediction.attention["artist"]
    parts = [
        "<div class='shares' role='img' aria-label='"
        f"Attention: sound {_percent(sound)}, artist {_percent(artist)}'>"
        + "".join(
            f"<span class='share' style='flex-grow:{share:.4f};background:{colour}'>"
            f"{name} {_percent(share)}</span>"
            for name, share, colour in (("sound", sound, SOUND_COLOUR), ("artist", artist, ARTIST_COLOUR))
            if round(100 * share) >= 1
        )
        + "</div>"
    ]
    if prediction.sound_attention:
        parts.append(_seconds(prediction.sound_attention))
    if prediction.word_attention:
        parts.append(_words(prediction.word_attention))
    shifts = [
        f"without the {name} it would {f'move by {_years(abs(shift))}' if shift else 'stay the same'}"
        for name, shift in prediction.shift_without.items()
        if shift is not None
    ]
    if shifts:
        parts.append(f"<p>A check of the answer: {'; '.join(shifts)}.</p>")
    parts.append(
        "<p class='aside'>Attention tells where the model looked, not why it answered as it did; "
        "taking a side away tells what that side changed.</p>"
    )
    return "".join(parts)


def map_figure(known: EmbeddingMap, prediction: EraPrediction | None = None) -> go.Figure:
    """Every known recording as a dot in its decade's colour; the song, if any, as a star.

    The ten recordings nearest in the embedding space are ringed; on the map they need not be the nearest.
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
                name=decade(start),
                marker={"color": DECADE_COLOURS[decade(start)], "size": 6, "line": {"width": 0.5}},
            )
    if prediction is not None:
        nearest, _ = known.nearest(np.asarray(prediction.embedding, dtype=np.float32))
        _add_recordings(
            figure,
            known,
            nearest,
            name="nearest ten",
            marker={
                "symbol": "circle-open",
                "size": 13,
                "color": ANSWER_COLOUR,
                "line": {"width": 2, "color": ANSWER_COLOUR},
            },
        )
        x, y = prediction.map
        figure.add_scatter(
            x=[x],
            y=[y],
            name="this song",
            mode="markers",
            marker={
                "symbol": "star",
                "size": 22,
                "color": ANSWER_COLOUR,
                "line": {"width": 2, "color": "white"},
            },
            hovertemplate=f"<b>this song</b><br>probably {prediction.year}<extra></extra>",
        )
    _lay_out(figure, MAP_FIGURE_HEIGHT)
    figure.update_layout(
        hovermode="closest",
        legend={"y": 0, "yanchor": "top", "itemsizing": "constant"},
        margin={"t": 8, "b": 8},
        # The axes of a UMAP have no meaning of their own, only nearness has: no ticks, equal scales.
        xaxis={"visible": False},
        yaxis={"visible": False, "scaleanchor": "x"},
    )
    return figure


def map_caption(known: EmbeddingMap) -> str:
    """What the map shows, for those who see it and those who do not."""
    return (
        f"Each dot is one of {len(known.years):,} recordings, coloured by decade. What the model finds alike "
        "lies close together; distances between far-off groups mean little. Click a decade to hide it."
    )


def neighbours(prediction: EraPrediction) -> str:
    """HTML: a table of the recordings nearest in the embedding space, nearest first."""
    rows = "".join(
        "<tr>"
        f"<td><span class='swatch' style='background:{DECADE_COLOURS[decade(int(near['year']))]}'></span>"
        f"{near['year']}</td><td>{escape(str(near['artist']))}</td><td>{escape(str(near['title']))}</td>"
        f"<td>{near['similarity']:.2f}</td></tr>"
        for near in prediction.neighbours
    )
    return (
        "<table><thead><tr><th scope='col'>Year</th><th scope='col'>Artist</th><th scope='col'>Title</th>"
        "<th scope='col' title='cosine of the embeddings'>Likeness</th></tr></thead>"
        f"<tbody>{rows}</tbody></table>"
    )


def _add_recordings(
    figure: go.Figure, known: EmbeddingMap, chosen: np.ndarray, name: str, marker: dict
) -> None:
    x, y = np.round(known.coordinates[chosen], 3).T.tolist()
    figure.add_scatter(
        x=x,
        y=y,
        name=name,
        mode="markers",
        marker=marker,
        # Plotly reads a little HTML in what it shows.
        text=[
            f"<b>{escape(known.artists[i])}</b><br>{escape(known.titles[i])}<br>{known.years[i]}"
            for i in chosen
        ],
        hovertemplate="%{text}<extra></extra>",
    )


def _lay_out(figure: go.Figure, height: int) -> None:
    figure.update_layout(
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


def _lay_out_years(figure: go.Figure, first: int, last: int) -> None:
    """An axis from ``first`` to ``last``, both the first year of a decade, with the decades as a ribbon."""
    _lay_out(figure, YEAR_FIGURE_HEIGHT)
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
            "ticktext": [decade(start) for start in starts],
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


def _seconds(shares: list[dict[str, float]]) -> str:
    """HTML: a bar for each excerpt, along the recording."""
    end = max(excerpt["end"] for excerpt in shares)
    most = max(excerpt["share"] for excerpt in shares) or 1.0
    bars = "".join(
        f"<span style='left:{100 * excerpt['start'] / end:.2f}%;"
        f"width:{100 * (excerpt['end'] - excerpt['start']) / end:.2f}%;"
        f"height:{100 * excerpt['share'] / most:.0f}%;background:{SOUND_COLOUR}' "
        f"title='{_span(excerpt)}: {_percent(excerpt['share'])}'></span>"
        for excerpt in shares
    )
    strongest = max(shares, key=lambda excerpt: excerpt["share"])
    return (
        f"<p>It listened most to {_span(strongest)}.</p>"
        f"<div class='seconds' aria-hidden='true'>{bars}</div>"
        f"<div class='clock' aria-hidden='true'><span>0:00</span><span>{_clock(end)}</span></div>"
    )


def _words(shares: list[dict[str, str | float]]) -> str:
    """HTML: the biography, each word on a ground as strong as its weight."""
    most = max(float(word["share"]) for word in shares) or 1.0
    ranked = sorted(shares, key=lambda word: -float(word["share"]))
    words = " ".join(
        f"<span style='--weight:{float(word['share']) / most:.2f}' title='{_percent(float(word['share']))}'>"
        f"{escape(str(word['word']))}</span>"
        for word in shares
    )
    named = ", ".join(f"“{escape(str(word['word']).strip('.,;:()'))}”" for word in ranked[:3])
    return (
        f"<p>The words that weighed most: {named}.</p>"
        f"<p class='words' style='--colour:{ARTIST_COLOUR}'>{words}</p>"
    )


def _percent(share: float) -> str:
    return f"{round(100 * share)} %"


def _years(count: float) -> str:
    return f"{count:.0f} year" if round(count) == 1 else f"{count:.0f} years"


def _span(excerpt: dict[str, float]) -> str:
    return f"{_clock(excerpt['start'])}–{_clock(excerpt['end'])}"


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
