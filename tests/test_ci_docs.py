"""docs/ci.md: its YAML is valid, and every command and option in it exists."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from robust.cli import main

TEXT = (Path(__file__).parents[1] / "docs" / "ci.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```yaml\n(.*?)^```$", TEXT, re.M | re.S)


def workflow():
    return yaml.safe_load(BLOCKS[0])


def scripts():
    """Every line of shell in the examples."""
    for step in workflow()["jobs"]["robustness"]["steps"]:
        yield from step.get("run", "").replace("\\\n", " ").splitlines()
    for line in yaml.safe_load(BLOCKS[1])["robustness"]["script"]:
        yield from line.splitlines()


def commands():
    """The arguments of each `robust …`, in the examples and in the list at the top."""
    env = workflow()["env"]
    shown = re.findall(r"^    (robust .*?)(?:   .*)?$", TEXT, re.M)
    for line in [*shown, *scripts()]:
        if found := re.match(r"\s*(robust .*)", line):
            told = found[1].replace("$ATTACK", env["ATTACK"]).replace("$FLOOR", env["FLOOR"])
            told = told.replace("…", env["ATTACK"]).partition(" > ")[0]
            told = told.replace('"${gate[@]}"', "--fail-if-worse-than runs/base")
            yield shlex.split(told.replace("$gate", "--fail-if-worse-than runs/base"))[1:]


def test_there_is_an_example_for_each_server():
    assert len(BLOCKS) == 2
    assert len(list(commands())) == 9


@pytest.mark.parametrize("args", commands(), ids=" ".join)
def test_commands_are_ones_that_exist(args):
    name, *rest = args
    command = main.commands[name]
    with command.make_context(name, list(rest)) as context:  # refuses what it does not know
        assert not context.args


def test_the_workflow_is_one():
    found = workflow()
    assert set(found[True]) == {"push", "pull_request"}  # YAML 1.1 reads the key `on` so
    assert found["permissions"] == {"contents": "read", "pull-requests": "write"}
    steps = found["jobs"]["robustness"]["steps"]
    assert all(("run" in step) != ("uses" in step) for step in steps)
    assert all(
        re.fullmatch(r"[\w-]+/[\w/-]+@v\d+", step["uses"]) for step in steps if "uses" in step
    )
    restored, saved = (
        next(
            step["with"] for step in steps if str(step.get("uses")).startswith(f"actions/cache/{k}")
        )
        for k in ("restore", "save")
    )
    assert (restored["path"], restored["key"]) == (saved["path"], saved["key"])
    assert restored["key"].startswith(restored["restore-keys"])


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_the_scripts_are_bash():
    for step in workflow()["jobs"]["robustness"]["steps"]:
        script = re.sub(r"\$\{\{.*?\}\}", "1", step.get("run", ""))
        done = subprocess.run(
            ["bash", "-n"], input=script, capture_output=True, text=True, check=False
        )
        assert done.stderr == ""


def test_what_is_uploaded_is_what_is_written():
    steps = workflow()["jobs"]["robustness"]["steps"]
    (kept,) = [s["with"]["path"].split() for s in steps if "upload" in str(s.get("uses"))]
    shell = "\n".join(scripts())
    assert {"robust.xml", "comment.md"} < set(kept)
    assert "--junit robust.xml" in shell
    assert "> comment.md" in shell
    assert {Path(file).name for file in kept if file.startswith("runs/head")} == {
        *("report.html", "report.json"),
    }


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)]+)\)", TEXT):
        assert (Path(__file__).parents[1] / "docs" / target).exists(), target
