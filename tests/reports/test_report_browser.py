"""The pages in headless Chromium: at a phone and a desk, in light and dark, by pointer and keys."""

import io
import re
from typing import Any

import numpy as np
import pytest
from PIL import Image
from synthetic import asked, rows, run, shard, ten
from test_report_certification import RECORD
from test_report_certification import ROWS as VOTES
from test_report_html import EVIL, TRAIN, broken, history
from test_report_tuning import ROWS as TRIALS
from test_report_tuning import trials

from robust.reports.certification import Certificates, render_certification
from robust.reports.html import render, render_training
from robust.reports.summary import Report
from robust.reports.tuning import render_tuning

LONG = "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft"

# A cut label is a chart's text that reaches out of its chart, or a name that reaches out of its
# cell; a card that is hidden has neither.
MEASURE = """() => {
  const cut = [...document.querySelectorAll("svg.chart")].flatMap(svg => {
    const box = svg.getBoundingClientRect();
    return [...svg.querySelectorAll("text")].filter(text => {
      const r = text.getBoundingClientRect();
      return box.width && (r.left < box.left - 3 || r.right > box.right + 3);
    }).map(text => text.textContent);
  });
  for (const name of document.querySelectorAll(".fit")) {
    const cell = name.parentElement.getBoundingClientRect(), r = name.getBoundingClientRect();
    if (r.left < cell.left || r.right > cell.right + 0.5) cut.push(name.textContent);
  }
  const root = document.documentElement;
  return { cut, over: root.scrollWidth - root.clientWidth, height: root.scrollHeight };
}"""


def gallery(shape: tuple[int, ...] = (3, 8, 8)) -> Report:
    """Forty broken samples of four classes, by two attacks, at distances of their own."""
    rng = np.random.default_rng(0)
    labels = [i % 4 for i in range(40)]
    x = rng.uniform(0, 1, (40, *shape)).astype(np.float32)
    hits = {i: (labels[i] + 1) % 4 for i in range(30)}
    far = np.linspace(0.01, 0.1, 40)
    first = rows("first", range(40), hits, shape, x_adv=x[:30], distance=far)
    rest = {i: (labels[i] + 2) % 4 for i in range(30, 40)}
    second = rows("second", range(30, 40), rest, shape, x_adv=x[30:], distance=far[30:])
    return Report(run(n=40), [shard(labels, labels, [first, second], x=x, shape=shape)])


def evil() -> Report:
    record = run(n=30, classes=[LONG, EVIL], curve=[0.25, 0.5, 0.75, 1.5])
    record["spec"]["model"]["path"] = f"{LONG}.pt"
    record["argv"] = ["robust", "attack", "--model", LONG * 2]
    record["spec"]["attacks"][0]["params"] = {LONG: LONG}
    return Report(record, [ten()])


def service() -> Report:
    record, given = asked(queries=2000, draws=5, checks=20)
    record["spec"]["model"]["path"] = f"https://models.example/{LONG}"
    given.attacks[0].label = record["spec"]["attacks"][0]["label"] = LONG
    record["price_per_1000"] = 1.5
    return Report(record, [given])


PAGES = {
    "evil": lambda: render(evil()),
    "service": lambda: render(service()),
    "gallery": lambda: render(gallery()),
    "photographs": lambda: render(broken(20, (3, 200, 300))),
    "sound": lambda: render(broken(20, (1, 8000), low=-1.0)),
    "features": lambda: render(broken(20, (13,))),
    "training": lambda: render_training(TRAIN, history(), Report(run(), [ten()])),
    "certification": lambda: render_certification(Certificates(RECORD, VOTES)),
    "tuning": lambda: render_tuning(trials(TRIALS)),
}


@pytest.mark.parametrize("kind", PAGES)
def test_every_page_fits_and_can_be_used_by_all(kind: str, open_page: Any) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = open_page(PAGES[kind]())
    for width, scheme in ((1200, "light"), (360, "dark"), (1200, "dark"), (360, "light")):
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(color_scheme=scheme)
        found = page.evaluate(MEASURE)
        assert found["height"] > 1000
        assert found["over"] == 0, (width, found)
        assert found["cut"] == [], width
        if (width == 360) == (scheme == "dark"):
            found = axe.run(page).response["violations"]
            said = [(f["id"], f["impact"], f["nodes"][0]["html"]) for f in found]
            assert [s for s in said if s[1] in ("serious", "critical")] == [], (width, scheme)


