"""Configuration: dataclass schema < configs/base.yaml < stage or method YAML < key=value on the command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import yaml
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException


class ConfigError(ValueError):
    """A configuration that cannot be used; the message says which key and what to do."""


@dataclass(frozen=True)
class Component:
    """A class chosen by ``name`` from a literal table, built with ``args``."""

    name: str = MISSING
    args: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class BackboneConfig:
    name: str = "compact"
    path: str | None = None
    revision: str | None = None
    random_weights: bool = False


@dataclass(frozen=True)
class SourceConfig:
    path: str = "."
    lq: str | None = None
    take: int | None = None
    expected: int | None = None
    at_least: int = 1
    manifest: str | None = None
    licences: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class DataConfig:
    root: str = MISSING
    sources: dict[str, SourceConfig] = field(default_factory=dict)
    split: str = "train"
    crop: int = 128
    rescale_min: float = 1.0
    rescale_max: float = 1.0
    rescale_prob: float = 0.0
    degradation: str = "realesrgan"
    degradation_args: dict[str, Any] = field(default_factory=dict)
    check: bool = False
    degrade_on: str = "worker"
    workers: int = 0
    cache_gb: float = 4.0


@dataclass(frozen=True)
class TrainConfig:
    run_dir: str = MISSING
    init: str | None = None
    adapter: str | None = None
    steps: int = 1000
    batch_size: int = 16
    accumulate: int = 1
    lr: float = 1.0e-3
    critic_lr: float = 1.0e-4
    weight_decay: float = 0.0
    schedule: str = "cosine"
    warmup: int = 200
    final_lr: float = 0.01
    max_grad_norm: float = 1.0
    ema: float = 0.999
    precision: str = "fp32"
    gradient_checkpointing: bool = False
    compile: bool = False
    max_skipped: int = 0
    log_every: int = 50
    save_every: int = 500
    grid_every: int = 1000
    validate_every: int = 0
    validation_count: int = 16
    best: str = "psnr_y@0"
    keep: int = 2
    trackers: list[str] = field(default_factory=list)
    threads: int = 0


@dataclass(frozen=True)
class Config:
    seed: int = 0
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    method: Component = field(default_factory=Component)
    steering: Component = field(default_factory=Component)
    conditioner: Component = field(default_factory=Component)
    guider: Component = field(default_factory=Component)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    estimator: dict[str, Any] = field(default_factory=dict)
    loss: dict[str, float] = field(default_factory=dict)
    feature_weights: str | None = None


COMPONENTS = ("method", "steering", "conditioner", "guider")


def load_config(*layers: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Merge YAML files in order, then ``key=value`` strings, over the schema.

    A layer that names another component (``method.name`` ...) drops the arguments of the one before it: OmegaConf
    merges mappings and would leave them behind.

    Raises:
        ConfigError: unknown key, wrong type, missing file or unreadable YAML.
    """
    merged = OmegaConf.structured(Config)
    for layer in (*layers, overrides):
        source = layer if isinstance(layer, str | Path) else "the command line"
        try:
            extra = _read(layer)
            for key in COMPONENTS:
                chosen = extra.get(key)
                if isinstance(chosen, DictConfig) and "name" in chosen:
                    OmegaConf.set_readonly(merged[key], False)
                    merged[key].args = {}
            merged = OmegaConf.merge(merged, extra)
        except (OmegaConfBaseException, AttributeError, TypeError) as error:
            where = getattr(error, "full_key", None)
            raise ConfigError(f"{source}: {f'{where}: ' if where else ''}{str(error).splitlines()[0]}") from error
        except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
            reason = " ".join(str(error).split())
            raise ConfigError(f"{source} cannot be read as YAML: {reason}") from error
    if OmegaConf.missing_keys(merged):
        _refuse(merged)
    config: Any = OmegaConf.to_object(merged)
    return config


def _read(layer: str | Path | Sequence[str]) -> DictConfig:
    """A YAML file, or ``key=value`` strings, as a mapping."""
    if isinstance(layer, str | Path):
        if not Path(layer).is_file():
            raise ConfigError(f"Configuration file {layer} does not exist.")
        extra = OmegaConf.load(layer)
        if not isinstance(extra, DictConfig):
            raise ConfigError(f"{layer} must be a mapping of keys to values.")
        return extra
    for text in layer:
        if "=" not in text:
            raise ConfigError(f"{text} on the command line is no key=value.")
    return OmegaConf.from_dotlist(list(layer))


def _refuse(merged: Any) -> NoReturn:
    missing = ", ".join(sorted(OmegaConf.missing_keys(merged)))
    raise ConfigError(f"Not set: {missing}. Give each as key=value, for example {missing.split(', ')[0]}=VALUE.")


def save_config(config: Config, path: Path) -> None:
    """Write the resolved configuration as YAML, so that a run directory says how it was made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(OmegaConf.to_yaml(OmegaConf.structured(config)))
