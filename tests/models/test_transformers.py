"""Networks with transformers: sizes to the digit, what their papers say of them, pretrained weights."""

import re
import sys
import tomllib
from collections import Counter
from importlib.util import find_spec

import pytest
import torch
from safetensors.torch import save_file

import models
from models.config import TransUNetNetwork, network_config, teacher_config
from models.normalisation import HALF, IMAGENET
from models.output import Segmenter

pytestmark = pytest.mark.skipif(find_spec("timm") is None, reason="the smp extra, which holds timm, is not installed")


def on_meta(name, *, in_channels=3, classes=2, size=None, **options) -> Segmenter:
    with torch.device("meta"):
        return models.build(network_config(name, **options), in_channels=in_channels, classes=classes, size=size)


def built(name, *, in_channels=3, size=64, **options) -> Segmenter:
    torch.manual_seed(0)
    return models.build(network_config(name, **options), in_channels=in_channels, classes=2, size=size)


@pytest.mark.parametrize(
    ("name", "options", "in_channels", "counts"),
    [
        ("transunet", {}, 3, {2: 105_276_066, 9: 105_277_081}),
        ("transunet", {"skips": 0}, 3, {9: 103_765_657}),
        ("uctransnet", {}, 3, {2: 66_430_722}),
        ("uctransnet", {}, 4, {2: 66_431_298}),
        ("missformer", {}, 3, {2: 42_462_082, 9: 42_462_537}),
        ("missformer", {}, 4, {2: 42_465_218}),
        ("swin-unet", {}, 3, {2: 27_168_228, 9: 27_168_900}),
        ("hiformer-s", {}, 3, {2: 23_253_340, 9: 23_254_355}),
        ("hiformer-b", {}, 3, {2: 25_511_100, 9: 25_512_115}),
        ("hiformer-l", {}, 3, {2: 29_518_204, 9: 29_519_219}),
        ("cascade-pvt", {}, 3, {2: 35_273_823, 9: 35_281_019}),
        ("cascade-transunet", {}, 3, {2: 123_476_511, 9: 123_487_739}),
    ],
)
def test_parameters_equal_the_reference_to_the_digit(name, options, in_channels, counts):
    """Counted from the reference implementations at 224; those for 1 class follow, as a head grows by the class."""
    for classes, count in counts.items():
        assert models.parameters(on_meta(name, in_channels=in_channels, classes=classes, **options)) == count


@pytest.mark.parametrize(
    ("name", "each"),
    [
        ("transunet", 145),
        ("uctransnet", 65),
        ("missformer", 65),
        ("swin-unet", 96),
        ("hiformer-b", 145),
        ("cascade-pvt", 1028),
        ("cascade-transunet", 1604),
    ],
)
def test_a_class_more_costs_a_row_of_the_head(name, each):
    assert models.parameters(on_meta(name, classes=3)) - models.parameters(on_meta(name, classes=2)) == each


LEVELS = {
    "transunet": "enc2 64, enc3 256, enc4 512, mid 768, dec4 256, dec3 128, dec2 64, dec1 16",
    "uctransnet": "enc1 64, enc2 128, enc3 256, enc4 512, enc1.ctrans 64, enc2.ctrans 128, enc3.ctrans 256, "
    "enc4.ctrans 512, mid 512, dec4 256, dec3 128, dec2 64, dec1 64",
    "missformer": "enc3 64, enc4 128, enc5 320, enc3.bridge 64, enc4.bridge 128, enc5.bridge 320, mid 512, "
    "mid.bridge 512, dec5 320, dec4 128, dec3 64, dec1 64",
    "swin-unet": ", ".join(
        f"{name}{place} {width}"
        for name, width in (
            ("enc3", 96),
            ("enc4", 192),
            ("enc5", 384),
            ("mid", 768),
            ("dec5", 384),
            ("dec4", 192),
            ("dec3", 96),
        )
        for place in ("", ".first", ".last")
    )
    + ", dec1 96",
    "hiformer-s": "enc2 64, enc3.cnn 64, enc4.cnn 128, enc3 96, enc4 192, enc3.dlf 96, mid.cnn 256, mid 384, "
    "mid.dlf 384, dec3 128, dec1 16",
    "hiformer-b": "enc2 64, enc3.cnn 256, enc4.cnn 512, enc3 96, enc4 192, enc3.dlf 96, mid.cnn 1024, mid 384, "
    "mid.dlf 384, dec3 128, dec1 16",
    "cascade-pvt": "enc3 64, enc4 128, enc5 320, mid 512, dec6 512, dec5 320, dec4 128, dec3 64",
    "cascade-transunet": "enc2 64, enc3 256, enc4 512, mid 768, dec5 768, dec4 512, dec3 256, dec2 64",
}
"""Published channels of every map, in the order of the network."""


