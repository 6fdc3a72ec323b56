"""Certified beside empirical: the truth bracketed from both sides, on the same samples."""

import math
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from markupsafe import Markup

from robust.core.outcome import Bools, Floats

from . import charts, text
from .charts import Series
from .rates import Interval, plain, rate, wilson

if TYPE_CHECKING:
    from .certification import Certificates
    from .summary import Report

_POINTS = 240  # of the chart
_ROWS = 12  # of the table


class Bracket:
    """What is proven of a model, and what attacks leave of it.

    why         a sentence that says why the two cannot be compared; "" where they can. Then
    n           samples that both looked at, matched by their ids; all figures are over these
    same        whether what was attacked is what was certified, the vote over noisy copies. Where
                it is another model, no figure bounds the other
    beyond      samples that are certified beyond a distance at which an attack broke them: of the
                same model that is an error of the certificate, which may happen with probability
                alpha each, or of a vote over fewer copies
    """

    def __init__(self, report: "Report", certificates: "Certificates") -> None:
        self.report, self.certificates = report, certificates
        rows = {int(row["id"]): row for row in certificates.rows}
        ids = report.columns.ids
        there = np.array([int(i) in rows for i in ids], dtype=np.bool_)
        self._its: Bools = there
        matched = [rows[int(i)] for i in ids[there]]
        right = [row["prediction"] == row["label"] for row in matched]
        radius = [float(row["radius"]) for row in matched]
        # −1 where the vote is wrong or abstains: not even the sample itself.
        self._proven: Floats = np.where(np.array(right, dtype=np.bool_), np.array(radius), -1.0)
        self.n = len(matched)
        self.why = self._why()

    @classmethod
    def of(cls, report: "Report", certificates: "Certificates | None") -> Self | None:
        """The bracket of a run; None where nothing is certified."""
        return None if certificates is None else cls(report, certificates)

    def _why(self) -> str:
        ours, theirs = self.report.spec, self.certificates.spec
        if ours["threat"]["norm"] != "l2":
            norm = text.norm(ours["threat"]["norm"])
            return f"Certificates hold in L2, and the attacks were bounded in {norm}."
        digest = ours["model"].get("sha256")
        if not digest or digest != theirs["model"].get("sha256"):
            return "The certificates are of another model than the one that was attacked."
        if ours["data"].get("fingerprint") != theirs["data"].get("fingerprint"):
            return "The certificates are of other data than those that were attacked."
        if not self.report.tallies:
            return "No attack ran."
        if not self.n:
            return "No sample was both attacked and certified."
        return ""

    @property
    def same(self) -> bool:
        defenses = self.report.defenses
        if [one["name"] for one in defenses] != ["smoothing"]:
            return False
        threat = self.report.threat
        noise = float(defenses[0]["params"].get("sigma", math.nan))
        noise *= float(threat["high"]) - float(threat["low"])
        return math.isclose(noise, self.certificates.sigma, rel_tol=1e-6)

    @property
    def beyond(self) -> int:
        radius = self.report.radius[self._its]
        return int(((radius > 0) & (radius < self._proven)).sum())

    def _certified(self, eps: float) -> int:
        return int((self._proven >= eps).sum())

    def _robust(self, eps: float) -> float:
        """How many samples the attacks left at that eps, an upper bound."""
        columns, its = self.report.columns, self._its
        if self.report.random:
            at_eps = eps >= self.report.eps * (1 - 1e-9)
            return float((self.report.withstood if at_eps else columns.right)[its].sum())
        return float((self.report.radius[its] > eps * (1 + 1e-9)).sum())

    @property
    def certified(self) -> float | None:
        """Certified accuracy at the eps of the attacks; None where the two cannot be compared."""
        return None if self.why else rate(self._certified(self.report.eps), self.n)

    @property
    def certified_ci(self) -> Interval | None:
        """Its 95 % interval, over the choice of samples."""
        return None if self.why else wilson(self._certified(self.report.eps), self.n)

    @property
    def robust(self) -> float | None:
        """Robust accuracy there, on the samples in common."""
        return None if self.why else rate(self._robust(self.report.eps), self.n)

    @property
    def robust_ci(self) -> Interval | None:
        """Its 95 % interval."""
        return None if self.why else wilson(self._robust(self.report.eps), self.n)

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """eps, certified and robust accuracy with intervals, wherever attacks were tested; at most
        a dozen.
        """
        tested = [eps for eps, _ in self.report.curve]
        if len(tested) > _ROWS:
            kept = np.linspace(0, len(tested) - 1, _ROWS).round().astype(np.int64).tolist()
            tested = sorted({self.report.eps, *(tested[i] for i in kept)})
        return [] if self.why else [self._row(eps) for eps in tested]

    def _row(self, eps: float) -> dict[str, Any]:
        proven, left = self._certified(eps), self._robust(eps)
        return {
            "eps": eps,
            "certified": rate(proven, self.n),
            "certified_ci": wilson(proven, self.n),
            "robust": rate(left, self.n),
            "robust_ci": wilson(left, self.n),
        }

    @property
    def words(self) -> str:
        """What may be concluded, a sentence or two."""
        if self.why:
            return f"{self.why} The truth cannot be bracketed."
        low, high = text.percent(self.certified, self.n), text.percent(self.robust, self.n)
        noise = f"σ = {self.certificates.sigma:g}"
        if not self.same:
            attacked = "the network with its defenses" if self.report.defenses else "the network"
            return (
                f"Two models: what is certified is the vote over noisy copies ({noise}), of which "
                f"at least {low} is robust at ε = {text.eps(self.report.eps)}; what was attacked "
                f"is {attacked} itself, of which at most {high} is. Neither figure bounds the "
                "other: attack the model with --defense smoothing to bracket the vote."
            )
        said = (
            f"The share of samples on which the vote over noisy copies ({noise}) is truly robust "
            f"at ε = {text.eps(self.report.eps)} lies between {low}, which is proven, and {high}, "
            "which is what attacks leave."
        )
        if self.beyond:
            said += (
                f" {text.plural(self.beyond, 'sample')} broke nearer than their certificate allows:"
                f" each may be wrong with probability {self.certificates.alpha:g}, and the attacked"
                " model votes over fewer copies."
            )
        return said

    def to_json(self) -> dict[str, Any]:
        """For report.json."""
        found: dict[str, Any] = plain(
            {
                "why_not": self.why or None,
                "same_model": None if self.why else self.same,
                "n": self.n,
                "sigma": self.certificates.sigma,
                "alpha": self.certificates.alpha,
                "certified": self.certified,
                "certified_ci": self.certified_ci,
                "robust": self.robust,
                "robust_ci": self.robust_ci,
                "beyond": None if self.why else self.beyond,
                "rows": self.rows,
            }
        )
        return found

    @property
    def chart(self) -> Markup:
        """Both curves over ε; nothing where they cannot be compared."""
        if self.why:
            return Markup("")
        end = max(self.report.curve[-1][0], min(self.certificates.largest, 2 * self.report.eps))
        tested = {eps for eps, _ in self.report.curve if eps <= end}
        xs = sorted({*(end * k / _POINTS for k in range(_POINTS + 1)), *tested})
        lines = (
            ("robust, at most", False, [self._robust(x) for x in xs]),
            ("certified, at least", True, [float(self._certified(x)) for x in xs]),
        )
        series = [
            Series(
                name,
                [k / self.n for k in counts],
                dashed=dashed,
                steps=True,
                band=(
                    [wilson(k, self.n)[0] for k in counts],
                    [wilson(k, self.n)[1] for k in counts],
                ),
            )
            for name, dashed, counts in lines
        ]
        says = "; ".join(
            f"at ε = {text.eps(row['eps'])} certified {text.percent(row['certified'], self.n)}, "
            f"robust at most {text.percent(row['robust'], self.n)}"
            for row in self.rows
        )
        return charts.line_chart(
            xs,
            series,
            label=f"Certified and robust accuracy against ε: {says}",
            x_name="ε (L2)",
            y_name="accuracy",
            x_text="{:.3g}".format,
            y_text=text.percent,
            tick_text=text.whole_percent,
            y_range=(0, 1),
            x_ticks=[t for t in charts.nice_ticks(0, end, 6) if t <= end],
        )
