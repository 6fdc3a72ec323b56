"""Peak memory of attacking few and many samples, which must be the same.

    python benchmarks/memory.py [--few 200] [--many 20000]

Writes CIFAR-like data (uint8, 3×32×32) and a small convolutional network, runs `robust attack` on
each in a process of its own, and prints the highest resident memory that the kernel saw (VmHWM of
the process itself, without that of its parent).
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from robust.core.rng import seeded
from robust.models import build, save_checkpoint

RUN = """
import sys
from robust.cli import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    if end.code:
        raise
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""


def peak(folder: Path, n: int) -> float:
    """MiB of one attack run on n samples."""
    rng = np.random.default_rng(0)
    data = folder / f"{n}.npz"
    np.savez(data, x=rng.integers(0, 256, (n, 3, 32, 32), np.uint8), y=np.arange(n) % 10)
    command = ["attack", "--model", "m.pt", "--data", str(data), "--attack", "pgd,steps=3",
               "--batch-size", "100", "--no-curve", "--quiet", "--out", str(n)]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", RUN, *command], cwd=folder, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return int(done.stdout.split()[-1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--few", type=int, default=200)
    parser.add_argument("--many", type=int, default=20_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with seeded(0):
            net = build("small-cnn", (3, 32, 32), 10)
        save_checkpoint(
            folder / "m.pt", net, arch="small-cnn", shape=(3, 32, 32), num_classes=10,
            threat={"norm": "linf", "eps": 8 / 255, "low": 0.0, "high": 1.0},
        )  # fmt: skip
        few, many = peak(folder, options.few), peak(folder, options.many)
    print(f"{options.few} samples: {few:.0f} MiB")
    print(f"{options.many} samples: {many:.0f} MiB, {many / few:.3f} of that")


if __name__ == "__main__":
    main()