@pytest.mark.parametrize("kind", ["evil", "gallery", "sound", "training", "tuning"])
def test_pages_print_on_a4(kind: str, open_page: Any) -> None:
    page = open_page(PAGES[kind]())
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 688, "height": 1000})  # what the margins leave
    found = page.evaluate(MEASURE)
    assert found["over"] == 0
    assert found["cut"] == []
    for hidden in ("nav", ".filters", "audio", ".more"):
        assert not any(one.is_visible() for one in page.locator(hidden).all()), hidden
    # Nothing that can be scrolled on a screen is out of sight on paper.
    wide = (
        "all => all.filter(one => one.scrollWidth > one.clientWidth + 1).map(one => one.ariaLabel)"
    )
    assert page.locator(".scroll").evaluate_all(wide) == []
    pdf = page.pdf(prefer_css_page_size=True)
    boxes = re.findall(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", pdf)
    assert len(boxes) >= 2
    assert {(round(float(w)), round(float(h))) for w, h in boxes} <= {(595, 842), (596, 842)}


def test_the_measure_sees_an_overflow(open_page: Any) -> None:
    wide = '<p style="width: 500px">wide</p></main>'
    page = open_page(render(evil()).replace("</main>", wide), width=360)
    assert page.evaluate(MEASURE)["over"] > 100


def column(page: Any, table: str, place: int) -> list[str]:
    cells = page.locator(f"{table} tbody tr > :nth-child({place})").all_inner_texts()
    return [cell.strip() for cell in cells]


def test_tables_are_sorted_by_their_heads(open_page: Any) -> None:
    labels = [0] * 2 + [1] * 10 + [2] * 5
    hits = {0: 1, **dict.fromkeys(range(2, 10), 2)}
    given = shard(labels, labels, [rows("first", range(17), hits)])
    page = open_page(render(Report(run(["first"], classes=["b", "a", "c"]), [given])))
    table = "#classes table"
    samples = page.locator(f"{table} th", has_text="samples")
    samples.get_by_role("button").click()
    assert column(page, table, 2) == ["2", "5", "10"]
    assert samples.get_attribute("aria-sort") == "ascending"
    page.keyboard.press("Enter")  # the button has the focus
    assert column(page, table, 2) == ["10", "5", "2"]
    assert samples.get_attribute("aria-sort") == "descending"
    assert page.locator("div[role=status]").inner_text() == "Sorted by samples, descending"
    page.keyboard.press("Space")
    assert column(page, table, 1) == ["b", "a", "c"]  # as it was
    assert samples.get_attribute("aria-sort") is None
    page.locator(f"{table} th", has_text="class").get_by_role("button").click()
    assert column(page, table, 1) == ["a", "b", "c"]
    page.locator(f"{table} th", has_text="robust").first.get_by_role("button").click()
    assert column(page, table, 1) == ["a", "b", "c"]  # 20, 50 and 100 %: as numbers
    assert page.locator(f"{table} [aria-sort]").count() == 1
    assert page.locator(f"{table} th", has_text="0–100").get_by_role("button").count() == 0


TABLE = """<table data-sortable><thead><tr><th scope="col">name</th><th scope="col">value</th></tr>
</thead><tbody><tr data-pinned><td>first</td><td>0</td></tr><tr><td>b</td><td>–</td></tr>
<tr><td>a10</td><td data-value="60">1 min</td></tr><tr><td>a9</td><td>8/255</td></tr>
<tr><td>c</td><td data-value="">0</td></tr><tr><td>d</td><td>−1,200.5</td></tr>
<tr data-pinned><td>mean</td><td>7</td></tr></tbody></table></main>"""


def test_what_is_missing_comes_last_and_what_is_pinned_stays(open_page: Any) -> None:
    page = open_page(render(evil()).replace("</main>", TABLE))
    table = "main > table"
    value = page.locator(f"{table} th", has_text="value").get_by_role("button")
    value.click()
    assert column(page, table, 1) == ["first", "d", "a9", "a10", "b", "c", "mean"]
    value.click()
    assert column(page, table, 1) == ["first", "a10", "a9", "d", "b", "c", "mean"]
    page.locator(f"{table} th", has_text="name").get_by_role("button").click()
    assert column(page, table, 1) == ["first", "a9", "a10", "b", "c", "d", "mean"]


def test_the_averages_of_a_training_stay_below(open_page: Any) -> None:
    page = open_page(PAGES["training"]())
    page.locator("#classes th", has_text="class").get_by_role("button").dblclick()
    assert column(page, "#classes table", 1) == ["dog", "cat", "macro avg"]


def test_the_gallery_is_filtered(open_page: Any) -> None:
    page = open_page(PAGES["gallery"]())
    cards = page.locator("#gallery > li:visible")
    shown, more = page.locator("output[name=shown]"), page.locator("button.more")
    assert (cards.count(), shown.inner_text()) == (24, "24 of 40 shown")
    more.click()
    assert (cards.count(), shown.inner_text()) == (40, "40 of 40 shown")
    assert not more.is_visible()
    assert page.evaluate("document.activeElement.matches('#gallery > li:nth-child(25)')")
    page.locator("select[name=attack]").select_option("second")
    assert (cards.count(), shown.inner_text()) == (10, "10 of 40 shown")
    page.locator("select[name=class]").select_option("2")
    assert all("true class 2; second" in text for text in cards.all_inner_texts())
    assert cards.count() == 3
    page.locator("select[name=became]").select_option("1")
    assert cards.count() == 0
    page.get_by_role("button", name="Show all").click()
    page.locator("output[name=shown]", has_text="24 of 40").wait_for()
    assert cards.count() == 24
    distance = page.locator("input[name=distance]")
    assert (distance.get_attribute("min"), distance.get_attribute("max")) == ("0.01", "0.1")
    distance.focus()
    page.keyboard.press("Home")
    assert cards.count() == 1
    assert "distance 0.01" in cards.inner_text()
    assert page.locator("output[for=gallery-distance]").inner_text() == "0.01"


def test_a_class_of_that_name_stays_text(open_page: Any) -> None:
    page = open_page(PAGES["evil"]())
    page.locator("select[name=class]").select_option(EVIL)
    cards = page.locator("#gallery > li:visible")
    assert cards.count() == 2
    assert EVIL in cards.first.inner_text()
    assert page.locator("script").count() == 1


def test_charts_are_read_by_keys_and_pointer(open_page: Any) -> None:
    page = open_page(PAGES["evil"]())
    reader, tip = page.locator("#curve .reader"), page.locator("#curve .tip")
    assert not tip.is_visible()
    page.keyboard.press("Tab")
    reader.focus()
    assert reader.get_attribute("role") == "slider"
    assert reader.get_attribute("aria-label") == "Values of: Accuracy against ε, an upper bound"

    def says() -> list[str]:
        text = tip.inner_text().replace("\u202f", " ").split("\n")
        assert reader.get_attribute("aria-valuetext").replace("\u202f", " ") == "; ".join(text)
        return text

    assert says() == ["ε 0", "accuracy at most: 80.0 %"]
    page.keyboard.press("ArrowRight")
    assert says() == ["ε 0.025", "accuracy at most: 80.0 %"]
    page.keyboard.press("End")
    assert says()[0] == "ε 0.15"
    page.keyboard.press("ArrowRight")
    assert says()[0] == "ε 0.15"
    page.keyboard.press("Home")
    page.keyboard.press("ArrowLeft")
    assert says()[0] == "ε 0"
    assert reader.get_attribute("aria-valuenow") == "1"
    page.keyboard.press("Escape")
    assert not tip.is_visible()
    box = reader.bounding_box()
    page.mouse.move(box["x"] + box["width"] - 20, box["y"] + 50)
    assert says()[0] == "ε 0.15"
    assert page.evaluate(MEASURE)["over"] == 0
    page.mouse.move(5, 5)
    assert not tip.is_visible()


def test_points_are_read_too(open_page: Any) -> None:
    page = open_page(PAGES["tuning"]())
    dot = page.locator("#trade-off .plot svg .dot").first
    box = dot.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2 + 1, box["y"] + box["height"] / 2)
    assert page.locator("#trade-off .tip b").inner_text().startswith("trial ")
    assert page.locator("#trade-off .dot.read").count() == 1


