"""What goes wrong in other packages does not reach the user; what he gets wrong is said."""

import logging
import random
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import robust
from robust import peers
from robust.cli import main
from robust.core.errors import RobustError
from robust.core.restarts import Restarts
from robust.core.rng import generator
from robust.core.threat import Threat
from robust.core.victim import Access, Victim
from robust.peers.foolbox import FoolboxAttack
from robust.peers.oracle import Oracle
from robust.peers.peer import Facts, attack_class
from robust.peers.shield import _Muted, own_randomness, quiet
from robust.registry import names, parse_attack

LINF = robust.Linf(0.25)


def fake(run, **facts):
    """An attack of foolbox's kind that does this: run(model, inputs) → found."""

    class Theirs:
        def __init__(self, steps: int = 3) -> None:
            self.steps = steps

        def run(self, model, inputs, criterion, **limit):
            return run(model, inputs)

    return attack_class(FoolboxAttack, "Theirs", Theirs, Facts("linf", **facts))()


def all_up(model, inputs):
    return inputs + 1


@pytest.fixture
def batch(make_net, make_samples):
    net, x = make_net(), make_samples()
    return net, x, net.net(x).argmax(1)


def test_one_failed_start_costs_no_other_sample_its_result(batch):
    net, x, y = batch
    bad = {2, 5}
    sizes = []

    def run(model, inputs):
        sizes.append(len(inputs))
        if any(torch.equal(row, x[i]) for row in inputs for i in bad):
            raise ValueError("init_attack failed for 1 of 8 inputs")
        return inputs + 1

    x_adv = fake(run)(net, x, y, threat=LINF)
    moved = (x_adv != x).flatten(1).any(1)
    assert moved.tolist() == [i not in bad for i in range(8)]
    assert sizes[0] == 8
    assert 1 in sizes
    assert sum(sizes) < 8 * 8


def test_foolbox_itself_does_fail_so(batch):
    """One sample whose target no image has: the others of its batch arrive all the same."""
    net, x, y = (part[:4] if isinstance(part, torch.Tensor) else part for part in batch)
    target = torch.where(torch.arange(4) == 2, 4, (y + 1) % 4)  # there are classes 0 to 3
    attack = parse_attack("foolbox:BoundaryAttack,steps=3")
    x_adv = attack(net, x, y, threat=robust.L2(9.0), target=target)
    assert net.net(x_adv).argmax(1).eq(target).sum() >= 2
    assert torch.equal(x_adv[2], x[2])


def test_starts_that_fail_for_all_are_no_error_other_failures_are(batch):
    net, x, y = batch

    def start(model, inputs):
        raise ValueError("init_attack failed for 1 of 1 inputs")

    def broken(model, inputs):
        raise IndexError("tuple index out of range\nmore")

    assert torch.equal(fake(start, minimal=True)(net, x, y, threat=LINF), x)
    with pytest.raises(RobustError, match="^foolbox:Theirs: tuple index out of range$"):
        fake(broken)(net, x, y, threat=LINF)


def test_what_the_victim_refuses_is_not_tried_again(batch):
    _, x, y = batch

    def no_gradient(z):
        with torch.no_grad():
            return torch.nn.functional.one_hot(z.flatten(1).sum(1).long() % 4, 4).float()

    with pytest.raises(RobustError, match="gives no gradient"):
        parse_attack("foolbox:LinfPGD,steps=2")(no_gradient, x, y, threat=LINF)


def test_a_search_that_asks_the_same_for_ever_ends(batch):
    net, x, y = (part[:2] if isinstance(part, torch.Tensor) else part for part in batch)

    def forever(model, inputs):
        while True:
            model(inputs)

    assert torch.equal(fake(forever, minimal=True)(net, x, y, threat=LINF), x)


