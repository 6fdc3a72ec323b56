"""Intervals and tests against published values, against scipy, and by how often they cover."""

import math

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import binomtest, bootstrap, wilcoxon

from robust.reports import statistics
from robust.reports.rates import wilson


def covers(low: float, truth: float, high: float) -> bool:
    return low - 1e-12 <= truth <= high + 1e-12


@pytest.mark.parametrize(("k", "n"), [(0, 10), (81, 263), (15, 148), (10, 10), (1, 1)])
@pytest.mark.parametrize("level", [0.9, 0.95, 0.999])
def test_intervals_of_counts_are_those_of_scipy(k: int, n: int, level: float) -> None:
    test = binomtest(k, n)
    expected = test.proportion_ci(level, "wilson")
    assert wilson(k, n, level) == pytest.approx((expected.low, expected.high), abs=1e-12)
    expected = test.proportion_ci(level, "exact")
    found = statistics.clopper_pearson(k, n, level)
    assert found == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_no_samples_have_no_interval() -> None:
    for interval in (
        statistics.clopper_pearson(0, 0),
        statistics.quantile_interval([]),
        statistics.newcombe(0, 0, 0, 0),
        statistics.macro([], [])[1],
    ):
        assert all(map(math.isnan, interval))
    assert statistics.worst([], []) is None


@pytest.mark.parametrize("n", [1, 3, 21, 75])
def test_the_interval_of_a_median_is_that_of_many_resamples(n: int) -> None:
    rng = np.random.default_rng(n)
    values = rng.permutation(np.arange(n, dtype=float))
    found = statistics.quantile_interval(values)
    if n == 1:
        assert found == (0, 0)
        return
    drawn = bootstrap(
        (values,), np.median, method="percentile", n_resamples=20_000, batch=2_000, rng=rng
    ).confidence_interval
    assert found == pytest.approx((drawn.low, drawn.high), abs=1)


def test_the_interval_of_a_median_between_two_values_holds_both() -> None:
    # Of two values, a resample is twice the lower in a quarter, and twice the higher in another.
    assert statistics.quantile_interval([3.0, 7.0]) == (3, 7)
    assert statistics.quantile_interval([3.0, 7.0], level=0.4) == (3, 7)
    low, high = statistics.quantile_interval(np.arange(10.0))
    drawn = bootstrap((np.arange(10.0),), np.median, method="percentile", rng=1).confidence_interval
    assert low <= drawn.low < drawn.high <= high


def test_a_median_may_be_infinite() -> None:
    values = np.r_[np.arange(1, 56, dtype=float), np.full(45, np.inf)]
    low, high = statistics.quantile_interval(values)
    assert (low, high) == (40, math.inf)
    assert statistics.quantile_interval(values, 0.25)[1] < math.inf
    assert statistics.quantile_interval([math.inf] * 3) == (math.inf, math.inf)


def test_intervals_of_quantiles_cover() -> None:
    rng = np.random.default_rng(0)
    for q in (0.5, 0.9):
        truth = -math.log(1 - q)
        hits = [
            covers(low, truth, high)
            for low, high in (
                statistics.quantile_interval(rng.exponential(size=60), q) for _ in range(600)
            )
        ]
        assert 0.92 < np.mean(hits) < 0.98


def test_samples_needed_are_the_fewest() -> None:
    for share in (0.0, 0.004, 0.3, 0.5, 1.0):
        for within in (0.01, 0.05):
            n = statistics.samples_needed(share, within)
            low, high = wilson(share * n, n)
            assert high - low <= 2 * within + 1e-12
            low, high = wilson(share * (n - 1), n - 1)
            assert high - low > 2 * within
    assert statistics.samples_needed(0.5) == 9600  # z² p q / within², less z²


def test_mcnemar_of_known_values() -> None:
    assert statistics.mcnemar(0, 0) == 1
    assert statistics.mcnemar(5, 0) == statistics.mcnemar(0, 5) == 2 / 2**5
    # Of ten, two or fewer on either side: 2 (1 + 10 + 45) / 1024.
    assert statistics.mcnemar(2, 8) == pytest.approx(112 / 1024)
    assert statistics.mcnemar(5, 5) == 1


