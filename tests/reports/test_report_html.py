import base64
import hashlib
import html
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from synthetic import rows, run, shard, staged, ten

from robust.reports.html import heat, render, render_training
from robust.reports.page import SCRIPT, pages
from robust.reports.summary import Report
from robust.reports.terms import Terms

VOID = {"meta", "img", "br", "link", "input", "hr"}
EVIL = "<script>alert(1)</script>"


class Page(HTMLParser):
    """Tags of a page, which must nest; references and texts, but for what opens on demand.

    It has one script, ours.
    """

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open, self.tags, self.references = list[str](), list[str](), list[str]()
        self.text = ""
        self.ids, self.roles, self.scripts = list[str](), list[str](), list[str]()
        self.hidden: int | None = None  # how deep the element is that opens on demand
        self.feed(page)
        self.close()
        assert not self.open, f"never closed: {self.open}"
        assert self.scripts == [SCRIPT]

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        if "popover" in dict(attributes):
            self.hidden = len(self.open)
        for name, value in attributes:
            assert not name.startswith("on"), name
            if name in ("src", "href", "action", "data", "srcset"):
                self.references.append(value or "")
            if name == "role":
                self.roles.append(value or "")
            if name == "id":
                self.ids.append(value or "")

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, tag
        if self.hidden == len(self.open):
            self.hidden = None
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)
        elif self.hidden is None and (not self.open or self.open[-1] not in ("style", "title")):
            self.text += data

    @property
    def words(self) -> str:
        return re.sub(r"\s+", " ", self.text)


def history(epochs: int = 12, **changes: Any) -> list[dict[str, Any]]:
    names = ["cat", "dog"]
    one = {"precision": 0.5, "recall": 0.25, "f1-score": 1 / 3, "support": 4.0}
    return [
        {
            "epoch": e + 1,
            "lr": 0.1,
            "eps": 0.1,
            "train_loss": 2 / (e + 1),
            "train_accuracy": e / 20,
            "val_loss": 2 / (e + 1),
            "val_accuracy": 0.9,
            "val_robust_accuracy": 0.753 if e == 6 else 0.5,
            "val_robust_loss": 1.0,
            "val_fgsm_accuracy": None,
            "seconds": 1.0,
            "confusion": [[3, 1], [0, 4]],
            "robust_confusion": [[2, 2], [1, 3]],
            "classification_report": {
                **dict.fromkeys(names, one),
                "accuracy": 0.5,
                "macro avg": one,
            },
            "alarm": None,
            **changes,
        }
        for e in range(epochs)
    ]


TRAIN = {
    "kind": "train",
    "spec": {"arch": "small-cnn", "adv": "pgd", "threat": {"norm": "linf", "eps": 0.1}, "seed": 3},
    "argv": ["robust", "train", "--adv", "pgd"],
    "status": "done",
    "created": "2026-01-02T03:04:05",
    "seconds": 36.0,
    "versions": {"torch": "2.13"},
    "model": {"parameters": 93_322, "flops": 1_230_000},
}


def test_verdict_line_and_contents() -> None:
    page = Page(render(Report(run(n=10, curve=[0.5], classes=["cat", "dog"]), [ten()])))
    assert "Robust accuracy 40 % (95 % interval 17–69) under L∞ ε = 0.1, n = 10" in page.words
    assert "2 were misclassified unaltered, 4 more could be pushed" in page.words
    assert "robust attack --model models/m.pt" in page.words
    for fact in ("ab" * 32, "cd" * 32, "torch 2.13.0", "Seed 7", "upper bound", "×5"):
        assert fact in page.words, fact
    assert page.roles.count("img") - page.tags.count("svg") == 3 * 4
    assert page.tags.count("h1") == 1
    wanted = {"attacks", "curve", "classes", "confusion", "examples", "repeat"}
    assert wanted <= set(page.ids)
    anchors = {ref[1:] for ref in page.references if ref.startswith("#")}
    assert wanted <= anchors <= set(page.ids)


def test_stages_and_remarks_are_told() -> None:
    text = render(Report(run(n=10), [staged()]))
    page = Page(text)
    assert '<th scope="row">descent</th><td>8</td><td>1</td>' in text
    assert '<th scope="row">restarts</th><td>6</td><td>2</td>' in text
    assert "The stages of first" in page.words
    assert "The stages of second" not in page.words
    assert "first: 2 samples were hopeless." in page.words


