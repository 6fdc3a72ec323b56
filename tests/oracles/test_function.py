"""Functions of the user's as models: what they get, what they may return, how they fail."""

import hashlib
import sys

import numpy as np
import pytest
import torch
from torch import Tensor

from robust.core.errors import RobustError
from robust.core.oracle import Oracle, Remote
from robust.oracles import open_function

SHAPE, CLASSES = (2, 3), 4
PREDICT = """
import numpy as np
import torch
import helper
SEEN = []

def scores(x):
    assert isinstance(x, np.ndarray) and x.dtype == np.float32 and x.flags.c_contiguous
    SEEN.append(x.shape)
    z = x.reshape(len(x), -1) @ helper.WEIGHT
    x[:] = 7  # its own
    return z

def labels(x):
    return scores(x).argmax(1)

def declared(x):
    return labels(x)
declared.access = "labels"

def nonsense(x):
    return labels(x)
nonsense.access = "gradient"

def a_list(x):
    return scores(x).tolist()

def rows(x):
    return [torch.from_numpy(row) for row in scores(x)]

def tensor(x):
    return torch.from_numpy(scores(x)).bfloat16().requires_grad_()

def column(x):
    return scores(x)[:, :1]

def binary(x):
    return scores(x)[:, 0]

def float_labels(x):
    return labels(x).astype(np.float64)

def probabilities(x):
    z = scores(x).astype(np.float64) * 20
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)

def with_nan(x):
    z = scores(x)
    z[1, 0] = np.nan
    return z

def lazy(x):
    import state
    state.CALLS.append(len(x))
    return np.full((len(x), 4), float(len(state.CALLS)))

def narrower(x):
    return scores(x)[:, : 4 - (len(SEEN) - 1)]

def none(x):
    return None

def text(x):
    return ["a"] * len(x)

def ragged(x):
    return [[1.0], [1.0, 2.0], [1.0]]

def mapping(x):
    return {"scores": scores(x)}

def one(x):
    return scores(x).mean()

def short(x):
    return scores(x)[1:]

def deep(x):
    return scores(x)[None]

def empty(x):
    return scores(x)[:, :0]

def negative(x):
    return labels(x) - 1

def fails(x):
    raise ValueError("no such width\\nand more")

def leaves(x):
    raise SystemExit("bye")

def interrupted(x):
    raise KeyboardInterrupt

number = 3
"""
WEIGHT = np.random.default_rng(0).normal(size=(6, CLASSES)).astype(np.float32)


@pytest.fixture
def file(tmp_path):
    (tmp_path / "helper.py").write_text(
        f"import numpy as np\nWEIGHT = np.array({WEIGHT.tolist()}, dtype=np.float32)\n"
    )
    (tmp_path / "state.py").write_text("CALLS = []\n")
    path = tmp_path / "predict.py"
    path.write_text(PREDICT)
    return path


def samples(n):
    return torch.randn(n, *SHAPE, generator=torch.Generator().manual_seed(0))


def expected(x: Tensor) -> Tensor:
    return x.flatten(1) @ torch.from_numpy(WEIGHT)


def one_hot(labels):
    return torch.nn.functional.one_hot(labels, CLASSES).float()


def open_in(file, name, **options):
    return open_function(f"{file}:{name}", shape=SHAPE, **{"num_classes": CLASSES, **options})


# What it gets.


def test_scores(file):
    loaded, x = open_in(file, "scores"), samples(5)
    kept, found = x.clone(), loaded.module(x)
    torch.testing.assert_close(found, expected(x))
    assert found.dtype == torch.float32
    assert torch.equal(x, kept)
    assert not loaded.module.training


def test_samples_in_any_layout_and_precision(file):
    x = samples(5).double().transpose(1, 2).contiguous().transpose(1, 2)
    torch.testing.assert_close(open_in(file, "scores").module(x), expected(x.float()))


