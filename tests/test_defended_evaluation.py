"""Models with defenses and random models: naive and adaptive attacks, shares of draws, resume."""

import dataclasses
import json
import re
import warnings

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

import robust
from robust import planning, searching
from robust.attacks import PGD, Universal
from robust.cli import main
from robust.core.adaptive import Adaptive
from robust.core.defended import Defended
from robust.core.errors import RobustError
from robust.core.rng import seeded
from robust.data import DataSpec, from_arrays, open_data
from robust.evaluation import Evaluation
from robust.models import defend, fast, in_memory
from robust.registry import label, parse_attacks
from robust.reports.rates import wilson
from robust.store import MemoryStore, RunFolder
from robust.views import attacks_for

CPU = torch.device("cpu")
EPS = robust.Linf(0.1)


@pytest.fixture(scope="module")
def digits():
    source = open_data(DataSpec("digits"))
    batch = source.batch(source.ids[:60])
    return batch.x, batch.y


class Noisy(nn.Module):
    """A model behind Gaussian noise."""

    def __init__(self, model, sigma=0.15):
        super().__init__()
        self.model, self.sigma = model, sigma

    def forward(self, x):
        return self.model(x + self.sigma * torch.randn_like(x))


class Coin(nn.Module):
    """Right about class 0 in seven of ten draws, whatever it is shown."""

    def forward(self, x):
        right = (torch.rand(len(x)) < 0.7).float() + 0 * x.flatten(1).sum(1)
        return torch.stack([right, torch.full_like(right, 0.5)], 1)


def surrounded(net, *defenses):
    return robust.defend(net, defenses, shape=(1, 8, 8), num_classes=10)


def labels_of(model, texts, view="both", norm="linf", white_box=True):
    attacks = parse_attacks(texts, norm)
    return [label(attack) for attack in attacks_for(model, attacks, view, white_box=white_box)]


PLAIN = Defended(nn.Identity(), nn.Identity())
RANDOM = Defended(nn.Identity(), nn.Identity(), draws=7)
TWICE = ["apgd,steps=50,loss=margin,adaptive=true,eot=7", "apgd,steps=50,adaptive=true,eot=7"]


@pytest.mark.parametrize(
    ("model", "texts", "view", "found"),
    [
        (PLAIN, ["auto"], "both", ["pgd", "auto,adaptive=true"]),
        (PLAIN, ["auto"], "naive", ["pgd"]),
        (PLAIN, ["auto"], "adaptive", ["auto,adaptive=true"]),
        (RANDOM, ["auto"], "both", ["pgd", *TWICE]),
        (RANDOM, ["auto,adaptive=true"], "both", TWICE),
        (RANDOM, ["fgsm", "apgd,eot=3"], "both", ["fgsm", "apgd,eot=3",
            "fgsm,adaptive=true,eot=7", "apgd,adaptive=true,eot=3"]),
        (PLAIN, ["fgsm", "square"], "both", ["fgsm", "square", "fgsm,adaptive=true"]),
        (PLAIN, ["fgsm", "square"], "adaptive", ["square", "fgsm,adaptive=true"]),
        (PLAIN, ["pgd,adaptive=true", "fgsm"], "both", ["fgsm", "pgd,adaptive=true",
            "fgsm,adaptive=true"]),
        (PLAIN, ["pgd", "pgd,adaptive=true"], "both", ["pgd", "pgd,adaptive=true"]),
        (PLAIN, ["auto,restarts=3"], "both", ["pgd,restarts=3", "auto,adaptive=true,restarts=3"]),
        (PLAIN, ["universal"], "both", ["universal"]),
        (nn.Identity(), ["auto"], "both", ["auto"]),
    ],
)  # fmt: skip
def test_each_attack_with_gradients_runs_naively_and_then_adaptively(model, texts, view, found):
    assert labels_of(model, texts, view) == found


def test_counting_threats_unfold_likewise():
    found = ["fmn", "sigma-zero", "fmn,adaptive=true", "sigma-zero,adaptive=true"]
    assert labels_of(PLAIN, ["auto"], norm="l0") == found


