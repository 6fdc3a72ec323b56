"""Transfer attacks: surrogates give the gradients, the model only verifies."""

import json
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from torch import nn

import robust
from robust import planning
from robust.attacks import MomentumPGD, Transfer
from robust.attacks._inputs import shrunk_and_moved, smoothed
from robust.core.attack import Attack
from robust.core.errors import RobustError
from robust.core.goal import Goal
from robust.core.outcome import RunSpec
from robust.core.rng import generator
from robust.core.surrogate import Ensemble
from robust.core.threat import L2, Linf
from robust.core.victim import Victim
from robust.data import from_arrays
from robust.models import in_memory
from robust.registry import label, parse_attack
from robust.store import RunFolder

SHAPE = (3, 6, 6)


class Counting(nn.Module):
    """A network that counts the samples it is asked about."""

    def __init__(self, net):
        super().__init__()
        self.net, self.asked = net, 0

    def forward(self, x):
        self.asked += len(x)
        return self.net(x)


@pytest.fixture
def nets(make_net, make_samples):
    """A model, two surrogates that are the model with noisy weights, and samples."""
    model = make_net(SHAPE, 4)
    surrogates = []
    for seed in (1, 2):
        net = make_net(SHAPE, 4)
        rng = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in net.parameters():
                noise = torch.randn(parameter.shape, generator=rng)
                parameter += 0.4 * parameter.std() * noise
        surrogates.append(net)
    x = make_samples(SHAPE, 40)
    return model, surrogates, x, model(x).argmax(1)


def test_nothing_is_asked_of_the_model(nets):
    model, surrogates, x, y = nets
    victim, (first, second) = Counting(model), [Counting(net) for net in surrogates]
    report = robust.evaluate(
        victim, x, y, threat=Linf(0.1), attacks="transfer,steps=5", surrogates=[first, second],
        batch_size=20, diagnose="off",  # which asks it about the transfer matrix
    )  # fmt: skip
    (attack,) = report.attacks
    assert attack["access"] == "transfer"
    assert attack["queries"] == 0
    assert attack["forwards"] == attack["backwards"] == 2 * 5 * 40
    assert 0 < attack["successes"] < 40
    # Shape, classes and batch size are looked at before; the search itself asks nothing.
    looks = 40 + 2 + 4 * (8 + 2 * 8)  # and whether it answers the same again
    assert first.asked == second.asked
    assert first.asked >= 5 * 40
    measured = 40 + 40 + attack["successes"]  # clean, candidates, rounded to 8 bits
    assert victim.asked <= looks + measured
    (note,) = [note for note in report.notes if "Transfer" in note]
    assert "Counting, Counting" in note
    assert "asked nothing of the model" in note


def test_a_search_on_the_model_itself_as_surrogate_is_a_search_that_goes_on(nets):
    model, _, x, y = nets
    attack, threat = Transfer(steps=6), Linf(0.06)
    report = robust.evaluate(model, x, y, threat=threat, attacks=[attack], surrogates=model)
    with torch.no_grad():
        x_adv = attack.search(Victim(model, len(x)), x, Goal(y, persist=True), threat, generator(0))
    broken = model(x_adv).argmax(1) != y
    assert report.attacks[0]["successes"] == int(broken.sum()) > 5
    for example in report.gallery:
        assert torch.equal(torch.from_numpy(example.x_adv), x_adv[example.id])


def test_surrogates_together_transfer_better_than_nothing(nets):
    model, surrogates, x, y = nets
    left = {}
    for name, given in (("both", surrogates), ("stranger", [robust_stranger()])):
        report = robust.evaluate(model, x, y, threat=Linf(0.1), attacks="mi-fgsm", surrogates=given)
        left[name] = report.robust_accuracy
    assert left["both"] < left["stranger"] - 0.3


