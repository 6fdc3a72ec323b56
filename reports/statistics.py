"""What a sample says of where it was drawn from: intervals, tests, and how many samples it takes.

Everything is at a level of 95 % unless said otherwise. Where a function takes shares in place of
outcomes, they are those of a model that answers at random: what it does to one sample, in the mean
over draws. Chance of the draws and of the samples then both count.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri
from scipy.stats import (
    beta,
    binom,
    binomtest,
    bootstrap,
    fisher_exact,
    permutation_test,
    ttest_1samp,
)

from .rates import Interval, rate, wilson

LEVEL = 0.95
_RESAMPLES = 9999  # of what has no closed form, in parts of at most so many numbers
_AT_ONCE = 2**22
_MANY = 1000  # samples from which the mean of shares is normal


def clopper_pearson(k: int, n: int, level: float = LEVEL) -> Interval:
    """The exact interval of k out of n (Clopper & Pearson 1934); NaN for n = 0.

    It never covers less than it says, at any level, which Wilson's does only on average.
    """
    if n == 0:
        return math.nan, math.nan
    (low,), (high,) = _clopper_pearson(np.array([k]), np.array([n]), level)
    return float(low), float(high)


def _clopper_pearson(
    k: NDArray[np.float64], n: NDArray[np.float64], level: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    tail = (1 - level) / 2
    low, high = beta.ppf(tail, k, n - k + 1), beta.ppf(1 - tail, k + 1, n - k)
    return np.where(k > 0, low, 0.0), np.where(k < n, high, 1.0)


def quantile_interval(values: ArrayLike, q: float = 0.5, level: float = LEVEL) -> Interval:
    """The percentile bootstrap's interval of a quantile; NaN where there are no values.

    values      (n,), of which some may be infinite: never reached

    The quantiles of a resample are order statistics of the sample, and how probable each is, is
    known (Efron 1979, section 3): the interval is the one that infinitely many resamples would
    give, without drawing any. Where the quantile is the mean of two order statistics, the interval
    goes from the lower one's lower end to the upper one's upper end.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    n = len(ordered)
    if n == 0:
        return math.nan, math.nan
    # Ranks, the same but for whole q·n.
    first, last = math.ceil(q * n - 1e-9), math.floor(q * n + 1e-9) + 1
    shares = np.arange(1, n + 1) / n
    tail = (1 - level) / 2

    def place(rank: int, probability: float) -> int:
        """Of the smallest value that a resample's order statistic stays below so probably."""
        below = binom.sf(min(max(rank, 1), n) - 1, n, shares)
        return min(int(np.searchsorted(below, probability)), n - 1)

    return float(ordered[place(first, tail)]), float(ordered[place(last, 1 - tail)])


def samples_needed(share: float, within: float = 0.01, level: float = LEVEL) -> int:
    """How many samples Wilson's interval of that rate takes to reach no further than ± within."""
    z, spread = _z(level), share * (1 - share)
    # Half its width is z √(n p q + z²/4) / (n + z²): a quadratic equation in n + z².
    root = math.sqrt(spread**2 + 4 * within**2 * (0.25 - spread))
    return max(1, math.ceil(z * z * ((spread + root) / (2 * within**2) - 1) - 1e-9))


def mcnemar(b: int, c: int) -> float:
    """Two-sided p of McNemar's exact test: b samples that only the first model gets right, c that
    only the second does. Where both are equally good, each is as probable.
    """
    return float(binomtest(b, b + c).pvalue) if b + c else 1.0


