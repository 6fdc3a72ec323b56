"""JSON services by a template: what is sent, and how answers are read."""

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from servers import WORDS, Misbehaving

from robust.core.errors import RobustError
from robust.oracles import ServiceOptions, open_service
from robust.oracles.sending import Again
from robust.oracles.template import describe, read_template

SERVING = """
[request]
body = { instances = "$batch" }
[response]
scores = "predictions.*.scores"
"""


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "service.toml"
        path.write_text(text)
        return path

    return write


@pytest.fixture
def dialect(write):
    """What a template makes of samples and answers, without a server."""

    def dialect(text, **pixels):
        import httpx

        pixels = {"low": 0.0, "high": 1.0, "mean": None, "std": None, **pixels}
        url = httpx.URL("http://127.0.0.1/ask")
        return describe(url, read_template(write(text)), None, pixels)[0]

    return dialect


def ask(request="", response="", body='{ instances = "$batch" }', scores='"predictions"'):
    return f"[request]\nbody = {body}\n{request}\n[response]\nscores = {scores}\n{response}\n"


# Whole, against a server


def test_a_service_with_scores(server, write, x):
    options = ServiceOptions(template=write(SERVING))
    loaded = open_service(server.url("/predict"), options, shape=(1, 8, 8))
    wanted = torch.from_numpy(server.scores(x.numpy()))
    assert torch.allclose(loaded.module(x), wanted, atol=1e-4)
    assert loaded.info.kind == "json-service"
    assert loaded.info.access == "scores"
    assert not loaded.info.eight_bit
    assert loaded.info.extra["template"] == "service.toml"
    sent = [row for body in server.bodies for row in json.loads(body)["instances"]]
    assert {np.float32(row).tobytes() for row in sent} == {row.tobytes() for row in x.numpy()}


def test_a_service_that_answers_with_words(server, write, x):
    text = SERVING.replace("scores", "labels", 1).replace("scores", "label")
    options = ServiceOptions(template=write(text))
    with pytest.raises(RobustError, match="say how many there are by --classes"):
        open_service(server.url("/labels"), options, shape=(1, 8, 8))
    module = open_service(server.url("/labels"), options, shape=(1, 8, 8), num_classes=10).module
    with pytest.raises(RobustError, match=r"response\.classes"):
        module(x)
    options = ServiceOptions(template=write(f"{text}classes = {json.dumps(WORDS)}"))
    loaded = open_service(server.url("/labels"), options, shape=(1, 8, 8))
    assert loaded.module(x).argmax(1).tolist() == server.scores(x.numpy()).argmax(1).tolist()
    assert loaded.info.classes == tuple(WORDS)
    assert loaded.info.num_classes == 10
    assert loaded.info.access == "labels"
    lacking = json.dumps([*WORDS[:1], "no"])
    options = ServiceOptions(template=write(f"{text}classes = {lacking}"))
    with pytest.raises(RobustError, match="which response.classes of the template lacks: zero, no"):
        open_service(server.url("/labels"), options, shape=(1, 8, 8)).module(x)


def test_a_service_that_takes_images(write):
    text = """
    [request]
    body = { instances = "$batch" }
    item = { b64 = "$sample" }
    encoding = "png-base64"
    [response]
    scores = "predictions.*.scores"
    """
    generator = torch.Generator().manual_seed(0)
    for channels in (1, 3):
        x = torch.rand(5, channels, 4, 6, generator=generator)
        size = channels * 24
        weights = np.eye(size, dtype=np.float32), np.zeros(size, dtype=np.float32)
        with Misbehaving(weights=weights) as server:
            options = ServiceOptions(template=write(text))
            loaded = open_service(server.url("/image"), options, shape=(channels, 4, 6))
            answers = loaded.module(x)
        wanted = (x * 255).round().movedim(1, -1).flatten(1) / 255
        assert torch.equal(answers, wanted)
        assert loaded.info.eight_bit


def test_images_of_two_channels_are_refused(write):
    options = ServiceOptions(template=write(ask('encoding = "png-base64"')))
    with pytest.raises(RobustError, match="no images that a PNG could hold"):
        open_service("http://127.0.0.1/x", options, shape=(2, 8, 8))


# Requests


