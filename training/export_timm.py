"""timm's layout: `timm.create_model("local-dir:DIR", pretrained=True)` builds the encoder.

The model's forward pass is the mean of the patch tokens after the last norm, as our probes take it.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from training.export_inputs import input_rule, is_clip, moments
from training.frozen import Trained, encoder_weights

NO_CLASS = {
    "videomae": "timm has no model of clips whose tokens are tubelets",
    "mae_st": "timm has no model of clips whose tokens are tubelets",
    "satmae_group": "timm has no model with a token for each group of bands",
    "satmae_time": "timm has no model whose tokens are dated",
    "micromae": "timm's parallel block scales its residual branches apart",
    "camae": "timm has no model with a token for each channel",
}
_NO_NORM = ("crossmae",)
"Whose features are the last block's output, not normalised."


def timm_files(
    trained: Trained, decoder: bool = False
) -> tuple[dict[str, Tensor], dict[str, dict[str, Any]], str]:
    """Return an encoder's weights under timm's names, config.json, and the line that loads it.

    Raises:
        ValueError: timm has no class for this family.
    """
    model = trained.recipe.model
    if decoder:
        raise ValueError(
            "export: timm has no class with a decoder. Leave out --decoder, or --to hf."
        )
    if is_clip(trained) or model.family in NO_CLASS or not hasattr(trained.model, "pos_embed"):
        reason = NO_CLASS.get(model.family, f"timm has no class like family {model.family} here")
        raise ValueError(
            f"export: run {trained.run} is of the family {model.family}; {reason}. "
            "Use --to headrace."
        )
    weights = encoder_weights(trained.model)
    args = {
        "img_size": trained.recipe.view.size,
        "patch_size": model.patch,
        "in_chans": trained.about["shape"][0],
        "embed_dim": model.width,
        "depth": model.depth,
        "num_heads": model.heads,
        "num_classes": 0,
        "class_token": "cls_token" in weights,
        "global_pool": "avg",
        "fc_norm": False,
        "final_norm": model.family not in _NO_NORM,
    }
    config = {
        "architecture": "vit_base_patch16_224",
        "num_classes": 0,
        "num_features": model.width,
        "global_pool": "avg",
        "model_args": args,
        "pretrained_cfg": _pretrained(trained),
        "headrace": {"run": trained.run, "step": trained.step, "inputs": input_rule(trained)},
    }
    return (
        weights,
        {"config.json": config},
        'timm.create_model("local-dir:" + DIR, pretrained=True)',
    )


def _pretrained(trained: Trained) -> dict[str, Any]:
    size = trained.recipe.view.size
    known = {
        "input_size": [trained.about["shape"][0], size, size],
        "fixed_input_size": True,
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "crop_mode": "center",
        "num_classes": 0,
        "pool_size": None,
        "first_conv": "patch_embed.proj",
        "classifier": "head",
    }
    found = moments(trained)
    return known if found is None else {**known, "mean": found[0], "std": found[1]}
