"""Credentials go into headers, and are seen nowhere else; certificates are always checked."""

import logging
import shutil
import ssl
import subprocess
import traceback

import httpx
import pytest
from servers import Misbehaving

from robust.core.errors import RobustError
from robust.oracles import ServiceOptions, open_service
from robust.oracles.secrets import Secrets, check_url, is_loopback, refuse_clear_text

TOKEN = "s3cr3t-T0ken.of/mine="

TEMPLATE = """
[headers]
X-Api-Key = "$OUR_KEY"
X-Version = "2"
[request]
body = { instances = "$batch" }
[response]
scores = "predictions.*.scores"
"""


@pytest.fixture
def token(monkeypatch):
    monkeypatch.setenv("ROBUST_TOKEN", TOKEN)


def sent(server):
    return httpx.Headers(server.headers[-1])


def test_the_token_is_sent_and_seen_nowhere(server, x, token, caplog):
    caplog.set_level(logging.DEBUG)
    loaded = open_service(server.url(), ServiceOptions(retries=0), shape=(1, 8, 8))
    loaded.module(x[:2])
    assert sent(server)["authorization"] == f"Bearer {TOKEN}"
    texts = [repr(loaded), repr(loaded.info.to_dict()), repr(vars(loaded.module)), str(loaded)]
    texts += [repr(vars(loaded.module.sender)), repr(loaded.module.sender._secrets)]
    for fault in ("echo-token", "500", "drop", "html"):
        server.always = fault
        with pytest.raises(RobustError) as error:
            loaded.module(x[:2])
        texts += traceback.format_exception(error.value)
        texts.append(repr(error.value))
    assert "400 Bad Request: the header Bearer [hidden] is not known" in "".join(texts)
    assert TOKEN not in "".join(texts) + caplog.text


def test_a_token_is_sent_only_where_there_is_one(server, x, monkeypatch):
    def ask(**options):
        loaded = open_service(server.url(), ServiceOptions(**options), shape=(1, 8, 8))
        loaded.module(x[:1])
        return sent(server).get("authorization")

    assert ask() is None
    with pytest.raises(RobustError, match="variable MY_TOKEN is not set"):
        ask(token_env="MY_TOKEN")
    monkeypatch.setenv("MY_TOKEN", " abc\n")
    assert ask(token_env="MY_TOKEN") == "Bearer abc"
    monkeypatch.setenv("MY_TOKEN", "a\nb")
    with pytest.raises(RobustError, match="no header can have") as error:
        ask(token_env="MY_TOKEN")
    assert "a\nb" not in str(error.value)


def test_a_refusal_without_a_token_says_how_to_send_one(x, tmp_path):
    class Closed(Misbehaving):
        pass

    with Closed() as server:
        loaded = open_service(server.url(), ServiceOptions(), shape=(1, 8, 8))
        server.always = "401"
        with pytest.raises(RobustError, match="401 Unauthorized: .*ROBUST_TOKEN"):
            loaded.module(x[:1])


def test_headers_of_a_template_come_from_the_environment(server, x, tmp_path, monkeypatch):
    path = tmp_path / "t.toml"
    path.write_text(TEMPLATE)
    options = ServiceOptions(template=path, retries=0)
    with pytest.raises(RobustError, match="OUR_KEY is not set"):
        open_service(server.url("/predict"), options, shape=(1, 8, 8))
    monkeypatch.setenv("OUR_KEY", TOKEN)
    loaded = open_service(server.url("/predict"), options, shape=(1, 8, 8))
    loaded.module(x[:1])
    assert sent(server)["x-api-key"] == TOKEN
    assert sent(server)["x-version"] == "2"
    assert TOKEN not in repr(loaded)
    path.write_text(TEMPLATE.replace("$OUR_KEY", "abc"))
    with pytest.raises(RobustError, match="X-Api-Key looks like a credential"):
        open_service(server.url("/predict"), options, shape=(1, 8, 8))
    path.write_text(TEMPLATE.replace('X-Api-Key = "$', 'authorization = "Basic ${').replace(
        'KEY"', 'KEY}"'
    ))  # fmt: skip
    monkeypatch.setenv("ROBUST_TOKEN", "other")
    open_service(server.url("/predict"), options, shape=(1, 8, 8)).module(x[:1])
    assert sent(server)["authorization"] == f"Basic {TOKEN}"


