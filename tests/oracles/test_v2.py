"""The v2 protocol: what the metadata mean, and exact values there and back."""

import json

import numpy as np
import pytest
import torch
from servers import Misbehaving

from robust.core.errors import RobustError
from robust.oracles import ServiceOptions, open_service
from robust.oracles.pixels import numbers


def opened(server, **arguments):
    options = ServiceOptions(retries=0, **arguments.pop("options", {}))
    arguments.setdefault("shape", (1, 8, 8))
    return open_service(server.url(), options, **arguments)


def set_input(server, shape, datatype="FP32"):
    server.metadata["inputs"] = [{"name": "x", "datatype": datatype, "shape": shape}]


def set_outputs(server, *outputs):
    server.metadata["outputs"] = [
        {"name": name, "datatype": kind, "shape": shape} for name, kind, shape in outputs
    ]


def sent(server, number=-1):
    return json.loads(server.bodies[number])["inputs"][0]


# MLServer


def test_a_real_server_answers_with_the_scores_of_its_model(mlserver, x):
    url, folder = mlserver
    loaded = open_service(
        f"{url}/v2/models/net", ServiceOptions(rows_per_request=7), shape=(1, 8, 8)
    )
    kept = np.load(folder / "weights.npz")
    wanted = x.flatten(1).numpy() @ kept["weights"] + kept["bias"]
    np.testing.assert_allclose(loaded.module(x).numpy(), wanted, rtol=1e-5, atol=1e-5)
    assert loaded.module.requests == 6
    assert loaded.module.rows_answered == 40
    assert loaded.info.kind == "v2-service"
    assert loaded.info.num_classes == 10
    assert loaded.info.extra["server"].startswith("mlserver 1.")
    assert json.dumps(loaded.info.to_dict())


def test_values_reach_a_real_server_and_come_back_to_the_last_bit(mlserver):
    url, _ = mlserver
    bits = np.random.default_rng(0).integers(0, 2**32, 64 * 200, dtype=np.uint64)
    values = bits.astype(np.uint32).view(np.float32)
    values = np.where(np.isfinite(values), values, np.float32(0.1)).reshape(-1, 1, 8, 8)
    asked = torch.from_numpy(values)
    loaded = open_service(f"{url}/v2/models/echo", ServiceOptions(), shape=(1, 8, 8))
    assert torch.equal(loaded.module(asked), asked.flatten(1))


def test_a_real_server_is_asked_once_about_each_row_by_several_requests_at_once(mlserver, x):
    url, folder = mlserver
    options = ServiceOptions(concurrency=8, rows_per_request=1)
    loaded = open_service(f"{url}/v2/models/labels", options, shape=(1, 8, 8), num_classes=10)
    before = (folder / "labels.log").stat().st_size if (folder / "labels.log").exists() else 0
    answers = loaded.module(x)
    seen = np.frombuffer((folder / "labels.log").read_bytes()[before:], np.float32)
    assert sorted(map(bytes, seen.reshape(-1, 64))) == sorted(map(bytes, x.flatten(1).numpy()))
    kept = np.load(folder / "weights.npz")
    wanted = (x.flatten(1).numpy() @ kept["weights"] + kept["bias"]).argmax(1)
    assert answers.argmax(1).tolist() == wanted.tolist()
    assert loaded.info.access == "labels"
    assert torch.equal(answers.sum(1), torch.ones(40))


def test_bytes_reach_a_real_server(mlserver, x):
    url, _ = mlserver
    loaded = open_service(f"{url}/v2/models/bytes", ServiceOptions(), shape=(1, 8, 8))
    assert torch.equal(loaded.module(x), (x * 255).round().flatten(1))
    assert loaded.info.eight_bit
    assert loaded.info.extra["layout"] == "channels-last"


def test_a_model_that_a_real_server_lacks_is_said(mlserver):
    url, _ = mlserver
    with pytest.raises(RobustError, match="404 Not Found: .*other"):
        open_service(f"{url}/v2/models/other", ServiceOptions(), shape=(1, 8, 8))


# Numbers


def test_numbers_are_read_back_exactly():
    bits = np.random.default_rng(1).integers(0, 2**32, 100_000, dtype=np.uint64)
    values = bits.astype(np.uint32).view(np.float32)
    values = values[np.isfinite(values)]
    small = values[np.abs(values) < 1e8]
    for part in (small, values, np.float32([0.0, -0.0, 1.0, 123456789, 3e9])):
        for double in (False, True):
            back = json.loads(numbers(part, double=double))
            assert all(type(value) is float for value in back)
            assert np.array_equal(np.array(back).astype(np.float32), part)
    back = np.array(json.loads(numbers(small, double=True)))
    assert np.array_equal(back, small.astype(np.float64))


