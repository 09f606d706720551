"""The benchmarks of networks and methods name all there are, and go on where they ended."""

import numpy as np
import pytest
import torch

from benchmarks.cells import Cells
from benchmarks.method_costs import STUDENTS
from benchmarks.network_matrix import METHODS, terms
from benchmarks.network_times import NAMES, TRAINED_AT
from benchmarks.overfit import WIDER, dice
from benchmarks.structures import STRUCTURES, pairs
from benchmarks.upsampling import alternation, paired
from losses import LOSSES
from losses.config import LossTerms
from models.config import names_for
from models.output import Tap


def test_every_network_and_every_method_is_in_the_tables():
    widths = {"ducknet-17", "ducknet-34"}
    assert set(STRUCTURES) == set(names_for(2)) - widths
    assert set(NAMES) == set(names_for(2)) - {"ducknet"}
    assert set(TRAINED_AT) <= set(NAMES)
    assert set(WIDER) <= set(STRUCTURES)
    assert set(STUDENTS) <= set(STRUCTURES)
    supervised = {"ce", "ohem", "dice", "ce-dice", "bce-dice", "structure"}
    assert set(METHODS) == (set(LOSSES) - supervised) | {"none"}


def test_every_method_has_terms_that_the_configuration_takes():
    for method in METHODS:
        LossTerms.model_validate(terms(method, ([("dec3", "enc3")], "none")))


def test_pairs_are_of_one_stride_or_averaged():
    ours = {"enc1": Tap(4, 1), "enc3": Tap(8, 4), "dec3": Tap(8, 4), "gate3": Tap(1, 4), "mid": Tap(8, 8)}
    assert pairs(ours, {"enc3": Tap(9, 4), "dec3.2": Tap(9, 4)}) == ([("dec3", "dec3.2")], "none")
    assert pairs(ours, {"enc4": Tap(9, 8), "mid": Tap(9, 64)}) == ([("mid", "enc4")], "none")
    assert pairs(ours, {"mid": Tap(9, 64)}) == ([("mid", "mid")], "average")


def test_cells_that_are_done_are_there_in_the_next_run_and_may_be_measured_again(tmp_path):
    cells = Cells(tmp_path / "raw.jsonl", ("network", "way"))
    cells.add(network="unet", way="onnx", result="ok")
    cells.add(network="unet", way="bf16", result="ok")
    cells.add(network="unet", way="onnx", result="apart")
    again = Cells(tmp_path / "raw.jsonl", ("network", "way"))
    assert {"network": "unet", "way": "bf16"} in again
    assert {"network": "resunet", "way": "bf16"} not in again
    assert [line["result"] for line in again.lines(network="unet")] == ["apart", "ok"]


def test_a_comb_alternates_and_a_step_does_not():
    step = torch.zeros(1, 8, 8)
    step[:, :, 4:] = 1
    assert alternation(step) == 0
    comb = step.clone()
    comb[:, ::2, 4:] = 0.5
    assert alternation(comb) > 0.05


def test_scores_and_intervals():
    truth = np.zeros((2, 4, 4), bool)
    truth[:, :2] = True
    half = truth.copy()
    half[0, 0] = False
    assert dice(truth, truth) == 1
    assert dice(half, truth) == pytest.approx((2 * 4 / 12 + 1) / 2)
    assert paired([0.1, 0.2, 0.3]) == "+0.200 [-0.048, +0.448]"
