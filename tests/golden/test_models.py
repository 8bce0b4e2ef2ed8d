"""Every model against its reference: same weights, same masks, same numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from preprocessing.mask_random import partial_mask
from preprocessing.masks import MaskConfig, visible_count
from preprocessing.targets import SCALE_SHARES, scale_targets
from training.inputs import InputNorm
from training.models.config import ModelConfig, ModelInput
from training.models.cropmae import CropMAE
from training.models.families import build_model
from training.models.layout import PixelLayout
from training.models.satmae import SatMAE
from training.models.tokens import take_tokens
from training.objectives import Objective, hidden_weights, masked_mean, scale_errors, token_errors
from training.parity import released_group_loss
from training.pixel_targets import patchify, pixel_targets

Arrays = dict[str, NDArray[Any]]
Read = Callable[[str], Arrays]
HEADS = (4, 2, 3, 6, 8, 12, 16, 1, 5, 7, 10, 14, 20, 24)
"Numbers of heads to try: no array of the files holds it, and only the right one gives the right "
"numbers."
SATMAE_GROUPS = ((0, 1, 2, 6), (3, 4, 5, 7), (8, 9))
"What the released model has; the files hold how large the groups are, not which channels."


def tensor(array: NDArray[Any]) -> Tensor:
    """Return an array as a tensor of its own."""
    return torch.from_numpy(np.array(array))


def weights(stored: Arrays) -> dict[str, Tensor]:
    """Return the stored state dict."""
    return {n.removeprefix("param/"): tensor(stored[n]) for n in stored if n.startswith("param/")}


def depth(state: dict[str, Tensor], prefix: str) -> int:
    """Return how many blocks lie under a prefix such as `blocks.`."""
    numbers = (name.removeprefix(prefix).split(".")[0] for name in state if name.startswith(prefix))
    return len({number for number in numbers if number.isdigit()})


def fit_heads(
    make: Callable[[int, int], nn.Module],
    widths: tuple[int, int],
    check: Callable[[nn.Module], Tensor],
    wanted: Tensor,
) -> nn.Module:
    """Return the model with the numbers of heads that meet `wanted` best."""
    pairs = [(a, b) for a in HEADS for b in HEADS if widths[0] % a == 0 and widths[1] % b == 0]
    best: tuple[float, nn.Module] | None = None
    with torch.no_grad():
        for pair in pairs:
            model = make(*pair).eval()
            gap = float((check(model) - wanted).abs().max())
            if best is None or gap < best[0]:
                best = (gap, model)
            if gap < 1e-4:
                break
    assert best is not None
    return best[1]


def build(
    family: str, stored: Arrays, data: dict[str, Any], **sizes: Any
) -> Callable[..., nn.Module]:
    """Return a maker of models (heads, decoder heads) that hold the stored weights; no key may be
    left over.
    """

    def make(heads: int, decoder_heads: int) -> nn.Module:
        config = ModelConfig(family=family, heads=heads, decoder_heads=decoder_heads, **sizes)
        model = build_model(config, ModelInput(**{"widths": {"pixels": 0}, **data}))
        model.load_state_dict(weights(stored))
        return model

    return make


def kept_ids(noise: NDArray[Any], ratio: float) -> Tensor:
    """Return the visible tokens (B, K) in the order of the noise."""
    return tensor(noise).argsort(1)[:, : int(noise.shape[1] * (1 - ratio))]


def hidden_ids(visible: Tensor, tokens: int) -> Tensor:
    """Return the tokens (B, M) that are not visible, ascending."""
    hidden = torch.ones(len(visible), tokens, dtype=torch.bool).scatter(1, visible, False)
    return hidden.nonzero()[:, 1].reshape(len(visible), -1)


def everything(visible: Tensor, tokens: int) -> Tensor:
    """Return all tokens (B, N)."""
    return torch.arange(tokens).expand(len(visible), -1)


def hidden_map(visible: Tensor, tokens: int) -> Tensor:
    """Return (B, N): 1 where a token is hidden."""
    return hidden_weights(visible, everything(visible, tokens), tokens)


def check_restore(stored: Arrays, visible: Tensor, name: str = "ids_restore") -> None:
    """Check that the visible tokens, in their order, are those that the reference kept."""
    order = tensor(stored[name]).argsort(1)
    assert torch.equal(order[:, : visible.shape[1]], visible)


def close(ours: Tensor, stored: NDArray[Any], bound: float) -> None:
    """Check the largest difference."""
    assert ours.shape == stored.shape
    assert float((ours.detach() - tensor(stored)).abs().max()) <= bound


@pytest.fixture
def mae(golden: Read, ratio_of: Callable[..., float]) -> tuple[nn.Module, Arrays, Tensor]:
    stored = golden("mae_tiny")
    state = weights(stored)
    width, inner = state["cls_token"].shape[-1], state["mask_token"].shape[-1]
    visible = kept_ids(stored["noise"], ratio_of(stored["mask_ratio"]))
    size, tokens = stored["imgs"].shape[-1], stored["noise"].shape[1]
    make = build(
        "mae", stored, {"channels": stored["imgs"].shape[1], "size": size},
        patch=state["patch_embed.proj.weight"].shape[-1], width=width,
        depth=depth(state, "blocks."),
        decoder_width=inner, decoder_depth=depth(state, "decoder_blocks."),
    )  # fmt: skip
    images, asked = tensor(stored["imgs"]), everything(visible, tokens)
    model = fit_heads(
        make, (width, inner), lambda m: m(images, visible, asked)["pixels"], tensor(stored["pred"])
    )
    return model, stored, visible


def test_mae_forward(mae: tuple[nn.Module, Arrays, Tensor]) -> None:
    model, stored, visible = mae
    images = tensor(stored["imgs"])
    close(model.patch_embed(images) + model.pos_embed[:, 1:], stored["tokens_pos"], 2e-5)
    close(model.encode(images, visible), stored["latent"], 2e-5)
    tokens = stored["noise"].shape[1]
    close(model(images, visible, everything(visible, tokens))["pixels"], stored["pred"], 2e-5)
    assert np.array_equal(hidden_map(visible, tokens).numpy(), stored["mask"])
    check_restore(stored, visible)


@pytest.mark.parametrize(("norm", "name"), [("none", "raw"), ("mae", "norm")])
def test_mae_loss_and_gradients(
    mae: tuple[nn.Module, Arrays, Tensor], norm: str, name: str
) -> None:
    model, stored, visible = mae
    model.zero_grad()
    images = tensor(stored["imgs"])
    asked = hidden_ids(visible, stored["noise"].shape[1])
    target = pixel_targets(images, model.layout, norm)
    errors = token_errors(model(images, visible, asked)["pixels"], take_tokens(target, asked))
    loss = masked_mean(errors, torch.ones_like(errors))
    assert loss.item() == pytest.approx(float(stored[f"loss_{name}"]), rel=1e-5)
    loss.backward()
    found = [key for key in stored if key.startswith(f"grad_{name}/")]
    assert found
    parameters = dict(model.named_parameters())
    for key in found:
        gradient = parameters[key.split("/", 1)[1]].grad
        assert gradient is not None
        close(gradient, stored[key], 1e-4 * float(np.abs(stored[key]).max()))


def video_maker(
    stored: Arrays, frames: int, size: int
) -> tuple[Callable[..., nn.Module], tuple[int, int]]:
    state = weights(stored)
    width, inner = state["encoder.norm.weight"].shape[0], state["mask_token"].shape[-1]
    kernel = state["encoder.patch_embed.proj.weight"].shape
    make = build(
        "videomae", stored, {"channels": kernel[1], "size": size, "frames": frames},
        patch=kernel[-1], tubelet=kernel[2], width=width, depth=depth(state, "encoder.blocks."),
        decoder_width=inner, decoder_depth=depth(state, "decoder.blocks."),
    )  # fmt: skip
    return make, (width, inner)


def split_mask(mask: NDArray[np.bool_]) -> tuple[Tensor, Tensor]:
    """Return the numbers where a mask (B, N) is False, and where it is True."""
    rows = tensor(mask)
    return tuple(part.nonzero()[:, 1].reshape(len(rows), -1) for part in (~rows, rows))  # type: ignore[return-value]


def test_videomae(golden: Read) -> None:
    stored = golden("videomae_tiny")
    clip = tensor(stored["video_normalised"])
    visible, masked = split_mask(stored["bool_masked_pos"])
    make, widths = video_maker(stored, clip.shape[2], clip.shape[-1])
    model = fit_heads(
        make, widths, lambda m: m(clip, visible, masked)["pixels"], tensor(stored["output"])
    )
    close(model.encoder(clip, visible), stored["encoder_out"], 2e-5)
    close(model.encoder.places[:, :8], stored["enc_pos_first8"], 1e-6)
    close(model.places[:, :8], stored["dec_pos_first8"], 1e-6)
    predicted = model(clip, visible, masked)["pixels"]
    close(predicted, stored["output"], 2e-5)
    unit = unit_range(clip)
    close(take_tokens(patchify(unit, model.layout), masked), stored["labels_raw"], 5e-5)
    target = take_tokens(pixel_targets(unit, model.layout, "videomae"), masked)
    close(target, stored["labels_norm"], 5e-5)
    loss = token_errors(predicted, tensor(stored["labels_norm"])).mean()
    assert loss.item() == pytest.approx(float(stored["loss_norm"]), rel=1e-5)
    loss.backward()
    parameters = dict(model.named_parameters())
    for key in (key for key in stored if key.startswith("grad_norm/")):
        gradient = parameters[key.split("/", 1)[1]].grad
        assert gradient is not None
        close(gradient, stored[key], 1e-4 * float(np.abs(stored[key]).max()))


@pytest.mark.parametrize(
    ("name", "clips", "mask"),
    [("videomae_tiny", "video_normalised", "bool_masked_pos"),
     ("videomaev2_tiny", "images", "encoder_mask")],
)  # fmt: skip
def test_tubes_hide_as_many_as_the_reference(
    golden: Read, ratio_of: Callable[..., float], name: str, clips: str, mask: str
) -> None:
    stored = golden(name)
    kernel = weights(stored)["encoder.patch_embed.proj.weight"].shape
    _, _, frames, height, width = stored[clips].shape
    grid = (frames // kernel[2], height // kernel[3], width // kernel[4])
    config = MaskConfig(kind="tube", ratio=ratio_of(stored["mask_ratio"]))
    assert ((~stored[mask]).sum(1) == visible_count(config, grid)).all()


def unit_range(clip: Tensor) -> Tensor:
    """Return clips (B, C, T, H, W) of the network's inputs as values in [0, 1]."""
    norm = InputNorm("imagenet", clip.shape[1], None)
    return (clip * norm.std.view(1, -1, 1, 1, 1) + norm.mean.view(1, -1, 1, 1, 1)) / 255


