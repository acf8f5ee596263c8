"""Years as classes, and what is read off a distribution."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from erarec import years


def at(*weights: tuple[int, float]) -> np.ndarray:
    """A distribution from (year, weight). Shape: [140]."""
    distribution = np.zeros(years.YEAR_COUNT)
    for year, weight in weights:
        distribution[year - years.FIRST_YEAR] = weight
    return distribution / distribution.sum()


def about(year: int, sigma: float = 2.0) -> np.ndarray:
    """A bell around a year. Shape: [140]."""
    return years.target_distribution(np.array([year]), np.array([year]), sigma)[0]


distributions = (
    st.lists(st.floats(0, 1), min_size=years.YEAR_COUNT, max_size=years.YEAR_COUNT)
    .filter(lambda weights: sum(weights) > 0.1)
    .map(lambda weights: np.array(weights) / sum(weights))
)


def test_classes_are_the_years_1890_to_2029_in_fourteen_whole_decades():
    assert (years.YEARS[0], years.YEARS[-1], years.YEAR_COUNT) == (1890, 2029, 140)
    assert (years.DECADES[0], years.DECADES[-1], len(years.DECADES)) == ("1890s", "2020s", 14)


@pytest.mark.parametrize(
    ("year", "name"), [(1890, "1890s"), (1979, "1970s"), (1979.5, "1970s"), (1980, "1980s"), (2029, "2020s")]
)
def test_a_decade_begins_with_its_zero(year, name):
    assert years.decade(year) == name


def test_an_era_is_five_years_and_no_decade_cuts_one():
    assert years.era(np.array([1890, 1894, 1895, 2029])).tolist() == [0, 0, 1, 27]
    assert years.era(1977) == 17
    for era in range(28):
        members = years.YEARS[years.era(years.YEARS) == era]
        assert len(members) == 5
        assert len({years.decade(year) for year in members}) == 1


class TestTarget:
    def test_every_row_sums_to_one_and_keeps_the_middle(self):
        lo, hi = np.array([1926, 1970, 1999]), np.array([1926, 1979, 2001])
        target = years.target_distribution(lo, hi)
        assert target.shape == (3, 140)
        assert target.dtype == np.float32
        assert target.sum(-1) == pytest.approx(np.ones(3), abs=1e-6)
        assert target @ years.YEARS == pytest.approx((lo + hi) / 2, abs=1e-2)

    def test_without_smoothing_it_is_uniform_over_the_range(self):
        target = years.target_distribution(np.array([1970]), np.array([1973]), sigma=0)[0]
        assert target == pytest.approx(at(*((year, 1) for year in range(1970, 1974))))

    def test_one_year_falls_off_as_a_gaussian(self):
        target = years.target_distribution(np.array([1960]), np.array([1960]), sigma=2.0)[0]
        assert target[1964 - 1890] / target[1960 - 1890] == pytest.approx(
            np.exp(-0.5 * (4 / 2.0) ** 2), rel=1e-5
        )

    @pytest.mark.parametrize("year", [1890, 2029])
    def test_a_label_at_the_edge_loses_nothing(self, year):
        target = years.target_distribution(np.array([year]), np.array([year]))[0]
        assert target.sum() == pytest.approx(1, abs=1e-6)
        assert years.YEARS[target.argmax()] == year

    def test_a_range_backwards_or_outside_is_refused(self):
        with pytest.raises(ValueError, match="after"):
            years.target_distribution(np.array([1971]), np.array([1970]))
        with pytest.raises(ValueError, match="outside"):
            years.target_distribution(np.array([1850]), np.array([1860]))


class TestBestYear:
    def test_a_broad_hill_beats_a_higher_spike(self):
        hill = [(year, 0.1) for year in range(1974, 1981)]
        assert years.best_year(at((1950, 0.3), *hill)) == 1977

    @pytest.mark.parametrize("year", [1890, 1891, 1893, 1950, 2026, 2029])
    def test_the_middle_of_a_bell_is_found_up_to_the_edges(self, year):
        """Beyond the edge the window is cut, so it moves inward by at most its own half."""
        assert abs(int(years.best_year(about(year))) - year) <= years.WINDOW
        if 1895 < year < 2024:
            assert years.best_year(about(year)) == year

    @given(distributions)
    def test_no_other_window_holds_more(self, distribution):
        def mass(year: int) -> float:
            return distribution[abs(years.YEARS - year) <= years.WINDOW].sum()

        assert mass(int(years.best_year(distribution))) >= max(map(mass, years.YEARS)) - 1e-9

    def test_works_on_any_leading_axes(self):
        stack = np.stack([[about(1930), about(1950)], [about(1970), about(1990)]])
        assert years.best_year(stack).tolist() == [[1930, 1950], [1970, 1990]]
        assert years.median_year(stack).tolist() == [[1930, 1950], [1970, 1990]]


class TestMedian:
    def test_half_lies_before_and_half_after(self):
        assert years.median_year(at((1950, 0.3), (1960, 0.3), (1990, 0.4))) == 1960
        assert years.median_year(at((1950, 1.0))) == 1950

    @given(distributions)
    def test_no_other_year_has_a_smaller_expected_error(self, distribution):
        def error(year: int) -> float:
            return distribution @ abs(years.YEARS - year)

        assert error(int(years.median_year(distribution))) <= min(map(error, years.YEARS)) + 1e-9


class TestInterval:
    def test_by_hand(self):
        assert years.interval(at((1950, 0.1), (1970, 0.5), (1972, 0.3), (1990, 0.1))) == (1970, 1972)
        assert years.interval(at((1950, 1.0))) == (1950, 1950)
        assert years.interval(np.full(140, 1 / 140)) == (1890, 1890 + 112 - 1)

    @pytest.mark.parametrize("year", [1890, 2029])
    def test_a_single_year_at_the_edge(self, year):
        assert years.interval(at((year, 1.0))) == (year, year)

    @given(distributions, st.sampled_from([0.5, 0.8, 0.95]))
    def test_holds_enough_and_no_shorter_span_does(self, distribution, coverage):
        lo, hi = years.interval(distribution, coverage)
        assert distribution[(lo <= years.YEARS) & (hi >= years.YEARS)].sum() >= coverage - 1e-6
        cumulative = np.concatenate([[0], distribution.cumsum()])
        shorter = hi - lo
        if shorter:
            assert (cumulative[shorter:] - cumulative[:-shorter]).max() < coverage + 1e-6

    @given(distributions)
    def test_more_coverage_is_never_shorter(self, distribution):
        spans = [years.interval(distribution, coverage) for coverage in (0.5, 0.8, 0.95)]
        lengths = [hi - lo for lo, hi in spans]
        assert lengths == sorted(lengths)


@given(distributions)
def test_decades_share_out_the_whole(distribution):
    decades = years.by_decade(distribution)
    assert decades.shape == (14,)
    assert decades.sum() == pytest.approx(1)
    assert decades[8] == pytest.approx(distribution[(years.YEARS >= 1970) & (years.YEARS < 1980)].sum())
