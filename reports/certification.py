"""A certification's rows → its figures, chart and page, pure."""

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from markupsafe import Markup
from scipy.stats import norm

from . import charts, text
from .charts import Series
from .html import repeat
from .page import fill
from .rates import Interval, rate, wilson

Row = Mapping[str, Any]
_POINTS = 240  # of the curve
_UNTRAINED = 0.1  # accuracy lost to noise from which a model seems not to know it


class Certificates:
    """What is proven of a smoothed classifier on some samples.

    record      of run.json
    rows        one dict a sample: id, label, bare, selection, estimation, prediction (−1: it
                abstains), p, radius, seconds; in any order
    """

    def __init__(self, record: Mapping[str, Any], rows: Sequence[Row]) -> None:
        self.record, self.rows = record, list(rows)
        self.spec: Mapping[str, Any] = record["spec"]
        self.sigma, self.alpha = float(self.spec["sigma"]), float(self.spec["alpha"])
        self._right = np.array([row["prediction"] == row["label"] for row in rows], dtype=bool)
        self.radii = np.array([row["radius"] for row in rows], dtype=np.float64)

    @property
    def n(self) -> int:
        """How many samples were asked about."""
        return len(self.rows)

    @property
    def n_expected(self) -> int:
        there = int(self.spec["data"]["n"])
        return min(there, self.spec["limit"] or there)

    @property
    def complete(self) -> bool:
        return self.n == self.n_expected

    def certified_accuracy(self, radius: float) -> float:
        """The share of samples that are classified rightly, and provably so for every change of an
        L2 norm below `radius`; NaN without samples.
        """
        return rate(self._certified(radius), self.n)

    def certified_accuracy_ci(self, radius: float) -> Interval:
        """Its 95 % interval, over the choice of samples."""
        return wilson(self._certified(radius), self.n)

    def _certified(self, radius: float) -> int:
        return int((self._right & (self.radii >= radius)).sum())

    @property
    def accuracy(self) -> float:
        """Clean accuracy of the smoothed classifier; where it abstains it is not right."""
        return self.certified_accuracy(0.0)

    @cached_property
    def counts(self) -> dict[str, int]:
        """Samples by what the smoothed classifier says of them unaltered."""
        abstained = sum(row["prediction"] < 0 for row in self.rows)
        right = int(self._right.sum())
        return {"right": right, "wrong": self.n - right - abstained, "abstained": abstained}

    @property
    def bare_accuracy(self) -> float:
        """Clean accuracy of the classifier itself, without noise."""
        return rate(sum(row["bare"] == row["label"] for row in self.rows), self.n)

    @property
    def average_radius(self) -> float:
        """ACR, the mean over samples of the certified radius, 0 where the class is not the right
        one (Zhai et al., 2001.02378).
        """
        return float((self.radii * self._right).mean()) if self.n else math.nan

    @property
    def largest(self) -> float:
        """The radius that is certified where every copy agrees: n and alpha allow no larger one."""
        return self.sigma * float(norm.ppf(self.alpha ** (1 / int(self.spec["n"]))))

    @property
    def seconds(self) -> float:
        return float(sum(row["seconds"] for row in self.rows))

    @property
    def marks(self) -> list[float]:
        """Round radii that a table tells, from 0 to the largest that there can be."""
        return [r for r in charts.nice_ticks(0.0, self.largest, 8) if r <= self.largest]

    @property
    def notes(self) -> list[str]:
        """What a reader must know to understand the figures."""
        share = f"{100 * self.alpha:.3g}{text.NARROW}%"
        n = int(self.spec["n"])
        found = [
            "A radius is proven for the smoothed classifier, the vote over noisy copies, and not "
            "for the bare network; it is in L2 and in the units of the data. Each single "
            f"certificate may be wrong with a probability of at most {share}.",
            f"Noisy values are not clipped to the range of the data. With n = {n:,} copies and "
            f"this alpha no radius above {self.largest:.3g} can come out; more copies reach "
            "further.",
        ]
        for file, why in (self.record.get("damage") or {}).items():
            found.append(
                f"Damaged: {file} ({why}). These samples are missing from every figure; the same "
                "command with --resume certifies them again."
            )
        if self.n and self.bare_accuracy - self.accuracy > _UNTRAINED:
            found.append(
                "Noise costs this network "
                f"{100 * (self.bare_accuracy - self.accuracy):.0f} points of accuracy: train it "
                "on such noise, robust train --defense smoothing,sigma="
                f"{self.sigma / (self._high - self._low):.3g}"
            )
        return found

    @property
    def _low(self) -> float:
        return float(self.spec["data"]["low"])

    @property
    def _high(self) -> float:
        return float(self.spec["data"]["high"])

    def to_json(self) -> dict[str, Any]:
        """report.json."""
        return {
            "schema_version": self.record["schema_version"],
            "kind": "certify",
            "status": self.record["status"],
            "spec_hash": self.record["spec_hash"],
            "norm": "l2",
            **{key: self.spec[key] for key in ("sigma", "n0", "n", "alpha", "seed")},
            "samples": self.n,
            "samples_expected": self.n_expected,
            "accuracy": _plain(self.accuracy),
            "accuracy_ci": list(map(_plain, self.certified_accuracy_ci(0.0))),
            "bare_accuracy": _plain(self.bare_accuracy),
            "counts": self.counts,
            "average_certified_radius": _plain(self.average_radius),
            "largest_possible_radius": self.largest,
            "certified_accuracy": [
                {
                    "radius": radius,
                    "accuracy": _plain(self.certified_accuracy(radius)),
                    "ci": list(map(_plain, self.certified_accuracy_ci(radius))),
                }
                for radius in self.marks
            ],
            "rows": [dict(row) for row in self.rows],
            "notes": self.notes,
            "seconds": self.seconds,
        }


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else value


def render_certification(found: Certificates) -> str:
    """The page of a certification."""
    model = str(found.spec["model"].get("path") or "").replace("\\", "/").rpartition("/")[2]
    return fill(
        "certification.html.jinja",
        found=found,
        run=found.record,
        spec=found.spec,
        model=model or str(found.spec["model"].get("arch") or "model"),
        data=str(found.spec["data"].get("source", "")),
        curve=_curve(found),
        table=[
            (r, found.certified_accuracy(r), found.certified_accuracy_ci(r), found._certified(r))
            for r in found.marks
        ],
        repeat=repeat(found.record, found.seconds),
    )


def _curve(found: Certificates) -> Markup:
    if not found.n:
        return Markup("")
    end = found.largest * 1.05
    radii = [end * k / _POINTS for k in range(_POINTS + 1)]
    values = [found.certified_accuracy(r) for r in radii]
    low, high = zip(*(found.certified_accuracy_ci(r) for r in radii), strict=True)
    says = "; ".join(
        f"{text.percent(found.certified_accuracy(r), found.n)} at {r:g}" for r in found.marks
    )
    return charts.line_chart(
        radii,
        [Series("certified accuracy", values, band=(low, high), steps=True)],
        label=f"Certified accuracy against the radius in L2: {says}",
        x_name="radius (L2)",
        y_name="certified accuracy",
        x_text="{:.3g}".format,
        y_text=text.percent,
        tick_text=text.whole_percent,
        y_range=(0, 1),
        x_ticks=found.marks,
    )
