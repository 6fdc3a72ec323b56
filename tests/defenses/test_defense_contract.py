"""What every registered defense promises, tried on each of them; a new file is found by itself."""

import copy
import dataclasses
import re
from functools import cache

import pytest
import torch

from robust.core.defended import frames_of
from robust.core.defense import PLACES, Frame
from robust.core.errors import RobustError
from robust.core.rng import generator, seeded
from robust.models import around, build, load_model, parse_defense, save_checkpoint
from robust.registry import find, names

FAMILIES = {"adversarial training", "gradient masking", "randomization", "denoising"}
ALL = names("defenses")
AROUND = [name for name in ALL if find("defenses", name).place]
FEWER = {"smoothing": "votes=20"}  # where the defaults would take long
IMAGE, COLOUR, SIGNAL, FEATURES = (1, 8, 8), (3, 9, 10), (2, 40), (20,)
SHAPES = (IMAGE, COLOUR, SIGNAL, FEATURES)
LOW, HIGH = -1.0, 3.0  # no defense may take the range for granted


def parsed(name):
    return parse_defense(f"{name},{FEWER[name]}" if name in FEWER else name)


def arch(shape):
    return "mlp" if shape == FEATURES else "small-cnn"


def made(name, shape):
    """(network, what it is with the defense), both fresh; RobustError where it takes no such
    samples."""
    _, defense = parsed(name)
    frame = Frame(shape, 5, LOW, HIGH)
    behind = frames_of([defense], [name], frame)[-1]
    with seeded(1):
        net = build(arch(shape), behind.shape, 5).eval()
        defended = around(net, [(name, defense)], frame).eval()
    return net, defended


@cache
def refusal(name, shape):
    """What it says of samples that it cannot handle; None where it takes them."""
    try:
        made(name, shape)
    except RobustError as error:
        return str(error)
    return None


@cache
def cases(name):
    """(shape, network, defended) for what the defense takes; tests leave them as they are."""
    return [(shape, *made(name, shape)) for shape in SHAPES if refusal(name, shape) is None]


def samples(shape, n=6, seed=0):
    return LOW + (HIGH - LOW) * torch.rand(n, *shape, generator=generator(seed))


def drawn(model, x, seed=0):
    """The answer at that state of torch's global generator."""
    with seeded(seed):
        return model(x)


@pytest.mark.parametrize("name", ALL)
def test_says_what_it_is(name):
    cls = find("defenses", name)
    assert cls.family in FAMILIES
    assert cls.claims
    assert cls.paper
    assert cls.place in ("", *PLACES)
    text = cls.__doc__
    assert text
    assert not text.startswith(cls.__name__ + "(")  # what dataclass writes by default
    first, _, rest = text.partition("\n")
    assert first.endswith((".", ")")), "the first line is a sentence of its own"
    assert all(
        re.search(rf"\b{field}\b", rest)
        for field in [field.name for field in dataclasses.fields(cls)]
    )


@pytest.mark.parametrize("name", AROUND)
def test_says_what_breaks_it(name):
    assert find("defenses", name).broken_by


@pytest.mark.parametrize("name", AROUND)
def test_what_it_cannot_handle_is_refused_in_one_line(name):
    for shape in SHAPES:
        said = refusal(name, shape)
        assert said is None or (shape != IMAGE and said.startswith(name) and "\n" not in said)


@pytest.mark.parametrize("name", AROUND)
def test_answers_for_every_sample_and_leaves_all_as_it_was(name):
    for shape, net, defended in cases(name):
        x = samples(shape)
        before, weights = x.clone(), copy.deepcopy(defended.state_dict())
        for model in (defended, defended.exposed):
            with torch.no_grad():
                logits = model(x)
            assert logits.shape == (6, 5)
            assert logits.dtype == x.dtype
            assert not logits.isnan().any()
            model(x.clone().requires_grad_())
        assert torch.equal(x, before)
        assert all(torch.equal(weights[k], v) for k, v in defended.state_dict().items())
        assert not any(module.training for module in defended.modules())
        assert not any(module.training for module in net.modules())


