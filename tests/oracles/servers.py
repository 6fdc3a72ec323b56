"""Servers for tests: MLServer with a model of ours, and one that misbehaves to order.

The latter runs in a thread (`Misbehaving`), or as a process that can be killed and started again on
the same port (`python servers.py --port P --log FILE`, or `start_process`). Both answer with a
linear classifier of the digits, about 90 % accurate, or with weights from a file.
"""

import argparse
import base64
import collections
import hashlib
import http.server
import importlib.util
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import numpy as np

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
HAS_MLSERVER = importlib.util.find_spec("mlserver") is not None


def digits_weights():
    """Linear scores from the class means of the digits: float32 (64, 10) and (10,)."""
    from sklearn.datasets import load_digits

    data = load_digits()
    x = data.data / 16
    means = np.stack([x[data.target == k].mean(0) for k in range(10)])
    weights, bias = 2 * means.T, -(means**2).sum(1)
    return weights.astype(np.float32), bias.astype(np.float32)


def row_hash(values):
    """Names one row of float32 values, however they were sent."""
    data = np.ascontiguousarray(values, dtype=np.float32).tobytes()
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class Misbehaving(http.server.ThreadingHTTPServer):
    """A v2 service at /v2/models/net, and JSON services at /predict, /labels and /image.

    weights     float32 (D, K) and (K,)
    metadata    of the v2 model; changed by tests
    faults      one for each coming request about samples: None is a good answer. They are:
                "500", "404:0.3" (after so long), "429", "429:1.5" (Retry-After), "429:DATE",
                "slow:SECONDS", "drip", "drop" (no answer), "lost" (counted as answered, and
                no answer), "truncate", "html", "nan", "error200", "redirect", "giant",
                "rows", "width", "count", "echo-token"
    always      a fault for every request after those
    every       with `fault`: each so many requests one has it
    answered    hashes of the rows that were answered, in order
    log         file to which they are appended, a line each, once the answer is sent: a server that
                is killed may have sent one more
    asked       hashes of all rows that came in
    connections how many were opened
    idle        seconds after which a connection without requests is closed
    """

    daemon_threads = True
    request_queue_size = 64
    allow_reuse_address = True

    def __init__(self, port=0, log=None, weights=None, delay=0.0):
        super().__init__(("127.0.0.1", port), _Handler)
        self.weights = weights or digits_weights()
        size, classes = self.weights[0].shape
        self.metadata = {
            "name": "net",
            "versions": ["1"],
            "platform": "test",
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 1, 8, 8]}],
            "outputs": [{"name": "scores", "datatype": "FP32", "shape": [-1, classes]}],
        }
        if size != 64:
            self.metadata["inputs"][0]["shape"] = [-1, size]
        self.faults, self.always = collections.deque(), None
        self.every, self.fault = 0, None
        self.delay, self.log = delay, log
        self.answered, self.asked, self.headers, self.bodies = [], [], [], []
        self.times = []
        self.connections = self.requests = self.at_once = self.most_at_once = 0
        self.server_info = {"name": "misbehaving", "version": "1"}
        self.config = self.idle = None
        self.lock = threading.Lock()

    def url(self, path="/v2/models/net"):
        return f"http://127.0.0.1:{self.server_address[1]}{path}"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address):
        pass  # a client that hangs up is what some tests are about

    def next_fault(self):
        with self.lock:
            self.requests += 1
            if self.faults:
                return self.faults.popleft()
            if self.every and self.requests % self.every == 0:
                return self.fault
            return self.always

    def record(self, rows):
        if self.log is not None:
            with self.lock, Path(self.log).open("a") as file:
                file.write("".join(row + "\n" for row in rows))

    def scores(self, x):
        """Float32 scores (n, K)."""
        weights, bias = self.weights
        return (x.reshape(len(x), -1).astype(np.float32) @ weights + bias).astype(np.float32)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def setup(self):
        self.timeout = self.server.idle
        super().setup()
        with self.server.lock:
            self.server.connections += 1

    def log_message(self, *_):
        pass

    def reply(self, value, status=200, headers=(), kind="application/json", cut=None):
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        for name, text in headers:
            self.send_header(name, text)
        self._headers_buffer.append(b"\r\n")
        head = b"".join(self._headers_buffer)
        self._headers_buffer = []
        self.wfile.write(head + (data if cut is None else data[:cut]))  # one packet, one write
        if cut is not None:
            self.close_connection = True

    def do_GET(self):
        known = {
            "/v2": self.server.server_info,
            "/v2/models/net": self.server.metadata,
            "/v2/models/net/config": self.server.config,
        }
        found = known.get(self.path)
        if found is None:
            self.reply({"error": f"nothing at {self.path}"}, 404)
        else:
            self.reply(found)

    def do_POST(self):
        server = self.server
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with server.lock:
            server.headers.append(dict(self.headers))
            server.bodies.append(body)
            server.times.append(time.monotonic())
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
        try:
            self.answer(json.loads(body))
        finally:
            with server.lock:
                server.at_once -= 1

    def answer(self, request):
        server = self.server
        fault, _, detail = (server.next_fault() or "").partition(":")
        x, shape = _samples(self.path, request, server.metadata)
        rows = [row_hash(row) for row in x]
        with server.lock:
            server.asked += rows
        if server.delay:
            time.sleep(server.delay)
        if fault == "slow":
            time.sleep(float(detail))
        elif self.fail(fault, detail):
            return
        scores = server.scores(x)
        if fault == "nan":
            scores[0] = np.nan
        elif fault == "rows":
            scores = scores[:-1]
        elif fault == "width":
            scores = scores[:, :-1]
        reply = _answer(self.path, scores, server.metadata, shape)
        if fault == "count":
            reply["outputs"][0]["data"] = reply["outputs"][0]["data"][:-1]
        if fault == "lost":
            server.answered += rows
            server.record(rows)
            self.close_connection = True
        elif fault == "truncate":
            self.reply(reply, cut=40)
        elif fault == "drip":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
            for _ in range(100):
                self.wfile.write(b" ")
                time.sleep(0.05)
        else:
            server.answered += rows  # first, so that who has the answer sees it here
            self.reply(reply)
            server.record(rows)

    def fail(self, fault, detail):
        """Whether there is no answer but this."""
        token = self.headers.get("Authorization", "none")
        if fault in ("401", "404", "500", "503"):
            time.sleep(float(detail or 0))
            self.reply({"error": f"failed with {fault}\nand more"}, int(fault))
        elif fault == "429":
            self.reply({"error": "slow down"}, 429, [("Retry-After", detail)] if detail else ())
        elif fault == "drop":
            self.close_connection = True
        elif fault == "html":
            self.reply(b"<html>all is well</html>", kind="text/html")
        elif fault == "error200":
            self.reply({"error": "out of memory"})
        elif fault == "redirect":
            self.reply({}, 307, [("Location", "https://me:hush@elsewhere.example/infer?key=hush")])
        elif fault == "giant":
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.close_connection = True
            for _ in range(80):
                self.wfile.write(b" " * 2**20)
        elif fault == "echo-token":
            self.reply({"error": f"the header {token} is not known"}, 400)
        else:
            return False
        return True


