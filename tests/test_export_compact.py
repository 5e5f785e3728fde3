"""scripts/export_compact.py on two random stages: what it writes is what was trained, rounded once."""

import importlib.util
from pathlib import Path

import pytest
import torch
from conftest import tiny_pipeline

from idas_sr.networks.store import save_parts
from idas_sr.pipeline import IDaSSRPipeline

SCRIPT = Path(__file__).parents[1] / "scripts" / "export_compact.py"
spec = importlib.util.spec_from_file_location("export_compact", SCRIPT)
export_compact = importlib.util.module_from_spec(spec)
spec.loader.exec_module(export_compact)


@pytest.fixture
def stages(tmp_path: Path) -> Path:
    prior, tuned = tiny_pipeline(0).restorer, tiny_pipeline(1).restorer
    save_parts(tmp_path / "1-prior" / "model", prior.backbone)
    prior.backbone.unet.load_state_dict(tuned.backbone.unet.state_dict())
    # Restoration trains the decoder too; the encoder stays.
    prior.backbone.vae.decoder.load_state_dict(tuned.backbone.vae.decoder.state_dict())
    save_parts(tmp_path / "4-steering" / "model", prior.backbone, tuned.estimator)
    (tmp_path / "4-steering" / "config.yaml").write_text(
        "method: {name: idas, args: {zero_prob: 0.5}}\nsteering: {name: n1, args: {kappa: 2.2}}\n"
    )
    return tmp_path


def test_the_shipped_folder_is_the_trained_model(stages: Path) -> None:
    line = export_compact.export(stages, "1-prior", "4-steering", stages / "compact")
    assert "M parameters" in line
    loaded, trained = IDaSSRPipeline.from_pretrained(stages / "compact"), tiny_pipeline(1)
    for name in ("unet", "estimator"):
        for key, value in getattr(trained, name).state_dict().items():
            assert torch.equal(getattr(loaded, name).state_dict()[key], value.half().float()), key
    for key, value in trained.vae.decoder.state_dict().items():
        assert torch.equal(loaded.vae.decoder.state_dict()[key], value.half().float()), key
    assert loaded.config["steering"] == {"name": "n1", "args": {"kappa": 2.2}}
    assert loaded.config["latents_mean"] == trained.config["latents_mean"]
    written = "".join(path.read_text() for path in (stages / "compact").rglob("*.json"))
    assert str(stages) not in written


def test_exporting_again_keeps_the_model_card_and_other_methods(stages: Path) -> None:
    export_compact.export(stages, "1-prior", "4-steering", stages / "compact")
    other, own = (stages / "compact" / "adapters" / name / "config.json" for name in ("invsr", "idas"))
    other.parent.mkdir()
    other.write_text("other")
    own.write_text("old")
    (stages / "compact" / "README.md").write_text("the card")
    export_compact.export(stages, "1-prior", "4-steering", stages / "compact")
    assert (stages / "compact" / "README.md").read_text() == "the card"
    assert other.read_text() == "other" and own.read_text() != "old"
    assert {path.name for path in stages.iterdir()} == {"1-prior", "4-steering", "compact"}


def test_what_cannot_ship_is_refused(stages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match="2-positioning"):
        export_compact.export(stages, "1-prior", "2-positioning", stages / "compact")
    with pytest.raises(ValueError, match="no estimator"):
        export_compact.export(stages, "1-prior", "1-prior", stages / "compact")
    with monkeypatch.context() as patch, pytest.raises(ValueError, match="parameters are more"):
        patch.setattr(export_compact, "MAX_PARAMETERS", 1000)
        export_compact.export(stages, "1-prior", "4-steering", stages / "compact")
    with monkeypatch.context() as patch, pytest.raises(ValueError, match="bytes of weights"):
        patch.setattr(export_compact, "MAX_BYTES", 1000)
        export_compact.export(stages, "1-prior", "4-steering", stages / "compact")
    other = tiny_pipeline(2).restorer
    save_parts(stages / "1-prior" / "model", other.backbone)
    with pytest.raises(ValueError, match="another encoder"):
        export_compact.export(stages, "1-prior", "4-steering", stages / "compact")
    assert not (stages / "compact").exists()
