"""Evaluations that search on a copy find what a search on the model finds."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

import robust
from robust import planning, searching
from robust.attacks import PGD
from robust.cli import main
from robust.core.errors import RobustError
from robust.core.outcome import RunSpec
from robust.core.rng import seeded
from robust.core.smooth import smoothed
from robust.core.victim import Access
from robust.data import DataSpec, from_arrays, open_data
from robust.evaluation import Evaluation
from robust.models import fast, in_memory
from robust.models.fast import SearchCopy
from robust.store import MemoryStore

THREAT = robust.Linf(0.1)


@pytest.fixture(scope="module")
def net():
    """A small network with norms, on digits."""
    source = open_data(DataSpec("digits", split="train"))
    batch = source.batch(source.ids[:800])
    with seeded(0):
        made = nn.Sequential(
            nn.Conv2d(1, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(),
            nn.Conv2d(12, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(12, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(),
            nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(96, 10))  # fmt: skip
        optimiser = torch.optim.Adam(made.parameters(), lr=5e-3)
        for _ in range(4):
            for rows in torch.randperm(len(batch.y)).split(64):
                optimiser.zero_grad()
                x = batch.x[rows] + 0.05 * torch.randn_like(batch.x[rows])
                nn.functional.cross_entropy(made(x), batch.y[rows]).backward()
                optimiser.step()
    return made.eval()


@pytest.fixture(scope="module")
def digits():
    source = open_data(DataSpec("digits"))
    batch = source.batch(source.ids[:60])
    return batch.x, batch.y


@pytest.fixture(autouse=True)
def _small_networks_count(monkeypatch):
    monkeypatch.setattr(fast, "COPY_PAYS", 0)
    monkeypatch.setattr(fast, "has_bf16", lambda device: False)


def run(net, digits, attacks, search="auto", **options):
    """The one shard of a run, and its Evaluation."""
    source = from_arrays(*digits)
    options = {"batch_size": len(digits[1]), "curve": False, **options}
    spec = planning.plan(in_memory(net), source, {"source": "x"}, THREAT, attacks,
                    device=torch.device("cpu"), search=search, **options)  # fmt: skip
    store, engine = MemoryStore(), Evaluation(spec, net, source, attacks)
    for _ in engine.run(store):
        pass
    return store.read(0), engine


def broken(shard):
    return [set(rows.rows[rows.success].tolist()) for rows in shard.attacks]


def test_the_search_uses_the_copy_and_finds_the_same(net, digits):
    attacks = [PGD(steps=8, loss="margin")]
    copied, engine = run(net, digits, attacks)
    exact, plain = run(net, digits, attacks, search="exact")
    made = engine.searching.copies[False]
    assert (made.folded, made.low_precision) == (3, False)
    assert not plain.searching.copies
    assert 10 < len(broken(exact)[0]) < 55
    assert broken(copied) == broken(exact)
    a, b = copied.attacks[0], exact.attacks[0]
    assert np.array_equal(a.backwards, b.backwards)
    assert np.array_equal(a.queries, b.queries)
    # The original is asked once more for what the copy calls solved.
    assert np.array_equal(a.forwards - b.forwards, a.success.astype(np.int64))
    assert np.array_equal(a.prediction, b.prediction)


def test_bf16_costs_no_strength(net, digits, monkeypatch):
    attacks = ["apgd,steps=20", "apgd-t,steps=20,targets=3"]
    found = {}
    for name in ("auto", "exact"):
        monkeypatch.setattr(fast, "has_bf16", lambda device: True)
        monkeypatch.setattr(fast, "BF16_PAYS", 0)
        found[name] = robust.evaluate(
            net, *digits, threat=THREAT, attacks=attacks, curve=False, search=name
        )
    assert 0.05 < found["exact"].robust_accuracy < 0.8
    gap = found["auto"].robust_accuracy - found["exact"].robust_accuracy
    assert abs(gap) <= 1 / 60 + 1e-9
    assert found["auto"].attacks[0]["forwards"] > found["auto"].attacks[0]["queries"]


class Off(nn.Module):
    """A copy that is wrong: it calls everything solved, or adds noise that a band covers."""

    def __init__(self, net, noise):
        super().__init__()
        self.net, self.noise = net, noise

    def forward(self, x):
        z = self.net(x)
        return -z if self.noise is None else z + self.noise * torch.sin(1e4 * z.detach())


@pytest.mark.parametrize("noise", [None, 0.5], ids=["wrong", "noisy"])
def test_no_copy_decides_what_is_solved(noise, net, digits, monkeypatch):
    made = SearchCopy(Off(net, noise), 0.0 if noise is None else 1.0, 0, False, False)
    monkeypatch.setattr(searching, "prepare", lambda model, x, **_: made)
    attacks = [PGD(steps=8)]
    shard, _ = run(net, digits, attacks)
    rows = shard.attacks[0]
    assert (rows.backwards[~rows.success] == 8).all()
    if noise is None:
        assert (rows.forwards[~rows.success] == 2 * 9).all()
    else:
        exact, _ = run(net, digits, attacks, search="exact")
        assert abs(len(broken(shard)[0]) - len(broken(exact)[0])) <= 1


@pytest.mark.parametrize(
    "facts", [{"minimal": True}, {"access": Access.LABELS}, {}], ids=["minimal", "labels", "other"]
)
def test_searches_along_the_boundary_stay_on_the_model(facts, net, digits, monkeypatch):
    class Never(nn.Module):
        def forward(self, x):
            raise AssertionError("the copy was asked")

    made = SearchCopy(Never(), 0.0, 0, False, False)
    monkeypatch.setattr(searching, "prepare", lambda model, x, **_: made)
    asks = dataclasses.make_dataclass(
        "Asks",
        [],
        bases=(PGD,),
        frozen=True,
        namespace={
            **facts,
            "search": lambda self, victim, x, goal, threat, rng: (victim.labels(x), x)[1],
        },
    )
    attack = asks()
    if facts:
        run(net, digits, [attack])
    else:
        with pytest.raises(AssertionError, match="the copy was asked"):
            run(net, digits, [attack])


def test_a_random_model_is_searched_as_it_is(net, digits):
    noisy = nn.Sequential(net, Jitter())
    _, engine = run(noisy, digits, [PGD(steps=2)])
    assert engine.searching.copies[False] is None


class Jitter(nn.Module):
    def forward(self, z):
        return z + 0.01 * torch.randn_like(z)


def test_the_record_holds_how_it_was_searched(net, digits, tmp_path):
    for search in ("auto", "exact"):
        out = tmp_path / search
        report = robust.evaluate(
            net, *digits, threat=THREAT, attacks="fgsm", curve=False, search=search, out=out
        )
        assert report.to_json()["search"] == search
        assert json.loads((out / "report.json").read_text())["search"] == search
        assert json.loads((out / "run.json").read_text())["spec"]["search"] == search
    arguments = {"threat": THREAT, "attacks": "fgsm", "curve": False, "resume": True}
    with pytest.raises(RobustError, match="search differ"):
        robust.evaluate(net, *digits, out=tmp_path / "auto", search="exact", **arguments)
    with pytest.raises(
        RobustError, match="search must be one of auto, exact, compiled, not 'fast'"
    ):
        robust.evaluate(net, *digits, threat=THREAT, search="fast")


def test_a_run_from_before_there_was_a_choice_was_exact():
    spec = RunSpec(model={"path": "m"}, data={"source": "d"}, threat={}, attacks=[], batch_size=1)
    old = {key: value for key, value in spec.to_dict().items() if key != "search"}
    loaded = RunSpec.from_dict(old)
    assert loaded.search == "exact"
    assert loaded.hash == spec.hash
    assert dataclasses.replace(spec, search="auto").hash != spec.hash
    # The hash that such a run was stored with.
    assert spec.hash == "8d3b1829e1e84a36"


def test_the_command_line_chooses(checkpoint, tmp_path):
    command = ["attack", "--model", str(checkpoint), "--attack", "fgsm", "--limit", "20",
               "--no-curve", "--quiet"]  # fmt: skip
    for options, recorded in (([], "auto"), (["--search", "exact"], "exact")):
        out = tmp_path / recorded
        done = CliRunner().invoke(main, [*command, *options, "--out", str(out)])
        assert done.exit_code == 0, done.output
        assert json.loads((out / "report.json").read_text())["search"] == recorded
    assert CliRunner().invoke(main, [*command, "--search", "fast"]).exit_code == 2


@pytest.mark.parametrize("search", ["auto", "exact", "compiled"])
def test_the_copy_is_compiled_where_that_is_asked_for(search, net, digits, monkeypatch):
    asked = []
    monkeypatch.setattr(
        searching, "prepare", lambda model, x, *, compiled, **_: asked.append(compiled)
    )
    robust.evaluate(net, *digits, threat=THREAT, attacks="fgsm", curve=False, search=search)
    assert asked == {"auto": [False], "exact": [], "compiled": [True]}[search]


def test_smoothed_gradients_pass_a_compiled_copy_by(net, digits):
    asked = []

    class Copied(nn.Module):
        def forward(self, x):
            asked.append(smoothed.active())
            return net(x)

    prepared = fast._Prepared(Copied(), low=False, compiled=False)
    prepared.compiled = net  # what torch.compile would have made
    x = digits[0][:4].requires_grad_()
    with smoothed(0.1):
        prepared(x)
    assert asked == [True]
    prepared(x)
    assert asked == [True]
