"""The run folder: round trip, refusals, atomic files."""

import dataclasses
import json
import os

import numpy as np
import pytest

from robust.core.errors import RobustError
from robust.core.files import write_whole
from robust.core.outcome import AttackRows, Fit, RunSpec, Shard
from robust.store import RunFolder, choose_folder, find_unfinished

SPEC = RunSpec(
    model={"path": "a/m.pt", "sha256": "1"},
    data={"source": "digits", "fingerprint": "2"},
    threat={"norm": "linf", "eps": 0.1, "low": 0.0, "high": 1.0},
    attacks=[{"name": "pgd", "label": "pgd,steps=3", "params": {"steps": 3}}],
    batch_size=4,
)


def rows(k=2, n_success=1, seed=0):
    rng = np.random.default_rng(seed)
    success = np.arange(k) < n_success
    return AttackRows(
        label="pgd,steps=3",
        rows=np.arange(k),
        success=success,
        prediction=rng.integers(0, 9, k),
        confidence=rng.random(k),
        distance=rng.random(k),
        margin=rng.normal(size=k),
        survives_8bit=rng.integers(-1, 2, k),
        forwards=rng.integers(0, 99, k),
        backwards=rng.integers(0, 99, k),
        queries=rng.integers(0, 99, k),
        refused=np.zeros(k, dtype=np.int64),
        x_adv=rng.random((n_success, 1, 3, 3)).astype(np.float32),
        seconds=1.25,
        stages="first\nsecond",
        entered=rng.random((k, 2)) < 0.5,
        remarks="were left",
        remarked=rng.random((k, 1)) < 0.5,
    )


def shard(index=0, attacks=None):
    rng = np.random.default_rng(index)
    return Shard(
        index=index,
        ids=np.arange(4) + 4 * index,
        labels=rng.integers(0, 9, 4),
        targets=np.full(4, -1),
        prediction=rng.integers(0, 9, 4),
        confidence=rng.random(4),
        margin=rng.normal(size=4),
        attackable=np.array([True, True, False, True]),
        broken_at=np.array([0.1, np.inf, 0, 0.2]),
        kept=np.array([0]),
        x=rng.random((1, 1, 3, 3)).astype(np.float32),
        seconds=2.5,
        attacks=[rows(), rows(0, 0, 1)] if attacks is None else attacks,
    )


def same(a, b):
    for field in dataclasses.fields(a):
        left, right = getattr(a, field.name), getattr(b, field.name)
        if field.name == "attacks":
            assert len(left) == len(right)
            for one, other in zip(left, right, strict=True):
                same(one, other)
        elif isinstance(left, np.ndarray):
            assert left.dtype == right.dtype
            assert left.shape == right.shape
            assert np.array_equal(left, right)
        else:
            assert left == right
            assert type(left) is type(right)


def test_shards_come_back_as_they_were(tmp_path):
    folder = RunFolder.start(tmp_path / "run", SPEC, ["robust", "attack"], resume=False)
    for index, attacks in ((1, None), (0, [])):
        folder.write(shard(index, attacks))
    again = RunFolder.open(tmp_path / "run")
    found = list(again.shards())
    assert [s.index for s in found] == [0, 1]
    same(found[0], shard(0, []))
    same(found[1], shard(1))
    assert again.spec == SPEC
    assert again.spec.hash == SPEC.hash == again.record["spec_hash"]
    assert again.record["argv"] == ["robust", "attack"]
    assert {"robust", "torch", "numpy", "python"} <= set(again.record["versions"])


def test_nothing_is_created_before_the_first_shard(tmp_path):
    folder = RunFolder.start(tmp_path / "runs" / "a", SPEC, [], resume=False)
    assert list(tmp_path.iterdir()) == []
    folder.write(shard())
    assert sorted(p.name for p in (tmp_path / "runs/a").iterdir()) == ["run.json", "shards"]


def test_the_hash_follows_what_decides_and_not_where_files_lie():
    moved = dataclasses.replace(SPEC, model={"path": "b/n.pt", "sha256": "1"},
                                data={"source": "x", "fingerprint": "2"})  # fmt: skip
    assert moved.hash == SPEC.hash
    for change in (
        {"seed": 1},
        {"limit": 3},
        {"batch_size": 5},
        {"model": {"path": "a/m.pt", "sha256": "9"}},
        {"data": {"source": "digits", "fingerprint": "9"}},
        {"attacks": [{"name": "pgd", "label": "pgd", "params": {"steps": 4}}]},
    ):
        assert dataclasses.replace(SPEC, **change).hash != SPEC.hash


