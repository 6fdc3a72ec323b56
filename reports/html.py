"""Figures → one HTML page: no network, every user string escaped."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from . import cards, figures, query_charts, text, training
from .page import fill
from .summary import Report

if TYPE_CHECKING:
    from .certification import Certificates

HEAT_MAP = 20  # classes; beyond, a matrix is told by its largest entries
TABLE = 100  # classes; beyond, the weakest are listed


def render(report: Report, certificates: "Certificates | None" = None) -> str:
    """The page of an attack run; with certificates of the same model, beside what is proven."""
    return fill(
        "attack.html.jinja",
        **_attack_parts(report),
        **figures.parts(report, certificates),
        repeat=repeat(report.run, report.seconds),
        gallery=cards.gallery(report),
        heat=heat(report.confusion, report.classes),
    )


def render_training(
    run: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    evaluation: Report | None = None,
) -> str:
    """The page of a training run.

    run         the record of run.json, its spec the flat dict of options
    history     one dict per epoch; any key may be absent or None
    evaluation  a Report on the trained model, told in brief
    """
    epochs = [int(row.get("epoch", i)) for i, row in enumerate(history)]
    best, best_key = training.best(history, run.get("best_epoch"))
    last = history[-1] if history else {}
    seconds = run.get("seconds") or sum(row.get("seconds") or 0 for row in history)
    spec: Mapping[str, Any] = run.get("spec") or {}
    names = training.class_names(spec, history)
    matrices = [
        (title, heat(np.asarray(last[key], dtype=np.int64), names))
        for title, key in (("unaltered", "confusion"), ("under attack", "robust_confusion"))
        if last.get(key)
    ]
    return fill(
        "training.html.jinja",
        run=run,
        spec=spec,
        threat=training.threat_name(spec),
        adv=training.attack_name(spec.get("adv")),
        model=run.get("model") or {},
        best=best,
        best_key=best_key,
        figure=training.figure_name(best_key),
        last=last,
        weakest=training.weakest(last, names),
        judged_by=training.judged_by(spec),
        nothing_learned=training.nothing_learned(best or {}),
        curves=training.curves(epochs, history),
        history=history,
        columns=[(k, name, kind) for k, name, kind in training.HISTORY if training.has(history, k)],
        matrices=matrices,
        alarms=[(row.get("epoch"), row["alarm"]) for row in history if row.get("alarm")],
        seconds=seconds,
        repeat=repeat(run, seconds),
        evaluation=_attack_parts(evaluation) if evaluation else None,
    )


# The parts of an attack's page


def _attack_parts(report: Report) -> dict[str, Any]:
    eps = text.eps(report.eps)
    return {
        "report": report,
        "model_name": _model_name(report.spec["model"]),
        "data_name": str(report.spec["data"].get("source") or report.spec["data"].get("name", "")),
        "norm": text.norm(report.threat["norm"]),
        "eps": eps,
        "change": f"a patch of at most {eps} × {eps} pixels"
        if report.threat["norm"] == "patch"
        else f"a change of at most {eps} ({text.norm(report.threat['norm'])})",
        "curve": figures.curve(report),
        "economy": query_charts.figures(report.attacks, report.eps),
        "classes": _weakest(report.per_class),
        "cost": {
            key: sum(attack[key] for attack in report.attacks)
            for key in ("forwards", "backwards", "queries", "seconds")
        },
    }


def _model_name(model: Mapping[str, Any]) -> str:
    path = str(model.get("path") or "")
    name = path.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]
    return name or str(model.get("arch") or model.get("kind") or "model")


def _weakest(per_class: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All classes in their order; of very many, those of least robust accuracy."""
    if len(per_class) <= TABLE:
        return per_class
    return sorted(per_class, key=lambda row: float(row["robust_accuracy"]))[:TABLE]


def heat(matrix: NDArray[np.int64], names: Sequence[str]) -> dict[str, Any] | None:
    """A matrix of counts for the page: rows of cells, or its largest off-diagonal entries."""
    if not matrix.any():
        return None
    names = [*names, *map(str, range(len(names), len(matrix)))]
    if len(matrix) <= HEAT_MAP:
        shade = matrix / matrix.max()
        return {
            "names": names[: len(matrix)],
            "rows": [
                [(int(count), float(part)) for count, part in zip(*pair, strict=True)]
                for pair in zip(matrix, shade, strict=True)
            ],
        }
    off = matrix - np.diag(np.diag(matrix))
    order = np.argsort(off, axis=None, kind="stable")[::-1][:15]
    pairs = [divmod(int(k), len(matrix)) for k in order]
    return {"pairs": [(names[i], names[j], int(off[i, j])) for i, j in pairs if off[i, j]]}


def repeat(run: Mapping[str, Any], seconds: float) -> list[tuple[str, str, bool]]:
    """What it takes to run it again: (name, value, whether it is code)."""
    spec: Mapping[str, Any] = run.get("spec") or {}
    model, data = (spec.get(key) for key in ("model", "data"))
    model = model if isinstance(model, Mapping) else run.get("model") or {}
    data = data if isinstance(data, Mapping) else {"source": data}
    rows = [
        ("Seed", spec.get("seed"), False),
        ("Model", model.get("path"), True),
        ("Model sha256", model.get("sha256"), True),
        ("Data", data.get("source"), True),
        ("Data fingerprint", data.get("fingerprint"), True),
        ("Device", spec.get("device"), False),
        ("Started", run.get("created"), False),
        ("Took", text.seconds(seconds) if seconds else None, False),
        ("Status", run.get("status"), False),
        ("Versions", ", ".join(f"{k} {v}" for k, v in (run.get("versions") or {}).items()), False),
    ]
    rows += [
        (f"Fingerprint of {what}", digest, True)
        for what, digest in (spec.get("fingerprints") or {}).items()
    ]
    told = [(name, str(value), code) for name, value, code in rows if value not in (None, "")]
    return [("Command", text.command([str(a) for a in run.get("argv") or []]), True), *told]
