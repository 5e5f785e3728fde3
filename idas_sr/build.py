"""Configuration -> objects: the only file that knows every name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from idas_sr.conditioning import CONDITIONERS
from idas_sr.config import BackboneConfig, Component, Config, ConfigError, DataConfig
from idas_sr.data.degradation import DEGRADATIONS, Degradation
from idas_sr.data.entries import Entry
from idas_sr.data.photographs import Collate, Photographs
from idas_sr.data.sources import in_split, list_entries
from idas_sr.guidance import GUIDERS
from idas_sr.losses import FeatureDistance, LearnedDistance
from idas_sr.methods.base import Method
from idas_sr.methods.hd_clip import HDClipTask
from idas_sr.methods.idas import IDaSSR
from idas_sr.methods.latent_perceptual import LatentPerceptualTask
from idas_sr.methods.pretrain import AutoencoderTask, PriorTask
from idas_sr.methods.task import Task
from idas_sr.networks import presets
from idas_sr.networks.backbone import LatentBackbone
from idas_sr.networks.mine import MINE
from idas_sr.networks.sd_turbo import load_sd_turbo
from idas_sr.networks.store import load_parts
from idas_sr.steering import STEERINGS

METHODS = {"idas": IDaSSR}
BACKBONES = {
    "compact": presets.compact,
    "sd-turbo": presets.sd_turbo,
    "tiny": presets.tiny,
    "tiny-sd-turbo": presets.tiny_sd_turbo,
}
PRETRAINING = {
    "autoencoder": AutoencoderTask,
    "prior": PriorTask,
    "latent-perceptual": LatentPerceptualTask,
    "hdclip": HDClipTask,
}
UNTRAINED = ("tiny", "tiny-sd-turbo")
"""Backbones that only ever try things; what a loss needs has random weights beside them too."""
VALIDATION_SEED = 2**31
"""Of validation's crops and degradations, whatever the seed of the training."""
DEFAULTS = {
    "method": Component("idas"),
    "steering": Component("n1"),
    "conditioner": Component("prompt"),
    "guider": Component("positive"),
}


def choose(table: dict[str, Any], kind: str, name: str) -> Any:
    """Entry ``name`` of a literal table.

    Raises:
        ConfigError: naming what there is.
    """
    if name not in table:
        raise ConfigError(f"There is no {kind} called {name!r}; choose one of {', '.join(table)}.")
    return table[name]


def construct(table: dict[str, Any], kind: str, component: Component, *parts: Any, **named: Any) -> Any:
    """Build ``component`` from its table.

    Raises:
        ConfigError: unknown name or unknown argument.
    """
    try:
        return choose(table, kind, component.name)(*parts, **named, **component.args)
    except TypeError as error:
        raise ConfigError(f"{kind} {component.name}: {error}.") from error


def list_training_entries(data: DataConfig) -> list[Entry]:
    """The pictures of one split of all sources, in the order of the configuration.

    Raises:
        FileNotFoundError: a source is missing, or has no picture of the split.
        ValueError: a source does not hold as many pictures as expected.
    """
    root = Path(data.root)
    if not data.sources:
        return in_split(list_entries(root), data.split, data.root)
    found: list[Entry] = []
    for source in data.sources.values():
        lq = None if source.lq is None else root / source.lq
        found += list_entries(root / source.path, lq, source.take, source.expected)
    return in_split(found, data.split, data.root)


def build_photographs(config: Config) -> tuple[Photographs, Collate]:
    """The training stream of a configuration.

    Raises:
        ConfigError: unknown degradation, or unknown place to degrade on.
    """
    data = config.data
    cache_bytes = data.cache_gb * 1e9
    photographs = Photographs(
        list_training_entries(data),
        data.crop,
        config.seed,
        data.rescale_min,
        data.rescale_prob,
        data.rescale_max,
        cache_bytes,
    )
    is_deferred = choose({"worker": False, "device": True}, "data.degrade_on", data.degrade_on)
    if data.degradation == "none":
        return photographs, Collate(None)
    choose(DEGRADATIONS, "degradation", data.degradation)
    return photographs, Collate(Degradation(data.degradation), is_deferred)


