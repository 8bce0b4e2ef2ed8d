"""Frozen encoders and centroids against the libraries that everyone has."""

from __future__ import annotations

import argparse
import io

import numpy as np
import pytest
import safetensors.torch
import torch
from sklearn.cluster import KMeans

from preprocessing.flow import dense_flow
from preprocessing.kmeans import fit_centroids, nearest, patch_vectors
from preprocessing.raft import network_pairs, raft_model
from preprocessing.vit import encode_tokens, frozen_encoder
from preprocessing.weight_files import read_weights


def hugging_face(name: str) -> torch.nn.Module:
    """Return a small random ViT of transformers, every weight away from its start."""
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, f"{name}Config")(
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=96,
        image_size=32,
        patch_size=8,
        layer_norm_eps=1e-6,
        **({"mask_ratio": 0.0} if name == "ViTMAE" else {}),
    )
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}Model")(config).eval()
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.1 * torch.randn_like(value))
    return model


@pytest.mark.parametrize("name", ["ViT", "ViTMAE"])
def test_tokens_are_those_of_transformers(name: str) -> None:
    model = hugging_face(name)
    pixels = torch.randn(3, 3, 32, 32)
    asked = {"noise": torch.arange(16.0).repeat(3, 1)} if name == "ViTMAE" else {}
    with torch.no_grad():
        wanted = model(pixels, **asked).last_hidden_state[:, 1:]
    for prefix in ("", "vit."):
        weights = {prefix + key: value for key, value in model.state_dict().items()}
        found = encode_tokens(frozen_encoder(weights, heads=4), pixels)
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def test_the_older_names_of_transformers_are_known_too() -> None:
    model = hugging_face("ViT")
    older = {}
    for key, value in model.state_dict().items():
        name = key.replace("layers.", "encoder.layer.")
        for new, old in (
            ("attention.q_proj", "attention.attention.query"),
            ("attention.k_proj", "attention.attention.key"),
            ("attention.v_proj", "attention.attention.value"),
            ("attention.o_proj", "attention.output.dense"),
            ("mlp.fc1", "intermediate.dense"),
            ("mlp.fc2", "output.dense"),
        ):
            name = name.replace(new, old)
        older[name] = value
    pixels = torch.randn(2, 3, 32, 32)
    left, right = (frozen_encoder(w, heads=4) for w in (older, model.state_dict()))
    torch.testing.assert_close(encode_tokens(left, pixels), encode_tokens(right, pixels))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"fc.weight": torch.zeros(2, 2)}, "hold no vision transformer"),
        (
            {
                "patch_embed.proj.weight": torch.zeros(50, 3, 8, 8),
                "blocks.0.norm1.weight": torch.zeros(50),
            },
            "heads of a ViT of width 50 are not known",
        ),
    ],
)
def test_other_weights_are_refused(weights: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        frozen_encoder(weights)


def test_another_view_size_is_refused() -> None:
    encoder = frozen_encoder(hugging_face("ViT").state_dict(), heads=4)
    with pytest.raises(ValueError, match="16 positions, the view 36 tokens"):
        encode_tokens(encoder, torch.zeros(1, 3, 48, 48))


def blobs(seed: int) -> np.ndarray:
    """Return 300 vectors around 5 far-apart centres."""
    rng = np.random.default_rng(seed)
    return rng.normal(0, 0.1, (300, 12)) + 5 * rng.normal(0, 1, (5, 12)).repeat(60, 0)


@pytest.mark.parametrize("seed", range(4))
def test_centroids_are_as_good_as_those_of_scikit_learn(seed: int) -> None:
    vectors = blobs(seed)
    found = fit_centroids(vectors, 5, np.random.default_rng(seed))
    same = fit_centroids(vectors, 5, np.random.default_rng(seed))
    np.testing.assert_array_equal(found, same)
    start = vectors[:: len(vectors) // 5][:5]
    theirs = KMeans(5, init=start, n_init=1, max_iter=20).fit(vectors)
    ours = ((vectors - found[nearest(vectors, found)]) ** 2).sum()
    # Both are local optima; ours may have started worse by one merged pair of blobs.
    assert ours <= theirs.inertia_ * 1.01 or len(np.unique(nearest(vectors, found))) == 5
    assert np.array_equal(nearest(vectors, theirs.cluster_centers_), theirs.labels_)


def test_too_few_patches_for_the_codes() -> None:
    with pytest.raises(ValueError, match=r"codes.codes is 4, the sample holds 2 distinct patches"):
        fit_centroids(np.repeat(np.eye(2), 9, 0), 4, np.random.default_rng(0))


def test_patches_are_row_column_channel() -> None:
    frames = np.arange(2 * 4 * 6 * 3, dtype=np.float32).reshape(2, 4, 6, 3)
    vectors = patch_vectors(frames, 2)
    assert vectors.shape == (12, 12)
    np.testing.assert_array_equal(vectors[4], frames[0, 2:4, 2:4].reshape(-1))


def test_raft_says_what_it_needs() -> None:
    frames = np.zeros((2, 32, 32, 3), np.uint8)
    with pytest.raises(ValueError, match=r"needs RGB frames and flow\.weights=FILE"):
        dense_flow(frames, method="raft_small")
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):
        with pytest.raises(ValueError, match="needs torchvision"):
            raft_model("raft_small", b"weights")


class BrightnessStep(torch.nn.Module):
    """Called as torchvision's RAFT is, and sees what was done to the frames on the way."""

    def forward(
        self, first: torch.Tensor, second: torch.Tensor, num_flow_updates: int
    ) -> list[torch.Tensor]:
        assert num_flow_updates == 6
        assert first.shape == second.shape
        assert first.shape[0] == 1
        assert all(edge % 8 == 0 and edge >= 128 for edge in first.shape[2:])
        assert first.abs().max() <= 1
        step = (second - first).mean(1, keepdim=True)
        places = torch.arange(first.shape[3]).expand_as(step).float()
        return [torch.zeros(1), torch.cat([step, places], 1)]


def test_what_surrounds_raft_pads_scales_and_cuts_back() -> None:
    """Of any size: [-1, 1], padded by repeated edges to multiples of 8, at least 128; the last
    refinement, cut to the frame, x before y. The network itself is torchvision's."""
    rng = np.random.default_rng(0)
    for height, width in ((40, 52), (128, 136), (131, 300)):
        one, two = rng.integers(0, 256, (2, 2, height, width, 3), np.uint8)
        field = network_pairs(BrightnessStep(), one, two)
        assert field.shape == (2, height, width, 2)
        assert field.dtype == np.float32
        step = (two.astype(float) - one).mean(-1) / 127.5
        np.testing.assert_allclose(field[..., 0], step, atol=1e-5)
        np.testing.assert_array_equal(field[0, 0, :, 1], np.arange(width))


@pytest.mark.parametrize("kind", ["safetensors", "pth", "checkpoint", "older form"])
def test_weights_come_from_either_kind_of_file(kind: str) -> None:
    weights = {"a.weight": torch.randn(3, 2), "b": torch.arange(4.0)}
    buffer = io.BytesIO()
    beside = {"model": weights, "epoch": 3, "args": argparse.Namespace(lr=1e-3)}
    whole = kind in ("safetensors", "pth")
    zipped = kind != "older form"
    torch.save(weights if whole else beside, buffer, _use_new_zipfile_serialization=zipped)
    data = safetensors.torch.save(weights) if kind == "safetensors" else buffer.getvalue()
    found = read_weights(data)
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], weights[name]) for name in weights)


