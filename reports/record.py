"""A report as JSON."""

from typing import TYPE_CHECKING, Any

import numpy as np

from robust.core.outcome import SCHEMA_VERSION

from . import cost, survival
from .rates import plain

if TYPE_CHECKING:
    from .summary import Report


def of(report: "Report") -> dict[str, Any]:
    """What report.json says: JSON types alone, null for what was not measured."""
    total = {key: sum(a[key] for a in report.attacks) for key in ("forwards", "backwards")}
    total["queries"] = sum(a["queries"] for a in report.attacks)
    found: dict[str, Any] = plain(
        {
            "schema_version": SCHEMA_VERSION,
            "kind": "attack",
            "status": report.run.get("status"),
            "complete": report.complete,
            "damaged": report.damaged,
            "created": report.run.get("created"),
            "model": report.spec["model"],
            "data": report.spec["data"],
            "n": report.n,
            "n_expected": report.n_expected,
            "threat": report.threat,
            "targeted": report.targeted,
            "every": report.every,
            "clean_accuracy": report.clean_accuracy,
            "clean_accuracy_ci": report.clean_accuracy_ci,
            "robust_accuracy": report.robust_accuracy,
            "robust_accuracy_ci": report.robust_accuracy_ci,
            "verdict": report.verdict and report.verdict.to_json(),
            "checks": [check.to_json() for check in report.checks],
            "naive_accuracy": report.naive_accuracy,
            "naive_accuracy_ci": report.naive_accuracy_ci,
            "false_security": report.false_security,
            "false_security_ci": report.false_security_ci,
            "samples_needed": report.samples_needed,
            "defenses": report.defenses or None,
            "attacks": report.attacks,
            **total,
            "flops": cost.total(report),
            "flops_each": report.run.get("flops"),
            "energy": cost.energy(report),
            "curve": [
                {
                    "eps": eps,
                    "accuracy": accuracy,
                    "ci": report.curve_ci(accuracy),
                }
                for eps, accuracy in report.curve
                if report.n
            ],
            "distances": report.distances,
            "margins": report.margins,
            "survival": {"attacks": report.survival, "overlap": survival.overlap(report)},
            "transfer": report.transfer,
            "per_class": report.per_class,
            "macro": report.macro,
            "worst_class": report.worst_class,
            "confusion": [
                {
                    "true": report.classes[i],
                    "predicted": report.classes[j],
                    "count": int(report.confusion[i, j]),
                }
                for i, j in np.argwhere(report.confusion).tolist()
            ],
            "survives_8bit": report.survives_8bit,
            "survives_8bit_ci": report.survives_8bit_ci,
            "oracle": report.oracle or None,
            "draws": int(report.spec["checks"]) if report.random else None,
            "notes": report.notes,
            "seconds": report.seconds,
            "seed": report.spec.get("seed", 0),
            "device": report.spec.get("device"),
            "search": report.spec.get("search", "exact"),
            "versions": report.run.get("versions") or {},
            "argv": report.run.get("argv") or [],
        }
    )
    return found
