"""Which configurations a confirmation trains, what it refuses, and the lock of the test rows."""

import ast
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import pytest

from search.answer.power import counted_test_groups, powerless
from search.commands import confirm
from search.commands.status import lines, look
from search.confirm.data_checks import checked
from search.confirm.plan import Plan, confirmations, plan_of
from search.spec.file import is_confirmation
from search.storage.evidence import Evidence
from search.study.adapter import StudyAdapter
from search.study.snapshot import read
from trainer.config import BlobsData, PolypData, RunConfig
from trainer.data.sets.blobs import draw
from trainer.data.splits.part_sizes import scored_as
from trainer.distributed.ranks import Ranks
from trainer.engine.resources import SharedResources
from trainer.errors import UserError

Make = Callable[..., Any]
ROOT = Path(__file__).resolve().parents[3]


def test_the_winners_are_the_best_and_the_best_of_each_front_value_and_every_claim_has_its_control(
    ended: StudyAdapter, plan_for: Make
) -> None:
    plan = plan_for(ended)
    by_role: dict[str, list[Any]] = {}
    for each in plan.configurations:
        by_role.setdefault(each.role, []).append(each)
    winners = by_role["winner"]
    assert [each.name for each in winners] == ["kd-1", "kd-2", "kd-3"]
    assert [each.searched for each in winners] == sorted((each.searched for each in winners), reverse=True)
    assert winners[0].rank == 1
    assert {each.run["student"]["width"] for each in winners} == {2, 4}
    best = {w: max(each.searched for each in winners if each.run["student"]["width"] == w) for w in (2, 4)}
    scores = {
        w: max(
            r.best_score for r in read(ended.opened, "tiny").leases["kd"] if json.loads(r.run)["student"]["width"] == w
        )
        for w in (2, 4)
    }
    assert best == scores
    for winner in winners:
        assert any(each.params <= winner.params for each in by_role["control"])
    assert by_role["control"][0].rank == 1
    (without,), (defaults,) = by_role["ablation"], by_role["defaults"]
    assert (without.name, without.of, without.run["method"]) == ("kd-1-without", "kd-1", "none")
    assert {**without.run, "method": "kl"} == winners[0].run
    assert (defaults.run["method"], defaults.run["optim"]["lr"]) == ("none", 1e-3)
    assert defaults.run["student"] == winners[0].run["student"]
    assert defaults.run["teacher"]["checkpoint"] == "teacher.safetensors"


def test_a_plan_comes_back_from_the_database_as_it_was_made(
    ended: StudyAdapter, sqlite_url: str, plan_for: Make
) -> None:
    plan = plan_for(ended)
    search = confirm.opened_as(ended.opened, sqlite_url, plan)
    row = search.searches.search(plan.name)
    again = plan_of(plan.name, json.loads(row.spec))
    assert (again, again.identity) == (plan, row.identity)
    assert [arm.study_name for arm in search.spec.arms] == [f"tiny.confirm.{each.name}" for each in plan.configurations]


def test_names_of_confirmations_are_told_from_studies() -> None:
    names = ["a", "a.confirm-2", "a.confirm", "a.confirm-10", "ab.confirm", "a.confirmed"]
    assert confirmations("a", names) == ["a.confirm", "a.confirm-2", "a.confirm-10"]
    assert is_confirmation("a.confirm")
    assert not is_confirmation("a")
    assert not is_confirmation("x/a.confirm.toml")


