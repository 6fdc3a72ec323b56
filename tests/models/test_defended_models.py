"""Defended models: order, what an attacker sees, checkpoints, and defenses of the user's own."""

import math

import pytest
import torch
from model_nets import SHAPE
from torch import nn

import robust
from robust.core.defended import GUESSED_DRAWS, Defended
from robust.core.errors import RobustError
from robust.core.rng import seeded
from robust.models import build, defend, load_model, save_checkpoint, save_defended

OWN = """
from dataclasses import dataclass

import torch
from torch import nn

from robust.core.defense import Defense

def steps(x):
    return (x * 3).round() / 3

class Noisy:
    draws = 7

    def __init__(self, sigma=0.1):
        self.sigma = sigma

    def wrap(self, model):
        return Adding(model, self.sigma)

    def expose(self, model):
        return Adding(model, self.sigma)

class Silent(Noisy):
    def __getattribute__(self, name):
        if name in ("expose", "draws"):
            raise AttributeError(name)
        return super().__getattribute__(name)

class Adding(nn.Module):
    def __init__(self, model, sigma):
        super().__init__()
        self.model, self.sigma = model, sigma

    def forward(self, x):
        return self.model((x + self.sigma * torch.randn_like(x)).detach())

@dataclass(frozen=True, kw_only=True)
class Typed(Defense):
    levels: int = 2
    place = "input"

    def wrap(self, model, frame, parts=None):
        return Rounding(model, self.levels)

class Told(Typed):
    def expose(self, model, frame, parts=None):
        return model

class Rounding(nn.Module):
    def __init__(self, model, levels):
        super().__init__()
        self.model, self.levels = model, levels

    def forward(self, x):
        return self.model((x * self.levels).round() / self.levels)

class Nothing:
    pass

class Broken:
    def wrap(self, model):
        raise KeyError("width")
"""


@pytest.fixture
def net():
    with seeded(1):
        return build("small-cnn", SHAPE, 10).eval()


@pytest.fixture
def m_pt(net, tmp_path):
    path = tmp_path / "m.pt"
    save_checkpoint(
        path, net, arch="small-cnn", shape=SHAPE, num_classes=10, mean=[0.3], std=[0.4],
        data={"source": "digits"}, threat={"norm": "linf", "eps": 0.1, "low": 0.0, "high": 1.0},
        extra={"epoch": 3},
    )  # fmt: skip
    return path


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(OWN)
    return path


@pytest.fixture
def x():
    with seeded(2):
        return torch.rand(5, *SHAPE)


def gradient(module, x):
    x = x.clone().requires_grad_()
    logits = module(x)
    (found,) = torch.autograd.grad(logits[:, 0].sum(), x)
    return found


def test_deployed_gradients_are_zero_and_exposed_ones_pass_through(net, x):
    defended = defend(net, "bit-depth,bits=2", shape=SHAPE, num_classes=10)
    rounded = (x * 3).round() / 3
    assert torch.equal(defended(x), net(rounded))
    assert torch.equal(defended.exposed(x), net(rounded))
    assert (gradient(defended, x) == 0).all()
    assert torch.equal(gradient(defended.exposed, x), gradient(net, rounded))
    assert defended.draws == 1
    assert not defended.guessed


def test_defenses_work_in_the_range_of_the_data(net, x):
    defended = defend(net, "bit-depth,bits=1", shape=SHAPE, num_classes=10, low=-1, high=3)
    at = 4 * x - 1
    assert torch.equal(defended(at), net(torch.where(at > 1, 3.0, -1.0)))


def test_a_sample_meets_defenses_in_their_order(net, x):
    one = defend(net, ["bit-depth,bits=1", "bit-depth,bits=2"], shape=SHAPE, num_classes=10)
    other = defend(net, ["bit-depth,bits=2", "bit-depth,bits=1"], shape=SHAPE, num_classes=10)
    at = torch.full((1, *SHAPE), 0.6)
    # 0.6 → 1 → 1, but 0.6 → 2/3 → 1 as well; at 0.4: → 0, and → 1/3 → 0; at 0.5 they differ.
    assert torch.equal(one(at), net(at * 0 + 1))
    assert torch.equal(other(at * 0 + 0.51), net(at * 0 + 1))
    assert [record["params"]["bits"] for record in one.records] == [1, 2]
    for defended in (one, other):
        assert torch.equal(defended.exposed(x), defended(x))
    assert type(one.model).__name__ == "Before"
    assert one.model.defense.bits == 1  # the first that a sample meets is the outermost


