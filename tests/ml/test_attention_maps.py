import warnings
from pathlib import Path

import pytest
import torch
from matplotlib import font_manager, image
from torch import Tensor

from ml.attention_maps import INSTALL_FONT, Choice, MapsInvalid, choose, draw, korean_font
from ml.files import OutputExists

LABELS = ["<|endoftext|>", "위젯", "$x^2", "\\xec\\x9d", "⏎", "🙂"]
ALL = Choice()


def make_maps(num_layers: int = 2, num_heads: int = 3, num_tokens: int = 6) -> Tensor:
    scores = torch.randn(num_layers, num_heads, num_tokens, num_tokens, generator=torch.Generator().manual_seed(0))
    is_later = torch.ones(num_tokens, num_tokens, dtype=torch.bool).triu(1)
    return torch.softmax(scores.double().masked_fill(is_later, -torch.inf), dim=-1)


def test_the_picture_is_a_png_and_whatever_the_labels_hold_warns_of_nothing(tmp_path: Path) -> None:
    out = tmp_path / "f.png"
    notes = draw(make_maps(), LABELS, out=out, choice=ALL)
    pixels = image.imread(out)
    assert pixels.shape[0] > 300
    assert pixels.shape[1] > pixels.shape[0]
    assert notes == ([] if korean_font() else [INSTALL_FONT])
    assert [path.name for path in tmp_path.iterdir()] == ["f.png"]


def test_without_a_korean_font_it_is_drawn_all_the_same_and_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only_dejavu = [font for font in font_manager.fontManager.ttflist if font.name == "DejaVu Sans"]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", only_dejavu)
    assert draw(make_maps(1, 1), LABELS, out=tmp_path / "ko.png", choice=ALL) == [INSTALL_FONT]
    assert draw(make_maps(1, 1, 1), ["en"], out=tmp_path / "en.png", choice=ALL) == []
    assert (tmp_path / "ko.png").stat().st_size > 10_000


@pytest.mark.skipif(korean_font() is None, reason="no Korean font is installed here")
def test_a_korean_label_is_drawn_with_letters_of_its_own(tmp_path: Path) -> None:
    for name, label in (("a", "위"), ("b", "젯")):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            draw(make_maps(1, 1, 1), [label], out=tmp_path / f"{name}.png", choice=ALL)
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()


def test_a_large_text_is_drawn_at_a_size_that_can_be_looked_at(tmp_path: Path) -> None:
    draw(make_maps(1, 1, 140), ["토큰"] * 140, out=tmp_path / "f.png", choice=ALL)
    assert max(image.imread(tmp_path / "f.png").shape) <= 2_800


@pytest.mark.parametrize(
    ("choice", "titles"),
    [
        (ALL, [[f"layer {layer}, head {head}" for head in range(3)] for layer in range(2)]),
        (Choice(layer=1), [["layer 1, head 0", "layer 1, head 1"], ["layer 1, head 2"]]),
        (Choice(head=2), [["layer 0, head 2", "layer 1, head 2"]]),
        (Choice(layer=0, head=1), [["layer 0, head 1"]]),
    ],
)
def test_the_chosen_maps_stand_in_rows(choice: Choice, titles: list[list[str]]) -> None:
    assert [[one.title for one in row] for row in choose(make_maps(), choice)] == titles


def test_where_heads_are_many_each_layer_is_their_mean() -> None:
    maps = make_maps(5, 12)
    flat = [one for row in choose(maps, ALL) for one in row]
    assert [one.title for one in flat] == [f"layer {layer}, mean of 12 heads" for layer in range(5)]
    torch.testing.assert_close(torch.from_numpy(flat[3].shares), maps[3].mean(0))


@pytest.mark.parametrize("choice", [Choice(layer=2), Choice(layer=-1), Choice(head=3)])
def test_a_layer_or_head_that_is_not_there_is_refused(choice: Choice) -> None:
    with pytest.raises(MapsInvalid, match=r"does not exist: the model has (layers 0 to 1|heads 0 to 2)"):
        choose(make_maps(), choice)


def test_a_picture_that_exists_is_kept_without_force(tmp_path: Path) -> None:
    out = tmp_path / "f.png"
    out.write_text("mine")
    with pytest.raises(OutputExists, match="--force"):
        draw(make_maps(), LABELS, out=out, choice=ALL)
    assert out.read_text() == "mine"
    draw(make_maps(1, 1), LABELS, out=out, choice=ALL, force=True)
    assert out.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["f.jpg", "missing/f.png"])
def test_a_place_where_no_png_can_stand_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(MapsInvalid, match=r"\.png"):
        draw(make_maps(), LABELS, out=tmp_path / name, choice=ALL)