def build_validation_photographs(config: Config) -> tuple[Photographs, Collate]:
    """Fixed crops of the held-out split, degraded like the training stream but drawn once and for all.

    Raises:
        FileNotFoundError: no photograph is held out.
        ConfigError: as ``build_photographs``; training uses the held-out split too.
    """
    if config.data.split != "train":
        raise ConfigError("Validation needs photographs that are not trained on: set data.split=train.")
    data = replace(config.data, split="validation", rescale_prob=0.0, degrade_on="worker")
    return build_photographs(replace(config, data=data, seed=VALIDATION_SEED))


def build_estimator(backbone: LatentBackbone, control: bool = False, **args: Any) -> MINE:
    """An untrained MINE that fits ``backbone``; with ``control`` it also feeds the UNet's skip connections.

    Raises:
        ConfigError: unknown argument.
    """
    try:
        channels = backbone.control_channels if control else None
        stride = backbone.downsample // Method.scale
        return MINE(latent_channels=backbone.latent_channels, stride=stride, control_channels=channels, **args)
    except TypeError as error:
        raise ConfigError(f"estimator: {error}.") from error


def build_method(
    backbone: LatentBackbone,
    estimator: MINE | None = None,
    method: Component = DEFAULTS["method"],
    steering: Component = DEFAULTS["steering"],
    conditioner: Component = DEFAULTS["conditioner"],
    guider: Component = DEFAULTS["guider"],
    **training: Any,
) -> Method:
    """A restoration method on a backbone; ``training`` is what only its losses need (weights, feature_distance)."""
    parts = (
        backbone,
        construct(CONDITIONERS, "conditioner", conditioner, backbone),
        construct(STEERINGS, "steering", steering),
        construct(GUIDERS, "guider", guider),
    )
    estimator = build_estimator(backbone) if estimator is None else estimator
    return construct(METHODS, "method", method, *parts, estimator=estimator, **training)


def build_task(config: Config) -> Task:
    """What a training configuration trains, started from the stage it names.

    Raises:
        ConfigError: an unknown name or argument.
        FileNotFoundError: a stage, or the weights of a loss's network, are not there.
        ValueError: parts of the configuration contradict one another.
    """
    backbone, estimator = _initial(config)
    if config.method.name in PRETRAINING:
        named = {"teacher": FeatureDistance(config.feature_weights)} if config.loss.get("teacher") else {}
        return construct(PRETRAINING, "method", config.method, backbone, config.loss, **named)
    needs_features = config.loss.get("feature", 0) or config.method.args.get("target") == "perceptual"
    is_trial = config.backbone.random_weights or config.backbone.name in UNTRAINED
    return build_method(
        backbone,
        build_estimator(backbone, **config.estimator) if estimator is None else estimator,
        config.method,
        config.steering,
        config.conditioner,
        config.guider,
        weights=config.loss,
        feature_distance=FeatureDistance(config.feature_weights) if needs_features else None,
        **({"lpips": LearnedDistance(untrained=is_trial)} if config.loss.get("lpips") else {}),
    )


def _initial(config: Config) -> tuple[LatentBackbone, MINE | None]:
    if config.train.init is not None:
        trained = [str(part) for part in config.method.args.get("train", ())]
        return load_parts(Path(config.train.init) / "model", keep=trained)
    return build_backbone(config.backbone), None


def build_backbone(config: BackboneConfig) -> LatentBackbone:
    """The backbone that the first stage of a training starts from: compact untrained, sd-turbo with its weights.

    Raises:
        ConfigError: unknown name; sd-turbo without weights; a path for compact, which is trained here.
        ValueError: the weights are not at the path.
    """
    preset = choose(BACKBONES, "backbone", config.name)
    if config.random_weights:
        return preset()
    if config.name != "sd-turbo":
        if config.path is not None:
            raise ConfigError(
                f"backbone.path is for sd-turbo only; start {config.name} from a finished stage with train.init."
            )
        return preset()
    if config.path is None:
        raise ConfigError(
            "sd-turbo needs its weights: set backbone.path to their folder (or to the Hub id stabilityai/sd-turbo), "
            "or backbone.random_weights=true to try the configuration without them."
        )
    return load_sd_turbo(config.path, config.revision)
