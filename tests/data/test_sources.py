"""Streams, parts of sources, digits, and that memory does not grow."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from data_files import encoded, hdf5, parquet

from robust.core.errors import RobustError
from robust.data import DataSpec, Source, batches, from_arrays, open_data

BENCH = Path(__file__).parents[3] / "shared" / "bench" / "data"


def ids_of(source: Source, size: int = 4, **how: object) -> list[list[int]]:
    return [b.ids.tolist() for b in batches(source, size, **how)]  # type: ignore[arg-type]


class Counted(Source):
    """Counts what is read of a source."""

    def __init__(self, base: Source) -> None:
        self.base, self.seen = base, list[int]()

    def __len__(self) -> int:
        return len(self.base)

    def batch(self, ids):  # type: ignore[no-untyped-def]
        self.seen += list(ids)
        return self.base.batch(ids)

    def labels(self):  # type: ignore[no-untyped-def]
        raise NotImplementedError

    fingerprint = labels


def source_of(n: int) -> Source:
    return from_arrays(np.arange(n, dtype=np.uint8)[:, None], np.arange(n))


def test_streams_resume_where_they_stopped() -> None:
    source = Counted(source_of(11))
    order = [5, 3, 9, 0, 1, 10, 2, 4, 8, 6, 7]
    whole = ids_of(source, order=order)
    assert whole == [order[:4], order[4:8], order[8:]]
    source.seen.clear()
    assert ids_of(source, order=order, start=2) == whole[2:]
    assert source.seen == order[8:]
    assert ids_of(source, order=order, limit=6, start=1) == [[1, 10]]
    assert ids_of(source, limit=5) == [[0, 1, 2, 3], [4]]
    assert ids_of(source, start=3) == []


@pytest.mark.parametrize("how", [{"size": 0}, {"limit": 0}, {"start": -1}])
def test_streams_refuse_what_cannot_be(how: dict[str, int]) -> None:
    with pytest.raises(RobustError):
        batches(source_of(3), **{"size": 2, **how})  # type: ignore[arg-type]


def test_digits() -> None:
    test, train = (open_data(DataSpec("digits", split=s)) for s in ("test", "train"))
    assert sorted([*test.ids, *train.ids]) == list(range(1797))
    assert ids_of(open_data(DataSpec("digits"))) == ids_of(test)
    assert ids_of(open_data(DataSpec("digits:train", seed=5))) == ids_of(train)
    from sklearn.datasets import load_digits

    data = load_digits()
    batch = train.batch(train.ids[[30, 2]])
    assert batch.ids.tolist() == train.ids[[30, 2]].tolist()
    assert torch.equal(batch.x[:, 0], torch.from_numpy(data.images[batch.ids] / 16).float())
    assert batch.y.tolist() == data.target[batch.ids].tolist()
    assert (train.shape, train.image, train.classes) == ((1, 8, 8), True, tuple("0123456789"))
    for source, share in ((test, 0.2), (train, 0.8)):
        counts = np.bincount(source.labels())
        assert np.abs(counts - share * np.bincount(data.target)).max() < 1
    assert test.fingerprint() != train.fingerprint()
    # The split is what published figures stand on: it must never move.
    assert test.ids[:8].tolist() == [6, 9, 16, 19, 21, 23, 32, 39]
    with pytest.raises(IndexError, match=str(test.ids[0])):
        train.batch([int(test.ids[0])])


def test_hold_out_is_complementary_and_seeded() -> None:
    def part(split: str, seed: int = 0, fraction: float = 0.1) -> Source:
        return open_data(DataSpec("digits", split=split, seed=seed, fraction=fraction))

    held_in, held_out = part("held-in"), part("held-out")
    train = open_data(DataSpec("digits:train"))
    assert sorted([*held_in.ids, *held_out.ids]) == train.ids.tolist()
    assert len(held_out) == round(0.1 * len(train))
    assert part("held-out").ids.tolist() == held_out.ids.tolist()
    assert part("held-out", seed=1).ids.tolist() != held_out.ids.tolist()
    assert len(part("held-out", fraction=1e-9)) == len(part("held-in", fraction=1 - 1e-9)) == 1
    assert held_in.fingerprint() != held_out.fingerprint()
    i = held_out.ids[3]
    assert torch.equal(held_out.batch([i]).x, train.batch([i]).x)
    by_id = dict(zip(train.ids, train.labels(), strict=True))
    assert held_out.labels().tolist() == [by_id[i] for i in held_out.ids]


def test_hold_out_of_a_hub_data_set_leaves_its_test_split_alone(
    here: Path, images: np.ndarray, labels: np.ndarray
) -> None:
    parquet(here / "d/data/train-00000-of-00001.parquet", images, labels)
    parquet(here / "d/data/test-00000-of-00001.parquet", images[:3], labels[:3])
    parts = [open_data(DataSpec("hf:d", split=s, fraction=0.25)) for s in ("held-in", "held-out")]
    assert [len(p) for p in parts] == [9, 3]


def test_spec_round_trip() -> None:
    spec = DataSpec("hf:a/b:test", "held-out", 0.2, 3, -1, 1)
    assert DataSpec.from_dict(spec.to_dict()) == spec
    with pytest.raises(RobustError, match="colour"):
        DataSpec.from_dict({"source": "digits", "colour": 1})


def test_labels_do_not_decode_pixels(here: Path, labels: np.ndarray) -> None:
    import pyarrow
    from data_files import encoded
    from pyarrow import parquet as writer

    broken = [encoded(np.zeros((3, 2, 2), np.uint8)), *[b"no image"] * 11]
    writer.write_table(pyarrow.table({"image": broken, "label": labels}), here / "d.parquet")
    assert open_data(DataSpec("d.parquet")).labels().tolist() == labels.tolist()


STREAM = """
import sys
import torch
from robust.data import DataSpec, batches, open_data