def test_videomae_v2_dual_masking(golden: Read) -> None:
    stored = golden("videomaev2_tiny")
    clip = tensor(stored["images"])
    visible, masked = split_mask(stored["encoder_mask"])
    decoded, _ = split_mask(stored["decoder_mask"])
    make, widths = video_maker(stored, clip.shape[2], clip.shape[-1])
    model = fit_heads(
        make, widths, lambda m: m(clip, visible, decoded)["pixels"], tensor(stored["outputs"])
    )
    predicted = model(clip, visible, decoded)["pixels"]
    close(predicted, stored["outputs"], 2e-5)
    asked = model(clip, visible, masked)["pixels"]
    close(asked, stored["outputs_no_decoder_mask"], 2e-5)
    counted = hidden_weights(visible, decoded, stored["encoder_mask"].shape[1])
    assert np.array_equal(counted.bool().numpy(), stored["cal_loss_mask"])
    loss = masked_mean(token_errors(predicted, tensor(stored["labels"])), counted)
    assert loss.item() == pytest.approx(float(stored["loss"]), rel=1e-5)
    target = pixel_targets(unit_range(clip), model.layout, "videomae")
    close(take_tokens(target, decoded), stored["labels"], 5e-5)
    loss = token_errors(asked, take_tokens(target, masked)).mean()
    assert loss.item() == pytest.approx(float(stored["loss_no_decoder_mask"]), rel=1e-5)


