"""Figures → one HTML page: no network, every user string escaped."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from . import charts, pictures, query_charts, text, training
from .charts import Series
from .gallery import Example
from .page import fill
from .summary import Report

# Characters that pictures may take in a page; the rest of it is far below the 2 MB it may have.
PICTURES = 1_400_000
HEAT_MAP = 20  # classes; beyond, a matrix is told by its largest entries
TABLE = 100  # classes; beyond, the weakest are listed


def render(report: Report) -> str:
    """The page of an attack run."""
    return fill(
        "attack.html.jinja",
        **_attack_parts(report),
        repeat=repeat(report.run, report.seconds),
        examples=_gallery(report),
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
        "curve": _curve(report),
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


def _curve(report: Report) -> Markup:
    if len(report.curve) < 2 or not report.n:
        return Markup("")
    xs, ys = zip(*report.curve, strict=True)
    cis = [report.curve_ci(y) for y in ys]
    says = "; ".join(f"{text.percent(y, report.n)} at {text.eps(x)}" for x, y in report.curve)
    return charts.line_chart(
        xs,
        [
            Series(
                "accuracy at most",
                ys,
                points=True,
                low=[low for low, _ in cis],
                high=[high for _, high in cis],
            )
        ],
        label=f"Accuracy against ε, an upper bound: {says}",
        x_name="ε",
        y_name="accuracy, at most",
        x_text=text.eps,
        y_text=text.percent,
        tick_text=text.whole_percent,
        y_range=(0, 1),
        x_ticks=xs,
    )


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


def _gallery(report: Report) -> list[dict[str, Any]]:
    """Cards, evenly over the examples, as many as fit the page."""
    low, high = float(report.threat.get("low", 0)), float(report.threat.get("high", 1))
    examples, cards, size = report.gallery, list[dict[str, Any]](), 0
    asked = report.spec["data"].get("image")
    # Spread over the classes even where only a few fit: every third first, then the rest.
    order = [i for start in range(3) for i in range(start, len(examples), 3)]
    for i in order:
        example = examples[i]
        picture = pictures.is_image(example.x.shape) and asked is not False
        shown = _pictures(example, low, high) if picture else _signals(example)
        size += sum(len(value) for value in shown.values() if isinstance(value, str))
        if cards and size > PICTURES:
            break
        cards.append(
            {
                "order": i,
                "example": example,
                "label": _name(report, example.label),
                "clean": _name(report, example.prediction),
                "adv": _name(report, example.adv_prediction),
                "target": _name(report, example.target) if example.target >= 0 else None,
                "confidence": _known(example.confidence),
                "adv_confidence": _known(example.adv_confidence),
                "shrunk": picture and max(example.x.shape[1:]) > pictures.LARGEST,
                **shown,
            }
        )
    return sorted(cards, key=lambda card: int(card["order"]))


def _known(confidence: float) -> float | None:
    """None where the model gave labels alone."""
    return None if math.isnan(confidence) else confidence


def _name(report: Report, index: int) -> str:
    return report.classes[index] if 0 <= index < len(report.classes) else str(index)


def _pictures(example: Example, low: float, high: float) -> dict[str, Any]:
    delta, factor = pictures.perturbation(example.x_adv - example.x, low, high)
    return {
        "kind": "image",
        "x": pictures.image(example.x, low, high),
        "delta": delta,
        "x_adv": pictures.image(example.x_adv, low, high),
        "factor": factor,
        "crisp": max(example.x.shape[1:]) <= pictures.LARGEST,
    }


def _signals(example: Example) -> dict[str, Any]:
    x, x_adv = (a.astype(np.float64).ravel() for a in (example.x, example.x_adv))
    delta = x_adv - x
    at, its = charts.envelope(x.tolist()), charts.envelope(delta.tolist())
    name = "position" if len(x) > 1 else "feature"
    return {
        "kind": "signal",
        "x": charts.line_chart(
            at,
            [Series("original", x[at].tolist()), Series("adversarial", x_adv[at].tolist())],
            label=f"Original and adversarial signal of sample {example.id}",
            x_name=name,
            y_name="value",
            height=150,
            hover=len(x) <= 64,
        ),
        "delta": charts.line_chart(
            its,
            [Series("perturbation", delta[its].tolist())],
            label=f"Perturbation of sample {example.id}, at most {np.abs(delta).max():.3g}",
            x_name=name,
            y_name="perturbation",
            height=110,
            hover=len(x) <= 64,
        ),
    }


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
