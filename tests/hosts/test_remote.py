"""A WebUI over HTTP, against a small server that answers as its API does."""

from __future__ import annotations

import base64
import io
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lora_train.errors import LoraTrainError
from lora_train.hosts.remote import RemoteHost

LOGIN = "Basic " + base64.b64encode(b"me:secret").decode()


class Server:
    def __init__(self, checkpoint: Path) -> None:
        self.asked: list[tuple[str, Any]] = []
        self.caption: str | None = "a dog"
        answers = {
            "/sdapi/v1/sd-models": [{"filename": str(checkpoint)}, {"filename": "/elsewhere/x.safetensors"}],
            "/sdapi/v1/options": {"sd_model_checkpoint": f"{checkpoint.name} [abc]"},
            "/sdapi/v1/upscalers": [{"name": "Lanczos"}],
        }
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_args: Any) -> None: ...

            def _answer(self, content: Any, status: int = 200) -> None:
                data = json.dumps(content).encode()
                self.send_response(status)
                self.end_headers()
                self.wfile.write(data)

            def do_GET(self) -> None:
                if self.headers.get("Authorization") != LOGIN:
                    return self._answer({}, 401)
                return self._answer(answers.get(self.path, {}))

            def do_POST(self) -> None:
                content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.asked.append((self.path, content))
                if self.path.endswith("interrogate"):
                    return self._answer({"caption": outer.caption})
                if self.path.endswith("extra-single-image"):
                    picture = Image.open(io.BytesIO(base64.b64decode(content["image"])))
                    size = [int(side * content["upscaling_resize"]) for side in picture.size]
                    buffer = io.BytesIO()
                    picture.resize(size).save(buffer, "PNG")  # type: ignore[arg-type]
                    return self._answer({"image": base64.b64encode(buffer.getvalue()).decode()})
                if self.path.endswith("server-stop"):
                    return self._answer({}, 404)
                if self.path.endswith("reload-checkpoint"):
                    return self._answer({"errors": "out of memory"}, 500)
                return self._answer(None)

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}/"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    checkpoint = tmp_path / "one.safetensors"
    checkpoint.write_bytes(b"x")
    made = Server(checkpoint)
    yield made
    made.close()


@pytest.fixture
def host(server: Server, tmp_path: Path) -> RemoteHost:
    return RemoteHost(server.address, "me", "secret", tmp_path / "data")


def test_what_it_has(host: RemoteHost, tmp_path: Path) -> None:
    assert host.checkpoints() == [tmp_path / "one.safetensors"]
    assert host.caption_kinds() == ("blip", "deepbooru") and host.face_weights() == []
    assert host.current_checkpoint() == tmp_path / "one.safetensors"


def test_captions_restoring_upscaling(host: RemoteHost, server: Server) -> None:
    pictures = [Image.new("RGB", (10, 6)), Image.new("RGB", (4, 4))]
    assert list(host.caption(pictures, "deepbooru")) == ["a dog", "a dog"]
    assert server.asked[0][1]["model"] == "deepdanbooru"
    assert [p.size for p in host.upscale(pictures, 2, "")] == [(20, 12), (8, 8)]
    assert server.asked[-1][1]["upscaler_1"] == "Lanczos"
    assert [p.size for p in host.restore_faces(pictures, 0.2)] == [(10, 6), (4, 4)]
    assert server.asked[-1][1]["codeformer_weight"] == 0.2
    server.caption = "a dog<error>"
    with pytest.raises(LoraTrainError, match="captioner failed"):
        list(host.caption(pictures, "blip"))
    with pytest.raises(LoraTrainError, match="no upscaler 'x'"):
        list(host.upscale(pictures, 2, "x"))


def test_its_checkpoint_is_unloaded_meanwhile(host: RemoteHost, server: Server) -> None:
    notes: list[str] = []
    with host.lend_gpu(note=notes.append):
        assert server.asked == [("/sdapi/v1/unload-checkpoint", {})]
    assert server.asked[-1][0] == "/sdapi/v1/reload-checkpoint"
    assert "was not loaded again" in notes[0] and "out of memory" in notes[0]


def test_something_else_at_the_address_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            there, _ = listening.accept()
            with there:
                there.recv(10_000)
                there.sendall(b"SSH-2.0-OpenSSH\r\n")

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(LoraTrainError, match="does not answer.*--server"):
            RemoteHost(f"http://127.0.0.1:{listening.getsockname()[1]}").checkpoints()


def test_what_goes_wrong_is_told(server: Server, host: RemoteHost) -> None:
    with pytest.raises(LoraTrainError, match="wants a login.*--user"):
        RemoteHost(server.address).checkpoints()
    with pytest.raises(LoraTrainError, match="does not offer this.*--api-server-stop"):
        host.shutdown()
    with pytest.raises(LoraTrainError, match="does not answer"):
        RemoteHost("http://127.0.0.1:9").checkpoints()
    for url in ("localhost:7860", "https://", "http://[::1", "http://a b", "http://a:99999"):
        with pytest.raises(LoraTrainError, match="not an address"):
            RemoteHost(url)
    server.caption = None
    with pytest.raises(LoraTrainError, match="does not answer as a WebUI"):
        list(host.caption([Image.new("RGB", (4, 4))], "blip"))
    notes: list[str] = []
    with RemoteHost("http://127.0.0.1:9").lend_gpu(note=notes.append):
        pass
    assert "was not unloaded" in notes[0]
    RemoteHost("http://127.0.0.1:9").refresh_loras()
