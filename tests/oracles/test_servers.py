"""The servers that other tests start: killed and started again, they keep their port and log."""

import time

import torch
from servers import kill, row_hash, start_process

from robust.oracles import ServiceOptions, open_service


def lines(log, count):
    """The lines of a log that is to have so many soon: an answer is sent before it is logged."""
    for _ in range(100):
        found = log.read_text().split() if log.exists() else []
        if len(found) == count:
            break
        time.sleep(0.05)
    return sorted(found)


def test_a_server_that_is_killed_and_started_again(tmp_path):
    x = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    wanted, log = [row_hash(row) for row in x.numpy()], tmp_path / "log"
    process, port = start_process(0, log)
    try:
        url = f"http://127.0.0.1:{port}/v2/models/net"
        module = open_service(url, ServiceOptions(rows_per_request=2), shape=(1, 8, 8)).module
        first = module(x[:3])
        assert lines(log, 3) == sorted(wanted[:3])
        kill(process)
        process, again = start_process(port, log)
        assert again == port
        assert torch.equal(module(x[:3]), first)
        assert module(x[3:]).shape == (3, 10)
        assert lines(log, 9) == sorted(wanted[:3] + wanted)
    finally:
        kill(process)