def test_fp64_gets_the_very_number(server, x):
    set_input(server, [-1, 1, 8, 8], "FP64")
    opened(server).module(x[:2])
    assert sent(server)["data"] == x[:2].flatten().double().tolist()


# Layouts


@pytest.mark.parametrize(
    ("said", "shape", "form"),
    [
        ([-1, 3, 4, 5], (3, 4, 5), (2, 3, 4, 5)),
        ([-1, 4, 5, 3], (3, 4, 5), (2, 4, 5, 3)),
        ([-1, -1, -1, 3], (3, 4, 5), (2, 4, 5, 3)),
        ([-1, -1, -1, -1], (3, 4, 5), (2, 3, 4, 5)),
        ([-1, 60], (3, 4, 5), (2, 60)),
        ([-1, -1], (3, 4, 5), (2, 60)),
        ([-1, 4, 5], (1, 4, 5), (2, 4, 5)),
        ([-1, 7], (7,), (2, 7)),
    ],
)
def test_samples_are_laid_out_as_the_metadata_say(said, shape, form):
    x = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    weights = np.eye(x[0].numel(), dtype=np.float32), np.zeros(x[0].numel(), dtype=np.float32)
    with Misbehaving(weights=weights) as server:
        set_input(server, said)
        loaded = opened(server, shape=shape)
        answers = loaded.module(x)
    assert tuple(sent(server)["shape"]) == form
    expected = x.movedim(1, -1) if len(form) == 4 and form[-1] == 3 else x
    assert torch.equal(answers, expected.flatten(1))
    assert loaded.info.shape == shape


def test_a_model_without_a_batch_dimension_gets_one_sample_a_request(server, x):
    set_input(server, [1, 8, 8])
    server.metadata["outputs"][0]["shape"] = [10]
    module = opened(server).module
    assert module.rows_per_request == 1
    assert module(x[:3]).shape == (3, 10)
    assert sent(server)["shape"] == [1, 8, 8]


def test_a_fixed_batch_is_filled_up_with_copies_and_their_answers_dropped(server, x):
    set_input(server, [16, 1, 8, 8])
    module = opened(server, options={"concurrency": 1}).module
    answers = module(x)
    assert [sent(server, number)["shape"][0] for number in range(3)] == [16, 16, 16]
    assert torch.allclose(answers, torch.from_numpy(server.scores(x.numpy())), atol=1e-4)
    assert module.rows_answered == 40


def test_the_shape_of_samples_is_taken_from_the_metadata_where_nobody_says_it(server):
    assert opened(server, shape=None).info.shape == (1, 8, 8)
    set_input(server, [-1, 32, 24, 3])
    assert opened(server, shape=None).info.shape == (3, 32, 24)
    set_input(server, [-1, -1, -1, 3])
    with pytest.raises(RobustError, match="does not say the shape"):
        opened(server, shape=None)


def test_bytes_are_rounded_in_sending(server, x):
    set_input(server, [-1, 1, 8, 8], "UINT8")
    loaded = opened(server, low=-1.0, high=3.0)
    loaded.module(x[:2] * 4 - 1)
    assert sent(server)["data"] == (x[:2] * 255).round().flatten().int().tolist()
    assert loaded.info.eight_bit


def test_mean_and_std_are_applied_before_sending(server, x):
    loaded = opened(server, mean=[0.5], std=[0.25])
    loaded.module(x[:2])
    assert torch.equal(torch.tensor(sent(server)["data"]), ((x[:2] - 0.5) / 0.25).flatten())
    assert loaded.info.mean == (0.5,)
    set_input(server, [-1, 1, 8, 8], "UINT8")
    with pytest.raises(RobustError, match="--mean and --std"):
        opened(server, mean=[0.5], std=[0.25])


# Outputs


def test_scores_are_preferred_to_labels_and_named_ones_to_others(server, x):
    set_outputs(server, ("label", "INT64", [-1]), ("scores", "FP32", [-1, 10]))
    assert opened(server).info.access == "scores"
    assert opened(server).module(x).shape == (40, 10)
    loaded = opened(server, options={"output_name": "label"}, num_classes=10)
    assert loaded.info.access == "labels"
    wanted = server.scores(x.numpy()).argmax(1)
    assert loaded.module(x).argmax(1).tolist() == wanted.tolist()
    set_outputs(server, ("embedding", "FP32", [-1, 99]), ("logits", "FP32", [-1, 10]))
    assert opened(server).info.extra["output"] == "logits"
    assert opened(server).info.num_classes == 10
    set_outputs(server, ("a", "FP32", [-1, 99]), ("b", "FP32", [-1, 10]))
    with pytest.raises(RobustError, match=r"several outputs, a .*b .*--output"):
        opened(server)
    assert opened(server, options={"output_name": "b"}).info.num_classes == 10