def test_one_part_per_call_of_at_most_256_rows(file):
    module, x = open_in(file, "scores").module, samples(600)
    assert isinstance(module, Remote)
    parts = list(module.ask(x))
    assert [len(rows) for rows, _ in parts] == [256, 256, 88]
    assert torch.cat([rows for rows, _ in parts]).tolist() == list(range(600))
    torch.testing.assert_close(torch.cat([answer for _, answer in parts]), expected(x))
    assert module._function.__globals__["SEEN"] == [(256, 2, 3), (256, 2, 3), (88, 2, 3)]


def test_nothing_is_asked_while_it_is_opened(file):
    module = open_in(file, "scores").module
    assert module._function.__globals__["SEEN"] == []


def test_what_is_known_of_it(file):
    info = open_in(file, "scores").info
    assert (info.path, info.kind, info.access) == (f"{file}:scores", "function", "scores")
    assert (info.shape, info.num_classes, info.parameters) == (SHAPE, CLASSES, 0)
    assert info.sha256 == hashlib.sha256(file.read_bytes() + b"\0scores").hexdigest()
    assert open_in(file, "column").info.sha256 != info.sha256
    file.write_text(PREDICT + "# changed\n")
    assert open_in(file, "scores").info.sha256 != info.sha256


# What it may return.


@pytest.mark.parametrize("name", ["a_list", "rows", "tensor"])
def test_lists_and_tensors(file, name):
    atol = 0.05 if name == "tensor" else 1e-5
    found = open_in(file, name).module(samples(5))
    torch.testing.assert_close(found, expected(samples(5)), atol=atol, rtol=0)


@pytest.mark.parametrize("name", ["binary", "column"])
def test_one_score_of_a_binary_model(file, name):
    own = expected(samples(5))[:, :1]
    found = open_in(file, name, num_classes=2).module(samples(5))
    torch.testing.assert_close(found, torch.cat([torch.zeros_like(own), own], 1))
    with pytest.raises(RobustError, match="returned one score per sample, but there are 4 classes"):
        open_in(file, name).module(samples(5))


def test_labels(file):
    own = one_hot(expected(samples(9)).argmax(1))
    for name, access in (("labels", "labels"), ("declared", None), ("float_labels", "labels")):
        loaded = open_in(file, name, access=access)
        assert loaded.info.access == "labels"
        assert torch.equal(loaded.module(samples(9)), own)


def test_scores_where_labels_were_asked_for(file):
    loaded = open_in(file, "scores", access="labels")
    assert torch.equal(loaded.module(samples(9)), one_hot(expected(samples(9)).argmax(1)))
    found = open_in(file, "with_nan", access="labels").module(samples(3))
    assert found.isnan().any(1).tolist() == [False, True, False]
    assert open_in(file, "declared", access="scores").info.access == "scores"


def test_labels_that_nobody_announced(file):
    loaded = open_in(file, "labels")
    assert loaded.info.access == "scores"
    with pytest.raises(RobustError, match=r"predict\.py:labels returned labels: say --access lab"):
        loaded.module(samples(5))


def test_scores_are_not_taken_for_probabilities(file):
    with pytest.raises(RobustError, match="no probability: leave out --probabilities"):
        open_in(file, "scores", probabilities=True).module(samples(5))


def test_probabilities_become_logits(file):
    found = open_in(file, "probabilities", probabilities=True).module(samples(5))
    own = (expected(samples(5)).double() * 20).log_softmax(1)
    torch.testing.assert_close(found.double(), own, atol=1e-4, rtol=1e-5)
    assert own.min() < -100  # where single precision has no probability any more


def test_an_oracle_asks_it(file):
    oracle, x = Oracle(open_in(file, "scores").module), samples(5)
    torch.testing.assert_close(oracle(torch.cat([x, x])), expected(torch.cat([x, x])))
    assert (oracle.asked, oracle.repeated) == (5, 5)


