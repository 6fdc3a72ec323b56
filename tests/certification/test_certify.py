"""Certification against what is known of a linear classifier, and its rows against each other."""

import dataclasses
import json

import pytest
import torch
from torch import nn

import robust
from robust.certification import CertifyFolder, Certifying, behind_smoothing, plan, write_report
from robust.core.errors import RobustError
from robust.core.rng import generator
from robust.data import from_arrays
from robust.models import defend, in_memory

W = torch.tensor([[0.3, -0.2, 0.6, 0.1]])


class Half(nn.Module):
    """Two classes with the boundary w·x = b: logits (0, w·x − b)."""

    def __init__(self, b=0.4):
        super().__init__()
        self.w, self.b = nn.Parameter(W.clone()), b

    def forward(self, x):
        z = x.flatten(1) @ self.w.T - self.b
        return torch.cat([torch.zeros_like(z), z], 1)

    def distance(self, x):
        """Signed, in L2: what the radius of the smoothed classifier is, exactly."""
        return ((x.flatten(1) @ W.T - self.b) / W.norm()).squeeze(1)


def samples(n=40):
    x = torch.rand(n, 4, generator=generator(0, "x")).round(decimals=1)  # many lie on the edge
    return x, (Half().distance(x) > 0).long()


def test_of_a_linear_classifier_the_radius_is_the_distance_and_the_estimate_just_below():
    x, y = samples()
    found = robust.certify(Half(), x, y, sigma=0.3, n=20_000)
    distance = Half().distance(x).abs()
    certified = 0
    for row in found.rows:
        true = distance[row["id"]].item()
        assert row["radius"] <= true
        if row["prediction"] >= 0:
            certified += 1
            assert row["prediction"] == row["label"]
            assert row["radius"] > 0.9 * true - 0.02
        else:
            assert true < 0.03
    assert certified > 30
    share = (distance >= 0.1).float().mean().item()
    assert share - 0.1 < found.certified_accuracy(0.1) <= share
    assert found.bare_accuracy == 1.0


def test_it_abstains_on_the_boundary():
    x = torch.full((4, 4), 0.5)  # w·x = 0.4
    found = robust.certify(Half(), x, torch.zeros(4).long(), sigma=0.3, n=2000)
    assert found.counts == {"right": 0, "wrong": 0, "abstained": 4}
    assert found.accuracy == 0.0


def test_a_wrong_class_is_certified_and_counts_for_nothing():
    x, y = samples(10)
    right = robust.certify(Half(), x, y, sigma=0.1, n=500)
    wrong = robust.certify(Half(), x, 1 - y, sigma=0.1, n=500)
    assert wrong.counts["wrong"] == right.counts["right"] > 0
    assert wrong.average_radius == 0.0
    assert [row["radius"] for row in wrong.rows] == [row["radius"] for row in right.rows]


def facts(rows):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def test_numbers_depend_on_neither_the_batch_size_nor_the_other_samples():
    x, y = samples(6)
    known = facts(robust.certify(Half(), x, y, sigma=0.3, n=700).rows)
    for size in (1, 50, 128, 129, 1000):
        found = robust.certify(Half(), x, y, sigma=0.3, n=700, batch_size=size)
        assert facts(found.rows) == known
    assert facts(robust.certify(Half(), x[:3], y[:3], sigma=0.3, n=700).rows) == known[:3]
    other = robust.certify(Half(), x, y, sigma=0.3, n=700, seed=1)
    assert facts(other.rows) != known


def test_equal_samples_have_noise_of_their_own():
    x = torch.full((3, 4), 0.6)
    rows = robust.certify(Half(), x, torch.ones(3).long(), sigma=0.3, n=500).rows
    assert len({(row["selection"][1], row["estimation"][1]) for row in rows}) == 3