@pytest.mark.parametrize("scripts", [True, False], ids=["scripts", "no scripts"])
def test_a_term_is_explained_beside_it(scripts: bool, open_page: Any) -> None:
    page = open_page(PAGES["gallery"](), scripts=scripts)
    term = page.locator("h1 .term", has_text="interval")
    meaning = term.locator("[popover]")
    assert not meaning.is_visible()
    term.get_by_role("button").focus()
    page.keyboard.press("Enter")
    assert "95 of 100" in meaning.inner_text()
    box, button = meaning.bounding_box(), term.locator("button").bounding_box()
    assert 0 < box["y"] - button["y"] < 60
    page.keyboard.press("Escape")
    assert not meaning.is_visible()


def test_without_scripts_the_page_is_complete(open_page: Any) -> None:
    page = open_page(PAGES["gallery"](), scripts=False)
    assert page.locator("#gallery > li:visible").count() == 40
    assert not page.locator(".filters").is_visible()
    assert page.locator("th button").count() == 0
    assert page.locator("svg.chart").first.is_visible()


def test_no_other_script_runs(browser: Any, tmp_path: Any) -> None:
    foreign = '<script>document.title = "ran"</script><p onclick="document.title = 1">click</p>'
    file = tmp_path / "page.html"
    file.write_text(PAGES["evil"]().replace("</main>", f"{foreign}</main>"), encoding="utf-8")
    page = browser.new_page()
    page.goto(file.as_uri())
    page.get_by_text("click", exact=True).click()
    assert page.title().startswith("Robust accuracy")
    page.close()


