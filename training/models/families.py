"""The model families by name, and the two calls that every one of them answers."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from training.models.camae import ChannelMAE
from training.models.config import ModelConfig, ModelInput
from training.models.crossmae import CrossMAE
from training.models.localmim import LocalMIM
from training.models.mae import MAE
from training.models.mae_st import MAEST
from training.models.maskfeat import MaskFeat
from training.models.micromae import MicroMAE
from training.models.satmae import SatMAE
from training.models.satmae_time import SatMAETime
from training.models.videolabels import LabelledVideo
from training.models.videomae import VideoMAE

MODELS: dict[str, type[nn.Module]] = {
    "mae": MAE,
    "crossmae": CrossMAE,
    "maskfeat": MaskFeat,
    "localmim": LocalMIM,
    "videomae": VideoMAE,
    "videomae_labels": LabelledVideo,
    "mae_st": MAEST,
    "micromae": MicroMAE,
    "camae": ChannelMAE,
    "satmae_group": SatMAE,
    "satmae_time": SatMAETime,
}


def build_model(config: ModelConfig, data: ModelInput) -> nn.Module:
    """Return a model: `model(pixels, visible, decoded)` predicts, `model.features(pixels)` encodes.

    Raises:
        ValueError: the family is unknown.
    """
    if config.family not in MODELS:
        raise ValueError(
            f"model.family {config.family!r} is unknown. Known: {', '.join(MODELS)}. "
            "Add it in training/models/families.py."
        )
    family = MODELS[config.family]
    layout = family.layout_of(config, data)
    widths = {
        n: w if n != "pixels" else layout.width(data.channels) for n, w in data.widths.items()
    }
    return family(config, replace(data, widths=widths))
