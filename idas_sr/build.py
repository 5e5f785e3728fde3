"""Configuration -> objects: the only file that knows every name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from idas_sr.conditioning import CONDITIONERS
from idas_sr.config import BackboneConfig, Component, Config, ConfigError, DataConfig
from idas_sr.data.check import check_entries
from idas_sr.data.degradation import DEGRADATIONS, Degradation
from idas_sr.data.entries import Entry
from idas_sr.data.photographs import Collate, Photographs
from idas_sr.data.sources import in_split, licensed, list_entries
from idas_sr.guidance import GUIDERS
from idas_sr.losses import FeatureDistance, LearnedDistance
from idas_sr.methods.base import Method
from idas_sr.methods.degradation_scores import DegradationScoresTask
from idas_sr.methods.hd_clip import HDClipTask
from idas_sr.methods.idas import IDaSSR
from idas_sr.methods.invsr import InvSR
from idas_sr.methods.latent_perceptual import LatentPerceptualTask
from idas_sr.methods.osediff import OSEDiff
from idas_sr.methods.pretrain import AutoencoderTask, PriorTask
from idas_sr.methods.rcod import RCOD
from idas_sr.methods.s3diff import S3Diff
from idas_sr.methods.task import Task
from idas_sr.networks import presets
from idas_sr.networks.backbone import LatentBackbone
from idas_sr.networks.library import MODELS, choose_adapter, find_model
from idas_sr.networks.mine import MINE
from idas_sr.networks.sd_turbo import load_sd_turbo
from idas_sr.networks.store import load_parts, merge_method
from idas_sr.steering import STEERINGS

METHODS: dict[str, type[Method]] = {
    "idas": IDaSSR,
    "invsr": InvSR,
    "osediff": OSEDiff,
    "rcod": RCOD,
    "s3diff": S3Diff,
}
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
    "degradation-scores": DegradationScoresTask,
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
        ConfigError: a source has one of manifest and licences alone.
        FileNotFoundError: a source is missing, or has no picture of the split.
        ValueError: a source does not hold as many pictures as expected, or its manifest does not fit.
    """
    root = Path(data.root)
    if not data.sources:
        return in_split(list_entries(root), data.split, data.root)
    found: list[Entry] = []
    for name, source in data.sources.items():
        if (source.manifest is None) != (not source.licences):
            raise ConfigError(f"Source {name} has one of manifest and licences; give it both, or none.")
        lq = None if source.lq is None else root / source.lq
        entries = list_entries(root / source.path, lq, source.take, source.expected, source.at_least)
        if source.manifest is not None:
            entries = licensed(entries, root / source.manifest, source.licences)
        found += entries
    return in_split(found, data.split, data.root)


def refuse_unfit(entries: list[Entry], crop: int) -> None:
    """Read every picture and stop at one that is unreadable, too small, there twice, or does not fit its counterpart.

    Raises:
        ValueError: naming the first and how many there are.
    """
    found = check_entries(entries, crop, Method.scale)
    if found:
        more = f" ({len(found)} pictures have such a fault)" if len(found) > 1 else ""
        raise ValueError(f"{found[0].name}: {found[0].kind}, {found[0].reason}{more}; mend it or leave it out.")


def build_photographs(config: Config) -> tuple[Photographs, Collate]:
    """The training stream of a configuration.

    Raises:
        ConfigError: unknown degradation, or unknown place to degrade on.
        ValueError: with ``data.check``, a picture that would spoil the training.
    """
    data = config.data
    cache_bytes = data.cache_gb * 1e9
    entries = list_training_entries(data)
    if data.check:
        refuse_unfit(entries, data.crop)
    photographs = Photographs(
        entries,
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
    return photographs, Collate(build_degradation(data), is_deferred)


def build_degradation(data: DataConfig) -> Degradation:
    """The degradation that ``data`` names, with its arguments in place of the entry's own.

    Raises:
        ConfigError: unknown name or argument, or a value out of range.
    """
    preset = choose(DEGRADATIONS, "degradation", data.degradation)
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in data.degradation_args.items()}
    try:
        return Degradation(replace(preset, **values))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"data.degradation_args of {data.degradation}: {error}.") from error


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


def build_estimator(backbone: LatentBackbone, kind: Any = MINE, **args: Any) -> Any:
    """An untrained network of class ``kind``, a method's ``estimator_class``, that fits ``backbone``.

    Raises:
        ConfigError: unknown argument.
    """
    try:
        return kind.for_backbone(backbone, Method.scale, **args)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"estimator: {error}{'' if str(error).endswith('.') else '.'}") from error


