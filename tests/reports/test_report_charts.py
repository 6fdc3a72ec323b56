import base64
import io
import math
import re
import wave
import xml.etree.ElementTree as ET
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from PIL import Image

from robust.reports import text
from robust.reports.charts import WIDTH, Series, bar, ema, envelope, line_chart, nice_ticks, stack
from robust.reports.pictures import image, is_image, pack, perturbation
from robust.reports.sound import clip, rate_of


def test_ema_by_hand() -> None:
    # weight 0.6: 1·0.4 / 0.4 = 1; (0.4·0.6 + 2·0.4) / (1 − 0.36) = 1.04 / 0.64;
    # (1.04·0.6 + 4·0.4) / (1 − 0.216) = 2.224 / 0.784
    assert ema([1, 2, 4], 0.6) == pytest.approx([1, 1.625, 2.224 / 0.784])
    assert ema([5, 5, 5, 5], 0.9) == pytest.approx([5] * 4)
    assert ema([3, 7], 0) == [3, 7]


def test_ema_passes_over_gaps() -> None:
    assert ema([1, None, math.nan, 2], 0.6) == [1, None, None, pytest.approx(1.625)]
    with pytest.raises(ValueError, match="weight"):
        ema([1], 1.0)


def test_ticks_are_round_and_enclose() -> None:
    assert nice_ticks(0, 1) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert nice_ticks(3, 41) == pytest.approx([0, 10, 20, 30, 40, 50])
    for low, high in ((2.3, 2.31), (-0.04, 0.07), (5, 5), (0, 0), (1e-7, 3e-7)):
        ticks = nice_ticks(low, high)
        assert ticks[0] <= low + 1e-12
        assert ticks[-1] >= high - 1e-12
        assert 2 <= len(ticks) <= 8


def parsed(markup: str) -> ET.Element:
    return ET.fromstring(markup)


def test_chart_draws_values_and_says_them() -> None:
    svg = parsed(
        line_chart(
            [0, 1, 2],
            [Series("<b>", [0.0, None, 1.0], points=True)],
            label='says "a" & b',
            x_name="x",
            y_name="y",
        )
    )
    assert svg.get("role") == "img"
    assert svg.get("aria-label") == 'says "a" & b'
    titles = [title.text for title in svg.iter("title")]
    assert titles == ["x 0\n<b>: 0", "x 1", "x 2\n<b>: 1"]
    (line,) = [p.get("d") for p in svg.iter("path") if p.get("class") == "line s0"]
    assert line is not None
    assert line.count("M") == 2  # the gap breaks the line
    low, high = (float(c.get("cy", "nan")) for c in svg.iter("circle"))
    assert high < low  # larger values lie higher


def test_no_label_is_cut() -> None:
    xs = [k / 255 for k in (0, 1, 2, 3, 4, 6, 8, 12, 16)]
    svg = parsed(
        line_chart(
            xs,
            [Series("s", [123456.789 * x for x in xs])],
            label="l",
            x_name="ε",
            y_name="a long name of the y axis",
            x_text=text.eps,
            x_ticks=xs,
        )
    )
    labels = list[tuple[float, float]]()
    for node in svg.iter("text"):
        anchor, words = node.get("text-anchor", "start"), node.text or ""
        width = 6.2 * len(words)
        start = float(node.get("x", "0")) - width * {"start": 0, "middle": 0.5, "end": 1}[anchor]
        assert start >= -0.5, words
        assert start + width <= WIDTH + 0.5, words
        if "/255" in words:
            labels.append((start, start + width))
    assert len(labels) >= 4
    assert labels[0][1] > WIDTH - 20  # the last tick always has its label
    for after, before in pairwise(labels):
        assert before[1] < after[0]


@pytest.mark.parametrize(("at", "anchor"), [(0.0, None), (9.5, "end")])
def test_a_place_on_the_x_axis_is_pointed_out(at: float, anchor: str | None) -> None:
    svg = parsed(
        line_chart(
            [0, 10],
            [Series("s", [0.0, 1.0])],
            label="l",
            x_name="x",
            y_name="y",
            level_x=(at, "here it is"),
        )
    )
    (line,) = [p.get("d", "") for p in svg.iter("path") if p.get("class") == "level"]
    (words,) = [t for t in svg.iter("text") if t.text == "here it is"]
    ends = [p.get("d", "") for p in svg.iter("path") if p.get("class") == "line s0"]
    left, right = (float(place.split()[0]) for place in re.findall(r"[ML]([\d. ]+)", ends[0]))
    x = float(line[1:].split()[0])
    assert x == pytest.approx(left + at / 10 * (right - left), abs=0.1)
    assert words.get("text-anchor") == anchor
    assert abs(float(words.get("x", "0")) - x) < 5


