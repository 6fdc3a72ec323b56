"""report.json against its published schema."""

import copy
import json
from typing import Any

import jsonschema
import pytest
import torch
from report_kinds import kinds
from torch import nn

import robust
from robust.core.outcome import SCHEMA_VERSION
from robust.reports.schema import schema

KINDS = kinds()
VALIDATOR = jsonschema.Draft202012Validator(schema())


def faults(record: Any) -> list[str]:
    return [f"{fault.json_path}: {fault.message[:200]}" for fault in VALIDATOR.iter_errors(record)]


def test_the_schema_is_one_and_names_its_version() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())
    assert schema()["$id"] == f"urn:robust:report:{SCHEMA_VERSION}"
    assert schema()["properties"]["schema_version"]["const"] == SCHEMA_VERSION


def parts(node: Any, place: str = ""):
    """Every property, at any depth: (place, subschema)."""
    if isinstance(node, dict):
        for name, value in (node.get("properties") or {}).items():
            yield f"{place}.{name}", value
        for key, value in node.items():
            yield from parts(value, f"{place}.{key}")
    elif isinstance(node, list):
        for value in node:
            yield from parts(value, place)


def test_every_key_is_described() -> None:
    for place, value in parts(schema()):
        its = value
        if set(value) == {"$ref"}:
            its = schema()["$defs"][value["$ref"].rpartition("/")[2]]
        assert its.get("description"), place


def test_objects_of_ours_are_closed() -> None:
    assert schema()["additionalProperties"] is False
    for name, its in schema()["$defs"].items():
        if its.get("properties"):
            assert its["additionalProperties"] is False, name


@pytest.mark.parametrize("kind", KINDS)
def test_reports_of_every_kind_are_valid(kind) -> None:
    record = json.loads(json.dumps(KINDS[kind].to_json(), allow_nan=False))
    assert faults(record) == []


def test_a_real_run_is_valid() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    with torch.no_grad():
        net[1].weight.copy_(torch.eye(3, 4))
        net[1].bias.zero_()
    x = torch.eye(3, 4).repeat(4, 1).reshape(12, 1, 2, 2) * 0.5 + 0.2
    report = robust.evaluate(
        net,
        x,
        torch.arange(3).repeat(4),
        threat=robust.Linf(0.1),
        attacks=["pgd,steps=2", "fmn,steps=3"],
        diagnose="off",
    )
    assert report.robust_accuracy >= 0
    assert faults(json.loads(json.dumps(report.to_json(), allow_nan=False))) == []


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("extra",), 1),
        (("robust_accuracy",), 1.5),
        (("robust_accuracy",), "high"),
        (("robust_accuracy_ci",), [0.1]),
        (("schema_version",), 2),
        (("threat", "norm"), "l3"),
        (("attacks", 0, "extra"), 1),
        (("attacks", 0, "given"), -1),
        (("model", "colour"), "red"),
        (("curve", 0, "eps"), None),
    ],
)
def test_what_is_no_report_is_refused(place, value) -> None:
    record = copy.deepcopy(json.loads(json.dumps(KINDS["plain"].to_json())))
    its: Any = record
    for step in place[:-1]:
        its = its[step]
    its[place[-1]] = value
    assert faults(record)


@pytest.mark.parametrize("key", ["verdict", "damaged", "attacks", "n", "threat"])
def test_no_key_may_be_missing(key) -> None:
    record = KINDS["plain"].to_json()
    del record[key]
    assert faults(record)
