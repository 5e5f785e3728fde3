"""What would go to the Hub: folder, card and metadata, up to the network; what comes from it, out of a local cache."""

import hashlib
import json
import re
import runpy
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
from conftest import tiny_pipeline
from diffusers import UNet2DConditionModel
from huggingface_hub import ModelCard
from skimage import data

from idas_sr import hub
from idas_sr.hub import check_card, make_card, results_from_scores
from idas_sr.networks.library import MODELS, find_model, fingerprint
from idas_sr.networks.presets import COMPACT_UNET
from idas_sr.pipeline import IDaSSRPipeline

ROOT = Path(__file__).parents[1]
CAT = data.chelsea()[60:92, 100:148]
SCORES = {"mean": {"psnr_y": 26.45123, "niqe": 6.49}}
TURBO = {
    "base_model": "stabilityai/sd-turbo",
    "license": "other",
    "license_name": "stabilityai-ai-community",
    "license_link": "https://huggingface.co/stabilityai/sd-turbo/blob/main/LICENSE.md",
}


def test_the_card_says_what_the_hub_files_by(tmp_path: Path) -> None:
    card = make_card("someone/my-model", results=results_from_scores("RealSR", SCORES), **TURBO)
    card.save(tmp_path / "README.md")
    read = ModelCard.load(tmp_path / "README.md")
    metadata = read.data.to_dict()
    assert metadata["license"] == "other" and metadata["base_model"] == "stabilityai/sd-turbo"
    assert metadata["library_name"] == "diffusers" and metadata["pipeline_tag"] == "image-to-image"
    assert "super-resolution" in metadata["tags"]
    (row, _) = read.data.eval_results
    assert (row.dataset_name, row.metric_type, row.metric_value) == ("RealSR", "psnr_y", 26.4512)
    assert "| RealSR | PSNR-Y (BT.601) | 26.4512 |" in read.content
    assert 'from_pretrained("someone/my-model"' in read.content and "None" not in read.content


def test_a_benchmark_gives_its_own_rows_and_no_trivial_ones() -> None:
    rows = {"bicubic": {"mean": {"niqe": 8.99}}, "compact, realism 0.5": {"mean": {"niqe": 6.49, "lpips": None}}}
    (result,) = results_from_scores("RealSR", {"rows": rows})
    assert result.metric_value == 6.49 and result.metric_name == "NIQE, compact, realism 0.5"
    with pytest.raises(ValueError, match="no means for 'RealSR'"):
        results_from_scores("RealSR", {"something": 1})


def test_a_written_card_keeps_its_words_and_its_licence() -> None:
    text = (MODELS / "compact" / "README.md").read_text(encoding="utf-8")
    card = make_card("someone/compact", text=text, license="mit")
    assert card.data.license == "apache-2.0" and "idas-sr" in card.data.tags
    assert card.text.strip() == ModelCard(text).text.strip()