def pages_of_all_kinds() -> dict[str, str]:
    evil = run(n=30, classes=[EVIL, "dog"], curve=[0.5])
    evil["argv"] = ["robust", EVIL, "a b"]
    evil["spec"]["model"]["path"] = f"/tmp/{EVIL}\"'.pt"
    evil["spec"]["attacks"][0]["params"] = {"note": EVIL}
    evil["versions"] = {EVIL: EVIL}
    report = {EVIL: {"precision": 1, "recall": 1, "f1-score": 1, "support": 2}}
    trained = {**TRAIN, "spec": {**TRAIN["spec"], "arch": EVIL}, "argv": [EVIL]}
    return {
        "attack": render(Report(evil, [ten()])),
        "train": render_training(trained, history(classification_report=report, alarm=EVIL)),
        "both": render_training(TRAIN, history(), Report(evil, [ten()])),
    }


@pytest.mark.parametrize("kind", ["attack", "train", "both"])
def test_user_strings_stay_text_and_nothing_is_fetched(kind: str) -> None:
    source = pages_of_all_kinds()[kind]
    page = Page(source)
    assert EVIL in page.text
    assert html.escape(EVIL) in source
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    assert (
        f"default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'" in source
    )
    assert all(r.startswith("#") for r in page.references)
    assert not re.search(r"url\((?!data:image/webp;base64,)|@import|https?://", source)


def test_partial_run_says_so() -> None:
    assert "incomplete: 10 of 30 samples" in Page(render(Report(run(n=30), [ten()]))).words
    assert "incomplete:" not in Page(render(Report(run(n=10), [ten()]))).words


def test_no_attack_and_no_sample() -> None:
    page = Page(render(Report(run([]), [shard([0, 1], [0, 1], [])])))
    assert "Robust accuracy not measured" in page.words
    assert "No attack ran: robustness was not measured." in page.words
    assert "withstood" not in page.words
    assert "not measured" in Page(render(Report(run(n=5), []))).words


def test_zero_successes() -> None:
    given = shard([0, 1], [0, 1], [rows("first", [0, 1], {})])
    page = Page(render(Report(run(["first"]), [given])))
    assert "Robust accuracy 100 %" in page.words
    assert "No attack broke a single sample" in page.words
    assert not {"examples", "confusion"} & set(page.ids)


def test_targeted_says_what_was_asked() -> None:
    given = shard([0, 2], [0, 2], [rows("first", [0, 1], {0: 1})], targets=[1, 1])
    page = Page(render(Report(run(["first"], targeted="1"), [given])))
    assert "targeted (1)" in page.words
    assert "the chosen target class" in page.words
    assert ", target 1" in page.words


def broken(n: int, shape: tuple[int, ...], low: float = 0.0, k: int = 10) -> Report:
    rng = np.random.default_rng(0)
    shards = []
    for start in range(0, n, 100):
        m = min(100, n - start)
        x = rng.uniform(low, 1, (m, *shape)).astype(np.float32)
        x_adv = rng.uniform(low, 1, (m, *shape)).astype(np.float32)
        labels = (np.arange(m) % k).tolist()
        hits = {i: (labels[i] + 1) % k for i in range(m)}
        attack = rows("first", range(m), hits, shape, x_adv=x_adv)
        shards.append(shard(labels, labels, [attack], x=x, shape=shape, index=start))
    return Report(run(["first"], low=low, high=1.0, image=len(shape) == 3), shards)


@pytest.mark.parametrize("shape", [(3, 32, 32), (3, 256, 256), (1, 16_000)])
def test_size_with_everything_broken(shape: tuple[int, ...]) -> None:
    report = broken(1000 if shape[-1] <= 32 else 60, shape)
    page = render(report)
    assert len(page.encode()) < 2_000_000
    shown = Page(page)
    assert shown.words.count("true class ") >= (100 if shape[-1] == 32 else 20)
    assert page.count("data:image/webp") <= 4
    assert ("shown smaller" in shown.words) == (shape[-1] == 256)


@pytest.mark.parametrize("shape", [(1, 4000), (4000,), (13,), (1,)])
def test_signals_and_vectors_are_drawn_as_lines(shape: tuple[int, ...]) -> None:
    source = render(broken(3, shape, low=-1.0))
    page = Page(source)
    assert "data:image" not in source
    assert "perturbation" in page.words
    assert page.tags.count("svg") >= 6


def test_heat_of_many_classes_lists_pairs() -> None:
    matrix = np.zeros((200, 200), dtype=np.int64)
    matrix[3, 7], matrix[5, 1], matrix[9, 9] = 4, 6, 99
    assert heat(matrix, ["a", "b"]) == {"pairs": [("5", "b", 6), ("3", "7", 4)]}
    small = heat(matrix[:8, :8], [])
    assert small is not None
    assert small["rows"][5][1] == (6, 1.0)
    assert heat(np.zeros((3, 3), dtype=np.int64), []) is None
    names = [f"class {i}" for i in range(200)]
    given = shard([3], [3], [rows("first", [0], {0: 7})])
    page = Page(render(Report(run(["first"], classes=names), [given])))
    assert "the most frequent pairs" in page.words


