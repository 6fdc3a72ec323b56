"""Training data: which samples, and how they come to the device."""

import dataclasses
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from robust.core.errors import RobustError
from robust.core.rng import generator
from robust.data import DataSpec, Source, batches, open_data

from .spec import TrainSpec

MEMORY = 2**30  # bytes of pixels up to which a data set is held as one tensor


@dataclasses.dataclass(frozen=True)
class Data:
    """What a run trains and validates on, and the DataSpec for attacks to come.

    extra    the second source of what is trained on
    judged   the DataSpec of the validation data
    """

    train: Source
    validation: Source
    attack: DataSpec
    num_classes: int
    extra: Source | None = None
    judged: DataSpec | None = None


def open_all(spec: TrainSpec) -> Data:
    """Open the data of a run. RobustError where they cannot be trained on."""
    given = DataSpec.from_dict(spec.data)
    if given.held:
        raise RobustError("the held-out part is chosen by the run: give the data without a split")
    if given.split is not None:  # as a part of the name it can be divided further
        given = dataclasses.replace(given, source=f"{given.source}:{given.split}", split=None)
    held_out = dataclasses.replace(
        given, split="held-out", fraction=spec.val_fraction, seed=spec.seed
    )
    if spec.validation is None:
        train = open_data(dataclasses.replace(held_out, split="held-in"))
        validation_spec = held_out
    else:
        train = _split(given, "train") or open_data(given)
        validation_spec = DataSpec.from_dict(spec.validation)
    validation = open_data(validation_spec)
    if spec.test is not None:
        attack = DataSpec.from_dict(spec.test)
    else:
        whole = dataclasses.replace(given, source=given.source.removesuffix(":train"))
        has_test = _split(whole, "test") is not None
        attack = dataclasses.replace(whole, split="test") if has_test else validation_spec
    count = _classes(spec, train, validation)
    extra = None
    if spec.extra is not None:
        more = DataSpec.from_dict(spec.extra)
        extra = _split(more, "train") or open_data(more)
        _refuse_misfits("extra", extra, train, count)
    return Data(train, validation, attack, count, extra, validation_spec)


def _split(spec: DataSpec, split: str) -> Source | None:
    try:
        return open_data(dataclasses.replace(spec, split=split))
    except RobustError:
        return None


def _classes(spec: TrainSpec, train: Source, validation: Source) -> int:
    labels = train.labels()
    if spec.multi_label and bool((labels == labels[0]).all()):
        raise RobustError(
            f"all {len(labels)} training samples have the same set of labels: there is nothing to "
            "tell apart"
        )
    if labels.min() < 0:
        raise RobustError(f"labels must be at least 0; the training data have {labels.min()}")
    if not spec.multi_label and labels.min() == labels.max():
        raise RobustError(
            f"all {len(labels)} training samples are of class {labels[0]}: "
            "there is nothing to tell apart"
        )
    if spec.batch_size > len(labels):
        raise RobustError(
            f"--batch-size {spec.batch_size} is more than the {len(labels)} training samples"
        )
    threat = spec.threat
    if (train.low, train.high) != (threat["low"], threat["high"]):
        raise RobustError(
            f"the data lie in [{train.low:g}, {train.high:g}], but the threat's box is "
            f"[{threat['low']:g}, {threat['high']:g}]"
        )
    if spec.multi_label:
        count = int(labels.shape[1])
    else:
        count = max(int(labels.max()) + 1, len(train.classes or ()))
    _refuse_misfits("validation", validation, train, count)
    return count


def _refuse_misfits(name: str, other: Source, train: Source, count: int) -> None:
    if (other.shape, other.low, other.high) != (train.shape, train.low, train.high):
        raise RobustError(
            f"{name} samples of shape {other.shape} in [{other.low:g}, {other.high:g}] do not fit "
            f"training samples of shape {train.shape} in [{train.low:g}, {train.high:g}]"
        )
    labels = other.labels()
    if train.multi_label:
        if labels.shape[1] != count:
            raise RobustError(
                f"{name} samples have {labels.shape[1]} labels, but the training data have {count}"
            )
        return
    if labels.min() < 0 or labels.max() >= count:
        raise RobustError(
            f"{name} labels go from {labels.min()} to {labels.max()}, but the training data have "
            f"{count} classes"
        )


class Samples:
    """Samples of a source on a device, by position (0 … n−1).

    Up to `memory` bytes they are held as one tensor; beyond that each batch is read when it is
    due, one ahead of the batch that is in use.
    """

    def __init__(
        self, source: Source, ids: Tensor, device: torch.device, memory: int = MEMORY
    ) -> None:
        self.source, self.ids, self.device = source, ids, device
        self.held: tuple[Tensor, Tensor] | None = None
        if 4 * len(ids) * int(np.prod(source.shape)) <= memory:
            parts = list(batches(source, 1024, order=ids))
            self.held = (
                torch.cat([part.x for part in parts]).to(device),
                torch.cat([part.y for part in parts]).to(device),
            )

    def __len__(self) -> int:
        return len(self.ids)

    def stream(self, chunks: list[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """(x, y) of each chunk of positions."""
        if self.held is not None:
            x, y = self.held
            for chunk in chunks:
                rows = chunk.to(self.device)
                yield x[rows], y[rows]
            return
        with ThreadPoolExecutor(1) as reader:
            waiting = [reader.submit(self._read, chunk) for chunk in chunks[:1]]
            for number in range(len(chunks)):
                waiting += [reader.submit(self._read, c) for c in chunks[number + 1 : number + 2]]
                yield waiting.pop(0).result()

    def _read(self, chunk: Tensor) -> tuple[Tensor, Tensor]:
        batch = self.source.batch(self.ids[chunk])
        return batch.x.to(self.device), batch.y.to(self.device)


def cut(order: Tensor, size: int) -> list[Tensor]:
    """`order` in ceil(n / size) parts of nearly equal length: no tiny last batch."""
    return list(torch.tensor_split(order, -(-len(order) // size)))


def choose(source: Source, limit: int, seed: int) -> Tensor:
    """The ids of at most `limit` samples, a seeded choice, rising."""
    ids = torch.from_numpy(np.asarray(source.ids, dtype=np.int64))
    if len(ids) <= limit:
        return ids
    return ids[torch.randperm(len(ids), generator=generator(seed, "validation"))[:limit]].sort()[0]


def mean_and_std(samples: Samples) -> tuple[list[float], list[float]]:
    """Per channel (dimension 1), in one pass, in float64; constant channels get a std of 1."""
    total: Tensor | float = 0.0
    squares: Tensor | float = 0.0
    count = 0
    for x, _ in samples.stream(cut(torch.arange(len(samples)), 1024)):
        flat = x.double().transpose(0, 1).flatten(1)
        total, squares = total + flat.sum(1), squares + flat.square().sum(1)
        count += flat.shape[1]
    mean = torch.as_tensor(total) / count
    std = (torch.as_tensor(squares) / count - mean.square()).clamp(min=0).sqrt()
    std = torch.where(std > 1e-6, std, 1.0)
    return mean.tolist(), std.tolist()
