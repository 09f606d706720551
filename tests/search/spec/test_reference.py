"""docs/study-file.md says what the code does: it is what the generator writes, whole, and its examples are valid."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from losses import LOSSES
from models import MODELS
from search.pruners import PRUNERS
from search.samplers import SAMPLERS
from search.spec import reference
from search.spec.config import StudyTables
from search.spec.load import load
from search.spec.reference_examples import EXAMPLES, SPACE_KEYS
from search.spec.space import _KEYS
from trainer.config import RunConfig
from trainer.config_paths import known_paths
from trainer.data import DATASETS
from trainer.data.augment import PRESETS
from trainer.engine.optim import OPTIMIZERS, SCHEDULES
from trainer.errors import UserError


@pytest.fixture(scope="module")
def page() -> str:
    return reference.page()


def test_the_page_is_what_the_models_say(page: str) -> None:
    assert reference.PAGE.read_text() == page, "stale: write it with `python -m search.spec.reference`"


def test_check_tells_a_stale_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(reference, "PAGE", tmp_path / "page.md")
    assert reference.main(["--check"]) == 1
    assert reference.main([]) == 0
    assert reference.main(["--check"]) == 0
    (tmp_path / "page.md").write_text("something else")
    assert reference.main(["--check"]) == 1
    assert "stale; write it with: python -m search.spec.reference" in capsys.readouterr().out


def test_every_key_of_a_study_file_is_there_with_its_meaning(page: str) -> None:
    for key in StudyTables.model_fields:
        assert f'<a id="{key}"></a>' in page
    for path in known_paths(RunConfig):
        assert f"| `{path.rpartition('.')[2]}` |" in page, path
    for line in page.splitlines():
        if line.startswith("| `"):
            assert line.split(" | ")[-1].removesuffix("|").strip(), f"without a meaning: {line}"


def test_every_name_of_the_literal_tables_is_there(page: str) -> None:
    names = page.partition("\n## Names\n")[2]
    for table in (MODELS, LOSSES, DATASETS, PRESETS, SAMPLERS, PRUNERS):
        for name in table:
            assert f"| `{name}` | " in names
    for name in OPTIMIZERS:
        assert f'`"{name}"`' in page
    for name in SCHEDULES:
        assert f"with `name` = `{name}`" in page


def test_the_keys_of_a_range_are_those_that_are_read() -> None:
    assert sorted(word for row in SPACE_KEYS for word in row[0].replace("`", "").split(", ")) == sorted(_KEYS)


def test_the_examples_together_are_one_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYP_ROOT", str(tmp_path))
    texts = [text for key, text in EXAMPLES.items() if key not in ("whole", "series")]
    (tmp_path / "all.toml").write_text("\n".join(texts))
    spec = load(tmp_path / "all.toml")
    assert [arm.name for arm in spec.arms] == ["kd", "no-kd"]
    (tmp_path / "kd.toml").write_text("\n".join([*texts, EXAMPLES["series"]]))
    members = [load(tmp_path / f"kd.{number}.toml") for number in (1, 2, 3)]
    assert [getattr(each.run.teacher, "width", None) for each in members] == [48, 64, 48]
    assert {key for key in EXAMPLES if "." not in key} == {"whole", *StudyTables.model_fields}


def test_the_least_study_is_complete(tmp_path: Path) -> None:
    (tmp_path / "least.toml").write_text(EXAMPLES["whole"])
    assert load(tmp_path / "least.toml").run.optim.name == "adamw"


def test_links_of_the_page_lead_somewhere(page: str) -> None:
    anchors = {part.partition(")")[0] for part in page.split("](#")[1:]}
    assert anchors
    assert [anchor for anchor in anchors if f'<a id="{anchor}"></a>' not in page] == []


NUMBERS = ("integer", "number")


def numbers(schema: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every number in a JSON schema that is not one of a few, with the place where it stands."""
    if isinstance(schema, list):
        for entry in schema:
            yield from numbers(entry, path)
    elif isinstance(schema, dict):
        if schema.get("type") in NUMBERS and "enum" not in schema:
            yield path, schema
        for key, inner in schema.items():
            if key not in ("default", "enum", "const"):
                yield from numbers(inner, f"{path}/{key}")


@pytest.mark.parametrize("model", [RunConfig, StudyTables])
def test_every_number_has_two_bounds(model: type[BaseModel]) -> None:
    places = dict(numbers(model.model_json_schema(by_alias=True)))
    assert len(places) > 10
    bounded = ({"minimum", "exclusiveMinimum"}, {"maximum", "exclusiveMaximum"})
    assert [path for path, entry in places.items() if not all(entry.keys() & bound for bound in bounded)] == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("budget.trials=99999999999999999999", "budget.trials = 99999999999999999999: .*less than or equal to 1000000"),
        ("run.data.size=1000000", "run.data.size = 1000000: .*less than or equal to 8192"),
        ("run.data.train=2000000000", "run.data.train = 2000000000: .*less than or equal to 100000"),
        ("run.epochs=99999999999999999999", "run.epochs = 9+: .*less than or equal to 1000000"),
        ("run.losses.ce.weight=inf", "run.losses.ce.weight = inf: .*finite"),
        ("run.optim.clip=nan", "run.optim.clip = nan: .*finite"),
        ("confirm.seeds=[1e30]", "confirm.seeds.*1e"),
        ('budget.wall="99999999999999999999d"', 'budget.wall: .* is longer than "36500d", the longest'),
        ("space.epochs={low=1,high=9000000}", "epochs = 9000000: .*less than or equal to 1000000"),
    ],
)
def test_a_number_out_of_bounds_is_a_line_with_the_bound(tmp_path: Path, change: str, message: str) -> None:
    (tmp_path / "least.toml").write_text(EXAMPLES["whole"])
    with pytest.raises(UserError, match=message) as mistake:
        load(tmp_path / "least.toml", [change], name="other")
    assert len(str(mistake.value).splitlines()) == 1
    assert len(str(mistake.value)) < 400
