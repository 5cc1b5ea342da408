"""Maps over whole images, their files in the image's geometry, changed prompts, and the choice of cases."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure as Canvas
from torch import nn
from typer.testing import CliRunner

from hippo_nnunet.cli.main import app
from hippo_nnunet.clip.text import class_embeddings
from hippo_nnunet.data.nifti import read_volume
from hippo_nnunet.errors import ConfigError, DataError
from hippo_nnunet.evaluation.side_by_side import extreme_cases
from hippo_nnunet.inference import explanation_maps
from hippo_nnunet.inference.batched_predictor import BatchedPredictor
from hippo_nnunet.inference.explanation import Explanation, text_similarities
from hippo_nnunet.inference.explanation_files import check_map_names, dice_rows, file_names, write_maps
from hippo_nnunet.inference.explanation_maps import (
    image_maps,
    in_file_order,
    on_image_grid,
    read_attention,
    reader_of,
)
from hippo_nnunet.inference.prompts import other_prompts
from hippo_nnunet.inference.sliding_window import PreprocessedImage
from hippo_nnunet.networks.attention_unet import AttentionUNet
from hippo_nnunet.networks.clip_guided_unet import CLIPGuidedUNet
from hippo_nnunet.pages.explanation.explain import explain_images
from hippo_nnunet.pages.explanation.figures import explanation_figures
from hippo_nnunet.pages.figure import inline_svg

CPU = torch.device("cpu")
LABELS = {"background": 0, "anterior": 1, "posterior": 2}
MINI = "CLIPGuidedUNetTrainer_mini"


def arguments(dim: int, **extra: Any) -> dict[str, Any]:
    return {
        "input_channels": 1,
        "n_stages": 3,
        "features_per_stage": [4, 8, 8],
        "conv_op": nn.Conv2d if dim == 2 else nn.Conv3d,
        "kernel_sizes": 3,
        "strides": [1, 2, 2],
        "n_conv_per_stage": 1,
        "num_classes": 3,
        "n_conv_per_stage_decoder": 1,
        "conv_bias": True,
        "norm_op": nn.InstanceNorm2d if dim == 2 else nn.InstanceNorm3d,
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": nn.LeakyReLU,
        "deep_supervision": False,
        **extra,
    }


def attention_unet(dim: int, seed: int) -> AttentionUNet:
    torch.manual_seed(seed)
    network = AttentionUNet(**arguments(dim))
    for gate in network.decoder.gates:  # so that coefficients differ from place to place
        for parameter in gate.parameters():
            nn.init.normal_(parameter, std=0.5)
    return network.eval()


def predictor_of(networks: list[nn.Module], patch_size: tuple[int, ...], name: str = "UNetTrainer") -> BatchedPredictor:
    made = BatchedPredictor(CPU, backend="torch")
    plans: Any = SimpleNamespace(
        get_label_manager=lambda _: SimpleNamespace(num_segmentation_heads=3),
        transpose_forward=[1, 0, 2],
        transpose_backward=[1, 0, 2],
    )
    configuration: Any = SimpleNamespace(patch_size=list(patch_size), spacing=[1.0] * len(patch_size))
    made.manual_initialization(networks[0], plans, configuration, None, {"labels": LABELS}, name, None)
    made.networks = networks
    return made


@pytest.mark.parametrize("patch_size", [(8, 12), (8, 8, 12)])
def test_attention_of_the_whole_image_from_several_windows(
    patch_size: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(explanation_maps.VOXELS_PER_BATCH, "cpu", 4 * 7 * 8 * 12)
    image = PreprocessedImage(torch.randn(1, 9, 17, 21, generator=torch.Generator().manual_seed(0)))
    networks: list[nn.Module] = [attention_unet(len(patch_size), seed) for seed in range(2)]
    together = image_maps(predictor_of(networks, patch_size), image, read_attention)
    assert together.shape == (2, 9, 17, 21)
    assert 0 <= float(together.min()) < float(together.max()) <= 1
    alone = [image_maps(predictor_of([network], patch_size), image, read_attention) for network in networks]
    torch.testing.assert_close(together, (alone[0] + alone[1]) / 2)
    assert not torch.allclose(alone[0], alone[1])


def test_an_image_of_one_patch_shows_the_gates_themselves() -> None:
    network = attention_unet(2, 0)
    voxels = torch.randn(1, 2, 8, 12)
    maps = image_maps(predictor_of([network], (8, 12)), PreprocessedImage(voxels), read_attention)
    with torch.no_grad():
        fine, coarse = network.attention_maps(voxels.transpose(0, 1))
    torch.testing.assert_close(maps[0], fine[:, 0])
    assert coarse.shape[2:] == (4, 6)
    torch.testing.assert_close(maps[1].mean(), coarse.mean(), atol=0.02, rtol=0)


def clip_network(text: torch.Tensor) -> CLIPGuidedUNet:
    torch.manual_seed(0)
    network = CLIPGuidedUNet(**arguments(2), embed_dim=text.shape[1]).eval()
    network.attach_encoder(lambda x: nn.functional.normalize(x.flatten(1)[:, : text.shape[1]], dim=1), "ab" * 32)
    network.set_text(text)
    return network


@pytest.mark.parametrize("name", [MINI, "CLIPGuidedUNetTrainer_live_mini", "CLIPGuidedUNetTrainer_noImage_mini"])
def test_similarity_is_guided_as_the_recipe_says(name: str) -> None:
    network = clip_network(torch.eye(3, 6))
    nn.init.normal_(network.fusion.modulation.weight)  # so that guidance counts
    network.use_image = "noImage" not in name
    voxels = torch.randn(1, 2, 8, 12)
    maps = image_maps(predictor_of([network], (8, 12), name), PreprocessedImage(voxels), CLIPGuidedUNet.similarity_maps)
    slices = voxels.transpose(0, 1)
    with torch.no_grad():
        torch.testing.assert_close(maps.transpose(0, 1), network.similarity_maps(slices))


def test_similarity_maps_are_cosines_and_another_prompt_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    text = torch.eye(3, 6)
    network = clip_network(text)
    predictor = predictor_of([network], (8, 12), MINI)
    image = PreprocessedImage(torch.randn(1, 2, 15, 20))
    maps = image_maps(predictor, image, CLIPGuidedUNet.similarity_maps)
    assert maps.shape == (3, 2, 15, 20)
    assert -1 <= float(maps.min()) < 0 < float(maps.max()) <= 1

    encoder: Any = SimpleNamespace(encode_text=lambda prompts: torch.eye(6)[[5] * len(prompts)])
    trainer = SimpleNamespace(class_text=lambda dataset, prompts: class_embeddings(encoder, dataset, prompts))
    trainers = SimpleNamespace(**{MINI: trainer})
    monkeypatch.setattr("hippo_nnunet.inference.prompts.import_module", lambda _: trainers)
    prompts = {"POSTERIOR": ["the tail"]}
    with other_prompts(predictor, prompts):
        changed = image_maps(predictor, image, CLIPGuidedUNet.similarity_maps)
    torch.testing.assert_close(image_maps(predictor, image, CLIPGuidedUNet.similarity_maps), maps)
    torch.testing.assert_close(changed[:2], maps[:2])
    assert not torch.allclose(changed[2], maps[2])
    table = text_similarities(predictor, prompts)
    assert list(table) == ["background", "anterior", "posterior", "posterior (changed)"]
    np.testing.assert_allclose(table, np.eye(4), atol=1e-6)
    with pytest.raises(ConfigError, match="no such class; the classes are background, anterior, posterior"):
        other_prompts(predictor, {"tail": ["x"]}).__enter__()


@pytest.mark.parametrize("clip", [False, True])
def test_a_model_without_gates_and_text(clip: bool) -> None:
    plain = CLIPGuidedUNet(**arguments(2), plain_head=True) if clip else nn.Conv2d(1, 3, 1)
    predictor = predictor_of([plain], (8, 12))
    assert reader_of(predictor.networks[0]) is None
    assert text_similarities(predictor) is None
    with pytest.raises(ConfigError, match="UNetTrainer has no text to change"):
        other_prompts(predictor, {"posterior": ["x"]}).__enter__()


def test_maps_come_back_to_the_place_that_nnunet_cropped() -> None:
    predictor = predictor_of([nn.Conv3d(1, 3, 1)], (4, 4, 4))
    predictor.configuration_manager.resampling_fn_probabilities = lambda maps, *_: 2 * maps  # type: ignore[misc]
    properties = {
        "spacing": (1.0, 1.0, 1.0),
        "shape_after_cropping_and_before_resampling": (2, 3, 4),
        "shape_before_cropping": (4, 5, 6),
        "bbox_used_for_cropping": [[1, 3], [2, 5], [0, 4]],
    }
    grid = on_image_grid(torch.full((1, 2, 3, 4), 0.75), predictor, properties, 0.0, 1.0)
    assert grid.shape == (1, 5, 4, 6)  # transposed back
    expected = np.zeros((5, 4, 6))
    expected[2:5, 1:3, :4] = 1  # resampled to 1.5, cut off at 1
    np.testing.assert_array_equal(grid[0], expected)


def test_the_file_order_of_a_reorienting_reader() -> None:
    original = np.array([[0, 0, 2.0, 0], [-1.0, 0, 0, 0], [0, 1.5, 0, 0], [0, 0, 0, 1]])
    image = nib.Nifti1Image(np.arange(24, dtype=np.float32).reshape(2, 3, 4), original)
    canonical = nib.as_closest_canonical(image)
    stuff = {"original_affine": original, "reoriented_affine": canonical.affine}
    back = in_file_order(np.asanyarray(canonical.dataobj).T, {"nibabel_stuff": stuff})
    np.testing.assert_array_equal(back.T, np.asanyarray(image.dataobj))


@pytest.fixture
def explanation(tmp_path: Path) -> Explanation:
    """An oblique image with codes of its own; anterior two voxels too long, posterior missed in one."""
    angle = 0.3
    affine = np.array(
        [[0.9 * np.cos(angle), -1.2 * np.sin(angle), 0, 10], [0.9 * np.sin(angle), 1.2 * np.cos(angle), 0, -20]]
    )
    affine = np.vstack([affine, [0, 0, 1.5, 5], [0, 0, 0, 1]])
    image = nib.Nifti1Image(np.random.default_rng(0).normal(size=(8, 9, 10)).astype(np.int16) + 5, affine)
    image.header.set_sform(affine, 2)
    image.header.set_qform(affine, 1)
    path = tmp_path / "images" / "one_0000.nii.gz"
    path.parent.mkdir()
    nib.save(image, path)
    reference = np.zeros((10, 9, 8), np.int64)
    reference[3:6, 4, 1:4], reference[3:6, 4, 4:7] = 1, 2
    found = reference.copy()
    found[6, 4, 1:3], found[3, 4, 6] = 1, 0
    level = np.linspace(0, 1, 720, dtype=np.float32).reshape(10, 9, 8)
    return Explanation(
        "one",
        read_volume(path),
        {"anterior": 1, "posterior/tail": 2},
        found,
        {"anterior": level},
        attention=[level, level / 2],
        similarity={"background": 2 * level - 1, "anterior": -level},
        reference=reference,
        changed=np.where(found == 2, 0, found),
    )


def test_files_lie_where_the_image_lies(explanation: Explanation, tmp_path: Path) -> None:
    written = write_maps(explanation, tmp_path / "maps")
    assert sorted(path.name for path in written) == sorted(path.name for path in (tmp_path / "maps").iterdir())
    names = {path.name.removeprefix("one_").removesuffix(".nii.gz"): path for path in written}
    assert {"attention_level1", "attention_level2", "similarity_background", "errors_posterior-tail"} <= set(names)
    image: Any = nib.load(explanation.image.path)
    for path in written:
        made: Any = nib.load(path)
        assert made.shape == image.shape
        for form in ("get_sform", "get_qform"):
            (mine, code), (theirs, of_image) = (getattr(i, form)(coded=True) for i in (made, image))
            np.testing.assert_allclose(mine, theirs)
            assert code == of_image
    level: Any = nib.load(names["attention_level2"])
    assert level.get_data_dtype() == np.float32
    np.testing.assert_allclose(np.asanyarray(level.dataobj).T, explanation.attention[1])
    errors: Any = np.asanyarray(nib.load(names["errors_anterior"]).dataobj)
    assert ((errors == 1).sum(), (errors == 2).sum()) == (2, 0)
    errors = np.asanyarray(nib.load(names["errors_posterior-tail"]).dataobj)
    assert ((errors == 1).sum(), (errors == 2).sum()) == (0, 1)


def test_dice_before_and_after_another_prompt(explanation: Explanation) -> None:
    anterior, posterior = dice_rows(explanation)
    assert anterior == {
        "case": "one", "label": "anterior", "dice": 18 / 20, "dice_before_after": 1.0, "dice_changed": 18 / 20
    }  # fmt: skip
    assert (posterior["dice"], posterior["dice_before_after"], posterior["dice_changed"]) == (16 / 17, 0.0, 0.0)
    ignoring = dataclasses.replace(explanation, ignore_label=2)
    assert ignoring.errors("posterior/tail") is not None
    assert not ignoring.mask(explanation.segmentation, "posterior/tail").any()


def test_figures_show_what_there_is(explanation: Explanation) -> None:
    names = [figure.name for figure in explanation_figures(explanation, "worst 1")]
    assert names == [f"one_{kind}" for kind in ("attention", "similarity", "probability", "errors", "prompt")]
    bare = Explanation("one", explanation.image, explanation.labels, 0 * explanation.segmentation, {})
    assert explanation_figures(bare) == []
    figure = explanation_figures(explanation)[0]
    canvas = Canvas()
    figure.panels[0].draw(canvas)
    outlines = [c for c in canvas.axes[0].collections if len(c.get_edgecolor())]
    dashed = {tuple(o.get_edgecolor()[0][:3]) == (1, 1, 1): o.get_linestyle()[0][1] is not None for o in outlines}
    assert dashed == {True: False, False: True}, "the reference is solid white as in the report, the prediction dashed"
    alt = figure.panels[0].alt
    assert "gate 1 (finest)" in alt
    assert "gate 2 (coarsest)" in alt


def test_names_are_not_read_as_mathematics(explanation: Explanation) -> None:
    name = "a $\\undefined$"
    odd = dataclasses.replace(
        explanation,
        case=name,
        labels={name: 1, "_$x^2$\ud800": 2},
        probabilities={name: explanation.probabilities["anterior"]},
        similarity={},
        prompts={name: ["$\\undefined$"]},
    )
    figures = {figure.name.rpartition("_")[2]: figure for figure in explanation_figures(odd, name)}
    for kind in ("probability", "prompt"):
        inline_svg(dataclasses.replace(figures[kind].panels[0], name="panel"))


def test_worst_and_best_of_each_model() -> None:
    rows = [
        {"case": case, "fold": fold, "variant": variant, "configuration": "2d", "label": label, "dice": dice}
        for variant in ("UNet", "ensemble")
        for case, fold, dices in [
            ("a", 0, (0.9, 0.7)), ("b", 1, (0.1, 0.3)), ("c", 0, (0.5, np.nan)), ("d", 1, (np.nan, np.nan))
        ]
        for label, dice in zip(("x", "y"), dices, strict=True)
    ]  # fmt: skip
    chosen = extreme_cases(pd.DataFrame(rows), 2, 2)
    assert list(chosen["rank"]) == ["worst 1", "worst 2", "best 1"]  # no case twice
    assert list(chosen["case"]) == ["b", "c", "a"]
    np.testing.assert_allclose(chosen["dice"], [0.2, 0.5, 0.8])
    assert set(chosen["variant"]) == {"UNet"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["here", "--model", "there"], "either the folder of an experiment or --model"),
        (["--model", "there", "--output", "out"], "--model needs --input and --output"),
    ],
)
def test_wrong_usage(options: list[str], message: str) -> None:
    done = CliRunner().invoke(app, ["explain", *options], env={"COLUMNS": "200"})
    assert done.exit_code == 2
    assert message in done.stderr


def test_labels_and_names(tmp_path: Path) -> None:
    assert file_names(["posterior/tail (left)"]) == {"posterior/tail (left)": "posterior-tail-left"}
    assert list(file_names(["a b", "a-b", "A/b", "?", "*"]).values()) == ["a-b", "a-b-2", "A-b-3", "label", "label-2"]
    check_map_names(["a", "a_errors_b"], ["c"])
    with pytest.raises(DataError, match=r"cases (a|a_errors_b) and .* a_errors_b_errors_c\.nii\.gz"):
        check_map_names(["a", "a_errors_b"], ["c", "b_errors_c"])
    with pytest.raises(ConfigError, match="is missing"):
        explain_images(tmp_path / "none", [tmp_path], tmp_path / "out")
    with pytest.raises(DataError, match="nothing to explain"):
        columns = ["case", "fold", "variant", "configuration", "label", "dice"]
        extreme_cases(pd.DataFrame(columns=columns), 1, 1)