def robust_stranger():
    """A network that has nothing to do with the model."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(108, 4))
    with torch.no_grad():
        net[1].weight.copy_(torch.randn(4, 108, generator=torch.Generator().manual_seed(9)))
    return net


def test_an_ensemble_is_the_mean_of_logits(nets):
    _, (first, second), x, _ = nets
    assert torch.allclose(Ensemble([first, second])(x), (first(x) + second(x)) / 2)
    one_logit = Ensemble([lambda z: z.flatten(1).sum(1), lambda z: -z.flatten(1)[:, :1]])(x)
    assert one_logit.shape == (40, 2)
    assert torch.allclose(one_logit[:, 1], (x.flatten(1).sum(1) - x.flatten(1)[:, 0]) / 2)


def test_without_its_options_it_is_the_momentum_method(nets):
    model, _, x, y = nets
    for threat in (Linf(0.05), L2(0.5)):
        ours = Transfer(steps=7)(model, x, y, threat=threat)
        assert torch.equal(ours, MomentumPGD(steps=7)(model, x, y, threat=threat))


VARIANTS = ["ni-fgsm", "di-fgsm", "ti-fgsm,translation=3", "si-ni-fgsm,scales=3",
            "transfer,nesterov=true,diversity=1,translation=3,scales=2"]  # fmt: skip


@pytest.mark.parametrize("text", VARIANTS)
@pytest.mark.parametrize("persist", [False, True])
def test_every_variant_attacks_too(text, persist, nets):
    model, _, x, y = nets
    attack, threat, asked = parse_attack(text), Linf(0.12), []
    victim = Victim(lambda z: asked.append(z.detach()) or model(z), len(x))
    with torch.no_grad():
        x_adv = attack.search(victim, x, Goal(y, persist=persist), threat, generator(0))
    assert threat.contains(x, x_adv).all()
    assert (model(x_adv).argmax(1) != y).float().mean() >= 0.85
    plain = parse_attack("transfer")(model, x, y, threat=threat)
    assert not torch.equal(x_adv, plain)
    assert (victim.ledger.backwards <= attack.scales * attack.steps).all()
    if persist:
        assert (victim.ledger.backwards == attack.scales * attack.steps).all()
    assert all(z.min() >= -1e-6 and z.max() <= 1 + 1e-6 for z in asked)


def test_the_look_ahead_is_a_candidate(nets):
    model, _, x, y = nets
    threat, asked = Linf(0.05), []
    victim = Victim(lambda z: asked.append(z.detach().clone()) or model(z), len(x))
    with torch.no_grad():
        Transfer(nesterov=True).search(victim, x, Goal(y, persist=True), threat, generator(0))
    assert len(asked) == 10
    assert all(threat.contains(x, z).all() for z in asked)
    assert (asked[5] - asked[4]).abs().amax() > 0


def test_scaled_copies_are_asked_about(nets):
    model, _, x, y = nets
    threat, asked = Linf(0.05, -1.0, 1.0), []
    victim = Victim(lambda z: asked.append(z.detach().clone()) or model(z), len(x))
    with torch.no_grad():
        Transfer(scales=3, steps=1).search(victim, x, Goal(y, persist=True), threat, generator(0))
    for power, z in enumerate(asked):
        assert torch.allclose(z + 1, (x + 1) / 2**power, atol=1e-6)


def test_a_varied_answer_is_no_evidence(nets):
    """A model that only shrunk images fool: diversity must not take that for a success."""
    model, _, x, y = nets
    known = x.flatten(1).sum(1)

    def fooled_by_frames(z):
        less = (z.flatten(1).sum(1) < 0.9 * known[: len(z)]).float().unsqueeze(1)
        return nn.functional.one_hot(y[: len(z)], 4) * (1 - less) * 5 + 0 * model(z)

    attack = parse_attack("di-fgsm,diversity=1,steps=3,restarts=2")
    with torch.no_grad():
        victim = Victim(fooled_by_frames, len(x))
        attack.search(victim, x, Goal(y), Linf(1e-4), generator(0))
    assert (victim.ledger.forwards == 2 * (3 + 1)).all()


def test_shrunk_images_keep_their_content(make_samples):
    x = make_samples((3, 12, 12), 400, low=-1.0)
    z = shrunk_and_moved(x, -1.0, 0.5, 0.5, generator(0))
    same = (z == x).flatten(1).all(1)
    assert 150 < int(same.sum()) < 250
    assert z.min() >= -1
    assert z.max() <= 1
    # A bright disc stays as bright as its share of the area says, wherever it goes.
    disc = torch.full((300, 1, 24, 24), -1.0)
    disc[:, :, 8:16, 8:16] = 1
    moved = shrunk_and_moved(disc, -1.0, 0.5, 1.0, generator(1))
    area = (moved + 1).flatten(1).sum(1) / (disc + 1).flatten(1).sum(1)
    assert area.min() + 0.03 >= 0.25
    assert area.max() <= 1.03
    assert float(area.mean()) == pytest.approx((1 + 0.5 + 0.25) / 3, abs=0.03)
    centre = (moved + 1).amax((1, 2)).argmax(1)
    assert centre.unique().numel() > 8
    assert torch.equal(shrunk_and_moved(x, -1.0, 0.9, 0.0, generator(0)), x)


def test_smoothing_is_a_mean_over_shifts():
    spike = torch.zeros(1, 2, 9, 9)
    spike[0, 0, 4, 4] = 1.0
    found = smoothed(spike, 5)
    assert float(found[0, 0].sum()) == pytest.approx(1)
    assert not found[0, 1].any()
    row = found[0, 0, 4, 2:7]
    assert (row > 0).all()
    assert not found[0, 0, 4, :2].any()
    # σ = 2 / √3 for the half-width 2.
    assert float((row[3] / row[2]).log()) == pytest.approx(-(1**2) / (2 * 4 / 3), rel=1e-4)
    assert torch.allclose(smoothed(spike, 1), spike)


def test_images_are_needed_for_some_options_only(make_net, make_samples):
    net, x = make_net((20,), 3), make_samples((20,), 8)
    y = net(x).argmax(1)
    Transfer(nesterov=True, scales=2)(net, x, y, threat=Linf(0.1))
    for option in ({"diversity": 0.5}, {"translation": 3}):
        with pytest.raises(RobustError, match=r"Transfer needs images of shape .*not .* \(20,\)"):
            Transfer(**option)(net, x, y, threat=Linf(0.1))
        with pytest.raises(RobustError, match="needs images"):
            robust.evaluate(net, x, y, threat=Linf(0.1), attacks=[Transfer(**option)])


@dataclass(frozen=True, kw_only=True)
class Smallest(Attack):
    """A minimal attack, which never runs."""

    minimal: ClassVar = True

    def search(self, victim, x, goal, threat, rng):
        raise AssertionError


def test_surrogates_that_do_not_fit_are_refused(nets, make_net):
    model, surrogates, x, y = nets

    def evaluate(given, **options):
        robust.evaluate(
            model, x, y, threat=Linf(0.1), attacks=options.pop("attacks", "mi-fgsm"),
            surrogates=given, **options,
        )  # fmt: skip

    with pytest.raises(RobustError, match="surrogate 2 has 5 classes, and the model has 4"):
        evaluate([surrogates[0], make_net(SHAPE, 5)])
    with pytest.raises(RobustError, match=r"surrogate 1: .* not accept samples of shape"):
        evaluate(make_net((20,), 4))
    with pytest.raises(RobustError, match="surrogate 1: the model gives no gradient"):
        evaluate(lambda z: surrogates[0](z).detach())
    with pytest.raises(RobustError, match="Smallest looks for the smallest perturbation"):
        evaluate(surrogates, attacks=[Smallest()])
    with pytest.raises(RobustError, match="resume needs a model with parameters"):
        evaluate(lambda z: surrogates[0](z), resume=True, out="x")


def test_the_model_need_not_give_gradients(nets):
    model, surrogates, x, y = nets
    report = robust.evaluate(
        lambda z: model(z).detach(), x, y, threat=Linf(0.1), attacks="mi-fgsm",
        surrogates=surrogates,
    )  # fmt: skip
    assert report.robust_accuracy < 1


def test_a_resumed_run_must_have_the_same_surrogates(nets, tmp_path):
    model, surrogates, x, y = nets
    source = from_arrays(x, y, channels_last=False)

    def spec(*given):
        return planning.plan(
            in_memory(model), source, {"source": "x"}, Linf(0.1), [Transfer()],
            device=torch.device("cpu"), surrogates=[in_memory(net) for net in given], batch_size=9,
        )  # fmt: skip

    both = spec(*surrogates)
    assert both.hash != spec(surrogates[0]).hash != spec().hash
    assert both.curve == []
    assert spec().curve
    RunFolder.start(tmp_path / "run", both, [], resume=False).save()
    moved = replace(both, surrogates=[{**one, "path": "elsewhere"} for one in both.surrogates])
    assert moved.hash == both.hash
    RunFolder.start(tmp_path / "run", moved, [], resume=True)
    with pytest.raises(RobustError, match="surrogates differ"):
        RunFolder.start(tmp_path / "run", spec(surrogates[0]), [], resume=True)


def test_a_run_without_surrogates_has_the_hash_that_it_had_before(nets):
    model, _, x, y = nets
    spec = planning.plan(
        in_memory(model), from_arrays(x, y, channels_last=False), {"source": "x"}, Linf(0.1),
        [Transfer()], device=torch.device("cpu"), batch_size=9,
    )  # fmt: skip
    record = spec.to_dict()
    del record["surrogates"]
    assert RunSpec.from_dict(record).hash == spec.hash


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("mi-fgsm", "transfer"),
        ("ni-fgsm,steps=20", "transfer,steps=20,nesterov=true"),
        ("di-fgsm", "transfer,diversity=0.5"),
        ("di-fgsm,diversity=0.7", "transfer,diversity=0.7"),
        ("ti-fgsm,restarts=2", "transfer,translation=7,restarts=2"),
        ("si-ni-fgsm", "transfer,nesterov=true,scales=5"),
    ],
)
def test_the_names_of_the_papers_are_understood(text, meant):
    assert label(parse_attack(text)) == meant


def test_on_the_command_line(checkpoint, digits_net, robust_cli, tmp_path):
    torch.save(digits_net.state_dict(), tmp_path / "weights.pt")
    options = ["--limit", "40", "--attack", "ni-fgsm,steps=5", "--eps", "0.15", "--quiet", "--json"]
    done = robust_cli(
        "attack", "--model", checkpoint, *options, "--out", "run",
        "--surrogate", "weights.pt,arch=small-cnn", "--surrogate", checkpoint, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    (attack,) = report["attacks"]
    assert attack["access"] == "transfer"
    assert attack["queries"] == 0
    assert attack["forwards"] == 2 * 5 * attack["given"]
    assert attack["successes"] > 5
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert [one["arch"] for one in run["spec"]["surrogates"]] == ["small-cnn", "small-cnn"]

    for given, told in (
        ("weights.pt", "--surrogate weights.pt,arch=NAME"),
        ("weights.pt,arhc=small-cnn", "'arhc=small-cnn' is none of arch=NAME"),
        ("none.pt", "none.pt cannot be read"),
    ):
        done = robust_cli("attack", "--model", checkpoint, *options, "--surrogate", given,
                          cwd=tmp_path)  # fmt: skip
        assert done.returncode == 2
        assert told in done.stderr.replace("\n", " ")
        assert "Traceback" not in done.stderr


def test_a_state_dict_takes_what_it_lacks_from_the_models_options(digits_net, robust_cli, tmp_path):
    torch.save(digits_net.state_dict(), tmp_path / "weights.pt")
    done = robust_cli(
        "attack", "--model", "weights.pt", "--arch", "small-cnn", "--mean", "0.1", "--std", "0.9",
        "--surrogate", "weights.pt", "--surrogate", "weights.pt,mean=0.2", "--limit", "10",
        "--eps", "0.1", "--attack", "mi-fgsm,steps=1", "--quiet", "--out", "run", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "run" / "run.json").read_text())["spec"]["surrogates"]
    assert [(one["mean"], one["std"]) for one in found] == [([0.1], [0.9]), ([0.2], [0.9])]
