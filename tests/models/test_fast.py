"""The search copy: equal to the model that it stands beside, or not made at all."""

import random

import pytest
import torch
import torch.nn.functional as F
from model_nets import answers
from torch import nn

from robust.models import fast
from robust.models.exported import load_exported
from robust.models.fast import prepare
from robust.models.folding import folded
from robust.models.wrappers import FixedBatch, LogProbabilities, Standardise, TensorOutput

SHAPE = (3, 12, 12)


@pytest.fixture(autouse=True)
def _small_networks_count(monkeypatch):
    """As if every network were large enough; but bf16 only where a test asks for it."""
    monkeypatch.setattr(fast, "COPY_PAYS", 0)
    monkeypatch.setattr(fast, "has_bf16", lambda device: False)


def trained(net):
    """The network in eval mode, with norms that have seen something."""
    rng = torch.Generator().manual_seed(1)
    for part in net.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            if part.track_running_stats:
                part.running_mean.uniform_(-0.5, 0.5, generator=rng)
                part.running_var.uniform_(0.5, 2, generator=rng)
            if part.affine:
                part.weight.data.uniform_(-1.5, 1.5, generator=rng)
                part.bias.data.uniform_(-0.5, 0.5, generator=rng)
    return net.eval()


def head(channels):
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 5)]


class Residual(nn.Module):
    def __init__(self, activate_first):
        super().__init__()
        self.first, self.activate_first = nn.Conv2d(3, 8, 3, padding=1), activate_first
        self.conv, self.norm = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.head = nn.Sequential(*head(8))

    def forward(self, x):
        x = self.first(x)
        if self.activate_first:
            return self.head(x + self.conv(F.relu(self.norm(x))))
        return self.head(F.relu(x + self.norm(self.conv(x))))


class Shared(nn.Module):
    """One convolution and one norm, each used twice and once together."""

    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Sequential(*head(8))
        self.conv, self.norm = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)

    def forward(self, x):
        x = self.norm(self.conv(self.first(x))).relu()
        return self.head(self.norm(self.conv(x) * 0.5))


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 3, 3, 3) / 5)
        self.norm, self.last = nn.BatchNorm2d(8), nn.Linear(8 * 36, 5)

    def forward(self, x):
        x = F.relu(self.norm(F.conv2d(x, self.weight, padding=1)), inplace=True)
        x = F.max_pool2d(x, 2)
        x.mul_(0.5)
        return self.last(x.view(x.size(0), -1))


def sequential(*layers):
    return lambda: nn.Sequential(*(layer() for layer in layers), *head(8))


def conv(channels=8, **options):
    return lambda: nn.Conv2d(channels, 8, 3, padding=1, **options)


def norm(channels=8, **options):
    return lambda: nn.BatchNorm2d(channels, **options)


# What there is, and how many of its norms a graph of it no longer computes.
NETS = {
    "conv-bn": (sequential(conv(3, bias=False), norm(), nn.ReLU), 1),
    "plain norm": (sequential(conv(3, groups=1), norm(affine=False), nn.ReLU), 1),
    "groups": (sequential(conv(3), nn.ReLU, conv(groups=4, bias=False), norm()), 1),
    "bn-conv": (sequential(lambda: nn.BatchNorm2d(3), conv(3), nn.ReLU, norm(), conv()), 2),
    "transposed": (sequential(lambda: nn.ConvTranspose2d(3, 8, 3, stride=2), norm(), nn.ReLU), 1),
    "linear-bn1d": (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(800, 16),
                              nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 5)), 1),
    "residual": (lambda: Residual(activate_first=False), 1),
    "pre-activation": (lambda: Residual(activate_first=True), 1),
    "shared": (Shared, 2),
    "functional": (Functional, 1),
    "batch statistics": (sequential(conv(3), norm(track_running_stats=False), nn.ReLU), 0),
    "in a wrapper": (lambda: LogProbabilities(nn.Sequential(
        Standardise(TensorOutput(sequential(conv(3), norm(), nn.ReLU)()), (0.5, 0.4, 0.3), (0.2,)),
        nn.Softmax(1))), 1),
}  # fmt: skip


def make(name):
    torch.manual_seed(0)
    return trained(NETS[name][0]())


def batch(n=6):
    return torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(2))


def state(net):
    return {name: value.clone() for name, value in net.state_dict().items()}


