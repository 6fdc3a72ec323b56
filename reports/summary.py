"""Rows → figures, pure: a Report holds no figure that was not derived from the stored outcomes."""

from collections.abc import Iterable
from functools import cached_property
from typing import Any

import numpy as np

from robust.core.outcome import SCHEMA_VERSION, Bools, Floats, Ints, Shard
from robust.core.threat import COUNTS

from . import oracle, protocol, text
from .rates import Interval, plain, rate, ratio, wilson
from .rows import Columns, Example, Tally, Whole, consume

ACCESS = {1: "labels", 2: "scores", 3: "gradient"}


def _minimal(attack: dict[str, Any]) -> bool:
    """Whether it looks for the smallest distance; older records say it where it was measured."""
    return bool(attack.get("minimal", attack.get("measures")))


class Report:
    """What an attack run found.

    run      the record of run.json: schema_version, spec, status, argv, created, versions; seconds,
             where it has them, else the sum over the shards; fits, what is known of the things that
             attacks crafted for all samples
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
        self._columns: Columns
        self._tallies: list[Tally]
        self._whole: Whole
        self._columns, self._tallies, gallery, self._whole = consume(shards, self.spec)
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
        c = self._columns
        seen = max(int(a.max(initial=-1)) for a in (c.labels, c.prediction, c.adv_prediction))
        given = self.spec["model"].get("classes") or self.spec["data"].get("classes") or []
        return [*map(str, given), *map(str, range(len(given), seen + 1))]

    # How far it came

    @property
    def n(self) -> int:
        """Number of samples measured."""
        return len(self._columns.labels)

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

    # Accuracies

    @cached_property
    def _radius(self) -> Floats:
        """Smallest eps known to break each sample: 0 misclassified already, inf never broken."""
        c = self._columns
        radius = np.where(c.first >= 0, np.minimum(c.broken_at, self.eps), c.broken_at)
        return np.where(c.correct, radius, 0.0)

    def _withstand(self, eps: float) -> Bools:
        withstand: Bools = self._radius > eps * (1 + 1e-9)
        return withstand

    @property
    def clean_accuracy(self) -> float:
        """Fraction of samples predicted correctly unaltered."""
        return rate(int(self._columns.correct.sum()), self.n)

    @property
    def clean_accuracy_ci(self) -> Interval:
        """95 % Wilson interval of the clean accuracy."""
        return wilson(int(self._columns.correct.sum()), self.n)

    @property
    def robust_accuracy(self) -> float:
        """Fraction predicted correctly and broken by no attack; NaN where no attack ran."""
        return rate(int(self._withstand(self.eps).sum()), self.n if self._tallies else 0)

    @property
    def robust_accuracy_ci(self) -> Interval:
        """95 % Wilson interval of the robust accuracy."""
        return wilson(int(self._withstand(self.eps).sum()), self.n if self._tallies else 0)

    @cached_property
    def counts(self) -> dict[str, int]:
        """The samples in three parts: robust, broken, misclassified (unaltered)."""
        robust = int(self._withstand(self.eps).sum())
        correct = int(self._columns.correct.sum())
        return {"robust": robust, "broken": correct - robust, "misclassified": self.n - correct}

    @cached_property
    def curve(self) -> list[tuple[float, float]]:
        """(eps, accuracy) at 0 and every eps tested: an upper bound, for it only counts finds."""
        tested = {0.0}
        if self._tallies:
            tested |= {self.eps, *(self.eps * m for m in self.spec.get("curve") or [])}
        if any(attack.get("measures") for attack in self.spec["attacks"]):
            # Distances were measured: the curve can be read at any eps.
            more = {self.eps * k / 8 for k in range(1, 17)}
            tested |= {round(eps) for eps in more} if self.threat["norm"] in COUNTS else more
        return [(eps, rate(int(self._withstand(eps).sum()), self.n)) for eps in sorted(tested)]

    @cached_property
    def attacks(self) -> list[dict[str, Any]]:
        """One dict per attack, in the order they ran.

        robust_accuracy is what this attack and those before it left; with `every`, what this attack
        alone left. success_rate is over the samples it was given, queries_mean, queries_median and
        queries_p90 over its successes, up to the first one inside eps where that is known; each is
        None where there are none. success_by_queries and distance_by_queries (see
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
        for number, (asked, t) in enumerate(zip(self.spec["attacks"], self._tallies, strict=True)):
            once = crafted.get(number, nothing)
            left = t.alone if self.every else t.left
            rows.append(
                {
                    "name": asked["name"],
                    "label": asked.get("label") or asked["name"],
                    "params": asked.get("params") or {},
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
        correct, robust = self._columns.correct, self._withstand(self.eps)
        rows = []
        for index in np.unique(self._columns.labels).tolist():
            its = self._columns.labels == index
            n, clean, left = int(its.sum()), int(correct[its].sum()), int(robust[its].sum())
            rows.append(
                {
                    "class": self.classes[index],
                    "n": n,
                    "clean_accuracy": clean / n,
                    "clean_accuracy_ci": wilson(clean, n),
                    "robust_accuracy": rate(left, n if self._tallies else 0),
                    "robust_accuracy_ci": wilson(left, n if self._tallies else 0),
                }
            )
        return rows

    @cached_property
    def confusion(self) -> Ints:
        """Counts (true class, class predicted) of the broken samples' first adversarial example."""
        c, k = self._columns, len(self.classes)
        broken = c.correct & (c.first >= 0)
        matrix = np.zeros((k, k), dtype=np.int64)
        np.add.at(matrix, (c.labels[broken], c.adv_prediction[broken]), 1)
        return matrix

    @property
    def survives_8bit(self) -> float | None:
        """Fraction of the broken samples whose first example survives rounding to 8 bits."""
        asked = self._columns.survives_8bit[self._columns.correct & (self._columns.first >= 0)]
        asked = asked[asked >= 0]
        return ratio(int(asked.sum()), len(asked))

    # What a reader must know besides

    @cached_property
    def notes(self) -> list[str]:
        """Honest remarks: what the figures leave out, or rest on."""
        c, notes = self._columns, []
        if not self.complete:
            notes.append(
                f"Incomplete: {self.n:,} of {self.n_expected:,} samples were measured. Resume the "
                "run for the rest; every figure here covers the measured samples only."
            )
        if not self._tallies:
            notes.append("No attack ran: robustness was not measured.")
        elif self.n and not c.correct.any():
            notes.append(
                "Not one sample was classified correctly, so there was nothing to attack: are the "
                "classes in the order of the data, and the range and normalisation the model's own?"
            )
        elif self.n and not self.counts["broken"]:
            why = "too few queries" if self.oracle else "gradients that mislead them"
            notes.append(
                "No attack broke a single sample. That is rare, and more often a sign of attacks "
                f"that were too weak or {why} than of a robust model."
            )
        notes += protocol.notes(self.spec, complete=self.complete)
        low, high = self.robust_accuracy_ci
        if high - low > 0.1:
            notes.append(
                f"Only {text.plural(self.n, 'sample')}: the 95{text.NARROW}% interval is "
                f"{100 * (high - low):.0f} points wide. More samples would narrow it."
            )
        surrogates = self.spec.get("surrogates") or []
        if surrogates:
            names = ", ".join(str(s.get("path") or s.get("arch")) for s in surrogates)
            notes.append(
                f"Transfer: the attacks searched on {names} and asked nothing of the model, which "
                "only verified one candidate per sample and attack. Forwards and backwards are the "
                "surrogates'. Attackers who can query the model do better."
            )
        fooled = ratio(sum(t.fooled for t in self._tallies), sum(t.checked for t in self._tallies))
        model, transfer = self.spec["model"], bool(surrogates)
        notes += oracle.notes(self.oracle, model, fooled, transfer=transfer)
        for attack in self.attacks:
            if attack["crafting"]:
                once, name = attack["crafting"], attack["label"]
                whose = "held out for that" if once["held_out"] else "that it was then measured on"
                notes.append(
                    f"{name} crafted one perturbation for all, on "
                    f"{text.plural(once['samples'], 'sample')} {whose}: "
                    f"{once['forwards']:,} forwards and {once['backwards']:,} backwards, which "
                    "figures per sample leave out."
                )
            notes += [
                f"{attack['label']}: {text.plural(said['samples'], 'sample')} {said['text']}."
                for said in attack["remarks"]
            ]
            if attack["refused"]:
                reasons = ", ".join(f"{k:,} {why}" for why, k in attack["refused"].items())
                notes.append(
                    f"Candidates of {attack['label']} were refused and count as no success: "
                    f"{reasons}."
                )
        if self.survives_8bit is not None and self.survives_8bit < 1:
            fraction = text.percent(1 - self.survives_8bit, self.counts["broken"])
            notes.append(
                f"{fraction} of the adversarial examples no longer work once rounded to 8 bits "
                "per channel; stored as ordinary image files they would be harmless. They count "
                "as successes here."
            )
        smaller = int((c.correct & (c.first < 0) & (self._radius <= self.eps)).sum())
        if smaller and self._tallies:
            notes.append(
                f"{text.plural(smaller, 'sample')} withstood the attacks at the full ε but broke "
                "at a smaller one, and so count as broken."
            )
        there = int((c.correct & (c.targets == c.labels)).sum())
        if self.targeted and there:
            notes.append(
                f"{text.plural(there, 'sample')} already had the target class and could not be "
                "attacked towards it; they count as robust."
            )
        if self.targeted and self._tallies:
            notes.append(
                "Targeted: only reaching the chosen class counts as a success, so the robust "
                "accuracy is higher than it would be if any wrong class counted."
            )
        return notes

    # The record

    def to_json(self) -> dict[str, Any]:
        """report.json: JSON types alone, null for what was not measured."""
        total = {key: sum(a[key] for a in self.attacks) for key in ("forwards", "backwards")}
        total["queries"] = sum(a["queries"] for a in self.attacks)
        record = {
            "schema_version": SCHEMA_VERSION,
            "kind": "attack",
            "status": self.run.get("status"),
            "complete": self.complete,
            "created": self.run.get("created"),
            "model": self.spec["model"],
            "data": self.spec["data"],
            "n": self.n,
            "n_expected": self.n_expected,
            "threat": self.threat,
            "targeted": self.targeted,
            "every": self.every,
            "clean_accuracy": self.clean_accuracy,
            "clean_accuracy_ci": self.clean_accuracy_ci,
            "robust_accuracy": self.robust_accuracy,
            "robust_accuracy_ci": self.robust_accuracy_ci,
            "attacks": self.attacks,
            **total,
            "curve": [
                {"eps": eps, "accuracy": accuracy, "ci": wilson(round(accuracy * self.n), self.n)}
                for eps, accuracy in self.curve
                if self.n
            ],
            "per_class": self.per_class,
            "confusion": [
                {
                    "true": self.classes[i],
                    "predicted": self.classes[j],
                    "count": int(self.confusion[i, j]),
                }
                for i, j in np.argwhere(self.confusion).tolist()
            ],
            "survives_8bit": self.survives_8bit,
            "oracle": self.oracle or None,
            "notes": self.notes,
            "seconds": self.seconds,
            "seed": self.spec.get("seed", 0),
            "device": self.spec.get("device"),
            "search": self.spec.get("search", "exact"),
            "versions": self.run.get("versions") or {},
            "argv": self.run.get("argv") or [],
        }
        found: dict[str, Any] = plain(record)
        return found
