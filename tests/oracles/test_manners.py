"""How a service is asked: what is sent again, what becomes of failures, and the options."""

import json

import httpx
import pytest
from manners import hashes, opened, right

from robust.core.errors import RobustError
from robust.oracles import ServiceOptions, open_service

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


def test_a_number_that_is_not_finite_is_passed_on(server, x):
    module = opened(server, retries=5, concurrency=1)
    server.faults.append("nan")
    answers = module(x[:3])
    assert answers[0].isnan().all()
    assert right(server, x[1:3], answers[1:])
    assert module.resent == 0
    assert len(server.answered) == 3  # asking again would cost queries that nobody counts


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