def test_output_defenses_lie_behind_input_defenses(net, x):
    both = defend(net, ["bit-depth,bits=2", "saturation,scale=50"], shape=SHAPE, num_classes=10)
    assert torch.allclose(both(x), 50 * net((x * 3).round() / 3))
    assert torch.allclose(both.exposed(x), net((x * 3).round() / 3))


@pytest.mark.parametrize(
    ("texts", "match"),
    [
        (["saturation", "bit-depth"], "name them in the order in which a sample meets them"),
        (["adversarial-training"], "`robust train --adv pgd` asks for it"),
        (["bit-dept"], "did you mean 'bit-depth'"),
        (["bit-depth,bit=3"], "no parameter 'bit'; did you mean 'bits'"),
        (["bit-depth,bits=9"], "from 1 to 8"),
        (["nowhere.py:Blur"], "no file nowhere.py"),
    ],
)
def test_what_makes_no_sense_is_told(net, texts, match):
    with pytest.raises(RobustError, match=match):
        defend(net, texts, shape=SHAPE, num_classes=10)


def test_a_training_defense_puts_nothing_around_a_model(net):
    kind = robust.defenses.AdversarialTraining
    with pytest.raises(RobustError, match="changes how a model is trained"):
        defend(net, [kind(attack=None)], shape=SHAPE, num_classes=10)


def test_a_checkpoint_keeps_its_defenses(m_pt, x, tmp_path):
    out = tmp_path / "d.pt"
    loaded = load_model(m_pt, defenses=["bit-depth,bits=2", "saturation,scale=8"])
    save_defended(out, loaded)
    again = load_model(out)
    assert isinstance(again.module, Defended)
    assert torch.equal(again.module(x), loaded.module(x))
    assert torch.equal(gradient(again.module.exposed, x), gradient(loaded.module.exposed, x))
    plain = load_model(m_pt)
    assert torch.allclose(again.module(x), 8 * plain.module((x * 3).round() / 3))
    assert again.info.defenses == (
        {"name": "bit-depth", "params": {"bits": 2}},
        {"name": "saturation", "params": {"scale": 8.0}},
    )
    for fact in ("data", "threat", "extra", "mean", "arch", "classes"):
        assert getattr(again.info, fact) == getattr(plain.info, fact)
    assert again.info.box == (0.0, 1.0)
    assert not any(p.requires_grad for p in again.module.parameters())


def test_further_defenses_come_in_front(m_pt, x, tmp_path):
    first, second = tmp_path / "one.pt", tmp_path / "two.pt"
    save_defended(first, load_model(m_pt, defenses=["saturation,scale=8"]))
    save_defended(second, load_model(first, defenses=["bit-depth,bits=1"]))
    found = load_model(second)
    assert [record["name"] for record in found.info.defenses] == ["bit-depth", "saturation"]
    assert torch.equal(found.module(x), 8 * load_model(m_pt).module(x.round()))
    with pytest.raises(RobustError, match="in the order in which a sample meets them"):
        load_model(second, defenses=["saturation"])


def test_the_range_is_that_of_the_training(net, x, tmp_path):
    path = tmp_path / "m.pt"
    threat = {"norm": "linf", "eps": 0.1, "low": -1.0, "high": 3.0}
    save_checkpoint(path, net, arch="small-cnn", shape=SHAPE, num_classes=10, threat=threat)
    loaded = load_model(path, defenses=["bit-depth,bits=1"])
    at = 4 * x - 1
    assert torch.equal(loaded.module(at), net(torch.where(at > 1, 3.0, -1.0)))
    assert loaded.info.box == (-1.0, 3.0)
    with pytest.raises(RobustError, match="--range 0,1 is not the checkpoint's"):
        load_model(path, defenses=["bit-depth"], low=0.0, high=1.0)