@pytest.mark.parametrize(
    "url",
    [
        "http://me:hush@127.0.0.1/v2/models/net",
        "http://hush@127.0.0.1/v2/models/net",
        "http://127.0.0.1/v2/models/net?key=hush",
        "http://127.0.0.1/v2/models/net?access_token=hush",
        "http://127.0.0.1/v2/models/net?x=hush-hush-hush-hush-hush",
        "http://127.0.0.1:port/hush",
        "ftp://127.0.0.1/hush",
        "http:///hush",
    ],
)
def test_credentials_in_the_url_are_refused_and_not_repeated(url):
    with pytest.raises(RobustError) as error:
        open_service(url, ServiceOptions(), shape=(1, 8, 8))
    assert "hush" not in "".join(traceback.format_exception(error.value)).replace(url, "")
    assert "hush" not in str(error.value)


def test_harmless_queries_stay():
    assert (
        str(check_url("https://a.example/x?version=2.1#there")) == "https://a.example/x?version=2.1"
    )


def test_no_token_in_clear_text_over_a_network(token):
    secrets = Secrets(None)
    for url in ("http://a.example/x", "http://10.0.0.1/x", "http://localhost.a.example/x"):
        with pytest.raises(RobustError, match="clear text: use https") as error:
            refuse_clear_text(httpx.URL(url), secrets)
        assert TOKEN not in str(error.value)
    for url in (
        "https://a.example/x",
        "http://localhost/x",
        "http://[::1]/x",
        "http://127.0.0.2/x",
    ):
        refuse_clear_text(httpx.URL(url), secrets)
    with pytest.raises(RobustError, match="clear text"):
        open_service("http://a.example/v2/models/net", ServiceOptions(), shape=(1, 8, 8))


def test_without_a_token_http_will_do(monkeypatch):
    monkeypatch.delenv("ROBUST_TOKEN", raising=False)
    refuse_clear_text(httpx.URL("http://a.example/x"), Secrets(None))


def test_what_is_on_this_machine_needs_no_proxy(server, x, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    loaded = open_service(server.url(), ServiceOptions(retries=0), shape=(1, 8, 8))
    assert loaded.module(x[:1]).shape == (1, 10)
    assert is_loopback("localhost")
    assert not is_loopback("a.example")


@pytest.fixture
def certificate(tmp_path):
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    key, made = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-keyout", key, "-out", made, "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    return key, made


def test_a_certificate_that_nobody_vouches_for(certificate, x, tmp_path, token):
    key, made = certificate
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made, key)
    with Misbehaving() as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        url = server.url().replace("http:", "https:")
        with pytest.raises(RobustError, match=r"certificate is not trusted .*--ca-file"):
            open_service(url, ServiceOptions(), shape=(1, 8, 8))
        loaded = open_service(url, ServiceOptions(ca_file=made), shape=(1, 8, 8))
        assert loaded.module(x[:2]).shape == (2, 10)
        assert sent(server)["authorization"] == f"Bearer {TOKEN}"
    for bad in (tmp_path / "none.pem", key):
        with pytest.raises(RobustError, match="holds no certificates"):
            open_service(url, ServiceOptions(ca_file=bad), shape=(1, 8, 8))


def test_tls_where_there_is_none(server):
    url = server.url().replace("http:", "https:")
    with pytest.raises(RobustError, match="does not speak TLS"):
        open_service(url, ServiceOptions(), shape=(1, 8, 8))


def test_what_a_server_says_cannot_steer_a_terminal(server, x):
    server.metadata = {"name": "net", "inputs": [{"name": "\x1b[2J", "datatype": "X", "shape": []}]}
    with pytest.raises(RobustError) as error:
        open_service(server.url(), ServiceOptions(), shape=(1, 8, 8))
    assert "\x1b" not in str(error.value)