def test_one_sample_a_request(dialect, x):
    made = dialect(ask(body='{ image = "$sample", top = 3 }'))
    assert made.most == 1
    sent = json.loads(made.body(x[:1]))
    assert np.array_equal(np.float32(sent.pop("image")), x[0].numpy())
    assert sent == {"top": 3}


def test_lists_can_be_flat_and_channels_last(dialect):
    x = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))

    def sent(request):
        return np.float32(json.loads(dialect(ask(request)).body(x))["instances"])

    assert np.array_equal(sent(""), x.numpy())
    assert np.array_equal(sent('encoding = "flat-list"'), x.flatten(1).numpy())
    last = x.movedim(1, -1)
    assert np.array_equal(sent('layout = "channels-last"'), last.numpy())
    flat = 'layout = "channels-last"\nencoding = "flat-list"'
    assert np.array_equal(sent(flat), last.flatten(1).numpy())


def test_the_body_may_be_the_samples_themselves(dialect, x):
    assert np.array_equal(np.float32(json.loads(dialect(ask(body='"$batch"')).body(x))), x.numpy())


def test_each_sample_may_be_wrapped(dialect, x):
    made = dialect(ask('item = { id = "a\\"b", data = "$sample" }'))
    items = json.loads(made.body(x[:2]))["instances"]
    assert [item["id"] for item in items] == ['a"b', 'a"b']
    assert np.array_equal(np.float32([item["data"] for item in items]), x[:2].numpy())


def test_values_can_be_scaled_or_bytes(dialect, x):
    made = dialect(ask("range = [-1, 1]"), low=0.0, high=2.0)
    assert np.allclose(json.loads(made.body(2 * x))["instances"], 2 * x - 1, atol=1e-6)
    made = dialect(ask('values = "uint8"'))
    assert json.loads(made.body(x))["instances"] == (x * 255).round().int().tolist()
    assert made.pixels.eight_bit


def test_a_png_may_be_part_of_a_text(dialect, x):
    text = ask('encoding = "png-base64"', body='{ image = "data:image/png;base64,$sample" }')
    image = json.loads(dialect(text).body(x[:1]))["image"]
    assert image.startswith("data:image/png;base64,")
    back = np.asarray(Image.open(io.BytesIO(base64.b64decode(image.split(",")[1]))))
    assert np.array_equal(back, (x[0, 0] * 255).round().numpy())


# Answers


@pytest.mark.parametrize(
    ("scores", "reply"),
    [
        ('"predictions"', {"predictions": [[1, 2.5], [3, None]]}),
        ('"a.0.b"', {"a": [{"b": [[1, 2.5], [3, None]]}]}),
        ('"*.out"', [{"out": [1, 2.5]}, {"out": [3, None]}]),
        ('["a.b", "*", 0]', {"a.b": [[[1, 2.5]], [[3, None]]]}),
        ('"0"', {"0": [[1, 2.5], [3, None]]}),
        ('""', [[1, 2.5], [3, None]]),
    ],
)
def test_scores_are_found(dialect, scores, reply):
    found = dialect(ask(scores=scores)).read(reply, 2)
    assert np.array_equal(found, [[1, 2.5], [3, np.nan]], equal_nan=True)


def test_scores_by_name_are_put_in_order(dialect):
    made = dialect(ask("", 'classes = ["cat", "dog"]', scores='"*"'))
    assert made.read([{"dog": 2, "cat": 1, "cow": 7}], 1).tolist() == [[1, 2]]
    with pytest.raises(RobustError, match="no score for the class 'dog'"):
        made.read([{"cat": 1}], 1)
    pairs = dialect(ask("", 'classes = ["cat", "dog"]\npair = ["name", "p"]', scores='"*"'))
    answer = [[{"name": "dog", "p": 2}, {"name": "cat", "p": 1}]]
    assert pairs.read(answer, 1).tolist() == [[1, 2]]


def test_one_sample_answers(dialect):
    made = dialect(ask(body='"$sample"', scores='"out"'))
    assert made.read({"out": [1, 2]}, 1).tolist() == [[1, 2]]
    assert made.read({"out": 0.5}, 1).tolist() == [[0.5]]


def test_labels_are_numbers_words_or_nothing(dialect):
    text = ask("", 'classes = ["cat", "dog"]').replace("scores", "labels")
    made = dialect(text)
    found = made.read({"predictions": ["dog", 0, ["cat"], None]}, 4)
    assert np.array_equal(found, [1, 0, 0, np.nan], equal_nan=True)


