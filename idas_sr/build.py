"""Configuration -> objects: the only file that knows every name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from idas_sr.conditioning import CONDITIONERS
from idas_sr.config import BackboneConfig, Component, Config, ConfigError
from idas_sr.data.degradation import DEGRADATIONS, Degradation
from idas_sr.data.photographs import Collate, Photographs, list_photographs
from idas_sr.guidance import GUIDERS
from idas_sr.losses import FeatureDistance
from idas_sr.methods.base import Method
from idas_sr.methods.idas import IDaSSR
from idas_sr.methods.pretrain import AutoencoderTask, PriorTask
from idas_sr.methods.task import Task
from idas_sr.networks import presets
from idas_sr.networks.backbone import LatentBackbone
from idas_sr.networks.mine import MINE
from idas_sr.networks.sd_turbo import load_sd_turbo
from idas_sr.networks.store import load_parts
from idas_sr.steering import STEERINGS

METHODS = {"idas": IDaSSR}
BACKBONES = {"compact": presets.compact, "sd-turbo": presets.sd_turbo}
PRETRAINING = {"autoencoder": AutoencoderTask, "prior": PriorTask}
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


def build_photographs(config: Config) -> tuple[Photographs, Collate]:
    """The training stream of a configuration."""
    data = config.data
    photographs = Photographs(
        list_photographs(data.root, data.split), data.crop, config.seed, data.rescale_min, data.rescale_prob
    )
    if data.degradation == "none":
        return photographs, Collate(None)
    choose(DEGRADATIONS, "degradation", data.degradation)
    return photographs, Collate(Degradation(data.degradation))


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
        construct(CONDITIONERS, "conditioner", conditioner),
        construct(STEERINGS, "steering", steering),
        construct(GUIDERS, "guider", guider),
    )
    estimator = build_estimator(backbone) if estimator is None else estimator
    return construct(METHODS, "method", method, *parts, estimator=estimator, **training)


def build_task(config: Config) -> Task:
    """What a training configuration trains, started from the stage it names."""
    backbone, estimator = _initial(config)
    if config.method.name in PRETRAINING:
        return construct(PRETRAINING, "method", config.method, backbone, config.loss)
    needs_features = config.loss.get("feature", 0) or config.method.args.get("target") == "perceptual"
    return build_method(
        backbone,
        build_estimator(backbone, **config.estimator) if estimator is None else estimator,
        config.method,
        config.steering,
        config.conditioner,
        config.guider,
        weights=config.loss,
        feature_distance=FeatureDistance(config.feature_weights) if needs_features else None,
    )


def _initial(config: Config) -> tuple[LatentBackbone, MINE | None]:
    if config.train.init is not None:
        return load_parts(Path(config.train.init) / "model")
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