def test_an_older_version_does_not_read_past_defenses(m_pt, tmp_path):
    out = tmp_path / "d.pt"
    save_defended(out, load_model(m_pt, defenses=["bit-depth"]))
    assert torch.load(out, weights_only=True)["version"] == 2
    assert torch.load(m_pt, weights_only=True)["version"] == 1


@pytest.mark.parametrize("kind", ["torch.export", "torchscript"])
def test_files_of_other_formats_go_in_whole(net, x, tmp_path, kind):
    path, out = tmp_path / "model", tmp_path / "d.pt"
    if kind == "torchscript":
        torch.jit.trace(net, x).save(str(path))
    else:
        batch = torch.export.Dim("batch", min=1)
        torch.export.save(torch.export.export(net, (x,), dynamic_shapes=({0: batch},)), path)
    loaded = load_model(path, shape=SHAPE, defenses=["bit-depth,bits=2"], mean=[0.5], std=[0.2])
    save_defended(out, loaded)
    path.unlink()
    again = load_model(out)
    assert again.info.kind == "robust-checkpoint"
    assert torch.allclose(again.module(x), net(((x * 3).round() / 3 - 0.5) / 0.2), atol=1e-5)
    with pytest.raises(RobustError, match="has its network inside: drop --arch"):
        load_model(out, arch="small-cnn")


def test_probabilities_stay_probabilities(tmp_path, x):
    path, out = tmp_path / "model", tmp_path / "d.pt"
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.Softmax(1)).eval()
    torch.jit.trace(net, x).save(str(path))
    save_defended(out, load_model(path, shape=SHAPE, defenses=["bit-depth"], probabilities=True))
    assert load_model(out).module(x).exp().sum(1).sub(1).abs().max() < 1e-5


def test_a_state_dict_becomes_a_checkpoint(net, x, tmp_path):
    path, out = tmp_path / "w.pt", tmp_path / "d.pt"
    torch.save(net.state_dict(), path)
    given = {"arch": "small-cnn", "shape": SHAPE, "defenses": ["bit-depth,bits=2"]}
    save_defended(out, load_model(path, **given))
    assert torch.equal(load_model(out).module(x), net((x * 3).round() / 3))


def test_a_pickled_module_cannot_be_kept(net, tmp_path):
    path = tmp_path / "p.pt"
    torch.save(net, path)
    loaded = load_model(path, trust_pickle=True, shape=SHAPE, defenses=["bit-depth"])
    with pytest.raises(RobustError, match="cannot be kept in a checkpoint"):
        save_defended(tmp_path / "d.pt", loaded)


def test_a_function_of_the_users_own_is_attacked_as_the_identity(net, own, x):
    defended = defend(net, f"{own}:steps", shape=SHAPE, num_classes=10)
    at = (x * 3).round() / 3
    assert torch.equal(defended(x), net(at))
    assert torch.equal(gradient(defended.exposed, x), gradient(net, at))
    assert defended.guessed
    assert defended.draws == 1


def test_one_that_exposes_itself_is_taken_at_its_word(net, own):
    defended = defend(net, f"{own}:Noisy,sigma=0.5", shape=SHAPE, num_classes=10)
    assert not defended.guessed
    assert defended.draws == 7
    assert defended.records == [{"name": f"{own}:Noisy", "params": {"sigma": 0.5}}]
    assert defended.model.sigma == 0.5


def test_one_that_does_not_is_probed(net, own, x):
    defended = defend(net, f"{own}:Silent", shape=SHAPE, num_classes=10)
    assert defended.guessed
    assert defended.draws == GUESSED_DRAWS
    with seeded(3):
        noise = 0.1 * torch.randn_like(x)
    with seeded(3):
        found = gradient(defended.exposed, x)
    assert torch.allclose(found, gradient(net, x + noise), atol=1e-6)
    assert (gradient(defended, x) == 0).all()  # as it is deployed, there is none


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("Nothing", "has no wrap"),
        ("Broken", "wrap failed: KeyError"),
        ("steps,a=1", "takes no parameters"),
        ("Noisy,width=1", "cannot be made of"),
        ("absent", "has no function 'absent'"),
    ],
)
def test_what_is_wrong_with_ones_own_is_told(net, own, name, match):
    with pytest.raises(RobustError, match=match):
        defend(net, f"{own}:{name}", shape=SHAPE, num_classes=10)