def test_votes_of_every_copy_are_counted():
    x, y = samples(3)
    for row in robust.certify(Half(), x, y, sigma=0.3, n0=33, n=777, batch_size=100).rows:
        assert sum(row["selection"].values()) == 33
        assert sum(row["estimation"].values()) == 777


def test_a_scalar_output_is_a_binary_model_and_a_function_will_do():
    x, y = samples(5)
    known = facts(robust.certify(Half(), x, y, sigma=0.3, n=300).rows)
    found = robust.certify(lambda u: u @ W[0] - 0.4, x, y, sigma=0.3, n=300)
    assert facts(found.rows) == known


def test_the_model_is_asked_in_eval_mode_and_given_back_as_it_was():
    model = nn.Sequential(nn.Dropout(0.9), Half()).train()
    x, y = samples(3)
    known = facts(robust.certify(Half(), x, y, sigma=0.3, n=50).rows)
    assert facts(robust.certify(model, x, y, sigma=0.3, n=50).rows) == known
    assert model.training
    assert model[0].training
    assert model[1].w.requires_grad


# Smoothing among the model's defenses


def test_behind_smoothing_the_network_is_certified_with_the_noise_of_that():
    x, y = samples(5)
    given = defend(Half(), "smoothing,sigma=0.1", shape=(4,), num_classes=2, low=-1.0, high=2.0)
    classifier, deviation = behind_smoothing(given)
    assert deviation == pytest.approx(0.3)
    assert isinstance(classifier, Half)
    found = robust.certify(given, x, y, n=500)
    assert found.sigma == pytest.approx(0.3)
    known = robust.certify(Half(), x, y, sigma=deviation, n=500)
    assert facts(found.rows) == facts(known.rows)
    assert robust.certify(given, x, y, sigma=0.2, n=500).sigma == 0.2


def test_what_comes_before_smoothing_cannot_be_certified():
    for names in (["bit-depth", "smoothing"], ["smoothing", "smoothing"]):
        model = defend(Half(), names, shape=(4,), num_classes=2)
        with pytest.raises(RobustError, match=f"behind {names[0]} → smoothing: a certificate is"):
            behind_smoothing(model)
    model = defend(Half(), ["smoothing", "bit-depth"], shape=(4,), num_classes=2)
    assert behind_smoothing(model)[1] == 0.25
    bare = Half()
    assert behind_smoothing(bare) == (bare, None)


# Runs on disk


def run(folder, *, resume=False, n=400, upto=None):
    """Certify into a folder, and stop after so many samples as if the process were killed."""
    x, y = samples(8)
    source = from_arrays(x, y)
    spec = plan(
        in_memory(Half()), source, {"source": "x"}, sigma=0.3, n0=50, n=n, alpha=0.001,
        device=torch.device("cpu"),
    )  # fmt: skip
    store = CertifyFolder.start(folder, spec, ["robust"], resume=resume)
    events = Certifying(spec, Half(), source).run(store)
    next(events)
    for number, _ in enumerate(events, start=1):
        if number == upto:
            break
    return store


def stored(folder):
    return [{**dataclasses.asdict(row), "seconds": 0} for row in folder.read()]


def test_a_killed_run_goes_on_with_the_same_numbers(tmp_path):
    whole = stored(run(tmp_path / "whole"))
    assert len(whole) == 8
    part = run(tmp_path / "part", upto=3)
    file = tmp_path / "part" / "rows.jsonl"
    with file.open("a") as end:
        end.write('{"id": 3, "label": 1, "ba')  # what a kill in the middle of a write leaves
    assert len(part.read()) == 3
    assert stored(run(tmp_path / "part", resume=True)) == whole
    assert all(json.loads(line) for line in file.read_text().splitlines())


def test_nothing_is_written_before_the_first_row_and_a_run_is_not_written_over(tmp_path):
    assert not (tmp_path / "a").exists()
    run(tmp_path / "a", upto=1)
    with pytest.raises(RobustError, match="holds a run already; add --resume"):
        run(tmp_path / "a")
    with pytest.raises(RobustError, match="cannot be resumed: n differ"):
        run(tmp_path / "a", resume=True, n=401)


