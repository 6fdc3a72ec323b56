"""Rows → figures, pure: a Report holds no figure that was not derived from the stored outcomes."""

from collections.abc import Iterable
from functools import cached_property
from typing import Any

import numpy as np

from robust.core.outcome import SCHEMA_VERSION, Bools, Floats, Ints, Shard
from robust.core.threat import COUNTS

from . import checks, defended, notes, oracle, record, text
from .checks import Check, Verdict
from .gallery import Example
from .rates import Interval, rate, ratio, wilson
from .rows import Columns, Tally, Whole, consume

ACCESS = {1: "labels", 2: "scores", 3: "gradient"}


def _minimal(attack: dict[str, Any]) -> bool:
    """Whether it looks for the smallest distance; older records say it where it was measured."""
    return bool(attack.get("minimal", attack.get("measures")))


class Report:
    """What an attack run found.

    run      the record of run.json: schema_version, spec, status, argv, created, versions; seconds,
             where it has them, else the sum over the shards; fits, what is known of the things that
             attacks crafted for all samples; diagnosis, what the probes have found;
             damage, file → why of those that cannot be read, filled in while shards are
    shards   its shards; read one at a time, of which small columns and at most 24 examples stay

    Besides the figures it has `run` and `spec` (its RunSpec as a dict), `seconds` of the whole run,
    and `gallery`, a few broken samples with their adversarial examples.

    Accuracies are fractions in [0, 1], and NaN (null in JSON) where nothing was measured.
    Raises ValueError for a record of another schema version or another kind.
    """

    def __init__(self, run: dict[str, Any], shards: Iterable[Shard]) -> None:
        if run.get("schema_version", SCHEMA_VERSION) != SCHEMA_VERSION:
            raise ValueError(
                f"run.json has schema version {run['schema_version']}, this is {SCHEMA_VERSION}"
            )
        if run.get("kind", "attack") != "attack":
            raise ValueError(f"a Report is made of an attack run, not of a {run['kind']} run")
        self.run = run
        self.spec: dict[str, Any] = run["spec"]
        self.columns: Columns
        self.tallies: list[Tally]
        self._whole: Whole
        self.columns, self.tallies, gallery, self._whole = consume(shards, self.spec)
        self.seconds: float = run.get("seconds") or self._whole.seconds
        self.gallery: list[Example] = list(gallery)

    def __repr__(self) -> str:
        return (
            f"Report(robust_accuracy={self.robust_accuracy:.4g}, "
            f"clean_accuracy={self.clean_accuracy:.4g}, n={self.n}, "
            f"threat={self.threat['norm']} eps={text.eps(self.eps)}, attacks={len(self.attacks)})"
        )

    # What was asked

    @property
    def threat(self) -> dict[str, Any]:
        """norm, eps, low, high."""
        threat: dict[str, Any] = self.spec["threat"]
        return threat

    @property
    def eps(self) -> float:
        """Radius of the threat, in the units of the data."""
        return float(self.threat["eps"])

    @property
    def targeted(self) -> str | None:
        """The rule that chose the targets; None where any wrong class counts."""
        return self.spec.get("targeted")

    @property
    def every(self) -> bool:
        """Whether each attack ran on every sample, or on what survived the former ones."""
        return bool(self.spec.get("every"))

    @cached_property
    def classes(self) -> list[str]:
        """Names of the classes; "0", "1", … where neither model nor data name them."""
        c = self.columns
        seen = max(int(a.max(initial=-1)) for a in (c.labels, c.prediction, c.adv_prediction))
        given = self.spec["model"].get("classes") or self.spec["data"].get("classes") or []
        return [*map(str, given), *map(str, range(len(given), seen + 1))]

    # How far it came

    @property
    def n(self) -> int:
        """Number of samples measured."""
        return len(self.columns.labels)

    @property
    def n_expected(self) -> int | None:
        """Number of samples the run was to measure; None where the record does not say."""
        sizes = [self.spec["data"].get("n"), self.spec.get("limit")]
        known = [int(size) for size in sizes if size is not None]
        return min(known) if known else None

    @property
    def complete(self) -> bool:
        """Whether every sample was measured."""
        return self.n_expected is None or self.n >= self.n_expected

    @property
    def damaged(self) -> list[dict[str, str]]:
        """Files of the run that could not be read, {file, why}: what they held is left out."""
        damage: dict[str, str] = self.run.get("damage") or {}
        return [{"file": file, "why": why} for file, why in sorted(damage.items())]

    # Accuracies

    @cached_property
    def radius(self) -> Floats:
        """Smallest eps known to break each sample: 0 misclassified already, inf never broken."""
        c = self.columns
        radius = np.where(c.first >= 0, np.minimum(c.broken_at, self.eps), c.broken_at)
        return np.where(c.correct, radius, 0.0)

    def _withstand(self, eps: float) -> Bools:
        withstand: Bools = self.radius > eps * (1 + 1e-9)
        return withstand

    def _right(self, its: Bools | slice = slice(None)) -> float:
        """How many of some samples are predicted correctly, in the mean over draws if random."""
        return float(self.columns.right[its].sum())

    def _left(self, its: Bools | slice = slice(None)) -> float:
        """How many of them are robust: not more, as other draws may tell, than are right."""
        if self.random:
            return min(float(self.columns.left[its].sum()), self._right(its))
        return float(self._withstand(self.eps)[its].sum())

    @property
    def clean_accuracy(self) -> float:
        """Fraction of samples predicted correctly unaltered."""
        return rate(self._right(), self.n)

    @property
    def clean_accuracy_ci(self) -> Interval:
        """95 % Wilson interval of the clean accuracy."""
        return wilson(self._right(), self.n)

    @property
    def robust_accuracy(self) -> float:
        """Fraction predicted correctly and broken by no attack; NaN where no attack ran."""
        return rate(self._left(), self.n if self.tallies else 0)

    @property
    def robust_accuracy_ci(self) -> Interval:
        """95 % Wilson interval of the robust accuracy."""
        return wilson(self._left(), self.n if self.tallies else 0)

    @property
    def _alone(self) -> float | None:
        """How many samples the naive attacks leave; None where there was no such question."""
        if not defended.viewed(self.spec, adaptive=False):
            return None
        return min(max(float(self.columns.naive.sum()), self._left()), self._right())

    @property
    def naive_accuracy(self) -> float | None:
        """What those attacks alone leave that take a defended model for a plain one; None where the
        model has no defenses, or no such attack ran.
        """
        return None if self._alone is None else rate(self._alone, self.n)

    @property
    def naive_accuracy_ci(self) -> Interval | None:
        """95 % Wilson interval of the naive accuracy."""
        return None if self._alone is None else wilson(self._alone, self.n)

    @property
    def false_security(self) -> float | None:
        """Naive less robust accuracy: what only attackers who do not look through defenses see;
        None where not both were measured.
        """
        if self.naive_accuracy is None or not defended.viewed(self.spec, adaptive=True):
            return None
        return self.naive_accuracy - self.robust_accuracy

    @property
    def false_security_words(self) -> str:
        """The same as a sentence; "" where it was not measured."""
        return defended.words(self)

    @property
    def defenses(self) -> list[dict[str, Any]]:
        """One dict per defense, in the order in which a sample meets them: name, params, label,
        family, paper, claims, broken_by.
        """
        return list(self.run.get("defenses") or self.spec["model"].get("defenses") or [])

    @property
    def random(self) -> bool:
        """Whether the model, which is no oracle, answers at random: every figure is then a mean
        over `checks` draws of each answer.
        """
        gradient = self.spec.get("access", "gradient") == "gradient"
        return bool(gradient and self.spec.get("checks", 1) > 1)

    @cached_property
    def counts(self) -> dict[str, int]:
        """The samples in three parts: robust, broken, misclassified (unaltered); of a random model
        in the mean over its draws, rounded.
        """
        robust, correct = round(self._left()), round(self._right())
        return {"robust": robust, "broken": correct - robust, "misclassified": self.n - correct}

    @cached_property
    def curve(self) -> list[tuple[float, float]]:
        """(eps, accuracy) at 0 and every eps tested: an upper bound, for it only counts finds."""
        if self.random:
            ends = [(self.eps, self.robust_accuracy)] if self.tallies else []
            return [(0.0, self.clean_accuracy), *ends]
        tested = {0.0}
        if self.tallies:
            tested |= {self.eps, *(self.eps * m for m in self.spec.get("curve") or [])}
        if any(attack.get("measures") for attack in self.spec["attacks"]):
            # Distances were measured: the curve can be read at any eps.
            more = {self.eps * k / 8 for k in range(1, 17)}
            tested |= {round(eps) for eps in more} if self.threat["norm"] in COUNTS else more
        return [(eps, rate(int(self._withstand(eps).sum()), self.n)) for eps in sorted(tested)]

    def curve_ci(self, accuracy: float) -> Interval:
        """95 % Wilson interval of an accuracy on the curve."""
        k = accuracy * self.n
        return wilson(k if self.random else round(k), self.n)

    @cached_property
    def attacks(self) -> list[dict[str, Any]]:
        """One dict per attack, in the order they ran.

        robust_accuracy is what this attack and those before it left; with `every`, what this attack
        alone left. success_rate is over the samples it was given, queries_mean, queries_median and
        queries_p90 over its successes, up to the first one inside eps where that is known; each is
        None where there are none. adaptive says whether it sees through defenses, where there are
        any; fooled, of a random model, is the share of draws in which its candidates fool the
        model, over the samples it was given: a success there fools in half of them.
        success_by_queries and distance_by_queries (see
        `queries.Economy`) are None for attacks whose answers nobody followed, the latter also where
        they look for no smallest distance (`minimal` of the spec). fooled_mean is over the
        successes that were checked again. `crafting` is what an attack spent once for all samples:
        contained in its sums, in no figure per sample. `stages` are the attack's own, with the
        samples that came into each and those that it broke; `remarks` what it says of so many
        samples.
        """
        rows = []
        crafted = {fit["number"]: fit for fit in self.run.get("fits") or []}
        nothing = {"forwards": 0, "backwards": 0, "queries": 0, "seconds": 0.0}
        for number, (asked, t) in enumerate(zip(self.spec["attacks"], self.tallies, strict=True)):
            once = crafted.get(number, nothing)
            left = t.alone if self.every else t.left
            rows.append(
                {
                    "name": asked["name"],
                    "label": asked.get("label") or asked["name"],
                    "params": asked.get("params") or {},
                    "adaptive": asked.get("adaptive"),
                    "access": ACCESS.get(asked.get("access", ""), asked.get("access")),
                    "given": t.given,
                    "successes": t.successes,
                    "robust_accuracy": rate(left, self.n),
                    "robust_accuracy_ci": wilson(left, self.n),
                    "success_rate": ratio(t.successes, t.given),
                    "survives_8bit": ratio(t.survive, t.rounded),
                    "forwards": t.forwards + once["forwards"],
                    "backwards": t.backwards + once["backwards"],
                    "queries": t.queries + once["queries"],
                    "forwards_per_sample": ratio(t.forwards, t.given),
                    "backwards_per_sample": ratio(t.backwards, t.given),
                    "queries_per_sample": ratio(t.queries, t.given),
                    "queries_mean": t.economy.mean,
                    "queries_median": t.economy.median,
                    "queries_p90": t.economy.quantile(0.9),
                    "success_by_queries": self._success_by_queries(t),
                    "distance_by_queries": (_minimal(asked) and t.economy.distance()) or None,
                    "fooled": ratio(t.shares, t.given) if self.random else None,
                    "fooled_mean": ratio(t.fooled, t.checked),
                    "seconds": t.seconds + once["seconds"],
                    "crafting": crafted.get(number),
                    "refused": dict(sorted(t.refused.items())),
                    "stages": [{"name": name, **vars(stage)} for name, stage in t.stages.items()],
                    "remarks": [{"text": text, "samples": k} for text, k in t.remarks.items()],
                }
            )
        return rows

    def _success_by_queries(self, tally: Tally) -> list[tuple[int, float]] | None:
        followed = tally.economy.traced or self.spec.get("access", "gradient") != "gradient"
        return (followed and tally.economy.success()) or None

    @cached_property
    def oracle(self) -> dict[str, Any]:
        """What the model was asked in all (see `oracle.record`); empty where it is no oracle."""
        searched = sum(attack["queries"] for attack in self.attacks)
        return oracle.record(self.run, self._whole, searched, self.seconds)

    @property
    def priced(self) -> str:
        """What its answers cost, in words; "" where that is not known."""
        return oracle.priced(self.oracle)

    @cached_property
    def per_class(self) -> list[dict[str, Any]]:
        """One dict per class that occurs: class, n, clean and robust accuracy with intervals."""
        rows = []
        for index in np.unique(self.columns.labels).tolist():
            its = self.columns.labels == index
            n, clean, left = int(its.sum()), self._right(its), self._left(its)
            rows.append(
                {
                    "class": self.classes[index],
                    "n": n,
                    "clean_accuracy": clean / n,
                    "clean_accuracy_ci": wilson(clean, n),
                    "robust_accuracy": rate(left, n if self.tallies else 0),
                    "robust_accuracy_ci": wilson(left, n if self.tallies else 0),
                }
            )
        return rows

    @cached_property
    def confusion(self) -> Ints:
        """Counts (true class, class predicted) of the broken samples' first adversarial example."""
        c, k = self.columns, len(self.classes)
        broken = c.correct & (c.first >= 0)
        matrix = np.zeros((k, k), dtype=np.int64)
        np.add.at(matrix, (c.labels[broken], c.adv_prediction[broken]), 1)
        return matrix

    @property
    def survives_8bit(self) -> float | None:
        """Fraction of the broken samples whose first example survives rounding to 8 bits."""
        asked = self.columns.survives_8bit[self.columns.correct & (self.columns.first >= 0)]
        asked = asked[asked >= 0]
        return ratio(int(asked.sum()), len(asked))

    # Whether to believe it

    @property
    def diagnosis(self) -> dict[str, dict[str, Any]]:
        """What each probe has found, by its name; {} where the run was not diagnosed."""
        return dict(self.run.get("diagnosis") or {})

    @cached_property
    def checks(self) -> list[Check]:
        """Every check of the run, with its figure and what that means."""
        return checks.of(self)

    @cached_property
    def verdict(self) -> Verdict | None:
        """Whether the robust accuracy can be trusted; None where nothing was checked."""
        return checks.judge(self, self.checks)

    # What a reader must know besides

    @cached_property
    def notes(self) -> list[str]:
        """Honest remarks: what the figures leave out, or rest on."""
        return [*notes.coverage(self), *defended.notes(self), *notes.of(self)]

    # The record

    def to_json(self) -> dict[str, Any]:
        """report.json: JSON types alone, null for what was not measured."""
        return record.of(self)
