"""What an arm takes from its study and what it sets itself, and what all arms share."""

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


class TestArms:
    def test_a_path_that_the_arm_sets_leaves_its_space(self, study):
        spec = study(
            '"student.width" = { choices = [4, 8] }\n"optim.lr" = { low = 1e-4, high = 1e-2 }',
            '[front]\nalong = "student.width"\n[[arms]]\nname = "wide"\nset = { "student.width" = 32 }\n'
            "trials = 3\nin_flight = 2\n"
            'sampler = { name = "random" }\npruner = { name = "none" }',
        )
        wide = spec.arm("wide")
        assert [p.path for p in wide.space] == ["optim.lr"]
        assert wide.front == ()
        assert (wide.trials, wide.in_flight, wide.sampler.name, wide.pruner.name) == (3, 2, "random", "none")
        assert wide.dropped == ("student.width (set by the arm)",)
        assert wide.resolve({"optim.lr": 1e-3}).student.model_dump()["width"] == 32

    def test_parameters_fall_one_after_the_other_along_a_chain(self, study, chain):
        spec = study(chain, '[[arms]]\nname = "kl"\nset = { method = "kl", "student.width" = 4 }')
        arm = spec.arm("kl")
        assert arm.space == ()
        assert "losses.cwd.weight (its when can no longer hold)" in arm.dropped

    def test_a_condition_that_the_set_value_fulfils_stays(self, study, chain):
        spec = study(chain, '[[arms]]\nname = "cwd"\nset = { method = "cwd" }')
        assert [p.path for p in spec.arm("cwd").space] == ["student.width", "losses.cwd.weight"]

    def test_enqueued_trials_go_to_the_arm_that_they_name(self, study):
        first, second = '"optim.lr" = 1e-3', 'arm = "none"\noptim.lr = 2e-3'
        more = f'[[arms]]\nname = "none"\nset = {{ method = "none" }}\n[[enqueue]]\n{first}\n[[enqueue]]\n{second}'
        spec = study(more=more)
        assert [arm.enqueue for arm in spec.arms] == [({"optim.lr": 1e-3},), ({"optim.lr": 2e-3},)]

    def test_an_enqueued_value_takes_the_range_that_is_live_with_its_neighbours(self, study, the_line):
        space = """
        "optim.name" = { choices = ["sgd", "adam"] }
        "optim.lr" = [
            { low = 1e-3, high = 1.0, when = { "optim.name" = "sgd" } },
            { low = 1e-4, high = 1e-2, when = { "optim.name" = "adam" } },
        ]
        """
        entry = '[[enqueue]]\n"optim.name" = "adam"\n"optim.lr" = 5e-3'
        assert study(space, entry).main.enqueue == ({"optim.name": "adam", "optim.lr[1]": 5e-3},)
        assert study(space, '[[enqueue]]\n"optim.lr" = 0.5').main.enqueue == ({"optim.lr[0]": 0.5},)
        with pytest.raises(UserError) as error:
            study(space, '[[enqueue]]\n"optim.lr" = 5e-3')
        the_line(error, "optim.lr = 0.005", "several ranges", "optim.lr[0], optim.lr[1]")
        with pytest.raises(UserError) as error:
            study(space, '[[enqueue]]\n"optim.name" = "adam"\n"optim.lr" = 0.5')
        the_line(error, "enqueue[0]", "optim.lr")

    def test_whole_numbers_are_enqueued_as_real_ones_where_the_range_is_real(self, study):
        spec = study('"losses.kl.weight" = { low = 0.5, high = 2.0 }', '[[enqueue]]\n"losses.kl.weight" = 1')
        (entry,) = spec.main.enqueue
        assert isinstance(entry["losses.kl.weight"], float)