def test_mae_st(golden: Read, ratio_of: Callable[..., float]) -> None:
    stored = golden("mae_st_tiny")
    state, clip = weights(stored), tensor(stored["video"])
    kernel, width = state["patch_embed.proj.weight"].shape, state["cls_token"].shape[-1]
    inner, tokens = state["mask_token"].shape[-1], stored["noise"].shape[1]
    visible = kept_ids(stored["noise"], ratio_of(stored["mask_ratio"]))
    make = build(
        "mae_st", stored,
        {"channels": clip.shape[1], "size": clip.shape[-1], "frames": clip.shape[2]},
        patch=kernel[-1], tubelet=kernel[2], width=width,
        depth=depth(state, "blocks."),
        decoder_width=inner, decoder_depth=depth(state, "decoder_blocks."),
    )  # fmt: skip
    asked = everything(visible, tokens)
    model = fit_heads(
        make, (width, inner), lambda m: m(clip, visible, asked)["pixels"], tensor(stored["pred"])
    )
    close(model.encode(clip, visible), stored["latent"], 2e-5)
    predicted = model(clip, visible, asked)["pixels"]
    close(predicted, stored["pred"], 2e-5)
    assert np.array_equal(hidden_map(visible, tokens).numpy(), stored["mask"])
    check_restore(stored, visible)
    assert list(model.layout.frames) == stored["frame_index"].tolist()
    assert np.array_equal(patchify(clip, model.layout).numpy(), stored["target_patches"])
    for norm, name in (("none", "raw"), ("mae", "norm")):
        errors = token_errors(predicted, pixel_targets(clip, model.layout, norm))
        loss = masked_mean(errors, tensor(stored["mask"]))
        assert loss.item() == pytest.approx(float(stored[f"loss_{name}"]), rel=1e-5)


