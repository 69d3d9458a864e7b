"""The file that a name in a prompt means."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest
import torch

from lora_train.errors import LoraTrainError
from lora_train.lorafile.finding import (
    find_lora,
    look_up,
    look_up_anywhere,
    lora_files,
    nearest,
    prompt_name,
    prompt_names,
)
from lora_train.lorafile.writing import write_lora
from lora_train.prompt.syntax import parse_prompt


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / f"{name}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_the_exact_name_wins(tmp_path: Path) -> None:
    touch(tmp_path, "Sara", "anna")
    assert find_lora(tmp_path, "sara").name == "Sara.safetensors"
    touch(tmp_path, "below/sara")
    assert find_lora(tmp_path, "sara").parent.name == "below"
    with pytest.raises(LoraTrainError, match="no LoRA called"):
        find_lora(tmp_path, "nobody")


@pytest.mark.parametrize(
    "name",
    [
        "my.lora.v1.5",
        "te,st1",
        "with spaces",
        "a__b__c",
        "[sks] (v1.2)",
        'Robert "Bob" Smit',
        "it's",
        "price$100%",
        "🦊",
        "诡异服装",
        "-dash",
        "a=b",
        "100",
        "test2 ",
        " x",
    ],
)
def test_names_as_people_have_them(tmp_path: Path, name: str) -> None:
    if os.name == "nt" and '"' in name:
        pytest.skip("no such names there")
    touch(tmp_path, name, "another", "test")
    tag = parse_prompt(f"a <lora:{name}:1>").tags[0]
    assert look_up(tmp_path, tag.written) == (tmp_path / f"{name}.safetensors", "")
    assert find_lora(tmp_path, name.strip()).stem == name
    assert find_lora(tmp_path, f"{name.strip()}.safetensors").stem == name


def test_a_blank_at_the_end_tells_two_files_apart(tmp_path: Path) -> None:
    touch(tmp_path, "test", "test ")
    for name in ("test", "test "):
        assert find_lora(tmp_path, parse_prompt(f"<lora:{name}:1>").tags[0].written).stem == name


@pytest.mark.parametrize(("on_disk", "typed"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_accents_composed_or_not(tmp_path: Path, on_disk: str, typed: str) -> None:
    touch(tmp_path, unicodedata.normalize(on_disk, "été"))  # type: ignore[arg-type]
    found = find_lora(tmp_path, unicodedata.normalize(typed, "été"))  # type: ignore[arg-type]
    assert unicodedata.normalize("NFC", found.stem) == "été"


def test_a_path_wins_and_others_of_the_name_are_named(tmp_path: Path) -> None:
    touch(tmp_path, "char/same", "pose/same")
    path, note = look_up(tmp_path, "same")
    assert path == tmp_path / "char" / "same.safetensors"
    assert note == "There are 2 LoRAs called 'same': char/same is used, not pose/same. Write the one that you mean."
    for name in ("pose/same", "pose\\same", "POSE/Same", "pose/same.safetensors"):
        assert look_up(tmp_path, name) == (tmp_path / "pose" / "same.safetensors", "")
    touch(tmp_path, "same")
    assert look_up(tmp_path, "same") == (tmp_path / "same.safetensors", "")


def test_every_name_that_is_listed_is_found_as_its_own_file(tmp_path: Path) -> None:
    touch(tmp_path, "char/same", "pose/same", "one", "pose/x.y ")
    (tmp_path / "one.pt").touch()
    assert prompt_names(tmp_path) == ["char/same", "one", "pose/same", "x.y "]
    assert len({look_up(tmp_path, name) for name in prompt_names(tmp_path)}) == 4
    assert prompt_names(tmp_path / "none") == []


def test_one_file_in_two_formats_is_no_choice(tmp_path: Path) -> None:
    touch(tmp_path, "a")
    (tmp_path / "a.pt").touch()
    (tmp_path / "b.CKPT").touch()
    assert look_up(tmp_path, "a") == (tmp_path / "a.safetensors", "")
    assert find_lora(tmp_path, "a.pt").suffix == ".pt" and find_lora(tmp_path, "b").name == "b.CKPT"


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_linked_folders_are_followed_once_and_hidden_ones_not(tmp_path: Path) -> None:
    folder = tmp_path / "loras"
    touch(folder, "near", ".trash/gone")
    touch(tmp_path / "elsewhere", "far")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "loop").symlink_to(folder)
    (tmp_path / "elsewhere" / "back").symlink_to(folder)
    assert find_lora(folder, "far") == folder / "linked" / "far.safetensors"
    assert [path.stem for path in lora_files(folder)] == ["far", "near"]


def test_the_nearest_names_are_suggested(tmp_path: Path) -> None:
    touch(tmp_path, *(f"file{number}" for number in range(20)), "char/Sara_v2", "my.lora.v1.5")
    with pytest.raises(LoraTrainError, match=r"no LoRA called 'sara v2' \(nearest: Sara_v2\)"):
        find_lora(tmp_path, "sara v2")
    with pytest.raises(LoraTrainError, match="there: "):
        find_lora(tmp_path, "zzz")
    with pytest.raises(LoraTrainError, match="no LoRA called 'my'"):
        find_lora(tmp_path, "my")
    (tmp_path / "none").mkdir()
    with pytest.raises(LoraTrainError, match="the folder has none"):
        find_lora(tmp_path / "none", "a")
    assert nearest("lora", ["my.lora.v1.5", "other"]) == ["my.lora.v1.5"]


def test_the_name_in_the_metadata_counts_last(tmp_path: Path) -> None:
    for name, alias in (("A", "A"), ("B", "A"), ("hidden", "Nice Name"), ("c", "twice"), ("d", "twice")):
        tensors = {"lora_te_x.diff": torch.ones(1)}
        write_lora(tmp_path / f"{name}.safetensors", tensors, {"ss_output_name": alias}, "fp32", False)
    (tmp_path / "odd.safetensors").write_text("no LoRA")
    assert find_lora(tmp_path, "A").stem == "A"
    assert find_lora(tmp_path, "Nice Name").stem == "hidden"
    with pytest.raises(LoraTrainError, match=r"2 LoRAs are called 'twice' in their metadata \(c.safetensors"):
        find_lora(tmp_path, "twice")


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(LoraTrainError, match="no such folder"):
        look_up(tmp_path / "loars", "x")


def test_a_path_is_taken_only_where_that_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, other = tmp_path / "loras", tmp_path / "elsewhere"
    touch(folder, "sara")
    touch(other, "anna", "sara")
    (other / "anna.txt").touch()
    anna = str(other / "anna.safetensors")
    assert look_up_anywhere(folder, anna) == (Path(anna), "")
    assert look_up_anywhere(tmp_path / "none yet", anna) == (Path(anna), "")
    assert look_up_anywhere(folder, "sara") == (folder / "sara.safetensors", "")
    monkeypatch.chdir(tmp_path)
    for name in ("./elsewhere/anna.safetensors", "elsewhere/anna.safetensors"):
        assert look_up_anywhere(folder, name)[0].samefile(anna)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert look_up_anywhere(folder, "~/elsewhere/anna.safetensors")[0].samefile(anna)
    for name in (str(other / "anna.txt"), str(other), str(other / "nobody.safetensors"), "./nobody.safetensors"):
        with pytest.raises(LoraTrainError, match="there is no such LoRA file"):
            look_up_anywhere(folder, name)
    with pytest.raises(LoraTrainError, match=r"nearest: sara.*without a path: <lora:sara:1>"):
        look_up(folder, str(other / "sara.safetensors"))


def test_the_name_of_one_file(tmp_path: Path) -> None:
    touch(tmp_path, "a/same", "b/same", "b/one")
    assert prompt_name(tmp_path, tmp_path / "a" / "same.safetensors") == "a/same"
    assert prompt_name(tmp_path, tmp_path / "b" / "one.safetensors") == "one"
