"""The pages in headless Chromium, at the width of a phone and of a desk."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from synthetic import asked, run, ten
from test_report_html import TRAIN, broken, history

from robust.reports.html import render, render_training
from robust.reports.summary import Report

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--hide-scrollbars",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")

LONG = "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft"

# Frames have exactly the width asked for, which headless windows below 500 px do not. A cut label
# is a chart's text that reaches out of its chart, or a name that reaches out of its cell.
MEASURE = """
<script>
const found = [];
for (const frame of document.querySelectorAll("iframe")) {
  const page = frame.contentDocument, width = page.documentElement.clientWidth;
  const cut = [...page.querySelectorAll("svg.chart")].flatMap(svg => {
    const box = svg.getBoundingClientRect();
    return [...svg.querySelectorAll("text")].filter(text => {
      const r = text.getBoundingClientRect();
      return box.width && (r.left < box.left - 3 || r.right > box.right + 3);
    }).map(text => text.textContent);
  });
  for (const name of page.querySelectorAll(".fit")) {
    const cell = name.parentElement.getBoundingClientRect(), r = name.getBoundingClientRect();
    if (r.left < cell.left || r.right > cell.right + 0.5) cut.push(name.textContent);
  }
  found.push({
    page: frame.title, width, scroll: page.documentElement.scrollWidth, cut,
    height: page.documentElement.scrollHeight,
    images: [...page.images].every(image => image.naturalWidth > 0),
  });
}
document.title = JSON.stringify(found);
</script>
"""


def measured(folder: Path, pages: dict[str, str]) -> list[dict[str, object]]:
    """What a browser finds of each page at 360 and 1200 px; one start of Chromium for all."""
    frames = []
    for name, page in pages.items():
        bare, count = re.subn(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
        assert count == 1
        (folder / f"{name}.html").write_text(bare, encoding="utf-8")
        frames += [
            f'<iframe title="{name}" src="{name}.html" width="{width}" height="900"></iframe>'
            for width in (360, 1200)
        ]
    script = MEASURE.replace("const found", "onload = () => {\nconst found").replace(
        "</script>", "}</script>"
    )
    whole = f"<!DOCTYPE html><title>not run</title>{''.join(frames)}{script}"
    (folder / "all.html").write_text(whole, encoding="utf-8")
    assert CHROMIUM is not None
    result = subprocess.run(
        [
            CHROMIUM,
            *FLAGS,
            "--allow-file-access-from-files",
            f"--user-data-dir={folder / 'profile'}",
            "--virtual-time-budget=5000",
            "--dump-dom",
            (folder / "all.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    title = re.search(r"<title>(.*?)</title>", result.stdout, re.S)
    assert title is not None
    found: list[dict[str, object]] = json.loads(title[1])
    return found


def test_pages_do_not_overflow(tmp_path: Path) -> None:
    evil = run(n=30, classes=[LONG, "<script>alert(1)</script>"], curve=[0.25, 0.5, 0.75, 1.5])
    evil["spec"]["model"]["path"] = f"{LONG}.pt"
    evil["argv"] = ["robust", "attack", "--model", LONG * 2]
    evil["spec"]["attacks"][0]["params"] = {LONG: LONG}
    service, given = asked(queries=2000, draws=5, checks=20)
    service["spec"]["model"]["path"] = f"https://models.example/{LONG}"
    given.attacks[0].label = service["spec"]["attacks"][0]["label"] = LONG
    service["price_per_1000"] = 1.5
    pages = {
        "evil": render(Report(evil, [ten()])),
        "service": render(Report(service, [given])),
        "images": render(broken(40, (3, 32, 32))),
        "signals": render(broken(20, (1, 4000), low=-1.0)),
        "training": render_training(TRAIN, history(), Report(run(), [ten()])),
    }
    found = measured(tmp_path, pages)
    assert len(found) == 2 * len(pages)
    for result in found:
        assert result["width"] in (360, 1200)
        assert result["height"] > 1500, result
        assert result["scroll"] <= result["width"], result
        assert result["cut"] == [], result
        assert result["images"], result


def test_the_measure_sees_an_overflow(tmp_path: Path) -> None:
    page = render(Report(run(), [ten()]))
    wide = page.replace("</main>", '<p style="width: 500px">wide</p></main>')
    phone, desk = measured(tmp_path, {"wide": wide})
    assert phone["scroll"] > 360
    assert desk["scroll"] == 1200