def test_pictures_lie_where_they_belong(open_page: Any) -> None:
    shape, n = (3, 32, 32), 130
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (n, 2, 3))
    x, x_adv = (
        np.broadcast_to(colours[:, k, :, None, None] / 255, (n, *shape)).astype(np.float32)
        for k in (0, 1)
    )
    attack = rows("first", range(n), dict.fromkeys(range(n), 1), shape, x_adv=x_adv)
    report = Report(run(["first"]), [shard([0] * n, [0] * n, [attack], x=x, shape=shape)])
    page = open_page(render(report), width=390)
    for _ in range(5):
        page.locator("button.more").click()
    for number in (0, 49, 50, 77, 129):  # the ends of sheets, and within
        card = page.locator("#gallery > li", has_text=re.compile(rf"sample {number},"))
        for place, colour in ((0, colours[number, 0]), (2, colours[number, 1])):
            data = card.get_by_role("img").nth(place).screenshot()
            pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
            # The outermost may be mixed with the card's own colour, where they are no whole ones.
            inside = pixels[2:-2, 2:-2].reshape(-1, 3).astype(int)
            assert np.abs(inside - colour).max() <= 3, (number, place)


def test_clips_play_one_at_a_time(open_page: Any) -> None:
    page = open_page(PAGES["sound"]())
    duration = """audio => new Promise((done, failed) => {
      audio.onloadedmetadata = () => done(audio.duration);
      audio.onerror = () => failed(audio.error.message);
      audio.load();
    })"""
    clips = page.locator("audio")
    for number in range(3):
        assert clips.nth(number).evaluate(duration) == pytest.approx(0.5)  # 8,000 at 16,000 Hz
    one = "audio => { audio.muted = true; audio.loop = true; return audio.play(); }"
    clips.nth(0).evaluate(one)
    clips.nth(1).evaluate(one)
    assert [clips.nth(k).evaluate("audio => audio.paused") for k in (0, 1)] == [True, False]


def test_paper_shows_what_is_folded_away(open_page: Any) -> None:
    page = open_page(PAGES["training"]())
    folded = page.locator("details table").first
    assert not folded.is_visible()
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert folded.is_visible()
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert not folded.is_visible()


def test_paper_says_what_terms_mean_where_they_first_stand(open_page: Any) -> None:
    page = open_page(PAGES["gallery"]())
    told = page.locator(".term [popover]:visible, .meanings dd:visible")
    assert told.count() == 0
    page.emulate_media(media="print")
    meanings = told.all_inner_texts()
    assert len(set(meanings)) == len(meanings) > 5
    for part in ("95 of 100", "Every single value", "largest softmax probability"):
        assert any(part in meaning for meaning in meanings), part
    assert page.locator("h1 [popover]:visible").count() == 0


DATED = """<table data-sortable><thead><tr><th scope="col">name</th><th scope="col">day</th>
<th scope="col">median</th></tr></thead><tbody>
<tr><th scope="row">3 dogs</th><td>2026-11-24</td><td>12 (15)<small>9–14</small></td></tr>
<tr><th scope="row">3 (cats)</th><td>2026-01-02</td><td>9 (11)<small>8–10</small></td></tr>
<tr><th scope="row">20 apes<small>best</small></th><td>2025-12-31</td><td>1,200 (3)</td></tr>
</tbody></table></main>"""


def test_a_number_is_one_only_where_nothing_but_a_unit_follows(open_page: Any) -> None:
    page = open_page(render(evil()).replace("</main>", DATED))
    table = "main > table"
    heads = page.locator(f"{table} thead th").get_by_role("button")
    heads.nth(1).click()
    assert column(page, table, 2) == ["2025-12-31", "2026-01-02", "2026-11-24"]
    heads.nth(0).click()
    first = [name.split("\n")[0] for name in column(page, table, 1)]
    assert [name.removesuffix("best") for name in first] == ["3 (cats)", "3 dogs", "20 apes"]
    heads.nth(2).click()  # what stands small beneath a figure is no part of it
    assert [cell.split(" ")[0] for cell in column(page, table, 3)] == ["9", "12", "1,200"]
