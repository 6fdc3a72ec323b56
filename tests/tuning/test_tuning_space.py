"""What --search says, and what is searched where it says nothing."""

import pytest
from tuning_runs import Known, blobs

from robust.core.errors import RobustError
from robust.data import DataSpec
from robust.training import TrainSpec, parse_adv
from robust.tuning import Axis, Recipe, parse_axes
from robust.tuning.subject import parse_record


@pytest.fixture
def recipe(tmp_path):
    """make(**changes) → a recipe of training on toy data."""
    source = blobs(tmp_path / "toy.npz")

    def make(**changes):
        given = {"data": DataSpec(source).to_dict(), "arch": "mlp", "batch_size": 16}
        return Recipe(TrainSpec(**{**given, "adv": parse_adv("pgd,steps=4"), **changes}))

    return make


@pytest.mark.parametrize(
    ("text", "axis"),
    [
        ("lr=0.01:0.3:log", Axis(name="lr", low=0.01, high=0.3, log=True)),
        ("eps-scale=1:3/2", Axis(name="eps_scale", low=1.0, high=1.5)),
        ("adv.steps=3:10", Axis(name="adv.steps", low=3, high=10, whole=True)),
        ("adv.steps=1:64:log", Axis(name="adv.steps", low=1, high=64, whole=True, log=True)),
        ("adv.step-size=0.01:0.1", Axis(name="adv.step_size", low=0.01, high=0.1)),
        ("adv.step_size=none,0.05", Axis(name="adv.step_size", choices=(None, 0.05))),
        ("adv.random_start=true,false", Axis(name="adv.random_start", choices=(True, False))),
        ("batch_size=16, 32", Axis(name="batch_size", choices=(16, 32))),
        ("optimizer=sgd,adamw", Axis(name="optimizer", choices=("sgd", "adamw"))),
        ("mix=0:1:int", Axis(name="mix", low=0, high=1, whole=True)),
        ("adv=pgd|fgsm", Axis(name="adv", choices=("pgd", "fgsm"))),
        (
            "adv=pgd,steps=2|fgsm,random_start=false",
            Axis(name="adv", choices=("pgd,steps=2", "fgsm,random_start=false")),
        ),
    ],
)
def test_what_search_says(recipe, text, axis):
    assert parse_axes([text], recipe()) == [axis]
    assert Axis.from_dict(axis.to_dict()) == axis
    for value in axis.ends:
        assert axis.holds(value)


def test_what_an_axis_holds():
    whole = Axis(name="k", low=1, high=4, whole=True)
    assert [whole.holds(v) for v in (1, 4, 2.5, 5, True, None)] == [True, True] + 4 * [False]
    # 1 and True are equal in Python, and different here.
    switch = Axis(name="s", choices=(True, False))
    assert [switch.holds(v) for v in (True, 1, "true")] == [True, False, False]
    assert (whole.size, switch.size) == (4, 2)
    assert Axis(name="x", low=0.0, high=1.0).size == float("inf")


@pytest.mark.parametrize(
    ("texts", "line"),
    [
        (["lr"], "write NAME=LOW:HIGH"),
        (["lr="], "write NAME=LOW:HIGH"),
        (["lr=0.3:0.1"], "the range is empty"),
        (["lr=0.1:0.1"], "the range is empty"),
        (["weight_decay=0:0.1:log"], "starts above 0"),
        (["lr=low:high"], "must be numbers"),
        (["lr=0.1:inf"], "must be numbers"),
        (["lr=0.1:0.2:cube"], "log or int, not 'cube'"),
        (["epochs=1.5:3"], "whole numbers"),
        (["epochs=1,2.5"], "'2.5' is not a whole number"),
        (["lr=0.1"], "at least two values"),
        (["lr=0.1,0.1"], "at least two values"),
        (["lr=0.1:0.2", "lr=0.1,0.2"], "given twice"),
        (["lrr=0.1:0.2"], "did you mean 'lr'"),
        (["adv.stepz=1:2"], "pgd has no parameter 'stepz'; did you mean 'steps'"),
        (["eps=0.1:0.2"], "trials are compared"),
        (["seed=1:2"], "trials are compared"),
        (["bit-depth.bits=1:4"], "the run has no defense"),
    ],
)
def test_what_search_cannot_say(recipe, texts, line):
    with pytest.raises(RobustError, match=line):
        parse_axes(texts, recipe())


def test_parameters_of_a_defense(recipe):
    subject = recipe(
        data=DataSpec("digits").to_dict(), arch="small-cnn", defenses=[parse_record("bit-depth")]
    )
    axis = Axis(name="bit-depth.bits", low=2, high=6, whole=True)
    for name in ("bit-depth.bits", "defense.bit-depth.bits"):
        assert parse_axes([f"{name}=2:6"], subject) == [axis]
    with pytest.raises(
        RobustError, match="bit-depth has no parameter 'bytes'; did you mean 'bits'"
    ):
        parse_axes(["bit-depth.bytes=2:6"], subject)
    with pytest.raises(RobustError, match="no defense 'bit-dept'; did you mean 'bit-depth'"):
        parse_axes(["bit-dept.bits=2:6"], subject)
    spec = subject.changed({"bit-depth.bits": 5, "lr": 0.02})
    assert (spec.defenses[0]["params"]["bits"], spec.lr) == (5, 0.02)
    assert subject.spec.defenses[0]["params"]["bits"] != 5


def test_what_is_searched_by_default_lies_about_what_is_there(recipe):
    subject = recipe(lr=0.1, weight_decay=0.0, eps_scale=1.25)
    axes = {axis.name: axis for axis in parse_axes([], subject)}
    assert axes["lr"] == Axis(name="lr", low=0.02, high=0.5, log=True)
    assert "weight_decay" not in axes  # about 0 there is no range
    assert (axes["eps_scale"].low, axes["eps_scale"].high) == (1.0, 1.56)
    assert axes["adv.steps"] == Axis(name="adv.steps", low=1, high=12, whole=True)
    for axis in axes.values():
        assert axis.holds(subject.value(axis.name))
        for value in axis.ends:
            subject.check({axis.name: value})
    natural = {axis.name for axis in parse_axes([], recipe(adv=parse_adv("none")))}
    assert natural == {"lr", "weight_decay"}


def test_a_default_range_ends_where_values_do():
    class Narrow(Known):
        def check(self, values):
            if not 0.6 < values.get("x", 0.8) < 1:
                raise RobustError("no")

    x, k = parse_axes([], Narrow())
    assert 0.6 < x.low < 0.8
    assert x.high == 0.8  # each wider end that is looked at is beyond 1
    assert (k.low, k.high) == (1, 6)
