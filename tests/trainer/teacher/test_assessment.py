"""Teachers: frozen and strict, judged by a floor, refused where they have seen the images that judge others."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import models
from models.config import UNetNetwork
from trainer import checkpoint
from trainer.config import RunConfig
from trainer.data import DataSet, open_data
from trainer.data.splits.near_duplicates import packed
from trainer.distributed.ranks import Ranks
from trainer.engine.resources import SharedResources
from trainer.errors import CheckpointError
from trainer.evaluation.calibration import Calibration
from trainer.evaluation.metrics import validate
from trainer.teacher import assessment
from trainer.teacher import open as opened

CPU = torch.device("cpu")


@pytest.fixture
def run(tmp_path: Path) -> RunConfig:
    """A run whose teacher's file is not written yet."""
    return RunConfig.model_validate(
        {
            "method": "kl",
            "epochs": 1,
            "batch_size": 4,
            "data": {"name": "blobs", "size": 32, "train": 6, "validation": 5, "test": 4, "augment": "none"},
            "teacher": {"name": "unet", "width": 4, "checkpoint": str(tmp_path / "teacher.safetensors")},
            "losses": {"ce": {}, "kl": {}},
        }
    )


@pytest.fixture
def data(run: RunConfig, tmp_path: Path) -> DataSet:
    """The run's drawn pictures."""
    return open_data(run.data, cache=tmp_path / "cache")


@pytest.fixture
def made(run: RunConfig, data: DataSet) -> Callable[..., Path]:
    """Writes the teacher's file with the words of a trained one, some of them replaced; None leaves a word out."""

    def make(**words: Any) -> Path:
        torch.manual_seed(3)
        network = models.build(UNetNetwork(name="unet", width=4), in_channels=3, classes=2)
        known: dict[str, Any] = {
            "network": {"name": "unet", "width": 4},
            "channels": 3,
            "classes": 2,
            "data": data.content_hash,
            "train_images": list(data.image_hashes("train")),
            "scores": {"dice": 0.77},
            "train": {"dice": 0.9},
            "run": run.model_dump(mode="json"),
        }
        stay = {name: word for name, word in (known | words).items() if word is not None}
        path = opened.located(run.teacher)
        checkpoint.export(path, network.state_dict(), stay)
        return path

    return make


def with_teacher(run: RunConfig, **options: Any) -> RunConfig:
    """The run with options of its teacher replaced."""
    assert run.teacher is not None
    return RunConfig.model_validate(run.model_dump() | {"teacher": run.teacher.model_dump() | options})


def message(call: Callable[[], object]) -> str:
    """The one line of a refusal."""
    with pytest.raises(CheckpointError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


class TestLoad:
    def test_the_teacher_is_frozen_and_in_evaluation_mode(
        self, run: RunConfig, data: DataSet, made: Callable[..., Path]
    ) -> None:
        path = made()
        network = assessment.load(run, data, device=CPU)
        assert not network.training
        assert not any(weight.requires_grad for weight in network.parameters())
        tensors = checkpoint.weights(path).tensors
        assert all(torch.equal(value, tensors[name]) for name, value in network.state_dict().items())

    def test_a_variable_in_the_path_comes_from_the_environment(
        self, run: RunConfig, data: DataSet, made: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = made()
        monkeypatch.setenv("TEACHERS", str(path.parent))
        moved = with_teacher(run, checkpoint=f"$TEACHERS/{path.name}")
        assert assessment.load(moved, data, device=CPU).taps

    def test_a_missing_file_names_the_command_that_makes_it(self, run: RunConfig, data: DataSet) -> None:
        text = message(lambda: assessment.load(run, data, device=CPU))
        assert "teacher.checkpoint" in text
        assert "python -m trainer teach" in text

    def test_no_file_named_is_refused(self, run: RunConfig, data: DataSet) -> None:
        assert "missing" in message(lambda: assessment.load(with_teacher(run, checkpoint=None), data, device=CPU))

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            ({"network": {"name": "unet", "width": 8}}, ["network", "'width': 8", "'width': 4"]),
            ({"network": {"name": "resunet", "width": 4}}, ["network", "resunet"]),
            ({"classes": 3}, ["classes is 3", "2"]),
            ({"channels": 1}, ["channels is 1", "3"]),
        ],
    )
    def test_a_file_for_another_network_or_other_classes_is_refused(
        self, run: RunConfig, data: DataSet, made: Callable[..., Path], words: dict[str, Any], said: list[str]
    ) -> None:
        made(**words)
        text = message(lambda: assessment.load(run, data, device=CPU))
        assert all(word in text for word in [*said, "python -m trainer teach"]), text

    def test_tensors_of_another_network_are_refused_where_the_file_says_nothing(
        self, run: RunConfig, data: DataSet, made: Callable[..., Path]
    ) -> None:
        made(network=None, classes=None, channels=None)
        wider = with_teacher(run, width=8)
        assert "another network" in message(lambda: assessment.load(wider, data, device=CPU))

    def test_a_file_cut_short_is_refused(self, run: RunConfig, data: DataSet, made: Callable[..., Path]) -> None:
        path = made()
        path.write_bytes(path.read_bytes()[:100])
        assert "cut short" in message(lambda: assessment.load(run, data, device=CPU))