@pytest.mark.parametrize("kind", ["independent", "spatial"])
def test_satmae_groups(golden: Read, ratio_of: Callable[..., float], kind: str) -> None:
    stored = golden("satmae_group_tiny")
    state, images = weights(stored), tensor(stored["imgs"])
    width, inner = state["cls_token"].shape[-1], state["mask_token"].shape[-1]
    groups, positions = stored[f"mask_{kind}"].shape[1:]
    visible = kept_ids(stored[f"noise_{kind}"], ratio_of(stored["mask_ratio"]))
    check_restore(stored, visible, f"ids_restore_{kind}")
    if kind == "spatial":
        visible = torch.cat([visible + g * positions for g in range(groups)], dim=1)
    channels = groups_of(state)
    names = tuple(tuple(map(str, group)) for group in channels)
    make = build(
        "satmae_group", stored,
        {"channels": images.shape[1], "size": images.shape[-1], "groups": channels},
        groups=names, patch=state["patch_embed.0.proj.weight"].shape[-1], width=width,
        depth=depth(state, "blocks."), decoder_width=inner,
        decoder_depth=depth(state, "decoder_blocks."),
        context=state["channel_embed"].shape[-1],
        decoder_context=state["decoder_channel_embed"].shape[-1],
    )  # fmt: skip
    asked = everything(visible, groups * positions)
    wanted = tensor(stored[f"pred_{kind}"])
    model = fit_heads(make, (width, inner), lambda m: by_channel(m, images, visible, asked), wanted)
    close(model.encode(images, visible), stored[f"latent_{kind}"], 2e-5)
    predicted = by_channel(model, images, visible, asked)
    close(predicted, stored[f"pred_{kind}"], 2e-5)
    plain = PixelLayout(patch=model.layout.patch, channels_last=False)
    close(patchify(images, plain), stored["patchify_channel_first"], 0.0)
    hidden = tensor(stored[f"mask_{kind}"])
    assert torch.equal(
        hidden_weights(visible, asked, groups * positions).reshape(hidden.shape), hidden
    )
    for norm, name in (("none", "raw"), ("mae", "norm")):
        loss = released_group_loss(predicted, images, hidden, model.layout, norm)
        assert loss.item() == pytest.approx(float(stored[f"loss_{kind}_{name}"]), rel=1e-5)


