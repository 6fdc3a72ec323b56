"""`robust attack` on published checkpoints in three file formats, beside the official figures.

    python benchmarks/formats.py [--bench ../shared/bench]

Each checkpoint of reference.json is attacked as a plain state dict, as a torch.export archive and
as TorchScript (made by its export.py), with pgd and apgd on every sample at the reference's eps.
Robust accuracies of the three must agree, and that of apgd be close to the official apgd-ce stage.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

NAMES = ("cifar_cnn_a_adv", "cifar_cnn_a_mix4", "mnist_cnn_a_adv", "mnist_fgsm")


def attack(model: list[str], spec: dict, bench: Path, folder: Path) -> dict[str, dict]:
    command = [sys.executable, "-m", "robust", "attack", *model, "--data",
               str(bench / "data" / spec["data"]), "--eps", str(spec["eps"]), "--limit",
               str(spec["n"]), "--attack", "pgd", "--attack", "apgd", "--every", "--no-curve",
               "--quiet", "--json"]  # fmt: skip
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    report = json.loads(done.stdout)
    return {"clean": report["clean_accuracy"], **{a["name"]: a for a in report["attacks"]}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = Path(__file__).resolve().parents[2] / "shared" / "bench"
    parser.add_argument("--bench", type=Path, default=default)
    bench: Path = parser.parse_args().bench.resolve()
    if not (bench / "reference.json").exists():
        raise SystemExit(f"skipped: {bench} is not there")
    models = json.loads((bench / "reference.json").read_text())["models"]
    print(f"{'model':18}{'form':12}{'clean':>7}{'pgd':>8}{'apgd':>8}{'apgd-ce, official':>19}"
          f"{'f / b per sample':>18}{'s':>7}")  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run(
            [sys.executable, "export.py", str(folder)], cwd=bench, check=True, capture_output=True
        )
        for key in NAMES:
            spec = models[key]
            numbers = {k: ",".join(map(str, spec[k])) for k in ("mean", "std")}
            forms = {
                "state dict": ["--model", str(bench / "models" / f"{key}.pt"), "--arch",
                               f"{bench / 'archs.py'}:{spec['arch']}", "--mean", numbers["mean"],
                               "--std", numbers["std"]],
                ".pt2": ["--model", f"{key}.pt2"],
                "TorchScript": ["--model", f"{key}.ts"],
            }  # fmt: skip
            official = spec.get("stages", {}).get("apgd-ce", ["–"])[0]
            for form, model in forms.items():
                found = attack(model, spec, bench, folder)
                apgd = found["apgd"]
                spent = f"{apgd['forwards_per_sample']:.1f} / {apgd['backwards_per_sample']:.1f}"
                print(
                    f"{key:18}{form:12}{found['clean']:7.3f}{found['pgd']['robust_accuracy']:8.3f}"
                    f"{apgd['robust_accuracy']:8.3f}{official!s:>19}{spent:>18}"
                    f"{apgd['seconds']:7.1f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
