"""A WebUI elsewhere, over its HTTP API (`--api`): captions, restoring, upscaling, and its GPU memory.

Its answers are those of AUTOMATIC1111 1.10.1, as tried: JSON everywhere except at `server-stop`, which answers
"Stopping." as plain text (a proxy in between may close the connection first), and with --nowebui answers that
but stops nothing; `server-kill` then ends it without an answer.
"""

from __future__ import annotations

import base64
import io
import json
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_train.errors import LoraTrainError, Problem
from lora_train.hosts.base import CAPTION_KINDS, Note, never
from lora_train.hosts.standalone import StandaloneHost

if TYPE_CHECKING:
    from PIL import Image

TIMEOUT_S = 300
STOPPING_S, KILLED_S, LOOK_S = 30.0, 10.0, 0.5
"""How long a WebUI may take to stop, and how often that is checked, in seconds."""
_HASH = re.compile(r"\s*\[[^]]+]\s*$")
"""What the WebUI appends to a checkpoint's name once it knows its hash."""
GATEWAYS = (502, 503, 504)
"""Status codes of a proxy whose server is gone."""


class RemoteHost(StandaloneHost):
    """Trains here and uses the models of the WebUI at `url`; its files count only if they are on this machine."""

    name = "remote WebUI"
    improves = True

    def __init__(self, url: str, user: str = "", password: str = "", data: Path | None = None) -> None:
        super().__init__(data)
        if not _is_address(url):
            raise LoraTrainError(
                "this is not an address of a WebUI.", url, "Give --server http://127.0.0.1:7860, for example."
            )
        self._url = url.rstrip("/")
        self._stopped = False
        self._login = base64.b64encode(f"{user}:{password}".encode()).decode() if user else ""

    def _ask(self, path: str, content: dict[str, Any] | None = None) -> Any:
        """GET, or POST with `content`; the JSON of the answer. Raises LoraTrainError with what to do."""
        try:
            with self._open(path, content) as answer:
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            raise self._refused(path, error) from error
        except (OSError, ValueError, RecursionError, HTTPException) as error:
            raise LoraTrainError(
                f"the WebUI does not answer ({str(getattr(error, 'reason', error)).strip()}).",
                f"{self._url}{path}",
                "Check that it runs, and the address given with --server.",
            ) from error

    def _open(self, path: str, content: dict[str, Any] | None = None, timeout: float = TIMEOUT_S) -> Any:
        headers = {"Content-Type": "application/json"}
        if self._login:
            headers["Authorization"] = f"Basic {self._login}"
        data = json.dumps(content).encode() if content is not None else None
        request = urllib.request.Request(f"{self._url}{path}", data, headers)
        return urllib.request.urlopen(request, timeout=timeout)

    def _answered(self, path: str, content: dict[str, Any], name: str) -> str:
        """The text of that name in the answer to a POST. Raises LoraTrainError, also where there is none."""
        answer = self._ask(path, content)
        if not isinstance(answer, dict) or not isinstance(answer.get(name), str):
            raise LoraTrainError(
                "this does not answer as a WebUI does.", f"{self._url}{path}", "Check the address given with --server."
            )
        return str(answer[name])

    def _refused(self, path: str, error: urllib.error.HTTPError) -> LoraTrainError:
        where = f"{self._url}{path}"
        if error.code in (401, 403):
            return LoraTrainError("the WebUI wants a login.", where, "Give --user and --password (its --api-auth).")
        if error.code == 404:
            hint = "--api-server-stop" if path.endswith("server-stop") else "--api"
            return LoraTrainError("the WebUI does not offer this.", where, f"Start it with {hint}.")
        try:
            answer = json.loads(error.read())
            reason = answer.get("errors") or answer.get("detail") or answer
            kind = answer.get("error") or ""
        except (ValueError, RecursionError, AttributeError, OSError):
            reason, kind = error.reason, ""
        if error.code == 500 and path.endswith("interrogate"):  # the sign of a model that could not be downloaded
            return self._captioner_failed(f"{kind}: {reason}".strip(": "))
        return LoraTrainError(f"the WebUI answered {error.code}: {reason}.", where, "Its own log says more.")

    def _captioner_failed(self, reason: str = "") -> LoraTrainError:
        what = f"the WebUI's captioner failed ({reason})." if reason else "the WebUI's captioner failed."
        return LoraTrainError(
            what, self._url, "Its log says why; its model may be missing: press Interrogate once in the WebUI itself."
        )

    def checkpoints(self) -> list[Path]:
        """See Host: those that are also on this machine."""
        listed = [Path(str(entry.get("filename"))) for entry in self._ask("/sdapi/v1/sd-models") or []]
        return [path for path in listed if path.is_file()]

    def current_checkpoint(self) -> Path | None:
        """See Host: None where it is not on this machine. Before the WebUI has loaded any, its first."""
        chosen = (self._ask("/sdapi/v1/options") or {}).get("sd_model_checkpoint") or ""
        for entry in self._ask("/sdapi/v1/sd-models") or []:
            if not chosen or chosen in _names_of(entry):
                path = Path(str(entry.get("filename")))
                return path if path.is_file() else None
        return None

    def caption_kinds(self) -> tuple[str, ...]:
        """See Host: every WebUI with an API has both."""
        return CAPTION_KINDS

    def caption(self, pictures: Iterable[Image.Image], kind: str) -> Iterator[str]:
        model = "deepdanbooru" if kind == "deepbooru" else "clip"
        for picture in pictures:
            text = self._answered("/sdapi/v1/interrogate", {"image": _encoded(picture), "model": model}, "caption")
            if text.rstrip().endswith("<error>"):
                raise self._captioner_failed()
            yield text

    def restore_faces(self, pictures: Iterable[Image.Image], weight: float) -> Iterator[Image.Image]:
        for picture in pictures:
            yield self._extra(picture, {"codeformer_visibility": 1, "codeformer_weight": weight, "upscaling_resize": 1})

    def upscale(self, pictures: Iterable[Image.Image], factor: float, name: str) -> Iterator[Image.Image]:
        there = [str(entry.get("name")) for entry in self._ask("/sdapi/v1/upscalers") or []]
        wanted = [name] if name else ["SwinIR_4x", "SwinIR 4x", "R-ESRGAN 4x+", "Lanczos"]
        chosen = next((t for w in wanted for t in there if t.lower() == w.lower()), None)
        if chosen is None:
            raise LoraTrainError(f"the WebUI has no upscaler {name!r} (there: {', '.join(there)}).", "upscale")
        for picture in pictures:
            yield self._extra(picture, {"upscaler_1": chosen, "upscaling_resize": factor})

    def _extra(self, picture: Image.Image, options: dict[str, Any]) -> Image.Image:
        from PIL import Image

        encoded = self._answered("/sdapi/v1/extra-single-image", {"image": _encoded(picture), **options}, "image")
        return Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB")

    @contextmanager
    def lend_gpu(self, stopped: Callable[[], bool] = never, note: Note = print) -> Iterator[None]:
        """See Host: its checkpoint is unloaded, and loaded again at the end. Generation does not wait meanwhile."""
        try:
            self._ask("/sdapi/v1/unload-checkpoint", {})
        except LoraTrainError as error:  # the training can continue without
            note(f"The WebUI's checkpoint was not unloaded: {error}")
            yield
            return
        try:
            yield
        finally:
            try:
                if not self._stopped:
                    self._ask("/sdapi/v1/reload-checkpoint", {})
            except LoraTrainError as error:
                note(f"The WebUI's checkpoint was not loaded again: {error}")

    def refresh_loras(self, changed: Path | None = None) -> None:
        """See Host; a WebUI that is not running is no reason to fail: it lists them when it starts."""
        with suppress(LoraTrainError):
            self._ask("/sdapi/v1/refresh-loras", {})

    def unreachable(self) -> list[Problem]:
        """See Host: checked before anything else, because otherwise all pictures would be processed first."""
        try:
            self.checkpoints()
        except LoraTrainError as error:
            return error.problems
        return []

    def check_shutdown(self) -> None:
        """See Host: the route exists only with --api-server-stop, and refuses GET."""
        path = "/sdapi/v1/server-stop"
        try:
            self._open(path).close()
        except urllib.error.HTTPError as error:
            if error.code != 405:
                raise self._refused(path, error) from error
        except (OSError, HTTPException):
            self._ask(path)  # raises with what is wrong

    def shutdown(self) -> None:
        """See Host: the server is gone when this returns."""
        self._end("/sdapi/v1/server-stop")
        if not self._gone_within(STOPPING_S):
            self._end("/sdapi/v1/server-kill")
            if not self._gone_within(KILLED_S):
                raise LoraTrainError("the WebUI said that it stops, but still runs.", self._url, "Stop it by hand.")
        self._stopped = True

    def _end(self, path: str) -> None:
        """Ask the server to end; its answer does not matter, nor does a missing one."""
        try:
            self._open(path, {}).close()
        except urllib.error.HTTPError as error:
            if error.code not in GATEWAYS:
                raise self._refused(path, error) from error
        except (OSError, HTTPException):
            pass

    def _gone_within(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while self._is_there():
            if time.monotonic() > deadline:
                return False
            time.sleep(LOOK_S)
        return True

    def _is_there(self) -> bool:
        try:
            self._open("/sdapi/v1/options", timeout=5).close()
        except urllib.error.HTTPError as error:
            return error.code not in GATEWAYS
        except urllib.error.URLError as error:
            return not isinstance(error.reason, ConnectionRefusedError)
        except (OSError, HTTPException):  # it is closing
            return True
        return True


def _names_of(entry: dict[str, Any]) -> set[str]:
    """What the setting of the chosen checkpoint may contain for this entry of the list."""
    title, path = str(entry.get("title") or ""), str(entry.get("filename") or "").replace("\\", "/")
    return {title, _HASH.sub("", title), str(entry.get("model_name") or title), path.rsplit("/", 1)[-1]}


def _is_address(url: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(url)
        whole = bool(parts.hostname) and parts.port != 0  # an impossible port raises ValueError
    except ValueError:
        return False
    return whole and parts.scheme in ("http", "https") and url.isprintable() and " " not in url


def _encoded(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()