# How it fails.


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("none", "returned NoneType, not an array"),
        ("mapping", "returned dict, not an array"),
        ("text", "returned values of type <U1, not numbers"),
        ("ragged", "returned list that is no array .ValueError"),
        ("one", r"returned shape \(\) for 3 samples; scores \(3, classes\)"),
        ("short", r"returned shape \(2, 4\) for 3 samples"),
        ("deep", r"returned shape \(1, 3, 4\) for 3 samples"),
        ("empty", r"returned shape \(3, 0\) for 3 samples"),
        ("fails", r"predict\.py:fails failed: ValueError: no such width$"),
        ("leaves", r"predict\.py:leaves failed: SystemExit: bye$"),
    ],
)
def test_failures_are_one_line(file, name, match):
    with pytest.raises(RobustError, match=match) as caught:
        open_in(file, name).module(samples(3))
    assert "\n" not in str(caught.value)
    assert f"{file}:{name}" in str(caught.value)


def test_labels_out_of_range(file):
    own = expected(samples(50)).argmax(1)
    assert own.unique().tolist() == [0, 1, 2, 3]
    with pytest.raises(RobustError, match=r"the label -1, but there are 4 classes \(0 to 3\)"):
        open_in(file, "negative", access="labels").module(samples(50))
    with pytest.raises(RobustError, match="the label 3, but there are 3 classes"):
        open_in(file, "labels", access="labels", num_classes=3).module(samples(50))


def test_another_number_of_scores_than_before(file):
    module = open_in(file, "narrower").module
    module(samples(3))
    with pytest.raises(RobustError, match="returned 3 scores per sample, and 4 before"):
        module(samples(3))


def test_an_interrupt_passes(file):
    with pytest.raises(KeyboardInterrupt):
        open_in(file, "interrupted").module(samples(3))


def test_what_cannot_be_opened(file, tmp_path):
    (tmp_path / "broken.py").write_text("def f(:\n")
    for text, match in (
        (f"{tmp_path}/absent.py:f", r"no file .*absent\.py \(of the function"),
        (f"{file}:absent", r"predict\.py has no function 'absent'"),
        (f"{file}:number", r"predict\.py has no function 'number'"),
        (f"{tmp_path}/broken.py:f", r"broken\.py cannot be imported: SyntaxError"),
        ("no_such_module:f", "no_such_module cannot be imported: ModuleNotFoundError"),
        ("math:absent", "math has no function 'absent'"),
        ("math", "neither file.py:function nor module:function"),
        (f"{file}:nonsense", "its access cannot be 'gradient'"),
    ):
        with pytest.raises(RobustError, match=match) as caught:
            open_function(text)
        assert "\n" not in str(caught.value)
    for name, options in (("labels", {"access": "labels"}), ("declared", {})):
        with pytest.raises(RobustError, match="returns labels: say how many classes"):
            open_function(f"{file}:{name}", **options)


# Imports.


def test_siblings_are_found_at_any_time_and_stay_the_same(file):
    module = open_in(file, "lazy").module
    path = list(sys.path)
    for call in (1, 2, 3):
        assert module(samples(2))[0, 0] == call
    assert sys.path == path
    assert not {"helper", "state", "predict"} & set(sys.modules)


def test_a_module_of_the_working_directory(file, monkeypatch):
    monkeypatch.chdir(file.parent)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    file.rename(file.parent / "predict_as_module.py")
    try:
        loaded = open_function("predict_as_module:scores", shape=SHAPE, num_classes=CLASSES)
        torch.testing.assert_close(loaded.module(samples(5)), expected(samples(5)))
        own = hashlib.sha256((file.parent / "predict_as_module.py").read_bytes() + b"\0scores")
        assert loaded.info.sha256 == own.hexdigest()
        assert loaded.info.path == "predict_as_module:scores"
    finally:
        for name in ("predict_as_module", "helper"):
            sys.modules.pop(name, None)
