"""What the arms of a study share."""

from collections.abc import Callable
from pathlib import Path

import pytest

from search.spec.load import load
from trainer.errors import UserError


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("data.root", '"pictures"'),
        ("data.split", '"split.csv"'),
        ("data.name", '"polyp"'),
        ("teacher.checkpoint", '"teacher.safetensors"'),
        ("teacher.min_dice", "0.5"),
    ],
)
@pytest.mark.parametrize("place", ["space", "space nested", "arm", "arm nested"])
def test_data_and_teacher_are_the_same_for_all_arms(
    tmp_path: Path, small_study: Callable[..., str], path: str, value: str, place: str
) -> None:
    """A file that lets one of them vary is refused in one line that names it and says where it belongs."""
    table, _, key = path.partition(".")
    study = small_study()
    text = {
        "space": study.replace("[sampler]", f'"{path}" = {{ choices = [{value}] }}\n[sampler]'),
        "space nested": study.replace("[sampler]", f"[space.{table}]\n{key} = {{ choices = [{value}] }}\n[sampler]"),
        "arm": f'{study}\n[[arms]]\nname = "else"\nset = {{ "{path}" = {value} }}\n',
        "arm nested": f'{study}\n[[arms]]\nname = "else"\nset = {{ {table} = {{ {key} = {value} }} }}\n',
    }[place]
    file = tmp_path / "varies.toml"
    file.write_text(text)
    with pytest.raises(UserError) as raised:
        load(file)
    line = str(raised.value)
    field = f"space.{path}" if place.startswith("space") else f"arms.else.set.{path}"
    assert f"{field}: all arms share one data set and one teacher; set it in [run]" in line
    assert "\n" not in line
