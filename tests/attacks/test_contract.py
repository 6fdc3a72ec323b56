"""What every registered attack promises, tried on each of them; a new file is found by itself."""

import copy

import pytest
import torch

from robust.attacks import PGD
from robust.core.errors import RobustError
from robust.core.goal import Goal
from robust.core.rng import generator
from robust.core.threat import THREATS, Threat
from robust.core.victim import Access, Victim
from robust.registry import label, names, parse_attack

ATTACKS = names("attacks")
EPS = {"linf": 0.03, "l2": 0.25, "l1": 1.0, "l0": 2.0, "patch": 1.0}
SHAPES = {"image": (3, 4, 4), "audio": (1, 40), "vector": (20,)}
GRADIENT = [name for name in ATTACKS if parse_attack(name).access == Access.GRADIENT]
CASES = [(name, norm) for name in ATTACKS for norm in THREATS if norm in parse_attack(name).norms]
GRADIENT_CASES = [(name, norm) for name, norm in CASES if name in GRADIENT]
WEAK = ("fgsm", "fab", "fab-t", "universal", "universal-patch")  # one class; one point for all
FITTED = ("universal", "universal-patch")  # crafted for all samples together
FEWER = {  # where the defaults would take long
    "block-flips": "queries=150",
    "boundary": "queries=150",
    "cgba": "queries=150",
    "hop-skip-jump": "queries=150",
    "square": "queries=150",
    "guided-square": "queries=150",
    "nes": "queries=150",
    "spsa": "queries=150",
    "rays": "queries=150",
    "simba": "queries=150",
    "cw": "steps=100,searches=5,constant=0.1",
    "sigma-zero": "steps=200",
    "universal-patch": "steps=60",
}


def made(name):
    return parse_attack(f"{name},{FEWER[name]}" if name in FEWER else name)


def small(norm):
    """A shape of 20 features that the threat has room for."""
    return (1, 4, 5) if norm == "patch" else (20,)


def first_norm(attack):
    return next(norm for norm in THREATS if norm in attack.norms)


def distance(norm, x, z):
    if norm == "patch":
        return Threat("patch", 1.0).distance(x, z)
    delta = (z.double() - x.double()).flatten(1)
    if norm == "linf":
        return delta.abs().amax(1)
    if norm == "l0":
        return (delta != 0).sum(1)
    return delta.square().sum(1).sqrt() if norm == "l2" else delta.abs().sum(1)


@pytest.mark.parametrize(
    ("name", "norm", "kind"),
    [(*case, kind) for case in CASES for kind in SHAPES if kind == "image" or case[1] != "patch"],
)
@pytest.mark.parametrize("targeted", [False, True])
def test_stays_inside_and_leaves_its_inputs_alone(
    name, norm, kind, targeted, make_net, make_samples
):
    shape = SHAPES[kind]
    low = -1.0 if kind == "audio" else 0.0
    net, x = make_net(shape, 4), make_samples(shape, 16, low=low)
    net.train()
    y = net(x).argmax(1)
    target = (y + 1) % 4 if targeted else None
    before, weights = x.clone(), copy.deepcopy(net.state_dict())
    threat = Threat(norm, EPS[norm], low, 1.0)
    if targeted and "targeted" not in made(name).goals:
        with pytest.raises(RobustError, match="untargeted goals only"):
            made(name)(net, x, y, threat=threat, target=target)
        return
    x_adv = made(name)(net, x, y, threat=threat, target=target)
    assert x_adv.shape == x.shape
    assert x_adv.dtype == x.dtype
    assert not x_adv.requires_grad
    if not parse_attack(name).minimal:
        assert (distance(norm, x, x_adv) <= EPS[norm]).all()
    assert x_adv.min() >= low
    assert x_adv.max() <= 1
    assert torch.equal(x, before)
    assert all(torch.equal(weights[k], v) for k, v in net.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in net.parameters())
    assert net.training
    assert all(module.training for module in net.modules())


@pytest.mark.parametrize(("name", "norm"), CASES)
def test_the_seed_alone_decides(name, norm, make_net, make_samples):
    net, x = make_net(small(norm), 4), make_samples(small(norm), 16)
    y = net(x).argmax(1)
    threat, attack = Threat(norm, EPS[norm] * (1 if norm == "patch" else 2)), made(name)
    first = attack(net, x, y, threat=threat, seed=3)
    torch.manual_seed(99)
    torch.rand(7)
    attack(net, x.flip(0), y.flip(0), threat=threat, seed=8)
    assert torch.equal(first, attack(net, x, y, threat=threat, seed=3))

    def points(seed):
        """Every point that the search asks about, and whether it drew a random number."""
        rng, asked = generator(seed), []
        state = rng.get_state()
        victim = Victim(lambda z: asked.append(z.detach().clone()) or net(z), len(x), attack.access)
        with torch.no_grad():
            attack.search(victim, x, Goal(y), threat, rng)
        return asked, not torch.equal(state, rng.get_state())

    ours, draws = points(3)
    others, _ = points(4)
    same = all(torch.equal(a, b) for a, b in zip(ours, others, strict=False))
    assert same != draws


@pytest.mark.parametrize(("name", "norm"), GRADIENT_CASES)
@pytest.mark.parametrize("targeted", [False, True])
def test_reaches_what_is_easy(name, norm, targeted, make_net, make_samples):
    net, x = make_net((3, 4, 4), 4), make_samples((3, 4, 4), 24)
    y = net(x).argmax(1)
    target = (y + 1) % 4 if targeted else None
    threat = Threat(norm, {"linf": 0.4, "l2": 3.0, "l1": 12.0, "l0": 24.0, "patch": 3.0}[norm])
    predicted = net(made(name)(net, x, y, threat=threat, target=target)).argmax(1)
    rate = (predicted == target if targeted else predicted != y).float().mean()
    assert rate >= (0.6 if targeted and name in WEAK else 0.85)