def test_points_outside_come_inside_and_nonsense_goes_back(batch):
    net, x, y = batch

    def run(model, inputs):
        found = inputs + 0.25 + 1e-4
        found[0] = float("nan")
        found[1, 0, 0, 0] = float("inf")
        return found

    x_adv = fake(run)(net, x, y, threat=LINF)
    assert LINF.contains(x, x_adv).all()
    assert torch.equal(x_adv[:2], x[:2])
    assert LINF.distance(x[2:], x_adv[2:]).min() > 0.2499


def test_a_minimal_attack_that_finds_nothing_gives_the_sample_back(batch):
    net, x, y = batch
    reached = net.net((x + 1).clamp(max=1)).argmax(1) != y
    assert 0 < reached.sum() < 8
    x_adv = fake(all_up, minimal=True)(net, x, y, threat=LINF)
    assert torch.equal((x_adv != x).flatten(1).any(1), reached)
    assert (x_adv[reached] == 1).all()  # though outside eps


def test_what_is_tried_on_the_way_is_no_result(batch):
    """A search that comes across a success and returns another point has not found it."""
    net, x, y = batch
    runs = []

    def run(model, inputs):
        runs.append(len(inputs))
        model((inputs + 1).clamp(max=1))
        return inputs if len(runs) == 1 else inputs + 1

    x_adv = Restarts(attack=fake(run), restarts=2)(net, x, y, threat=robust.Linf(1.0))
    broken = net.net(x_adv).argmax(1) != y
    assert runs == [8, 8]
    assert broken.any()


def test_inputs_modes_and_gradients_stay(batch):
    net, x, y = batch
    net.train()

    def run(model, inputs):
        inputs.requires_grad_(True)
        model(inputs).sum().backward()
        found = inputs.detach() + inputs.grad.sign()
        inputs.detach().zero_()
        return found

    before = x.clone()
    fake(run)(net, x, y, threat=LINF)
    assert torch.equal(x, before)
    assert all(module.training for module in net.modules())
    assert all(p.grad is None and p.requires_grad for p in net.parameters())


def test_nothing_is_printed_logged_or_warned(batch, capsys, caplog):
    net, x, y = batch
    handlers = list(logging.getLogger().handlers)

    def run(model, inputs):
        print("searching")
        print("searching", file=sys.stderr)
        logging.getLogger("art.attacks").warning("attack failed")
        warnings.warn("failed to draw", stacklevel=1)
        logging.info("falling back")
        np.log(np.zeros(1))
        return inputs

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fake(run)(net, x, y, threat=LINF)
    assert capsys.readouterr() == ("", "")
    assert not caplog.records
    assert logging.getLogger().handlers == handlers
    assert logging.getLogger("art").level == logging.NOTSET or logging.getLogger(
        "art"
    ).isEnabledFor(logging.ERROR)


def test_a_live_display_goes_on_drawing(capsys):
    """Rich refreshes from a thread of its own, and looks behind a stream that stands in front."""
    with quiet():
        stream = sys.stdout
        other = threading.Thread(target=print, args=("drawn",))
        other.start()
        other.join()
        assert isinstance(stream, _Muted)
        behind = stream.rich_proxied_file
    assert behind is sys.stdout
    assert capsys.readouterr().out == "drawn\n"


def test_global_generators_are_seeded_and_given_back():
    def drawn():
        return (
            random.random(), np.random.rand(), torch.rand(1).item(),
            np.random.RandomState().rand(), np.random.default_rng().random(),
        )  # fmt: skip

    state = random.getstate(), np.random.get_state()[1].tolist(), torch.random.get_rng_state()
    makers = np.random.RandomState, np.random.default_rng
    found = []
    for seed in (1, 1, 2):
        with own_randomness(generator(seed)):
            found.append(drawn())
    assert found[0] == found[1]
    assert all(a != b for a, b in zip(found[0], found[2], strict=True))
    assert random.getstate() == state[0]
    assert np.random.get_state()[1].tolist() == state[1]
    assert torch.equal(torch.random.get_rng_state(), state[2])
    assert (np.random.RandomState, np.random.default_rng) == makers
    with own_randomness(generator(1)):
        assert isinstance(np.random.RandomState(3), makers[0])
        assert np.random.RandomState(3).rand() == makers[0](3).rand()


