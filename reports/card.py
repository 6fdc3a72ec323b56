"""A report as a fragment of a model card, as Hugging Face reads it.

The front matter is YAML with a `model-index` (hub-docs, modelcard.md): per result a task, a dataset
and metrics, each with `type` and `value`. Below it is a section in Markdown.
"""

import math
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import yaml

from . import markdown, md, text
from .entry import Task
from .rates import Interval, plain

if TYPE_CHECKING:
    from .summary import Report

_TASKS = {"image-classification": "Image classification", "other": "Classification"}


def of(report: "Report") -> str:
    """Front matter and section, to be pasted into a README.md: UTF-8, ending in a newline.

    Metrics are fractions in [0, 1]: `accuracy` on unaltered samples, and `robust-accuracy` under
    the threat that its `args` say (norm, eps in the units of the data, box, goal, access, attacks,
    number of samples, 95 % interval, verdict). Where nothing was measured there is no front matter,
    for a metric has a value there.
    """
    index = model_index(report)
    front = ""
    if index is not None:
        dumped = yaml.safe_dump(
            {"model-index": index}, sort_keys=False, allow_unicode=True, width=10**6
        )
        front = f"---\n{dumped}---\n\n"
    return front + md.document(
        [
            "## Adversarial robustness",
            markdown.figures(report),
            _table(report),
            markdown.verdict(report),
            _limits(report),
            "### How it was measured",
            markdown.attacks(report),
            _source(report),
        ]
    )


def model_index(report: "Report") -> list[dict[str, Any]] | None:
    """The value of `model-index`, of JSON types; None where nothing was measured."""
    metrics = [
        _metric("accuracy", "Accuracy", report.clean_accuracy, report.clean_accuracy_ci, report),
        _metric(
            "robust-accuracy",
            f"Robust accuracy ({Task.of(report.spec).terms})",
            report.robust_accuracy,
            report.robust_accuracy_ci,
            report,
            _threat(report),
        ),
    ]
    known = [metric for metric in metrics if metric is not None]
    if not known:
        return None
    task = "image-classification" if report.spec["data"].get("image") else "other"
    result = {
        "task": {"type": task, "name": _TASKS[task]},
        "dataset": _dataset(report.spec["data"]),
        "metrics": known,
    }
    found: list[dict[str, Any]] = plain([{"name": _model(report), "results": [result]}])
    return found


def _metric(
    kind: str,
    name: str,
    value: float,
    interval: Interval,
    report: "Report",
    more: dict[str, Any] | None = None,
) -> dict[str, Any] | None:
    if not math.isfinite(value):
        return None
    low, high = (round(end, 6) for end in interval)
    told = {"samples": report.n, "interval_95": [low, high], **(more or {})}
    return {"type": kind, "name": name, "value": round(value, 6), "args": told}


def _threat(report: "Report") -> dict[str, Any]:
    task = Task.of(report.spec)
    return {
        "norm": task.norm,
        "eps": task.eps,
        "low": task.low,
        "high": task.high,
        "goal": "any wrong class" if task.targeted is None else f"targeted: {task.targeted}",
        "access": task.access,
        "attacks": [attack["label"] for attack in report.attacks],
        "complete": report.complete,
        "verdict": report.verdict.status if report.verdict else None,
        "seed": report.spec.get("seed", 0),
        "robust_version": (report.run.get("versions") or {}).get("robust"),
    }


def _dataset(data: dict[str, Any]) -> dict[str, Any]:
    """type is the id that a hub knows where the data are from there, else what they were called."""
    source = str(data.get("source") or data.get("name") or "unknown")
    hub = source.removeprefix("hf:")
    name = hub if hub != source else PurePath(source.replace("\\", "/")).name or source
    found = {"type": name, "name": name}
    if data.get("split"):
        found["split"] = str(data["split"])
    return {**found, "args": {"fingerprint": data.get("fingerprint"), "n": data.get("n")}}


def _model(report: "Report") -> str:
    model = report.spec["model"]
    path = str(model.get("path") or model.get("arch") or "model")
    return PurePath(path.replace("\\", "/")).stem or path


def _table(report: "Report") -> str:
    n = report.n
    rows = [
        ("accuracy", report.clean_accuracy, report.clean_accuracy_ci),
        ("robust accuracy", report.robust_accuracy, report.robust_accuracy_ci),
    ]
    if report.naive_accuracy is not None and report.naive_accuracy_ci is not None:
        rows.append(("naive accuracy", report.naive_accuracy, report.naive_accuracy_ci))
    return md.table(
        ("metric", "value", f"95{text.NARROW}% interval"),
        [(name, text.percent(value, n), text.interval(ci, n)) for name, value, ci in rows],
    )


def _limits(report: "Report") -> str:
    said = [
        f"The figure holds for one threat, {Task.of(report.spec).threat}, and for samples like "
        "these: it says nothing of other norms, larger changes, other data, or theft of the model "
        "and poisoning of its training.",
        "Robust accuracy is what the attacks named below left: stronger ones can only lower it.",
        *report.notes,
    ]
    return f"### What it does not say\n\n{md.listed(said)}"


def _source(report: "Report") -> str:
    model, data = report.spec["model"], report.spec["data"]
    digests = [
        f"{name} {md.code(str(value))}"
        for name, value in (
            ("model sha256", model.get("sha256")),
            ("data fingerprint", data.get("fingerprint")),
        )
        if value
    ]
    return f"Measured with robust: {', '.join(digests)}." if digests else "Measured with robust."