def test_empty_chart() -> None:
    for xs, values in (([], []), ([1.0], [None])):
        chart = line_chart(xs, [Series("s", values)], label="l", x_name="x", y_name="y")
        assert "No values" in chart
    one = line_chart([3], [Series("s", [0.5])], label="l", x_name="x", y_name="y")
    assert "<circle" in one
    assert "nan" not in one


def test_values_between_gaps_are_seen() -> None:
    values = [0.5, None, 0.5, math.nan, 0.1, 0.2, None]
    chart = line_chart(range(7), [Series("s", values)], label="l", x_name="x", y_name="y")
    assert len(list(parsed(chart).iter("circle"))) == 2


def test_bars() -> None:
    fill = parsed(bar(0.25, 0.2, 0.4, "<c>"))
    widths = {r.get("class"): r.get("width") for r in fill.iter("rect")}
    assert widths == {"track": "100%", "fill": "25.0%", "range": "20.0%"}
    assert bar(math.nan, 0, 1, "c") == ""
    parts = [
        (r.get("x"), r.get("width")) for r in parsed(stack([("a", 1), ("b", 3)], "")).iter("rect")
    ]
    assert parts == [("0.00%", "25.00%"), ("25.00%", "75.00%")]
    assert stack([("a", 0)], "") == ""


def test_envelope_keeps_the_peaks() -> None:
    signal = [0.0] * 10_000
    signal[1234], signal[7777] = 1.0, -1.0
    positions = envelope(signal, 200)
    assert len(positions) <= 200
    assert {1234, 7777} <= set(positions)
    assert positions == sorted(positions)
    assert envelope([1.0, 2.0], 200) == [0, 1]


def test_perturbation_spans_the_full_range() -> None:
    delta = np.zeros((3, 2, 2))
    delta[0, 0, 0], delta[1, 1, 1] = 8 / 255, -4 / 255
    assert perturbation(delta, 0.0, 1.0)[1] == pytest.approx(255 / 16)
    assert perturbation(delta, -1.0, 1.0)[1] == pytest.approx(255 / 8)
    _, nothing = perturbation(np.zeros((1, 2, 2)), 0.0, 1.0)
    assert nothing == 1


def test_perturbation_pixels() -> None:
    colour, _ = perturbation(np.array([0.1, -0.1, 0.0, 0.05]).reshape(1, 1, 4).repeat(3, 0), 0, 1)
    assert colour[0, :, 0].tolist() == [255, 0, 128, 191]
    grey, _ = perturbation(np.array([0.1, -0.1, 0.0]).reshape(1, 1, 3), 0, 1)
    assert grey[0].tolist() == [[190, 82, 20], [29, 92, 160], [255, 255, 255]]


def opened(uri: str) -> np.ndarray:
    kind, data = uri.split(",")
    assert kind == "data:image/webp;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))


@pytest.mark.parametrize("count", [1, 3, 120])
def test_a_sheet_holds_each_picture_where_it_says(count: int) -> None:
    rng = np.random.default_rng(0)
    rows = [
        [rng.integers(0, 256, (5, 7, 3), dtype=np.uint8) for _ in range(3)] for _ in range(count)
    ]
    sheets, places = pack(rows, 10**6, lossless=True)
    assert len(places) == count
    assert len(sheets) == -(-count // 50)
    images = [opened(sheet.uri) for sheet in sheets]
    for row, place in zip(rows, places, strict=True):
        sheet, whole = sheets[place.sheet], images[place.sheet]
        # As CSS scales and places it: p percent of what the image is larger than its box.
        assert whole.shape[:2] == (round(5 * sheet.high), round(7 * sheet.wide))
        top = place.down / 100 * (whole.shape[0] - 5)
        for picture, across in zip(row, sheet.across, strict=True):
            left = across / 100 * (whole.shape[1] - 7)
            assert (top, left) == pytest.approx((round(top), round(left)))
            there = whole[round(top) - 1 : round(top) + 6, round(left) - 1 : round(left) + 8]
            np.testing.assert_array_equal(there, np.pad(picture, ((1, 1), (1, 1), (0, 0)), "edge"))


def test_sheets_keep_to_their_budget() -> None:
    rng = np.random.default_rng(0)
    rows = [[rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)] for _ in range(100)]
    sheets, places = pack(rows, 150_000, lossless=True)
    assert 120_000 < sum(len(sheet.uri) for sheet in sheets) <= 150_000
    assert 30 < len(places) < 40  # 3 kB each, which nothing compresses
    assert len(pack(rows, 100, lossless=True)[1]) == 1


