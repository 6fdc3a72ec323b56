"""Names, parameters, suggestions, and attacks of third parties."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from robust.attacks import FMN, PGD, Auto, PatchAttack, Restarts, SigmaZero
from robust.core.errors import RobustError
from robust.registry import (
    AUTO_ASKING,
    black_box,
    label,
    name_of,
    names,
    number,
    parse_attack,
    parse_attacks,
)


def test_names_are_the_files():
    files = {path.stem.replace("_", "-") for path in Path("attacks").glob("[a-z]*.py")}
    assert set(names("attacks")) == files
    assert {"auto", "apgd-t", "momentum-pgd", "uniform-noise"} <= files


def test_parameters_become_fields():
    attack = parse_attack("pgd, steps=7, step-size=2/255, loss=dlr, random_start=no")
    assert attack == PGD(steps=7, step_size=2 / 255, loss="dlr", random_start=False)
    assert parse_attack("pgd,step_size=none") == PGD()


def test_labels_say_what_differs_and_parse_back():
    for text in ("pgd", "pgd,steps=7", "apgd,loss=dlr", "fgsm,random_start=true", "pgd,restarts=3"):
        assert label(parse_attack(text)) == text
    assert label(parse_attack("pgd,steps=40")) == "pgd"


def test_restarts_wrap_any_attack():
    attack = parse_attack("fgsm,random_start=yes,restarts=4")
    assert isinstance(attack, Restarts)
    assert attack.restarts == 4
    assert attack.params["random_start"] is True
    assert name_of(attack) == "fgsm"


def test_a_preset_unfolds_and_nothing_runs_twice():
    rand = ["apgd,eot=20", "apgd,loss=dlr,eot=20"]
    assert [label(a) for a in parse_attacks(["autoattack,version=rand"])] == rand
    texts = [rand[1], "autoattack,version=rand", "pgd"]
    assert [label(a) for a in parse_attacks(texts)] == [rand[1], rand[0], "pgd"]
    assert [label(a) for a in parse_attacks(["auto", "auto"])] == ["auto"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("pgdd", "unknown attack 'pgdd'; did you mean 'pgd'"),
        ("pgd,step=3", "no parameter 'step'; did you mean 'steps'"),
        ("pgd,steps=x", "steps must be a whole number, not 'x'"),
        ("pgd,steps=2.5", "steps must be a whole number"),
        ("pgd,step_size=1/0", "step_size must be a number"),
        ("pgd,random_start=maybe", "random_start must be true or false"),
        ("pgd,loss=mse", "loss must be one of ce, margin, dlr"),
        ("pgd,steps", "write parameters as key=value"),
        ("pgd,restarts=0", "restarts must be at least 1"),
        ("auto,steps=3", "auto has no parameter 'steps'; it has none"),
    ],
)
def test_what_is_wrong_is_said(text, said):
    with pytest.raises(RobustError, match=said):
        parse_attacks([text])


def test_numbers_may_be_fractions():
    assert number("8/255") == 8 / 255
    assert number("0.3") == 0.3
    for bad in ("", "a", "1/0", "1/2/3"):
        with pytest.raises(ValueError):  # noqa: PT011  # float's own messages
            number(bad)


THIRD_PARTY = '''
from dataclasses import dataclass
from robust.core.attack import Attack

@dataclass(frozen=True, kw_only=True)
class Brightest(Attack):
    """Push everything to the upper end of the ball."""
    strength: float = 1.0

    def search(self, victim, x, goal, threat, rng):
        return threat.around(x).project(x + self.strength)
'''


def install(folder, name, target, body=THIRD_PARTY):
    """Lay out a package as pip would, with an entry point."""
    (folder / f"{name}.py").write_text(body)
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[robust.attacks]\n{name} = {name}:{target}\n")


def run(folder, code):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={"PYTHONPATH": str(folder), "PATH": "/usr/bin:/bin", "COLUMNS": "200"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_a_third_party_adds_an_attack_by_entry_point(tmp_path):
    install(tmp_path, "brightest", "Brightest")
    done = run(
        tmp_path,
        """
        import torch, robust
        from robust.registry import label, parse_attack
        attack = parse_attack("brightest,strength=0.05")
        assert label(attack) == "brightest,strength=0.05", label(attack)
        x = torch.full((3, 4), 0.5)
        model = lambda x: torch.stack([0.52 - x.mean(1), x.mean(1) - 0.52], 1)
        report = robust.evaluate(model, x, torch.zeros(3, dtype=torch.int64),
                                 threat=robust.Linf(0.1), attacks=["brightest"], curve=False)
        assert report.robust_accuracy == 0, report
        from click.testing import CliRunner
        from robust.cli import main
        print(CliRunner().invoke(main, ["list", "attacks"]).output)
        """,
    )
    assert done.returncode == 0, done.stderr
    assert "brightest" in done.stdout
    assert "Push everything" in done.stdout


@pytest.mark.parametrize(
    ("target", "said"), [("Missing", "cannot be loaded"), ("dataclass", "is no Attack dataclass")]
)
def test_a_broken_third_party_is_named(tmp_path, target, said):
    install(tmp_path, "brightest", target)
    done = run(
        tmp_path,
        """
        from robust.core.errors import RobustError
        from robust.registry import parse_attack
        parse_attack("pgd")
        try:
            parse_attack("brightest")
        except RobustError as error:
            print(error)
        """,
    )
    assert f"of the package brightest {said}" in done.stdout


def test_auto_stands_for_other_attacks_where_there_is_no_steepest_ascent():
    assert parse_attacks(["auto"], "l0") == [FMN(), SigmaZero()]
    assert parse_attacks(["auto", "fmn"], "patch") == [PatchAttack(), FMN()]
    assert parse_attacks(["auto,restarts=2"], "l0")[0] == Restarts(attack=FMN(), restarts=2)
    assert parse_attacks(["auto"], "l1") == [Auto()]
    with pytest.raises(RobustError, match="auto has no parameter 'steps'; it has none"):
        parse_attacks(["auto,steps=3"], "l0")


def test_two_spellings_of_one_attack_are_one():
    found = parse_attacks(["pgd", "apgd", "pgd,steps=40", "autoattack", "apgd,steps=100"])
    assert len({label(attack) for attack in found}) == len(found) == 5
    assert parse_attacks(["mi-fgsm", "transfer"]) == parse_attacks(["transfer"])
    with pytest.raises(RobustError, match="pgd: steps is given twice"):
        parse_attacks(["pgd,steps=4,steps=5"])


def test_auto_of_what_can_only_be_asked():
    def names_of(*given, **more):
        return [label(attack) for attack in parse_attacks(["auto"], *given, **more)]

    assert names_of("linf", "scores") == ["guided-square"]
    assert names_of("linf", "labels") == ["block-flips"]
    assert names_of("linf", "labels", targeted=True) == ["hop-skip-jump"]
    assert names_of("l2", "labels", targeted=True) == ["cgba"]
    with pytest.raises(RobustError, match="auto has no attack on l0 threats .* uniform-noise"):
        names_of("l0", "scores")
    for access, norms in AUTO_ASKING.items():
        for norm, choices in norms.items():
            assert set(choices) <= set(black_box(norm, access))


def test_who_needs_no_more_than_that_access():
    assert "square" not in black_box("linf", "labels")
    assert {"square", "rays", "hop-skip-jump"} <= set(black_box("linf", "scores"))
    assert "rays" not in black_box("l2", "scores")
    assert "pgd" in black_box("linf", "gradient")