@pytest.mark.parametrize("name", LEVELS)
def test_maps_are_as_wide_as_published_and_as_promised(name):
    network = on_meta(name)
    assert ", ".join(f"{tap} {network.taps[tap].channels}" for tap in network.taps) == LEVELS[name]
    shown = network.eval()(torch.empty(1, 3, 224, 224, device="meta")).taps
    assert {tap: (values.shape[1], 224 // values.shape[2]) for tap, values in shown.items()} == network.taps


def shapes_of(network, side=224):
    """Inputs of each module of a network for one image without memory: name -> shapes."""
    seen = {}
    for name, module in network.named_modules():

        def note(_, inputs, name=name):
            seen.setdefault(name, [x.shape for x in inputs if isinstance(x, torch.Tensor)])

        module.register_forward_pre_hook(note)
    network.eval()(torch.empty(1, 3, side, side, device="meta"))
    return seen


def test_transunet_has_12_layers_of_12_heads_over_196_tokens_and_skips_of_512_256_and_64():
    network = on_meta("transunet")
    seen = shapes_of(network)
    assert [seen[f"encoder.vit.blocks.{layer}"] for layer in range(12)] == [[(1, 196, 768)]] * 12
    assert {block.attn.num_heads for block in network.encoder.vit.blocks} == {12}
    assert [len(stage.blocks) for stage in network.encoder.cnn.stages] == [3, 4, 9]
    joined = [seen[f"decoders.{place}"][0][1] for place in range(4)]
    assert joined == [512 + 512, 256 + 256, 128 + 64, 64]
    assert shapes_of(on_meta("transunet", skips=1))["decoders.1"] == [(1, 256, 56, 56)]


def test_uctransnet_attends_over_channels_by_keys_of_960():
    network = on_meta("uctransnet")
    seen = shapes_of(network)
    assert seen["transformer.layers.0.attention.norm"] == [(1, 4, 64, 960)]
    assert [p.shape[1:] for p in network.transformer.positions] == [(196, width) for width in (64, 128, 256, 512)]
    assert [seen[f"ups.{place}"][1][1] for place in range(4)] == [512, 256, 128, 64]
    assert [embedding.kernel_size[0] for embedding in network.transformer.embeddings] == [16, 8, 4, 2]


def test_missformer_bridges_6076_tokens_by_784_and_needs_no_table_of_positions():
    network = on_meta("missformer")
    seen = shapes_of(network)
    assert seen["bridges.3.norm_in"] == [(1, 3136 + 2 * 784 + 5 * 196 + 8 * 49, 64)]
    assert seen["bridges.0.norm_pooled"] == [(1, 49 * (1 + 2 + 5 + 8), 64)]
    assert [seen[f"encoders.{scale}.0.attention.kv"][0][1:3] for scale in range(4)] == [(7, 7)] * 4
    assert [part[0].attention.heads for part in network.encoders] == [1, 2, 5, 8]
    wide = built("missformer", width=8, depths=(1, 1, 1, 1), bridges=1).eval()
    assert wide(torch.rand(1, 3, 64, 96)).logits.shape == (1, 2, 64, 96)


def test_swin_unets_decoder_mirrors_the_encoder_and_shifts_every_second_window():
    network = on_meta("swin-unet")
    stages = [*network.encoder.layers, *network.decoders]
    assert [stage.blocks[0].attn.num_heads for stage in stages] == [3, 6, 12, 24, 12, 6, 3]
    assert [[block.shift_size[0] for block in stage.blocks] for stage in stages] == [[0, 3]] * 3 + [[0, 0]] + [
        [0, 3]
    ] * 3
    seen = shapes_of(network)
    assert [seen[f"joins.{place}"] for place in range(3)] == [
        [(1, side, side, 2 * dim)] for side, dim in ((14, 384), (28, 192), (56, 96))
    ]
    assert seen["ups.0"] == [(1, 7, 7, 768)]
    assert seen["head"] == [(1, 96, 224, 224)]


@pytest.mark.parametrize(("side", "windows"), [(64, [7, 7, 4, 2]), (192, [7, 7, 7, 6]), (256, [7] * 4), (352, [7] * 4)])
def test_windows_of_swin_unet_are_7_or_the_map(side, windows):
    network = on_meta("swin-unet", width=12, size=side)
    assert [stage.blocks[0].window_size[0] for stage in network.encoder.layers] == windows
    logits = network.eval()(torch.empty(1, 3, side, side, device="meta")).logits
    assert logits.shape == (1, 2, side, side)


@pytest.mark.parametrize(
    ("name", "layers", "heads", "hidden", "resnet"),
    [("hiformer-s", 1, (3, 3), 1, 34), ("hiformer-b", 2, (6, 12), 2, 50), ("hiformer-l", 4, (6, 6), 4, 34)],
)
def test_hiformers_presets_are_those_of_its_table(name, layers, heads, hidden, resnet):
    network = on_meta(name)
    fine, coarse = network.fusion.blocks
    assert (len(fine), len(coarse)) == (1, layers)
    assert (fine[0].attn.num_heads, coarse[0].attn.num_heads) == heads
    assert coarse[0].mlp.fc1.out_features == hidden * 384
    assert [block.attn.num_heads for stage in network.pyramid.swin for block in stage.blocks] == [3] * 2 + [6] * 2 + [
        12
    ] * 6
    assert hasattr(network.pyramid.cnn.layer1[0], "conv3") == (resnet == 50)
    seen = shapes_of(network)
    assert [seen[f"fusion.blocks.{level}"] for level in (0, 1)] == [[(1, 3137, 96)], [(1, 197, 384)]]


def test_a_preset_is_not_given_otherwise_and_says_what_it_stands_for():
    config = network_config("hiformer-b")
    assert {"encoder": "resnet50", "layers": 2, "heads": (6, 12), "mlp": 2}.items() <= config.model_dump().items()
    with pytest.raises(ValueError, match=r"layers = 3: 'hiformer-b' stands for layers = 2; leave it out"):
        network_config("hiformer-b", layers=3)


@pytest.mark.parametrize(
    ("name", "options", "strides"),
    [
        ("cascade-pvt", {"encoder": "pvt_v2_b0"}, [4, 8, 16, 32]),
        ("cascade-transunet", {"width": 8, "layers": 1, "units": (1, 1, 1)}, [2, 4, 8, 16]),
    ],
)
def test_cascades_logits_are_the_sum_of_its_four_heads_the_finest_first(name, options, strides):
    network = built(name, **options)
    output = network(torch.rand(2, 3, 64, 64))
    assert torch.allclose(torch.stack(output.heads).sum(0), output.logits, atol=1e-5)
    decoded = [tap for tap in network.taps if tap.startswith("dec")][::-1]
    assert [network.taps[tap].stride for tap in decoded] == strides
    for head, tap, classify in zip(output.heads, decoded, [*network.outputs][::-1], strict=True):
        small = classify(output.taps[tap])
        assert torch.allclose(torch.nn.functional.interpolate(small, size=(64, 64), mode="bilinear"), head, atol=1e-5)
    spatial = [name for name, _ in network.named_parameters() if name.endswith("by_place.weigh.weight")]
    assert len(spatial) == 1, "one attention by place is shared by all levels"


def test_cascades_gates_are_as_narrow_as_published():
    gates = [gate.of_skip[0].out_channels for gate in on_meta("cascade-pvt").decoder.gates]
    assert gates == [128, 64, 32]


GRAY = {
    "transunet": {"width": 8, "layers": 1, "units": (1, 1, 1)},
    "missformer": {"width": 8, "depths": (1, 1, 1, 1), "bridges": 1},
    "swin-unet": {"width": 12},
    "hiformer-s": {"width": 12, "depths": (1, 1, 1), "encoder": "resnet18"},
}


@pytest.mark.parametrize("name", GRAY)
def test_gray_images_are_repeated_to_three_channels(name):
    """The same weights: what they make of one channel is what they make of three equal ones."""
    gray, colour = built(name, in_channels=1, **GRAY[name]).eval(), built(name, **GRAY[name]).eval()
    colour.load_state_dict(gray.state_dict())
    images = torch.rand(1, 1, 64, 64)
    assert torch.equal(gray(images).logits, colour(images.repeat(1, 3, 1, 1)).logits)


@pytest.mark.parametrize(
    ("name", "options"), [("uctransnet", {"width": 4, "layers": 1}), ("cascade-pvt", {"encoder": "pvt_v2_b0"})]
)
def test_other_networks_learn_what_to_make_of_one_channel(name, options):
    network = built(name, in_channels=1, **options)
    network(torch.rand(2, 1, 64, 64)).logits.square().sum().backward()
    first = network.gray[0] if name == "cascade-pvt" else network.stem[0]
    assert first.in_channels == 1
    assert first.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("transunet", {"width": 12}, r"student\.width = 12: expected a multiple of 8"),
        ("swin-unet", {"width": 32}, r"student\.width = 32: expected a multiple of 3"),
        ("hiformer-s", {"width": 15}, r"student\.width = 15: expected a multiple of 6"),
        ("hiformer-s", {"encoder": "resnet35"}, r"student\.encoder = 'resnet35': unknown ResNet; known: .*nearest"),
        ("cascade-pvt", {"encoder": "pvt_v2_b9"}, r"student\.encoder = 'pvt_v2_b9': unknown PVTv2; known: .*nearest"),
        ("cascade-pvt", {"weights": "imagnet"}, r"student\.weights = 'imagnet': neither 'imagenet' nor a file"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_option(name, options, message):
    with pytest.raises(ValueError, match=rf"^{message}") as caught:
        on_meta(name, **options)
    assert "\n" not in str(caught.value)


def test_missformers_dead_parameters_are_as_many_as_its_docstring_says():
    network = on_meta("missformer")
    dead = sum(p.numel() for name, p in network.named_parameters() if name.startswith("decoders.0."))
    dead += sum(
        p.numel()
        for name, p in network.named_parameters()
        if re.search(r"mlps?\.(\d\.)?norm[23]\.", name) and not name.startswith("decoders.0.")
    )
    assert f"{dead:,} take no part" in " ".join((type(network).__doc__ or "").split())


def test_widths_that_mean_nothing_are_refused():
    with pytest.raises(ValueError, match=r"(?s)width.*not permitted"):
        network_config("cascade-pvt", width=32)


def test_a_missing_extra_names_the_package_and_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm.models.swin_transformer", None)
    with pytest.raises(
        ValueError, match=r"^student\.name: .* need 'timm.models.swin_transformer', .*; pip install \"\.\[smp\]\"$"
    ):
        on_meta("swin-unet")


# Pretrained weights: files as timm has them, drawn, of a small encoder.


def written(path, state):
    save_file({key: value.contiguous() for key, value in state.items()}, path)
    return str(path)


def timm_model(name, **options):
    built("cascade-pvt", encoder="pvt_v2_b0")  # the package can be imported from here on
    import timm

    torch.manual_seed(5)
    return timm.create_model(name, **options).state_dict()


def equal(ours, theirs):
    return all(torch.equal(value, theirs[key]) for key, value in ours.items())


def test_swin_weights_go_into_encoder_and_decoder_in_timms_and_in_the_authors_names(tmp_path):
    """The file has six blocks in the third stage and windows of 7; both are made to fit."""
    state = timm_model("swin_tiny_patch4_window7_224", embed_dim=12, num_classes=3)
    network = built("swin-unet", width=12, size=224, weights=written(tmp_path / "timm.safetensors", state))
    assert equal(network.encoder.state_dict(), state)
    for decoder, stage in zip(network.decoders, (2, 1, 0), strict=True):
        assert equal(decoder.blocks.state_dict(), network.encoder.layers[stage].blocks.state_dict())
    authors = {}
    for key, value in state.items():
        stage = key.split(".")[1] if key.startswith("layers") else ""
        moved = f"layers.{int(stage) - 1}." if ".downsample." in key else ""
        authors[moved + key.partition(f"layers.{stage}.")[2] if moved else key.replace("head.fc", "head")] = value
    torch.save(
        {"model": authors | {"layers.0.blocks.0.attn.relative_position_index": torch.zeros(49, 49)}}, tmp_path / "a.pth"
    )
    again = built("swin-unet", width=12, size=224, weights=str(tmp_path / "a.pth"))
    assert equal(again.encoder.state_dict(), state)
    small = built("swin-unet", width=12, size=64, weights=str(tmp_path / "a.pth"))
    assert small.encoder.layers[3].blocks[0].attn.relative_position_bias_table.shape == (9, 24)


def test_hybrid_weights_go_into_resnet_and_transformer_and_positions_are_resampled(tmp_path):
    whole = built("transunet", width=8, layers=2, units=(1, 1, 1), size=64).encoder
    torch.manual_seed(7)
    state = {}
    for key, value in whole.state_dict().items():
        name = key.replace("cnn.", "patch_embed.backbone.") if key.startswith("cnn.") else key.removeprefix("vit.")
        state[name] = torch.rand_like(value)
    state["cls_token"] = torch.rand(1, 1, 96)
    state["pos_embed"] = torch.cat([torch.rand(1, 1, 96), state["pos_embed"]], dim=1)
    file = written(tmp_path / "hybrid.safetensors", state)
    for name in ("transunet", "cascade-transunet"):
        network = built(name, width=8, layers=1, units=(1, 1, 1), in_channels=4, weights=file)
        ours = network.encoder.state_dict()
        assert torch.equal(ours["vit.pos_embed"], state["pos_embed"][:, 1:])
        assert torch.equal(ours["vit.blocks.0.attn.qkv.weight"], state["blocks.0.attn.qkv.weight"])
        assert torch.equal(
            ours["cnn.stages.2.blocks.0.conv1.weight"], state["patch_embed.backbone.stages.2.blocks.0.conv1.weight"]
        )
        assert ours["cnn.stem.conv.weight"].shape == (8, 4, 7, 7)
    larger = built("transunet", width=8, layers=1, units=(1, 1, 1), size=96, weights=file)
    assert larger.encoder.vit.pos_embed.shape == (1, 36, 96)
    assert larger.normalisation == HALF
    assert built("transunet", **GRAY["transunet"]).normalisation == IMAGENET
    with pytest.raises(
        ValueError, match=r"^student\.weights = .*hybrid.safetensors': 'cnn\.stem.* in the file and .* encoder"
    ):
        built("transunet", width=16, layers=1, units=(1, 1, 1), weights=file)


def test_hiformer_takes_swin_and_resnet_from_two_files(tmp_path):
    swin, resnet = timm_model("swin_tiny_patch4_window7_224", embed_dim=12), timm_model("resnet18")
    network = built(
        "hiformer-s",
        width=12,
        size=224,
        encoder="resnet18",
        weights=written(tmp_path / "swin.safetensors", swin),
        cnn_weights=written(tmp_path / "resnet.safetensors", resnet),
    )
    assert equal({f"layers.{key}": value for key, value in network.pyramid.swin.state_dict().items()}, swin)
    assert equal(network.pyramid.cnn.state_dict(), resnet)
    with pytest.raises(ValueError, match=r"^student\.cnn_weights = .*: has 0 of the encoder's \d+ tensors"):
        built("hiformer-s", encoder="resnet18", cnn_weights=str(tmp_path / "swin.safetensors"))


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty cache of a hub that cannot be reached."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def test_weights_come_by_name_from_the_hubs_cache(hub):
    state = timm_model("pvt_v2_b0")
    folder = hub / "models--timm--pvt_v2_b0.in1k"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    (folder / "snapshots" / "abc").mkdir(parents=True)
    written(folder / "snapshots" / "abc" / "model.safetensors", state)
    network = built("cascade-pvt", encoder="pvt_v2_b0", weights="imagenet")
    assert equal(network.encoder.state_dict(), state)


@pytest.mark.parametrize(
    ("name", "option", "file"),
    [
        ("transunet", "weights", "timm/vit_base_r50_s16_224.orig_in21k"),
        ("swin-unet", "weights", "timm/swin_tiny_patch4_window7_224.ms_in1k"),
        ("hiformer-s", "cnn_weights", "timm/resnet18.tv_in1k"),
        ("cascade-pvt", "weights", "timm/pvt_v2_b0.in1k"),
    ],
)
def test_weights_out_of_reach_say_how_to_bring_them(hub, name, option, file):
    options = {**GRAY.get(name, {"encoder": "pvt_v2_b0"}), option: "imagenet"}
    with pytest.raises(
        ValueError, match=rf"^student\.{option} = 'imagenet': the file {file} .*: hf download {file}; bring"
    ):
        built(name, **options)
    with torch.device("meta"):
        assert models.build(network_config(name, **options), in_channels=3, classes=2, size=64).stride in (16, 32)
    models.build(teacher_config(name, **options, checkpoint="teacher.safetensors"), in_channels=3, classes=2, size=64)


def test_names_of_the_families_are_the_tables():
    counted = Counter(target for name, target in models.MODELS.items() if not name.startswith("smp-"))
    assert counted["models.hiformer:HiFormer"] == 3
    assert TransUNetNetwork(name="transunet").scale == "of width 64"


def test_selfreg_takes_swin_unets_first_and_last_blocks():
    """SelfReg-UNet: the bracket twice; its decoder maps leave out the stage that only expands patches."""
    import losses
    from losses.config import SelfReg

    network = built("swin-unet", width=12)
    term = losses.build("selfreg", SelfReg(), student=network.taps, teacher=None, classes=2)
    stages = ("enc3", "enc4", "enc5", "mid", "dec5", "dec4", "dec3")
    assert term.student_taps() == {"dec1", *(f"{stage}.{place}" for stage in stages for place in ("first", "last"))}
    output = network(torch.rand(2, 3, 64, 64))
    value = term(output, None, torch.zeros(2, 64, 64, dtype=torch.int64))
    value.total.backward()
    assert value.total > 0


AUTHORS = {
    "swin-unet": {
        "swin_unet.layers.1.downsample.reduction.weight": "encoder.layers.2.downsample.reduction.weight",
        "swin_unet.layers_up.0.expand.weight": "ups.0.expand.weight",
        "swin_unet.layers_up.2.blocks.1.mlp.fc1.bias": "decoders.1.blocks.1.mlp.fc1.bias",
        "swin_unet.layers_up.1.upsample.norm.weight": "ups.1.norm.weight",
    },
    "hiformer-b": {
        "DLF.pyramid.resnet_layers.6.0.downsample.1.running_var": "pyramid.cnn.layer3.0.downsample.1.running_var",
        "DLF.blocks.0.revert_projs.1.2.weight": "fusion.revert_projs.1.2.weight",
        "ConvUp_s.convs_level.5.bias": "coarse.1.1.bias",
    },
}


@pytest.mark.parametrize(("name", "place"), [("swin-unet", 0), ("hiformer-b", 1)])
def test_the_pages_pairs_cover_a_network_from_its_authors_keys(repository, name, place):
    from trainer.teacher.state_dict import fit, renamed

    page = (repository / "docs" / "authors-weights.md").read_text()
    pairs = tomllib.loads(page.split("```toml\n")[place + 1].partition("```")[0])["keys"]
    network = on_meta(name)
    back = sorted(((ours, theirs) for theirs, ours in pairs), key=lambda pair: -len(pair[0]))
    theirs = {}
    for key, value in network.state_dict().items():
        ours, authors = next(pair for pair in back if key.startswith(pair[0]))
        theirs[authors + key.removeprefix(ours)] = value
    assert fit(network, theirs, pairs).covered
    assert {key: renamed(key, pairs) for key in AUTHORS[name]} == AUTHORS[name]
    assert AUTHORS[name].keys() <= theirs.keys()
