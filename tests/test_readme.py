"""Every command and snippet of the README runs, in order, in one empty folder."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def blocks():
    text = (ROOT / "README.md").read_text()
    return re.findall(r"^```(\w+)\n(.*?)^```$", text, re.M | re.S)


def commands(block):
    return [line for line in block.replace("\\\n", " ").splitlines() if line.strip()]


def test_every_block_is_of_a_kind_that_is_run():
    kinds = [kind for kind, _ in blocks()]
    assert set(kinds) == {"sh", "python"}
    assert len(kinds) >= 8


def test_the_readme_runs(tmp_path):
    scripts = tmp_path / "bin"
    scripts.mkdir()
    (scripts / "robust").write_text(
        f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m robust "$@"\n'
    )
    (scripts / "robust").chmod(0o755)
    folder = tmp_path / "work"
    folder.mkdir()
    env = {**os.environ, "PATH": f"{scripts}:{os.environ['PATH']}", "COLUMNS": "80"}
    ran = 0
    for kind, block in blocks():
        lines = [[sys.executable, "-c", block]] if kind == "python" else commands(block)
        for line in lines:
            if kind == "sh" and line.startswith("make "):  # this test runs inside one of them
                line = f"make -n -C {shlex.quote(str(ROOT))} {line.removeprefix('make ')}"
            done = subprocess.run(
                line, shell=kind == "sh", cwd=folder, env=env, capture_output=True, text=True,
                check=False, timeout=300,
            )  # fmt: skip
            assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
            ran += 1
    assert ran >= 20
    assert (folder / "runs/gate/report.html").exists()
    assert (folder / "gate.json").stat().st_size > 1000
