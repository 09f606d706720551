"""A MONAI bundle of a package: MONAI's own verifiers take it, and MONAI's engine gives the package's labels."""

import json
import warnings

import numpy as np
import pytest

from tests.trainer.package.drawn_packages import changed, oblique
from tests.trainer.volume_files import volume, write
from trainer.bundle.inference import refuse_other_ways
from trainer.bundle.network import network_def
from trainer.config import RunConfig
from trainer.errors import UserError
from trainer.package.opened import preprocessing_of

nibabel = pytest.importorskip("nibabel")
SPECIFIED = {
    "type": "object",
    "required": [
        "schema", "version", "monai_version", "pytorch_version", "numpy_version", "required_packages_version", "task",
        "description", "authors", "copyright", "network_data_format",
    ],
    "properties": {
        "network_data_format": {
            "type": "object",
            "required": ["inputs", "outputs"],
            "additionalProperties": {"type": "object", "additionalProperties": {"$ref": "#/$defs/tensor"}},
        }
    },
    "$defs": {
        "tensor": {
            "type": "object",
            "required": ["type", "format", "num_channels", "spatial_shape", "dtype", "value_range"],
            "properties": {"num_channels": {"type": "integer"}, "spatial_shape": {"items": {"type": "integer"}}},
        }
    },
}  # fmt: skip
"""What MONAI's specification says that metadata.json has; its own schema is on the network."""


@pytest.fixture(scope="module")
def bundle_tools():
    """MONAI's module of bundles; what it warns of while it is imported is not ours."""
    pytest.importorskip("monai")
    pytest.importorskip("ignite")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import monai.bundle

        return monai.bundle


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """A folder with a case that is larger than a window along each axis."""
    folder = tmp_path_factory.mktemp("cases")
    write(folder / "b.nii.gz", volume(62, (33, 30, 12))[0], oblique((0.9, 1.0, 2.0)))
    return folder


@pytest.mark.parametrize("kind", ["classes", "regions"])
def test_monai_verifies_a_bundle_and_gives_the_labels_of_its_package(
    place, cases, tmp_path, trainer, bundle_tools, kind
):
    bundle = tmp_path / "drawn-bundle"
    code, out, _ = trainer("bundle", place / kind, bundle)
    assert code == 0
    assert "next: python -m monai.bundle run --config_file" in out
    config, meta = (str(bundle / "configs" / name) for name in ("inference.json", "metadata.json"))
    (tmp_path / "schema.json").write_text(json.dumps(SPECIFIED))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bundle_tools.verify_metadata(meta_file=meta, filepath=str(tmp_path / "schema.json"))
        bundle_tools.verify_net_in_out(net_id="network_def", meta_file=meta, config_file=config, device="cpu")
        workflow = bundle_tools.ConfigWorkflow(
            config_file=config, meta_file=meta, logging_file=False, workflow_type="inference", bundle_root=str(bundle),
            dataset_dir=str(cases), output_dir=str(tmp_path / "monai"), device="$torch.device('cpu')",
        )  # fmt: skip
        workflow.initialize()
        assert not workflow.check_properties()
        workflow.run()
        workflow.finalize()
    assert trainer("predict", place / kind, cases, "-o", tmp_path / "package")[0] == 0
    theirs = nibabel.load(tmp_path / "monai/b.nii.gz")
    np.testing.assert_allclose(theirs.affine, nibabel.load(cases / "b.nii.gz").affine, atol=1e-5)
    theirs = np.asarray(theirs.dataobj)
    if kind == "classes":
        ours = np.asarray(nibabel.load(tmp_path / "package/b.nii.gz").dataobj)
        assert len(np.unique(ours)) == 3
    else:
        ours = np.stack(
            [np.asarray(nibabel.load(tmp_path / f"package/b_{name}.nii.gz").dataobj) for name in ("whole", "core")], -1
        )
        assert 0 < ours.mean() < 1
    assert theirs.shape == ours.shape
    assert (theirs != ours).mean() < 0.002


def test_the_weights_have_the_names_of_monai(place, tmp_path, trainer, bundle_tools):
    import torch

    assert trainer("bundle", place / "classes", tmp_path / "bundle")[0] == 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parser = bundle_tools.ConfigParser()
        parser.read_config(str(tmp_path / "bundle/configs/inference.json"))
        network = parser.get_parsed_content("network_def")
    network.load_state_dict(torch.load(tmp_path / "bundle/models/model.pt", weights_only=True), strict=True)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"tiling": "spread"}, 'the package says tiling = "spread", which MONAI\'s transforms do not do'),
        ({"weights": "nnunet"}, 'weights = "nnunet"'),
        ({"grid": "edge-to-edge"}, 'grid = "edge-to-edge"'),
        ({"orientation": "stored", "schemes": [{"scheme": "ZScoreNormalization"}]}, "prepared in nnU-Net's steps"),
    ],
)
def test_what_monai_cannot_do_is_refused(place, tmp_path, changes, text):
    with pytest.raises(UserError, match=text.split("=")[0].strip()) as caught:
        refuse_other_ways(preprocessing_of(changed(place / "classes", tmp_path, changes)))
    assert text in str(caught.value)


def test_networks_that_monai_has_not_are_refused():
    run = RunConfig.model_validate(
        {"data": {"name": "blobs"}, "student": {"name": "unet", "width": 4}, "losses": {"ce": {}}, "epochs": 1}
    )
    with pytest.raises(UserError, match="unet: MONAI has no such network"):
        network_def(run.student, channels=1, classes=2)


def test_a_folder_that_is_there_is_not_written_over(place, tmp_path, trainer):
    code, _, error = trainer("bundle", place / "classes", tmp_path)
    assert code == 2
    assert "is there already" in error
    assert len(error.splitlines()) == 1
