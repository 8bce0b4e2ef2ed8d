"""Names of a vision transformer's weights: timm's, which the official releases and headrace share,
and Hugging Face's ViT, ViTMAE and VideoMAE, in the layout of their files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

Weights = Mapping[str, Tensor]
_TO_TIMM = (
    (r"^(?:vit|videomae|base_model|model)\.", ""),
    (r"^encoder\.(?=patch_embed|blocks|norm)", ""),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^decoder\.decoder_(?:layers|encoder\.layer)\.", "decoder_blocks."),
    (r"^decoder\.(?=mask_token$|decoder_)", ""),
    (r"^(?:encoder\.)?layers?\.(\d+)\.", r"blocks.\1."),
    (r"\.attention\.output\.dense\.|\.attention\.o_proj\.", ".attn.proj."),
    (r"\.attention\.attention\.(?=[qv]_bias$)", ".attn."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"^layernorm\.", "norm."),
)
_TO_HF = (
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
    (r"^cls_token$", "embeddings.cls_token"),
    (r"^pos_embed$", "embeddings.position_embeddings"),
    (r"^norm\.", "layernorm."),
    (r"^blocks\.", "encoder.layer."),
    (r"^decoder_blocks\.", "decoder.decoder_layers."),
    (r"^(?=decoder_(?:embed|pos_embed|norm|pred))", "decoder."),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.attn\.(?=[qv]_bias$)", ".attention.attention."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
)
_QKV = re.compile(
    r"(.*blocks\.\d+)\.attention\.(?:attention\.)?(query|key|value|[qkv]_proj)\.(weight|bias)"
)
_FUSED = re.compile(r"(.*)\.attn\.qkv\.(weight|bias)")


def timm_names(weights: Weights) -> dict[str, Tensor]:
    """Return weights under timm's names; separate q, k and v become one fused matrix.

    A decoder of ViTMAE or VideoMAE gets the names of MAE's release (`decoder_blocks.0.…`). Biases
    of q and v without one of k, as VideoMAE has them, become `attn.q_bias` and `attn.v_bias`.
    Names that are timm's already, or none of these, stay.
    """
    named: dict[str, Tensor] = {}
    parts: dict[tuple[str, str], dict[str, Tensor]] = {}
    for name, value in weights.items():
        plain = _renamed(name, _TO_TIMM)
        found = _QKV.fullmatch(plain)
        if found:
            parts.setdefault((found[1], found[3]), {})[found[2][0]] = value
        else:
            named[plain] = value
    for (block, kind), three in parts.items():
        if set(three) == set("qkv"):
            named[f"{block}.attn.qkv.{kind}"] = torch.cat([three[letter] for letter in "qkv"])
        else:
            named |= {f"{block}.attn.{letter}_{kind}": part for letter, part in three.items()}
    return named


def hf_names(weights: Weights) -> dict[str, Tensor]:
    """Return weights under the names in Hugging Face's files: the inverse of `timm_names`.

    The names are those of the bare encoder; a file of a model with a decoder puts `vit.` or
    `videomae.` before the encoder's.
    """
    named: dict[str, Tensor] = {}
    for name, value in weights.items():
        plain = _renamed(name, _TO_HF)
        found = _FUSED.fullmatch(plain)
        if found:
            for letter, part in zip(("query", "key", "value"), value.chunk(3), strict=True):
                named[f"{found[1]}.attention.attention.{letter}.{found[2]}"] = part
        else:
            named[plain] = value
    return named


def _renamed(name: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name
