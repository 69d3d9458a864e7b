"""A WebUI over HTTP, against a small server that answers as its API does."""

from __future__ import annotations

import base64
import io
import json
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lora_train.config import RunConfig
from lora_train.errors import LoraTrainError
from lora_train.hosts.remote import RemoteHost
from lora_train.hosts.standalone import StandaloneHost
from lora_train.runs.execute import run_training
from lora_train.runs.folder import Event
from lora_train.runs.stages import Stages

LOGIN = "Basic " + base64.b64encode(b"me:secret").decode()
OPEN = ("/sdapi/v1/refresh-loras",)
"""What needs no login: extensions' routes."""


class Server:
    """Answers as AUTOMATIC1111 1.10.1 did with `--api --api-server-stop --api-auth me:secret`, to the letter."""

    def __init__(self, checkpoint: Path) -> None:
        self.asked: list[tuple[str, Any]] = []
        self.caption: str | None = "a dog"
        self.has_tagger = True
        self.stoppable = True
        self.ends_by: tuple[str, ...] = ("server-stop", "server-kill")
        """Which routes really end it; with --nowebui only the second one does."""
        self.answers_stop = True
        """Whether the answer comes before the connection is closed."""
        self.chosen: str | None = f"{checkpoint.name} [0b76bdd3eb]"
        self.models = [_model(Path("/elsewhere/x.safetensors"), "ab12cd34ef"), _model(checkpoint, "0b76bdd3eb")]
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_args: Any) -> None: ...

            def _answer(self, content: Any, status: int = 200) -> None:
                data = json.dumps(content, separators=(",", ":")).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def _error(self, status: int, detail: str = "", error: str = "HTTPException", errors: str = "") -> None:
                self._answer({"error": error, "detail": detail, "body": "", "errors": errors}, status)

            def _refused(self) -> bool:
                """Unknown routes and methods come before the login."""
                name = self.path.rsplit("/", 1)[-1]
                if name in ("server-stop", "server-kill"):
                    if not outer.stoppable:
                        self._answer({"detail": "Not Found"}, 404)
                        return True
                    if self.command == "GET":
                        self._answer({"detail": "Method Not Allowed"}, 405)
                        return True
                given = self.headers.get("Authorization")
                if given != LOGIN and self.path not in OPEN:
                    self._error(401, "Incorrect username or password" if given else "Not authenticated")
                    return True
                return False

            def do_GET(self) -> None:
                answers = {
                    "/sdapi/v1/sd-models": outer.models,
                    "/sdapi/v1/options": {"samples_save": True, "sd_model_checkpoint": outer.chosen},
                    "/sdapi/v1/upscalers": [_upscaler("None"), _upscaler("Lanczos"), _upscaler("Nearest")],
                }
                if not self._refused():
                    if self.path in answers:
                        self._answer(answers[self.path])
                    else:
                        self._answer({"detail": "Not Found"}, 404)

            def do_POST(self) -> None:
                content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.asked.append((self.path, content))
                if not self._refused():
                    getattr(self, self.path.rsplit("/", 1)[-1].replace("-", "_"))(content)

            def interrogate(self, content: Any) -> None:
                if content["model"] == "deepdanbooru" and not outer.has_tagger:
                    return self._error(500, error="IndexError", errors="list index out of range")
                return self._answer({"caption": outer.caption})

            def extra_single_image(self, content: Any) -> None:
                picture = Image.open(io.BytesIO(base64.b64decode(content["image"])))
                size = (
                    int(picture.width * content["upscaling_resize"]),
                    int(picture.height * content["upscaling_resize"]),
                )
                buffer = io.BytesIO()
                picture.resize(size).save(buffer, "PNG")
                html = f"<p>Postprocess upscale by: {content['upscaling_resize']}.0</p>"
                self._answer({"html_info": html, "image": base64.b64encode(buffer.getvalue()).decode()})

            def unload_checkpoint(self, _content: Any) -> None:
                self._answer({})

            def reload_checkpoint(self, _content: Any) -> None:
                self._answer({})

            def refresh_loras(self, _content: Any) -> None:
                self._answer(None)

            def server_stop(self, _content: Any) -> None:
                if outer.answers_stop:
                    self.send_response(200)  # plain text without a content type
                    self.send_header("content-length", "9")
                    self.end_headers()
                    self.wfile.write(b"Stopping.")
                if "server-stop" in outer.ends_by:
                    outer.end()

            def server_kill(self, _content: Any) -> None:
                if "server-kill" in outer.ends_by:  # no answer: the process is gone
                    outer.end()

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}/"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def end(self) -> None:
        """From a thread of its own: the one that answers cannot wait for itself."""
        threading.Thread(target=self.close, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _model(path: Path, hash_: str) -> dict[str, Any]:
    return {
        "title": f"{path.name} [{hash_}]",
        "model_name": path.stem,
        "hash": hash_,
        "sha256": hash_ * 6,
        "filename": str(path),
        "config": None,
    }


def _upscaler(name: str) -> dict[str, Any]:
    return {"name": name, "model_name": None, "model_path": None, "model_url": None, "scale": 4.0}


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


@pytest.mark.parametrize("chosen", ["one.safetensors", "one.safetensors [0b76bdd3eb]", "one"])
def test_the_checkpoint_in_use_however_it_is_named(
    host: RemoteHost, server: Server, tmp_path: Path, chosen: str
) -> None:
    server.chosen = chosen
    assert host.current_checkpoint() == tmp_path / "one.safetensors"


def test_no_other_checkpoint_stands_in_for_one_that_is_elsewhere(host: RemoteHost, server: Server) -> None:
    server.chosen = "x.safetensors [ab12cd34ef]"
    assert host.current_checkpoint() is None
    server.chosen = None  # none is loaded yet: it would take its first, which is elsewhere, too
    assert host.current_checkpoint() is None
    server.models.reverse()
    assert host.current_checkpoint() is not None


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
    server.has_tagger = False
    with pytest.raises(LoraTrainError, match="IndexError: list index out of range.*press Interrogate once"):
        list(host.caption(pictures, "deepbooru"))
    with pytest.raises(LoraTrainError, match="no upscaler 'x'"):
        list(host.upscale(pictures, 2, "x"))


def test_its_checkpoint_is_unloaded_meanwhile(host: RemoteHost, server: Server) -> None:
    notes: list[str] = []
    with host.lend_gpu(note=notes.append):
        assert server.asked == [("/sdapi/v1/unload-checkpoint", {})]
    assert server.asked[-1][0] == "/sdapi/v1/reload-checkpoint" and not notes
    with host.lend_gpu(note=notes.append):
        server.close()
    assert "was not loaded again" in notes[0] and "does not answer" in notes[0]


class TestStopping:
    @pytest.fixture(autouse=True)
    def soon(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("lora_train.hosts.remote.LOOK_S", 0.05)

    @pytest.mark.parametrize("answers", [True, False])
    def test_it_is_gone_afterwards_whatever_it_answers(self, host: RemoteHost, server: Server, answers: bool) -> None:
        server.answers_stop = answers
        notes: list[str] = []
        host.check_shutdown()
        with host.lend_gpu(note=notes.append):
            host.shutdown()
            with pytest.raises(LoraTrainError, match="does not answer"):
                host.checkpoints()
        assert notes == [], "that its checkpoint does not come back is what was asked for"

    def test_one_that_only_says_so_is_killed(
        self, host: RemoteHost, server: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("lora_train.hosts.remote.STOPPING_S", 0.2)
        server.ends_by = ("server-kill",)
        host.shutdown()
        assert [path.rsplit("/", 1)[-1] for path, _ in server.asked] == ["server-stop", "server-kill"]
        server.ends_by = ()

    def test_one_that_stays_is_told(self, host: RemoteHost, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("STOPPING_S", "KILLED_S"):
            monkeypatch.setattr(f"lora_train.hosts.remote.{name}", 0.2)
        server.ends_by = ()
        with pytest.raises(LoraTrainError, match="still runs.*Stop it by hand"):
            host.shutdown()

    def test_one_that_cannot_is_told_before_anything_is_done(
        self, host: RemoteHost, server: Server, make_config: Callable[..., RunConfig]
    ) -> None:
        server.stoppable = False
        with pytest.raises(LoraTrainError, match="does not offer this.*--api-server-stop"):
            host.shutdown()
        with pytest.raises(LoraTrainError, match="--api-server-stop"):
            run_training(make_config(), host, stages=Stages(shutdown=True))
        with pytest.raises(LoraTrainError, match="does not answer"):
            RemoteHost("http://127.0.0.1:9").check_shutdown()

    def test_it_stops_after_all_that_needs_it_and_before_the_training(
        self, host: RemoteHost, server: Server, make_config: Callable[..., RunConfig], pictures: Path
    ) -> None:
        (pictures / "picture-0.txt").unlink()
        config = make_config(train={"max_train_steps": 2})
        prepare = {"operations": ["original", "interrogate"], "target": 64, "min_size": 0}
        config = RunConfig.from_dict(config.to_dict() | {"prepare": prepare})
        seen: list[Event] = []
        result = run_training(config, host, seen.append, stages=Stages(shutdown=True))
        assert result.path is not None and result.steps == 2
        routes = [path.rsplit("/", 1)[-1] for path, _ in server.asked]
        assert routes[-1] == "server-stop" and routes.count("interrogate") == 2
        told = [event.get("text") or event.get("stage") or event["kind"] for event in seen]
        stopped = told.index("The WebUI is stopped.")
        assert max(i for i, what in enumerate(told) if what == "latents") < stopped < told.index("step")
        assert not any("does not answer" in what for what in told)

    def test_a_failure_after_it_leaves_what_noprocess_needs(
        self,
        host: RemoteHost,
        server: Server,
        make_config: Callable[..., RunConfig],
        pictures: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        (pictures / "picture-0.txt").unlink()
        prepare = {"operations": ["original", "interrogate"], "target": 64, "min_size": 0}
        config = RunConfig.from_dict(make_config().to_dict() | {"prepare": prepare})

        def fails(_self: Any) -> int:
            raise RuntimeError("out of memory")

        with monkeypatch.context() as patched, pytest.raises(LoraTrainError, match="not enough memory"):
            patched.setattr("lora_train.train.loop.Trainer.run", fails)
            run_training(config, host, stages=Stages(shutdown=True))
        alone = StandaloneHost(host.data_dir())  # as with --offline: the WebUI is gone
        assert run_training(config, alone, stages=Stages(process=False)).steps == 3


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
    with pytest.raises(LoraTrainError, match="wants a login.*--user"):
        RemoteHost(server.address, "me", "wrong").shutdown()
    RemoteHost(server.address).refresh_loras()
    assert server.asked[-1] == ("/sdapi/v1/refresh-loras", {})
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
