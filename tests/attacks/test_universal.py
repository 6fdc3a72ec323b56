"""One perturbation for all samples: crafted once for a run, kept, found again."""

import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

import robust
from robust import api, planning
from robust.attacks import FGSM, Universal
from robust.core.errors import RobustError
from robust.core.fitted import Part
from robust.core.goal import Goal
from robust.core.rng import generator
from robust.core.threat import Linf, Threat
from robust.core.victim import Victim
from robust.data import DataSpec, open_data
from robust.evaluation import AttackDone, AttackStarted, Evaluation, ShardDone
from robust.models import in_memory
from robust.registry import parse_attack
from robust.store import MemoryStore, RunFolder

CPU = torch.device("cpu")
ATTACK = Universal(steps=30, samples=60)


def evaluation(net, attacks=(ATTACK,), limit=90, threat=None, **options):
    source = open_data(DataSpec("digits"))
    spec = planning.plan(
        in_memory(net),
        source,
        {"source": "digits"},
        threat or Linf(0.2),
        attacks,
        device=CPU,
        limit=limit,
        batch_size=30,
        curve=False,
        **options,
    )
    return Evaluation(spec, net, source, attacks)


def outcomes(store):
    """Everything that is stored but wall times, bit for bit."""
    found = {}
    for shard in store.shards():
        for part in (shard, *shard.attacks):
            for name, value in vars(part).items():
                if isinstance(value, np.ndarray):
                    found[shard.index, type(part), name] = value.tobytes()
    return found


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_on_a_linear_model_it_is_the_one_best_perturbation(norm):
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 2, bias=False))
    with torch.no_grad():
        net[1].weight.copy_(torch.randn(2, 16, generator=torch.Generator().manual_seed(5)) / 9)
    x = 0.5 + 0.02 * torch.randn(20, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    y = torch.zeros(20, dtype=torch.int64)
    threat = Threat(norm, 0.1)
    parts = [Part(Victim(net, 10), x[i : i + 10], Goal(y[:10])) for i in (0, 10)]
    with torch.no_grad():
        delta = Universal(steps=40).fit(parts, threat, generator(0))
    weight = (net[1].weight[1] - net[1].weight[0]).detach()
    best = 0.1 * (weight.abs().sum() if norm == "linf" else weight.norm())
    assert delta.shape == (1, 1, 4, 4)
    assert float(delta.flatten() @ weight) == pytest.approx(float(best), rel=1e-3)


@pytest.mark.parametrize("threat", [Linf(0.25), robust.L2(1.5)])
def test_it_fools_more_than_what_is_made_for_one_sample(threat, digits_net, digits_batch):
    x, y = digits_batch
    delta = ATTACK.fit([Part(Victim(digits_net, len(x)), x, Goal(y))], threat, generator(0))

    def fooled(change):
        z = threat.around(x).project(x + change)
        return float((digits_net(z).argmax(1) != y).float().mean())

    others = FGSM()(digits_net, x, y, threat=threat) - x
    assert fooled(delta) > 0.3
    assert fooled(delta) > max(fooled(one) for one in others[:10].unsqueeze(1)) + 0.05


def test_every_shard_gets_the_same_perturbation(digits_net):
    store, run = MemoryStore(), evaluation(digits_net)
    events = list(run.run(store))
    fit = store.fits()[0]
    assert fit.tensor.shape == (1, 1, 8, 8)
    broken = 0
    for shard in store.shards():
        (rows,) = shard.attacks
        x = shard.x[np.searchsorted(shard.kept, rows.rows[rows.success])]
        assert np.abs(rows.x_adv - (x + fit.tensor).clip(0, 1)).max() < 1e-6
        assert not rows.forwards.any()
        broken += len(x)
    assert broken > 20
    # Crafting is told before the first shard, as what it is.
    crafting = [e for e in events if isinstance(e, AttackStarted | AttackDone) and e.shard < 0]
    assert [type(e) for e in crafting] == [AttackStarted, AttackDone]
    assert crafting[0].attack == "universal,samples=60,steps=30 (crafting)"
    assert events.index(crafting[1]) < next(i for i, e in enumerate(events) if type(e) is ShardDone)


def test_it_is_crafted_on_samples_that_are_not_attacked_where_there_are_enough(digits_net):
    seen = []

    @dataclass(frozen=True, kw_only=True)
    class Spy(Universal):
        def fit(self, parts, threat, rng):
            seen.append(torch.cat([part.x for part in parts]))
            assert [len(part.x) for part in parts[:-1]] == [30] * (len(parts) - 1)
            return super().fit(parts, threat, rng)

    source = open_data(DataSpec("digits"))
    n = len(source)
    for limit, samples, held_out in ((90, 60, True), (n - 40, 60, False), (30, 500, True),
                                     (n, 20, False)):  # fmt: skip
        store = MemoryStore()
        list(evaluation(digits_net, [Spy(samples=samples, steps=2)], limit).run(store))
        fit = store.fits()[0]
        assert fit.held_out == held_out
        start = limit if held_out else 0
        expected = source.batch(source.ids[start:][:samples]).x
        assert torch.equal(seen.pop(), expected)
        assert fit.samples == len(expected)


def test_the_cost_of_crafting_is_in_the_report(digits_net, digits_batch):
    x, y = digits_batch
    report = robust.evaluate(
        digits_net, x, y, threat=Linf(0.2), attacks=["universal,steps=10,samples=50", "fgsm"],
        batch_size=25,
    )  # fmt: skip
    attack, other = report.attacks
    assert attack["crafting"]["samples"] == 50
    assert (attack["forwards"], attack["backwards"], attack["queries"]) == (250, 250, 250)
    assert attack["forwards_per_sample"] == 0
    assert attack["seconds"] >= attack["crafting"]["seconds"] > 0
    assert other["crafting"] is None
    (note,) = [note for note in report.notes if "crafted" in note]
    assert "on 50 samples that it was then measured on: 250 forwards and 250 backwards" in note
    assert json.loads(json.dumps(report.to_json()))["attacks"][0]["crafting"]["held_out"] is False


@pytest.mark.parametrize("stop", [AttackDone, ShardDone])
def test_a_run_that_was_killed_finds_what_was_crafted(stop, digits_net, tmp_path, monkeypatch):
    whole = RunFolder.start(tmp_path / "whole", evaluation(digits_net).spec, [], resume=False)
    list(evaluation(digits_net).run(whole))
    report = api.conclude(whole)

    run = evaluation(digits_net)
    events = run.run(RunFolder.start(tmp_path / "run", run.spec, [], resume=False))
    next(event for event in events if isinstance(event, stop))
    events.close()  # as if killed there
    files = [path.name for path in (tmp_path / "run" / "fitted").iterdir()]
    assert files == ["000.safetensors"]

    def never(*args):
        raise AssertionError("crafted again")

    monkeypatch.setattr(Universal, "fit", never)
    run = evaluation(digits_net)
    again = RunFolder.start(tmp_path / "run", run.spec, [], resume=True)
    list(run.run(again))
    assert outcomes(again) == outcomes(whole)
    resumed = api.conclude(again)
    assert resumed.robust_accuracy == report.robust_accuracy
    assert resumed.attacks[0]["forwards"] == report.attacks[0]["forwards"] > 0


def test_a_run_that_is_whole_crafts_nothing_more(digits_net, tmp_path, monkeypatch):
    run = evaluation(digits_net)
    folder = RunFolder.start(tmp_path / "run", run.spec, [], resume=False)
    list(run.run(folder))
    (folder.path / "fitted" / "000.safetensors").unlink()
    monkeypatch.setattr(Universal, "fit", None)
    assert len(list(evaluation(digits_net).run(folder))) == 1


def test_a_damaged_file_is_crafted_again(digits_net, tmp_path):
    run = evaluation(digits_net)
    folder = RunFolder.start(tmp_path / "run", run.spec, [], resume=False)
    next(event for event in run.run(folder) if isinstance(event, ShardDone))
    file = folder.path / "fitted" / "000.safetensors"
    file.write_bytes(file.read_bytes()[:40])
    list(evaluation(digits_net).run(folder))
    whole = MemoryStore()
    list(evaluation(digits_net).run(whole))
    assert outcomes(folder) == outcomes(whole)
    file.write_bytes(b"")  # when every shard is there
    list(evaluation(digits_net).run(folder))
    assert np.array_equal(folder.fits()[0].tensor, whole.fits()[0].tensor)


def test_two_of_them_have_their_own(digits_net):
    store = MemoryStore()
    attacks = [Universal(steps=3, samples=30), Universal(steps=9, samples=30)]
    list(evaluation(digits_net, attacks, every=True).run(store))
    assert sorted(store.fits()) == [0, 1]
    assert not np.array_equal(store.fits()[0].tensor, store.fits()[1].tensor)
    for shard in store.shards():
        for number, rows in enumerate(shard.attacks):
            x = shard.x[np.searchsorted(shard.kept, rows.rows[rows.success])]
            expected = (x + store.fits()[number].tensor).clip(0, 1)
            assert np.abs(rows.x_adv - expected).max(initial=0) < 1e-6


def test_targets_are_aimed_at(digits_net):
    store = MemoryStore()
    list(evaluation(digits_net, threat=Linf(0.4), targeted="3").run(store))
    for shard in store.shards():
        (rows,) = shard.attacks
        assert (rows.prediction[rows.success] == 3).all()
        assert rows.success.mean() > 0.5


@pytest.mark.parametrize("wrapped", ["universal,restarts=2", "universal,eot=3"])
def test_what_would_craft_for_each_batch_is_refused(wrapped):
    with pytest.raises(RobustError, match="Universal makes one thing for all samples"):
        parse_attack(wrapped)
