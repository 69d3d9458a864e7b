from __future__ import annotations

from pathlib import Path

from PIL import Image

from lora_train.runs.pictures import contact_sheet, loss_plot, save_picture


def test_contact_sheet_holds_every_picture() -> None:
    rows = [
        ("a", [Image.new("RGB", (20, 20), c) for c in ("red", "lime")]),
        ("b", [Image.new("RGB", (20, 20), "blue")] * 2),
    ]
    colours = {colour for _, colour in contact_sheet(rows, ["one", "two"]).getcolors(100_000) or []}
    assert {(255, 0, 0), (0, 255, 0), (0, 0, 255)} <= colours


def test_loss_plot_draws_the_curve_and_survives_little_data(tmp_path: Path) -> None:
    plot = loss_plot(range(1, 100), [1 / i for i in range(1, 100)], [1 / i for i in range(1, 100)])
    assert sum(count for count, colour in plot.getcolors(1 << 20) or [] if colour == (30, 60, 140)) > 500
    loss_plot([], [], [])
    loss_plot([1], [0.0], [0.0])
    save_picture(plot, tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").size == plot.size