def oracle(net, x, access=Access.GRADIENT, classes=0, **more):
    victim = Victim(net, len(x), access)
    return Oracle(victim, x, Threat("linf", 0.1), x, classes, **more), victim.ledger


def test_the_oracle_takes_any_type_and_gives_it_back(batch):
    """ART's HopSkipJump sends float64 to networks of float32."""
    net, x, _ = batch
    model, ledger = oracle(net, x)
    z = x.double().requires_grad_()
    model(z)[:, 1].sum().backward()
    assert z.grad.dtype == torch.float64
    assert net.types == {torch.float32}
    want = x.clone().requires_grad_()
    net.net(want)[:, 1].sum().backward()
    assert torch.allclose(z.grad.float(), want.grad)
    assert ledger.forwards.tolist() == [1] * 8
    assert ledger.backwards.tolist() == [1] * 8


def test_every_backward_counts(batch):
    net, x, _ = batch
    model, ledger = oracle(net, x)
    z = x.clone().requires_grad_()
    scores = model(z)
    for column in range(3):
        scores[:, column].sum().backward(retain_graph=True)
    assert ledger.forwards.tolist() == [1] * 8
    assert ledger.backwards.tolist() == [3] * 8
    assert net.backwards == 24
    model(x)
    assert ledger.forwards.tolist() == [2] * 8


def test_rows_are_entered_for_the_sample_that_they_are_near(batch):
    net, x, _ = batch
    model, ledger = oracle(net, x, Access.SCORES)
    model(torch.cat([x[3:5] + 0.01, x[3:4] - 0.01, x[7:8]]))
    assert ledger.forwards.tolist() == [0, 0, 0, 2, 1, 0, 0, 1]
    model(x.flip(0))  # as many rows as samples: one each
    assert ledger.forwards.tolist() == [1, 1, 1, 3, 2, 1, 1, 2]
    model(torch.rand(21, 3, 8, 8))
    assert int(ledger.forwards.sum()) == 12 + 21


def test_labels_are_all_that_access_to_labels_gives(batch):
    net, x, y = batch
    model, _ = oracle(net, x, Access.LABELS, classes=4)
    assert torch.equal(model(x), torch.nn.functional.one_hot(y, 4).float())
    fewer, _ = oracle(net, x, Access.LABELS, classes=2)
    assert torch.equal(fewer(x).argmax(1), y.clamp(max=1))


def test_answers_as_probabilities(batch):
    net, x, _ = batch
    for answers, want in (("probabilities", "softmax"), ("log-probabilities", "log_softmax")):
        model, _ = oracle(net, x, answers=answers)
        assert torch.allclose(model(x), getattr(net.net(x), want)(1))
    model, _ = oracle(net, x, Access.SCORES, classes=6, answers="probabilities")
    assert torch.allclose(model(x), torch.cat([net.net(x).softmax(1), torch.zeros(8, 2)], 1))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("foolbox:LinfDepFool", "'LinfDepFool' of foolbox; did you mean 'LinfDeepFoolAttack'"),
        ("foolbox:linfpgd", "did you mean 'LinfPGD'.* --engine foolbox"),
        ("art:HopSkip", "did you mean 'HopSkipJump'"),
        ("arts:HopSkipJump", "unknown engine 'arts'; did you mean 'art'"),
        (
            "foolbox:SpatialAttack",
            "foolbox:SpatialAttack cannot be run: it turns and shifts images",
        ),
        ("art:DPatch", "art:DPatch cannot be run: it attacks object detectors"),
        ("foolbox:LinfDeepFoolAttack,step=3", "did you mean 'steps'.; it has steps, candidates"),
        ("foolbox:LinfPGD,epsilon=1", "has no parameter 'epsilon'; did you mean 'adam|has no"),
        ("foolbox:LinfPGD,steps=0", "steps must be at least 1, not 0"),
        ("foolbox:LinfPGD,steps=2.5", "steps must be a whole number"),
        ("foolbox:LinfPGD,abs_stepsize=x", "abs_stepsize must be a number"),
        ("foolbox:LinfPGD,random_start=3", "random_start must be true or false"),
        ("foolbox:L2DeepFoolAttack,loss=ce", "loss must be one of logits, crossentropy"),
        ("foolbox:InversionAttack,distance=2", "distance is not yours to set: --norm gives it"),
        ("foolbox:BoundaryAttack,init_attack=x", "init_attack is not yours .*object of Python"),
        ("foolbox:BoundaryAttack,tensorboard=x", "tensorboard is not yours to set: the engine"),
        ("art:FastGradientMethod,eps=0.1", "eps is not yours to set: --eps gives it"),
        ("art:FastGradientMethod,norm=2", "norm is not yours to set: --norm gives it"),
        ("art:FastGradientMethod,targeted=yes", "targeted is not yours .* --targeted gives it"),
        ("art:FastGradientMethod,batch_size=3", "batch_size is not yours to set: the engine"),
        ("art:ElasticNet,decision_rule=L3", "art:ElasticNet: The decision rule only supports"),
    ],
)
def test_what_is_wrong_is_said(text, said):
    with pytest.raises(RobustError, match=said):
        parse_attack(text)