def test_a_damaged_row_is_named_and_certified_again(tmp_path):
    whole = stored(run(tmp_path / "whole"))
    run(tmp_path / "a", upto=3)
    file = tmp_path / "a" / "rows.jsonl"
    damaged = file.read_text().replace('"label"', '"lapel"', 1) + '{"id": 9, "la'
    file.write_text(damaged)
    folder = CertifyFolder.open(tmp_path / "a")
    assert len(folder.read()) == 2
    assert folder.damage == {"rows.jsonl": "no sample can be read from line 1"}
    found = write_report(tmp_path / "a")
    assert found.n == 2
    assert any("rows.jsonl (no sample can be read from line 1)" in note for note in found.notes)
    assert file.read_text() == damaged  # a report writes no row, for the run may go on
    again = run(tmp_path / "a", resume=True)
    assert sorted(stored(again), key=lambda row: row["id"]) == whole
    assert again.damage == {}


def test_python_resumes_too(tmp_path):
    x, y = samples(4)
    found = robust.certify(Half(), x, y, sigma=0.3, n=200, out=tmp_path / "run")
    assert (tmp_path / "run" / "report.html").exists()
    again = robust.certify(Half(), x, y, sigma=0.3, n=200, out=tmp_path / "run", resume=True)
    assert again.rows == found.rows
    with pytest.raises(RobustError, match="resume needs a model with parameters"):
        robust.certify(lambda u: u[:, 0], x, y, sigma=1, out=tmp_path / "run", resume=True)


# What cannot be used


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"sigma": None}, "say how much noise"),
        ({"sigma": 0.0}, "sigma is a finite number above 0, not 0"),
        ({"sigma": float("nan")}, "sigma is a finite number above 0, not nan"),
        ({"n0": 0}, "n0 must be at least 1, not 0"),
        ({"n": 0}, "n must be at least 1, not 0"),
        ({"n": 9}, "can certify nothing, even if all copies agree: take at least --n 10"),
        ({"alpha": 0.0}, "alpha is a probability above 0 and below 1, not 0"),
        ({"alpha": 1.0}, "alpha is a probability above 0 and below 1, not 1"),
        ({"batch_size": 0}, "batch-size must be at least 1, not 0"),
        ({"x": torch.full((3, 4), float("nan"))}, "NaN or infinite"),
        ({"x": torch.zeros(0, 4)}, "no samples"),
        ({"x": torch.zeros(3, 4).long()}, "x must be float"),
        ({"y": torch.zeros(2).long()}, "y must be int of shape"),
        ({"y": torch.tensor([0, 1, 2])}, "sample 2 has the label 2, but the model has 2 classes"),
        ({"model": lambda u: u[:, 0] * float("nan")}, "NaN or infinite logits for sample 0"),
        ({"model": lambda u: u.sum()}, r"the model returned shape \(\)"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_in_one_line(change, line):
    x, y = samples(3)
    given = {"model": Half(), "x": x, "y": y, "sigma": 0.3, "n": 100, **change}
    with pytest.raises(RobustError, match=line) as caught:
        robust.certify(**given)
    assert "\n" not in str(caught.value)


def test_one_more_copy_than_the_refused_number_can_certify():
    x = torch.full((1, 4), 5.0)
    found = robust.certify(Half(), x, torch.ones(1).long(), sigma=0.01, n=10)
    assert found.rows[0]["prediction"] == 1
    assert found.rows[0]["radius"] == pytest.approx(found.largest)


def test_a_model_that_breaks_under_noise_is_told():
    x, y = torch.full((2, 4), 0.5), torch.zeros(2).long()
    with pytest.raises(RobustError, match="NaN or infinite logits for sample 0"):
        robust.certify(lambda u: (u[:, 0] - 0.4).sqrt(), x, y, sigma=0.3, n=100)