def groups_of(state: dict[str, Tensor]) -> tuple[tuple[int, ...], ...]:
    """Return the channels of each group: the released ones, or neighbours where sizes differ."""
    count = sum(name.startswith("patch_embed.") for name in state) // 2
    sizes = [state[f"patch_embed.{i}.proj.weight"].shape[1] for i in range(count)]
    if sizes == [len(group) for group in SATMAE_GROUPS]:
        return SATMAE_GROUPS
    ends = np.cumsum(sizes).tolist()
    return tuple(tuple(range(end - n, end)) for end, n in zip(ends, sizes, strict=True))


def by_channel(model: SatMAE, images: Tensor, visible: Tensor, asked: Tensor) -> Tensor:
    """Return the predictions (B, C, L, p*p), channels in the order of the groups."""
    parts = model(images, visible, asked)["pixels"].chunk(len(model.groups), dim=1)
    split = [
        part[..., : len(group) * model.layout.patch**2].unflatten(-1, (len(group), -1))
        for part, group in zip(parts, model.groups, strict=True)
    ]
    return torch.cat(split, dim=2).transpose(1, 2)


@pytest.mark.parametrize(
    ("family", "name"), [("micromae", "micromae_tiny"), ("camae", "camae_tiny")]
)
def test_microscopy(golden: Read, family: str, name: str) -> None:
    stored = golden(name)
    state, images = weights(stored), tensor(stored["x"])
    backbone = "encoder.vit_backbone."
    width, inner = state[f"{backbone}cls_token"].shape[-1], state["decoder.mask_token"].shape[-1]
    decoder = "decoder.blocks." if family == "micromae" else "decoder.decoders.0."
    tokens = stored["noise"].shape[1]
    visible = tensor(stored["noise"]).argsort(1)[:, : stored["latent"].shape[1] - 1]
    check_restore(stored, visible, "ind_restore")
    assert np.array_equal(hidden_map(visible, tokens).numpy(), stored["mask"])
    make = build(
        family, stored, {"channels": images.shape[1], "size": images.shape[-1]},
        patch=state[f"{backbone}patch_embed.proj.weight"].shape[-1], width=width,
        depth=depth(state, f"{backbone}blocks."), decoder_width=inner,
        decoder_depth=depth(state, decoder),
    )  # fmt: skip
    heads = width // state[f"{backbone}blocks.0.q_norm.weight"].shape[0]
    asked = everything(visible, tokens)
    model = fit_heads(
        lambda _, inner_heads: make(heads, inner_heads), (1, inner),
        lambda m: m(images, visible, asked)["pixels"], tensor(stored["reconstruction"]),
    )  # fmt: skip
    if "tokens_patch_embed" in stored:
        close(model.tokenize(images), stored["tokens_patch_embed"], 5e-5)
    close(model.encode(images, visible), stored["latent"], 5e-5)
    close(model(images, visible, asked)["pixels"], stored["reconstruction"], 5e-5)
    close(model.embed(images), stored["embedding_full"], 5e-5)