def test_the_shipped_card_is_complete() -> None:
    check_card(ModelCard.load(MODELS / "compact" / "README.md"))


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"license": ""}, "names no licence"),
        ({"license": "other"}, "license_name and license_link"),
        ({"text": "---\nlibrary_name: keras\n---\n# Model", "license": ""}, "no licence"),
    ],
)
def test_incomplete_cards_are_refused(facts: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make_card("someone/my-model", **facts)
    with pytest.raises(ValueError, match="pipeline_tag"):
        check_card(ModelCard("---\nlicense: mit\nlibrary_name: diffusers\npipeline_tag: text-to-image\n---\n# x"))


def test_the_folder_that_goes_up_is_the_model_and_its_card(tmp_path: Path) -> None:
    pipe = tiny_pipeline()
    pipe.save_for_hub(tmp_path, "someone/tiny", results=results_from_scores("RealSR", SCORES))
    top = {path.name for path in tmp_path.iterdir()}
    assert top == {"README.md", "model_index.json", "pipeline.py", "estimator", "prompt", "scheduler", "unet", "vae"}
    weights = [path for path in tmp_path.rglob("*") if path.suffix in (".bin", ".pt", ".pth", ".safetensors")]
    assert len(weights) == 4 and {path.suffix for path in weights} == {".safetensors"}
    assert not re.search(re.escape(str(tmp_path)), "".join(p.read_text() for p in tmp_path.rglob("*.json")))
    loaded = IDaSSRPipeline.from_pretrained(tmp_path)
    for realism in (0, 0.6):
        first, second = (p(CAT, realism=realism, output_type="pt").images for p in (pipe, loaded))
        assert torch.equal(first, second)


def test_weights_on_sd_turbo_do_not_go_up_under_another_licence(tmp_path: Path) -> None:
    pipe = tiny_pipeline()
    wide = {**COMPACT_UNET, "block_out_channels": [16, 16, 16], "cross_attention_dim": 1024, "norm_num_groups": 4}
    pipe.register_modules(unet=UNet2DConditionModel.from_config(wide))
    with pytest.raises(ValueError, match="base_model='stabilityai/sd-turbo'"):
        pipe.push_to_hub("someone/my-model")
    pipe.save_for_hub(tmp_path, "someone/my-model", **TURBO)
    assert ModelCard.load(tmp_path / "README.md").data.base_model == "stabilityai/sd-turbo"


def test_pushing_goes_as_far_as_the_network() -> None:
    # HF_HUB_OFFLINE is set for all tests: the folder is complete, and the first request is what fails.
    with pytest.raises(huggingface_hub.errors.OfflineModeIsEnabled):
        tiny_pipeline().push_to_hub("someone/tiny", token="hf_none")


def put_into_cache(model: Path, cache: Path, name: str, revision: str) -> None:
    """Lay ``model`` down as the Hub's client does after a download."""
    commit = hashlib.sha1(revision.encode()).hexdigest()
    folder = cache / f"models--{name.replace('/', '--')}"
    shutil.copytree(model, folder / "snapshots" / commit)
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / revision).write_text(commit)


def test_a_model_comes_from_the_hub_by_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipes = {revision: tiny_pipeline(seed) for seed, revision in enumerate(("main", "v2"))}
    for revision, pipe in pipes.items():
        pipe.save_for_hub(tmp_path / revision, "someone/tiny")
        put_into_cache(tmp_path / revision, tmp_path / "cache", "someone/tiny", revision)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    for revision, pipe in pipes.items():
        loaded = IDaSSRPipeline.from_pretrained("someone/tiny", revision=revision)
        assert torch.equal(loaded(CAT, output_type="pt").images, pipe(CAT, output_type="pt").images)
    assert fingerprint(find_model("someone/tiny")) == fingerprint(tmp_path / "main")
    with pytest.raises(ValueError, match="nor to be had from the Hub"):
        IDaSSRPipeline.from_pretrained("someone/tiny", revision="v3")


def test_the_script_writes_the_folder_without_the_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_pipeline().save_pretrained(tmp_path / "model")
    (tmp_path / "scores.json").write_text(json.dumps(SCORES))
    main = runpy.run_path(str(ROOT / "scripts" / "push_to_hub.py"), run_name="loaded")["main"]
    options = ["someone/tiny", "--results", f"RealSR={tmp_path / 'scores.json'}", "--folder", str(tmp_path / "out")]
    assert main([str(tmp_path / "model"), *options]) == 0
    assert (tmp_path / "out" / hub.ENTRY).is_file() and "nothing was sent" in capsys.readouterr().out
    assert ModelCard.load(tmp_path / "out" / "README.md").data.eval_results[0].metric_value == 26.4512
    with pytest.raises(SystemExit, match="names no licence"):
        main([str(tmp_path / "model"), "someone/tiny", "--license", "", "--folder", str(tmp_path / "other")])
    assert not (tmp_path / "other").exists()
