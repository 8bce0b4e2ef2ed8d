"""Hugging Face's layout: `ViTMAEModel`, `ViTModel` or `VideoMAEModel.from_pretrained(DIR)`.

With the decoder also `ViTMAEForPreTraining` and `VideoMAEForPreTraining`.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from preprocessing.vit_names import hf_names
from training.export_inputs import input_rule, is_clip, moments
from training.frozen import Trained, encoder_weights

NO_CLASS = {
    "maskfeat": "ViTModel always has a class token, MaskFeat's encoder has none",
    "crossmae": "ViTModel always ends in a norm, CrossMAE's features come before one",
    "mae_st": "VideoMAEModel has no class token and other positions than MAE-ST",
    "satmae_group": "transformers has no model with a token for each group of bands",
    "satmae_time": "transformers has no model whose tokens are dated",
    "micromae": "transformers has no model with blocks of parallel branches and gains",
    "camae": "transformers has no model with a token for each channel",
}
_IMAGES, _CLIPS = "ViTMAE", "VideoMAE"
Record = dict[str, Any]


def hf_files(
    trained: Trained, decoder: bool = False
) -> tuple[dict[str, Tensor], dict[str, Record], str]:
    """Return weights under Hugging Face's names, config.json with preprocessor_config.json, and the
    line that loads them.

    Without the decoder the mask ratio is 0, so that the encoder sees every patch.

    Raises:
        ValueError: transformers has no class for this family.
    """
    family = trained.recipe.model.family
    if family not in ("mae", "videomae"):
        known = "maskfeat, crossmae: --to timm; any family: --to headrace"
        raise ValueError(
            f"export: run {trained.run} is of the family {family}; "
            f"{NO_CLASS.get(family, 'transformers has no class for it')}. Instead: {known}."
        )
    name = _CLIPS if family == "videomae" else _IMAGES
    weights = encoder_weights(trained.model)
    weights.pop("pos_embed" if family == "videomae" else "", None)
    named = hf_names(weights)
    if decoder:
        named = {("videomae." if family == "videomae" else "vit.") + n: v for n, v in named.items()}
        named |= hf_names(_decoder_weights(trained))
    head = f"{name}ForPreTraining" if decoder else f"{name}Model"
    config = {"architectures": [head], **_config(trained, decoder), "torch_dtype": "float32"}
    records = {"config.json": config, "preprocessor_config.json": _preprocessor(trained)}
    return named, records, f"transformers.{head}.from_pretrained(DIR)"


def _decoder_weights(trained: Trained) -> dict[str, Tensor]:
    """Return the decoder under the names that `hf_names` takes.

    Raises:
        ValueError: it predicts something else than pixels.
    """
    kinds = [target.kind for target in trained.recipe.target]
    if kinds != ["pixels"]:
        raise ValueError(
            f"export: the decoder of run {trained.run} predicts {', '.join(kinds)}; transformers' "
            "predicts pixels. Leave out --decoder."
        )
    found = trained.model.state_dict()
    if trained.recipe.model.family == "videomae":
        kept = ("decoder.", "encoder_to_decoder.", "mask_token")
        found = {name: value for name, value in found.items() if name.startswith(kept)}
        return {n.replace("decoder.blocks.", "decoder_blocks."): v for n, v in found.items()}
    found = {n: v for n, v in found.items() if n.startswith(("decoder_", "mask_token"))}
    return {n.replace("mask_token", "decoder.mask_token"): v for n, v in found.items()}


def _config(trained: Trained, decoder: bool) -> Record:
    model, target = trained.recipe.model, trained.recipe.target[0]
    config: Record = {
        "hidden_size": model.width,
        "num_hidden_layers": model.depth,
        "num_attention_heads": model.heads,
        "intermediate_size": 4 * model.width,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
        "image_size": trained.recipe.view.size,
        "patch_size": model.patch,
        "num_channels": trained.about["shape"][0],
        "decoder_hidden_size": model.decoder_width,
        "decoder_num_hidden_layers": model.decoder_depth,
        "decoder_num_attention_heads": model.decoder_heads,
        "decoder_intermediate_size": 4 * model.decoder_width,
        "norm_pix_loss": target.kind == "pixels" and target.norm != "none",
        "headrace": {"run": trained.run, "step": trained.step, "inputs": input_rule(trained)},
    }
    if is_clip(trained):
        return {
            **config,
            "model_type": "videomae",
            "num_frames": trained.about["shape"][1],
            "tubelet_size": model.tubelet,
            "qv_bias": True,
            "use_mean_pooling": False,
        }
    ratio = trained.recipe.mask.ratio if decoder else 0.0
    return {**config, "model_type": "vit_mae", "qkv_bias": True, "mask_ratio": ratio}


def _preprocessor(trained: Trained) -> Record:
    """Return what an image processor is told; one that cannot say it is not named, so that nothing
    wrong is fed in silence.
    """
    size, found = trained.recipe.view.size, moments(trained)
    rule: Record = {"headrace": input_rule(trained)}
    if found is None:
        return rule
    return {
        **rule,
        "image_processor_type": f"{_CLIPS if is_clip(trained) else 'Bit'}ImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": size},
        "resample": 2,
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": found[0],
        "image_std": found[1],
    }
