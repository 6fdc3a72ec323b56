"""From counted votes to a certificate: the procedure CERTIFY of Cohen et al., 1902.02918.

f is the classifier, ε ~ N(0, σ²I), and g(x) the class c of largest P(f(x + ε) = c). If that of c_A
is at least p_A > 1/2, g(x + δ) = c_A for every ‖δ‖₂ < σ Φ⁻¹(p_A).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from scipy.stats import binomtest, norm

ABSTAIN = -1
Votes = Mapping[int, int]  # class → noisy copies that f puts into it


@dataclass(frozen=True)
class Decision:
    """What is known of g(x) with probability 1 − alpha.

    prediction  its class, or ABSTAIN
    p           the lower bound of the probability of the class that was selected
    radius      in L2, in the units of the data: g is constant within; 0 where it abstains
    """

    prediction: int
    p: float
    radius: float


def decide(selection: Votes, estimation: Votes, *, sigma: float, alpha: float) -> Decision:
    """Select c_A by the first votes (n0), and bound its probability by the others (n).

    The class must not be chosen by the votes that its probability is estimated from: the largest
    of several counts is too large on average.
    """
    chosen = min(selection, key=lambda c: (-selection[c], c))
    p = lower_bound(estimation.get(chosen, 0), sum(estimation.values()), alpha)
    if p <= 0.5:
        return Decision(ABSTAIN, p, 0.0)
    return Decision(chosen, p, sigma * float(norm.ppf(p)))


def lower_bound(k: int, n: int, alpha: float) -> float:
    """The one-sided bound of Clopper & Pearson: k of n give at least this share, but for a
    probability of at most alpha.
    """
    test = binomtest(k, n, alternative="greater")
    return float(test.proportion_ci(confidence_level=1 - alpha, method="exact").low)
