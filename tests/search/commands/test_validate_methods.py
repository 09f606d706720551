"""What `validate` says of methods that teach nothing with two classes."""

import json

import cv2
import pytest

from losses.config import NEEDS_TEACHER
from losses.ranges import RANGES
from search.__main__ import main
from search.commands.preflight import _notes
from search.spec.load import find, load
from trainer.data.sets.blobs import draw
from trainer.engine.fit import fit
from trainer.run_file import RunFile


@pytest.mark.parametrize("method", ["dist", "nkd", "dkd", "kl"])
def test_a_method_says_what_of_it_teaches_nothing_with_two_classes(method, tmp_path):
    path = tmp_path / "two.toml"
    path.write_text(
        f'[objective]\nmaximize = "dice"\n[budget]\ntrials = 2\n[run]\nmethod = "{method}"\nepochs = 1\n'
        f'[run.data]\nname = "blobs"\n[run.student]\nname = "unet"\n[run.teacher]\nname = "unet"\ncheckpoint = "t.pt"\n'
        f'[run.losses]\nce = {{}}\n{method} = {{}}\n[space]\n"optim.lr" = {{ low = 1e-4, high = 1e-2, log = true }}\n'
    )
    notes = [note for note in _notes(load(path)) if note.startswith("losses.")]
    assert [note.partition(":")[0] for note in notes] == ([] if method == "kl" else [f"losses.{method}"])
    assert all("with two classes" in note for note in notes)


@pytest.fixture(scope="module")
def drawn_polyps(tmp_path_factory):
    """A folder with drawn pictures, masks and their split file."""
    folder = tmp_path_factory.mktemp("polyps")
    rows = ["source,image,mask,group,split"]
    for number in range(16):
        picture, mask = draw(100 + number, 64)
        part = "train" if number < 8 else "validation" if number < 12 else "test"
        for kind, pixels in (("images", picture), ("masks", mask * 255)):
            (folder / kind).mkdir(exist_ok=True)
            cv2.imwrite(str(folder / kind / f"{number}.png"), pixels)
        rows.append(f"drawn,images/{number}.png,masks/{number}.png,{number},{part}")
    (folder / "split.csv").write_text("\n".join(rows) + "\n")
    return folder


def test_the_study_of_all_methods_is_valid_on_a_drawn_tree(drawn_polyps, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("POLYP_ROOT", str(drawn_polyps))
    teacher = tmp_path / "teacher.safetensors"
    changes = {
        "run.data.split": str(drawn_polyps / "split.csv"),
        "run.data.size": 64,
        "run.batch_size": 4,
        "run.precision": "fp32",
        "run.teacher.encoder": "resnet18",
        "run.teacher.checkpoint": str(teacher),
        "run.teacher.min_dice": 0.0,
        "space.student.width.choices": [8],
    }
    sets = [f"--set={path}={json.dumps(value)}" for path, value in changes.items()]
    spec = load(find("polyp-kd-methods"), [text.removeprefix("--set=") for text in sets], name="drawn")
    run = RunFile(spec.source, spec.run, teach={"epochs": 1, "validate": {"from": 1}}).teacher_run()
    for _ in fit(run, cache=tmp_path, export=teacher):
        pass
    assert main(["validate", "polyp-kd-methods", "--name=drawn", *sets, "--cache", str(tmp_path), "--no-timing"]) == 0
    shown = capsys.readouterr().out
    assert "\nok " in shown
    assert "losses.dist: with two classes" in shown
    assert "unet                        0.54 M" in shown, "one line a network, whatever the methods"


def test_the_study_of_all_methods_gives_each_the_same_share_and_its_published_values_first():
    main_arm = load(find("polyp-kd-methods")).main
    assert main_arm.trials % len(main_arm.points) == 0
    methods = [point["method"] for point in main_arm.points]
    assert [entry["method"] for entry in main_arm.enqueue] == methods
    live = {term for method in methods for term in str(method).split("+")} - {"none"}
    assert NEEDS_TEACHER - live == {"nkd", "dkd"}, "they have nothing of their own with two classes"
    published = {f"losses.{term}.{name}": each.published for term in live for name, each in RANGES[term].items()}
    for entry in main_arm.enqueue:
        assert all(value == published[name] for name, value in entry.items() if name != "method")


def test_a_confirmation_that_leaves_methods_out_is_said():
    spec = load(find("polyp-kd-methods"), ["confirm.top=6"])
    assert "confirm.top = 6: of 15 choices of method the worst are not confirmed" in list(_notes(spec))


def test_a_comparison_of_too_few_trials_a_method_or_an_arm_is_said(tmp_path, small_study):
    def warned(spec):
        return [note for note in _notes(spec) if "a difference may be that of the draws" in note]

    assert not warned(load(find("polyp-kd-methods")))
    (note,) = warned(load(find("polyp-kd-methods"), ["budget.trials=30"]))
    assert note.startswith("kd: the best of 2 trials is compared")
    path = tmp_path / "small.toml"
    path.write_text(small_study(trials=6))
    assert not warned(load(path, ["budget.trials=2"])), "nothing is compared"
    path.write_text(small_study(trials=6, more='[[arms]]\nname = "sgd"\nset = { "optim.name" = "sgd" }\ntrials = 2\n'))
    (note,) = warned(load(path))
    assert note.startswith("sgd: the best of 2 trials is compared")