def test_newcombe_of_known_values() -> None:
    # Newcombe 1998 (Stat. Med. 17:2635), table III, method 10: 36, 12, 2, 0 and 20, 12, 2, 16.
    assert statistics.newcombe(36, 12, 2, 0) == pytest.approx((0.0569, 0.3404), abs=5e-5)
    assert statistics.newcombe(20, 12, 2, 16) == pytest.approx((0.0562, 0.3292), abs=5e-5)
    low, high = statistics.newcombe(20, 12, 2, 16)
    assert statistics.newcombe(20, 2, 12, 16) == pytest.approx((-high, -low))
    assert statistics.newcombe(5, 0, 0, 0)[0] < 0 < statistics.newcombe(5, 0, 0, 0)[1]


def tango(b: int, c: int, n: int) -> tuple[float, float]:
    """Tango's score interval (1998, Stat. Med. 17:891), by its definition: another way there."""

    def score(delta: float) -> float:
        a, s = 2 * n, -b - c + (2 * n - b + c) * delta
        q = (math.sqrt(s**2 - 4 * a * (-c * delta * (1 - delta))) - s) / (2 * a)
        return (b - c - n * delta) / math.sqrt(n * (2 * q + delta * (1 - delta)))

    at = (b - c) / n
    return (
        brentq(lambda d: score(d) - 1.959964, -1 + 1e-9, at - 1e-9),
        brentq(lambda d: score(d) + 1.959964, at + 1e-9, 1 - 1e-9),
    )


def test_newcombe_agrees_with_tango() -> None:
    for both, b, c, neither in ((60, 40, 20, 40), (300, 10, 30, 160), (10, 5, 1, 84)):
        found = statistics.newcombe(both, b, c, neither)
        assert found == pytest.approx(tango(b, c, both + b + c + neither), abs=0.012)


def test_paired_outcomes() -> None:
    first = [1, 1, 1, 1, 1, 1, 0, 0]
    found = statistics.paired(first, [0] * 8)
    assert (found.n, found.difference, found.only_first, found.only_second) == (8, 0.75, 6, 0)
    assert found.p == 2 / 2**6
    assert found.significant
    assert found.interval == statistics.newcombe(0, 6, 0, 2)
    assert not statistics.paired(first, first).significant
    assert statistics.paired([], []).p == 1
    with pytest.raises(ValueError, match="cannot be paired"):
        statistics.paired([1, 0], [1])


def test_paired_shares_are_tested_as_outcomes_are() -> None:
    rng = np.random.default_rng(3)
    one, other = rng.random(60) < 0.7, rng.random(60) < 0.45
    plain = statistics.paired(one, other)
    # The same samples, but one of them fooled in one of many draws only.
    nearly = one.astype(float)
    nearly[np.flatnonzero(one)[0]] = 1 - 1e-9
    shares = statistics.paired(nearly, other)
    assert shares.p == pytest.approx(plain.p, abs=0.01)
    assert shares.interval == pytest.approx(plain.interval, abs=0.03)
    assert statistics.paired(nearly, other) == shares  # seeded


def test_paired_shares_against_signed_ranks() -> None:
    rng = np.random.default_rng(4)
    one = rng.random(40)
    other = (one - 0.04 + 0.2 * (rng.random(40) - 0.5)).clip(0, 1)
    found = statistics.paired(one, other)
    assert found.difference == pytest.approx((one - other).mean())
    assert (found.p < 0.05) == (wilcoxon(one, other).pvalue < 0.05)
    assert found.interval[0] < found.difference < found.interval[1]


def test_paired_shares_of_many_samples_come_to_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(8)
    one = rng.random(1500)
    other = (one - 0.004 + 0.2 * (rng.random(1500) - 0.5)).clip(0, 1)
    many = statistics.paired(one, other)
    monkeypatch.setattr(statistics, "_MANY", 1500)
    drawn = statistics.paired(one, other)
    assert many.interval == pytest.approx(drawn.interval, abs=2e-4)
    assert many.p == pytest.approx(drawn.p, abs=0.03)
    assert (many.difference, many.only_first) == (drawn.difference, drawn.only_first)