class Harm:
    """What a hostile .pth would run."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('a weight file was executed')",)


def test_what_is_no_weight_file_is_refused() -> None:
    harmful, odd = io.BytesIO(), io.BytesIO()
    torch.save({"model": Harm()}, harmful)
    torch.save([1, 2], odd)
    for data in (b"", b"garbage" * 9, b"PK\3\4 cut short", harmful.getvalue(), odd.getvalue()):
        with pytest.raises(ValueError, match="weights"):
            read_weights(data)


def test_raft_sees_frames_of_any_size() -> None:
    """With the weights it starts with; its own accuracy is its authors' affair."""
    try:
        from torchvision.models.optical_flow import raft_small
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"torchvision cannot be used here ({type(error).__name__})")
    torch.manual_seed(0)
    buffer = io.BytesIO()
    torch.save(raft_small(weights=None).state_dict(), buffer)
    frames = np.random.default_rng(0).integers(0, 255, (3, 40, 52, 3), np.uint8)
    backward = dense_flow(frames, method="raft_small", weights=buffer.getvalue())
    assert backward.shape == (2, 40, 52, 2)
    forward = dense_flow(
        frames[::-1], method="raft_small", direction="forward", weights=buffer.getvalue()
    )
    np.testing.assert_allclose(backward, forward[::-1], atol=1e-4)
    with pytest.raises(ValueError, match="not the weights of torchvision's raft_large"):
        dense_flow(frames, method="raft_large", weights=buffer.getvalue())
