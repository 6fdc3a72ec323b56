"""The servers that other tests start: killed and started again, they keep their port and log."""

import time

import torch
from servers import kill, row_hash, start_process

from robust.oracles import ServiceOptions, open_service


def test_a_server_that_is_killed_and_started_again(tmp_path):
    x = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    log = tmp_path / "log"
    process, port = start_process(0, log)
    try:
        url = f"http://127.0.0.1:{port}/v2/models/net"
        module = open_service(url, ServiceOptions(rows_per_request=2), shape=(1, 8, 8)).module
        first = module(x[:3])
        kill(process)
        process, again = start_process(port, log)
        assert again == port
        assert torch.equal(module(x[:3]), first)
        assert module(x[3:]).shape == (3, 10)
        for _ in range(100):  # an answer is sent before it is logged
            if len(log.read_text().split()) == 9:
                break
            time.sleep(0.05)
    finally:
        kill(process)
    wanted = [row_hash(row) for row in x.numpy()]
    assert sorted(log.read_text().split()) == sorted(wanted[:3] + wanted)