def test_a_second_table_is_a_second_opening_and_has_to_be_asked_for(
    ended: StudyAdapter, sqlite_url: str, plan_for: Make, words: Make
) -> None:
    plan = plan_for(ended)
    confirm.opened_as(ended.opened, sqlite_url, plan)
    same = confirm.the_plan(ended.opened, "tiny", words(sqlite_url))
    assert same == plan
    more = ("--set", "confirm.seeds=[21, 22]")
    with pytest.raises(UserError, match=r"confirmed with another \[confirm\] \(confirm.seeds: .*--second-opening"):
        confirm.the_plan(ended.opened, "tiny", words(sqlite_url, *more))
    second = confirm.the_plan(ended.opened, "tiny", words(sqlite_url, *more, "--second-opening"))
    assert (second.name, second.table.seeds) == ("tiny.confirm-2", (21, 22))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--set", "confirm.seeds=[1, 2]"), "trained with seed 1, so it is not fresh"),
        (("--set", "run.epochs=5"), "a confirmation trains what the search found"),
        (("--set", "confirm.tops=5"), "confirm.tops.*unknown"),
    ],
)
def test_a_plan_that_cannot_be_is_refused_in_one_line(
    ended: StudyAdapter, sqlite_url: str, more: Any, message: str, words: Make
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        confirm.the_plan(ended.opened, "tiny", words(sqlite_url, *more))
    assert "\n" not in str(caught.value)


def test_a_confirmation_that_can_show_nothing_is_refused_before_anything_is_opened(
    ended: StudyAdapter, sqlite_url: str, words: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Six test images are too few for an interval, whatever is trained; a second look asks for one seed alone."""
    with pytest.raises(UserError, match=r"6 test images in 6 groups: at least 10 groups .*--anyway$") as caught:
        confirm.main(words(sqlite_url))
    assert "\n" not in str(caught.value)
    assert ended.opened.searches.names() == ["tiny"]
    assert Evidence(ended.opened.engine).openings("tiny") == ()
    assert confirm.main(words(sqlite_url, "--plan")) == 0
    assert "nothing can be shown: 6 test images in 6 groups" in capsys.readouterr().out
    assert powerless(BlobsData(name="blobs", test=40), 3) is None
    assert powerless(BlobsData(name="blobs", test=40), 1) == "1 seed: at least 2 are needed for an interval"
    assert "a confirmation could show nothing: 6 test images" in "\n".join(lines(look(ended.opened, "tiny")))


def test_test_groups_are_counted_in_the_split_file(pictures: Path) -> None:
    """Two frames of one patient are one group; a file that cannot be reached says nothing."""
    config = PolypData.model_validate(split(pictures, "train", "train", "validation", "test", "test", "test"))
    assert counted_test_groups(config) == (3, 3)
    file = Path(config.split)
    file.write_text(file.read_text().replace("4.png,,test", "4.png,p,test").replace("5.png,,test", "5.png,p,test"))
    assert counted_test_groups(config) == (3, 2)
    assert counted_test_groups(config.model_copy(update={"split": str(pictures / "none.csv")})) is None


def test_slices_of_one_volume_are_one_case(pictures: Path) -> None:
    """Scores are over volumes where a split file names them, and counts of a part are of these."""
    config = PolypData.model_validate(split(pictures, "train", "validation", "test", "test", "test"))
    assert scored_as(config) == "image"
    file = Path(config.split)
    header, *rows = file.read_text().splitlines()
    cases = ["", "", "v1", "v1", "v2"]
    file.write_text("\n".join([f"{header},case", *(f"{row},{case}" for row, case in zip(rows, cases, strict=True))]))
    assert counted_test_groups(config) == (2, 2)
    assert scored_as(config) == "case"
    assert powerless(config, 3) == "2 test cases in 2 groups: at least 10 groups are needed for an interval"


def test_seeds_and_top_are_flags_and_a_plan_with_an_unknown_source_is_none(
    ended: StudyAdapter, sqlite_url: str, words: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = confirm.the_plan(ended.opened, "tiny", words(sqlite_url, "--seeds", "31,32", "--top", "1"))
    assert plan.table.seeds == (31, 32)
    assert [each.name for each in plan.configurations if each.role == "winner"] == ["kd-1"]
    for flags in (("--plan",), ("--anyway",)):
        with pytest.raises(UserError, match=r"^confirm\.unseen = 'NoSuch': blobs has no other sources; remove it$"):
            confirm.main(words(sqlite_url, *flags, "--set", 'confirm.unseen=["NoSuch"]'))
    assert capsys.readouterr().out == ""
    assert ended.opened.searches.names() == ["tiny"]


def test_a_search_that_runs_or_found_nothing_is_not_confirmed(
    sqlite_url: str, open_again: Callable[..., StudyAdapter], words: Make, study_text: str
) -> None:
    search = open_again(sqlite_url, "tiny", study_text)
    with pytest.raises(UserError, match=r"has not ended.*close tiny.*--anyway"):
        confirm.the_plan(search.opened, "tiny", words(sqlite_url))
    with pytest.raises(UserError, match=r"nothing to confirm.*status tiny"):
        confirm.the_plan(search.opened, "tiny", words(sqlite_url, "--anyway"))
    with pytest.raises(UserError, match="'other' is not in"):
        confirm.the_plan(search.opened, "other", words(sqlite_url))


def test_a_confirmation_is_not_confirmed(ended: StudyAdapter, sqlite_url: str, plan_for: Make, words: Make) -> None:
    confirm.opened_as(ended.opened, sqlite_url, plan_for(ended))
    with pytest.raises(UserError, match="is a confirmation itself"):
        confirm.the_plan(ended.opened, "tiny.confirm", words(sqlite_url))


def on_data(plan: Plan, data: dict[str, Any], unseen: tuple[str, ...] = ()) -> Plan:
    """The same plan, taught by nobody, on other data."""
    runs = [{**each.run, "method": "none", "data": data} for each in plan.configurations]
    found = tuple(replace(each, run=run) for each, run in zip(plan.configurations, runs, strict=True))
    table = plan.table.model_copy(update={"unseen": unseen})
    return replace(plan, configurations=found, table=table, content={"data": None, "teacher": None})


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two sets below one root: A with a split, of which B shares a picture."""
    for source in ("A", "B", "C"):
        for kind in ("images", "masks"):
            (tmp_path / source / kind).mkdir(parents=True)
        for index in range(6):
            image, label = draw(100 * ord(source) + index, 32)
            cv2.imwrite(str(tmp_path / source / "images" / f"{index}.png"), image)
            cv2.imwrite(str(tmp_path / source / "masks" / f"{index}.png"), 255 * label)
    for kind in ("images", "masks"):
        shutil.copy(tmp_path / "A" / kind / "0.png", tmp_path / "B" / kind / "again.png")
    return tmp_path


def split(root: Path, *parts: str) -> dict[str, Any]:
    rows = [f"A,A/images/{i}.png,A/masks/{i}.png,,{part}" for i, part in enumerate(parts)]
    (root / "split.csv").write_text("\n".join(["source,image,mask,group,split", *rows, ""]))
    return dict(name="polyp", root=str(root), split=str(root / "split.csv"), size=32)


def test_what_would_make_the_answer_worthless_is_refused_before_anything_is_opened(
    ended: StudyAdapter, pictures: Path, plan_for: Make
) -> None:
    plan, resources = plan_for(ended), SharedResources(Ranks("cpu"), pictures / "cache")
    parts = ("train", "train", "train", "train", "validation", "test")
    blind = split(pictures, *parts[:5])
    with pytest.raises(UserError, match=r"no test rows.*split = test"):
        checked(on_data(plan, blind), resources)
    resources = SharedResources(Ranks("cpu"), pictures / "cache")  # a split that was opened is not read again
    data = split(pictures, *parts)
    with pytest.raises(UserError, match="the data is not that of the search"):
        checked(replace(on_data(plan, data), content={"data": "0" * 64}), resources)
    with pytest.raises(UserError, match=r"^confirm\.unseen = 'D': no such folder.*known: A, B, C"):
        checked(on_data(plan, data, ("D",)), resources)
    with pytest.raises(UserError, match=r"unseen: B: some of its images are in the train part"):
        checked(on_data(plan, data, ("B",)), resources)
    with pytest.raises(UserError, match="unseen = 'C': blobs has no other sources"):
        checked(on_data(plan, plan.configurations[0].run["data"], ("C",)), resources)
    for mask in sorted((pictures / "C" / "masks").iterdir()):
        mask.rename(mask.with_name(f"lesion-{mask.name}"))
    with pytest.raises(UserError, match=r"6 images without a mask .*; other names: confirm\.masks_pattern = 'lesion-"):
        checked(on_data(plan, data, ("C",)), resources)
    fine = on_data(plan, data, ("C",))
    fine = replace(fine, table=fine.table.model_copy(update={"masks_pattern": "lesion-{}"}))
    assert checked(fine, resources) is None
    assert len(resources.data(RunConfig.model_validate(fine.configurations[0].run)).samples("validation")) == 1
    assert not list(pictures.rglob("openings.jsonl"))


def test_only_confirmation_and_evaluate_can_open_test_rows() -> None:
    """Whoever may read test rows has called `record_opening`: no other place takes it or `Opening` to make one."""
    callers: set[str] = set()
    for path in (path for room in ("search", "trainer", "losses", "models") for path in (ROOT / room).rglob("*.py")):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        taken = {a.name for n in nodes if isinstance(n, ast.ImportFrom) and "trainer" in str(n.module) for a in n.names}
        called = {getattr(node.func, "id", "") for node in nodes if isinstance(node, ast.Call)}
        if taken & called & {"record_opening", "Opening"}:
            callers.add(path.relative_to(ROOT).as_posix())
    assert callers == {"search/confirm/data_checks.py", "trainer/commands/evaluate.py", "trainer/data/openings.py"}
