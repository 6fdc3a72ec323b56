"""How a service is asked: what is sent again and when, how fast, and what becomes of failures."""

import json
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import numpy as np
import pytest
import torch
from servers import row_hash

from robust.core.errors import RobustError
from robust.oracles import ServiceOptions, open_service
from robust.oracles.sending import Limiter


def opened(server, *, quick=True, **options):
    module = open_service(server.url(), ServiceOptions(**options), shape=(1, 8, 8)).module
    module.waits = []
    if quick:  # nothing is waited for, and what would have been is kept
        module.sender.pause = lambda seconds, stop: module.waits.append(seconds)
    return module


def right(server, x, answers):
    return torch.allclose(answers, torch.from_numpy(server.scores(x.numpy())), atol=1e-4)


def hashes(x):
    return [row_hash(row) for row in x.numpy()]


def handed_over(module, x):
    """The rows that were answered, with their answers, and what ended it."""
    seen = {}
    try:
        for rows, answers in module.ask(x):
            seen |= {int(row): answers[[place]] for place, row in enumerate(rows)}
    except (RobustError, KeyboardInterrupt) as failure:
        return seen, failure
    return seen, None


# What may pass


@pytest.mark.parametrize("fault", ["500", "503", "429", "drop", "truncate", "html", "error200"])
def test_what_may_pass_is_sent_again(server, x, fault):
    module = opened(server, rows_per_request=10, concurrency=1)
    server.faults.extend([None, fault, fault])
    assert right(server, x, module(x))
    assert (module.requests, module.resent, module.rows_answered) == (6, 2, 40)
    assert sorted(server.answered) == sorted(hashes(x))
    assert len(module.waits) == 2
    assert 0.25 <= module.waits[0] <= 0.5 <= module.waits[1] <= 1.0


@pytest.mark.parametrize(
    ("fault", "match"),
    [
        ("500", "500 Internal Server Error: failed with 500 (3 tries)"),
        ("429", "429 Too Many Requests: slow down (3 tries)"),
        ("drop", "connection lost (Server disconnected without sending a response.) (3 tries)"),
        ("html", "the answer is no JSON (text/html) (3 tries)"),
        ("error200", "the answer has no 'outputs' in it: out of memory (3 tries)"),
    ],
)
def test_what_does_not_pass_is_said_on_one_line(server, x, fault, match):
    module = opened(server, retries=2)
    server.always = fault
    with pytest.raises(RobustError) as error:
        module(x[:3])
    assert str(error.value) == f"POST {server.url()}/infer: {match}"
    assert (module.requests, module.resent, module.rows_answered) == (3, 2, 0)


def test_no_answer_in_time(server, x):
    module = opened(server, timeout=0.2, retries=1)
    server.faults.append("slow:1")
    assert right(server, x[:3], module(x[:3]))
    assert module.resent == 1
    server.always = "slow:1"
    with pytest.raises(RobustError, match=r"no answer within 0.2 seconds \(2 tries\)"):
        module(x[:3])


def test_an_answer_that_drips_is_not_waited_for(server, x):
    module = opened(server, timeout=0.3, retries=0)
    server.always = "drip"
    with pytest.raises(RobustError, match=r"no answer within 0.3 seconds \(1 try\)"):
        module(x[:3])


def test_a_lost_answer_is_asked_for_again(server, x):
    module = opened(server)
    server.faults.append("lost")
    assert right(server, x[:3], module(x[:3]))
    assert sorted(server.answered) == sorted(2 * hashes(x[:3]))
    assert module.rows_answered == 3


def test_a_number_that_is_not_finite_is_asked_for_once_more_and_then_passed_on(server, x):
    module = opened(server, retries=5, concurrency=1)
    server.faults.append("nan")
    assert right(server, x[:3], module(x[:3]))
    assert module.resent == 1
    server.faults.extend(["nan", "nan"])
    answers = module(x[:3])
    assert answers[0].isnan().all()
    assert right(server, x[1:3], answers[1:])
    assert module.resent == 2
    server.faults.extend(["nan", *["500"] * 5])
    assert module(x[:3])[0].isnan().all()


@pytest.mark.parametrize(
    ("fault", "match"),
    [
        ("404", r"404 Not Found: failed with 404$"),
        ("redirect", r"307 .* to https://elsewhere.example/infer; redirects are not followed"),
        ("rows", r"the output 'scores' has the shape \[2, 10\] for 3 samples"),
        ("giant", r"longer than 64 MiB: .*--rows-per-request"),
    ],
)
def test_what_will_never_do_is_sent_once(server, x, fault, match):
    module = opened(server)
    server.always = fault
    with pytest.raises(RobustError, match=match):
        module(x[:3])
    assert (module.requests, module.waits) == (1, [])