def test_a_run_is_not_mixed_with_another(tmp_path):
    path = tmp_path / "run"
    RunFolder.start(path, SPEC, [], resume=False).write(shard())
    with pytest.raises(RobustError, match="holds a run already; add --resume"):
        RunFolder.start(path, SPEC, [], resume=False)
    assert RunFolder.start(path, SPEC, [], resume=True).done() == {0}
    with pytest.raises(RobustError, match="seed differ"):
        RunFolder.start(path, dataclasses.replace(SPEC, seed=1), [], resume=True)


def test_folders_that_are_no_runs_are_left_alone(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(RobustError, match="no run folder"):
        RunFolder.start(tmp_path / "mine", SPEC, [], resume=True)
    with pytest.raises(RobustError, match="no readable run.json"):
        RunFolder.open(tmp_path / "mine")
    (tmp_path / "file").write_text("x")
    with pytest.raises(RobustError, match="no run folder"):
        RunFolder.start(tmp_path / "file", SPEC, [], resume=False)


def test_a_newer_schema_is_refused(tmp_path):
    path = tmp_path / "run"
    RunFolder.start(path, SPEC, [], resume=False).write(shard())
    record = json.loads((path / "run.json").read_text())
    (path / "run.json").write_text(json.dumps({**record, "schema_version": 99}))
    with pytest.raises(RobustError, match="newer version of robust"):
        RunFolder.open(path)


def three(tmp_path):
    """A run of three shards that is done."""
    spec = dataclasses.replace(SPEC, data={**SPEC.data, "n": 12})
    folder = RunFolder.start(tmp_path / "run", spec, [], resume=False)
    for index in range(3):
        folder.write(shard(index))
    folder.save(status="done")
    return folder, folder.path / "shards" / "00001.h5"


def truncate(file):
    file.write_bytes(file.read_bytes()[:-200])


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


DAMAGE = {
    "cut short": (truncate, "cut short or changed"),
    "bit flipped": (flip, "cut short or changed"),
    "head cut": (lambda file: file.write_bytes(file.read_bytes()[:30]), "cut short or changed"),
    "empty": (lambda file: file.write_bytes(b""), "empty"),
    "zeros": (lambda file: file.write_bytes(bytes(4000)), "cannot be read"),
    "missing": (lambda file: file.unlink(), "missing"),
    "another": (lambda file: file.write_bytes(file.with_name("00000.h5").read_bytes()), "not the"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_shard_is_named_and_the_rest_is_read(tmp_path, damage):
    folder, file = three(tmp_path)
    hurt, why = DAMAGE[damage]
    hurt(file)
    folder = RunFolder.open(folder.path)
    assert folder.damage == {}
    assert [s.index for s in folder.shards()] == [0, 2]
    assert list(folder.damage) == ["shards/00001.h5"]
    assert why in folder.damage["shards/00001.h5"]
    with pytest.raises(RobustError, match="00001.h5 is damaged .* --resume"):
        folder.read(1)


def test_shards_are_read_without_pixels(tmp_path):
    folder, file = three(tmp_path)
    found = list(folder.shards(pixels=False))
    assert [s.index for s in found] == [0, 1, 2]
    whole = shard(1)
    empty = np.zeros((1, 0), dtype=np.float32)
    attacks = [dataclasses.replace(a, x_adv=empty[: len(a.x_adv)]) for a in whole.attacks]
    same(found[1], dataclasses.replace(whole, x=empty, attacks=attacks))
    file.unlink()
    assert [s.index for s in folder.shards(pixels=False)] == [0, 2]


def test_a_damaged_shard_is_made_again(tmp_path):
    folder, file = three(tmp_path)
    flip(file)
    again = RunFolder.start(folder.path, folder.spec, [], resume=True)
    assert again.done() == {0, 2}
    assert again.kept() == 3
    assert again.damage
    again.write(shard(1))
    assert again.damage == {}
    same(again.read(1), shard(1))


def test_the_last_shards_of_a_run_that_is_done_are_missed(tmp_path):
    folder, file = three(tmp_path)
    file.with_name("00002.h5").unlink()
    assert len(list(folder.shards())) == 2
    assert list(folder.damage) == ["shards/00002.h5"]
    folder = RunFolder.open(folder.path)
    folder.save(status="interrupted")  # it did not come so far
    assert len(list(folder.shards())) == 2
    assert folder.damage == {}


def test_a_flipped_bit_is_seen_wherever_it_is(tmp_path):
    folder, file = three(tmp_path)
    content, rng = file.read_bytes(), np.random.default_rng(0)
    block = content.index(b"\n") + 1  # behind the checksum comes padding, up to HDF5's own start
    for place in [*rng.integers(block, len(content), 150), *range(block)]:
        changed = bytearray(content)
        changed[place] ^= 1 << rng.integers(8)
        file.write_bytes(changed)
        folder.damage.clear()
        found = {s.index: s for s in folder.shards()}
        if 1 in found:  # in the padding, or in the word that says that there is a checksum
            assert place < 512
            same(found[1], shard(1))


def fit():
    tensor = np.random.default_rng(0).random((1, 3, 3)).astype(np.float32)
    numbers = {"forwards": 5, "backwards": 4, "queries": 0, "seconds": 0.5}
    return Fit(number=0, tensor=tensor, samples=9, held_out=True, **numbers)


@pytest.mark.parametrize("hurt", [truncate, flip, lambda file: file.write_bytes(b"")])
def test_damaged_fits_are_named(tmp_path, hurt):
    folder, _ = three(tmp_path)
    folder.write_fit(fit())
    assert np.array_equal(folder.fits()[0].tensor, fit().tensor)
    file = folder.path / "fitted" / "000.safetensors"
    last = bytearray(file.read_bytes())
    last[-1] ^= 1
    for content in (last, None):
        if content:
            file.write_bytes(content)
        else:
            hurt(file)
        assert folder.fits() == {}
        assert list(folder.damage) == ["fitted/000.safetensors"]
    folder.write_fit(fit())
    assert folder.damage == {}


def test_findings_of_probes_come_back_as_json_gives_them(tmp_path):
    folder, _ = three(tmp_path)
    facts = {"n": 3, "share": 1 / 3, "of": {10: [1, None], 2: "ε"}, "inf": float("inf")}
    folder.write_diagnosis("one", facts)
    assert folder.diagnosis() == {"one": {**facts, "of": {"10": [1, None], "2": "ε"}}}
    assert folder.damage == {}


@pytest.mark.parametrize("content", ["", '{"a": 1', "[1]", "3", '{"n": 3}', "changed"])
def test_damaged_findings_of_probes_are_named(tmp_path, content):
    folder, _ = three(tmp_path)
    folder.write_diagnosis("one", {"n": 3})
    folder.write_diagnosis("two", {"n": 4})
    file = folder.path / "diagnosis" / "one.json"
    file.write_text(file.read_text().replace("3", "4", 1) if content == "changed" else content)
    assert folder.diagnosis() == {"two": {"n": 4}}
    assert list(folder.damage) == ["diagnosis/one.json"]
    folder.write_diagnosis("one", {"n": 5})
    assert folder.damage == {}


def test_a_file_is_whole_or_not_there(tmp_path):
    path = tmp_path / "f.txt"
    path.write_text("old")

    def fail(temporary):
        temporary.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_whole(path, fail)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["f.txt"]


def test_folders_are_numbered_and_unfinished_runs_found(tmp_path):
    first = choose_folder(tmp_path, "attack", "my model")
    assert first.name == "attack-my-model-1"
    run = RunFolder.start(first, SPEC, [], resume=False)
    run.write(shard())
    assert choose_folder(tmp_path, "attack", "my model").name == "attack-my-model-2"
    (tmp_path / "noise").mkdir()
    (tmp_path / "noise" / "run.json").write_text("[1]")
    ours = lambda record: record["spec_hash"] == SPEC.hash  # noqa: E731
    assert find_unfinished(tmp_path, ours) == first
    assert find_unfinished(tmp_path, lambda record: False) is None
    run.save(status="done")
    assert find_unfinished(tmp_path, ours) is None
