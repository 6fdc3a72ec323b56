"""`robust diff` and the gates of `robust attack`, on the command line."""

import json
from xml.etree import ElementTree as ET

import pytest
from click.testing import CliRunner

from robust.cli import main


@pytest.fixture(scope="module")
def runs(checkpoint, tmp_path_factory):
    """Runs of one model: `weak` breaks little, `strong` much, `other` is another question."""
    from robust.cli.attack import attack

    folder = tmp_path_factory.mktemp("gates")
    usual = ["--model", str(checkpoint), "--limit", "60", "--no-curve", "--quiet",
             "--diagnose", "off", "--search", "exact"]  # fmt: skip
    for name, more in {
        "weak": ["--attack", "uniform-noise"],
        "strong": ["--attack", "fgsm"],
        "other": ["--attack", "fgsm", "--eps", "0.05"],
    }.items():
        done = CliRunner().invoke(attack, [*usual, *more, "--out", str(folder / name)])
        assert done.exit_code == 0, done.output
    return folder, usual


def invoke(*args):
    return CliRunner().invoke(main, list(map(str, args)))


def test_diff_prints_a_comment(runs):
    folder, _ = runs
    done = invoke("diff", folder / "weak", folder / "strong")
    assert done.exit_code == 0
    assert done.stdout.startswith("## Robustness: significantly worse (−")
    assert "| robust accuracy |" in done.stdout
    assert "- The runs used other attacks" in done.stdout


def test_diff_fails_only_where_it_is_worse_and_only_if_asked(runs):
    folder, _ = runs
    weak, strong = folder / "weak", folder / "strong"
    assert invoke("diff", weak, strong, "--fail-if-worse").exit_code == 1
    assert invoke("diff", strong, weak, "--fail-if-worse").exit_code == 0
    assert invoke("diff", weak, weak, "--fail-if-worse").exit_code == 0


def test_diff_as_json(runs):
    folder, _ = runs
    found = json.loads(invoke("diff", folder / "weak", folder / "strong", "--json").stdout)
    assert found["worse"] is True
    assert found["n"] == 60
    assert len(found["newly_broken"]) == round(-60 * found["robust"]["difference"])
    assert found["newly_robust"] == []


def test_diff_refuses_what_is_another_question(runs):
    folder, _ = runs
    pair = (folder / "weak", folder / "other")
    done = invoke("diff", *pair)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "The threats differ: L∞ ε = 0.1 and L∞ ε = 0.05. --force" in done.stderr
    forced = invoke("diff", *pair, "--force")
    assert forced.exit_code == 0
    assert "- The threats differ" in forced.stdout


def test_diff_refuses_what_is_no_attack_run(runs, tmp_path):
    folder, _ = runs
    for given, told in (
        (None, "is no run folder"),
        ({"schema_version": 1, "kind": "train", "spec": {}}, "is a run of robust train"),
        ({"schema_version": 1, "kind": "attack", "spec": {}}, "its run.json lacks 'attacks'"),
    ):
        if given:
            (tmp_path / "run.json").write_text(json.dumps(given))
        done = invoke("diff", tmp_path, folder / "weak")
        assert done.exit_code == 2
        assert told in done.stderr
        assert done.stderr.count("\n") == 1


def gate(runs, out, *more):
    _, usual = runs
    return invoke("attack", *usual[:-4], *usual[-4:], "--attack", "fgsm", "--out", out, *more)


def test_a_run_that_is_worse_than_its_base_fails_and_says_so_in_junit(runs, tmp_path):
    folder, _ = runs
    file = tmp_path / "robust.xml"
    done = gate(runs, tmp_path / "run", "--fail-if-worse-than", folder / "weak", "--junit", file,
                "--fail-under", "0.01")  # fmt: skip
    assert done.exit_code == 1
    cases = {case.attrib["name"]: case for case in ET.parse(file).getroot().iter("testcase")}
    (failed,) = [name for name, case in cases.items() if case.find("failure") is not None]
    assert failed == f"--fail-if-worse-than {folder / 'weak'}"
    assert cases["--fail-under 0.01"].find("failure") is None
    caution = cases[f"nothing speaks against what {failed} says"].find("skipped")
    assert "other attacks" in caution.attrib["message"]
    assert (tmp_path / "run" / "report.json").exists()


def test_a_run_as_good_as_its_base_passes(runs, tmp_path):
    folder, _ = runs
    done = gate(runs, tmp_path / "run", "--fail-if-worse-than", folder / "strong")
    assert done.exit_code == 0


@pytest.mark.parametrize(
    ("base", "told"),
    [
        ("other", "cannot be compared. The threats differ: L∞ ε = 0.05 and L∞ ε = 0.1."),
        ("nowhere", "is no run folder"),
    ],
)
def test_a_base_that_does_not_compare_is_refused_before_the_run(runs, tmp_path, base, told):
    folder, _ = runs
    done = gate(runs, tmp_path / "run", "--fail-if-worse-than", folder / base)
    assert done.exit_code == 2
    assert told in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_run_is_not_its_own_base(runs, tmp_path):
    folder, _ = runs
    done = gate(runs, folder / "strong", "--resume", "--fail-if-worse-than", folder / "strong")
    assert done.exit_code == 2
    assert "is the run itself" in done.stderr


def test_a_junit_file_needs_its_folder(runs, tmp_path):
    done = gate(runs, tmp_path / "run", "--junit", tmp_path / "no" / "robust.xml")
    assert done.exit_code == 2
    assert "there is no folder" in done.stderr
    assert not (tmp_path / "run").exists()