def test_code_of_a_file_runs_only_when_it_is_named(m_pt, own, tmp_path):
    out = tmp_path / "d.pt"
    save_defended(out, load_model(m_pt, defenses=[f"{own}:Noisy,sigma=0.3"]))
    with pytest.raises(RobustError, match="pass --with .*own.py:Noisy"):
        load_model(out)
    for text in ("Noisy", "Noisy,sigma=0.3"):  # the parameters are those that it was made with
        found = load_model(out, defenses=[f"{own}:{text}"])
        assert found.info.defenses == ({"name": f"{own}:Noisy", "params": {"sigma": 0.3}},)
        assert found.module.model.sigma == 0.3
    with pytest.raises(RobustError, match="made with .*sigma=0.3, not with the parameters"):
        load_model(out, defenses=[f"{own}:Noisy,sigma=0.2"])


def test_a_defense_of_ones_own_without_expose_is_guessed(net, own, x):
    defended = defend(net, f"{own}:Typed,levels=3", shape=SHAPE, num_classes=10)
    at = (x * 3).round() / 3
    assert defended.guessed
    assert torch.equal(gradient(defended.exposed, x), gradient(net, at))
    assert not defend(net, f"{own}:Told", shape=SHAPE, num_classes=10).guessed


def test_memory_that_ran_out_is_no_missing_gradient(x):
    class Greedy(nn.Module):
        def forward(self, x):
            if x.requires_grad:
                raise torch.OutOfMemoryError("out of memory")
            return x.flatten(1)

    defended = Defended(Greedy(), Greedy())
    with pytest.raises(torch.OutOfMemoryError):
        defended(x.clone().requires_grad_())


@pytest.mark.parametrize(
    "damage",
    [
        {"defenses": [{"name": 3, "params": {}}]},
        {"defenses": "jpeg"},
        {"box": [0.0]},
        {"parts": {"0.w": 1}},
        {"inside": torch.zeros(2)},
    ],
)
def test_damage_is_named(m_pt, tmp_path, damage):
    out = tmp_path / "d.pt"
    save_defended(out, load_model(m_pt, defenses=["bit-depth"]))
    content = torch.load(out, weights_only=True)
    torch.save({**content, **damage}, out)
    with pytest.raises(RobustError, match=f"damaged checkpoint: its '{next(iter(damage))}'"):
        load_model(out)


def test_parameters_that_a_newer_version_wrote_are_refused(m_pt, tmp_path):
    out = tmp_path / "d.pt"
    save_defended(out, load_model(m_pt, defenses=["bit-depth"]))
    content = torch.load(out, weights_only=True)
    content["defenses"] = [{"name": "bit-depth", "params": {"bits": 3, "dither": True}}]
    torch.save(content, out)
    with pytest.raises(RobustError, match="no parameter 'dither'"):
        load_model(out)


def test_numbers_survive_the_way_through_a_checkpoint(m_pt, tmp_path):
    out = tmp_path / "d.pt"
    scale = 1 / 3 * math.pi
    save_defended(out, load_model(m_pt, defenses=[f"saturation,scale={scale!r}"]))
    assert load_model(out).info.defenses[0]["params"]["scale"] == scale


def test_the_command_line(m_pt, own, tmp_path, robust_cli):
    done = robust_cli("defend", "--model", m_pt, "--with", "bit-depth,bits=2", "--out", "d.pt",
                      cwd=tmp_path)  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "d.pt" in done.stdout
    assert "robust attack --model d.pt" in done.stdout
    assert load_model(tmp_path / "d.pt").info.defenses[0]["name"] == "bit-depth"
    for options, told in (
        ((), "--with NAME"),
        (("--with", "nonsense"), "unknown defense 'nonsense'"),
        (("--with", "bit-depth", "--out", "no/such/folder.pt"), "its folder must exist"),
    ):
        given = options if "--out" in options else (*options, "--out", "e.pt")
        done = robust_cli("defend", "--model", m_pt, *given, cwd=tmp_path)
        assert done.returncode == 2
        assert told in done.stderr
        assert done.stderr.count("\n") == 1
        assert not (tmp_path / "e.pt").exists()