@pytest.mark.parametrize(("name", "norm"), CASES)
def test_solved_samples_cost_nothing_more(name, norm, make_net, make_samples):
    net, x = make_net(small(norm), 4), make_samples(small(norm), 16)
    y = net(x).argmax(1)
    y[::2] = (y[::2] + 1) % 4  # misclassified from the start
    attack = made(name)
    victim = Victim(net, len(x), attack.access)
    with torch.no_grad():
        eps = EPS[norm] if norm == "patch" else EPS[norm] / 10
        attack.search(victim, x, Goal(y), Threat(norm, eps), generator(0))
    queries = victim.ledger.queries
    if name.startswith("apgd") and norm == "l1":  # 60 of 100 steps are in balls that are too large
        assert (queries[::2] <= 63).all()
    elif name not in FITTED:
        assert (queries[::2] <= 2).all()
    assert name in FITTED or (queries[1::2] > queries[::2].max()).any()


@pytest.mark.parametrize(("name", "norm"), GRADIENT_CASES)
def test_a_goal_that_persists_goes_on(name, norm, make_net, make_samples):
    attack = made(name)
    net, x = make_net(small(norm), 4), make_samples(small(norm), 16)
    y = net(x).argmax(1)
    threat = Threat(norm, {"linf": 0.4, "l2": 2.0, "l1": 6.0, "l0": 8.0, "patch": 2.0}[norm])
    loss = torch.nn.functional.cross_entropy
    found = []
    for persist in (False, True):
        with torch.no_grad():
            victim = Victim(net, len(x))
            x_adv = attack.search(victim, x, Goal(y, persist=persist), threat, generator(0))
        found.append(loss(net(x_adv), y).item())
    assert found[1] >= found[0]


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("classes", [1, 2, 3])
def test_few_classes_and_one_logit(name, classes, make_net, make_samples):
    attack = made(name)
    norm = first_norm(attack)
    net, x = make_net(small(norm), classes), make_samples(small(norm), 12)
    z = net(x)
    y = (z[:, 0] > 0).long() if classes == 1 else z.argmax(1)
    x_adv = attack(net, x, y, threat=Threat(norm, {"patch": 3.0, "l0": 1.0}.get(norm, 0.5)))
    z = net(x_adv)
    predicted = (z[:, 0] > 0).long() if classes == 1 else z.argmax(1)
    if attack.access == Access.GRADIENT and name != "universal-patch":
        assert (predicted != y).float().mean() >= 0.6


@pytest.mark.parametrize(
    ("name", "norm"), [case for case in CASES if not parse_attack(case[0]).minimal]
)
def test_no_room_gives_the_sample_back(name, norm, make_net, make_samples):
    net, x = make_net(small(norm), 4), make_samples(small(norm), 5)
    assert torch.equal(made(name)(net, x, net(x).argmax(1), threat=Threat(norm, 0.0)), x)


NONSENSE = {"steps": 0, "samples": 0, "targets": 0, "step_size": -1.0, "rho": float("nan"),
            "decay": float("inf"), "loss": "mse", "queries": 0, "p_init": 0.0, "tighten": -1,
            "overshoot": -1.0, "alpha_max": 2.0, "eta": 0.5, "beta": 1.0, "candidates": 1,
            "translation": 2, "gamma": 0.0, "diversity": 2.0, "scales": 0, "searches": 0,
            "constant": 0.0, "confidence": -1.0, "sigma": 0.0, "threshold": 2.0,
            "sensitivity": -1.0, "position": "there", "probes": 0, "places": 0,
            "placements": 0, "alike": 2.0, "waves": 0, "basis": "haar"}  # fmt: skip


@pytest.mark.parametrize("name", ATTACKS)
def test_values_that_would_do_nothing_are_refused(name):
    cls = type(parse_attack(name))
    values = parse_attack(name).params
    for field in [field for field, value in values.items() if not isinstance(value, bool)]:
        with pytest.raises(RobustError, match=field):
            cls(**{field: NONSENSE[field]})
    with pytest.raises(RobustError, match="step_size"):
        PGD(step_size=float("nan"))
    with pytest.raises(RobustError, match="restarts must be at least 1"):
        parse_attack(f"{name},restarts=0")


@pytest.mark.parametrize("name", ATTACKS)
def test_documents_itself(name):
    attack = parse_attack(name)
    text = type(attack).__doc__
    assert text
    assert not text.startswith(type(attack).__name__ + "(")  # what dataclass writes by default
    assert all(field in text for field in attack.params if field not in ("loss", "steps"))
    assert attack.norms <= set(THREATS)
    assert parse_attack(label(attack)) == attack


@pytest.mark.parametrize("name", ATTACKS)
def test_bad_batches_are_refused(name, make_net, make_samples):
    attack = parse_attack(name)
    norm = first_norm(attack)
    net, x = make_net(small(norm), 4), make_samples(small(norm), 5)
    y = net(x).argmax(1)
    threat = Threat(norm, 1.0)
    with pytest.raises(RobustError, match="outside the range"):
        attack(net, x * 255, y, threat=threat)
    with pytest.raises(RobustError, match="y must be int"):
        attack(net, x, y[:3], threat=threat)
    with pytest.raises(RobustError, match="x must be float"):
        attack(net, (x * 255).long(), y, threat=threat)