def peak():
    # Not ru_maxrss, which starts at the peak of the process that started this one.
    status = open("/proc/self/status").read()
    return int(status.split("VmHWM:")[1].split()[0]) // 1024

for name in sys.argv[1:]:
    source = open_data(DataSpec(name))
    n = sum(len(b.y) for b in batches(source, 100))
    print(n, peak())
order = torch.randperm(n)
source = open_data(DataSpec(sys.argv[1]))
print(sum(len(b.y) for b in batches(source, 20, order=order, limit=2000)), peak())
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read in /proc")
def test_memory_does_not_grow(here: Path) -> None:
    """Streams of 20,000 uncompressible images of CIFAR's size, 61 MB, cost what 200 do."""
    import pyarrow
    from pyarrow import parquet as writer

    x = np.random.default_rng(0).integers(0, 256, (200, 3, 32, 32), dtype=np.uint8)
    some = [encoded(i) for i in x]
    peaks = []
    for n in (200, 20_000):
        y, names = np.arange(n) % 3, [f"{n}.{kind}" for kind in ("parquet", "npz", "h5")]
        rows = [some[i % 200] + i.to_bytes(4, "big") for i in range(n)]
        data = pyarrow.table({"image": rows, "label": y})
        writer.write_table(data, names[0], compression="none")  # a single row group
        np.savez(names[1], x=np.tile(x, (n // 200, 1, 1, 1)), y=y)
        hdf5(here / names[2], x=np.tile(x, (n // 200, 1, 1, 1)), y=y)
        root = str(Path(__file__).parents[2])
        done = subprocess.run(
            [sys.executable, "-c", STREAM, *names],
            capture_output=True,
            text=True,
            env={**os.environ, "HF_DATASETS_CACHE": str(here), "PYTHONPATH": root},
        )
        assert not done.stderr
        lines = [list(map(int, line.split())) for line in done.stdout.splitlines()]
        assert [read for read, _ in lines] == [n, n, n, min(n, 2000)]
        peaks.append([megabytes for _, megabytes in lines])
    for few, many in zip(*peaks, strict=True):
        assert many < few + 35


@pytest.mark.skipif(not BENCH.exists(), reason="no shared/bench beside the repository")
def test_bench_data() -> None:
    cifar = open_data(DataSpec(str(BENCH / "cifar10-test.parquet")))
    assert (len(cifar), cifar.shape, cifar.image) == (10_000, (3, 32, 32), True)
    assert cifar.classes is not None
    assert cifar.classes[:2] == ("airplane", "automobile")
    mnist = open_data(DataSpec(str(BENCH / "mnist-test.npz")))
    assert (len(mnist), mnist.shape) == (10_000, (1, 28, 28))
    assert mnist.labels()[:5].tolist() == [7, 2, 1, 0, 4]
    for source, mean in ((cifar, 0.473), (mnist, 0.132)):
        assert np.bincount(source.labels()).size == 10
        batch = source.batch(range(0, 10_000, 20))
        assert batch.x.mean().item() == pytest.approx(mean, abs=0.01)