@pytest.mark.parametrize("name", NETS)
def test_a_copy_computes_the_same(name):
    net, x = make(name), batch()
    before, wanted = state(net), [p.requires_grad for p in net.parameters()]
    found = prepare(net, x)
    assert found.folded == NETS[name][1]
    assert found.channels_last
    assert not found.low_precision
    assert found.band < 1e-3
    norms = [p for p in found.module.modules() if isinstance(p, nn.modules.batchnorm._BatchNorm)]
    assert not any(part.track_running_stats for part in norms)
    assert not any(p.requires_grad for p in found.module.parameters())
    for size in (6, 1, 3):  # of a batch of any size, whatever it was made with
        for a, b in zip(answers(found.module, x[:size]), answers(net, x[:size]), strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    after = net.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert [p.requires_grad for p in net.parameters()] == wanted
    assert not any(part.training for part in net.modules())


@pytest.mark.parametrize("size", [None, 2], ids=["free batch", "fixed batch"])
def test_exported_programs_are_folded(size, tmp_path):
    torch.manual_seed(0)
    net = trained(nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2, groups=2, padding=1), nn.BatchNorm2d(8, affine=False),
        nn.ReLU(), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(200, 5), nn.BatchNorm1d(5),
    ))  # fmt: skip
    shapes = ({0: torch.export.Dim("n")},) if size is None else None
    torch.export.save(
        torch.export.export(net, (batch(size or 3),), dynamic_shapes=shapes), tmp_path / "m.pt2"
    )
    program = load_exported(str(tmp_path / "m.pt2"), "m.pt2")
    module = TensorOutput(program if size is None else FixedBatch(program, size)).eval()
    x = batch(5)
    found = prepare(module, x)
    assert (found.folded, found.channels_last) == (4, True)
    for a, b in zip(answers(found.module, x[:3]), answers(net, x[:3]), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_what_a_graph_does_not_use_is_not_kept():
    module, _ = folded(make("conv-bn").requires_grad_(False), batch())
    assert sum(p.numel() for p in module.parameters()) == 8 * 27 + 8 + 8 * 5 + 5


class Branching(nn.Module):
    """Two networks, and the samples choose; tracing would see one of them."""

    def __init__(self):
        super().__init__()
        self.net, self.other = make("conv-bn"), make("residual")

    def forward(self, x):
        return self.net(x) if float(x.detach().mean()) > 0.2 else self.other(x)


def test_code_that_branches_runs_as_it_is():
    net = Branching().eval()
    with pytest.raises(Exception, match="."):
        folded(net, batch())
    found = prepare(net, batch())
    assert found.folded == 0
    for x in (batch(), batch() * 0.1):
        assert torch.allclose(found.module(x), net(x), atol=1e-5)
    assert not torch.allclose(net.net(batch() * 0.1), net(batch() * 0.1), atol=1e-2)


class Quiet(nn.Module):
    """Passes gradient to half of what it computes, which a graph does not show."""

    def __init__(self):
        super().__init__()
        self.net = make("conv-bn")

    def forward(self, x):
        with torch.no_grad():
            still = self.net(x)
        return self.net(x) + still


def test_a_copy_with_another_gradient_is_not_used():
    net = Quiet().eval()
    graph, _ = folded(Quiet().eval(), batch())
    (_, own), (_, other) = answers(net, batch()), answers(graph, batch())
    assert not torch.allclose(own, other, rtol=0.1)
    assert prepare(net, batch()) is None


class Random(nn.Module):
    """Draws in one of several ways: from a global generator, or one of its own."""

    def __init__(self, how):
        super().__init__()
        self.net, self.how, self.rng = make("conv-bn"), how, torch.Generator().manual_seed(0)

    def forward(self, x):
        scale = {
            "dropout": lambda: F.dropout(torch.ones(3, 1, 1), 0.5, training=True),
            "random": lambda: 1 + 0 * random.random(),
            "own": lambda: 1 + torch.rand((), generator=self.rng),
        }[self.how]()
        return self.net(x * scale)


@pytest.mark.parametrize("how", ["dropout", "random", "own"])
def test_random_networks_are_not_prepared(how):
    assert prepare(Random(how).eval(), batch()) is None


def hooked():
    net = make("conv-bn")
    net[0].register_forward_hook(lambda module, args, out: out * 2)
    return net


def in_training():
    net = make("conv-bn")
    net[1].train()
    return net


NOT_PREPARED = {
    "TorchScript": lambda: torch.jit.freeze(torch.jit.script(make("conv-bn"))),
    "TorchScript inside": lambda: nn.Sequential(torch.jit.script(make("conv-bn"))).eval(),
    "hook": hooked,
    "training mode": in_training,
    "double": lambda: make("conv-bn").double(),
    "no gradient": lambda: nn.Sequential(make("conv-bn"), Sign()).eval(),
    "nothing to gain": lambda: nn.Sequential(nn.Flatten(), nn.Linear(432, 5)).eval(),
    "refuses to be copied": lambda: Uncopied(make("conv-bn")).eval(),
}


class Sign(nn.Module):
    def forward(self, x):
        return (x > 0).float()


class Uncopied(nn.Sequential):
    def __deepcopy__(self, memo):
        raise RuntimeError("one of me is enough")


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize("name", NOT_PREPARED)
def test_what_cannot_be_prepared_is_left_alone(name):
    net = NOT_PREPARED[name]()
    x = batch().double() if name == "double" else batch()
    assert prepare(net, x) is None


def test_small_networks_are_left_alone(monkeypatch):
    net, x = make("conv-bn"), batch()
    work = 144 * 8 * 27 + 40  # multiply-adds of the convolution and the linear layer
    monkeypatch.setattr(fast, "COPY_PAYS", work)
    assert prepare(net, x) is not None
    monkeypatch.setattr(fast, "COPY_PAYS", work + 1)
    assert prepare(net, x) is None


def test_bf16_is_for_what_lies_between_pixels_and_logits():
    torch.manual_seed(0)
    net = trained(nn.Sequential(conv(3)(), norm()(), nn.ReLU(), conv()(), norm()(), nn.ReLU(),
                                conv()(), nn.ReLU(), *head(8)))  # fmt: skip
    x = batch()
    found = prepare(net, x, low_precision=True)
    assert found.low_precision
    layers = [p for p in found.module.modules() if isinstance(p, nn.Conv2d | nn.Linear)]
    kinds = [layer.weight.dtype for layer in layers]
    assert kinds == [torch.float32, torch.bfloat16, torch.bfloat16, torch.float32]
    exact, near = net(x), found.module(x)
    assert near.dtype == torch.float32
    off = (near - exact).detach()
    assert 1e-5 < float((off.amax(1) - off.amin(1)).max()) <= found.band
    (_, own), (_, other) = answers(net, x), answers(found.module, x)
    assert other.dtype == torch.float32
    assert float((own - other).norm() / own.norm()) < 0.1
    again = prepare(net, x, low_precision=True)
    assert torch.equal(again.module(x), near)
    assert again.band == found.band


def test_logits_that_come_out_in_bf16_are_not_used():
    found = prepare(make("functional"), batch(), low_precision=True)
    assert found is not None  # its last layer is a module
    assert found.low_precision

    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.weight = make("shared"), nn.Parameter(torch.randn(5, 5))

        def forward(self, x):
            return F.linear(self.net(x), self.weight)

    found = prepare(Last().eval(), batch(), low_precision=True)
    assert not found.low_precision
    assert found.folded == 2


@pytest.mark.parametrize("allowed", [True, False])
def test_bf16_where_the_hardware_has_it_and_the_network_is_large(allowed, monkeypatch):
    monkeypatch.setattr(fast, "has_bf16", lambda device: allowed)
    assert not prepare(make("shared"), batch()).low_precision
    monkeypatch.setattr(fast, "BF16_PAYS", 1e4)
    assert prepare(make("shared"), batch()).low_precision == allowed


@pytest.mark.parametrize(
    ("flags", "capability", "expected"),
    [
        ("sse avx2 avx512f avx512_bf16", "AVX512", True),
        ("avx512f amx_bf16 amx_tile", "AVX512", True),
        ("avx512f", "AVX512", False),
        ("avx512f avx512_bf16", "AVX2", False),  # torch was told not to use it
        (None, "AVX512", False),
    ],
)
def test_bf16_hardware_is_told_by_its_flags(flags, capability, expected, monkeypatch):
    monkeypatch.undo()  # the real has_bf16

    def read(path, **options):
        if flags is None:
            raise OSError("no such file")
        return f"processor : 0\nflags\t\t: {flags}\n"

    monkeypatch.setattr(fast.Path, "read_text", read)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert fast.has_bf16(torch.device("cpu")) is expected
    assert not fast.has_bf16(torch.device("meta"))
