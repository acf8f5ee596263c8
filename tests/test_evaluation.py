"""Metrics by hand, and intervals that know how many artists there were."""

import doctest
import json
from dataclasses import dataclass

import numpy as np
import pytest

from erarec import evaluation, years
from erarec.evaluation import (
    METRICS,
    at_temperature,
    describe_change,
    fit_temperature,
    fit_weights,
    fitted_by_fold,
    log_likelihood,
    markdown_table,
    mean_interval,
    metrics,
    paired_difference,
    report,
    with_weights,
)


@dataclass(frozen=True)
class Song:
    """As much of a clip as a report needs."""

    source: str
    artist_key: str
    year_lo: int
    year_hi: int
    scored: bool = True
    fold: int = 0


def sure(*answers: int) -> np.ndarray:
    """Nearly all weight on one year each, the rest evenly beside it. Shape: [N, 140]."""
    return years.target_distribution(np.array(answers), np.array(answers), sigma=1.0)


def decades(*weights: dict[str, float]) -> np.ndarray:
    """Distributions with a given weight on each decade, at its fifth year. Shape: [N, 140]."""
    result = np.zeros((len(weights), years.YEAR_COUNT))
    for row, weight in zip(result, weights, strict=True):
        for decade, share in weight.items():
            row[int(decade[:4]) + 5 - years.FIRST_YEAR] = share
    return result


def values(result: dict) -> dict[str, float]:
    return {name: result[name]["value"] for name in METRICS}


def width(score: dict[str, float]) -> float:
    return score["high"] - score["low"]


def test_the_docstring_examples_hold():
    assert doctest.testmod(evaluation).attempted > 0
    assert doctest.testmod(evaluation).failed == 0


class TestMetrics:
    def test_a_perfect_model_makes_no_error(self):
        truth = np.array([1935, 1965, 1977, 1994, 2015])
        result = metrics(sure(*truth), truth, truth, list("abcde"))
        assert result["n"] == 5
        assert values(result) == pytest.approx(
            {"mae": 0, "within_3": 1, "decade": 1, "within_1_decade": 1, "ece": 0, "coverage_80": 1}, abs=0.01
        )
        assert all(width(result[name]) < 0.01 for name in METRICS)

    def test_by_hand(self):
        """Off by 0, 3, 4 and 20 years; the second leaves the decade, the fourth the one beside it too."""
        truth = np.array([1975, 1988, 1991, 1985])
        result = metrics(sure(1975, 1991, 1995, 2005), truth, truth, list("abcd"))
        assert result["mae"]["value"] == pytest.approx((0 + 3 + 4 + 20) / 4)
        assert result["within_3"]["value"] == 2 / 4
        assert result["decade"]["value"] == 2 / 4
        assert result["within_1_decade"]["value"] == 3 / 4
        assert result["coverage_80"]["value"] == 1 / 4

    def test_the_truth_is_the_middle_of_the_range(self):
        result = metrics(sure(1974, 1974), np.array([1970, 1977]), np.array([1971, 1978]), ["a", "b"])
        assert result["mae"]["value"] == 3.5
        assert result["within_3"]["value"] == 0

    def test_the_error_is_the_medians_and_the_hit_the_windows(self):
        """About a third each at 1960, 1980 and, a little more, 2000: window 2000, median 1980."""
        split = sure(1960) * 0.34 + sure(1980) * 0.31 + sure(2000) * 0.35
        result = metrics(split, np.array([2000]), np.array([2000]), ["a"])
        assert result["within_3"]["value"] == 1
        assert result["mae"]["value"] == 20

    def test_calibration_by_hand(self):
        """Bin 0.7: 0.75 sure, right once in two; bin 0.9: 0.95 sure and wrong: (2 * 0.25 + 0.95) / 3."""
        predicted = decades(
            {"1970s": 0.75, "1980s": 0.25}, {"1970s": 0.75, "1960s": 0.25}, {"1990s": 0.95, "1980s": 0.05}
        )
        truth = np.array([1971, 1962, 1980])
        result = metrics(predicted, truth, truth, list("abc"))
        assert result["ece"]["value"] == pytest.approx((2 * 0.25 + 0.95) / 3)

    def test_calibrated_is_near_zero_and_overconfident_is_not(self):
        rng = np.random.default_rng(0)
        count = 4000
        doubt = rng.uniform(0.05, 0.45, count)
        names = np.array(years.DECADES)
        here = rng.integers(1, len(names) - 1, count)
        right = rng.random(count) > doubt
        truth = 1890 + 10 * np.where(right, here, here + 1) + 5
        honest = decades(*({names[i]: 1 - d, names[i + 1]: d} for i, d in zip(here, doubt, strict=True)))
        boastful = decades(
            *({names[i]: 1 - d / 10, names[i + 1]: d / 10} for i, d in zip(here, doubt, strict=True))
        )
        calibrated = metrics(honest, truth, truth, np.arange(count))["ece"]
        overconfident = metrics(boastful, truth, truth, np.arange(count))["ece"]
        assert calibrated["value"] < 0.02
        # Absolute values add up noise, so resamples as they come would lie above the value.
        middle = (calibrated["low"] + calibrated["high"]) / 2
        assert middle == pytest.approx(calibrated["value"], abs=0.1 * width(calibrated))
        assert overconfident["value"] == pytest.approx(0.225, abs=0.02)
        assert overconfident["low"] > calibrated["high"]

    def test_coverage_is_what_a_calibrated_model_promises(self):
        rng = np.random.default_rng(0)
        centres = rng.integers(1910, 2010, 3000)
        truth = np.round(centres + rng.normal(0, 8, 3000)).astype(int)
        result = metrics(years.target_distribution(centres, centres, 8.0), truth, truth, np.arange(3000))
        assert result["coverage_80"]["value"] == pytest.approx(0.8, abs=0.03)

    def test_no_clips_are_no_metrics(self):
        with pytest.raises(ValueError, match="no scored clips"):
            metrics(np.zeros((0, 140)), np.zeros(0), np.zeros(0), [])