def _samples(path, request, metadata):
    """The rows of a request, (n, …), and their shape as it was sent."""
    if path.endswith("/infer"):
        (slot,) = request["inputs"]
        x = np.array(slot["data"], dtype=np.float64).reshape(slot["shape"])
        if slot["datatype"] == "UINT8":
            assert all(type(value) is int for value in slot["data"])
        said = metadata["inputs"][0]["shape"]
        return (x if len(said) == len(x.shape) and said[0] in (-1, len(x)) else x[None]), x.shape
    if path == "/image":
        from PIL import Image

        images = [
            np.asarray(Image.open(io.BytesIO(base64.b64decode(one["b64"]))))
            for one in request["instances"]
        ]
        return np.stack(images) / np.float32(255), None
    return np.array(request["instances"], dtype=np.float64), None


def _answer(path, scores, metadata, shape):
    if path == "/labels":
        return {"predictions": [{"label": WORDS[row.argmax()]} for row in scores]}
    if path in ("/predict", "/image"):
        return {"predictions": [{"scores": [float(v) for v in row]} for row in scores]}
    outputs = []
    for slot in metadata.get("outputs") or [{"name": "scores", "datatype": "FP32"}]:
        if slot["datatype"] == "INT64":
            values = scores.argmax(1)
        else:
            values = scores
        data = [None if v != v else v for v in values.reshape(-1).tolist()]
        outputs.append({**slot, "shape": list(values.shape), "data": data})
    return {"model_name": "net", "model_version": "1", "outputs": outputs}


def start_process(port=0, log=None, *options):
    """The misbehaving server as a process, once it answers: (process, port)."""
    command = [sys.executable, str(Path(__file__).resolve()), "--port", str(port)]
    command += ["--log", str(log)] if log else []
    process = subprocess.Popen(
        [*command, *map(str, options)], stdout=subprocess.PIPE, text=True, env=_quiet()
    )
    line = process.stdout.readline()
    if not line.startswith("ready "):
        raise RuntimeError(f"the server did not start: {line}")
    return process, int(line.split()[1])