def test_a_shape_that_is_not_that_of_the_numbers_may_pass(server, x):
    module = opened(server, retries=1)
    server.faults.append("count")
    assert right(server, x[:3], module(x[:3]))
    server.always = "count"
    with pytest.raises(RobustError, match=r"29 numbers for the shape \[3, 10\] \(2 tries\)"):
        module(x[:3])


def test_the_number_of_classes_stays(server, x):
    module = opened(server)
    module(x[:3])
    server.always = "width"
    with pytest.raises(RobustError, match="9 scores a sample, and with 10 before"):
        module(x[:3])


def test_no_server_at_all(x):
    with pytest.raises(RobustError, match=r"GET http://127.0.0.1:1/v2/models/net: no connection"):
        open_service("http://127.0.0.1:1/v2/models/net", ServiceOptions(retries=0))


# Waiting


def test_retry_after_is_kept_to_and_bounded(server, x):
    module = opened(server, concurrency=1)
    now = [100.0]
    module.sender.limiter = Limiter(None, clock=lambda: now[0])

    def pause(seconds, stop):
        module.waits.append(seconds)
        now[0] += seconds

    module.sender.pause = pause
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=50), usegmt=True)
    server.faults.extend(["429:7", "429:9999", f"429:{later}"])
    assert right(server, x[:3], module(x[:3]))
    assert module.waits[:2] == [7.0, 120.0]
    assert 40 < module.waits[2] <= 50


@pytest.mark.parametrize("text", ["soon", "nan", "-3", "0"])
def test_a_retry_after_that_says_nothing_is_a_backoff(server, x, text):
    module = opened(server)
    server.faults.append(f"429:{text}")
    assert right(server, x[:3], module(x[:3]))
    assert 0.25 <= module.waits[0] <= 0.5


def test_rows_go_no_faster_than_allowed_from_all_threads():
    now, free = [0.0], threading.Lock()
    limiter = Limiter(10.0, clock=lambda: now[0])
    starts = []

    def work():
        for _ in range(5):
            with free:
                starts.append(now[0] + limiter.reserve(4))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert np.allclose(sorted(starts), np.arange(20) * 0.4)


def test_rows_that_are_sent_again_count_for_the_rate(server, x):
    module = opened(server, rate_limit=5.0, concurrency=1)
    now = [0.0]
    module.sender.limiter = Limiter(5.0, clock=lambda: now[0])
    sent = []

    def pause(seconds, stop):
        now[0] += seconds

    once = module.sender._once
    module.sender.pause = pause
    module.sender._once = lambda *given: (sent.append(now[0]), once(*given))[1]
    server.faults.extend([None, "500"])
    module(x[:20])
    assert module.rows_per_request == 5  # what may go in a second
    assert len(sent) == 5
    assert np.allclose(np.diff(sent), 1.0)


