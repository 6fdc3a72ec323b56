"""Several requests at once: connections, and what becomes of the others when one fails."""

import time

import pytest
from manners import handed_over, hashes, opened, right
from servers import row_hash

from robust.core.errors import RobustError


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