def newcombe(both: int, b: int, c: int, neither: int, level: float = LEVEL) -> Interval:
    """Interval of the difference of two paired rates, (b − c) / n, by Newcombe's method 10 (1998,
    Statistics in Medicine 17:2635): Wilson's intervals of both, and how far they go together.

    both, neither   samples that both models get right, and wrong; b and c as in `mcnemar`
    """
    n = both + b + c + neither
    if n == 0:
        return math.nan, math.nan
    p, q = (both + b) / n, (both + c) / n
    (l1, u1), (l2, u2) = wilson(both + b, n, level), wilson(both + c, n, level)
    margins = (both + b) * (c + neither) * (both + c) * (b + neither)
    covered = both * neither - b * c
    # The correction that method 10 has for positive correlation.
    together = max(covered - n / 2, 0.0) if covered > 0 else float(covered)
    phi = together / math.sqrt(margins) if margins else 0.0

    def reach(one: float, other: float) -> float:
        return math.sqrt(max(0.0, one**2 - 2 * phi * one * other + other**2))

    return p - q - reach(p - l1, u2 - q), p - q + reach(u1 - p, q - l2)


@dataclass(frozen=True)
class Paired:
    """Two models on the same n samples.

    difference      first less second, of the rates, in [−1, 1]; NaN for n = 0
    interval        of that difference
    p               how probable a difference as large would be between equally good models
    only_first      samples that only the first gets right; of random models in the mean over draws
    only_second     and the second
    """

    n: int
    difference: float
    interval: Interval
    p: float
    only_first: float
    only_second: float

    @property
    def significant(self) -> bool:
        return self.p < 1 - LEVEL


def paired(first: ArrayLike, second: ArrayLike) -> Paired:
    """Whether two models differ, sample by sample in the same order: (n,), 1 right and 0 wrong.

    McNemar's exact test, and Newcombe's interval of the difference. Where some are shares: the test
    of which McNemar's is a case, that each sample's difference could as well have the other sign,
    and the percentile bootstrap of the mean difference, both seeded; Student's t for both where
    there are more than a thousand samples, which comes to the same.
    """
    one, other = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if one.shape != other.shape or one.ndim != 1:
        raise ValueError(f"{one.shape} outcomes cannot be paired with {other.shape}")
    n, apart = len(one), one - other
    difference = rate(float(apart.sum()), n)
    b, c = float(apart.clip(min=0).sum()), float((-apart).clip(min=0).sum())
    if not _shares(one, other):
        both, neither = int((one * other).sum()), int(((1 - one) * (1 - other)).sum())
        interval = newcombe(both, int(b), int(c), neither)
        return Paired(n, difference, interval, mcnemar(int(b), int(c)), b, c)
    if n > _MANY and np.ptp(apart):
        test = ttest_1samp(apart, 0.0)
        found = test.confidence_interval(LEVEL)
        return Paired(
            n, difference, (float(found.low), float(found.high)), float(test.pvalue), b, c
        )
    return Paired(n, difference, _resampled(apart), _signs(apart), b, c)


def _shares(*columns: NDArray[np.float64]) -> bool:
    return any(bool(((column != 0) & (column != 1)).any()) for column in columns)


