"""Everything that is checked and decided before the first noisy copy."""

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import nn

from robust.core.defended import Defended
from robust.core.errors import RobustError
from robust.core.oracle import Remote
from robust.core.rng import seeded
from robust.data import Source
from robust.models import Loaded
from robust.preflight import auto_batch_size, forward, frozen, refuse_bad_answers, refuse_labels

_REMOTE_BATCH = 256


@dataclass(frozen=True)
class CertifySpec:
    """Everything that decides what a certification comes to; two runs with equal specs agree.

    model       facts about the file, as `ModelInfo` has them
    data        source, split, fingerprint, number of samples, shape, range
    sigma       standard deviation of the noise, in the units of the data
    n0, n       noisy copies that select the class, and that its probability is estimated from
    alpha       probability at most that a certificate is wrong, for each sample
    limit, shuffle   which samples, as in an attack run
    batch_size  noisy copies at once; decides nothing, but for the draws of a model that is itself
                random
    """

    model: dict[str, Any]
    data: dict[str, Any]
    sigma: float
    n0: int
    n: int
    alpha: float
    batch_size: int
    limit: int | None = None
    shuffle: bool = False
    seed: int = 0
    device: str = "cpu"

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Self:
        return cls(**record)

    @property
    def hash(self) -> str:
        """Hex digest that a resumed run must share; paths may change, the bytes there may not."""
        record = self.to_dict()
        del record["batch_size"]
        for part, path in (("model", "path"), ("data", "source")):
            record[part] = {k: v for k, v in record[part].items() if k != path}
        text = json.dumps(record, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def behind_smoothing(module: nn.Module) -> tuple[nn.Module, float | None]:
    """The classifier f that noise is to be put in front of, and the deviation that the model's own
    `smoothing` has, in the units of the data; without that defense the model itself, and None.

    Raises RobustError where other defenses come before it: a sample is not what it smooths.
    """
    names = [one["name"] for one in module.records] if isinstance(module, Defended) else []
    if "smoothing" not in names:
        return module, None
    if names[0] != "smoothing" or names.count("smoothing") > 1:
        raise RobustError(
            f"the model is behind {' → '.join(names)}: a certificate is for smoothing that comes "
            "first, and once"
        )
    assert isinstance(module, Defended)
    voting: Any = module.model
    return voting.model, float(voting.deviation)


def plan(
    loaded: Loaded,
    source: Source,
    data: dict[str, Any],
    *,
    sigma: float,
    n0: int,
    n: int,
    alpha: float,
    device: torch.device,
    limit: int | None = None,
    shuffle: bool = False,
    batch_size: int | None = None,
    seed: int = 0,
) -> CertifySpec:
    """The spec of a certification of the classifier in `loaded`, on its device.

    Raises RobustError for numbers that make no sense, and where model and data do not fit.
    """
    if not (math.isfinite(sigma) and sigma > 0):
        raise RobustError(f"--sigma is a finite number above 0, not {sigma:g}")
    for name, count in (("--n0", n0), ("--n", n), ("--limit", limit), ("--batch-size", batch_size)):
        if count is not None and count < 1:
            raise RobustError(f"{name} must be at least 1, not {count}")
    if not 0 < alpha < 1:
        raise RobustError(f"--alpha is a probability above 0 and below 1, not {alpha:g}")
    if alpha ** (1 / n) <= 0.5:
        raise RobustError(
            f"--n {n} with --alpha {alpha:g} can certify nothing, even if all copies agree: take "
            f"at least --n {math.floor(math.log(alpha) / math.log(0.5)) + 1}"
        )
    classes = _examine(loaded.module, source, device, seed)
    if batch_size is None:
        remote = isinstance(loaded.module, Remote)
        batch_size = _REMOTE_BATCH if remote else _auto(loaded.module, source, device)
    return CertifySpec(
        model={**loaded.info.to_dict(), "num_classes": classes},
        data={
            **data,
            "fingerprint": source.fingerprint(),
            "n": len(source),
            "shape": list(source.shape),
            "image": source.image,
            "low": source.low,
            "high": source.high,
            "classes": None if source.classes is None else list(source.classes),
        },
        sigma=float(sigma),
        n0=n0,
        n=n,
        alpha=float(alpha),
        batch_size=batch_size,
        limit=limit,
        shuffle=shuffle,
        seed=seed,
        device=str(device),
    )


def _auto(model: nn.Module, source: Source, device: torch.device) -> int:
    """As many as an attack would take: what fits with a backward fits without."""
    with torch.random.fork_rng():
        return auto_batch_size(model, source, device)


def _examine(model: nn.Module, source: Source, device: torch.device, seed: int) -> int:
    """Ask about a few samples and give the number of classes; see `preflight.examine`, which wants
    logits where here classes will do.
    """
    batch = source.batch(source.ids[:8])
    with frozen(model), seeded(seed, "preflight"):
        logits = forward(model, batch.x.to(device))
    refuse_bad_answers(logits, batch.ids)
    classes = int(logits.shape[1])
    refuse_labels(source, classes)
    return classes
