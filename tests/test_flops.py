"""Operations counted against known networks; energy from counters that are made up."""

import json
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import robust
from robust import energy, flops
from robust.models import Called

# One 3 × 3 convolution from 2 to 4 channels on 5 × 5 (padded), and a linear layer to 3 classes.
CONV, LINEAR = 2 * 25 * 4 * 2 * 9, 2 * 100 * 3


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(2, 4, 3, padding=1), nn.Linear(100, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.conv(x).relu().flatten(1))


X = torch.rand(6, 2, 5, 5)


def test_operations_of_a_known_network() -> None:
    net = Net().train()
    state = torch.random.get_rng_state()
    # A gradient with respect to the input alone takes each layer once more.
    assert flops.count(net, X) == {"forward": CONV + LINEAR, "backward": CONV + LINEAR}
    assert flops.count(net, X[:1]) == flops.count(net, X)
    assert net.training
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    assert torch.equal(torch.random.get_rng_state(), state)


def test_functions_and_exported_programs_are_counted_too() -> None:
    net = Net().eval()
    assert flops.count(Called(lambda x: net(x)), X)["forward"] == CONV + LINEAR
    traced = torch.jit.trace(net, X[:2])
    assert flops.count(traced, X) == flops.count(net, X)


def test_operations_are_those_of_torchs_own_counter() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    net = nn.Sequential(nn.Flatten(2), nn.Linear(25, 8), layer, nn.Flatten(), nn.Linear(16, 3))
    net.eval().requires_grad_(False)
    x = X.clone().requires_grad_()
    with FlopCounterMode(display=False) as counter:
        logits = net(x)
    forward = counter.get_total_flops()
    with FlopCounterMode(display=False) as counter:
        torch.autograd.grad(logits.sum(), x)
    found = flops.count(net, X)
    assert (found["forward"], found["backward"]) == (forward // 6, counter.get_total_flops() // 6)


class Failing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("no kernel for this\nand a long story")


class Detached(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.detach())


class Elementwise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :3] * 2


def test_what_cannot_be_counted_says_why() -> None:
    found = flops.count(Failing(), X)["why"]
    assert found == "torch's counter fails on the model (no kernel for this)."
    assert "nothing that torch's counter knows" in flops.count(Elementwise(), X)["why"]
    assert flops.count(Detached(), X) == {"forward": CONV + LINEAR, "backward": None}


def evaluated(model: nn.Module, attacks: str = "pgd,steps=3", **options: Any) -> Any:
    y = model(X).argmax(1)
    return robust.evaluate(
        model,
        X,
        y,
        threat=robust.Linf(0.1),
        attacks=attacks,
        curve=False,
        diagnose="off",
        **options,
    )


def test_a_run_tells_its_operations() -> None:
    torch.manual_seed(0)
    report = evaluated(Net().eval())
    each = CONV + LINEAR
    assert report.run["flops"] == {"model": {"forward": each, "backward": each}}
    (attack,) = report.attacks
    assert attack["flops"] == each * (attack["forwards"] + attack["backwards"]) > 0
    assert report.to_json()["flops"] == attack["flops"]
    assert report.to_json()["flops_each"] == report.run["flops"]


def test_surrogates_count_in_place_of_the_model() -> None:
    torch.manual_seed(0)
    small = nn.Sequential(nn.Flatten(), nn.Linear(50, 3))
    report = evaluated(Net().eval(), surrogates=[Net().eval(), small])
    mean = (CONV + LINEAR + 2 * 50 * 3) / 2  # the ledger counts the passes through both
    (attack,) = report.attacks
    assert attack["flops"] == mean * (attack["forwards"] + attack["backwards"])


def test_an_oracle_is_asked_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*_: Any) -> None:
        raise AssertionError("asked")

    monkeypatch.setattr(flops, "count", asked)
    report = evaluated(Net().eval(), "square,queries=20", access="scores")
    assert report.attacks[0]["flops"] is None
    assert report.to_json()["flops_each"]["model"]["why"] == "The model can only be asked."


def test_a_model_that_fails_counts_none() -> None:
    unknown = evaluated(Elementwise())
    assert unknown.attacks[0]["flops"] is None
    assert unknown.to_json()["flops"] is None
    assert "nothing that torch" in unknown.to_json()["flops_each"]["model"]["why"]


# Energy


@pytest.fixture
def powercap(tmp_path: Path) -> Path:
    for zone in ("intel-rapl:0", "intel-rapl:1", "intel-rapl:0:0"):
        (tmp_path / zone).mkdir()
        (tmp_path / zone / "max_energy_range_uj").write_text("10000000\n")
        (tmp_path / zone / "energy_uj").write_text("9000000\n")
    return tmp_path


def test_energy_of_the_packages_is_added_up(powercap: Path) -> None:
    meter = energy.Meter(torch.device("cpu"), powercap)
    assert meter.sources == ["processor 0 (RAPL)", "processor 1 (RAPL)"]
    (powercap / "intel-rapl:0" / "energy_uj").write_text("9500000\n")
    meter.read()
    assert meter.joules == pytest.approx(0.5)
    (powercap / "intel-rapl:1" / "energy_uj").write_text("250000\n")  # it began anew at 10 J
    (powercap / "intel-rapl:0:0" / "energy_uj").write_text("9900000\n")  # a part of package 0
    meter.read()
    assert meter.joules == pytest.approx(0.5 + 1.25)
    (powercap / "intel-rapl:0" / "energy_uj").unlink()
    meter.read()
    assert meter.joules == pytest.approx(1.75)


def test_energy_of_a_machine_that_tells_nothing(tmp_path: Path) -> None:
    (tmp_path / "intel-rapl:0").mkdir()  # and no counter in it that may be read
    meter = energy.Meter(torch.device("cpu"), tmp_path)
    meter.read()
    assert (meter.sources, meter.joules) == ([], 0)


def test_energy_of_all_sessions_is_in_the_record(
    powercap: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(energy, "POWERCAP", powercap)

    def working() -> Iterator[str]:
        (powercap / "intel-rapl:0" / "energy_uj").write_text("9200000\n")
        yield "first"
        (powercap / "intel-rapl:0" / "energy_uj").write_text("9300000\n")
        yield "second"

    record: dict[str, Any] = {"energy": {"joules": 2.0, "sources": ["processor 0 (RAPL)"]}}
    assert list(energy.metered(working(), record, torch.device("cpu"))) == ["first", "second"]
    assert record["energy"]["joules"] == pytest.approx(2.3)
    json.dumps(record)
    nothing: dict[str, Any] = {}
    monkeypatch.setattr(energy, "POWERCAP", powercap / "nowhere")
    assert list(energy.metered(iter("ab"), nothing, torch.device("cpu"))) == ["a", "b"]
    assert nothing == {}


def test_energy_of_a_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    millijoules = iter([5000, 5000, 7500])
    asked = []

    def handle(uuid: str) -> str:
        asked.append(uuid)
        return "card"

    nvml = types.SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=handle,
        nvmlDeviceGetTotalEnergyConsumption=lambda card: next(millijoules),
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    card = types.SimpleNamespace(uuid="1-2-3")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    meter = energy.Meter(torch.device("cuda", 0), tmp_path)
    assert (meter.sources, asked) == (["GPU (NVML)"], ["GPU-1-2-3"])
    meter.read()
    assert meter.joules == 2.5
