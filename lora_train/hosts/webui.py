"""The AUTOMATIC1111 WebUI, and what its forks share with it. Written for 1.10.1."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_train.errors import LoraTrainError, Problem
from lora_train.hosts.base import CAPTION_KINDS, Note, never
from lora_train.hosts.postponing import PostponedSettings
from lora_train.hosts.queueing import interruptible, refusing, turn
from lora_train.hosts.settings import KEEP_IN_RAM, REFUSE, Settings

if TYPE_CHECKING:
    from PIL import Image

log = logging.getLogger("lora_train")
CHECKPOINT_SUFFIXES = (".safetensors", ".ckpt")


def task_id(run: str) -> str:
    """The id of a run in the WebUI's progress routes."""
    return f"task(lora_train-{run})"


class WebuiHost:
    """Every method imports what it needs, so that a WebUI that lacks one thing loses only that."""

    name = "AUTOMATIC1111 WebUI"
    improves = True
    downloads = True
    _tokenizer_folders: tuple[str, ...] = ()
    """Patterns of folders with tokenizers, below the host's own folder."""
    _lent = False
    """Whether the WebUI's queue is held by a training now."""

    def checkpoints(self) -> list[Path]:
        from modules import sd_models

        files = [Path(info.filename) for info in sd_models.checkpoints_list.values()]
        return [path for path in files if path.suffix.lower() in CHECKPOINT_SUFFIXES]

    def look_for_checkpoints(self) -> None:
        from modules import sd_models, shared

        options: dict[str, Any] = getattr(shared.opts, "data", {})
        chosen = options.get("sd_model_checkpoint")
        try:
            sd_models.list_models()
        except Exception:  # the list can also be refreshed by hand
            log.exception("the WebUI's list of checkpoints could not be refreshed")
        if chosen is not None:
            options["sd_model_checkpoint"] = chosen  # with --ckpt, listing selects that one

    def current_checkpoint(self) -> Path | None:
        """See Host: the one chosen at the top of the page, with which the next picture is made; nothing is loaded."""
        from modules import sd_models

        from lora_train.hosts.lending import chosen_checkpoint

        info = chosen_checkpoint() or getattr(self._loaded_model(), "sd_checkpoint_info", None)
        if info is None:
            info = next(iter(sd_models.checkpoints_list.values()), None)
        return Path(info.filename) if info is not None else None

    def _loaded_model(self) -> Any:
        from modules import sd_models

        return sd_models.model_data.sd_model

    def tokenizers(self) -> list[Any]:
        """See Host: those of the CLIP text encoders in the loaded model, then those among the host's files."""
        return self._loaded_tokenizers() + self._tokenizers_in_files()

    def _loaded_tokenizers(self) -> list[Any]:
        from lora_train.hosts.ldm_modules import tokenizers_of

        return tokenizers_of(self._loaded_model())

    def _tokenizers_in_files(self) -> list[Any]:
        """The first CLIP tokenizer, in a list."""
        from modules import paths_internal
        from transformers import CLIPTokenizer

        from lora_train.models.tokenizers import VOCABULARY_SIZE

        root = Path(paths_internal.script_path)
        for folder in (folder for pattern in self._tokenizer_folders for folder in sorted(root.glob(pattern))):
            if all((folder / name).is_file() for name in ("vocab.json", "merges.txt")):
                try:
                    tokenizer = CLIPTokenizer.from_pretrained(folder)
                except Exception:  # of another kind, whatever its library raises
                    log.debug("no CLIP tokenizer: %s", folder, exc_info=True)
                    continue
                if len(tokenizer) == VOCABULARY_SIZE:
                    return [tokenizer]
        return []

    def device(self) -> str:
        """See Host: the GPU of `--device-id`."""
        from modules import devices

        named = str(getattr(devices, "device", ""))
        return named if named.startswith("cuda:") else "auto"

    def lora_dir(self) -> Path:
        from modules import paths, shared

        named = getattr(shared.cmd_opts, "lora_dir", None)
        if named is None:  # forks with several folders
            named = next(iter(getattr(shared.cmd_opts, "lora_dirs", None) or ()), None)
        return Path(named or Path(paths.models_path) / "Lora").absolute()

    def data_dir(self) -> Path:
        from modules import paths_internal

        named = str(self.settings()["data_dir"]).strip()
        return (Path(named) if named else Path(paths_internal.data_path) / "lora-train").absolute()

    def settings(self) -> Settings:
        from modules import shared

        return Settings(shared.opts)

    def may_read(self, path: Path) -> bool:
        """See Host: anything on one's own machine; else only the WebUI's folders and those named in the settings."""
        from modules import shared

        options = shared.cmd_opts
        exposed = any(getattr(options, name, None) for name in ("share", "listen", "ngrok", "server_name"))
        if not exposed and not getattr(options, "hide_ui_dir_config", False):
            return True
        resolved = path.expanduser().resolve()
        return any(resolved.is_relative_to(folder) for folder in self._readable_folders())

    def may_write(self, path: Path) -> bool:
        """See Host: below the WebUI's folders and those named in the settings."""
        resolved = path.expanduser().resolve()
        return any(resolved.is_relative_to(folder) for folder in self._readable_folders())

    def may_run_programs(self) -> bool:
        """See Host: where the settings allow it, and not where others could change the settings.

        The WebUI itself then installs no extensions, for the same reason (`disable_extension_access`).
        """
        try:
            from modules import shared
        except ImportError:
            return False
        open_to_others = bool(getattr(shared.cmd_opts, "disable_extension_access", False))
        return bool(self.settings()["programs"]) and not open_to_others

    def _readable_folders(self) -> list[Path]:
        from modules import paths_internal, shared

        named = str(self.settings()["readable"]).replace("\n", ",").split(",")
        folders = [paths_internal.data_path, paths_internal.models_path, self.lora_dir(), self.data_dir()]
        folders += [name.strip() for name in named if name.strip()]
        folders += getattr(shared.cmd_opts, "gradio_allowed_path", None) or []
        return [Path(folder).expanduser().resolve() for folder in folders]

    def caption_kinds(self) -> tuple[str, ...]:
        """See Host: those whose modules it has."""
        found = []
        for kind in CAPTION_KINDS:
            try:
                self._captioner(kind)
            except (AttributeError, ImportError, LoraTrainError):
                continue
            found.append(kind)
        return tuple(found)

    def face_weights(self) -> list[Path]:
        """See Host: its face restorers keep them beside their own."""
        from modules import paths, shared

        named = [getattr(shared.cmd_opts, name, None) for name in ("gfpgan_models_path", "codeformer_models_path")]
        usual = [Path(paths.models_path) / name for name in ("GFPGAN", "Codeformer", "facexlib")]
        return list(dict.fromkeys([*(Path(name) for name in named if name), *usual]))

    def _captioner(self, kind: str) -> tuple[Callable[[], Any], Callable[[Any], str], Callable[[], Any]]:
        return self._deepbooru() if kind == "deepbooru" else self._blip()

    def caption(self, pictures: Iterable[Image.Image], kind: str) -> Iterator[str]:
        """See Host: the WebUI's BLIP and DeepDanbooru."""
        try:
            start, one, unload = self._captioner(kind)
        except (AttributeError, ImportError) as error:
            raise LoraTrainError(f"this {self.name} has no {kind} ({error}).", "captions", "Update it.") from error
        yield from self._by_model(pictures, start, one, unload, f"the WebUI's captioner ({kind})")

    def _blip(self) -> tuple[Callable[[], Any], Callable[[Any], str], Callable[[], Any]]:
        from modules import shared

        interrogator = shared.interrogator
        # not .interrogate(): it adds CLIP's artists, resets the job state, and hides errors in its text
        return interrogator.load, interrogator.generate_caption, self._unload_helpers

    def _deepbooru(self) -> tuple[Callable[[], Any], Callable[[Any], str], Callable[[], Any]]:
        from modules import deepbooru

        model = deepbooru.model
        return model.start, lambda picture: model.tag_multi(picture, True), self._unload_helpers

    def restore_faces(self, pictures: Iterable[Image.Image], weight: float) -> Iterator[Image.Image]:
        """See Host: CodeFormer, else GFPGAN."""
        import numpy as np
        from modules import shared
        from PIL import Image

        by_name = {restorer.name(): restorer for restorer in shared.face_restorers}
        restorer = by_name.get("CodeFormer") or by_name.get("GFPGAN")
        if restorer is None:
            raise LoraTrainError("the WebUI has no face restoration.", "restore", "Switch it off.")

        def one(picture: Image.Image) -> Image.Image:
            before = np.array(picture.convert("RGB"))
            after = restorer.restore(before, w=weight) if restorer.name() == "CodeFormer" else restorer.restore(before)
            # without its weights the WebUI only warns; a picture without a face is also returned unchanged
            if getattr(restorer, "net", before) is None:
                raise RuntimeError("its weights are missing and could not be downloaded")
            return Image.fromarray(after)

        yield from self._by_model(pictures, lambda: None, one, self._unload_helpers, f"{restorer.name()}")

    def upscale(self, pictures: Iterable[Image.Image], factor: float, name: str) -> Iterator[Image.Image]:
        """See Host. Without a name SwinIR is used, else any ESRGAN, else Lanczos."""
        from modules import shared

        upscaler = self._upscaler(list(shared.sd_upscalers), name)

        def one(picture: Image.Image) -> Image.Image:
            before = picture.convert("RGB")
            after: Image.Image = upscaler.scaler.upscale(before, factor, upscaler.data_path)
            return after

        yield from self._by_model(pictures, lambda: None, one, self._unload_helpers, f"the upscaler {upscaler.name}")

    @staticmethod
    def _upscaler(there: list[Any], name: str) -> Any:
        for wanted in [name] if name else ["SwinIR_4x", "SwinIR 4x", "R-ESRGAN 4x+", "ESRGAN_4x", "Lanczos"]:
            for upscaler in there:
                if upscaler.name.lower() == wanted.lower():
                    return upscaler
        listed = ", ".join(upscaler.name for upscaler in there) or "none"
        raise LoraTrainError(f"the WebUI has no upscaler {name!r} (there: {listed}).", "upscale", "Choose another.")

    def _by_model(
        self,
        pictures: Iterable[Any],
        start: Callable[[], Any],
        one: Callable[[Any], Any],
        unload: Callable[[], Any],
        what: str,
    ) -> Iterator[Any]:
        """Apply a model of the WebUI to each picture, between other jobs in its queue, and unload it at the end."""
        from modules import call_queue

        used = False
        try:
            for picture in pictures:
                with call_queue.queue_lock:
                    try:
                        if not used:
                            used = True
                            start()
                        result = one(picture)
                    except LoraTrainError:
                        raise
                    except Exception as error:
                        log.exception("%s failed", what)
                        raise LoraTrainError(
                            f"{what} failed ({type(error).__name__}: {error}).",
                            "",
                            "Its model may be missing: use it once in the WebUI's own tabs, so that it is downloaded.",
                        ) from error
                yield result
        finally:
            if used:
                with call_queue.queue_lock:
                    unload()

    def _unload_helpers(self) -> None:
        from modules import devices

        from lora_train.hosts.lending import unload_helpers

        unload_helpers(keep=True)
        devices.torch_gc()

    @contextmanager
    def lend_gpu(self, stopped: Callable[[], bool] = never, note: Note = print) -> Iterator[None]:
        from modules import call_queue

        settings, queue, postponed = self.settings(), call_queue.queue_lock, PostponedSettings(note)
        note("Waiting for the WebUI to finish what it is doing ...")
        with ExitStack() as stack:
            stack.callback(postponed.carry_out)  # last of all: it waits for its turn, too
            stack.enter_context(interruptible(queue, self._interrupted, self._interruption))
            stack.enter_context(turn(queue, stopped))
            stack.enter_context(self._lending())
            stack.enter_context(postponed.noted())
            if settings["generation"] == REFUSE:
                stack.enter_context(refusing(queue, self._refusal))
            stack.enter_context(self._job())
            stack.enter_context(self._models_off(settings["model"] == KEEP_IN_RAM, note))
            yield

    @contextmanager
    def _lending(self) -> Iterator[None]:
        self._lent = True
        try:
            yield
        finally:
            self._lent = False

    def _interrupted(self) -> bool:
        """Whether a person has pressed Interrupt since the last call: it concerns the jobs that wait for our training.

        While something else has the queue, its own code handles this.
        """
        from modules import shared

        if not self._lent or not shared.state.interrupted:
            return False
        shared.state.interrupted = False
        return True

    @staticmethod
    def _interruption() -> str:
        return "Interrupted while waiting for the training of a LoRA."

    @staticmethod
    def _refusal() -> str:
        return (
            "A LoRA is being trained, and pictures are refused meanwhile. "
            "See the Train LoRA tab; the setting is on its settings page."
        )

    def _models_off(self, keep: bool, note: Note) -> AbstractContextManager[None]:
        from lora_train.hosts.lending import models_off_the_gpu

        return models_off_the_gpu(keep, note)

    @contextmanager
    def _job(self) -> Iterator[None]:
        """The training as the WebUI's current job, for its progress bar and `/sdapi/v1/progress`.

        Its Interrupt button does not stop a training, only what waits for it: "Reload UI" sets the same flag.
        """
        from modules import progress, shared

        shared.state.begin(job="lora_train")
        try:
            yield
        finally:
            if progress.current_task and str(progress.current_task).startswith("task(lora_train-"):
                progress.finish_task(progress.current_task)
            shared.state.end()

    def report_progress(self, run: str, done: int, total: int, text: str) -> None:
        from modules import progress, shared

        if not self._lent:
            return
        shared.state.job = "lora_train"  # the WebUI forgets it at the end of any other request
        if progress.current_task != task_id(run):
            progress.start_task(task_id(run))
        shared.state.job_count, shared.state.job_no = 1, 0
        shared.state.sampling_steps, shared.state.sampling_step = total, done
        shared.state.textinfo = text

    def refresh_loras(self, changed: Path | None = None) -> None:
        """See Host: the bundled Lora extension lists them; `changed` is removed where it has been applied."""
        networks = sys.modules.get("networks")
        if networks is None or not hasattr(networks, "list_available_networks"):
            return
        try:
            if changed is not None:
                self._forget_applied(networks, changed)
            networks.list_available_networks()
        except Exception:  # the LoRA is written; the list can also be refreshed by hand
            log.exception("the WebUI's list of LoRAs could not be refreshed")

    def _forget_applied(self, networks: Any, changed: Path) -> None:
        """A file that was overwritten while applied would change nothing: its name and strength are the same."""

        def is_it(network: Any) -> bool:
            return Path(network.network_on_disk.filename).absolute() == changed.absolute()

        if not any(is_it(network) for network in networks.loaded_networks):
            return
        networks.loaded_networks.clear()
        networks.networks_in_memory.clear()
        model = self._loaded_model()
        for module in model.modules() if model is not None else ():
            if getattr(module, "network_current_names", ()):
                networks.network_restore_weights_from_backup(module)
                module.network_current_names = ()

    def unreachable(self) -> list[Problem]:
        return []

    def check_shutdown(self) -> None:
        """See Host: nothing to check, `shutdown` does nothing."""

    def shutdown(self) -> None:
        """See Host: in-process, `lend_gpu` frees the memory; the server keeps running."""
