"""The results of the experiments in words, tables and figures: docs/results.md.

Every sentence holds whatever the numbers are: what an effect is called follows from its interval.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

import erarec
from erarec import plots, spaces
from erarec.evaluation import (
    METRICS,
    Metrics,
    cell,
    change_cells,
    describe_change,
    holds_zero,
    mean_interval,
    metrics,
    paired_difference,
    report,
    table,
)
from erarec.experiments import SEEDS, Answers, Experiment, Workplace, pair, tower
from erarec.years import DECADES, FIRST_YEAR, WINDOW, YEAR_COUNT, best_year, era, median_year

TEMPLATE = Path(__file__).with_suffix(".md")
SHOWN = ("mae", "within_3", "decade")  # of METRICS, in the tables
QUESTIONS = {"sound": "sound alone", "both": "sound and artist"}
STEPS = ("L_EC", "training with the artist, at sound alone", "telling the artist")
FAR = 10  # years of error from which an answer is far off
FEWEST = 5  # clips of a decade that is drawn
MODERN = 2000  # the years before it are the paper's imbalanced ones
FEW_TEXTS = "Not enough clips have a text.\n"
POINTS = "change within 3 years, points"


def write_results(sections: dict[str, list[Experiment]], place: Workplace, out: Path, command: str) -> None:
    """Write the document, and its figures into a folder ``results`` beside it.

    All experiments must have been run (``experiments.run``). The same work folder gives the same files.
    """
    results = Results(sections, place, out.parent / "results")
    values = (
        results.opening(command)
        | results.steps()
        | results.losses()
        | results.sweeps()
        | results.denominators()
        | results.seeds()
        | results.cross_modal_alignment()
        | results.reliance_on_the_artist()
        | results.imbalance()
        | results.decades()
        | results.embedding_spaces()
    )
    text = TEMPLATE.read_text(encoding="utf-8")
    for name, value in values.items():
        text = text.replace("{{" + name + "}}", value)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding="utf-8")


@dataclass(frozen=True)
class Said:
    """One experiment's answers to one question."""

    experiment: Experiment
    question: str
    answers: Answers

    @property
    def name(self) -> str:
        """As tables have it; a model that does not read has only one question."""
        reads = self.experiment.reads
        return f"{self.experiment.name}: {QUESTIONS[self.question]}" if reads else self.experiment.name

    @property
    def years(self) -> np.ndarray:
        return self.answers[f"{self.question}.years"]

    @property
    def embeddings(self) -> np.ndarray:
        return self.answers[f"{self.question}.embedding"]

    def of(self, answers: Answers) -> "Said":
        return Said(self.experiment, self.question, answers)