def test_a_label_outside_of_the_classes_is_refused(server, x):
    set_outputs(server, ("label", "INT64", [-1]))
    with pytest.raises(RobustError, match="say how many there are by --classes"):
        opened(server)
    with pytest.raises(RobustError, match=r"the class \d, but there are 2 "):
        opened(server, num_classes=2).module(x)


def test_an_output_is_what_the_metadata_said(server, x):
    module = opened(server).module
    set_outputs(server, ("scores", "INT64", [-1]))
    with pytest.raises(RobustError, match="'scores' is INT64, not scores"):
        module(x)
    module = opened(server, num_classes=10).module
    set_outputs(server, ("scores", "FP32", [-1, 10]))
    with pytest.raises(RobustError, match="'scores' is FP32, not classes"):
        module(x)


def test_probabilities_become_logits_where_the_user_says_so(x):
    weights = np.zeros((64, 4), dtype=np.float32), np.float32([0.1, 0.2, 0.3, 0.4])
    with Misbehaving(weights=weights) as server:
        answers = opened(server, probabilities=True).module(x[:3])
        assert torch.allclose(answers.exp(), torch.tensor([[0.1, 0.2, 0.3, 0.4]]).expand(3, 4))
        assert torch.equal(opened(server).module(x[:1])[0], torch.from_numpy(weights[1]))
    with (
        Misbehaving() as server,
        pytest.raises(RobustError, match="no probability: leave out --probabilities"),
    ):
        opened(server, probabilities=True).module(x[:3])


def test_metadata_that_say_nothing_need_names(server, x):
    del server.metadata["inputs"], server.metadata["outputs"]
    server.metadata["inputs"] = []
    with pytest.raises(RobustError, match="name one by --input"):
        opened(server)
    server.metadata["inputs"] = [{"name": "x", "datatype": "FP32", "shape": [-1, 1, 8, 8]}]
    assert opened(server).module(x).shape == (40, 10)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda m: m.update(inputs="none"), "no name, datatype and shape"),
        (lambda m: m["inputs"].append(m["inputs"][0]), "--input"),
        (lambda m: m["inputs"][0].update(datatype="BYTES"), "takes no FP32"),
        (lambda m: m["inputs"][0].update(datatype="BF16"), "takes no FP32"),
        (lambda m: m["inputs"][0].update(shape=[-1, 3, 8, 8]), "does not take samples of shape"),
        (lambda m: m["outputs"][0].update(datatype="BYTES"), "--template"),
    ],
)
def test_metadata_that_cannot_be_used_are_refused(server, change, match):
    server.metadata["inputs"] = [dict(server.metadata["inputs"][0])]
    change(server.metadata)
    if server.metadata["inputs"] != "none" and len(server.metadata["inputs"]) > 1:
        server.metadata["inputs"][1] = {**server.metadata["inputs"][1], "name": "y"}
    with pytest.raises(RobustError, match=match):
        opened(server)


def test_triton_says_how_many_samples_a_request_may_have(server, x):
    server.server_info = {"name": "triton", "version": "2.40"}
    server.config = {"max_batch_size": 4}
    module = opened(server).module
    module(x)
    assert module.rows_per_request == 4
    assert {sent(server, number)["shape"][0] for number in range(10)} == {4}


@pytest.mark.parametrize("path", ["/v2/models/net/", "/v2/models/net/infer"])
def test_addresses_that_mean_the_same(server, path, x):
    loaded = open_service(server.url(path), ServiceOptions(), shape=(1, 8, 8))
    assert loaded.module(x).shape == (40, 10)


def test_other_addresses_are_told_about_templates(server):
    for path in ("/", "/predict", "/v2/models", "/v1/models/net"):
        with pytest.raises(RobustError, match="--template"):
            open_service(server.url(path), ServiceOptions(), shape=(1, 8, 8))


def test_the_hash_tells_services_apart(server):
    first = opened(server).info.sha256
    assert opened(server).info.sha256 == first
    server.metadata["platform"] = "another"
    assert opened(server).info.sha256 != first


def test_nan_is_not_sent(server, x):
    module = opened(server).module
    x[0, 0, 0, 0] = float("nan")
    with pytest.raises(RobustError, match="not finite"):
        module(x[:5])
    assert not server.asked
