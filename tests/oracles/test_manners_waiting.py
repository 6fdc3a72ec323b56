"""How fast a service is asked: Retry-After, rate limits, and the waits before another try."""

import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import numpy as np
import pytest
from manners import opened, right

from robust.core.errors import RobustError
from robust.oracles.sending import Limiter


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


def test_turns_that_were_taken_wait_for_a_retry_after_too():
    now = [0.0]
    limiter = Limiter(10.0, clock=lambda: now[0])
    assert list(limiter.waits(10)) == []
    turns = [limiter.waits(10) for _ in range(3)]
    assert [next(turn) for turn in turns] == [1.0, 2.0, 3.0]
    now[0] = 0.5
    limiter.hold(2.0)  # the turns at 1 and 2 are lost, the one at 3 is not
    now[0] = 1.0
    assert next(turns[0]) == 3.0  # behind all turns: the rate holds
    now[0] = 2.0
    limiter.hold(3.5)  # and longer
    assert next(turns[1]) == 3.5
    now[0] = 3.0
    assert next(turns[2]) == 3.5
    now[0] = 4.0
    assert next(turns[0]) == 3.5
    sent = []
    for turn, at in zip([turns[1], turns[2], turns[0]], [5.5, 6.5, 7.5], strict=True):
        now[0] = at
        assert list(turn) == []
        sent.append(at)
    assert sent == [5.5, 6.5, 7.5]


def test_nothing_is_sent_while_a_service_asks_to_wait(server, x):
    module = opened(server, quick=False, concurrency=2, rows_per_request=1)
    now, second, lock = [0.0], threading.Event(), threading.Lock()
    module.sender.limiter = Limiter(1.0, clock=lambda: now[0])
    sent, waits, once = [], [], module.sender._once

    def send(*given):
        sent.append(now[0])
        if len(sent) == 1:
            assert second.wait(10)  # until the other request waits for its turn at 1
        return once(*given)

    def pause(seconds, stop):
        until = now[0] + seconds
        waits.append(seconds)
        if len(waits) == 1:
            second.set()
            while module.sender.limiter._held_until < 0:
                time.sleep(0.01)
        elif len(waits) == 2:  # the request that was told to wait goes last
            while len(sent) == 1 and len(waits) == 2:
                time.sleep(0.01)
        with lock:
            now[0] = max(now[0], until)

    module.sender._once, module.sender.pause = send, pause
    server.faults.append("429:50")
    assert right(server, x[:2], module(x[:2]))
    assert sent[0] == 0
    assert min(sent[1:]) >= 50


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
                starts.append(now[0] + sum(limiter.waits(4)))

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
