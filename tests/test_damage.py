"""A run that was damaged and goes on: what is made again is what was there."""

import json

import pytest
from click.testing import CliRunner

from robust.cli import main


@pytest.fixture(scope="module")
def whole(checkpoint, tmp_path_factory):
    """A finished run of three shards, and a way to repeat its command with more options."""
    out = tmp_path_factory.mktemp("damage") / "run"
    usual = ["attack", "--model", str(checkpoint), "--limit", "30", "--batch-size", "10",
             "--attack", "fgsm", "--attack", "pgd,steps=3", "--diagnose", "off", "--quiet",
             "--search", "exact"]  # fmt: skip

    def run(*more):
        return CliRunner().invoke(main, [*usual, *map(str, more)])

    done = run("--out", out)
    assert done.exit_code == 0, done.output
    return out, run


def figures(path):
    """report.json, but for what differs from one session to the next."""
    found = json.loads((path / "report.json").read_text())
    times = ("seconds", "samples_per_second")
    for attack in found["attacks"]:
        attack |= dict.fromkeys(times)
    return {**found, **dict.fromkeys(("seconds", "created", "argv", "energy"))}


def test_damaged_and_missing_shards_are_made_again_bit_for_bit(whole, tmp_path):
    first, run = whole
    out = tmp_path / "run"
    out.mkdir()
    (out / "shards").mkdir()
    for file in (*first.glob("run.json"), *first.glob("shards/*.h5")):
        (out / file.relative_to(first)).write_bytes(file.read_bytes())
    spoilt = out / "shards" / "00001.h5"
    content = bytearray(spoilt.read_bytes())
    content[len(content) // 2] ^= 4
    spoilt.write_bytes(content)
    (out / "shards" / "00002.h5").unlink()

    told = CliRunner().invoke(main, ["report", str(out)])
    assert told.exit_code == 0
    assert "n = 10" in told.stdout
    partial = json.loads((out / "report.json").read_text())
    assert [one["file"] for one in partial["damaged"]] == ["shards/00001.h5", "shards/00002.h5"]

    kept = (out / "shards" / "00000.h5").stat().st_mtime_ns
    assert run("--out", out, "--resume").exit_code == 0
    assert (out / "shards" / "00000.h5").stat().st_mtime_ns == kept
    assert figures(out) == figures(first)
    assert figures(out)["damaged"] == []
