"""The real checkpoints beside the repository: three forms of one model agree."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from model_nets import answers

from robust.models import load_model

BENCH = Path(__file__).resolve().parents[3] / "shared" / "bench"
pytestmark = pytest.mark.skipif(
    not (BENCH / "reference.json").is_file(), reason=f"no models to measure on at {BENCH}"
)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    out = tmp_path_factory.mktemp("exported")
    subprocess.run([sys.executable, BENCH / "export.py", out], check=True, capture_output=True)
    return out


@pytest.mark.parametrize(
    "name",
    ["cifar_cnn_a_adv", "cifar_cnn_a_mix4", "mnist_cnn_a_adv", "mnist_fgsm", "mnist_natural"],
)
def test_three_forms_agree(name, exported):
    spec = json.loads((BENCH / "reference.json").read_text())["models"][name]
    loaded = load_model(
        BENCH / "models" / f"{name}.pt",
        arch=f"{BENCH / 'archs.py'}:{spec['arch']}",
        mean=spec["mean"],
        std=spec["std"],
    )
    x = torch.rand(5, *spec["shape"], generator=torch.Generator().manual_seed(0))
    expected = answers(loaded.module, x)
    for suffix, kind in (("pt2", "torch.export"), ("ts", "torchscript")):
        other = load_model(exported / f"{name}.{suffix}")
        assert other.info.kind == kind
        for a, b in zip(answers(other.module, x), expected, strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
