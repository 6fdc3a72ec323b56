"""What the tests of how a service is asked share."""

import torch
from servers import row_hash

from robust.core.errors import RobustError
from robust.oracles import ServiceOptions, open_service


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
