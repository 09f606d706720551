"""A series on one page: its members, its ways of distilling, which differences are shown, and what others printed."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import search.__main__ as search_main
from search.commands import confirm
from search.commands.simulate import simulated_identity
from search.confirm import plan as confirm_plan
from search.confirm.results import Confirmed
from search.report import command
from search.report.content.build import report
from search.report.content.document import Report
from search.report.content.published import published_part
from search.report.content.series_part import MadeStudy, series_part
from search.report.files import named, places, text_of, write_report
from search.report.series_figures import apart, draw_series_figures
from search.report.series_tables import methods_table, published_table
from search.report.svg import Drawn
from search.spec.config import Confirm, Dashboard
from search.spec.load import SeriesAxis, SeriesPlace, load
from search.storage.database import Database, open_storage
from search.study.create import open_search
from search.study.snapshot import read
from trainer.errors import UserError

Make = Callable[..., Any]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory, polyps_text: str, train: Make) -> Iterator[Database]:
    """A database with two of three members of a series, the first with its confirmation."""
    folder = tmp_path_factory.mktemp("series")
    text = polyps_text.partition("[[arms]]")[0].replace("trials = 16", "trials = 3").replace("epochs = 4", "epochs = 2")
    (folder / "kd.toml").write_text(
        text
        + """