@pytest.mark.parametrize("name", AROUND)
def test_shares_the_parameters_of_the_network(name):
    for _, net, defended in cases(name):
        ours = {id(p) for p in net.parameters()}
        own = {id(p) for p in defended.parts.parameters()}
        for model in (defended.model, defended.exposed):
            there = {id(p) for p in model.parameters()}
            assert ours <= there
            assert there - ours <= own


@pytest.mark.parametrize("name", AROUND)
def test_the_attacker_sees_the_predictions_of_the_deployed_model(name):
    for shape, _, defended in cases(name):
        x = samples(shape, 12)
        with torch.no_grad():
            deployed = drawn(defended, x).argmax(1)
            assert torch.equal(drawn(defended.exposed, x).argmax(1), deployed)
        found = drawn(defended.exposed, x.clone().requires_grad_())
        assert torch.equal(found.argmax(1), deployed)


@pytest.mark.parametrize("name", AROUND)
def test_the_attacker_gets_a_gradient(name):
    for shape, _, defended in cases(name):
        x = samples(shape).requires_grad_()
        logits = drawn(defended.exposed, x)
        # Of a loss on logits, for that is what an attacker would choose.
        (gradient,) = torch.autograd.grad((logits[:, 0] - logits[:, 1]).sum(), x)
        assert gradient.isfinite().all()
        assert (gradient.flatten(1) != 0).any(1).all()


@pytest.mark.parametrize("name", AROUND)
def test_what_is_deployed_can_be_differentiated_and_may_give_zeros(name):
    for shape, _, defended in cases(name):
        x = samples(shape).requires_grad_()
        (gradient,) = torch.autograd.grad(drawn(defended, x).sum(), x)
        assert gradient.shape == x.shape


@pytest.mark.parametrize("name", AROUND)
def test_is_random_if_and_only_if_it_declares_draws(name):
    _, defense = parsed(name)
    for shape, _, defended in cases(name):
        x = samples(shape, 12)
        assert defended.draws == defense.draws
        with torch.no_grad():
            answers = [drawn(defended, x, seed) for seed in (0, 0, 1)]
            torch.manual_seed(3)
            twice = [defended(x), defended(x)]
        assert torch.equal(answers[0], answers[1])
        differs = not torch.equal(answers[0], answers[2])
        assert differs == (defense.draws > 1)
        assert torch.equal(*twice) == (defense.draws == 1)


@pytest.mark.parametrize("name", AROUND)
def test_rows_answer_for_themselves(name):
    """A sample's answer depends on no other sample, unless on chance."""
    _, defense = parsed(name)
    if defense.draws > 1:
        return
    for shape, _, defended in cases(name):
        x = samples(shape)
        with torch.no_grad():
            together = defended(x)
            alone = torch.cat([defended(row) for row in x.split(1)])
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", AROUND)
def test_a_checkpoint_keeps_it(name, tmp_path):
    for shape, net, defended in cases(name):
        file = tmp_path / f"{len(shape)}-{shape[0]}.pt"
        save_checkpoint(file, net, arch=arch(shape), shape=shape, num_classes=5, defended=defended)
        loaded = load_model(file)
        assert loaded.info.shape == shape
        assert loaded.info.box == (LOW, HIGH)
        assert loaded.info.defenses == tuple(defended.records)
        assert not any(module.training for module in loaded.module.modules())
        assert not any(p.requires_grad for p in loaded.module.parameters())
        x = samples(shape)
        with torch.no_grad():
            assert torch.equal(drawn(loaded.module, x), drawn(defended, x))
            assert torch.equal(drawn(loaded.module.exposed, x), drawn(defended.exposed, x))


@pytest.mark.parametrize("name", AROUND)
def test_copies_answer_alike(name):
    net, defended = made(name, IMAGE)
    x, other = samples(IMAGE), copy.deepcopy(defended)
    with torch.no_grad():
        expected = drawn(defended, x)
        for parameter in net.parameters():
            parameter.zero_()
        assert torch.equal(drawn(other, x), expected)