class Results:
    """What all sections are made from. Each method writes its figures and fills its gaps in the template."""

    def __init__(self, sections: dict[str, list[Experiment]], place: Workplace, figures: Path) -> None:
        self.sections, self.place, self.figures = sections, place, figures
        clips = place.clips
        self.lo = np.array([clip.year_lo for clip in clips])
        self.hi = np.array([clip.year_hi for clip in clips])
        self.artists = np.array([clip.artist_key for clip in clips])
        self.year = (self.lo + self.hi) / 2
        self.decade = (self.year.astype(int) - FIRST_YEAR) // 10
        self._loaded: dict[Experiment, Answers] = {}

    # What sections have in common.

    def said(self, experiment: Experiment, question: str = "sound") -> Said:
        if experiment not in self._loaded:
            self._loaded[experiment] = Answers.load(experiment, self.place)
        return Said(experiment, question, self._loaded[experiment])

    def all_said(self, rows: Sequence[Experiment]) -> list[Said]:
        """Of each of the rows, every question."""
        return [
            self.said(row, question) for row in rows for question in (QUESTIONS if row.reads else ("sound",))
        ]

    def score(self, said: Said) -> Metrics:
        clips = said.answers.clips
        return metrics(said.years, self.lo[clips], self.hi[clips], self.artists[clips])

    def change(self, first: Said, second: Said) -> Metrics:
        """On the clips and seeds that both have answered."""
        ours, theirs = pair(first.answers, second.answers)
        clips = ours.clips
        years = first.of(ours).years, second.of(theirs).years
        return paired_difference(*years, self.lo[clips], self.hi[clips], self.artists[clips])

    def errors(self, years: np.ndarray, clips: np.ndarray) -> np.ndarray:
        return np.abs(median_year(years) - self.year[clips])

    def scores_table(
        self,
        rows: Sequence[Experiment],
        changes: Mapping[str, Metrics] | None = None,
        extra: Mapping[str, Metrics] | None = None,
    ) -> str:
        """A line a row and question, with ``changes`` in two columns more, and ``extra`` lines at the end."""
        headings = ["", "run", "clips", *(METRICS[metric] for metric in SHOWN)]
        if changes is not None:
            headings += ["change, points within 3 years", "change, years of error"]
        lines = []
        for row in rows:
            for said in self.all_said([row]):
                score = self.score(said)
                cells = [f"{len(np.unique(said.answers.clips)):,}", *(cell(m, score[m]) for m in SHOWN)]
                change = change_cells(changes[said.name]) if changes and said.name in changes else []
                lines.append([said.name, row.how, *cells, *change])
        for name, score in (extra or {}).items():
            lines.append([name, "", f"{score['n']:,}", *(cell(metric, score[metric]) for metric in SHOWN)])
        return table(headings, [line + [""] * (len(headings) - len(line)) for line in lines])

    def changes_from_first(self, section: str) -> dict[str, Metrics]:
        """What each row of a section changes against the first, by question where the models read."""
        first, *rest = self.sections[section]
        return {said.name: self.change(self.said(first, said.question), said) for said in self.all_said(rest)}

    def section(self, name: str, changes: Mapping[str, Metrics]) -> dict[str, str]:
        """The two gaps that most sections have: the table, and what in it can be measured."""
        rows = self.sections[name]
        found = {row: change for row, change in changes.items() if _is_measurable(change)}
        said = (
            f"Against the first row, {len(changes) - len(found)} of {len(changes)} have no measurable effect"
        )
        said += ".\n" if not found else f"; the others:\n\n{_bullets(found)}"
        return {f"{name}_table": self.scores_table(rows, changes), f"{name}_changes": said}

    @property
    def best(self) -> Experiment:
        """AudioArt-MMC with everything, on all folds."""
        return self.sections["ours"][-1]

    @property
    def main(self) -> list[Said]:
        """The rows that the failures are measured of."""
        return self.all_said([self.sections["paper"][0], *self.sections["ours"]])

    # The sections.

    def opening(self, command: str) -> dict[str, str]:
        scored = sum(clip.scored for clip in self.place.clips)
        return {
            "command": command,
            "version": erarec.__version__,
            "clips": f"{len(self.place.clips):,}",
            "scored": f"{scored:,}",
            "seeds": ", ".join(map(str, SEEDS)),
            "tower": tower(self.best.settings),
            "paper's tower": tower(self.sections["paper"][0].settings),
        }

    def steps(self) -> dict[str, str]:
        paper, ours = self.sections["paper"], self.sections["ours"]
        scored = [clip for clip in self.place.clips if clip.scored]
        certain = np.full((len(scored), YEAR_COUNT), 1 / YEAR_COUNT)
        baselines = report(scored, certain, out_of_fold=True)["baselines"]
        extra = {
            "always the median year": baselines["median"],
            "always the source's own median year": baselines["source_median"],
        }
        steps = {}
        for rows in (paper, ours):
            said = self.all_said(rows)
            for step, before, after in zip(STEPS, said, said[1:], strict=False):
                steps[f"{step}, {tower(rows[0].settings)}"] = self.change(before, after)
        swap = f"{tower(ours[0].settings)} in place of the {tower(paper[0].settings)}"
        steps[swap] = self.change(self.said(paper[0]), self.said(ours[0]))
        plots.changes(self.figures / "steps.svg", _points(steps), POINTS)
        return {
            "steps_table": self.scores_table([*paper, *ours], extra=extra),
            "steps_changes": _bullets(steps),
        }

    def losses(self) -> dict[str, str]:
        changes = self.changes_from_first("losses")
        plots.changes(self.figures / "losses.svg", _points(changes), POINTS)
        return self.section("losses", changes)

    def sweeps(self) -> dict[str, str]:
        gaps: dict[str, str] = {}
        panels = {}
        for name in ("alpha", "tau", "beta"):
            changes = self.changes_from_first(name)
            gaps |= self.section(name, changes)
            panels[name] = {
                row.split(":")[0].split(" ")[-1]: score  # the value alone
                for row, score in _points(changes).items()
                if not row.endswith(QUESTIONS["sound"])
            }
        plots.sweeps(self.figures / "sweeps.svg", panels, POINTS)
        return gaps

    def denominators(self) -> dict[str, str]:
        changes = self.changes_from_first("denominators")
        plots.changes(self.figures / "denominators.svg", _points(changes), POINTS)
        return self.section("denominators", changes)

    def seeds(self) -> dict[str, str]:
        rows = self.sections["seeds"]
        first, second = (self.said(row) for row in rows)
        changes = {}
        for seed in rows[0].seeds:
            ours, theirs = (
                said.of(said.answers.where(said.answers.seeds == seed)) for said in (first, second)
            )
            changes[f"L_EC, seed {seed}"] = self.change(ours, theirs)
        begin, *others = rows[0].seeds
        for seed in others:
            again = first.answers.where(first.answers.seeds == seed)
            again = replace(again, seeds=np.full_like(again.seeds, begin))  # to be paired with the first
            changes[f"L_MLE alone, seed {seed} in place of {begin}"] = self.change(first, first.of(again))
        changes["L_EC, all seeds"] = self.change(first, second)
        plots.changes(self.figures / "seeds.svg", _points(changes), POINTS)
        return {"seeds_table": self.scores_table(rows), "seeds_changes": _bullets(changes)}

    def cross_modal_alignment(self) -> dict[str, str]:
        rows, in_figure, chances = [], {}, {}
        for experiment in self._reading():
            found = self._retrieval(experiment)
            if found is None:
                continue
            first, chance, rank, artists, decades = found
            score = mean_interval(first, artists)
            rank_score = mean_interval(rank, artists)
            rows.append(
                [
                    experiment.name,
                    experiment.how,
                    f"{len(first):,}",
                    _percent(score),
                    f"{100 * chance.mean():.0f} %",
                    _percent(rank_score),
                ]
            )
            if experiment == self.best:
                in_figure["all"], chances["all"] = score, float(chance.mean())
                for decade in np.unique(decades):
                    here = decades == decade
                    if here.sum() < FEWEST:
                        continue
                    in_figure[DECADES[decade]] = mean_interval(first[here], artists[here])
                    chances[DECADES[decade]] = float(chance[here].mean())
        if not rows:
            return {"alignment": FEW_TEXTS}
        unit = "own text nearest to the sound, % of the clips"
        plots.shares(self.figures / "alignment.svg", in_figure, unit, chances)
        headings = ["", "run", "clips", "own text nearest", "by chance", "others' texts farther"]
        figure = "![By decade, how often a clip's own text is nearest, and by chance](results/alignment.svg)"
        return {"alignment": f"{table(headings, rows)}\n{figure}\n"}

    def _reading(self) -> list[Experiment]:
        """Models that read, each once: with all losses, and without some."""
        return [self.best, *self.sections["losses"][1:]]

    def _retrieval(self, experiment: Experiment) -> tuple[np.ndarray, ...] | None:
        """Clip by clip: own text first, chance of that, share of others farther, artist, decade."""
        parts = []
        for space in self.said(experiment).answers.spaces():
            space = space.where(space["text"])
            if not len(space.clips):
                continue
            clips = space.clips
            ranks, counts = spaces.own_ranks(
                space["both.sound_embedding"],
                space["both.text_embedding"],
                era(self.year[clips]),
                self.artists[clips],
            )
            choice = counts > 1
            farther = (counts - ranks)[choice] / (counts[choice] - 1)
            columns = ((ranks == 1)[choice], 1 / counts[choice], farther, self.artists[clips][choice])
            parts.append((*columns, self.decade[clips][choice]))
        joined = tuple(np.concatenate(column) for column in zip(*parts, strict=True))
        return joined if joined and len(joined[0]) else None

    def reliance_on_the_artist(self) -> dict[str, str]:
        said = self.said(self.best)
        answers = said.answers.where(said.answers["wrong_text"])
        if not len(answers.clips):
            return {"reliance": FEW_TEXTS}
        clips, artists = answers.clips, self.artists[answers.clips]
        told = {"no artist": "sound", "the right artist": "both", "a wrong artist": "wrong"}
        errors = {name: self.errors(answers[f"{key}.years"], clips) for name, key in told.items()}
        rows = []
        for name, key in told.items():
            score = metrics(answers[f"{key}.years"], self.lo[clips], self.hi[clips], artists)
            far = mean_interval((errors[name] > FAR).astype(float), artists)
            share = "" if key == "sound" else _percent(mean_interval(answers[f"{key}.artist_share"], artists))
            cells = [cell("mae", score["mae"]), cell("within_3", score["within_3"])]
            rows.append([name, f"{len(np.unique(clips)):,}", *cells, _percent(far), share])
        alone = median_year(answers["sound.years"])
        wanted = median_year(answers["wrong.artist_years"])
        moved = median_year(answers["wrong.years"])
        towards = mean_interval(
            np.abs(alone - wanted) - np.abs(moved - wanted),
            artists,
            over=np.abs(alone - wanted).astype(float),
        )
        change = paired_difference(
            answers["sound.years"], answers["wrong.years"], self.lo[clips], self.hi[clips], artists
        )
        plots.within(self.figures / "wrong-artist.svg", errors)
        headings = ["told of", "clips", METRICS["mae"], METRICS["within_3"], f"over {FAR} years off"]
        figure = "![The share of clips within so many years, by what was told](results/wrong-artist.svg)"
        said_of_wrong = (
            "Of the way from the year that the sound says to the one that the wrong artist's text says, "
            f"the answer goes {_percent(towards)}. Against being told of none, a wrong artist: "
            f"{describe_change(change)}."
        )
        headings += ["attention on the artist"]
        return {"reliance": f"{table(headings, rows)}\n{said_of_wrong}\n\n{figure}\n"}

    def imbalance(self) -> dict[str, str]:
        rows: list[list[str]] = []
        early: dict[str, Mapping[str, float]] = {}
        late: dict[str, Mapping[str, float]] = {}
        for said in self.main:
            clips = said.answers.clips
            before = self.year[clips] < MODERN
            cells = []
            for part, kept in ((before, early), (~before, late)):
                if not part.any():
                    cells += ["", ""]
                    continue
                score = self.score(said.of(said.answers.where(part)))
                kept[said.name] = score["within_3"]
                cells += [cell("mae", score["mae"]), cell("within_3", score["within_3"])]
            errors = self.errors(said.years, clips)
            hits = np.abs(best_year(said.years) - self.year[clips]) <= WINDOW
            found = np.unique(self.decade[clips])
            macro = [
                np.mean([values[self.decade[clips] == decade].mean() for decade in found])
                for values in (errors, hits)
            ]
            rows.append([said.name, *cells, f"{macro[0]:.1f}", f"{100 * macro[1]:.0f} %"])
        figures = {f"{name}, before {MODERN}": score for name, score in early.items()}
        figures |= {f"{name}, since": score for name, score in late.items()}
        plots.shares(self.figures / "imbalance.svg", figures, "within 3 years, % of the clips")
        headings = ["", f"error before {MODERN}", "within 3 years", f"error since {MODERN}", "within 3 years"]
        headings += ["error, mean of decades", "within 3 years, mean of decades"]
        before = int((self.year[[clip.scored for clip in self.place.clips]] < MODERN).sum())
        scored = sum(clip.scored for clip in self.place.clips)
        return {
            "imbalance_table": table(headings, rows),
            "early": f"{before:,}",
            "late": f"{scored - before:,}",
        }

    def decades(self) -> dict[str, str]:
        main = self.main
        clips = main[-1].answers.clips
        found = np.unique(np.concatenate([self.decade[said.answers.clips] for said in main]))
        names = [DECADES[decade] for decade in found]
        rows: list[list[str]] = []
        lines: dict[str, list[float]] = {said.name: [] for said in main}
        counts = np.bincount(self.decade[[c.scored for c in self.place.clips]], minlength=len(DECADES))
        for decade in found:
            cells = []
            for said in main:
                here = self.decade[said.answers.clips] == decade
                if not here.any():
                    cells.append("")
                    lines[said.name].append(float("nan"))
                    continue
                score = self.score(said.of(said.answers.where(here)))
                cells.append(cell("within_3", score["within_3"]))
                lines[said.name].append(score["mae"]["value"] if here.sum() >= FEWEST else float("nan"))
            rows.append([DECADES[decade], f"{counts[decade]:,}", *cells])
        plots.by_group(self.figures / "decades.svg", names, lines, METRICS["mae"], boundary=f"{MODERN}s")
        panels = {}
        for said in (main[-2], main[-1]):
            answered = (best_year(said.years) - FIRST_YEAR) // 10
            shown = [
                [np.mean(answered[self.decade[clips] == true] == there) for there in found] for true in found
            ]
            panels[QUESTIONS[said.question]] = np.array(shown)
        plots.confusions(self.figures / "confusion.svg", names, panels)
        return {"decades_table": table(["", "clips", *(said.name for said in main)], rows)}

    def embedding_spaces(self) -> dict[str, str]:
        rows, scores, chances, hits_of = [], {}, {}, {}
        models = self.all_said([*self.sections["paper"], *self.sections["ours"]])
        for said in models:
            measured = [self._space(said.of(space)) for space in said.answers.spaces()]
            numbers = np.array([numbers for numbers, *_ in measured])
            hits = np.concatenate([hits for _, hits, _, _ in measured])
            some = ~np.isnan(hits)
            chance = np.concatenate([chance for _, _, chance, _ in measured])[some].mean()
            artists = np.concatenate([artists for *_, artists in measured])[some]
            score = mean_interval(hits[some], artists)
            scores[said.name], chances[said.name] = score, float(chance)
            hits_of[said.name] = said, hits
            alignments, random, spread, clusters = (_over_spaces(column) for column in numbers.T)
            rows.append(
                [said.name, alignments, random, spread, _percent(score), f"{100 * chance:.0f} %", clusters]
            )
        unit = "nearest neighbour within 3 years, % of the clips"
        plots.shares(self.figures / "spaces.svg", scores, unit, chances)
        first, second = (hits_of[row.name] for row in self.sections["ours"][:2])
        change = self._change_of_hits(*first, *second)
        points = "{value:+.1f} points, {low:+.1f} to {high:+.1f}".format(
            **{name: 100 * value for name, value in change.items()}
        )
        effect = "no measurable effect" if holds_zero(change) else "a measurable effect"
        width = models[0].embeddings.shape[1]
        rng = np.random.default_rng(0)
        even = rng.standard_normal((1000, width))
        even /= np.linalg.norm(even, axis=1, keepdims=True)
        headings = ["", "alignment", "by chance", "uniformity", "neighbour within 3 years", "by chance"]
        return {
            "spaces_table": table([*headings, "silhouette"], rows),
            "spaces_change": f"L_EC has {effect} on the nearest neighbour ({points}).",
            "even": f"{spaces.uniformity(even):.2f}",
        }

    def _space(self, said: Said) -> tuple[list[float], np.ndarray, np.ndarray, np.ndarray]:
        """Of one model's space: four measures, and clip by clip hits, their chance, artists."""
        clips, points = said.answers.clips, said.embeddings
        numbers = [
            spaces.alignment(points, era(self.year[clips])),
            spaces.alignment(points, np.zeros(len(clips))),
            spaces.uniformity(points),
            spaces.silhouette(points, self.decade[clips]),
        ]
        hits, chance = spaces.neighbour_hits(points, self.year[clips], self.artists[clips])
        return numbers, hits, chance, self.artists[clips]

    def _change_of_hits(
        self, first: Said, hits: np.ndarray, second: Said, others: np.ndarray
    ) -> dict[str, float]:
        """Paired, over artists. Hits stand in the order of ``Answers.spaces``."""
        ours, theirs = (
            dict(zip(self._keys(said), values, strict=True))
            for said, values in ((first, hits), (second, others))
        )
        common = [key for key in ours if key in theirs and not np.isnan(ours[key] + theirs[key])]
        difference = np.array([theirs[key] - ours[key] for key in common])
        return mean_interval(difference, [self.artists[clip] for _, clip in common])

    @staticmethod
    def _keys(said: Said) -> Iterator[tuple[int, int]]:
        for space in said.answers.spaces():
            yield from zip(space.seeds.tolist(), space.clips.tolist(), strict=True)


def _is_measurable(change: Metrics) -> bool:
    return not (holds_zero(change["within_3"]) and holds_zero(change["mae"]))


def _points(changes: Mapping[str, Metrics]) -> dict[str, dict[str, float]]:
    return {name: change["within_3"] for name, change in changes.items()}


def _bullets(changes: Mapping[str, Metrics]) -> str:
    return "".join(f"- {name}: {describe_change(change)}.\n" for name, change in changes.items())


def _percent(score: Mapping[str, float]) -> str:
    return cell("within_3", score)


def _over_spaces(values: np.ndarray) -> str:
    """The mean over the models' spaces, and the least and greatest."""
    values = np.round(values[~np.isnan(values)], 2) + 0.0  # no -0.00
    if not len(values):
        return ""
    return f"{values.mean():.2f} ({values.min():.2f} to {values.max():.2f})"