def test_values_are_read_from_text():
    attack = parse_attack("foolbox:LinfPGD, steps=7, abs-stepsize=2/255, random_start=no")
    assert attack.params == {
        "steps": 7, "abs_stepsize": 2 / 255, "random_start": False, "rel_stepsize": 0.1 / 3,
    }  # fmt: skip
    assert parse_attack("foolbox:LinfDeepFoolAttack,candidates=none").candidates is None
    assert parse_attack("art:ElasticNet,decision_rule=L1").decision_rule == "L1"


@pytest.mark.parametrize("engine", peers.ENGINES)
def test_a_missing_package_is_named(engine, monkeypatch):
    monkeypatch.setitem(sys.modules, engine, None)
    peers._catalogue.cache_clear()
    peers.attacks.cache_clear()
    try:
        with pytest.raises(RobustError, match=rf"the attacks of {engine} need .*robust\[peers\]"):
            parse_attack(f"{engine}:DeepFool")
    finally:
        monkeypatch.undo()
        peers._catalogue.cache_clear()
        peers.attacks.cache_clear()


def test_the_packages_are_imported_only_when_asked_for():
    code = (
        "import sys; from robust.registry import names, parse_attack; names('attacks');"
        "parse_attack('pgd'); import robust.peers;"
        "found = {'foolbox', 'art', 'eagerpy'} & set(sys.modules);"
        "sys.exit(str(found) if found else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("engine", peers.ENGINES)
def test_the_list_of_an_engine(engine, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    result = CliRunner().invoke(main, ["list", "attacks", "--engine", engine])
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.partition(":")[2] for line in lines if not line.startswith(" ")] == list(
        peers.attacks(engine)
    )
    name = {"foolbox": "LinfDeepFoolAttack", "art": "DeepFool"}[engine]
    at = lines.index(f"{engine}:{name}")
    norm = {"foolbox": "linf", "art": "l2"}[engine]
    assert lines[at + 1] == f"    gradient, minimal, {norm}, untargeted only"
    assert lines[at + 2].startswith(
        {"foolbox": "    steps=50, candidates=10, overshoot=0.02", "art": "    max_iter=100"}[
            engine
        ]
    )


def test_our_own_list_has_none_of_them():
    assert not [name for name in names("attacks") if ":" in name]
    result = CliRunner().invoke(main, ["list", "attacks"])
    assert "foolbox" not in result.stdout
    wrong = CliRunner().invoke(main, ["list", "architectures", "--engine", "art"])
    assert wrong.exit_code == 2
    assert "--engine is for `robust list attacks`" in wrong.stderr