@pytest.mark.parametrize(
    ("reply", "match"),
    [
        ({"predictions": [[1, 2]]}, "1 answers for 2 samples"),
        ({"predictions": 3}, "3 for 2 samples"),
        ({"predictions": [[1, 2], [1]]}, "different numbers of scores"),
        ({"predictions": [[1, 2], ["a", 2]]}, "'a', where numbers should be"),
        ({"predictions": [[1, 2], [True, 2]]}, "True, where numbers should be"),
        ({"predictions": [{"a": 1}, {"a": 1}]}, r"response\.classes"),
        ({"outputs": 1}, "no 'predictions' .*but outputs"),
        ([1, 2], "no 'predictions'"),
    ],
)
def test_answers_that_will_never_do(dialect, reply, match):
    with pytest.raises(RobustError, match=match):
        dialect(ask()).read(reply, 2)


def test_an_error_with_status_200_may_pass(dialect):
    with pytest.raises(Again, match="busy"):
        dialect(ask()).read({"error": "busy"}, 2)


# Refusals


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("a = ", "is no TOML"),
        ("", "request is missing"),
        ("[request]\n[response]", "request.body is missing"),
        (ask(body='"x"'), r'needs "\$batch" or "\$sample"'),
        (ask(body='["$batch", "$batch"]'), r'needs "\$batch" or "\$sample"'),
        (ask(body='["$batch", "$sample"]'), r'needs "\$batch" or "\$sample"'),
        (ask(body='"x $batch"'), "stand alone"),
        (ask('item = "$sample$sample"'), "request.item needs"),
        (ask('item = ["$sample"]', body='"$sample"'), "request.item is for"),
        (ask('encoding = "jpeg"'), "one of nested-list, flat-list, png-base64"),
        (ask('layout = "hwc"'), "one of channels-first"),
        (ask("range = [1, 0]"), "two numbers, the lower first"),
        (ask('encoding = "png-base64"\nrange = [0, 1]'), "request.range means nothing here"),
        (ask("batch = true"), "request.batch means nothing here"),
        (ask("", "scors = 1"), "response.scors means nothing here"),
        (ask("", 'labels = "a"'), "scores or labels, one of them"),
        (ask("", 'classes = ["a", "a"]'), "different names"),
        (ask("", 'pair = ["a", "b"]'), "needs response.classes"),
        (ask(scores="3"), "path to the answer"),
        (ask(body='{ a = "$batch", b = 2020-01-01 }'), "date"),
        (ask(body='{ a = "$batch", b = "\\u0000" }'), "NUL"),
        ("headers = 3\n" + ask(), "headers is a table"),
        ('method = "GET"\n' + ask(), "one of POST, PUT"),
    ],
)
def test_what_a_template_cannot_say(write, text, match):
    with pytest.raises(RobustError, match=match) as error:
        read_template(write(text))
    assert "\n" not in str(error.value)


def test_the_templates_of_the_documentation_can_be_read(write):
    page = Path(__file__).parents[2] / "docs" / "oracles.md"
    blocks = re.findall(r"```toml\n(.*?)```", page.read_text(), re.DOTALL)
    assert len(blocks) == 4
    templates = [read_template(write(block)) for block in blocks]
    assert [template.labels for template in templates] == [False, False, False, True]
    assert [template.whole for template in templates] == [True, True, False, True]


def test_a_template_that_is_not_there(tmp_path):
    with pytest.raises(RobustError, match="cannot read the template"):
        read_template(tmp_path / "none.toml")


def test_normalisation_and_scaling_do_not_go_together(write):
    options = ServiceOptions(template=write(ask("range = [0, 255]")))
    with pytest.raises(RobustError, match="--mean and --std"):
        open_service("http://127.0.0.1/x", options, shape=(1, 8, 8), mean=[0.5], std=[0.5])


def test_the_hash_follows_the_template(write):
    hashes = set()
    for text in (ask(), ask(), ask('values = "uint8"')):
        options = ServiceOptions(template=write(text))
        hashes.add(open_service("http://127.0.0.1/x", options, shape=(1, 8, 8)).info.sha256)
    assert len(hashes) == 2