def test_backoff_grows_to_a_bound(server, x):
    module = opened(server, retries=9)
    server.always = "500"
    with pytest.raises(RobustError):
        module(x[:1])
    bounds = [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    assert all(b / 2 <= w <= b for w, b in zip(module.waits, bounds, strict=True))


# Several at once


def test_so_many_at_once_over_connections_that_stay_open(server, x):
    module = opened(server, concurrency=4, rows_per_request=2)
    server.delay = 0.02
    for _ in range(3):
        assert right(server, x, module(x))
    assert server.most_at_once == 4
    assert server.connections <= 4
    assert len(server.bodies) == 60


def test_a_connection_that_was_closed_meanwhile_is_opened_anew(server, x):
    server.idle = 0.1
    module = opened(server)
    for _ in range(3):
        assert right(server, x[:3], module(x[:3]))
        time.sleep(0.3)
    assert (module.requests, module.resent) == (3, 0)
    assert server.connections >= 3


def test_answers_come_as_they_arrive(server, x):
    module = opened(server, concurrency=2, rows_per_request=1)
    server.faults.append("slow:1")
    order = [int(rows) for rows, _ in module.ask(x[:4])]
    assert sorted(order) == [0, 1, 2, 3]
    slow = server.asked.index(server.answered[-1])
    assert order[-1] in (0, 1)
    assert slow in (0, 1)


def test_what_is_on_its_way_is_handed_over_before_a_failure(server, x):
    module = opened(server, concurrency=4, rows_per_request=1)
    server.delay = 0.2
    server.faults.extend([None, "404", None, None])
    seen, failure = handed_over(module, x)
    assert "404" in str(failure)
    assert all(right(server, x[[row]], answer) for row, answer in seen.items())
    answered = set(server.answered)
    assert {row_hash(x[row].numpy()) for row in seen} == answered
    assert len(seen) >= 3
    assert len(server.asked) < 12  # and little was sent after it


def test_what_waits_for_another_try_is_not_sent_after_a_failure(server, x):
    module = opened(server, quick=False, concurrency=2, rows_per_request=1)
    server.faults.extend(["404:0.5", "429:60"])
    seen, failure = handed_over(module, x[:2])
    assert (seen, module.requests) == ({}, 2)
    assert "404" in str(failure)
    module.sender.limiter = Limiter(None)
    server.faults.extend(["404:0.5", "nan"])
    module.sender.pause = lambda seconds, stop: stop.wait(60)
    seen, failure = handed_over(module, x[:2])
    assert module.requests == 4
    (answer,) = seen.values()  # it was paid for
    assert answer.isnan().all()


def test_nothing_more_is_sent_once_nobody_listens(server, x):
    module = opened(server, concurrency=2, rows_per_request=1)
    asking = module.ask(x)
    next(asking)
    asking.close()
    before = len(server.asked)
    assert before <= 5
    module(x[:1])
    assert len(server.asked) <= before + 3


def test_ctrl_c_hands_over_what_is_on_its_way(server, x, monkeypatch):
    from robust.oracles import service

    module = opened(server, concurrency=3, rows_per_request=1)
    server.delay = 0.1

    class Interrupted(service.SimpleQueue):
        calls = 0

        def get(self, timeout=None):
            Interrupted.calls += 1
            if Interrupted.calls == 2:
                raise KeyboardInterrupt
            return super().get(timeout=timeout)

    monkeypatch.setattr(service, "SimpleQueue", Interrupted)
    seen, failure = handed_over(module, x)
    assert isinstance(failure, KeyboardInterrupt)
    assert {row_hash(x[row].numpy()) for row in seen} == set(server.asked)
    assert 3 <= len(seen) <= 5


def test_ctrl_c_sends_nothing_again(server, x, monkeypatch):
    from robust.oracles import service

    module = opened(server, quick=False)
    server.delay = 0.2
    server.faults.append("500")

    class Interrupted(service.SimpleQueue):
        calls = 0

        def get(self, timeout=None):
            Interrupted.calls += 1
            if Interrupted.calls == 1:
                time.sleep(0.1)  # until it is sent
                raise KeyboardInterrupt
            return super().get(timeout=timeout)

    monkeypatch.setattr(service, "SimpleQueue", Interrupted)
    seen, failure = handed_over(module, x[:3])
    assert isinstance(failure, KeyboardInterrupt)
    assert (seen, module.requests) == ({}, 1)


def test_a_second_ctrl_c_ends_at_once(server, x, monkeypatch):
    from robust.oracles import service

    module = opened(server, concurrency=3, rows_per_request=1)

    class Interrupted(service.SimpleQueue):
        def get(self, timeout=None):
            raise KeyboardInterrupt

    monkeypatch.setattr(service, "SimpleQueue", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(module.ask(x))
    assert len(server.asked) <= 3


def test_an_oracle_on_a_service_keeps_what_was_answered_before_a_failure(server, x):
    from robust.core.oracle import Oracle

    module = opened(server, concurrency=1, rows_per_request=8, retries=0)
    oracle = Oracle(module)
    server.faults.extend([None, None, "500"])
    with pytest.raises(RobustError):
        oracle(x)
    assert right(server, x, oracle(x))
    assert sorted(server.answered) == sorted(hashes(x))  # no row was answered twice


def test_nothing_is_asked_by_no_rows(server, x):
    module = opened(server)
    assert list(module.ask(x[:0])) == []
    assert module.requests == 0


# Options


@pytest.mark.parametrize(
    "options",
    [
        {"concurrency": 0},
        {"retries": -1},
        {"rows_per_request": 0},
        {"rows_per_request": 1.5},
        {"timeout": 0.0},
        {"timeout": float("nan")},
        {"timeout": float("inf")},
        {"rate_limit": -1.0},
        {"template": "a.toml", "input_name": "x"},
    ],
)
def test_options_that_make_no_sense(options):
    with pytest.raises(RobustError):
        ServiceOptions(**options)


def test_the_body_is_what_the_protocol_says(server, x):
    opened(server)(x[:1])
    body = json.loads(server.bodies[0])
    assert list(body) == ["inputs", "outputs"]
    assert body["outputs"] == [{"name": "scores"}]
    assert body["inputs"][0]["name"] == "x"
    assert body["inputs"][0]["datatype"] == "FP32"
    assert httpx.Headers(server.headers[0])["content-type"] == "application/json"


def test_a_round_of_questions_is_spread_over_the_connections(server, x):
    def sizes(**options):
        server.bodies.clear()
        open_service(server.url(), ServiceOptions(concurrency=4, **options)).module(x)
        return sorted(json.loads(body)["inputs"][0]["shape"][0] for body in server.bodies)

    assert sizes() == [10, 10, 10, 10]
    assert sizes(rows_per_request=32) == [8, 32]
    x = x[:18]
    assert sizes() == [2, 8, 8]
