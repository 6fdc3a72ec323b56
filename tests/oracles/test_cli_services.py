"""`robust attack` on services: from the URL to the report, through crashes, without a secret."""

import json
import signal
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pytest
import torch
from servers import Misbehaving, kill, start_process

import robust
from robust.store import RunFolder

OPTIONS = ["--limit", "30", "--batch-size", "10", "--eps", "0.1", "--attack", "square,queries=80",
           "--queries", "100", "--rows-per-request", "3"]  # fmt: skip
PNG = """
[request]
body = { instances = "$batch" }
item = { b64 = "$sample" }
encoding = "png-base64"
[response]
scores = "predictions.*.scores"
"""


def rows_of(folder):
    """All that is stored of a run but wall times, shard by shard."""
    found = {}
    for shard in RunFolder.open(folder).shards():
        for record in (shard, *shard.attacks):
            name = getattr(record, "label", "")
            for field, value in vars(record).items():
                if isinstance(value, np.ndarray):
                    found[shard.index, name, field] = value.tobytes()
    return found


def report_of(folder):
    return json.loads((folder / "report.json").read_text())


def start(url, folder, *more):
    return subprocess.Popen(
        [sys.executable, "-m", "robust", "attack", "--model", url, *OPTIONS, "--out", "run",
         "--resume", "--quiet", *more],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def answered(log):
    return log.read_text().splitlines() if log.exists() else []


def wait_for(log, count, process):
    patience = time.monotonic() + 60
    while len(answered(log)) < count and process.poll() is None and time.monotonic() < patience:
        time.sleep(0.002)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """(folder of the run, what the server answered, its port) of a run that nothing disturbs."""
    folder = tmp_path_factory.mktemp("undisturbed")
    server, port = start_process(log=folder / "log")
    run = start(f"http://127.0.0.1:{port}/v2/models/net", folder)
    _, errors = run.communicate(timeout=120)
    kill(server)
    assert run.returncode == 0, errors
    return folder / "run", answered(folder / "log"), port


def test_the_servers_count_is_the_reports(undisturbed):
    folder, rows, _ = undisturbed
    oracle = report_of(folder)["oracle"]
    assert oracle["asked"] == len(rows) <= 100 * 30
    assert oracle["access"] == "scores"
    assert len(rows) == len(set(rows)) + 6  # three samples three times: is it random?
    assert oracle["searched"] + oracle["own"] == oracle["asked"]


def test_a_server_that_is_killed_and_restarted_repeats_nothing(undisturbed, tmp_path):
    """Each time the run ends with one line, and --resume goes on where it stood."""
    folder, rows, port = undisturbed
    url, log = f"http://127.0.0.1:{port}/v2/models/net", tmp_path / "log"
    stops = 0
    for count in (200, 500, 900):
        server, _ = start_process(port, log)
        run = start(url, tmp_path, "--retries", "0")
        wait_for(log, count, run)
        kill(server)
        _, errors = run.communicate(timeout=60)
        assert run.returncode == 2, errors
        assert "Traceback" not in errors
        assert "what was learned is kept" in errors
        assert len(errors.strip().splitlines()) == 1
        stops += 1
    server, _ = start_process(port, log)
    run = start(url, tmp_path)
    _, errors = run.communicate(timeout=120)
    kill(server)
    assert run.returncode == 0, errors
    assert stops == 3
    assert rows_of(tmp_path / "run") == rows_of(folder)
    again = Counter(answered(log)) - Counter(rows)
    assert not again
    assert report_of(tmp_path / "run")["oracle"]["asked"] == len(rows)


def test_a_restart_within_the_retries_is_not_even_noticed(undisturbed, tmp_path):
    folder, rows, port = undisturbed
    log = tmp_path / "log"
    server, _ = start_process(port, log)
    run = start(f"http://127.0.0.1:{port}/v2/models/net", tmp_path, "--retries", "8")
    wait_for(log, 400, run)
    kill(server)
    server, _ = start_process(port, log)
    _, errors = run.communicate(timeout=120)
    kill(server)
    assert run.returncode == 0, errors
    assert rows_of(tmp_path / "run") == rows_of(folder)
    assert not Counter(answered(log)) - Counter(rows)


def test_concurrency_changes_no_outcome(undisturbed, tmp_path):
    folder, rows, port = undisturbed
    server, _ = start_process(port, tmp_path / "log")
    run = start(f"http://127.0.0.1:{port}/v2/models/net", tmp_path, "--concurrency", "16")
    _, errors = run.communicate(timeout=120)
    kill(server)
    assert run.returncode == 0, errors
    assert rows_of(tmp_path / "run") == rows_of(folder)
    assert sorted(answered(tmp_path / "log")) == sorted(rows)


def test_an_interruption_says_how_to_go_on(undisturbed, tmp_path):
    _, _, port = undisturbed
    log = tmp_path / "log"
    server, _ = start_process(port, log)
    run = start(f"http://127.0.0.1:{port}/v2/models/net", tmp_path)
    wait_for(log, 100, run)
    run.send_signal(signal.SIGINT)
    _, errors = run.communicate(timeout=60)
    kill(server)
    assert run.returncode == 130
    assert "--resume --out run" in errors
    assert "Traceback" not in errors
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "interrupted"


def test_mlserver_end_to_end(mlserver, robust_cli, tmp_path):
    url = mlserver[0] if "/v2/models" in mlserver[0] else mlserver[0] + "/v2/models/net"
    done = robust_cli("attack", "--model", url, *OPTIONS, "--out", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "asked the model" in done.stdout
    page = (tmp_path / "run" / "report.html").read_text()
    assert url in page
    assert (
        report_of(tmp_path / "run")["robust_accuracy"]
        < report_of(tmp_path / "run")["clean_accuracy"]
    )
    table, _, said = done.stdout.partition("clean accuracy ")
    assert max(map(len, table.splitlines())) <= 80
    assert " n = " in said.splitlines()[0]  # a log keeps it on one line


def test_no_secret_in_folder_page_or_output(robust_cli, tmp_path):
    token, key = "tok-4711-secret", "key-0815-secret"
    template = tmp_path / "service.toml"
    template.write_text(
        '[headers]\nX-Api-Key = "$MY_KEY"\n[request]\nbody = { instances = "$batch" }\n'
        '[response]\nscores = "predictions.*.scores"\n'
    )
    with Misbehaving() as server:
        done = robust_cli(
            "attack", "--model", server.url("/predict"), "--template", template, "--eps", "0.1",
            "--limit", "6", "--attack", "square,queries=20", "--out", "run", "--token-env", "TOKEN",
            cwd=tmp_path, TOKEN=token, MY_KEY=key,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        sent = [{k.lower(): v for k, v in headers.items()} for headers in server.headers]
    assert all(headers["authorization"] == f"Bearer {token}" for headers in sent)
    assert all(headers["x-api-key"] == key for headers in sent)
    told = done.stdout + done.stderr
    for path in (tmp_path / "run").rglob("*"):
        if path.is_file():
            told += path.read_bytes().decode("latin-1")
    assert "tok-4711" not in told
    assert "key-0815" not in told


def test_an_image_service_is_attacked_in_8_bits(robust_cli, tmp_path):
    template = tmp_path / "png.toml"
    template.write_text(PNG)
    with Misbehaving() as server:
        done = robust_cli(
            "attack", "--model", server.url("/image"), "--template", template, "--eps", "0.2",
            "--limit", "12", "--attack", "square,queries=80", "--out", "run", cwd=tmp_path,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        rows = Counter(server.answered)
    assert "8-bit images" in " ".join(done.stdout.split())
    assert sum(rows.values()) == len(rows) + 6
    report = report_of(tmp_path / "run")
    assert report["oracle"]["asked"] == sum(rows.values())
    assert report["attacks"][0]["successes"] > 0
    for shard in RunFolder.open(tmp_path / "run").shards():
        for found in shard.attacks:
            x_adv = torch.from_numpy(found.x_adv).double()
            steps = x_adv * 255
            assert ((steps - steps.round()).abs() < 1e-2).all()
            x = torch.from_numpy(shard.x).double()
            assert ((x_adv - x).abs() <= 0.2).all()


def test_from_python_a_service_is_a_model_like_others():
    from robust.data import DataSpec, open_data
    from robust.oracles import open_service

    with Misbehaving() as server:
        module = open_service(server.url(), shape=(1, 8, 8)).module
        source = open_data(DataSpec("digits"))
        batch = source.batch(source.ids[:10])
        report = robust.evaluate(
            module, batch.x, batch.y, threat=robust.Linf(0.1), attacks="square,queries=30",
            access="scores", queries=50,
        )  # fmt: skip
        assert report.oracle["asked"] == len(server.answered) <= 500


def test_a_port_that_nobody_listens_on(robust_cli, tmp_path):
    done = robust_cli(
        "attack", "--model", "http://127.0.0.1:9/v2/models/net", "--eps", "0.1", "--retries", "0",
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())
