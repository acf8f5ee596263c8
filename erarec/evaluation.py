"""How good a model is: metrics with their uncertainty, by source and decade, beside wide baselines.

A METRICS is a dictionary: "n" clips and, for each of :data:`METRICS`, {"value", "low", "high"}: years
for "mae", shares of 1 for the rest.

Songs of one artist are right or wrong together, so clips are no independent draws: every interval comes
from a bootstrap over artists. All but one metric are means over clips, and so sums over artists; a
resample is then one row of counts times a table of sums, and a thousand of them one matrix product.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from scipy.optimize import minimize, minimize_scalar
from scipy.special import logsumexp, softmax
from torch import Tensor

import erarec
from erarec import years
from erarec.clips import (
    Clip,
    FeatureCache,
    Features,
    Material,
    TextTable,
    build_biographies,
    read_manifest,
)
from erarec.maps import EmbeddingMap, build_map, neighbour_agreement
from erarec.models import EraModel, gather, no_words

if TYPE_CHECKING:
    from erarec.prediction import EraRecognizer

METRICS = {  # name: heading in a table
    "mae": "error, years",
    "within_3": "within 3 years",
    "decade": "right decade",
    "within_1_decade": "within a decade",
    "ece": "calibration error",
    "coverage_80": "80 % interval holds",
}
MEANS = ("mae", "within_3", "decade", "within_1_decade", "coverage_80")  # ece alone is none
ECE_BINS = 10
CALIBRATION_SIGMA = 0.5  # years: within a year all is one
RIDGE = 0.01  # on what the product's weights go by, so that a thousand clips are enough to tell
RESAMPLES = 1000
TAILS = (2.5, 97.5)  # percentiles: a 95 % interval

Metrics = dict[str, Any]


class Labelled(Protocol):
    """What a report needs to know about a clip; ``clips.Clip`` has it."""

    @property
    def source(self) -> str: ...
    @property
    def artist_key(self) -> str: ...
    @property
    def year_lo(self) -> int: ...
    @property
    def year_hi(self) -> int: ...
    @property
    def scored(self) -> bool: ...
    @property
    def fold(self) -> int: ...


def metrics(
    probabilities: np.ndarray,
    year_lo: np.ndarray,
    year_hi: np.ndarray,
    artists: Sequence[str] | np.ndarray,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Metrics:
    """Errors, hits, calibration and coverage over N clips, each with a 95 % interval over artists.

    The truth is the middle of the range, (year_lo + year_hi) / 2.

    ===================  =======================================================================
    ``mae``              mean absolute error of the distribution's *median*, the point that makes
                         it least; in years
    ``within_3``         share whose `year` (``years.best_year``, the point that makes it most) is
                         at most 3 years off
    ``decade``           share whose `year` lies in the true decade
    ``within_1_decade``  share whose `year` lies in the true decade or one beside it
    ``ece``              expected calibration error of decades: clips are put into 10 equal bins by
                         the probability of their likeliest decade; sum over bins of
                         |sum over its clips of (that probability - whether it is right)| / N
    ``coverage_80``      share whose smallest 80 % span (``years.interval``) holds the truth
    ===================  =======================================================================

    ece is a sum of absolute values: noise adds to it, in a resample more than in the data. Its resamples
    are moved by the difference of their mean from the value, and so lie around it. For the same reason
    it is not to be compared between sets of very different n. With one artist, low = value = high:
    nothing is known about others.

    Shape: probabilities [N, 140], year_lo, year_hi, artists [N] -> METRICS.
    Raises ValueError when N is 0.

    Example: one clip of 1970, sure of 1972.

        >>> sure = years.target_distribution(np.array([1972]), np.array([1972]), sigma=1)
        >>> result = metrics(sure, np.array([1970]), np.array([1970]), ["a"])
        >>> result["n"], result["mae"]["value"], result["within_3"]["value"]
        (1, 2.0, 1.0)
    """
    return _summary(
        _outcomes(probabilities, np.asarray(year_lo), np.asarray(year_hi)), artists, resamples, seed
    )


def fit_temperature(probabilities: np.ndarray, year_lo: np.ndarray, year_hi: np.ndarray) -> float:
    """The temperature T that makes p ** (1 / T), renormalised, likeliest (Guo et al. 2017, arXiv 1706.04599).

    Models are trained on labels spread over some years, and so are less sure of the year than they could
    be; here the label is the range itself.

    Shape: probabilities [N, 140], year_lo, year_hi [N] -> float, between 0.25 and 4.
    """
    logs = np.log(np.maximum(probabilities, 1e-12))
    target = years.target_distribution(year_lo, year_hi, CALIBRATION_SIGMA)

    def cost(log_temperature: float) -> float:
        scaled = logs / np.exp(log_temperature)
        return float((logsumexp(scaled, axis=1) - (target * scaled).sum(1)).mean())

    bounds = np.log(0.25), np.log(4)
    return float(np.exp(minimize_scalar(cost, bounds=bounds, method="bounded").x))


def at_temperature(probabilities: np.ndarray, temperature: np.ndarray | float) -> np.ndarray:
    """p ** (1 / T), renormalised. Shape: [N, 140], T [N] or a number -> [N, 140] float32."""
    inverse = 1 / np.broadcast_to(np.asarray(temperature), len(probabilities))[:, None]
    return softmax(np.log(np.maximum(probabilities, 1e-12)) * inverse, axis=1).astype(np.float32)


def fit_weights(parts: np.ndarray, known: np.ndarray, year_lo: np.ndarray, year_hi: np.ndarray) -> np.ndarray:
    """The weights, linear in what is ``known`` of a clip, that make a x + b y + z likeliest.

    Shape: parts [3, N, 140], x, y and z as log-probabilities; known [N, K], with a column of ones first;
    year_lo, year_hi [N] -> [2, K], the rows of a and b.
    """
    target = years.target_distribution(year_lo, year_hi, CALIBRATION_SIGMA)

    def cost(flat: np.ndarray) -> tuple[float, np.ndarray]:  # convex, and its gradient
        rows = flat.reshape(2, -1)
        weights = known @ rows.T
        logs = _weighted(parts, weights)
        surplus = softmax(logs, axis=1) - target
        moved = (surplus * parts[:2]).sum(2).T * (weights > 0)  # [N, 2]
        gradient = moved.T @ known / len(known)
        slopes = np.pad(rows[:, 1:], ((0, 0), (1, 0)))
        value = (logsumexp(logs, axis=1) - (target * logs).sum(1)).mean() + RIDGE * (slopes**2).sum()
        return float(value), (gradient + 2 * RIDGE * slopes).ravel()

    start = np.zeros((2, known.shape[1]))
    start[:, 0] = 1
    return minimize(cost, start.ravel(), jac=True, method="L-BFGS-B").x.reshape(2, -1)


def with_weights(parts: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """a x + b y + z, renormalised. Shape: [3, N, 140], weights a and b [N, 2] -> [N, 140] float32."""
    return softmax(_weighted(parts, weights), axis=1).astype(np.float32)


def _weighted(parts: np.ndarray, weights: np.ndarray) -> np.ndarray:
    first, second = np.maximum(weights, 0).T[..., None]
    return first * parts[0] + second * parts[1] + parts[2]


def fitted_by_fold(
    clips: Sequence[Labelled], chosen: np.ndarray, fit: Callable[[np.ndarray, np.ndarray, np.ndarray], Any]
) -> np.ndarray:
    """For each clip what ``fit`` finds on the scored and ``chosen`` clips of the other folds.

    Args:
        chosen: [N] bool.
        fit: from (which clips [N] bool, their year_lo, their year_hi) to a number or an array [K].

    Returns [N] or [N, K].
    """
    folds, scored = np.array([clip.fold for clip in clips]), np.array([clip.scored for clip in clips])
    lo, hi = np.array([c.year_lo for c in clips]), np.array([c.year_hi for c in clips])
    fitted = {}
    for fold in np.unique(folds):
        others = scored & chosen & (folds != fold)
        fitted[fold] = fit(others, lo[others], hi[others])
    return np.array([fitted[fold] for fold in folds])


def report(
    clips: Sequence[Labelled],
    probabilities: np.ndarray,
    out_of_fold: bool = False,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """METRICS over the scored clips: overall, by source, by decade, and of two answers that hear nothing.

    The baselines always say the median year, and always the median year of the clip's source (what
    recognising the source alone would give), as a distribution with all its weight on that year. With
    ``out_of_fold`` the medians are those of the other folds' scored clips, as for a model that was
    trained on these; a source that is in no other fold gets the median of all. Otherwise, the
    medians of these very clips, which no model has: a little better than a baseline can be.

    Shape: N clips, probabilities [N, 140] in their order ->
    {"clips", "scored", "overall", "by_source", "by_decade", "baselines": {"median", "source_median"}}.
    Raises ValueError when no clip is scored.
    """
    if len(clips) != len(probabilities):
        raise ValueError(f"{len(clips)} clips, but {len(probabilities)} distributions.")
    chosen = [index for index, clip in enumerate(clips) if clip.scored]
    scored = [clips[index] for index in chosen]
    year_lo = np.array([clip.year_lo for clip in scored], dtype=int)
    year_hi = np.array([clip.year_hi for clip in scored], dtype=int)
    artists = np.array([clip.artist_key for clip in scored])
    sources = np.array([clip.source for clip in scored])
    folds = np.array([clip.fold for clip in scored])
    truth = (year_lo + year_hi) / 2
    decades = np.array([years.decade(year) for year in truth])
    outcomes = _outcomes(probabilities[chosen], year_lo, year_hi)

    def summary(outcomes: np.ndarray, members: np.ndarray) -> Metrics:
        return _summary(outcomes[members], artists[members], resamples, seed)

    def groups(names: np.ndarray) -> dict[str, Metrics]:
        return {str(name): summary(outcomes, names == name) for name in np.unique(names)}

    def constant(answers: np.ndarray) -> Metrics:
        certain = np.eye(years.YEAR_COUNT)[answers - years.FIRST_YEAR]
        return summary(_outcomes(certain, year_lo, year_hi, answers), everything)

    everything = np.ones(len(scored), dtype=bool)
    overall = summary(outcomes, everything)
    median, source_median = np.empty(len(scored), dtype=int), np.empty(len(scored), dtype=int)
    for fold in np.unique(folds) if out_of_fold else [None]:
        here = folds == fold if out_of_fold else everything
        known = ~here if out_of_fold else everything
        if not known.any():
            raise ValueError("Out-of-fold medians need scored clips in at least two folds.")
        median[here] = source_median[here] = int(np.median(truth[known]))
        for source in np.unique(sources[known]):
            source_median[here & (sources == source)] = int(np.median(truth[known & (sources == source)]))

    return {
        "clips": len(clips),
        "scored": len(scored),
        "overall": overall,
        "by_source": groups(sources),
        "by_decade": groups(decades),
        "baselines": {"median": constant(median), "source_median": constant(source_median)},
    }


def paired_difference(
    first: np.ndarray,
    second: np.ndarray,
    year_lo: np.ndarray,
    year_hi: np.ndarray,
    artists: Sequence[str] | np.ndarray,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Metrics:
    """How "mae" and "within_3" change from the first model to the second on the same clips.

    Value and 95 % interval (over artists) of the second's less the first's: the second is better where
    "mae" is below and "within_3" above 0. Much narrower than two intervals side by side, for what makes
    a clip hard is hard for both.

    Shape: first, second [N, 140]; year_lo, year_hi, artists [N] -> {"n", "mae", "within_3"}.
    Raises ValueError when N is 0.
    """
    year_lo, year_hi = np.asarray(year_lo), np.asarray(year_hi)
    difference = _outcomes(second, year_lo, year_hi) - _outcomes(first, year_lo, year_hi)
    sums, resampled = _bootstrap(
        difference[:, [MEANS.index("mae"), MEANS.index("within_3")]], artists, resamples, seed
    )
    return {"n": len(first)} | {
        name: _interval(sums[column] / len(first), resampled[:, column] / resampled[:, -1])
        for column, name in enumerate(("mae", "within_3"))
    }


def log_likelihood(probabilities: np.ndarray, year_lo: np.ndarray, year_hi: np.ndarray) -> np.ndarray:
    """The log of what an answer gives to the years that a clip may be from. Shape: [N, 140], [N] -> [N]."""
    within = (year_lo[:, None] <= years.YEARS) & (year_hi[:, None] >= years.YEARS)
    return np.log(np.maximum((probabilities * within).sum(1), 1e-12))


def mean_interval(
    values: np.ndarray,
    artists: Sequence[str] | np.ndarray,
    over: np.ndarray | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, float]:
    """The mean of one number a clip, and its 95 % interval over artists; with ``over``, sum over sum.

    Shape: values, artists and over [N] -> {"value", "low", "high"}. Raises ValueError when N is 0.

    Example: half of the way, each artist's in its own proportion.

        >>> mean_interval(np.array([1.0, 3.0]), ["a", "b"], over=np.array([2.0, 6.0]))
        {'value': 0.5, 'low': 0.5, 'high': 0.5}
    """
    over = np.ones(len(values)) if over is None else over
    sums, resampled = _bootstrap(np.column_stack([values, over]), artists, resamples, seed)
    with np.errstate(invalid="ignore", divide="ignore"):
        return _interval(sums[0] / sums[1], resampled[:, 0] / resampled[:, 1])


def describe_change(change: Metrics) -> str:
    """A :func:`paired_difference` in words: what it adds or costs, or that its interval holds 0.

    Example:

        >>> up = {"value": 0.21, "low": 0.19, "high": 0.24}
        >>> none = {"value": -0.1, "low": -0.3, "high": 0.1}
        >>> print(*describe_change({"within_3": up, "mae": none}).split("; "), sep="\\n")
        adds 21.0 points within 3 years (+19.0 to +24.0)
        no measurable effect on the error (-0.10 years, -0.30 to +0.10)
    """
    hits = {name: 100 * value for name, value in change["within_3"].items()}
    error = change["mae"]
    if holds_zero(hits):
        first = "no measurable effect within 3 years ({value:+.1f} points, {low:+.1f} to {high:+.1f})"
    else:
        verb = "adds" if hits["value"] > 0 else "costs"
        first = f"{verb} {abs(hits['value']):.1f} points within 3 years ({{low:+.1f}} to {{high:+.1f}})"
    if holds_zero(error):
        second = "no measurable effect on the error ({value:+.2f} years, {low:+.2f} to {high:+.2f})"
    else:
        verb = "adds" if error["value"] > 0 else "takes"
        second = f"{verb} {abs(error['value']):.2f} years of error ({{low:+.2f}} to {{high:+.2f}})"
    return f"{first.format(**hits)}; {second.format(**error)}"


def holds_zero(score: Mapping[str, float]) -> bool:
    """Whether nothing is within the interval, so that no effect was measured."""
    return score["low"] <= 0 <= score["high"]


def markdown_table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """A README's table: a line for each named report (of which it takes "overall") or METRICS.

    Example:

        >>> half = {"value": 0.5, "low": 0.4, "high": 0.7}
        >>> markdown_table({"ours": {"n": 8} | dict.fromkeys(METRICS, half)}).splitlines()[-1][:43]
        '| ours | 8 | 0.5 (0.4–0.7) | 50 % (40–70) |'
    """
    cells = []
    for name, row in rows.items():
        scores = row.get("overall", row)
        cells.append([name, f"{scores['n']:,}", *(cell(metric, scores[metric]) for metric in METRICS)])
    return table(["", "clips", *METRICS.values()], cells)


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown: the first column to the left, the others to the right."""
    lines = [headings, ["---"] + ["---:"] * (len(headings) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def cell(metric: str, score: Mapping[str, float]) -> str:
    """One of METRICS with its interval, as tables show it."""
    value, low, high = score["value"], score["low"], score["high"]
    if metric == "mae":
        return f"{value:.1f} ({low:.1f}–{high:.1f})"
    if metric == "ece":
        return f"{value:.2f} ({low:.2f}–{high:.2f})"
    return f"{100 * value:.0f} % ({100 * low:.0f}–{100 * high:.0f})"


def change_cells(change: Metrics) -> list[str]:
    """A :func:`paired_difference` as tables show it: points within 3 years, years of error."""
    points = {name: 100 * value for name, value in change["within_3"].items()}
    return [
        "{value:+.1f} ({low:+.1f} to {high:+.1f})".format(**points),
        "{value:+.2f} ({low:+.2f} to {high:+.2f})".format(**change["mae"]),
    ]


def _outcomes(
    probabilities: np.ndarray, year_lo: np.ndarray, year_hi: np.ndarray, year: np.ndarray | None = None
) -> np.ndarray:
    """What happened to each clip: columns :data:`MEANS`, then its gap in its bin of confidence.

    ``year`` replaces the window rule, which has a tie to break where all weight is on one year.
    Shape: [N, 140] and [N] -> [N, 5 + ECE_BINS] float64.
    """
    truth = (year_lo + year_hi) / 2
    year = years.best_year(probabilities) if year is None else year
    spans = np.array([years.interval(row) for row in probabilities]).reshape(-1, 2)
    true_decade = (truth - years.FIRST_YEAR) // 10
    decades_off = np.abs((year - years.FIRST_YEAR) // 10 - true_decade)

    by_decade = years.by_decade(probabilities)
    confidence = by_decade.max(-1)
    bins = np.minimum((confidence * ECE_BINS).astype(int), ECE_BINS - 1)
    gap = np.zeros((len(truth), ECE_BINS))
    gap[np.arange(len(truth)), bins] = confidence - (by_decade.argmax(-1) == true_decade)

    means = [
        np.abs(years.median_year(probabilities) - truth),
        np.abs(year - truth) <= years.WINDOW,
        decades_off == 0,
        decades_off <= 1,
        (spans[:, 0] <= truth) & (truth <= spans[:, 1]),
    ]
    return np.column_stack([*means, gap]).astype(np.float64)


def _bootstrap(
    outcomes: np.ndarray, artists: Sequence[str] | np.ndarray, resamples: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Sums over the clips, and over those of as many artists, drawn with replacement.

    Shape: [N, K], [N] -> ([K + 1], [resamples, K + 1]); the last column counts clips.
    """
    if not len(outcomes):
        raise ValueError("There are no scored clips to measure.")
    names, artist = np.unique(np.asarray(artists), return_inverse=True)
    sums = np.zeros((len(names), outcomes.shape[1] + 1))
    np.add.at(sums, artist, np.column_stack([outcomes, np.ones(len(outcomes))]))
    drawn = np.random.default_rng(seed).integers(len(names), size=(resamples, len(names)))
    cells = (drawn + len(names) * np.arange(resamples)[:, None]).ravel()
    times = np.bincount(cells, minlength=resamples * len(names)).reshape(resamples, len(names))
    return sums.sum(0), times @ sums


def _interval(value: float, resampled: np.ndarray) -> dict[str, float]:
    low, high = np.percentile(resampled, TAILS)
    return {"value": float(value), "low": float(low), "high": float(high)}


def _summary(outcomes: np.ndarray, artists: Sequence[str] | np.ndarray, resamples: int, seed: int) -> Metrics:
    """METRICS of clips whose outcomes are known. Shape: [N, 5 + ECE_BINS], [N] -> METRICS."""
    sums, resampled = _bootstrap(outcomes, artists, resamples, seed)
    value, values = sums[:-1] / sums[-1], resampled[:, :-1] / resampled[:, -1:]
    scores = {name: _interval(value[column], values[:, column]) for column, name in enumerate(MEANS)}
    ece, eces = np.abs(value[len(MEANS) :]).sum(), np.abs(values[:, len(MEANS) :]).sum(-1)
    scores["ece"] = _interval(ece, np.maximum(eces - (eces.mean() - ece), 0))
    return {"n": len(outcomes)} | {name: scores[name] for name in METRICS}


def answer_clips(
    model: EraModel,
    heard: Features,
    table: TextTable | None = None,
    texts: np.ndarray | None = None,
    clips: np.ndarray | None = None,
    with_sound: bool = True,
    batch_size: int = 64,
) -> dict[str, np.ndarray]:
    """What a model says of many clips, from features that were computed before.

    Args:
        heard: the clips' features, in the hearing that is asked about.
        table, texts: biographies, and [N] int64 which is each clip's, -1 for none; None for sound alone.
        clips: which clips, by index; all if None.
        with_sound: False asks the artist side alone.

    Shape: -> each float32, in the order of ``clips``: "years" [M, 140] and "embedding" [M, 64]; of a model
    that reads also "artist_years" [M, 140], "sound_embedding" and "text_embedding" [M, 64], and
    "artist_share" [M], attention on the text. The years are probabilities. A clip without excerpts
    (unreadable) and without a text gets what the model says of nothing.
    """
    device = next(model.parameters()).device
    clips = np.arange(len(heard.first) - 1) if clips is None else clips
    towers = tuple(model.sound_encoder.towers)
    parts: list[dict[str, Tensor]] = []
    for first in range(0, len(clips), batch_size):
        batch = clips[first : first + batch_size]
        spans = [np.arange(heard.first[clip], heard.first[clip + 1]) for clip in batch]
        inputs = gather({"clean": heard}, ["clean"] * len(batch), spans, towers)
        inputs.present &= with_sound
        if model.reads_text:
            words = no_words(len(batch)) if table is None or texts is None else table.batch(texts[batch])
            vars(inputs).update(words)
        with torch.inference_mode():
            outputs = model(inputs.to(device))
        part = {"years": outputs.years.exp(), "embedding": outputs.embedding}
        if outputs.artist_years is not None:
            sound_tokens = inputs.present.shape[1] * len(towers)
            part["artist_years"] = outputs.artist_years.exp()
            part["artist_share"] = outputs.attention[:, sound_tokens:].sum(1)
            part["sound_embedding"] = outputs.sound_embedding
            part["text_embedding"] = outputs.text_embedding
        parts.append(part)
    return {name: torch.cat([part[name] for part in parts]).cpu().numpy() for name in parts[0]}


@dataclass(frozen=True)
class Ask:
    """A question to a model: what it hears, and whether it is told the artist."""

    name: str
    hearing: str = "clean"
    with_sound: bool = True
    with_artist: bool = False

    def of(
        self, model: EraModel, material: Material, clips: np.ndarray, texts: np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        """:func:`answer_clips` of some clips, with each clip's own biography or that of ``texts``."""
        heard, biographies = material.features[self.hearing], material.biographies
        if not self.with_artist or biographies is None:
            return answer_clips(model, heard, clips=clips, with_sound=self.with_sound)
        texts = biographies.whole if texts is None else texts
        return answer_clips(model, heard, biographies.table, texts, clips, self.with_sound)


SOUND = Ask("sound alone")
BOTH = Ask("sound and artist", with_artist=True)


def evaluate_manifest(
    recognizer: "EraRecognizer",
    manifest: Path,
    cache: FeatureCache,
    sound_only: bool = False,
    through: str = "clean",
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Evaluate a finished checkpoint: the JSON of ``erarec evaluate``, and one prediction a clip.

    The artist's biography leaves one release within the clip's own years out. Clips that cannot be read are
    named, and not scored. Raises ValueError for a manifest that cannot be used.
    """
    clips, unreadable, probabilities, _ = _answer_manifest(recognizer, manifest, cache, sound_only, through)
    result = {
        "model": recognizer.config.model,
        "version": erarec.__version__,
        "manifest": str(manifest),
        "sound_only": sound_only or recognizer.reader is None,
        "unreadable": unreadable,
        **report(clips, probabilities),
    }
    return result, [prediction_row(*pair) for pair in zip(clips, probabilities, strict=True)]


def prediction_row(clip: Clip, probabilities: np.ndarray) -> dict[str, Any]:
    """One line of ``--predictions``."""
    decades = zip(years.DECADES, years.by_decade(probabilities), strict=True)
    return {
        "id": clip.id,
        "year": int(years.best_year(probabilities)),
        "interval": list(years.interval(probabilities)),
        "true": [clip.year_lo, clip.year_hi],
        "decades": {name: round(float(share), 5) for name, share in decades},
    }


def map_manifest(
    recognizer: "EraRecognizer", manifest: Path, cache: FeatureCache, seed: int = 0
) -> tuple[EmbeddingMap, dict[str, float]]:
    """The clips of a manifest laid out by their embeddings, and how well decades keep together.

    Returns the map, and the share of each recording's ten nearest that are of its decade: on the map, in the
    embedding space, and by chance. Raises ValueError for a manifest that cannot be used.
    """
    clips, _, _, embeddings = _answer_manifest(recognizer, manifest, cache)
    clip_years = np.array([clip.year for clip in clips])
    artists, titles = [clip.artist for clip in clips], [clip.title for clip in clips]
    laid_out = build_map(embeddings, artists, titles, clip_years, seed)
    decades = clip_years.astype(int) // 10
    shares = np.unique(decades, return_counts=True)[1] / len(decades)
    agreement = {
        "on the map": neighbour_agreement(laid_out.coordinates, decades),
        "in the embedding space": neighbour_agreement(embeddings, decades),
        "by chance": float(np.square(shares).sum()),
    }
    return laid_out, agreement


def _answer_manifest(
    recognizer: "EraRecognizer",
    manifest: Path,
    cache: FeatureCache,
    sound_only: bool = False,
    through: str = "clean",
) -> tuple[list[Clip], list[str], np.ndarray, np.ndarray]:
    """The readable clips, the ids of the others, and of the former probabilities and embeddings."""
    clips = read_manifest(manifest)
    heard = cache.features(clips, [through], with_mel="cnn" in recognizer.config.towers)[through]
    counts = np.diff(heard.first)
    readable = np.flatnonzero(counts > 0)
    if not len(readable):
        raise ValueError(f"None of the {len(clips)} clips of {manifest.name} can be read.")
    table = texts = None
    if recognizer.reader is not None and not sound_only:
        biographies = build_biographies(clips, [], {}, recognizer.library, recognizer.reader, variants=0)
        table, texts = biographies.table, biographies.whole
    answers = answer_clips(recognizer.model, heard, table, texts, readable)
    unreadable = [clip.id for clip, count in zip(clips, counts, strict=True) if not count]
    return [clips[clip] for clip in readable], unreadable, answers["years"], answers["embedding"]