[published]
file = "unet-variants"
rows = { data = "segpc2021", student = "unet-awesome" }
differs = ["Cells and no polyps."]
[series]
[series.product.method.kl]
"run.method" = "kl"
[series.product.method.none]
"run.method" = "none"
[series.product.method.both]
"run.method" = "kl"
"run.seed" = 5
"""
    )
    url = f"sqlite:///{folder / 'study.db'}"
    there = open_storage(url)
    for name in ("kd.1", "kd.2"):
        spec = load(folder / f"{name}.toml")
        train(open_search(there, url, spec, simulated_identity(spec)), folder / "runs")
    rows = read(there, "kd.1")
    plan = confirm_plan.made(
        rows, Confirm(seeds=(21, 22), top=1), name="kd.1.confirm", dashboard=Dashboard(), early=False
    )
    train(confirm.opened_as(there, url, plan), folder / "runs")
    yield there
    there.engine.dispose()


@pytest.fixture(scope="module")
def made(opened: Database) -> Report:
    return report(opened, ["kd"])


def test_the_series_name_stands_for_its_members_and_says_what_is_not_there(made: Report) -> None:
    assert [study.name for study in made.studies] == ["kd.1", "kd.2"]
    (part,) = made.series
    assert (part.name, part.of, part.axes) == ("kd", 3, {"method": ("kl", "none")})
    assert part.missing == ("kd.3: not begun", "kd.2: not confirmed")
    taught, alone = part.members
    assert (taught.state, taught.part, taught.method, taught.seeds) == ("confirmed", "test", "kl", 2)
    assert (alone.state, alone.part, alone.method) == ("ended", "validation, unconfirmed", "none")
    assert taught.teacher is not None
    assert (alone.teacher, alone.teacher_score) == (None, None)


def test_every_number_of_the_page_is_in_its_json(made: Report, unaccounted: Make, tmp_path: Path) -> None:
    files = write_report(made, tmp_path)
    html = files.page.read_text()
    assert unaccounted(html, text_of(made)) == []
    assert "The series kd" in html
    assert "Not there yet:" in html
    assert "Published by others" in html
    assert "<li>Cells and no polyps.</li>" in html
    assert (files.tables / "kd-members.csv").is_file()
    assert (files.figures / "kd-sizes.svg").is_file()
    assert "series" in json.loads(files.json.read_text())


def test_a_page_of_one_study_has_no_word_of_a_series(opened: Database) -> None:
    alone = report(opened, ["kd.2"])
    assert alone.series == ()
    assert "series" not in json.loads(text_of(alone))
    assert not [name for name, _ in named(alone) if name.startswith("kd")]


def test_the_command_says_what_a_series_showed(
    opened: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = f"sqlite:///{opened.engine.url.database}"
    # That the page is written another test sees; drawing it takes seconds.
    monkeypatch.setattr(command, "write_report", lambda _made, output: places(output))
    assert search_main.main(["report", "kd", "--storage", storage, "-o", str(tmp_path / "page")]) == 0
    out = capsys.readouterr().out
    assert out.startswith("kd  series of 3 studies, 2 begun, 1 confirmed\n")
    assert "not there yet: kd.3: not begun; kd.2: not confirmed" in out


def test_an_export_of_a_series_is_a_file_a_member(
    opened: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = f"sqlite:///{opened.engine.url.database}"
    monkeypatch.chdir(tmp_path)
    assert search_main.main(["export", "kd", "--storage", storage, "-o", "best.json"]) == 0
    files = sorted(tmp_path.glob("*.json"))
    assert [file.name for file in files] == ["best.1.json", "best.2.json"]
    assert [json.loads(file.read_text())["study"]["name"] for file in files] == ["kd.1", "kd.2"]
    assert capsys.readouterr().out.count("next: python -m trainer fit best.") == 2
    with pytest.raises(UserError, match="--output: missing; a series is written into files"):
        search_main.main(["export", "kd", "--storage", storage])


def placed(found: Confirmed, number: int, choices: dict[str, str], study: Any) -> MadeStudy:
    """A confirmation as that of a member of a series over data and methods."""
    place = SeriesPlace(
        name="s", number=number, of=4, title=None, gpu_hours=None, wall_seconds=None,
        axes=tuple(
            SeriesAxis(axis=axis, choice=choice, sets=(f"run.{axis}",)) for axis, choice in choices.items()
        ),
    )  # fmt: skip
    name = f"s.{number}"
    return MadeStudy(study.model_copy(update={"name": name}), place, replace(found, study=name), {"method": "kl"})


def only(found: Confirmed, *names: str) -> Confirmed:
    """A confirmation of some networks alone."""
    return replace(
        found,
        configurations=tuple(each for each in found.configurations if each.name in names),
        findings=tuple(each for each in found.findings if each.configuration in names),
    )


def members(synthetic: Make, study: Any) -> list[MadeStudy]:
    """Two data sets, each with a member that distils and one that does not; on the second it is worth nothing."""
    made_studies = []
    for place, (data, gain) in enumerate((("kvasir", 0.03), ("isic", 0.0))):
        found = synthetic(gain)
        taught, alone = only(found, "kd-1", "kd-2", "teacher"), only(found, "no-kd-1", "no-kd-2")
        made_studies.append(placed(taught, 2 * place + 1, {"data": data, "method": "kl"}, study))
        made_studies.append(placed(alone, 2 * place + 2, {"data": data, "method": "none"}, study))
    return made_studies


def test_methods_are_compared_across_members_on_the_same_images_and_corrected_together(
    synthetic: Make, made: Report
) -> None:
    part = series_part(members(synthetic, made.studies[0]))
    assert part.groups == ("kvasir", "isic")
    assert {(score.method, score.group): score.configuration for score in part.scores} == {
        ("kl", "kvasir"): "kd-1", ("none", "kvasir"): "no-kd-1", ("kl", "isic"): "kd-1", ("none", "isic"): "no-kd-1",
    }  # fmt: skip
    first, second = part.differences
    assert (first.group, first.verdict, second.verdict) == ("kvasir", "shown", "not_shown")
    assert (first.minuend, first.subtrahend) == ("s.1 kd-1", "s.2 no-kd-1")
    assert first.low is not None
    assert first.low > 0
    assert (first.seeds, first.images) == (5, 80)
    assert first.p is not None
    assert first.p_holm == pytest.approx(min(1.0, 2 * first.p))


def test_the_method_table_has_mean_deviation_and_rank_by_data_set(synthetic: Make, made: Report) -> None:
    part = series_part(members(synthetic, made.studies[0]))
    table = methods_table(part)
    heads = [column.title for column in table.columns]
    assert heads[:7] == [
        "rank",
        "method",
        "kvasir: Dice",
        "kvasir: SD of it",
        "kvasir: HD95 (px)",
        "kvasir: SD of that",
        "kvasir: rank",
    ]
    best = dict(zip(heads, table.rows[0], strict=True))
    assert best["method"] == "kl"
    score = next(score for score in part.scores if (score.method, score.group) == ("kl", "kvasir"))
    confirmed = members(synthetic, made.studies[0])[0].confirmed
    assert confirmed is not None
    means = [
        sum(each.columns["dice"]) / len(each.columns["dice"])
        for each in confirmed.findings
        if (each.configuration, each.part) == ("kd-1", "test")
    ]
    assert best["kvasir: Dice"] == score.dice == pytest.approx(sum(means) / 5)
    spread = (sum((mean - sum(means) / 5) ** 2 for mean in means) / 4) ** 0.5
    assert best["kvasir: SD of it"] == pytest.approx(spread)


def test_members_that_saw_other_test_images_are_not_compared(synthetic: Make, changed: Make, made: Report) -> None:
    first, second, *_ = members(synthetic, made.studies[0])
    assert second.confirmed is not None
    fewer = replace(second, confirmed=changed(second.confirmed, images=40))
    (difference,) = series_part([first, fewer]).differences
    assert difference.verdict == "not estimable"
    assert difference.reason == "s.2 was measured on other test images"


def test_a_none_with_more_parameters_is_nothing_to_compare_with(synthetic: Make, made: Report) -> None:
    found = synthetic(0.02)
    small = placed(only(found, "kd-2"), 1, {"data": "a", "method": "kl"}, made.studies[0])
    large = placed(only(found, "no-kd-1"), 2, {"data": "a", "method": "none"}, made.studies[0])
    both = placed(only(found, "no-kd-1", "no-kd-2"), 2, {"data": "a", "method": "none"}, made.studies[0])
    assert series_part([small, large]).differences[0].verdict == "not estimable"
    assert series_part([small, both]).differences[0].subtrahend == "s.2 no-kd-2"


ROWS = """study,data,part,method,teacher,student,pretrained,metric,value,deviation,unit,source,blank
x,d,test,kl,unet,unet,,pooled_dice,91.5,0.4,%,somebody's table,
x,d,test,none,,unet,,dice,0.88,,share,somebody's table,
x,d,test,KD,unet,unet,,hd95_larger,9.1,,"voxel, printed as mm",somebody's table,
x,d,test,kl,unet,unet,,dice_of_rows,0.4,,share,somebody's table,
x,d,test,kl,unet,other,,dice,,,share,somebody's table,not printed
x,e,test,kl,unet,unet,,dice,0.1,,share,another data set,
"""


def test_published_numbers_stand_beside_ours_and_enter_nothing(
    synthetic: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "studies" / "published").mkdir(parents=True)
    (tmp_path / "studies" / "published" / "theirs.csv").write_text(ROWS)
    named_by = {"file": "theirs", "rows": {"data": "d"}, "methods": {"KD": "kl"}, "differs": ["Other splits."]}
    found = synthetic(0.02)
    part = published_part(json.dumps({"published": named_by}), found)
    assert part is not None
    pooled, none, distance, rows, blank = part.rows
    assert (pooled.value, pooled.deviation, pooled.unit, pooled.ours, pooled.our_metric) == (
        91.5,
        0.4,
        "%",
        "kd-1",
        "dice",
    )
    assert (none.ours, distance.our_metric, distance.our_unit) == ("no-kd-1", "hd95_missed_as_diagonal", "px")
    assert none.our_value == pytest.approx(0.885, abs=0.02)
    assert none.our_deviation is not None
    assert (rows.ours, rows.our_value) == (None, None)
    assert (blank.value, blank.blank, blank.ours) == (None, "not printed", None)
    table = published_table(part)
    assert [column.title for column in table.columns if column.title.startswith(("published", "here"))] == [
        "published: score", "published", "published SD", "here: network", "here: score", "here, test",
    ]  # fmt: skip
    unconfirmed = published_part(json.dumps({"published": named_by}), None)
    assert unconfirmed is not None
    assert [row.value for row in unconfirmed.rows] == [row.value for row in part.rows]
    assert {row.our_value for row in unconfirmed.rows} == {None}


def test_a_file_of_published_numbers_that_is_not_there_is_said_on_the_page() -> None:
    part = published_part(json.dumps({"published": {"file": "nobody"}}), None)
    assert part is not None
    assert part.missing == "no file studies/published/nobody.csv, here or beside the program"
    assert published_part("{}", None) is None
    assert published_table(part).rows == ()


def test_a_size_plot_speaks_of_teachers_only_where_it_has_some(made: Report) -> None:
    (part,) = made.series

    def drawn(**teacher: object) -> Drawn:
        members = tuple(member.model_copy(update=teacher) for member in part.members)
        (figure,) = draw_series_figures(
            made.model_copy(update={"series": (part.model_copy(update={"members": members}),)})
        )
        return figure

    alone = drawn(teacher=None, teacher_params_m=None, teacher_gflops=None, teacher_score=None)
    taught = drawn(teacher="unet, width 64", teacher_params_m=31.0, teacher_gflops=None, teacher_score=0.9)
    assert "teacher" in taught.note
    assert "teacher" not in alone.note
    assert len(alone.svg) < len(taught.svg)  # no bubble, no arrow, and one entry of the legend less


@pytest.mark.parametrize(
    ("heights", "expected"),
    [
        ([], []),
        ([1.0, 5.0], [1.0, 5.0]),
        ([1.0, 1.5], [0.75, 1.75]),
        ([1.0, 1.0, 1.0, 9.0], [0.0, 1.0, 2.0, 9.0]),
        # A group that grows into the one below takes it in.
        ([0.0, 1.2, 1.2, 1.2], [-0.6, 0.4, 1.4, 2.4]),
    ],
)
def test_names_of_networks_of_like_scores_are_moved_apart_about_their_mean(
    heights: list[float], expected: list[float]
) -> None:
    assert apart(heights, 1.0) == pytest.approx(expected)