def test_crossmae_mixes_maps_from_xavier_weights(golden: Read) -> None:
    """The released code means to draw them otherwise, but its last initialisation wins."""
    wanted = golden("crossmae_tiny")["wfm_weight_at_init"]
    decoder_depth, maps = wanted.shape
    sizes = {"patch": 4, "width": 8, "heads": 2, "decoder_width": 8, "decoder_heads": 2}
    config = ModelConfig(family="crossmae", depth=maps - 1, decoder_depth=decoder_depth, **sizes)
    found = build_model(config, ModelInput(channels=3, size=8, widths={"pixels": 0})).wfm
    bound = (6 / (maps + decoder_depth)) ** 0.5
    ours = found.linear.weight.detach()
    assert ours.shape == wanted.shape
    assert max(float(ours.abs().max()), float(np.abs(wanted).max())) <= bound
    assert ours.abs().max() > 0.3 * bound


def test_crossmae_predicts_as_many_as_the_reference(
    golden: Read, ratio_of: Callable[..., float]
) -> None:
    stored = golden("crossmae_tiny")
    hidden, asked = stored["mask_full"][0] > 0, stored["mask_partial"].sum(1)
    ratios = (ratio_of(stored[name]) for name in ("mask_ratio", "kept_mask_ratio"))
    found = partial_mask(hidden, *ratios, np.random.default_rng(0))
    assert (asked == found.sum()).all()
    assert not (found & ~hidden).any()


@pytest.mark.parametrize("kind", ["partial", "full"])
def test_crossmae(golden: Read, ratio_of: Callable[..., float], kind: str) -> None:
    stored = golden("crossmae_tiny")
    state, images = weights(stored), tensor(stored["imgs"])
    width, inner = state["cls_token"].shape[-1], state["mask_token"].shape[-1]
    visible = kept_ids(stored["noise"], ratio_of(stored["mask_ratio"]))
    _, asked = split_mask(stored[f"mask_{kind}"] > 0)
    make = build(
        "crossmae", stored, {"channels": images.shape[1], "size": images.shape[-1]},
        patch=state["patch_embed.proj.weight"].shape[-1], width=width,
        depth=depth(state, "blocks."),
        decoder_width=inner, decoder_depth=depth(state, "decoder_blocks."),
    )  # fmt: skip
    wanted = tensor(stored[f"pred_{kind}"])
    check_restore(stored, visible)
    model = fit_heads(make, (width, inner), lambda m: m(images, visible, asked)["pixels"], wanted)
    maps = torch.stack(model.maps(images, visible), dim=-1)
    close(maps, stored["features"], 2e-5)
    close(model.wfm(maps), stored["weighted_features"], 2e-5)
    predicted = model(images, visible, asked)["pixels"]
    close(predicted, stored[f"pred_{kind}"], 2e-5)
    for norm, name in (("none", "raw"), ("mae", "norm")):
        target = take_tokens(pixel_targets(images, model.layout, norm), asked)
        loss = token_errors(predicted, target).mean()
        assert loss.item() == pytest.approx(float(stored[f"loss_{kind}_{name}"]), rel=1e-5)


def test_objective_of_the_loop_is_the_reference_loss(mae: tuple[nn.Module, Arrays, Tensor]) -> None:
    model, stored, visible = mae
    from preprocessing.targets import TargetConfig

    images = tensor(stored["imgs"])
    asked = hidden_ids(visible, stored["noise"].shape[1])
    objective = Objective([TargetConfig(kind="pixels", norm="mae")], model.layout)
    batch = {"pixels": images, "visible": visible, "decoded": asked}
    loss, _ = objective(model(images, visible, asked), batch, images)
    assert loss.item() == pytest.approx(float(stored["loss_norm"]), rel=1e-5)


