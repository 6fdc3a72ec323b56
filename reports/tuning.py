"""A tuning run's trials → its figures, charts and page, pure."""

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from markupsafe import Markup

from . import charts, text
from .html import repeat
from .page import fill
from .query_charts import Scale
from .scatter import Point, fine_percent, scatter, share_ticks, unexceeded

Row = Mapping[str, Any]
_NAMES = {
    "robust": "validation accuracy under attack",
    "clean": "clean validation accuracy",
    "mean": "mean of clean and robust validation accuracy",
}


class Trials:
    """What a tuning run came to.

    record      of run.json
    rows        one dict a trial, in order: number, values, state ("complete", "pruned", "failed",
                "running"), clean, robust, value, seconds, error, notes, baseline
    """

    def __init__(self, record: Mapping[str, Any], rows: Sequence[Row]) -> None:
        self.record, self.rows = record, list(rows)
        self.spec: Mapping[str, Any] = record["spec"]
        self.axes: list[Mapping[str, Any]] = list(self.spec["search"])
        self.objective: str = self.spec["objective"]

    @cached_property
    def complete(self) -> list[Row]:
        return [row for row in self.rows if row["state"] == "complete"]

    @cached_property
    def best(self) -> Row | None:
        """The trial of the highest value, the first of equals."""
        return max(self.complete, key=lambda r: (r["value"], -r["number"]), default=None)

    @property
    def baseline(self) -> Row | None:
        """The trial without tuning, where it came to its end."""
        return next((row for row in self.complete if row["baseline"]), None)

    @cached_property
    def front(self) -> list[Row]:
        """The trials that no other one exceeds in clean or robust accuracy without falling behind
        in the other (Pareto), by rising clean accuracy; the first of equals.
        """
        order = sorted(self.complete, key=lambda r: int(r["number"]))
        return unexceeded(order, lambda row: (row["clean"], row["robust"]))

    def count(self, state: str) -> int:
        return sum(row["state"] == state for row in self.rows)

    @property
    def gain(self) -> float | None:
        """How much higher the objective is than without tuning."""
        if self.best is None or self.baseline is None:
            return None
        return float(self.best["value"] - self.baseline["value"])

    @property
    def seconds(self) -> float:
        return float(sum(row["seconds"] or 0 for row in self.rows))

    @property
    def samples(self) -> int | None:
        """How many samples a trial is judged by, where the run says it."""
        samples: int | None = self.spec["subject"].get("samples")
        return samples

    def to_json(self) -> dict[str, Any]:
        """report.json."""
        return {
            "schema_version": self.record["schema_version"],
            "kind": "tune",
            "status": self.record["status"],
            "objective": self.objective,
            "search": self.axes,
            "trials": [dict(row) for row in self.rows],
            "best": None if self.best is None else self.best["number"],
            "baseline": None if self.baseline is None else self.baseline["number"],
            "gain": self.gain,
            "pareto": [row["number"] for row in self.front],
            "complete": self.count("complete"),
            "pruned": self.count("pruned"),
            "failed": self.count("failed"),
            "seconds": self.seconds,
            "options": self.record.get("options"),
        }


def render_tuning(trials: Trials) -> str:
    """The page of a tuning run."""
    spec = trials.spec
    told = {**spec["subject"].get("train", spec["subject"]), "seed": spec["seed"]}
    return fill(
        "tuning.html.jinja",
        trials=trials,
        run=trials.record,
        threat=_threat(told),
        what=_what(spec["subject"]),
        objective=_NAMES[trials.objective],
        searched=[_axis(axis) for axis in trials.axes],
        trade_off=_trade_off(trials),
        effects=[_effect(trials, axis) for axis in trials.axes] if trials.complete else [],
        row_values=lambda row: [_shown(row["values"].get(axis["name"])) for axis in trials.axes],
        repeat=repeat({**trials.record, "spec": told}, trials.seconds),
    )


def _threat(spec: Mapping[str, Any]) -> str:
    threat = spec["threat"]
    return f"{text.norm(str(threat['norm']))} ε = {text.eps(float(threat['eps']))}"


def _what(subject: Mapping[str, Any]) -> str:
    """ "training of small-cnn against pgd", "jpeg around m.pt"."""
    if "train" in subject:
        spec = subject["train"]
        against = "" if spec["adv"]["name"] == "none" else f" against {spec['adv']['name']}"
        behind = " + ".join(one["name"] for one in spec.get("defenses") or ())
        return f"training of {spec['arch']}{f' behind {behind}' if behind else ''}{against}"
    names = " + ".join(one["name"] for one in subject["defenses"])
    path = str(subject["model"]["path"]).replace("\\", "/")
    return f"{names} around {path.rpartition('/')[2] or 'a model'}"


