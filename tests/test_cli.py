"""The command line as people and scripts use it: help, output, exit codes, bad input."""

import json
import os
import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

from robust.cli import main

COMMANDS = ["train", "attack", "defend", "certify", "tune", "report", "diff", "list"]


def flat(text):
    return " ".join(text.split())


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def invoke(here):
    """Run a command in this process: exit code, stdout, stderr."""

    def run(*args):
        result = CliRunner().invoke(main, [str(a) for a in args])
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


@pytest.mark.parametrize("command", COMMANDS)
def test_help_explains_every_option(command, invoke):
    result = invoke(command, "--help")
    assert result.exit_code == 0
    group = main.commands[command]
    assert flat(group.help.split("\n\n")[0]) in flat(result.output)
    for parameter in group.params:
        for name in parameter.opts:
            if name.startswith("--"):
                assert name in result.output
    assert max(map(len, result.output.splitlines())) <= 80


def test_the_group_names_its_commands(invoke):
    result = invoke("--help")
    assert all(name in result.output for name in COMMANDS)
    assert sorted(main.commands) == sorted(COMMANDS)
    assert invoke("--version").output.startswith("robust")


def test_attack_needs_nothing_but_the_model(invoke, checkpoint, here):
    result = invoke("attack", "--model", checkpoint, "--limit", 40)
    assert result.exit_code == 0
    assert "robust accuracy" in result.stdout
    assert "report: runs/attack-m-1/report.html" in result.stdout
    report = json.loads((here / "runs/attack-m-1/report.json").read_text())
    assert report["n"] == 40
    assert report["threat"] == {"norm": "linf", "eps": 0.1, "low": 0.0, "high": 1.0}
    assert [a["name"] for a in report["attacks"]] == ["auto"]
    assert report["robust_accuracy"] < report["clean_accuracy"]
    assert (here / "runs/attack-m-1/report.html").read_text().lower().startswith("<!doctype html>")


def test_report_json_has_what_scripts_rely_on(invoke, checkpoint):
    result = invoke("attack", "--model", checkpoint, "--limit", 20, "--attack", "pgd,steps=3",
                    "--json", "--quiet", "--out", "a")  # fmt: skip
    assert result.exit_code == 0
    assert result.stderr == ""
    report = json.loads(result.stdout)
    fields = {"schema_version", "model", "data", "n", "threat", "clean_accuracy", "attacks",
              "robust_accuracy", "robust_accuracy_ci", "seconds", "seed", "versions"}  # fmt: skip
    assert fields <= set(report)
    attack = {"name", "params", "access", "robust_accuracy", "success_rate", "forwards",
              "backwards", "queries", "queries_mean", "queries_median", "seconds"}  # fmt: skip
    assert attack <= set(report["attacks"][0])
    assert report["attacks"][0]["params"]["steps"] == 3
    assert report == json.loads(Path("a/report.json").read_text())
    low, high = report["robust_accuracy_ci"]
    assert 0 <= low < report["robust_accuracy"] < high <= 1
    assert report["seconds"] > 0


def test_quiet_says_nothing(invoke, checkpoint):
    result = invoke("attack", "--model", checkpoint, "--limit", 5, "--attack", "fgsm", "--quiet")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")