def test_localmim(golden: Read) -> None:
    stored = golden("localmim_hog")
    state, images = weights(stored), tensor(stored["x"])
    width, inner = state["cls_token"].shape[-1], state["decoder.0.mask_token"].shape[-1]
    tokens, histogram = stored["noise"].shape[1], stored["pred0"].shape[-1]
    patch = state["patch_embed.proj.weight"].shape[-1]
    visible = tensor(stored["noise"]).argsort(1)[:, : stored["latent0"].shape[1] - 1]
    data = {"channels": images.shape[1], "size": images.shape[-1]}
    make = build(
        "localmim", stored, data | {"widths": {"hog_scales": histogram * sum(SCALE_SHARES)}},
        patch=patch, width=width, depth=depth(state, "blocks."), decoder_width=inner,
        decoder_depth=depth(state, "decoder.0.blocks."),
    )  # fmt: skip

    def cells(model: nn.Module) -> list[Tensor]:
        return [x.flatten(2).mT for x in model.maps(model.encode(images, visible), visible)]

    wanted = torch.cat([tensor(stored[f"pred{k}"]) for k in range(4)], dim=1)
    model = fit_heads(make, (width, inner), lambda m: torch.cat(cells(m), dim=1), wanted)
    for number, (latent, found) in enumerate(
        zip(model.encode(images, visible), cells(model), strict=True)
    ):
        close(latent, stored[f"latent{number}"], 5e-5)
        close(found, stored[f"pred{number}"], 5e-5)
    asked = hidden_ids(visible, tokens)
    assert np.array_equal(hidden_map(visible, tokens).numpy(), stored["fwd_mask"])
    bins = histogram // images.shape[1]
    target = np.stack([scale_targets(x.transpose(1, 2, 0), patch, bins) for x in stored["x"]])
    errors = scale_errors(
        model(images, visible, asked)["hog_scales"], take_tokens(tensor(target), asked)
    )
    loss = masked_mean(errors, torch.ones_like(errors))
    assert loss.item() == pytest.approx(float(stored["loss"]), rel=1e-5)
    # The other mask of the file, by cells with its weights and by tokens as the loop has it.
    edges = [int(name.removeprefix("hog_pool")) for name in stored if name.startswith("hog_pool")]
    by_cell = sum(
        masked_mean(
            (tensor(stored[f"hog_pool{edge}"]) - tensor(stored[f"pred{k}"])).square().mean(-1),
            tensor(stored[f"mask_scale{k}"]),
        )
        for k, edge in enumerate(sorted(edges))
    )
    whole = model(images, visible, everything(visible, tokens))["hog_scales"]
    by_token = masked_mean(scale_errors(whole, tensor(target)), tensor(stored["mask"]))
    assert by_token.item() == pytest.approx(float(by_cell), rel=1e-5)


def test_cropmae(golden: Read, ratio_of: Callable[..., float]) -> None:
    stored = golden("cropmae_tiny")
    state, pairs = weights(stored), tensor(stored["imgs"])
    width, inner = state["cls_token"].shape[-1], state["mask_token"].shape[-1]
    tokens = stored["noise"].shape[1]
    visible = kept_ids(stored["noise"], ratio_of(stored["mask_ratio"]))

    def make(heads: int, decoder_heads: int) -> nn.Module:
        config = ModelConfig(
            family="mae", patch=state["patch_embed.proj.weight"].shape[-1], width=width,
            depth=depth(state, "blocks."), heads=heads, decoder_width=inner,
            decoder_depth=depth(state, "decoder_blocks."), decoder_heads=decoder_heads,
        )  # fmt: skip
        values = stored["pred"].shape[-1]
        data = ModelInput(channels=pairs.shape[2], size=pairs.shape[-1], widths={"pixels": values})
        model = CropMAE(config, data)
        model.load_state_dict(state)
        return model

    asked = everything(visible, tokens)
    wanted = tensor(stored["pred"])
    model = fit_heads(make, (width, inner), lambda m: m(pairs, visible, asked)["pixels"], wanted)
    predicted = model(pairs, visible, asked)["pixels"]
    close(predicted, stored["pred"], 3e-5)
    hidden = hidden_map(visible, tokens)
    assert np.array_equal(hidden.numpy(), stored["mask"])
    target = pixel_targets(pairs[:, 1], model.layout, "mae")
    loss = masked_mean(token_errors(predicted, target), hidden)
    assert loss.item() == pytest.approx(float(stored["loss_norm"]), rel=1e-5)