def test_large_pictures_are_shrunk() -> None:
    assert image(np.zeros((1, 224, 112)), 0, 1).shape == (112, 56, 3)
    assert image(np.full((4, 8, 8), 0.5), 0, 1).shape == (8, 8, 4)


def test_what_can_be_heard() -> None:
    assert rate_of((1, 16_000), -1, 1, None) == 16_000
    assert rate_of((16_000,), -1, 1, 8000) == 8000
    assert rate_of((2, 100), 0, 1, 8000) == 8000  # somebody said it
    for shape, low in (((100,), -1), ((16_000,), 0), ((3, 16_000), -1), ((3, 32, 32), -1)):
        assert rate_of(shape, low, 1, None) is None
    assert rate_of((3, 32, 32), 0, 1, 8000) is None


def heard(uri: str) -> tuple[Any, np.ndarray]:
    kind, data = uri.split(",")
    assert kind == "data:audio/wav;base64"
    with wave.open(io.BytesIO(base64.b64decode(data))) as file:
        return file.getparams(), np.frombuffer(file.readframes(file.getnframes()), "<i2")


def test_clips_are_wav_of_16_bits() -> None:
    file, values = heard(clip(np.array([0.0, 0.5, -1.0, 2.0]), 8000, -1.0, 1.0))
    assert (file.framerate, file.nchannels, file.sampwidth) == (8000, 1, 2)
    assert values.tolist() == [0, 16384, -32767, 32767]
    assert heard(clip(np.array([0.5, 0.6]), 8000, 0.0, 1.0, 5.0))[1].tolist() == [0, 32767]
    file, values = heard(clip(np.array([[1.0, 0.0], [-1.0, 0.5]]), 44_100, -1.0, 1.0))
    assert file.nchannels == 2
    assert values.tolist() == [32767, -32767, 0, 16384]  # left and right by turns
    assert heard(clip(np.zeros(9 * 8000), 8000, -1.0, 1.0))[0].nframes == 4 * 8000


def test_what_is_an_image() -> None:
    assert is_image((3, 32, 32))
    assert is_image((1, 8, 8))
    assert not any(map(is_image, [(16000,), (1, 16000), (1, 1, 16000), (13,), (7, 8, 8)]))


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (8 / 255, "8/255"),
        (0.1, "0.1"),
        (0.2, "0.2"),
        (0.5, "0.5"),
        (1.0, "1"),
        (0, "0"),
        (1 / 255, "1/255"),
    ],
)
def test_eps(value: float, says: str) -> None:
    assert text.eps(value) == says
    assert text.eps(float(np.float32(value))) == says


def test_percent() -> None:
    def plain(value: float | None, n: int = 1000) -> str:
        return re.sub(r"\s", " ", text.percent(value, n))

    assert plain(0.505, 200) == "50.5 %"
    assert plain(0.505, 20) in ("50 %", "51 %")
    assert plain(0.50512, 50_000) == "50.51 %"
    assert (plain(0), plain(1), plain(None), plain(math.nan)) == ("0 %", "100 %", "–", "–")
    assert (plain(0.9999), plain(0.0001)) == ("> 99.9 %", "< 0.1 %")


def test_durations_and_counts() -> None:
    def plain(value: float) -> str:
        return text.seconds(value).replace(text.NARROW, " ")

    assert [plain(v) for v in (0.25, 3.14, 59.6, 125, 7260)] == [
        "0.25 s",
        "3.1 s",
        "1 min 0 s",
        "2 min 5 s",
        "2 h 1 min",
    ]
    assert text.number(12400) == "12,400"
    assert text.number(3.25) in ("3.2", "3.3")
    assert text.short(12_300_000) == f"12.3{text.NARROW}M"
    assert text.command(["a b", "c'd"]) == "'a b' 'c'\"'\"'d'"