def test_without_gradients_or_defenses_there_is_one_view():
    assert labels_of(PLAIN, ["square"], white_box=False) == ["square"]
    for model, white_box in ((nn.Identity(), True), (PLAIN, False)):
        with pytest.raises(RobustError, match="--view naive is for models with defenses"):
            labels_of(model, ["square"], "naive", white_box=white_box)
    with pytest.raises(RobustError, match="--view must be one of"):
        labels_of(PLAIN, ["pgd"], "blind")
    with pytest.raises(RobustError, match="leaves no attack"):
        labels_of(PLAIN, ["pgd,adaptive=true"], "naive")


def test_false_security_is_what_the_naive_attack_did_not_see(digits_net, digits):
    defended = surrounded(digits_net, "saturation,scale=1e6")
    attacks = "pgd,steps=20"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = robust.evaluate(defended, *digits, threat=EPS, attacks=attacks, curve=False)
    naive, adaptive = report.attacks
    assert (naive["adaptive"], adaptive["adaptive"]) == (False, True)
    assert report.naive_accuracy == naive["robust_accuracy"] > report.clean_accuracy - 0.05
    plain = robust.evaluate(digits_net, *digits, threat=EPS, attacks=attacks, curve=False)
    assert report.robust_accuracy == pytest.approx(plain.robust_accuracy, abs=2 / 60)
    assert report.false_security == report.naive_accuracy - report.robust_accuracy > 0.3
    points = f"{100 * report.false_security:.0f} points"
    assert report.false_security_words.startswith(f"False security: {points}. Naive attacks")
    assert report.false_security_words in report.notes
    told = "saturation,scale=1e+06 (gradient masking, arXiv 1607.04311) claims: no gradient"
    assert any(note.startswith(told) and "any loss on logits" in note for note in report.notes)
    record = report.to_json()
    assert record["naive_accuracy"] == report.naive_accuracy
    assert record["naive_accuracy_ci"] == list(report.naive_accuracy_ci)
    assert record["false_security"] == report.false_security
    assert record["defenses"][0]["label"] == "saturation,scale=1e+06"
    alone = [
        robust.evaluate(defended, *digits, threat=EPS, attacks=attacks, curve=False, view=view)
        for view in ("naive", "adaptive")
    ]
    assert alone[0].robust_accuracy == alone[0].naive_accuracy == report.naive_accuracy
    assert alone[0].false_security is alone[1].false_security is alone[1].naive_accuracy is None
    assert alone[1].robust_accuracy == pytest.approx(plain.robust_accuracy, abs=3 / 60)
    assert any("Only naive attacks ran" in note for note in alone[0].notes)
    assert any("Adaptive attacks alone" in note for note in alone[1].notes)


def test_the_curve_of_a_defended_model_is_adaptive(digits_net, digits):
    defended = surrounded(digits_net, "bit-depth,bits=2")  # whose own gradient is zero
    found = [
        dict(robust.evaluate(defended, *digits, threat=EPS, attacks="fgsm", view=view).curve)
        for view in ("both", "naive")
    ]
    assert found[0][0.2] < 0.2
    assert found[1][0.2] > 0.6


def test_a_model_without_defenses_is_told_as_before(digits_net, digits):
    report = robust.evaluate(digits_net, *digits, threat=EPS, attacks="fgsm", curve=False)
    record = report.to_json()
    for name in ("naive_accuracy", "naive_accuracy_ci", "false_security", "defenses", "draws"):
        assert record[name] is None
    assert not {"defenses", "draws", "guessed"} & set(report.spec["model"])
    assert "adaptive" not in report.spec["attacks"][0]
    assert report.spec["checks"] == 1
    assert not report.random


FILES = {
    # Code that leaves the graph, as image libraries do; and that refuses what needs a gradient.
    "Leaves": "class Leaves:\n    def __call__(self, x):\n"
    "        return (x.detach() * 15).round() / 15",
    "Refuses": "class Refuses:\n    def __call__(self, x):\n"
    "        return torch.from_numpy((x.numpy() * 15).round() / 15)",
    "Noise": "class Noise:\n    def __call__(self, x):\n"
    "        return x + 0.15 * torch.randn_like(x)",
    "Knows": "class Knows:\n    draws = 5\n    def wrap(self, model):\n        return Both(model)\n"
    "    def expose(self, model):\n        return Both(model)\n"
    "class Both(torch.nn.Module):\n    def __init__(self, model):\n        super().__init__()\n"
    "        self.model = model\n"
    "    def forward(self, x):\n        return self.model(x + 0.1 * torch.randn_like(x))",
}


