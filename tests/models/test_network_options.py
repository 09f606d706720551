"""Options of networks: a name that stands for options, widths, and what is refused in one line."""

import pytest
from pydantic import TypeAdapter

from models.config import NetworkConfig, network_config, teacher_config
from trainer.config import RunConfig
from trainer.config.validation import explain
from trainer.config_paths import replace, takes

RUN = {"epochs": 1, "data": {"name": "blobs"}, "losses": {"ce": {}}}


def refused(student):
    with pytest.raises(ValueError, match="validation error") as caught:
        RunConfig.model_validate({**RUN, "student": student})
    text = explain(caught.value, "file", under="run", model=RunConfig)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("unet", {"width": 32, "up": "transposed", "form": "zh320"}),
        ("unet-awesome", {"width": 32, "up": "interpolated", "form": "awesome"}),
        ("unet-selfreg", {"width": 64, "up": "interpolated", "form": "selfreg"}),
        ("resunet-awesome", {"width": 64, "form": "awesome"}),
        ("resunetplusplus-author", {"width": 16}),
        ("ducknet-34", {"width": 34}),
    ],
)
def test_a_name_fills_options_and_gives_others_their_published_value(name, options):
    for config in (network_config(name), teacher_config(name)):
        assert config.options() == options
        assert (
            TypeAdapter(NetworkConfig).validate_python(network_config(name).model_dump(mode="json")).options()
            == options
        )


def test_what_a_name_stands_for_may_not_be_given_otherwise():
    text = refused({"name": "ducknet-17", "width": 16})
    assert text == (
        "file: run.student: width = 16: 'ducknet-17' stands for width = 17; leave it out, or take name = ducknet"
    )
    assert network_config("ducknet-17", width=17) == network_config("ducknet-17")
    assert network_config("unet-selfreg", width=8).options()["width"] == 8


@pytest.mark.parametrize("student", [{"name": "deeplabv3"}, {"name": "smp-fpn", "encoder": "resnet18"}])
def test_a_width_that_means_nothing_is_refused(student):
    text = refused({**student, "width": 8})
    assert text.startswith("file: run.student.width = 8: unknown key; known: ")


def test_a_changed_name_drops_what_the_new_name_stands_for():
    """An arm that sets another network, and a search over names, keep no width that the new name fixes."""
    assert "width" in takes(RunConfig, "student", "ducknet")
    assert "width" not in takes(RunConfig, "student", "ducknet-17")
    table, gone = replace(RunConfig, {**RUN, "student": {"name": "unet", "width": 8}}, {"student.name": "ducknet-17"})
    assert (table["student"], gone) == ({"name": "ducknet-17"}, ("student.width",))


@pytest.mark.parametrize("name", ["unet", "resunet"])
def test_networks_of_before_are_written_as_they_always_were(name):
    """The identity of a study, and the hash of a teacher, are taken from these keys."""
    assert network_config(name, width=8).model_dump(mode="json") == {"name": name, "width": 8, "checkpoint": None}
    assert teacher_config(name).model_dump(mode="json") == {
        "name": name,
        "width": 32,
        "checkpoint": None,
        "min_dice": 0.0,
        "keys": [],
    }
