"""Parquet files and image folders, read by the `datasets` library, with no network."""

import hashlib
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from robust.core.errors import RobustError

from .arrays import X_NAMES, Y_NAMES, pick
from .base import Source
from .files import hash_files
from .hub import HubSource, quiet

_SPLIT = re.compile(r"(?:^|[-_.])(train|test|validation|valid|val|dev)(?:[-_.]|$)")
_ROWS = 64  # copied at a time
_GROUP = 1 << 20  # bytes of one batch of the copy
_CHUNK = 1 << 16  # bytes read at a time
_CONTENT = 256 << 20  # folders below this size are known by content, larger ones by names and sizes


def open_parquet(
    paths: Sequence[Path], name: str, split: str | None, low: float, high: float
) -> Source:
    """One data set in one or more parquet files, in the order of their names.

    The two columns are copied, a few rows at a time, into an Arrow file in the cache of
    `datasets`, under a name made of the files' content. (`load_dataset` would hold a whole row
    group in memory, which in many files is all there is.)
    """
    paths = _one_split(sorted(paths), name, split)
    digest = hash_files(paths)
    import pyarrow

    with quiet() as datasets:
        try:
            data = datasets.Dataset.from_file(str(_arrow(paths, digest, name)))
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise RobustError(f"{name} is damaged or cut short ({reason})") from error
        return HubSource(data, low, high, name=name, digest=lambda: digest)


def _one_split(paths: list[Path], name: str, split: str | None) -> list[Path]:
    found = {p: m.group(1) for p in paths if (m := _SPLIT.search(p.stem))}
    if split is not None:
        paths = [p for p in paths if found.get(p) == split]
        if not paths:
            raise RobustError(f"{name} has no {split} split: no parquet file is named so")
    elif len(set(found.values())) > 1:
        has = ", ".join(sorted(set(found.values())))
        raise RobustError(f"{name} holds several splits ({has}): choose with :test at the end")
    return paths


def _arrow(paths: list[Path], digest: str, name: str) -> Path:
    """The Arrow copy of the files, made if it is not there yet; whole or not at all."""
    import datasets
    import pyarrow
    from pyarrow import parquet

    schema = parquet.read_schema(paths[0])
    keys = [pick(schema.names, names, None, name) for names in (X_NAMES, Y_NAMES)]
    schema = pyarrow.schema([schema.field(k) for k in keys], metadata=_metadata(schema, keys))
    key = hashlib.sha256(f"1 {digest} {keys}".encode()).hexdigest()
    copy = Path(datasets.config.HF_DATASETS_CACHE) / "robust-parquet" / f"{key}.arrow"
    if copy.exists():
        return copy
    copy.parent.mkdir(parents=True, exist_ok=True)
    pool = pyarrow.default_memory_pool()
    handle, unfinished = tempfile.mkstemp(dir=copy.parent, suffix=".incomplete")
    try:
        with os.fdopen(handle, "wb") as out, pyarrow.ipc.new_stream(out, schema) as writer:
            for path in paths:
                # Threads and read-ahead would each hold on to memory as the file goes by.
                with parquet.ParquetFile(path, pre_buffer=False, buffer_size=_CHUNK) as file:
                    rows = file.iter_batches(batch_size=_ROWS, columns=keys, use_threads=False)
                    for group in _grouped(rows):
                        table = pyarrow.Table.from_batches(group).select(keys).cast(schema)
                        writer.write_table(table.combine_chunks())
                        del group, table
                        pool.release_unused()
        Path(unfinished).replace(copy)
    finally:
        Path(unfinished).unlink(missing_ok=True)
        pool.release_unused()
    return copy


def _grouped(rows: Iterable[Any]) -> Iterator[list[Any]]:
    """Batches of rows, put together to about 1 MB: small ones are slow to open."""
    group: list[Any] = []
    for batch in rows:
        group.append(batch)
        if sum(b.nbytes for b in group) >= _GROUP:
            yield group
            group = []
    if group:
        yield group


def _metadata(schema: Any, keys: list[str]) -> dict[bytes, bytes] | None:
    """What the file says about the two columns, for `datasets` (class names, image columns)."""
    import datasets

    if b"huggingface" not in (schema.metadata or {}):
        return None
    features = datasets.Features.from_arrow_schema(schema)
    kept = datasets.Features({k: features[k] for k in keys})
    metadata: dict[bytes, bytes] = kept.arrow_schema.metadata
    return metadata


def open_folder(folder: Path, name: str, low: float, high: float) -> Source:
    """A folder with one folder of images per class; classes by name, in alphabetical order.

    A class without images keeps its number. Hidden files, and files of other kinds, are passed
    over.
    """
    kinds = _extensions()
    classes = sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name[0] != ".")
    paths: list[str] = []
    labels: list[int] = []
    for k, label in enumerate(classes):
        for entry in sorted(os.scandir(folder / label), key=lambda e: e.name):
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                raise RobustError(
                    f"{name} has folders within folders ({label}/{entry.name}): "
                    f"give the one that holds a folder per class, such as {Path(name) / label}"
                )
            if os.path.splitext(entry.name)[1].lower() in kinds:
                paths.append(f"{label}/{entry.name}")
                labels.append(k)
    if not paths:
        if any(p.suffix.lower() in kinds for p in folder.iterdir()):
            raise RobustError(f"{name} has no classes: put its images in one folder per class")
        raise RobustError(f"{name} is empty: it has no parquet files, and no folders of images")
    with quiet() as datasets:
        features = datasets.Features(
            {"image": datasets.Image(), "label": datasets.ClassLabel(names=classes)}
        )
        column = [{"bytes": None, "path": str(folder / p)} for p in paths]
        data = datasets.Dataset.from_dict({"image": column, "label": labels}, features=features)
        return HubSource(
            data,
            low,
            high,
            name=name,
            digest=cache(lambda: _folder_digest(folder, paths)),
            files=True,
            sample=lambda i: str(Path(name) / paths[i]),
        )


def _extensions() -> frozenset[str]:
    from PIL import Image

    known = Image.registered_extensions()
    return frozenset(e for e, kind in known.items() if kind in Image.OPEN)


def _folder_digest(folder: Path, names: list[str]) -> str:
    """sha256 over names and sizes, and content too if that is not much."""
    ordered = sorted(names)
    sizes = [(folder / n).stat().st_size for n in ordered]
    sha = hashlib.sha256(repr(list(zip(ordered, sizes, strict=True))).encode())
    if sum(sizes) < _CONTENT:
        sha.update(hash_files(folder / n for n in ordered).encode())
    return sha.hexdigest()
