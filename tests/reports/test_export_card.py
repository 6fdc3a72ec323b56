"""The model card: front matter as the hub reads it, and a section for people."""

import math

import pytest
import yaml
from report_kinds import kinds
from synthetic import run, ten

from robust.reports import card
from robust.reports.summary import Report

KINDS = kinds()


def front(report):
    text = card.of(report)
    assert text.startswith("---\n")
    _, found, _ = text.split("---\n", 2)
    return yaml.safe_load(found)


def check_index(index) -> None:
    """What the hub's specification asks of a model-index: which keys, of which types."""
    assert isinstance(index, list)
    assert index
    for model in index:
        assert isinstance(model["name"], str)
        assert model["name"]
        assert model["results"]
        for result in model["results"]:
            assert (
                {"task", "dataset", "metrics"}
                <= set(result)
                <= {*("task", "dataset", "metrics", "source")}
            )
            assert set(result["task"]) <= {"type", "name"}
            assert isinstance(result["task"]["type"], str)
            assert set(result["dataset"]) <= {"type", "name", "config", "split", "revision", "args"}
            assert all(isinstance(result["dataset"][key], str) for key in ("type", "name"))
            assert result["metrics"]
            for metric in result["metrics"]:
                assert set(metric) <= {"type", "value", "name", "config", "args", "verified"}
                assert isinstance(metric["type"], str)
                assert isinstance(metric["value"], int | float)
                assert math.isfinite(metric["value"])
                assert 0 <= metric["value"] <= 1
            if "source" in result:
                assert {"name", "url"} <= set(result["source"])


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "nothing"])
def test_the_front_matter_is_a_model_index(kind) -> None:
    found = front(KINDS[kind])
    assert set(found) == {"model-index"}
    check_index(found["model-index"])


def test_the_metrics_are_the_report_s() -> None:
    ((model,),) = front(Report(run(n=10), [ten()])).values()
    assert model["name"] == "m"
    (result,) = model["results"]
    assert result["task"]["type"] == "image-classification"
    assert result["dataset"]["name"] == "digits"
    clean, robust = result["metrics"]
    assert (clean["type"], clean["value"]) == ("accuracy", 0.8)
    assert (robust["type"], robust["value"]) == ("robust-accuracy", 0.4)
    assert robust["name"] == "Robust accuracy (L∞ ε = 0.1)"
    args = robust["args"]
    assert (args["norm"], args["eps"], args["low"], args["high"]) == ("linf", 0.1, 0.0, 1.0)
    assert args["attacks"] == ["first", "second"]
    assert args["samples"] == 10
    assert args["interval_95"] == pytest.approx([0.168180, 0.687326], abs=1e-6)


def test_what_was_not_measured_is_no_metric() -> None:
    assert not card.of(KINDS["nothing"]).startswith("---")
    ((model,),) = front(KINDS["no attacks"]).values()
    assert [m["type"] for m in model["results"][0]["metrics"]] == ["accuracy"]


def test_data_of_the_hub_are_named_as_there() -> None:
    record = run(n=10, image=False)
    record["spec"]["data"] |= {"source": "hf:uoft-cs/cifar10", "split": "test"}
    ((model,),) = front(Report(record, [ten()])).values()
    (result,) = model["results"]
    assert result["dataset"]["type"] == "uoft-cs/cifar10"
    assert result["dataset"]["split"] == "test"
    assert result["task"]["type"] == "other"


def test_the_section_says_what_the_figure_does_not() -> None:
    text = card.of(KINDS["targeted"])
    for heading in ("## Adversarial robustness", "### What it does not say", "### How it was"):
        assert heading in text
    assert "Targeted: only reaching the chosen class counts" in text