def test_outside_a_terminal_progress_is_plain_lines(robust_cli, checkpoint, tmp_path):
    done = robust_cli("attack", "--model", checkpoint, "--limit", 20, "--attack", "fgsm",
                      "--batch-size", 10, cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0
    assert "\x1b" not in done.stdout + done.stderr
    assert "20/20 samples" in done.stderr
    assert "20/20" not in done.stdout


@pytest.mark.parametrize(("gate", "code"), [("0", 0), ("0.999", 1)])
def test_the_release_gate(invoke, checkpoint, gate, code):
    result = invoke("attack", "--model", checkpoint, "--limit", 20, "--attack", "fgsm",
                    "--fail-under", gate)  # fmt: skip
    assert result.exit_code == code
    assert ("below --fail-under" in result.stderr) == bool(code)


@pytest.mark.parametrize("rule", ["next", "random", "least-likely", "7"])
def test_targeted(invoke, checkpoint, rule):
    result = invoke("attack", "--model", checkpoint, "--limit", 10, "--targeted", rule,
                    "--attack", "pgd,steps=5", "--json", "--quiet")  # fmt: skip
    assert json.loads(result.stdout)["targeted"] == rule


def test_every_option_can_be_given(invoke, checkpoint, here):
    x = np.random.default_rng(0).integers(0, 256, (30, 8, 8), dtype=np.uint8)
    np.savez("d.npz", x=x, y=np.zeros(30, dtype=np.int64))
    result = invoke(
        "attack", "--model", checkpoint, "--data", "d.npz", "--attack", "pgd,steps=2",
        "--attack", "uniform-noise,samples=2", "--norm", "l2", "--eps", "8/255", "--limit", 12,
        "--batch-size", 5, "--seed", 3, "--device", "cpu", "--out", "x/y", "--every", "--shuffle",
        "--range", "0,1", "--no-curve", "--json", "--quiet",
    )  # fmt: skip
    report = json.loads(result.stdout)
    assert report["threat"]["norm"] == "l2"
    assert report["threat"]["eps"] == 8 / 255
    assert (report["n"], report["seed"], report["every"]) == (12, 3, True)
    assert len(report["curve"]) == 2
    assert sorted(os.listdir("x/y/shards")) == ["00000.h5", "00001.h5", "00002.h5"]


def test_resume_goes_on_and_a_second_start_is_refused(invoke, checkpoint):
    command = ["attack", "--model", checkpoint, "--limit", 20, "--attack", "fgsm", "--batch-size",
               10, "--json", "--quiet", "--out", "a"]  # fmt: skip
    first = json.loads(invoke(*command).stdout)
    assert "holds a run already" in invoke(*command).stderr
    os.remove("a/shards/00001.h5")
    again = json.loads(invoke(*command, "--resume").stdout)
    assert again["robust_accuracy"] == first["robust_accuracy"]
    assert again["confusion"] == first["confusion"]
    other = invoke(*command, "--resume", "--seed", 4)
    assert other.exit_code == 2
    assert "seed differ" in other.stderr


def test_resume_without_a_folder_finds_the_unfinished_run(invoke, checkpoint):
    command = ["attack", "--model", checkpoint, "--limit", 20, "--attack", "fgsm", "--quiet"]
    assert invoke(*command).exit_code == 0
    record = json.loads(Path("runs/attack-m-1/run.json").read_text())
    Path("runs/attack-m-1/run.json").write_text(json.dumps({**record, "status": "running"}))
    assert invoke(*command, "--resume").exit_code == 0
    assert os.listdir("runs") == ["attack-m-1"]
    assert json.loads(Path("runs/attack-m-1/run.json").read_text())["status"] == "done"
    assert invoke(*command, "--resume").exit_code == 0  # nothing unfinished: a new run
    assert sorted(os.listdir("runs")) == ["attack-m-1", "attack-m-2"]


def test_reports_are_rebuilt_from_the_rows(invoke, checkpoint, here):
    assert invoke("attack", "--model", checkpoint, "--limit", 10, "--out", "a").exit_code == 0
    page, record = (here / "a/report.html").read_text(), (here / "a/report.json").read_text()
    os.remove("a/report.html")
    os.remove("a/report.json")
    result = invoke("report", "a")
    assert result.exit_code == 0
    assert "a/report.html" in result.stdout
    assert (here / "a/report.html").read_text() == page
    assert (here / "a/report.json").read_text() == record


def test_lists(invoke):
    attacks = invoke("list", "attacks").output
    assert "\napgd-t\n    gradient, budget, linf l2 l1, 2003.01690\n    Auto-PGD on" in attacks
    assert "\n    steps=100, targets=9, loss=dlr, rho=0.75\n" in attacks
    assert "\nuniform-noise\n    labels, budget, linf l2 l1 l0 patch\n" in attacks
    assert "\nni-fgsm\n    transfer,nesterov=true\n" in attacks
    assert "\nautoattack\n" in attacks
    assert max(map(len, attacks.splitlines())) <= 80
    assert "wide-resnet-28-10" in invoke("list", "architectures").output
    assert "1706.06083" in invoke("list", "defenses").output


# Bad input: exit code 2, one line, no traceback, nothing written.


def state_dict(here):
    torch.save(nn.Linear(64, 10).state_dict(), here / "w.pt")
    return "w.pt"


def arch(here, body="Sequential(nn.Flatten(), nn.Linear(64, 10))"):
    (here / "net.py").write_text(f"from torch import nn\ndef make():\n    return nn.{body}\n")
    return "net.py:make"


def full_state_dict(here):
    torch.save(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).state_dict(), here / "w.pt")
    return ["--model", "w.pt", "--arch", arch(here), "--eps", "0.1"]


def npz(here, x, y, name="d.npz"):
    np.savez(here / name, x=x, y=y)
    return name