def _axis(axis: Mapping[str, Any]) -> tuple[str, str]:
    if axis["choices"]:
        return axis["name"], ", ".join(map(_shown, axis["choices"]))
    ends = f"{_shown(axis['low'])} to {_shown(axis['high'])}"
    return axis["name"], ends + (", in the logarithm" if axis["log"] else "")


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "–" if value is None else value if isinstance(value, str) else str(value).lower()


def _title(trials: Trials, row: Row) -> str:
    """What a dot says on hover."""
    lines = [f"trial {row['number']}" + (", without tuning" if row["baseline"] else "")]
    lines += [f"clean {text.percent(row['clean'])}, robust {text.percent(row['robust'])}"]
    lines += [f"{axis['name']} {_shown(row['values'].get(axis['name']))}" for axis in trials.axes]
    return "\n".join(lines)


def _point(trials: Trials, row: Row, x: float, y: float, *, front: bool) -> Point:
    """Filled where nothing exceeds it; the baseline in a colour of its own; the best one large."""
    return Point(
        x,
        y,
        _title(trials, row),
        colour=1 if row["baseline"] else 0,
        hollow=not (front or row["baseline"]),
        large=row is trials.best,
    )


def _trade_off(trials: Trials) -> Markup:
    front = [(row["clean"], row["robust"]) for row in trials.front]
    numbers = {row["number"] for row in trials.front}
    says = "; ".join(f"{text.percent(c)} clean with {text.percent(r)} robust" for c, r in front)
    # What lies at the same place is drawn in the order of its weight: the best one last.
    order = sorted(
        trials.complete,
        key=lambda r: (r is trials.best, r["baseline"], r["number"] in numbers),
    )
    return scatter(
        [
            _point(trials, row, row["clean"], row["robust"], front=row["number"] in numbers)
            for row in order
        ],
        label=f"Clean against robust accuracy of {len(order)} trials; unexceeded: {says}",
        x_name="clean accuracy",
        y_name="robust accuracy",
        x_text=fine_percent,
        y_text=fine_percent,
        x_ticks=share_ticks([row["clean"] for row in order]),
        y_ticks=share_ticks([row["robust"] for row in order]),
        front=front,
        height=260,
    )


def _effect(trials: Trials, axis: Mapping[str, Any]) -> dict[str, Any]:
    """The objective against one parameter."""
    name = axis["name"]
    rows = [row for row in trials.complete if row["values"].get(name) is not None]
    choices = axis["choices"]
    places: list[tuple[Row, float]]
    if choices:
        places = [(r, _place(choices, r["values"][name])) for r in rows]
        ticks = [float(k) for k in range(len(choices))]

        def words(place: float) -> str:
            return _shown(choices[round(place)])

    else:
        # The baseline may lie outside of what is searched: the axis holds it all the same.
        known = [float(row["values"][name]) for row in rows]
        if axis["log"]:
            known = [value for value in known if value > 0]
        low, high = min([axis["low"], *known]), max([axis["high"], *known])
        scale = Scale(low, high) if axis["log"] else None
        places = [(r, scale(r["values"][name]) if scale else r["values"][name]) for r in rows]
        ticks = scale.ticks if scale else charts.nice_ticks(low, high)
        if not scale:
            ticks = [t for t in ticks if low <= t <= high]
        if axis["whole"]:
            ticks = [t for t in ticks if float(scale.back(t) if scale else t).is_integer()]

        def words(place: float) -> str:
            return f"{scale.back(place) if scale else place:.3g}"

    return {
        "name": name,
        "svg": scatter(
            [
                _point(trials, row, place, row["value"], front=row is trials.best)
                for row, place in places
                if math.isfinite(place)
            ],
            label=f"{_NAMES[trials.objective]} against {name}",
            x_name=name,
            y_name=trials.objective if trials.objective != "robust" else "robust accuracy",
            x_text=words,
            y_text=fine_percent,
            x_ticks=ticks,
            y_ticks=share_ticks([row["value"] for row in rows]),
            height=170,
        ),
    }


def _place(choices: Sequence[Any], value: Any) -> float:
    """The number of a choice; the baseline's own value may be none of them."""
    found = [k for k, one in enumerate(choices) if one == value and type(one) is type(value)]
    return float(found[0]) if found else math.nan