@pytest.mark.parametrize("name", FILES)
def test_a_defense_in_a_file_is_attacked_whether_it_explains_itself_or_not(
    name, digits_net, digits, tmp_path
):
    file = tmp_path / "mine.py"
    file.write_text("import torch\n" + FILES[name] + "\n")
    defended = surrounded(digits_net, f"{file}:{name}")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = robust.evaluate(
            defended, *digits, threat=EPS, attacks="pgd,steps=10,loss=margin", curve=False
        )
    assert report.clean_accuracy > 0.8
    assert report.robust_accuracy < 0.75
    assert report.naive_accuracy > report.robust_accuracy + 0.05
    guessed = [note for note in report.notes if "was guessed" in note]
    assert len(guessed) == (name != "Knows")
    random = name in ("Noise", "Knows")
    assert report.random == random
    assert all(("20 draws (EOT)" in note) == (name == "Noise") for note in guessed)
    (record,) = report.spec["model"]["defenses"]
    assert len(record["sha256"]) == 64
    file.write_text(file.read_text() + "# another\n")
    again = robust.evaluate(defended, *digits, threat=EPS, attacks="pgd,steps=1", curve=False).spec[
        "model"
    ]["defenses"][0]
    assert again["sha256"] != record["sha256"]


def test_success_by_luck_is_none(digits):
    """A model that is wrong at random loses nothing by being asked until it is wrong."""
    x = torch.rand(200, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    y = torch.zeros(200, dtype=torch.int64)
    report = robust.evaluate(Coin(), x, y, threat=EPS, attacks=["pgd,steps=5", "fgsm"], every=True)
    assert report.random
    assert report.spec["model"]["guessed"] is True
    for figure in (report.clean_accuracy, report.naive_accuracy, report.robust_accuracy):
        assert figure == pytest.approx(0.7, abs=0.03)
    assert report.robust_accuracy <= report.naive_accuracy <= report.clean_accuracy
    assert [attack["fooled"] for attack in report.attacks] == pytest.approx([0.3] * 4, abs=0.03)
    assert report.curve == [(0.0, report.clean_accuracy), (0.1, report.robust_accuracy)]
    assert report.counts["robust"] == round(200 * report.robust_accuracy)
    assert report.robust_accuracy_ci == wilson(200 * report.robust_accuracy, 200)


def engine(net, x, y, attacks, **options):
    """An Evaluation of a random model."""
    source = from_arrays(x, y)
    loaded = planning.with_chance(in_memory(net), source, CPU, "gradient")
    spec = planning.plan(
        loaded, source, {"source": "x"}, EPS, attacks, device=CPU, curve=False, **options
    )
    return Evaluation(spec, loaded.module, source, attacks)


def arrays(shard):
    """Everything in a shard but wall times, bit for bit."""
    found = {}
    for part in (shard, *shard.attacks):
        for field in dataclasses.fields(part):
            value = getattr(part, field.name)
            if isinstance(value, np.ndarray):
                found[getattr(part, "label", ""), field.name] = value.tobytes()
    return found


ATTACKS = (PGD(steps=3), Adaptive(attack=PGD(steps=3, loss="margin")))


def test_a_sample_is_attacked_until_a_candidate_fools_in_every_draw(digits_net, digits):
    run, store = engine(Noisy(digits_net), *digits, ATTACKS, batch_size=60), MemoryStore()
    list(run.run(store))
    (shard,) = store.shards()
    assert run.spec.checks == 20
    naive, adaptive = shard.attacks
    assert np.isin(shard.right * 20, np.arange(21)).all()
    assert np.isin(naive.trial * 20, np.arange(21)).all()
    assert 0 < shard.right.mean() < 1
    assert not np.array_equal(shard.right, shard.trial)
    lucky = naive.rows[naive.success]
    surely = naive.rows[np.minimum(naive.trial, naive.fooled) == 1]
    assert len(lucky) > len(surely)
    assert set(adaptive.rows) == set(naive.rows) - set(surely)
    assert (
        adaptive.fooled[np.isin(adaptive.rows, lucky)].mean() > naive.fooled[naive.success].mean()
    )
    worst = shard.withstood(shard.attacks)
    assert worst.mean() < shard.withstood([naive]).mean() < shard.withstood([]).mean()


def test_draws_are_repeated_and_a_resumed_run_is_the_same_bit_for_bit(digits_net, digits, tmp_path):
    net = Noisy(digits_net)
    whole = RunFolder.start(
        tmp_path / "whole", engine(net, *digits, ATTACKS, batch_size=20).spec, [], resume=False
    )
    list(engine(net, *digits, ATTACKS, batch_size=20).run(whole))
    part = RunFolder.start(tmp_path / "part", whole.spec, [], resume=False)
    events = engine(net, *digits, ATTACKS, batch_size=20).run(part)
    while part.done() != {0}:
        next(events)
    events.close()
    torch.rand(5)
    there = RunFolder.start(tmp_path / "part", whole.spec, [], resume=True)
    list(engine(net, *digits, ATTACKS, batch_size=20).run(there))
    assert part.done() == {0, 1, 2}
    for number in range(3):
        assert arrays(there.read(number)) == arrays(whole.read(number))
    assert len(there.read(1).trial) == 20


def test_two_seeds_agree_within_the_interval(digits_net, digits):
    net = Noisy(digits_net, 0.2)
    first, second = (
        robust.evaluate(net, *digits, threat=EPS, attacks="pgd,steps=5,loss=margin", seed=seed)
        for seed in (0, 1)
    )
    assert first.robust_accuracy != second.robust_accuracy
    for name in ("clean_accuracy", "naive_accuracy", "robust_accuracy"):
        low, high = getattr(first, f"{name}_ci")
        assert low <= getattr(second, name) <= high
    assert abs(first.robust_accuracy - second.robust_accuracy) < 0.06
    again = robust.evaluate(net, *digits, threat=EPS, attacks="pgd,steps=5,loss=margin", seed=1)
    assert again.to_json()["per_class"] == second.to_json()["per_class"]
    assert again.robust_accuracy == second.robust_accuracy


def test_chance_is_found_or_declared(digits_net, digits):
    source = from_arrays(*digits)

    def looked_at(module, access="gradient"):
        return planning.with_chance(in_memory(module), source, CPU, access).module

    dropout = nn.Sequential(digits_net, nn.Dropout(0.5))
    assert looked_at(digits_net) is digits_net
    assert looked_at(dropout) is dropout  # it rests while it answers
    noisy = Noisy(digits_net)
    assert looked_at(noisy, "scores") is noisy
    found = looked_at(noisy)
    assert (found.model, found.exposed, found.draws, found.guessed) == (noisy, noisy, 20, True)
    declared = Defended(noisy, noisy, draws=3)
    assert looked_at(declared) is declared
    forgotten = looked_at(Defended(noisy, digits_net))
    assert (forgotten.exposed, forgotten.draws, forgotten.guessed) == (digits_net, 20, True)
    assert noisy.training or not dropout[1].training  # modes are given back
    with seeded(0):
        state = torch.get_rng_state()
        looked_at(noisy)
        assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("targeted", [None, "next"])
@pytest.mark.parametrize("threat", [robust.L0(4), robust.Patch(2), robust.L2(0.5)])
def test_other_threats_and_targets(threat, targeted, digits_net, digits):
    x, y = digits[0][:12], digits[1][:12]
    attacks = {"l0": "fmn,steps=10", "patch": "patch,steps=10,places=2", "l2": "pgd,steps=5"}
    defended = surrounded(digits_net, "bit-depth,bits=3")
    for model in (defended, Noisy(digits_net, 0.05)):
        report = robust.evaluate(
            model, x, y, threat=threat, attacks=attacks[threat.norm], targeted=targeted
        )
        assert len(report.attacks) == 2
        assert 0 <= report.robust_accuracy <= report.naive_accuracy <= report.clean_accuracy


def test_what_lies_outside_the_ball_fools_in_no_draw(digits_net, digits):
    """Minimal attacks go as far as they must; a random model's shares count inside eps alone."""
    attacks = [parse_attacks(["deepfool"])[0]]
    run = engine(Noisy(digits_net, 0.05), *digits, attacks, batch_size=60)
    run.threat = dataclasses.replace(EPS, eps=0.01)
    store = MemoryStore()
    list(run.run(store))
    rows = store.read(0).attacks[0]
    far = rows.distance > 0.01
    assert far.any()
    assert not rows.fooled[far].any()
    assert not rows.trial[far].any()


class Plane(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
        self.head = nn.Linear(4 * 36, 10)

    def forward(self, x):
        return self.head(self.norm(self.conv(x)).relu().flatten(1))


def test_both_sides_are_searched_on_a_copy_where_it_is_faster(digits, monkeypatch):
    monkeypatch.setattr(fast, "COPY_PAYS", 0)
    monkeypatch.setattr(fast, "has_bf16", lambda device: True)
    with seeded(3):
        net = Plane().eval()
    x = digits[0]
    y = net(x).argmax(1).detach()
    defended = defend(net, "bit-depth,bits=4", shape=(1, 8, 8), num_classes=10)
    source, found = from_arrays(x, y), []
    attacks = attacks_for(defended, [PGD(steps=5, loss="margin")], "both", white_box=True)
    for search in ("auto", "exact"):
        spec = planning.plan(
            in_memory(defended), source, {"source": "x"}, robust.Linf(0.02), attacks,
            device=CPU, search=search, curve=False, batch_size=60,
        )  # fmt: skip
        run, store = Evaluation(spec, defended, source, attacks), MemoryStore()
        list(run.run(store))
        found.append((run, store.read(0)))
    (fast_run, copied), (plain_run, exact) = found
    assert set(fast_run.searching.copies) == {False, True}
    assert fast_run.searching.copies[True] is not None
    assert not fast_run.searching.copies[True].low_precision
    assert not plain_run.searching.copies
    for a, b in zip(copied.attacks, exact.attacks, strict=True):
        assert abs(int(a.success.sum()) - int(b.success.sum())) <= 2
    assert 5 < exact.attacks[1].success.sum() < 55
    victim = fast_run.searching.victim(1, attacks[1], fast_run._goal(*[
        torch.tensor([0]), x[:1], y[:1]])[1])  # fmt: skip
    assert victim.model.exposed is fast_run.searching.copies[True].module
    assert victim._original.model is defended.exposed
    assert searching.sees_through(attacks[1], defended)


def test_what_is_crafted_once_runs_as_it_is(digits_net, digits):
    defended = surrounded(digits_net, "bit-depth,bits=3")
    report = robust.evaluate(defended, *digits, threat=EPS, attacks=[Universal(steps=5)])
    assert [attack["label"] for attack in report.attacks] == ["universal,steps=5"]
    assert report.false_security is None


def test_exposed_without_a_gradient_is_refused(digits_net, digits):
    class Dead(nn.Module):
        def forward(self, x):
            return digits_net(x.detach())

    defended = Defended(Dead(), Dead())
    with pytest.raises(RobustError, match="gives no gradient.*add --access scores"):
        robust.evaluate(defended, *digits, threat=EPS, attacks="pgd")


def test_the_command_tells_both_figures(checkpoint, tmp_path):
    def command(*words):
        return CliRunner().invoke(main, [str(word) for word in words])

    out = tmp_path / "d.pt"
    made = command(
        *("defend", "--model", checkpoint, "--with", "saturation,scale=1e6", "--out", out)
    )
    assert made.exit_code == 0, made.output
    done = command(
        *("attack", "--model", out, "--limit", 20, "--attack", "pgd,steps=5", "--no-curve"),
        *("--json", "--quiet", "--out", tmp_path / "run"),
    )
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    assert record["naive_accuracy"] > record["robust_accuracy"] + 0.2
    assert record["false_security"] == record["naive_accuracy"] - record["robust_accuracy"]
    page = (tmp_path / "run" / "report.html").read_text()
    assert re.search(r"Naive\b.* accuracy</dt>", page)
    assert page.count("False security:") == 1
    wrong = command("attack", "--model", checkpoint, "--view", "naive")
    assert wrong.exit_code == 2
    assert "--view naive is for models with defenses" in wrong.stderr
    assert len(wrong.stderr.splitlines()) == 1