def scripted(here, function):
    class Net(nn.Module):
        def forward(self, x):
            return function(x)

    torch.jit.save(torch.jit.trace(Net(), torch.rand(2, 1, 8, 8)), here / "t.ts")
    return ["--model", "t.ts", "--data", "digits", "--eps", "0.1"]


GOOD_X = np.full((4, 1, 8, 8), 0.5, dtype=np.float32)
BAD = {
    "missing file": (lambda h: ["--model", "nope.pt"], "nope.pt"),
    "no model": (lambda h: ["--model", (h / "a.pt").write_text("hi") and "a.pt"], "not a model"),
    "state dict": (lambda h: ["--model", state_dict(h)], "pass --arch"),
    "missing keys": (
        lambda h: ["--model", state_dict(h), "--arch", arch(h), "--eps", "0.1"], "weight",
    ),
    "pickled module": (
        lambda h: ["--model", torch.save(nn.Linear(2, 2), h / "p.pt") or "p.pt"], "--trust-pickle",
    ),
    "unknown arch": (
        lambda h: ["--model", state_dict(h), "--arch", "smal-cnn", "--data", "digits"], "small-cnn",
    ),
    "no eps": (lambda h: full_state_dict(h)[:4], "--eps"),
    "eps of zero divided": (lambda h: [*full_state_dict(h)[:4], "--eps", "1/0"], "1/0"),
    "negative eps": (lambda h: [*full_state_dict(h)[:4], "--eps", "-0.1"], "eps"),
    "unknown attack": (lambda h: [*full_state_dict(h), "--attack", "pdg"], "did you mean 'pgd'"),
    "unknown parameter": (
        lambda h: [*full_state_dict(h), "--attack", "pgd,step=3"], "did you mean 'steps'",
    ),
    "unknown norm": (lambda h: [*full_state_dict(h), "--norm", "l7"], "l7"),
    "unknown target": (lambda h: [*full_state_dict(h), "--targeted", "closest"], "least-likely"),
    "target too high": (lambda h: [*full_state_dict(h), "--targeted", "10"], "10 classes"),
    "no such device": (lambda h: [*full_state_dict(h), "--device", "gpu"], "--device"),
    "bad batch size": (lambda h: [*full_state_dict(h), "--batch-size", "0"], "auto"),
    "missing data": (lambda h: [*full_state_dict(h), "--data", "no.npz"], "no.npz"),
    "an attack that does nothing": (
        lambda h: [*full_state_dict(h), "--attack", "pgd,steps=0"], "steps must be at least 1",
    ),
    "gate out of range": (lambda h: [*full_state_dict(h), "--fail-under", "2"], "--fail-under"),
    "wrong shape": (
        lambda h: [*full_state_dict(h), "--data", npz(h, np.zeros((4, 3, 9, 9)), np.zeros(4, int))],
        "samples of shape (3, 9, 9)",
    ),
    "labels out of range": (
        lambda h: [*full_state_dict(h), "--data", npz(h, GOOD_X, np.array([0, 1, 12, 3]))],
        "sample 2 has the label 12",
    ),
    "pixels outside": (
        lambda h: [*full_state_dict(h), "--data", npz(h, GOOD_X * 300, np.zeros(4, int))],
        "--range",
    ),
    "nan pixels": (
        lambda h: [*full_state_dict(h), "--data", npz(h, GOOD_X * np.nan, np.zeros(4, int))],
        "d.npz",
    ),
    "object array": (
        lambda h: [*full_state_dict(h), "--data",
                   npz(h, np.array([{}, {}], dtype=object), np.zeros(2, int))], "d.npz",
    ),
    "nan logits": (lambda h: scripted(h, lambda x: x.flatten(1)[:, :10] * float("nan")), "NaN"),
    "probabilities": (
        lambda h: scripted(h, lambda x: x.flatten(1)[:, :10].softmax(1)), "--probabilities",
    ),
    "no gradient": (
        lambda h: scripted(h, lambda x: (x.flatten(1)[:, :10] > 0.5).float() * 9), "no gradient",
    ),
    "wrong mean": (
        lambda h: [*full_state_dict(h), "--mean", "0.1,0.2", "--std", "1,1", "--data", "digits"],
        "mean",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(kind, invoke, here):
    make, said = BAD[kind]
    args = make(here)
    result = invoke("attack", *args)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert said in result.stderr
    assert "Traceback" not in result.stderr
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, result.stderr
    assert not (here / "runs").exists()


def test_the_range_is_the_checkpoints(invoke, checkpoint, here):
    result = invoke("attack", "--model", checkpoint, "--range", "0,255")
    assert result.exit_code == 2
    assert "it was trained on [0, 1]" in result.stderr
    assert not (here / "runs").exists()


def test_a_pickle_is_not_run(invoke, here):
    class Evil:
        def __reduce__(self):
            return os.mkdir, ("owned",)

    (here / "evil.pt").write_bytes(pickle.dumps({"weight": Evil()}))
    torch.save({"weight": Evil()}, here / "evil2.pt")
    for name in ("evil.pt", "evil2.pt"):
        result = invoke("attack", "--model", name)
        assert result.exit_code == 2
        assert "--trust-pickle" in result.stderr
        assert not (here / "owned").exists()


def test_a_trusted_pickle_is_loaded(here, robust_cli, checkpoint):
    torch.save(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), here / "p.pt")
    done = robust_cli("attack", "--model", "p.pt", "--trust-pickle", "--data", "digits", "--eps",
                      "0.1", "--limit", 5, "--attack", "fgsm", cwd=here)  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_other_data_formats_reach_the_engine(invoke, here, checkpoint):
    with h5py.File("d.h5", "w") as file:
        file["x"], file["y"] = GOOD_X, np.array([0, 1, 2, 3])
    result = invoke("attack", "--model", checkpoint, "--data", "d.h5", "--attack", "fgsm", "--json",
                    "--quiet")  # fmt: skip
    assert json.loads(result.stdout)["n"] == 4


def test_a_limit_that_misses_classes_is_warned_about(invoke, checkpoint):
    npz_file = "sorted.npz"
    np.savez(npz_file, x=GOOD_X.repeat(20, 0), y=np.arange(80) // 8)
    result = invoke("attack", "--model", checkpoint, "--data", npz_file, "--attack", "fgsm",
                    "--limit", 16)  # fmt: skip
    assert "have 2 of the 10 classes; --shuffle" in flat(result.stderr)
    shuffled = invoke("attack", "--model", checkpoint, "--data", npz_file, "--attack", "fgsm",
                      "--limit", 16, "--shuffle")  # fmt: skip
    assert "--shuffle" not in shuffled.stderr


# Training


def test_train_then_attack_without_a_word_more(invoke, here):
    result = invoke("train", "--adv", "pgd", "--epochs", 3)
    assert result.exit_code == 0
    assert "next: robust attack --model m.pt" in result.stdout
    assert "epoch 3/3" in result.stderr
    run = here / "runs/train-m-1"
    assert {"run.json", "history.jsonl", "model.pt", "best.pt", "architecture.txt", "tensorboard",
            "report.html"} <= set(os.listdir(run))  # fmt: skip
    attack = invoke("attack", "--model", "m.pt", "--limit", 20, "--quiet", "--json")
    assert attack.exit_code == 0
    assert json.loads(attack.stdout)["data"]["source"] == "digits"


def test_training_is_resumed_by_its_options(invoke, here):
    command = ["train", "--epochs", 2, "--adv", "fgsm", "--quiet"]
    assert invoke(*command).exit_code == 0
    record = json.loads((here / "runs/train-m-1/run.json").read_text())
    (here / "runs/train-m-1/run.json").write_text(json.dumps({**record, "status": "interrupted"}))
    assert invoke(*command, "--resume").exit_code == 0
    assert os.listdir("runs") == ["train-m-1"]
    assert invoke("train", "--epochs", 3, "--adv", "fgsm", "--quiet", "--resume").exit_code == 0
    assert sorted(os.listdir("runs")) == ["train-m-1", "train-m-2"]


BAD_TRAINING = {
    "unknown attack": (["--adv", "pdg"], "did you mean 'pgd'"),
    "no eps": (["--data", "x.npz"], "--eps"),
    "missing data": (["--data", "x.npz", "--eps", "0.1"], "x.npz"),
    "unknown arch": (["--arch", "resnet"], "resnet"),
    "freeze without init": (["--freeze", "0.*"], "--freeze"),
    "missing init": (["--init", "x.pt"], "x.pt"),
    "warm-up too long": (["--eps-warmup", "50"], "--eps-warmup"),
    "learning rate": (["--lr", "-1"], "--lr"),
    "bad out": (["--out", "no/such/folder/m.pt"], "no/such/folder"),
    "bad validation attack": (["--val-attack", "pgd,stps=1"], "did you mean 'steps'"),
}


@pytest.mark.parametrize("kind", BAD_TRAINING)
def test_bad_training_input_is_one_line_and_leaves_nothing(kind, invoke, here):
    args, said = BAD_TRAINING[kind]
    result = invoke("train", *args)
    assert result.exit_code == 2, result.output
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert os.listdir(here) == []