def _signs(apart: NDArray[np.float64]) -> float:
    """Two-sided p of the mean of (n,) differences, their signs drawn anew."""
    apart = apart[apart != 0]
    if not len(apart):
        return 1.0
    found = permutation_test(
        (apart,),
        lambda x, axis: x.mean(axis=axis),
        permutation_type="samples",
        n_resamples=_RESAMPLES,
        batch=max(1, _AT_ONCE // len(apart)),
        vectorized=True,
        rng=np.random.default_rng(0),
    )
    return float(found.pvalue)


def _resampled(values: NDArray[np.float64]) -> Interval:
    """The percentile bootstrap's interval of the mean of (n,) values."""
    if len(values) < 2 or not np.ptp(values):
        return (-1.0, 1.0) if len(values) < 2 else (float(values[0]), float(values[0]))
    found = bootstrap(
        (values,),
        np.mean,
        confidence_level=LEVEL,
        n_resamples=_RESAMPLES,
        batch=max(1, _AT_ONCE // len(values)),
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(found.low), float(found.high)


@dataclass(frozen=True)
class Unpaired:
    """Two models on samples that have nothing to do with each other; names as in `Paired`."""

    difference: float
    interval: Interval
    p: float

    @property
    def significant(self) -> bool:
        return self.p < 1 - LEVEL


def unpaired(k: float, n: int, other_k: float, other_n: int) -> Unpaired:
    """Whether k right out of n is more, or less, than other_k out of other_n, other samples.

    Fisher's exact test, and Newcombe's hybrid score interval (1998, Statistics in Medicine 17:873,
    method 10). Where the k are sums of shares, the test of two rates by a common one, for shares
    vary no more than outcomes do.
    """
    if not (n and other_n):
        return Unpaired(math.nan, (math.nan, math.nan), 1.0)
    one, other = k / n, other_k / other_n
    (low, high), (other_low, other_high) = wilson(k, n), wilson(other_k, other_n)
    interval = (
        one - other - math.hypot(one - low, other_high - other),
        one - other + math.hypot(high - one, other - other_low),
    )
    if float(k).is_integer() and float(other_k).is_integer():
        p = float(fisher_exact([[k, n - k], [other_k, other_n - other_k]]).pvalue)
    else:
        common = (k + other_k) / (n + other_n)
        spread = math.sqrt(common * (1 - common) * (1 / n + 1 / other_n))
        p = 2 * float(ndtr(-abs(one - other) / spread)) if spread else 1.0
    return Unpaired(one - other, interval, p)


def macro(sums: Sequence[float], sizes: Sequence[int]) -> tuple[float, Interval]:
    """The mean over classes of their rates, whatever their sizes, and its interval.

    sums, sizes     right samples, and samples, of each class that occurs

    Price & Bonett's interval of a linear function of rates (2004, Computational Statistics & Data
    Analysis 45:449), which adds z²/K samples to each of K classes, half of them right. It departs
    from theirs in the variance, for which each rate is moved towards the mean by two samples more:
    the rate of a class of one or two samples would else look as if it did not vary.
    """
    if not len(sums):
        return math.nan, (math.nan, math.nan)
    k, n = np.asarray(sums, dtype=np.float64), np.asarray(sizes, dtype=np.float64)
    z, classes = _z(LEVEL), len(k)
    more, known = z * z / classes, n + z * z / classes
    centre = float(((k + more / 2) / known).mean())
    near = (k + more / 2 + 2 * centre) / (known + 2)
    half = z * math.sqrt(float((near * (1 - near) / known).sum())) / classes
    return float((k / n).mean()), (max(0.0, centre - half), min(1.0, centre + half))


@dataclass(frozen=True)
class Worst:
    """The class of lowest rate, and what that says of the lowest rate there is.

    index       its place among the classes
    rate        of its samples: lower, on average, than the lowest of the true rates, for of several
                figures that vary the lowest is likely to be one that came out low
    interval    in which the lowest true rate lies, whichever class has it
    candidates  places of the classes that may have it, all others being better for sure
    """

    index: int
    rate: float
    interval: Interval
    candidates: list[int]


def worst(sums: Sequence[float], sizes: Sequence[int]) -> Worst | None:
    """The worst of several classes; None where there is none. Arguments as of `macro`.

    The intervals of all classes are made to hold at once (Šidák), by Clopper & Pearson or, for
    shares, Wilson; where they do, the lowest true rate lies between their lowest lower and their
    lowest upper end.
    """
    if not len(sums):
        return None
    level = LEVEL ** (1 / len(sums))
    k, n = np.asarray(sums, dtype=np.float64), np.asarray(sizes, dtype=np.float64)
    if (k == k.round()).all():
        low, high = _clopper_pearson(k, n, level)
    else:
        ends = [wilson(float(share), int(size), level) for share, size in zip(k, n, strict=True)]
        low, high = np.array(ends).T
    index = int(np.lexsort((-n, k / n))[0])  # of several equal ones, the class that is known best
    candidates = np.flatnonzero(low <= high.min()).tolist()
    interval = float(low.min()), float(high.min())
    return Worst(index, float(k[index] / n[index]), interval, candidates)


def _z(level: float) -> float:
    return float(ndtri((1 + level) / 2))