def test_paired_intervals_cover() -> None:
    rng = np.random.default_rng(5)
    hits, false = [], []
    for _ in range(500):
        hard = rng.random(80)
        one, other = hard < 0.6, rng.permutation(hard) < 0.5
        found = statistics.paired(one, other)
        # Each draw is a random sample of pairs of which 60 % and 50 % are right.
        hits.append(covers(found.interval[0], 0.1, found.interval[1]))
        same = statistics.paired(hard < 0.5, rng.random(80) < 0.5)
        false.append(same.significant)
    assert np.mean(hits) > 0.92
    assert np.mean(false) < 0.05  # an exact test errs on the safe side


def test_unpaired_rates_of_known_values() -> None:
    # Newcombe 1998 (Stat. Med. 17:873), table II, method 10: 56/70 and 48/80, 9/10 and 3/10.
    found = statistics.unpaired(56, 70, 48, 80)
    assert found.difference == pytest.approx(0.2)
    assert found.interval == pytest.approx((0.0524, 0.3339), abs=5e-5)
    assert found.significant
    assert statistics.unpaired(9, 10, 3, 10).interval == pytest.approx((0.1705, 0.8090), abs=5e-5)
    # Fisher's tea: the table 3 1 / 1 3 has two-sided p 34 / 70.
    assert statistics.unpaired(3, 4, 1, 4).p == pytest.approx(34 / 70)
    assert statistics.unpaired(0, 0, 1, 4).p == 1


def test_unpaired_shares_are_tested_as_counts_are() -> None:
    counts, shares = (statistics.unpaired(k, 400, 260, 400) for k in (220, 220.5))
    assert shares.p == pytest.approx(counts.p, rel=0.2)
    assert shares.interval == pytest.approx(counts.interval, abs=0.002)
    assert statistics.unpaired(0.5, 1, 0.5, 1).p == 1


def test_macro_average_of_unequal_classes() -> None:
    mean, (low, high) = statistics.macro([90, 5], [100, 10])
    assert mean == pytest.approx(0.7)
    # By hand, z² / 2 = 1.9207 samples more in each class, half of them right.
    rates = np.array([(90 + 0.9604) / 101.9207, (5 + 0.9604) / 11.9207])
    centre = rates.mean()
    near = (rates * [101.9207, 11.9207] + 2 * centre) / [103.9207, 13.9207]
    half = 1.96 * math.sqrt((near * (1 - near) / [101.9207, 11.9207]).sum()) / 2
    assert (low, high) == pytest.approx((centre - half, centre + half), abs=1e-4)


@pytest.mark.parametrize(
    ("truth", "sizes"),
    [
        ([0.99, 0.6, 0.3, 0.02], [15, 60, 30, 20]),
        ([0.95] * 10, [5] * 10),
        ([0.02] * 10, [10] * 10),
        ([0.5] * 100, [1] * 100),
        ([0.95, 0.3, 0.3, 0.3], [500, 8, 8, 8]),
    ],
)
def test_macro_intervals_cover(truth: list[float], sizes: list[int]) -> None:
    rng = np.random.default_rng(6)
    hits = []
    for _ in range(600):
        _, (low, high) = statistics.macro(rng.binomial(sizes, truth), sizes)
        hits.append(covers(low, np.mean(truth), high))
    assert np.mean(hits) > 0.92


def test_the_worst_class() -> None:
    found = statistics.worst([80, 0, 10], [100, 10, 20])
    assert (found.index, found.rate) == (1, 0)
    level = 0.95 ** (1 / 3)
    assert found.interval == pytest.approx(statistics.clopper_pearson(0, 10, level))
    assert found.candidates == [1, 2]  # half of twenty is not surely better than none of ten
    # Of two equally bad ones, that with more samples.
    assert statistics.worst([1, 10], [10, 100]).index == 1


def test_the_lowest_of_equal_classes_is_biased_and_its_interval_is_not() -> None:
    rng = np.random.default_rng(7)
    rates, hits = [], []
    for _ in range(300):
        found = statistics.worst(rng.binomial(30, 0.5, size=10).tolist(), [30] * 10)
        rates.append(found.rate)
        hits.append(covers(found.interval[0], 0.5, found.interval[1]))
    assert np.mean(rates) < 0.4  # where every true rate is a half
    assert np.mean(hits) >= 0.95


def test_the_worst_class_of_shares() -> None:
    found = statistics.worst([2.5, 8.25], [10, 10])
    assert (found.index, found.rate) == (0, 0.25)
    assert found.interval == pytest.approx(wilson(2.5, 10, 0.95**0.5))