class TestIntervals:
    def few_or_many_artists(self, per_artist: int, count: int = 240, seed: int = 1) -> dict:
        """Clips that come in artists: an artist's are all right or all 15 years off."""
        rng = np.random.default_rng(seed)
        artists = np.arange(count) // per_artist
        truth = np.full(count, 1980)
        missed = (rng.random(count // per_artist) < 0.5)[artists]
        return metrics(sure(*np.where(missed, 1995, 1980)), truth, truth, artists)

    def test_fewer_artists_widen_it_though_the_clips_are_as_many(self):
        many, few = self.few_or_many_artists(1), self.few_or_many_artists(12)
        for name in ("mae", "within_3", "decade"):
            assert width(few[name]) > 2.5 * width(many[name])  # sqrt(12) = 3.5 expected

    def test_one_artist_with_many_clips_widens_it(self):
        """The same predictions, the first half all wrong: by a hundred artists, or by one."""
        truth = np.full(200, 1980)
        predicted = sure(*([1995] * 100 + [1980] * 100))
        apart = metrics(predicted, truth, truth, np.arange(200))
        by_one = metrics(predicted, truth, truth, np.maximum(np.arange(200), 99))
        assert by_one["mae"]["value"] == apart["mae"]["value"]
        assert width(by_one["mae"]) > 3 * width(apart["mae"])

    def test_it_is_that_of_a_proportion_where_every_clip_has_its_artist(self):
        score = self.few_or_many_artists(1)["within_3"]
        share = score["value"]
        assert width(score) == pytest.approx(2 * 1.96 * np.sqrt(share * (1 - share) / 240), rel=0.1)

    def test_it_covers_the_truth_about_as_often_as_it_says(self):
        """Of 200 worlds in which half of all artists are missed, 95 % should hold one half."""
        held = 0
        for seed in range(200):
            score = self.few_or_many_artists(4, count=160, seed=seed)["within_3"]
            held += score["low"] <= 0.5 <= score["high"]
        assert 0.9 <= held / 200 <= 0.99

    def test_it_holds_the_value(self):
        rng = np.random.default_rng(0)
        truth = rng.integers(1950, 2020, 300)
        predicted = years.target_distribution(
            *([np.clip(truth + rng.integers(-12, 13, 300), 1890, 2029)] * 2), sigma=7.0
        )
        result = metrics(predicted, truth, truth, rng.integers(0, 120, 300))
        for name in METRICS:
            assert result[name]["low"] < result[name]["value"] < result[name]["high"]

    def test_names_and_numbers_of_artists_do_the_same(self):
        truth = np.array([1970, 1980, 1990, 2000])
        predicted = sure(1975, 1980, 1999, 2001)
        by_name = metrics(predicted, truth, truth, ["abba", "abba", "beck", "cher"])
        assert by_name == metrics(predicted, truth, truth, np.array([4, 4, 7, 9]))

    def test_a_seed_repeats_it_and_another_moves_it_a_little(self):
        truth = np.arange(1950, 2000)
        inputs = sure(*truth + np.arange(50) % 17), truth, truth, np.arange(50)
        one, other = metrics(*inputs, seed=3)["mae"], metrics(*inputs, seed=4)["mae"]
        assert one == metrics(*inputs, seed=3)["mae"]
        assert one["low"] != other["low"]
        assert one["low"] == pytest.approx(other["low"], abs=0.2 * width(one))


SONGS = [
    Song("vinyl", "ella", 1938, 1938, fold=0),
    Song("vinyl", "louis", 1926, 1928, fold=1),
    Song("web", "moby", 1999, 1999, fold=0),
    Song("web", "beck", 1994, 1994, fold=1),
    Song("web", "cher", 1998, 1998, fold=1),
    Song("web", "who", 1960, 1979, scored=False, fold=1),
]
ANSWERS = sure(1938, 1927, 1999, 1994, 2010, 1890)


class TestReport:
    def test_only_scored_clips_count(self):
        result = report(SONGS, ANSWERS)
        assert (result["clips"], result["scored"], result["overall"]["n"]) == (6, 5, 5)
        assert result["overall"]["mae"]["value"] == pytest.approx(12 / 5)

    def test_groups_are_the_metrics_of_their_members(self):
        result = report(SONGS, ANSWERS)
        assert {name: part["n"] for name, part in result["by_source"].items()} == {"vinyl": 2, "web": 3}
        assert {name: part["n"] for name, part in result["by_decade"].items()} == {
            "1920s": 1,
            "1930s": 1,
            "1990s": 3,
        }
        truth = np.array([1999, 1994, 1998])
        assert result["by_source"]["web"] == metrics(ANSWERS[2:5], truth, truth, ["moby", "beck", "cher"])

    def test_baselines_say_the_median_year_or_their_sources(self):
        baselines = report(SONGS, ANSWERS)["baselines"]
        # All: 1994. Vinyl: 1932 (of 1927 and 1938); web: 1998.
        assert baselines["median"]["mae"]["value"] == (56 + 67 + 5 + 0 + 4) / 5
        assert baselines["source_median"]["mae"]["value"] == (6 + 5 + 1 + 4 + 0) / 5
        assert baselines["source_median"]["within_3"]["value"] == 2 / 5
        assert baselines["source_median"]["decade"]["value"] == 4 / 5  # 1932 for 1927 is the one beside
        assert baselines["source_median"]["within_1_decade"]["value"] == 1
        assert baselines["source_median"]["coverage_80"]["value"] == 1 / 5  # the one that is hit exactly

    def test_out_of_fold_the_medians_are_the_other_folds(self):
        baselines = report(SONGS, ANSWERS, out_of_fold=True)["baselines"]
        # Fold 0 from fold 1: all 1994, vinyl 1927, web 1996; fold 1 from fold 0: 1968, 1938, 1999.
        assert baselines["median"]["mae"]["value"] == (56 + 5 + 41 + 26 + 30) / 5
        assert baselines["source_median"]["mae"]["value"] == (11 + 3 + 11 + 5 + 1) / 5

    def test_a_source_in_no_other_fold_gets_the_median_of_all(self):
        songs = [*SONGS[:5], Song("tape", "x", 2004, 2004, fold=0)]
        with_tape = report(songs, ANSWERS, out_of_fold=True)["by_source"]["tape"]
        assert with_tape["n"] == 1
        baseline = report(songs, ANSWERS, out_of_fold=True)["baselines"]["source_median"]
        # As above (fold 1's vinyl and web now from a fold 0 with tape, the same), and 1994 for 2004.
        assert baseline["mae"]["value"] == pytest.approx((11 + 3 + 11 + 5 + 1 + 10) / 6)

    def test_it_is_json(self):
        assert json.loads(json.dumps(report(SONGS, ANSWERS))) == report(SONGS, ANSWERS)

    def test_what_cannot_be_reported_is_refused(self):
        with pytest.raises(ValueError, match="6 clips, but 5"):
            report(SONGS, ANSWERS[:5])
        with pytest.raises(ValueError, match="no scored clips"):
            report(SONGS[5:], ANSWERS[5:])
        with pytest.raises(ValueError, match="two folds"):
            report([SONGS[0], SONGS[2]], ANSWERS[:2], out_of_fold=True)


class TestPairedDifference:
    TRUTH = np.arange(1950, 2010)

    def test_by_hand(self):
        """The second is 4 years nearer everywhere, and so within 3 where the first was not."""
        first, second = sure(*self.TRUTH + 6), sure(*self.TRUTH + 2)
        result = paired_difference(first, second, self.TRUTH, self.TRUTH, np.arange(60))
        assert result["n"] == 60
        assert result["mae"] == pytest.approx({"value": -4, "low": -4, "high": -4})
        assert result["within_3"] == pytest.approx({"value": 1, "low": 1, "high": 1})

    def test_a_model_does_not_differ_from_itself(self):
        result = paired_difference(*[sure(*self.TRUTH + 5)] * 2, self.TRUTH, self.TRUTH, np.arange(60))
        assert result["mae"] == result["within_3"] == {"value": 0, "low": 0, "high": 0}

    def test_it_finds_what_two_intervals_side_by_side_do_not(self):
        rng = np.random.default_rng(0)
        hard = rng.integers(0, 20, 60)
        first, second = sure(*self.TRUTH - hard - 1), sure(*self.TRUTH - hard)
        artists = np.arange(60)
        alone = [metrics(model, self.TRUTH, self.TRUTH, artists)["mae"] for model in (first, second)]
        assert alone[0]["low"] < alone[1]["high"]
        assert paired_difference(first, second, self.TRUTH, self.TRUTH, artists)["mae"]["high"] < 0


@pytest.mark.parametrize(
    ("low", "high", "hits", "error"),
    [
        (1.0, 3.0, "adds 200.0 points within 3 years (+100.0 to +300.0)", "adds 2.00 years of error"),
        (-3.0, -1.0, "costs 200.0 points within 3 years (-300.0 to -100.0)", "takes 2.00 years of error"),
        (
            -1.0,
            3.0,
            "no measurable effect within 3 years (+100.0 points,",
            "no measurable effect on the error",
        ),
    ],
)
def test_a_change_is_called_what_its_interval_allows(low: float, high: float, hits: str, error: str):
    score = {"value": (low + high) / 2, "low": low, "high": high}
    first, second = describe_change({"within_3": score, "mae": score}).split("; ")
    assert first.startswith(hits)
    assert second.startswith(error)


class TestMeanInterval:
    def test_it_is_the_mean_within_an_interval_that_few_artists_widen(self):
        values = (np.arange(240) // 12 % 2).astype(float)
        few, many = mean_interval(values, np.arange(240) // 12), mean_interval(values, np.arange(240))
        assert few["value"] == many["value"] == 0.5
        assert few["low"] < many["low"] < 0.5 < many["high"] < few["high"]

    def test_of_two_sums_the_larger_clips_weigh_more(self):
        assert mean_interval(np.array([1.0, 0.0]), ["a", "b"], over=np.array([3.0, 1.0]))["value"] == 0.25


def test_a_table_has_a_line_for_each_report_and_metrics():
    result = report(SONGS, ANSWERS)
    lines = markdown_table({"ours": result, "always the median": result["baselines"]["median"]}).splitlines()
    assert len(lines) == 4
    assert len({line.count("|") for line in lines}) == 1
    assert lines[2].startswith("| ours | 5 | 2.4 (")
    assert lines[3].startswith("| always the median | 5 | 26.4 (")


# Temperatures


def overconfident(count: int, temperature: float, seed: int = 0) -> tuple[list[Song], np.ndarray]:
    """Clips whose years are drawn from smooth distributions, and these distributions sharpened."""
    rng = np.random.default_rng(seed)
    middles = rng.integers(1930, 2010, count)
    honest = years.target_distribution(middles, middles, sigma=6.0)
    drawn = [int(rng.choice(years.YEARS, p=p / p.sum())) for p in honest]
    clips = [Song("any", str(n), year, year, fold=n % 5) for n, year in enumerate(drawn)]
    return clips, at_temperature(honest, 1 / temperature)


def by_fold(clips: list[Song], probabilities: np.ndarray) -> np.ndarray:
    """Each clip's temperature, from the other folds."""
    everyone = np.ones(len(clips), bool)
    return fitted_by_fold(clips, everyone, lambda who, *span: fit_temperature(probabilities[who], *span))


def test_the_temperature_undoes_what_made_an_answer_too_sure():
    clips, sharp = overconfident(1500, temperature=2.0)
    lo = np.array([clip.year_lo for clip in clips])
    assert fit_temperature(sharp, lo, lo) == pytest.approx(2.0, rel=0.1)
    assert fit_temperature(at_temperature(sharp, 2.0), lo, lo) == pytest.approx(1.0, rel=0.1)


def test_a_folds_temperature_does_not_know_its_own_clips():
    clips, sharp = overconfident(500, temperature=2.0)
    first = np.array([clip.fold == 0 for clip in clips])
    other = np.where(first[:, None], sharp[::-1], sharp)  # nonsense in one fold
    before, after = by_fold(clips, sharp), by_fold(clips, other)
    assert (before[first] == after[first]).all()
    assert (before[~first] != after[~first]).all()


def test_calibrated_intervals_hold_what_they_say():
    clips, sharp = overconfident(1500, temperature=2.0)
    raw = report(clips, sharp)["overall"]["coverage_80"]["value"]
    calibrated = report(clips, at_temperature(sharp, by_fold(clips, sharp)))
    assert raw < 0.65
    assert 0.76 < calibrated["overall"]["coverage_80"]["value"] < 0.84


def test_the_weights_tell_what_knows_from_what_guesses():
    clips, sharp = overconfident(800, temperature=2.0)
    lo = np.array([clip.year_lo for clip in clips])
    other = years.target_distribution(lo[::-1].copy(), lo[::-1].copy(), sigma=8.0)
    knows, guesses = (np.log(np.maximum(p, 1e-12)) for p in (sharp, other))
    parts = np.stack([knows, guesses, np.zeros_like(knows)])
    weights = fit_weights(parts, np.ones((len(clips), 1)), lo, lo)
    assert weights[:, 0].clip(0) == pytest.approx([0.5, 0], abs=0.1)
    each = np.tile([0.5, 0], (len(clips), 1))
    np.testing.assert_allclose(with_weights(parts, each), at_temperature(sharp, 2.0), atol=1e-6)


def test_the_weights_go_by_what_is_known_of_a_clip():
    """Where a flag says that the first has guessed, the second is believed."""
    clips, sharp = overconfident(1600, temperature=1.0)
    lo = np.array([clip.year_lo for clip in clips])
    guess = years.target_distribution(lo[::-1].copy(), lo[::-1].copy(), sigma=8.0)
    flag = np.arange(len(clips)) % 2 == 1
    first, second = np.where(flag[:, None], guess, sharp), np.where(flag[:, None], sharp, guess)
    parts = np.log(np.maximum([first, second, np.ones_like(first)], 1e-12))
    known = np.column_stack([np.ones(len(clips)), flag])
    (a, da), (b, db) = fit_weights(parts, known, lo, lo)
    assert (a, a + da) == pytest.approx((1, 0), abs=0.25)
    assert (b, b + db) == pytest.approx((0, 1), abs=0.25)


def test_log_likelihood_is_of_the_years_it_may_be() -> None:
    answers = np.zeros((3, years.YEAR_COUNT))
    answers[:, [1970 - years.FIRST_YEAR, 1971 - years.FIRST_YEAR]] = 0.25, 0.75
    found = log_likelihood(answers, np.array([1970, 1970, 1960]), np.array([1970, 1971, 1965]))
    np.testing.assert_allclose(found, np.log([0.25, 1, 1e-12]))