def test_a_thousand_classes_fit() -> None:
    report = broken(1000, (3, 64, 64), k=100)
    k = 1000
    labels = list(range(k))
    attack = rows("first", labels, {i: (i + 1) % k for i in range(0, k, 2)})
    given = shard(labels, labels, [attack])
    many = Report(
        run(["first"], classes=[f"a rather long class name {i}" for i in labels]), [given]
    )
    many.gallery = report.gallery
    page = render(many)
    assert len(page.encode()) < 2_000_000
    words = Page(page).words
    assert "The 100 least robust of 1,000 classes" in words
    assert "class name 198</span></th>" in page
    assert "class name 1</span></th>" not in page  # odd ones withstood


def test_training_page() -> None:
    page = Page(render_training(TRAIN, history()))
    assert "Validation robust accuracy 75.3 %" in page.words
    assert "best, at epoch 7 of 12, under L∞ ε = 0.1" in page.words
    assert "93.3 k" in page.words
    assert "1.23 M floating-point operations" in page.words
    assert "robust train --adv pgd" in page.words
    assert {"curves", "classes", "confusion", "repeat"} <= set(page.ids)
    assert "alarms" not in page.ids
    assert "macro avg" in page.words
    assert "Radius trained on" not in page.words  # constant


def test_training_options_as_the_engine_records_them() -> None:
    spec = {
        **TRAIN["spec"],
        "adv": {"name": "pgd", "params": {"steps": 7}},
        "data": {"source": "my.npz", "split": "train"},
        "fingerprints": {"data": "ef" * 32},
    }
    words = Page(render_training({**TRAIN, "spec": spec}, history())).words
    assert "adversarial training: pgd ·" in words
    assert "my.npz" in words
    assert "Fingerprint of data " + "ef" * 32 in words
    spec["adv"] = {"name": "none", "params": {}}
    assert "adversarial" not in Page(render_training({**TRAIN, "spec": spec}, history())).words[:60]


def test_training_smooths_over_faint_raw_values() -> None:
    source = render_training(TRAIN, history())
    raw, smooth = (
        re.search(rf'<path class="{kind}" d="([^"]*)"', source)
        for kind in ("line raw s0", "line s0")
    )
    assert raw is not None
    assert smooth is not None
    assert raw[1] != smooth[1]
    assert (
        raw[1].split("L")[0] == smooth[1].split("L")[0]
    )  # debiased: both start at the first value


def test_training_alarm_and_evaluation() -> None:
    rows_ = history()
    rows_[4]["alarm"] = "catastrophic overfitting"
    page = Page(render_training(TRAIN, rows_, Report(run(n=10), [ten()])))
    assert "Epoch 5: catastrophic overfitting" in page.words
    assert "Robust accuracy 40 % (95 % interval 17–69) under L∞ ε = 0.1, n = 10" in page.words


def test_training_with_keys_missing() -> None:
    full = history(3)
    for key in full[0]:
        Page(render_training(TRAIN, [{k: v for k, v in row.items() if k != key} for row in full]))
        Page(render_training(TRAIN, [{**row, key: None} for row in full if key != "epoch"]))
        some = [full[0], full[1] if key == "epoch" else {**full[1], key: None}, full[2]]
        Page(render_training(TRAIN, some))
    plain = [{"epoch": 1, "val_accuracy": 0.5}]
    assert "Validation accuracy 50.0 %" in Page(render_training({"kind": "train"}, plain)).words
    running = Page(render_training({**TRAIN, "status": "running"}, []))
    assert "No epoch was validated" in running.words
    assert "status: running" in running.words


def test_templates_come_with_the_package() -> None:
    assert set(pages.list_templates()) >= {"attack.html.jinja", "training.html.jinja"}


def test_a_term_is_told_once_on_paper() -> None:
    term = Terms()
    assert ' class="first"' in term("eps", "ε")
    again = term("eps", "<ε>")
    assert "first" not in again
    assert "&lt;ε&gt;" in again
    later = term.later("query", "queries")
    assert "first" not in later + term.later("eps", "ε") + term("query", "a query")
    assert term.meanings().count("<dt>") == 1
    assert term.meanings() == ""
    ids = re.findall(r' id="([^"]+)"', again + later)
    assert len(set(ids)) == 2
    with pytest.raises(KeyError):
        term("never explained", "x")
