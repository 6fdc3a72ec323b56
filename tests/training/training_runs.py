"""What the tests of training share: toy data, runs to their end, and what runs leave."""

import json

import numpy as np
import torch

import robust.training.engine as engine
from robust.training import measure as measuring
from robust.training import train

LINF = {"norm": "linf", "eps": 0.1, "low": 0.0, "high": 1.0}
NOISY = """
from torch import nn
def net(shape, num_classes):
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3),
                         nn.Linear(16, num_classes))
def one_logit():
    return nn.Linear(6, 1)
"""


def blobs(path, n=90, classes=3, seed=0, skew=False):
    """Feature vectors (6,) in [0, 1] around a corner of each class's own."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    if skew:
        y = np.where(np.arange(n) % 5 == 0, y, 0)
    centres = np.random.default_rng(7).uniform(0.2, 0.8, (classes, 6))
    x = np.clip(centres[y] + rng.normal(0, 0.12, (n, 6)), 0, 1).astype(np.float32)
    np.savez(path, x=x, y=y)
    return str(path)


def finish(spec, folder, **options):
    return list(train(spec, folder=folder, **options))


def rows_of(folder, timed=False):
    rows = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    for row in rows:
        if not timed:
            del row["seconds"]
    return rows


def weights(path):
    return torch.load(path, weights_only=True)["state_dict"]


def same(a, b):
    one, other = weights(a), weights(b)
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def record(folder):
    return json.loads((folder / "run.json").read_text())


def scalars(folder):
    """Tag → [(step, value)] over all event files, whatever a reader would hide."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    found = {}
    for file in sorted((folder / "tensorboard").iterdir()):
        for event in EventFileLoader(str(file)).Load():
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value.tensor.float_val[0]))
    return found


def scripted(monkeypatch, robust, loss=None, clean=None, fgsm=None):
    """Let the validation figures be these, epoch after epoch."""
    plain, calls = measuring.measure, []

    def measure(*args, **kwargs):
        row, i = plain(*args, **kwargs), len(calls)
        calls.append(i)
        row["val_robust_accuracy"] = robust[i]
        row["val_fgsm_accuracy"] = fgsm[i] if fgsm else robust[i]
        row["val_robust_loss"] = loss[i] if loss else 1.0
        row["val_accuracy"] = clean[i] if clean else 0.9
        return row

    monkeypatch.setattr(engine, "measure", measure)


def stop_after(run, epochs):
    """Close the iterator after so many epochs, as Ctrl-C would."""
    for event in run:
        if isinstance(event, engine.EpochDone) and event.row["epoch"] == epochs:
            run.close()
            return