def kill(process):
    """End a process at once, as by a power cut."""
    process.send_signal(signal.SIGKILL)
    process.wait()


_RUNTIME = '''
import numpy as np
from mlserver import MLModel
from mlserver.types import InferenceResponse, ResponseOutput


class Net(MLModel):
    """Linear scores of each row, or the row itself; appends the rows to a log."""

    async def load(self):
        kept = np.load("FOLDER/weights.npz")
        self.weights, self.bias = kept["weights"], kept["bias"]
        return True

    async def predict(self, payload):
        slot = payload.inputs[0]
        kind = np.float64 if slot.datatype == "FP64" else np.float32
        x = np.array(slot.data.root, dtype=kind).reshape(slot.shape)
        x = x.reshape(len(x), -1)
        with open("FOLDER/" + self.name + ".log", "ab") as file:
            file.write(x.tobytes())
        name, out = "scores", x
        if self.name not in ("echo", "bytes"):
            out = x @ self.weights + self.bias
        kind = "FP64" if out.dtype == np.float64 else "FP32"
        if self.name == "labels":
            name, out, kind = "label", out.argmax(1), "INT64"
        return InferenceResponse(
            model_name=self.name,
            outputs=[
                ResponseOutput(
                    name=name, shape=list(out.shape), datatype=kind, data=out.ravel().tolist()
                )
            ],
        )
'''


def start_mlserver(folder, weights=None):
    """MLServer with the models net, labels, echo and bytes, once they are ready: (process, URL).

    Each appends the rows it answers to folder/NAME.log, as raw float32. echo and bytes answer with
    the row itself.
    """
    folder = Path(folder)
    weights, bias = weights or digits_weights()
    np.savez(folder / "weights.npz", weights=weights, bias=bias)
    (folder / "runtime_of_ours.py").write_text(_RUNTIME.replace("FOLDER", str(folder)))
    http_port, grpc_port, metrics_port = free_ports(3)
    (folder / "settings.json").write_text(
        json.dumps(
            {
                "host": "127.0.0.1",
                "http_port": http_port,
                "grpc_port": grpc_port,
                "metrics_port": metrics_port,
                "parallel_workers": 0,
                "debug": False,
            }
        )
    )
    outputs = {
        "net": {"name": "scores", "datatype": "FP32", "shape": [-1, 10]},
        "labels": {"name": "label", "datatype": "INT64", "shape": [-1]},
        "echo": {"name": "scores", "datatype": "FP32", "shape": [-1, 64]},
        "bytes": {"name": "scores", "datatype": "FP32", "shape": [-1, 64]},
    }
    for name, output in outputs.items():
        (folder / name).mkdir()
        settings = {
            "name": name,
            "implementation": "runtime_of_ours.Net",
            "platform": "numpy",
            "inputs": [
                {
                    "name": "image",
                    "datatype": "UINT8" if name == "bytes" else "FP32",
                    "shape": [-1, 8, 8, 1] if name == "bytes" else [-1, 1, 8, 8],
                }
            ],
            "outputs": [output],
        }
        (folder / name / "model-settings.json").write_text(json.dumps(settings))
    log = (folder / "mlserver.log").open("wb")
    process = subprocess.Popen(
        [sys.executable, "-c", "from mlserver.cli import main; main()", "start", str(folder)],
        cwd=folder,
        stdout=log,
        stderr=subprocess.STDOUT,
        env={**_quiet(), "PYTHONPATH": str(folder)},
    )
    url = f"http://127.0.0.1:{http_port}"
    for name in outputs:
        _wait_until_ready(f"{url}/v2/models/{name}/ready", process, folder / "mlserver.log")
    return process, url


def _wait_until_ready(url, process, log):
    for _ in range(1200):
        if process.poll() is not None:
            raise RuntimeError(f"MLServer ended: {log.read_text()[-2000:]}")
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"MLServer did not start: {log.read_text()[-2000:]}")


def _quiet():
    return {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--log")
    parser.add_argument("--weights", help=".npz with weights and bias")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds that each answer takes")
    parser.add_argument("--every", type=int, default=0)
    parser.add_argument("--fault")
    parser.add_argument("--metadata", help="JSON, instead of the usual")
    given = parser.parse_args()
    weights = None
    if given.weights:
        kept = np.load(given.weights)
        weights = kept["weights"], kept["bias"]
    server = Misbehaving(given.port, given.log, weights, given.delay)
    server.every, server.fault = given.every, given.fault
    if given.metadata:
        server.metadata = json.loads(given.metadata)
    print("ready", server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