def change_severity(estimator: MINE, args: Mapping[str, Any]) -> None:
    """Do to a trained estimator what of ``args``, a configuration's ``estimator``, can be done to one.

    Raises:
        ConfigError: the head cannot be what is asked, or its run has none.
        FileNotFoundError: that run is not finished.
    """
    try:
        if "severity_depth" in args:
            estimator.deepen(int(args["severity_depth"]))
        if "severity_from" in args:
            _, other = load_parts(Path(args["severity_from"]) / "model")
            if not isinstance(other, MINE):
                raise ConfigError(f"estimator.severity_from: {args['severity_from']} has no severity head.")
            estimator.take_severity(other)
    except ValueError as error:
        raise ConfigError(f"estimator: {error}") from error


def build_method(
    backbone: LatentBackbone,
    estimator: Any = None,
    method: Component = DEFAULTS["method"],
    steering: Component | None = None,
    conditioner: Component | nn.Module | None = None,
    guider: Component | None = None,
    **training: Any,
) -> Method:
    """A restoration method on a backbone; ``training`` is what only its losses need (weights, feature_distance).

    A slot that is None is filled as the method usually has it; a conditioner that is a network is taken as it is.
    """
    kind = choose(METHODS, "method", method.name)

    def usual(slot: str) -> Component:
        return Component(*kind.slots[slot]) if slot in kind.slots else DEFAULTS[slot]

    if not isinstance(conditioner, nn.Module):
        conditioner = construct(CONDITIONERS, "conditioner", conditioner or usual("conditioner"), backbone)
    combine = construct(GUIDERS, "guider", guider or usual("guider"))
    if combine.compares and getattr(conditioner, "negative", "") is None:
        name = (guider or usual("guider")).name
        raise ConfigError(
            f"The guider {name} compares two prompts and the conditioner gives one; name the other as "
            "conditioner.args.negative, or use the conditioner hdclip."
        )
    parts = (backbone, conditioner, construct(STEERINGS, "steering", steering or usual("steering")), combine)
    if estimator is None and kind.estimator_class is not None:
        estimator = build_estimator(backbone, kind.estimator_class)
    return construct(METHODS, "method", method, *parts, estimator=estimator, **training)


def has_dial(method: str) -> bool:
    """Whether realism changes anything in the method of this name as it usually is; True where there is no such one."""
    name, args = METHODS[method].slots.get("steering", ("n1", {})) if method in METHODS else ("n1", {})
    return STEERINGS[name](**args).dial


def build_task(config: Config) -> Task:
    """What a training configuration trains, started from the stage it names.

    Raises:
        ConfigError: an unknown name or argument.
        FileNotFoundError: a stage, or the weights of a loss's network, are not there.
        ValueError: parts of the configuration contradict one another.
    """
    backbone, estimator = initial_parts(config)
    if config.method.name in PRETRAINING:
        named = {"teacher": FeatureDistance(config.feature_weights)} if config.loss.get("teacher") else {}
        return construct(PRETRAINING, "method", config.method, backbone, config.loss, **named)
    needs_features = config.loss.get("feature", 0) or config.method.args.get("target") == "perceptual"
    is_trial = config.backbone.random_weights or config.backbone.name in UNTRAINED
    kind = choose(METHODS, "method", config.method.name).estimator_class
    if kind is None or not isinstance(estimator, kind):
        # Another method's, where a stage of one starts from a stage of the other.
        estimator = None if kind is None else build_estimator(backbone, kind, **config.estimator)
    elif isinstance(estimator, MINE):
        change_severity(estimator, config.estimator)
    return build_method(
        backbone,
        estimator,
        config.method,
        config.steering,
        config.conditioner,
        config.guider,
        weights=config.loss,
        feature_distance=FeatureDistance(config.feature_weights) if needs_features else None,
        **({"lpips": LearnedDistance(untrained=is_trial)} if config.loss.get("lpips") else {}),
    )


def initial_parts(config: Config) -> tuple[LatentBackbone, Any]:
    """The backbone, and the estimator or None, that a training starts from.

    Raises:
        ConfigError: ``train.adapter`` without a model that has adapters.
        FileNotFoundError: the stage before is not there.
        ValueError: no such model, or it has no such method.
    """
    init = config.train.init
    if init is None and config.train.adapter is not None:
        raise ConfigError("train.adapter needs the name or folder of a model: set train.init=compact.")
    if init is None:
        return build_backbone(config.backbone), None
    trained = [str(part) for part in config.method.args.get("train", ())]
    if config.train.adapter is not None:
        folder = find_model(init)
        adapter = choose_adapter(folder, config.train.adapter)
        backbone, estimator = load_parts(folder)
        # A model that is the method already brings its own.
        return backbone, estimator if adapter is None else merge_method(adapter, backbone)
    # The autoencoder and prior of a model that ships, by its name.
    is_model = init == Path(init).name and (MODELS / init).is_dir()
    return load_parts(MODELS / init if is_model else Path(init) / "model", keep=trained)


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
