"""Configurations merge, and every mistake in one is a ConfigError of one sentence."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from idas_sr.build import METHODS, PRETRAINING, build_method, build_photographs, build_task, construct
from idas_sr.conditioning import CONDITIONERS
from idas_sr.config import Component, Config, ConfigError, load_config, save_config
from idas_sr.data.degradation import DEGRADATIONS
from idas_sr.guidance import GUIDERS
from idas_sr.networks import presets
from idas_sr.steering import STEERINGS

CONFIGS = Path(__file__).parents[1] / "configs"
BASE = CONFIGS / "base.yaml"
STAGES = sorted((CONFIGS / "train").rglob("*.yaml"))
REQUIRED = ("data.root=photographs", "train.run_dir=runs/test")


def leaves(tree: Any, prefix: str = "") -> set[str]:
    """Dotted names of everything in a mapping that is no non-empty mapping itself."""
    names = set()
    for key, value in tree.items():
        is_component = isinstance(value, dict) and set(value) == {"name", "args"}
        nested = isinstance(value, dict) and value and not is_component
        names |= leaves(value, f"{prefix}{key}.") if nested else {prefix + key}
    return names


def schema() -> dict[str, Any]:
    tree = OmegaConf.to_container(OmegaConf.structured(Config))
    assert isinstance(tree, dict)
    return tree


def one_sentence(error: BaseException) -> bool:
    return "\n" not in str(error) and 10 < len(str(error)) < 400


@pytest.mark.parametrize("stage", STAGES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_stage_merges(stage: Path) -> None:
    config = load_config(BASE, stage, overrides=["data.root=photographs"])
    assert config.train.steps > 0 and config.loss
    assert config.method.name in (METHODS | PRETRAINING)
    assert config.steering.name in STEERINGS and config.guider.name in GUIDERS
    assert config.conditioner.name in CONDITIONERS and config.data.degradation in ({*DEGRADATIONS, "none"})
    assert config.train.run_dir.endswith(stage.stem)


def test_stages_are_found_and_follow_one_another() -> None:
    compact = [path for path in STAGES if path.parent.name == "compact"]
    assert [path.name[0] for path in compact] == ["0", "1", "2", "3", "4", "5", "6"]
    configs = [load_config(BASE, path, overrides=["data.root=photographs"]) for path in compact]
    assert [config.train.init for config in configs] == [None, *(config.train.run_dir for config in configs[:-1])]


def test_base_has_every_key_of_the_schema_and_no_other() -> None:
    base = OmegaConf.to_container(OmegaConf.load(BASE))
    assert isinstance(base, dict)
    assert leaves(base) == leaves(schema())


def test_base_repeats_the_defaults_of_the_schema() -> None:
    for section in ("backbone", "data", "train"):
        written, built_in = OmegaConf.load(BASE)[section], OmegaConf.create(schema())[section]
        for key in written:
            if not OmegaConf.is_missing(built_in, key):
                assert written[key] == built_in[key], f"{section}.{key}"


def test_every_key_of_base_has_a_comment() -> None:
    lines = [line for line in BASE.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")]
    bare = [line for line in lines if "#" not in line and not re.fullmatch(r"\w+:", line.strip())]
    assert not bare


def test_result_is_frozen_dataclasses() -> None:
    config = load_config(BASE, overrides=REQUIRED)
    assert type(config) is Config
    for part in (config, config.data, config.train, config.method, config.backbone):
        name = dataclasses.fields(part)[0].name
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(part, name, None)


def test_later_layers_win(tmp_path: Path) -> None:
    stage = tmp_path / "stage.yaml"
    stage.write_text("train: {steps: 7, lr: 0.5}\n")
    config = load_config(BASE, stage, overrides=[*REQUIRED, "train.lr=0.25"])
    assert (config.train.steps, config.train.lr) == (7, 0.25)


def test_new_component_drops_the_arguments_of_the_one_before(tmp_path: Path) -> None:
    first, second, third = (tmp_path / f"{i}.yaml" for i in range(3))
    first.write_text("steering: {name: n1, args: {kappa: 1.8}}\n")
    second.write_text("steering: {name: n4}\n")
    third.write_text("steering: {args: {kappa: 3.0}}\n")
    assert load_config(BASE, first, overrides=REQUIRED).steering == Component("n1", {"kappa": 1.8})
    assert load_config(BASE, first, second, overrides=REQUIRED).steering == Component("n4", {})
    assert load_config(BASE, first, overrides=[*REQUIRED, "steering.name=n4"]).steering.args == {}
    # Without a name the component stays, and its arguments are changed one by one.
    assert load_config(BASE, first, third, overrides=REQUIRED).steering == Component("n1", {"kappa": 3.0})


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["train.stepz=3"], "train.stepz"),
        (["trian.steps=3"], "trian"),
        (["train.steps=many"], "many"),
        (["train.steps=1.5"], "1.5"),
        (["train=3"], "TrainConfig"),
        (["method=idas"], "idas"),
        (["loss.pixel=a lot"], "a lot"),
        (["data.root=???"], "data.root"),
        (["train.steps"], "train.steps"),
        (["train.steps=[1"], "command line"),
    ],
)
def test_mistakes_on_the_command_line(overrides: list[str], says: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)) as caught:
        load_config(BASE, overrides=[*REQUIRED, *overrides])
    assert one_sentence(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("train: {stepz: 3}", "stepz"),
        ("train: {steps: many}", "many"),
        ("train: {steps: 3", "YAML"),
        ("- train\n- data", "mapping"),
        ("just words", "just words"),
        ("train: 3", "TrainConfig"),
        ("method: idas", "idas"),
    ],
)
def test_mistakes_in_a_file(tmp_path: Path, text: str, says: str) -> None:
    stage = tmp_path / "stage.yaml"
    stage.write_text(text)
    with pytest.raises(ConfigError, match=re.escape(says)) as caught:
        load_config(BASE, stage, overrides=REQUIRED)
    assert one_sentence(caught.value) and "stage.yaml" in str(caught.value)


def test_missing_values_are_named() -> None:
    with pytest.raises(ConfigError, match=r"data\.root, train\.run_dir") as caught:
        load_config(BASE)
    assert one_sentence(caught.value)


@pytest.mark.parametrize("name", ["nowhere.yaml", "."])
def test_missing_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(str(tmp_path))) as caught:
        load_config(BASE, tmp_path / name, overrides=REQUIRED)
    assert one_sentence(caught.value)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("method.name=osdiff", "osdiff"),
        ("steering.name=n7", "n7"),
        ("conditioner.name=caption", "caption"),
        ("guider.name=cgf", "cgf"),
        ("backbone.name=large", "large"),
        ("method.args.targt=snr", "targt"),
        ("steering.args.kapa=2", "kapa"),
        ("conditioner.args.positiv=clean", "positiv"),
        ("guider.args.scale=2", "positive"),
        ("estimator.widht=32", "widht"),
    ],
)
def test_unknown_components_and_arguments(override: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        build_task(load_config(BASE, overrides=[*REQUIRED, override]))
    assert one_sentence(caught.value)


def test_unknown_degradation(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    overrides = [f"data.root={tmp_path}", "data.split=all", "train.run_dir=runs/test", "data.degradation=rain"]
    with pytest.raises(ConfigError, match="rain") as caught:
        build_photographs(load_config(BASE, overrides=overrides))
    assert one_sentence(caught.value)


def test_every_component_name_builds() -> None:
    backbone = presets.compact()
    for name in STEERINGS:
        build_method(presets.compact(), steering=Component(name))
    for table, kind, parts in (
        (CONDITIONERS, "conditioner", (backbone,)),
        (GUIDERS, "guider", ()),
        (STEERINGS, "steering", ()),
    ):
        # HD-CLIP is a trained network, in test_hd_clip.py.
        for name in set(table) - {"hdclip"}:
            construct(table, kind, Component(name), *parts)


def test_saved_configuration_reads_back_equal(tmp_path: Path) -> None:
    config = load_config(BASE, STAGES[-1], overrides=["data.root=photographs"])
    save_config(config, tmp_path / "run" / "config.yaml")
    assert load_config(tmp_path / "run" / "config.yaml") == config
