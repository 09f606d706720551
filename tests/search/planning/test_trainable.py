"""`validate` and workers refuse batches that the training part cannot fill, in every arm and choice."""

import argparse
from collections.abc import Callable
from pathlib import Path

import pytest

from search.commands import validate
from search.planning.network_costs import costs, refuse_large_batches
from search.spec.load import load
from trainer.cli.entry import guard
from trainer.errors import UserError

CHOICES = '"batch_size" = { choices = [2, 6] }\n'
ARM = '[[arms]]\nname = "wide"\nset = { batch_size = 7 }\n'


@pytest.mark.parametrize(
    ("batch_size", "choices", "more", "expected"),
    [
        (6, "", "", r"small\.toml: run\.batch_size = 6: more than the 5 training images; 5 fit at most$"),
        (4, CHOICES, "", r"run\.batch_size = 6: more than the 5 .* \(with batch_size = 6\)$"),
        (4, "", ARM, r"small\.toml: arms\.wide: run\.batch_size = 7: more than the 5"),
    ],
)
def test_every_arm_and_choice_is_held_against_the_images(
    tmp_path: Path, small_study: Callable[..., str], batch_size: int, choices: str, more: str, expected: str
) -> None:
    path = tmp_path / "small.toml"
    path.write_text(small_study(batch_size=batch_size, more=more).replace("[space]\n", f"[space]\n{choices}"))
    spec = load(path)
    refuse_large_batches(spec, 8)
    with pytest.raises(UserError, match=expected):
        refuse_large_batches(spec, 5)


def test_ranks_that_share_a_batch_get_two_images_where_they_need_them(
    tmp_path: Path, small_study: Callable[..., str]
) -> None:
    path = tmp_path / "small.toml"
    path.write_text(small_study(data={"name": "blobs", "size": 16, "train": 8, "validation": 4}))
    costs(load(path), ranks=2)
    with pytest.raises(UserError, match=r"run\.batch_size = 4: with one image a rank \(of 4\)"):
        costs(load(path), ranks=4)


def test_the_recipe_of_a_teacher_that_is_not_trained_yet_is_checked(
    tmp_path: Path, small_study: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    """What `trainer teach` would end with after it was begun is a problem of the study."""
    path = tmp_path / "small.toml"
    teacher = f'teacher = {{ name = "unet", width = 4, checkpoint = "{tmp_path}/teacher.safetensors" }}\n'
    text = small_study(
        data={"name": "blobs", "size": 16, "train": 8, "validation": 4}, more="[teach]\nbatch_size = 1\n"
    )
    path.write_text(text.replace("[run]\n", f"[run]\n{teacher}"))
    parser = argparse.ArgumentParser()
    validate.add_arguments(parser)
    args = parser.parse_args(
        [str(path), "--cache", str(tmp_path / "cache"), "--storage", f"sqlite:///{tmp_path}/none.db"]
    )
    assert guard(lambda: validate.main(args)) == 2
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("error")]
    assert len(said) == 2
    assert "no such file; train it" in said[0]
    assert "teach: batch_size = 1: with one image the teacher unet at data.size = 16" in said[1]
