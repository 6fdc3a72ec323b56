"""A run and its gates as JUnit XML, which every CI server can read."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from . import text
from .entry import Task
from .gates import Gate

if TYPE_CHECKING:
    from .summary import Report

_CONTROL = re.compile(r"[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def of(report: "Report", gates: Sequence[Gate] = ()) -> str:
    """One suite: two tests for each gate, one for the run being whole, one for each attack and one
    for the verdict; UTF-8 with a declaration, ending in a newline.

    A gate that did not hold is a failure, samples that were not measured and files that could not
    be read are an error. Nothing else fails, so that the tests agree with the exit code: a broken
    sample is what an attack is for, and a verdict is for people to read. That a gate may not mean
    what it seems to is the second test of it, skipped with the reasons. The figures are properties
    of the suite; `time` is in seconds.

    The attributes and their order are those of the schema that Ant and Jenkins know.
    """
    cases = [
        *(_gate(gate) for gate in gates),
        *(_cautions(gate) for gate in gates),
        _whole(report),
        *(
            _case("robust.attack", attack["label"], attack["seconds"] or 0.0)
            for attack in report.attacks
        ),
        _verdict(report),
    ]
    kinds = {kind: sum(case.find(kind) is not None for case in cases) for kind in _KINDS}
    root = ET.Element("testsuites")
    suite = ET.SubElement(
        root,
        "testsuite",
        {
            "name": _clean(f"robust {_model(report)}"),
            "tests": str(len(cases)),
            "failures": str(kinds["failure"]),
            "errors": str(kinds["error"]),
            "skipped": str(kinds["skipped"]),
            "time": _seconds(report.seconds),
            "timestamp": str(report.run.get("created") or "1970-01-01T00:00:00")[:19],
            "hostname": "localhost",
            "id": "0",
            "package": "robust",
        },
    )
    properties = ET.SubElement(suite, "properties")
    for name, value in _properties(report):
        ET.SubElement(properties, "property", {"name": name, "value": _clean(value)})
    suite.extend(cases)
    ET.SubElement(suite, "system-out").text = _clean(_output(report, gates))
    ET.SubElement(suite, "system-err").text = _clean("\n".join(report.notes))
    ET.indent(root)
    written: str = ET.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{written}\n'


_KINDS = ("failure", "error", "skipped")


def _case(group: str, name: str, seconds: float = 0.0) -> ET.Element:
    told = {"classname": group, "name": _clean(name), "time": _seconds(seconds)}
    return ET.Element("testcase", told)


def _gate(gate: Gate) -> ET.Element:
    case = _case("robust.gate", gate.name)
    if not gate.passed:
        told = {"message": _clean(gate.told), "type": "gate"}
        lines = [gate.told, *gate.cautions]
        ET.SubElement(case, "failure", told).text = _clean("\n".join(lines))
    return case


def _cautions(gate: Gate) -> ET.Element:
    case = _case("robust.caution", f"nothing speaks against what {gate.name} says")
    if gate.cautions:
        ET.SubElement(case, "skipped", {"message": _clean(" ".join(gate.cautions))})
    return case


def _whole(report: "Report") -> ET.Element:
    case = _case("robust.run", "every sample was measured")
    if not report.complete or report.damaged:
        told = f"{report.n:,} of {report.n_expected or 0:,} samples were measured"
        files = [f"{one['file']}: {one['why']}" for one in report.damaged]
        error = ET.SubElement(case, "error", {"message": told, "type": "incomplete"})
        error.text = _clean("\n".join([told, *files]))
    return case


def _verdict(report: "Report") -> ET.Element:
    case = _case("robust.verdict", "the figure can be trusted")
    found = report.verdict
    if found is None:
        ET.SubElement(case, "skipped", {"message": "the run was not diagnosed"})
    elif found.status != "trustworthy":
        said = {"message": _clean(f"{found.status}: {' '.join(found.reasons)}")}
        ET.SubElement(case, "skipped", said)
    return case


def _properties(report: "Report") -> list[tuple[str, str]]:
    spec, task, n = report.spec, Task.of(report.spec), report.n
    low, high = report.robust_accuracy_ci
    return [
        ("model", _model(report)),
        ("model_sha256", str(spec["model"].get("sha256") or "")),
        ("data", task.data),
        ("data_fingerprint", task.fingerprint),
        ("threat", task.terms),
        ("n", str(n)),
        ("seed", str(spec.get("seed", 0))),
        ("clean_accuracy", f"{report.clean_accuracy:.6g}"),
        ("robust_accuracy", f"{report.robust_accuracy:.6g}"),
        ("robust_accuracy_interval_95", f"{low:.6g} {high:.6g}"),
        ("verdict", report.verdict.status if report.verdict else "not diagnosed"),
        ("robust_version", str((report.run.get("versions") or {}).get("robust", ""))),
    ]


def _output(report: "Report", gates: Sequence[Gate]) -> str:
    n = report.n
    lines = [
        f"robust accuracy {text.percent(report.robust_accuracy, n)}"
        f" ({text.interval(report.robust_accuracy_ci, n)}), clean accuracy "
        f"{text.percent(report.clean_accuracy, n)}, n = {n}"
    ]
    lines += [
        f"{attack['label']}: {attack['successes']} of {attack['given']} broken, "
        f"{text.percent(attack['robust_accuracy'], n)} left"
        for attack in report.attacks
    ]
    if report.verdict is not None:
        lines += [f"verdict: {report.verdict.status}", *report.verdict.reasons]
    for gate in gates:
        held = "held" if gate.passed else "did not hold"
        lines.append(" ".join([f"{gate.name}: {held}.", *gate.cautions]))
    return "\n".join(lines)


def _model(report: "Report") -> str:
    model = report.spec["model"]
    return str(model.get("path") or model.get("arch") or "a model in memory")


def _seconds(value: float) -> str:
    return f"{value:.3f}"


def _clean(value: str) -> str:
    """Without the characters that XML cannot hold."""
    return _CONTROL.sub("\ufffd", value)
