"""A real WebUI on the CPU, with this extension and a checkpoint in a data folder of its own.

The checkpoint is the tiny one; for Forge, which knows checkpoints by their shapes and the tiny one by none, it is
SD 1.x at full size with random weights (10 GB of memory, a minute more).

`WEBUI_DIR` names the WebUI's folder, `WEBUI_PYTHON` its Python (default: the `venv` in that folder).
"""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from safetensors.torch import load_file, save_file

from lora_train.demo.checkpoint import NAME, export_checkpoint
from tests.full_size import write_folder

ROOT = Path(__file__).parents[2]
STARTED, START_S = "Startup time", 300


class WebuiServer:
    """Started by `start`, ended by `stop`; its data folder stays, so that it can be started again."""

    def __init__(self, folder: Path, data: Path) -> None:
        self.folder, self.data = folder, data
        self.is_forge = (folder / "modules_forge").is_dir()
        self.log = data / "log.txt"
        self._process: subprocess.Popen[bytes] | None = None
        (data / "extensions").mkdir(parents=True, exist_ok=True)
        (data / "extensions" / "lora-train").symlink_to(ROOT)
        self.checkpoint, self.side = f"{NAME}.safetensors", 128
        if self.is_forge:
            self.checkpoint, self.side = "full-size.safetensors", 64
            (data / "models" / "Stable-diffusion").mkdir(parents=True)
            with tempfile.TemporaryDirectory() as parts:
                save_file(write_folder(Path(parts)), data / "models" / "Stable-diffusion" / self.checkpoint)
        else:
            export_checkpoint(data / "models" / "Stable-diffusion")
        approx = folder / "models" / "VAE-approx"
        if approx.is_dir():
            shutil.copytree(approx, data / "models" / "VAE-approx")

    def add_checkpoint(self, name: str) -> Path:
        """Another checkpoint, of the same kind and with other weights."""
        folder = self.data / "models" / "Stable-diffusion"
        tensors = load_file(folder / self.checkpoint)
        save_file({key: value * 1.02 for key, value in tensors.items()}, folder / f"{name}.safetensors")
        if not self.is_forge:
            shutil.copyfile(folder / f"{NAME}.yaml", folder / f"{name}.yaml")
        return folder / f"{name}.safetensors"

    @property
    def loras(self) -> Path:
        return self.data / "models" / "Lora"

    @property
    def runs(self) -> Path:
        return self.data / "lora-train" / "runs"

    def start(self, more: Sequence[str] = (), settings: dict[str, Any] | None = None) -> str:
        """Start it and wait; returns its address."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        config = self.data / "config.json"
        config.write_text(json.dumps({"sd_model_checkpoint": self.checkpoint, **(settings or {})}))
        python = os.environ.get("WEBUI_PYTHON") or str(self.folder / "venv" / "bin" / "python")
        # Forge may serve files of its data folder only; without this its own scripts are missing in the page
        forge = ["--always-cpu", "--gradio-allowed-path", str(self.folder)]
        own = forge if self.is_forge else ["--use-cpu", "all"]
        arguments = ["--skip-prepare-environment", "--no-half", "--skip-torch-cuda-test", "--no-download-sd-model"]
        arguments += ["--api", "--port", str(port), "--data-dir", str(self.data), "--loglevel", "DEBUG", *own, *more]
        log = self.log.open("ab")
        log.truncate(0)
        self._process = subprocess.Popen(
            [python, "launch.py", *arguments],
            cwd=self.folder,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1", "PYTHONPATH": ""},
        )
        self.address = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + START_S
        while STARTED not in self.text():  # not the port: an early request can end it
            assert self._process.poll() is None and time.monotonic() < deadline, self.text()[-3000:]
            time.sleep(0.5)
        return self.address

    def text(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def kill(self) -> None:
        """As the system would: without a word."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(30)

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill()

    def ask(self, path: str, content: dict[str, Any] | None = None, method: str = "") -> Any:
        data = json.dumps(content).encode() if content is not None else None
        request = urllib.request.Request(
            self.address + path, data, {"Content-Type": "application/json"}, method=method or None
        )
        with urllib.request.urlopen(request, timeout=600) as answer:
            return json.loads(answer.read() or b"null")

    def pictures(self, prompt: str, count: int = 1) -> tuple[list[Image.Image], str]:
        """txt2img over the API: pictures and the first infotext."""
        answer = self.ask(
            "/sdapi/v1/txt2img",
            {
                "prompt": prompt,
                "seed": 1,
                "steps": 2 if self.is_forge else 10,
                "cfg_scale": 4,
                "width": self.side,
                "height": self.side,
                "sampler_name": "DPM++ 2M",
                "batch_size": count,
            },
        )
        made = [Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB") for text in answer["images"]]
        return made, json.loads(answer["info"])["infotexts"][0]