class TestFloor:
    def test_the_recorded_dice_counts_for_the_same_data_size_and_fit(
        self, run: RunConfig, data: DataSet, made: Callable[..., Path]
    ) -> None:
        made()
        known = assessment.floor(run, data)
        assert (known.dice, known.measured, known.train_dice) == (0.77, False, 0.9)
        assert known.seen == {"validation": 0, "test": 0}
        assert known.sha256 == opened.content(run.teacher)

    @pytest.mark.parametrize("change", ["data", "size", "fit", "scores"])
    def test_the_dice_is_measured_for_anything_else(
        self, run: RunConfig, data: DataSet, made: Callable[..., Path], change: str
    ) -> None:
        other = run.model_dump(mode="json")
        if change in ("size", "fit"):
            other["data"][change] = {"size": 48, "fit": "stretch"}[change]
            made(run=other)
        else:
            made(**{change: None if change == "scores" else "0" * 64})
        known = assessment.facts(run, data)
        network = assessment.load(run, data, device=CPU)
        expected = validate(network, data, "validation", ranks=Ranks("cpu"), precision="fp32").means["dice"]
        assert known.measured
        assert known.dice == expected

    @pytest.mark.parametrize("precision", ["fp32", "bf16"])
    def test_a_teacher_that_is_open_already_is_judged_alike_and_read_no_more(
        self, run: RunConfig, data: DataSet, made: Callable[..., Path], tmp_path: Path, precision: str
    ) -> None:
        path = made(scores=None)
        run = RunConfig.model_validate(run.model_dump() | {"precision": precision})
        expected = assessment.facts(run, data, whole=True)
        teacher = SharedResources(Ranks(), tmp_path).opened_teacher(run)
        path.unlink()
        assert assessment.facts(run, data, whole=True, teacher=teacher) == expected

    def test_below_the_floor_it_is_refused_with_both_numbers(
        self, run: RunConfig, data: DataSet, made: Callable[..., Path]
    ) -> None:
        made()
        text = message(lambda: assessment.floor(with_teacher(run, min_dice=0.8), data))
        assert "0.8" in text
        assert "0.7700 (recorded)" in text
        assert assessment.floor(with_teacher(run, min_dice=0.77), data).dice == 0.77

    def test_a_mean_over_several_classes_may_be_lower(
        self, run: RunConfig, data: DataSet, made: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made()
        monkeypatch.setattr(data, "class_names", ("background", *"abcdefgh"))
        text = message(lambda: assessment.floor(with_teacher(run, min_dice=0.8), data))
        assert (
            "(recorded); lower min_dice (the mean over 8, of which rare and small ones are learned late), or " in text
        )

    @pytest.mark.parametrize(
        ("factor", "said"),
        [(math.inf, "numbers that are not finite"), (math.nan, "not finite"), (0.0, "every weight is 0")],
    )
    def test_weights_that_teach_nothing_are_refused_whatever_dice_is_recorded(
        self, run: RunConfig, data: DataSet, made: Callable[..., Path], factor: float, said: str
    ) -> None:
        whole = checkpoint.weights(made())
        words = {name: whole.word(name) for name in whole.metadata}
        path = opened.located(run.teacher)
        checkpoint.export(path, {name: tensor * factor for name, tensor in whole.tensors.items()}, words)
        assert said in message(lambda: assessment.floor(run, data))

    @pytest.mark.parametrize("part", ["validation", "test"])
    def test_a_teacher_that_saw_images_that_judge_is_refused_with_their_count(
        self, run: RunConfig, data: DataSet, made: Callable[..., Path], part: Any
    ) -> None:
        made(train_images=[*data.image_hashes("train"), *data.image_hashes(part)[:2]])
        assert f"trained on 2 {part} images" in message(lambda: assessment.floor(run, data))

    @pytest.mark.parametrize("part", ["validation", "test"])
    def test_a_teacher_of_near_identical_images_is_refused_with_their_count(
        self, run: RunConfig, data: DataSet, made: Callable[..., Path], part: Any
    ) -> None:
        """Found by sketches, where no file is the same."""
        saw = [*data.sketches("train"), *data.sketches(part)[:2]]
        made(train_sketches=packed(saw))
        assert f"near-identical to 2 {part} images" in message(lambda: assessment.floor(run, data))
        made(train_sketches=packed(data.sketches("train")))
        known = assessment.floor(run, data)
        assert known.alike == {"validation": 0, "test": 0}
        assert known.overlap_text() == "trained on no validation or test image, nor on near-identical ones"

    @pytest.mark.parametrize(
        "named", [{"name": "polyp"}, {"name": "pictures", "classes": [{"name": "a"}, {"name": "b"}]}]
    )
    def test_a_teacher_of_near_identical_images_may_be_used_where_the_split_accepts_them(
        self, run: RunConfig, data: DataSet, made: Callable[..., Path], named: Mapping[str, Any]
    ) -> None:
        """Its own split has them in two parts; what it saw is said nevertheless."""
        made(train_sketches=packed(data.sketches("validation")[:1]))
        table = run.model_dump(mode="json")
        table["data"] = {"root": "r", "split": "s", "size": 32, "near_duplicates": "accept", **named}
        known = assessment.floor(RunConfig.model_validate(table), data)
        assert "but on near-identical ones of 1 validation" in known.overlap_text()

    def test_sketches_that_are_none_are_refused(self, run: RunConfig, data: DataSet, made: Callable[..., Path]) -> None:
        made(train_sketches="AAAA")
        assert "train_sketches: damaged" in message(lambda: assessment.floor(run, data))

    def test_without_sketches_near_identical_images_are_unknown(
        self, run: RunConfig, data: DataSet, made: Callable[..., Path]
    ) -> None:
        made()
        assert "unknown whether on near-identical ones" in assessment.floor(run, data).overlap_text()

    def test_unknown_training_images_are_stated_and_not_taken_for_none(
        self, run: RunConfig, data: DataSet, made: Callable[..., Path]
    ) -> None:
        made(train_images=None)
        known = assessment.floor(run, data)
        assert known.seen is None
        assert "unknown" in known.overlap_text()

    def test_the_fingerprint_is_that_of_the_content(self, run: RunConfig, made: Callable[..., Path]) -> None:
        path = made()
        assert run.teacher is not None
        first = opened.content(run.teacher)
        made(train={"dice": 0.91})
        assert opened.content(run.teacher) != first
        assert json.loads(checkpoint.weights(path).metadata["train"]) == {"dice": 0.91}


class TestCalibration:
    def test_confidence_that_is_deserved_has_no_error(self, data: DataSet) -> None:
        assert self.error(data, confidence=1.0, right=1.0) == pytest.approx(0.0, abs=1e-6)

    def test_certainty_that_is_always_wrong_has_the_error_one(self, data: DataSet) -> None:
        assert self.error(data, confidence=1.0, right=0.0) == pytest.approx(1.0, abs=1e-6)

    def test_the_error_is_the_gap_between_confidence_and_accuracy(self, data: DataSet) -> None:
        assert self.error(data, confidence=0.8, right=1.0) == pytest.approx(0.2, abs=1e-6)

    def test_errors_that_cancel_in_the_chosen_class_are_seen_in_the_positive_one(self, data: DataSet) -> None:
        """Too sure of the foreground where it is predicted, right about the background elsewhere."""
        calibration = Calibration(data, "validation", Ranks("cpu"))
        sums = torch.zeros(3)
        for index in range(5):
            truth = torch.from_numpy(data.native_mask("validation", index).copy())
            place = torch.arange(truth.numel()).reshape(truth.shape)
            # Probability of the foreground 0.9 at places of which half are foreground by turns; 0.1 where none is.
            probability = torch.where(place % 2 == 0, 0.9, 0.1)
            sums += torch.tensor([truth.numel(), (truth[place % 2 == 0] > 0).sum(), (truth[place % 2 == 1] > 0).sum()])
            odds = torch.logit(probability)
            calibration.hear(index, torch.stack([torch.zeros_like(odds), odds]))
        pixels, high, low = sums.tolist()
        expected = abs(0.9 * pixels / 2 - high) + abs(0.1 * pixels / 2 - low)
        assert calibration.positive_error() == pytest.approx(expected / pixels, abs=1e-4)
        right = high + (pixels / 2 - low)
        assert calibration.error() == pytest.approx(abs(0.9 * pixels - right) / pixels, abs=1e-4)
        assert calibration.error() < calibration.positive_error()

    @staticmethod
    def error(data: DataSet, *, confidence: float, right: float) -> float:
        """Of logits that are that sure of the right label, or of the wrong one."""
        calibration = Calibration(data, "validation", Ranks("cpu"))
        sure = torch.logit(torch.tensor(confidence, dtype=torch.float64).clamp(max=1 - 1e-12)).float()
        for index in range(5):
            truth = torch.from_numpy(data.native_mask("validation", index).copy())
            side = 2 * (truth if right else 1 - truth).float() - 1
            calibration.hear(index, torch.stack([-side, side]) * sure / 2)
        return calibration.error()


def test_a_file_for_another_network_is_refused_before_a_search_begins_although_its_dice_is_recorded(
    run: RunConfig, data: DataSet, made: Callable[..., Path]
) -> None:
    made()
    with pytest.raises(CheckpointError, match=r"network is .*4.*but the run has .*6.*trainer teach"):
        assessment.floor(with_teacher(run, width=6), data)
