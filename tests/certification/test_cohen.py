"""From votes to a radius: the bound of Clopper and Pearson, abstention, the radius itself."""

import math

import pytest
from scipy.stats import norm

from robust.certification import ABSTAIN, decide, lower_bound


def at_least(k, n, p):
    """P(k or more of n) for a probability p each."""
    return sum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k, n + 1))


@pytest.mark.parametrize(("k", "n", "alpha"), [(1, 1, 0.05), (9, 10, 0.05), (30, 50, 0.001),
                                               (990, 1000, 0.01)])  # fmt: skip
def test_the_bound_is_where_so_many_votes_have_the_probability_alpha(k, n, alpha):
    assert at_least(k, n, lower_bound(k, n, alpha)) == pytest.approx(alpha, rel=1e-6)


def test_the_bound_at_its_ends():
    assert lower_bound(0, 100, 0.001) == 0.0
    assert lower_bound(10_000, 10_000, 0.001) == pytest.approx(0.001 ** (1 / 10_000))
    assert lower_bound(17, 20, 0.05) == pytest.approx(0.6563, abs=5e-4)  # tables, one-sided 95 %


def test_a_radius_is_sigma_times_the_quantile_of_the_bound():
    found = decide({3: 90, 1: 10}, {3: 9000, 1: 1000}, sigma=0.5, alpha=0.001)
    p = lower_bound(9000, 10_000, 0.001)
    assert (found.prediction, found.p) == (3, p)
    assert found.radius == pytest.approx(0.5 * norm.ppf(p))
    assert 0.6 < found.radius < 0.5 * norm.ppf(0.9)


@pytest.mark.parametrize(
    ("selection", "estimation"),
    [
        ({0: 50, 1: 50}, {0: 5000, 1: 5000}),  # a half is no majority
        ({0: 50, 1: 50}, {0: 5100, 1: 4900}),  # nor is what may be a half
        ({0: 90, 1: 10}, {1: 10_000}),  # the class is selected by the first votes alone
        ({0: 1}, {0: 9}),  # nine copies prove nothing at this alpha
    ],
)
def test_it_abstains_where_a_majority_is_not_proven(selection, estimation):
    found = decide(selection, estimation, sigma=1.0, alpha=0.001)
    assert found.prediction == ABSTAIN
    assert found.radius == 0.0
    assert found.p <= 0.5


def test_of_equal_votes_the_lower_class_is_selected():
    assert decide({7: 5, 2: 5}, {2: 100, 7: 5}, sigma=1.0, alpha=0.01).prediction == 2
