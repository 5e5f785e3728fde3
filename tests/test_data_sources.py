"""Folders, lists, pairs and shards give the same kind of entries; what is wrong with them is found before training."""

import runpy
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from contract import load_script
from PIL import Image

from idas_sr.build import build_photographs, list_training_entries
from idas_sr.config import Config, ConfigError, load_config
from idas_sr.data.check import check_entries
from idas_sr.data.degradation import Degradation
from idas_sr.data.entries import Entry
from idas_sr.data.pack import encoded, pack, sides
from idas_sr.data.photographs import Collate, Photographs, StepSampler
from idas_sr.data.shards import write_index, write_shards
from idas_sr.data.sources import in_split, list_entries
from idas_sr.training.run import CONFIGS

ROOT = Path(__file__).parents[1]
prepare = load_script("prepare_data").main
NAMES = ("astronaut", "chelsea", "coffee", "rocket")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    for name in NAMES:
        Image.fromarray(getattr(skimage.data, name)()).save(folder / f"{name}.v1.png")
    return folder


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    for name in ("astronaut", "coffee"):
        hq = Image.fromarray(getattr(skimage.data, name)()[:256, :320])
        for side, image, extension in (("hq", hq, "png"), ("lq", hq.resize((80, 64), Image.Resampling.BOX), "bmp")):
            (folder / side).mkdir(exist_ok=True)
            image.save(folder / side / f"{name}.{extension}")
    return folder


def configuration(*overrides: str) -> Config:
    return load_config(CONFIGS / "base.yaml", overrides=["train.run_dir=unused", "data.crop=64", *overrides])


def names_of(entries: list[Entry]) -> list[str]:
    return [entry.hq.name for entry in entries]


@pytest.fixture
def manifest(photographs: Path, tmp_path: Path) -> Path:
    """The photographs with a manifest of three of them, each under another licence."""
    for path in photographs.glob("*.png"):
        (tmp_path / path.name).symlink_to(path)
    rows = ("file\tauthor\tlicence", "astronaut.v1.png\tNASA\tPublic Domain", "coffee.v1.png\tR\tCC BY 4.0")
    (tmp_path / "MANIFEST.tsv").write_text("\n".join((*rows, "rocket.v1.png\tS\tCC BY-SA 4.0", "")))
    return tmp_path


def of_licences(root: Path, *licences: str) -> list[str]:
    sources = f"data.sources={{all: {{manifest: MANIFEST.tsv, licences: [{', '.join(licences)}]}}}}"
    return names_of(list_training_entries(configuration(f"data.root={root}", "data.split=all", sources).data))


def test_licences_choose_pictures(manifest: Path) -> None:
    """By licence, whatever its version; what the manifest does not name is under none."""
    assert of_licences(manifest, "CC BY") == ["coffee.v1.png"]
    assert of_licences(manifest, "cc by 2.0", "Public Domain") == ["astronaut.v1.png", "coffee.v1.png"]
    with pytest.raises(ConfigError, match="has one of manifest and licences"):
        of_licences(manifest)
    with pytest.raises(ValueError, match=r"has no picture under 'cc0'; it has cc by, cc by-sa, public domain\.$"):
        of_licences(manifest, "CC BY", "CC0")


def test_unfit_manifest_is_refused(manifest: Path) -> None:
    (manifest / "MANIFEST.tsv").write_text("gone.png\tCC BY\n")
    with pytest.raises(ValueError, match="is no table with tabs and the columns file and licence"):
        of_licences(manifest, "CC BY")
    (manifest / "MANIFEST.tsv").write_text("file\tlicence\ngone.png\tCC BY\n")
    with pytest.raises(FileNotFoundError, match="names none of the 4 pictures"):
        of_licences(manifest, "CC BY")
    (manifest / "MANIFEST.tsv").unlink()
    with pytest.raises(FileNotFoundError, match=r"MANIFEST\.tsv does not exist"):
        of_licences(manifest, "CC BY")


def test_list_names_what_a_folder_holds(photographs: Path, tmp_path: Path) -> None:
    (photographs / "list.txt").write_text("# two\ncoffee.v1.png\n\nastronaut.v1.png\n")
    assert names_of(list_entries(photographs / "list.txt")) == ["coffee.v1.png", "astronaut.v1.png"]
    (tmp_path / "list.txt").write_text("gone.png\n")
    with pytest.raises(FileNotFoundError, match=r"Line 1 of .*list.txt names .*gone.png, which does not exist"):
        list_entries(tmp_path / "list.txt")


def test_shards_hold_the_folders_stream(photographs: Path, tmp_path: Path) -> None:
    folder = list_entries(photographs)
    shards = list(write_shards(folder, tmp_path / "shards", shard_bytes=600_000))
    assert len(shards) > 1
    entries = list_entries(tmp_path / "shards")
    # The names decide about the split.
    assert names_of(entries) == names_of(folder)
    plain, packed = (Photographs(e, 64, seed=3) for e in (folder, entries))
    for index in (0, 7, 11):
        assert torch.equal(plain[index].hq, packed[index].hq)
    # In WebDataset's layout: the key ends at the first dot.
    with tarfile.open(shards[0]) as tar:
        assert all(name.count(".") == 1 for name in tar.getnames())
    with pytest.raises(FileExistsError, match="is not empty"):
        list(write_shards(folder, tmp_path / "shards"))


def test_position_in_shards_is_the_step(photographs: Path, tmp_path: Path) -> None:
    list(write_shards(list_entries(photographs), tmp_path / "shards"))
    whole, resumed = (Photographs(list_entries(tmp_path / "shards"), 32) for _ in range(2))
    first = [[whole[i].hq for i in indices] for indices in StepSampler(0, 4, 2)][3]
    again = [[resumed[i].hq for i in indices] for indices in StepSampler(3, 4, 2)][-1]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize(
    ("damage", "error", "says"),
    [
        ("missing", FileNotFoundError, r"00000.tar is missing"),
        ("changed", ValueError, r"00000.tar is not the one that was indexed"),
        ("index", ValueError, r"index.json cannot be read"),
    ],
)
def test_damaged_shards(photographs: Path, tmp_path: Path, damage: str, error: type[Exception], says: str) -> None:
    folder = tmp_path / "shards"
    (tar,) = write_shards(list_entries(photographs), folder)
    if damage == "missing":
        tar.unlink()
    elif damage == "changed":
        tar.write_bytes(tar.read_bytes()[:-512])
    else:
        (folder / "index.json").write_text("{")
    with pytest.raises(error, match=says) as caught:
        list_entries(folder)
    assert "\n" not in str(caught.value)


def test_tar_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "00000.tar").write_bytes(b"no tar, but long enough to look like one" * 40)
    with pytest.raises(ValueError, match=r"00000.tar cannot be read as a tar"):
        write_index(tmp_path)


def test_unreadable_picture_in_a_shard_is_named(photographs: Path, tmp_path: Path) -> None:
    (tmp_path / "torn").mkdir()
    content = (photographs / "coffee.v1.png").read_bytes()
    (tmp_path / "torn" / "torn.png").write_bytes(content[:3000])
    list(write_shards(list_entries(tmp_path / "torn"), tmp_path / "shards"))
    with pytest.raises(ValueError, match=r"torn.png in .*00000.tar cannot be read as a picture"):
        _ = Photographs(list_entries(tmp_path / "shards"), 32)[0]


@pytest.mark.parametrize("is_sharded", [False, True])
def test_pairs_are_cropped_together(pairs: Path, tmp_path: Path, is_sharded: bool) -> None:
    entries = list_entries(pairs / "hq", lq=pairs / "lq")
    if is_sharded:
        list(write_shards(entries, tmp_path / "shards"))
        entries = list_entries(tmp_path / "shards")
    stream = Photographs(entries, crop=64, seed=1, rescale_min=0.5, rescale_prob=1.0)
    batch = Collate(Degradation("bicubic"))([stream[index] for index in range(6)])
    assert batch["hq"].shape == (6, 3, 64, 64) and batch["lq"].shape == (6, 3, 16, 16)
    # The low-quality pictures were made by averaging, so crops that belong together average alike.
    means = torch.nn.functional.avg_pool2d(batch["hq"], 4)
    assert float((means - batch["lq"]).abs().max()) < 0.01


def test_pairs_and_photographs_mix(pairs: Path, photographs: Path) -> None:
    entries = [list_entries(pairs / "hq", lq=pairs / "lq")[0], list_entries(photographs)[0]]
    stream = Photographs(entries, crop=64)
    samples = [stream[index] for index in range(8)]
    assert 0 < sum(sample.lq is not None for sample in samples) < 8
    lq = Collate(Degradation("bicubic"))(samples)["lq"]
    for index, sample in enumerate([stream[index] for index in range(8)]):
        if sample.lq is not None:
            assert torch.equal(lq[index], sample.lq)
        else:
            assert float(lq[index].std()) > 0
    with pytest.raises(ValueError, match=r"data.degradation is none"):
        Collate(None)(samples)


def test_pairs_that_do_not_belong_together(pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"astronaut.png has no counterpart astronaut"):
        list_entries(pairs / "hq", lq=tmp_path)
    Image.fromarray(skimage.data.astronaut()[:64, :64]).save(tmp_path / "astronaut.png")
    Image.fromarray(skimage.data.coffee()[:64, :80]).save(tmp_path / "coffee.png")
    stream = Photographs(list_entries(pairs / "hq", lq=tmp_path)[:1], 32)
    with pytest.raises(ValueError, match=r"320x256 pixels and .* 64x64; the first must be 4 times"):
        _ = stream[0]


def test_sources_add_up(photographs: Path, pairs: Path, tmp_path: Path) -> None:
    for name, target in (("a", photographs), ("b", pairs)):
        (tmp_path / name).symlink_to(target)
    sources = "data.sources={one: {path: a, take: 2, expected: 2}, two: {path: b/hq, lq: b/lq}}"
    entries = list_training_entries(configuration(f"data.root={tmp_path}", sources, "data.split=all").data)
    assert names_of(entries) == ["astronaut.v1.png", "chelsea.v1.png", "astronaut.png", "coffee.png"]
    stream, collate = build_photographs(configuration(f"data.root={tmp_path}", sources, "data.split=all"))
    assert collate([stream[0], stream[1]])["lq"].shape == (2, 3, 16, 16)
    wrong = sources.replace("expected: 2", "expected: 3")
    with pytest.raises(ValueError, match=r"holds 2 pictures where 3 are expected"):
        list_training_entries(configuration(f"data.root={tmp_path}", wrong).data)


def test_free_licences_fit_the_manifest_of_the_photographs(manifest: Path) -> None:
    """`configs/data/cc0-by.yaml` leaves CC BY-SA out, and keeps what asks for a name at most."""
    rows = ("astronaut.v1.png\tCC0 1.0", "chelsea.v1.png\tCC0/public domain (Unsplash before 2017-06-08)")
    rows += ("coffee.v1.png\tCC BY 2.5", "rocket.v1.png\tCC BY-SA 3.0", "gone.png\tPublic Domain")
    (manifest / "MANIFEST.tsv").write_text("\n".join(("file\tlicence", *rows)))
    overrides = ["train.run_dir=unused", f"data.root={manifest}", "data.split=all"]
    config = load_config(CONFIGS / "base.yaml", CONFIGS / "data" / "cc0-by.yaml", overrides=overrides)
    assert names_of(list_training_entries(config.data)) == ["astronaut.v1.png", "chelsea.v1.png", "coffee.v1.png"]


def test_mix_of_the_paper_merges() -> None:
    overrides = ["train.run_dir=unused", "data.root=datasets"]
    config = load_config(CONFIGS / "base.yaml", CONFIGS / "data" / "paper.yaml", overrides=overrides)
    counts = {name: source.expected for name, source in config.data.sources.items()}
    assert counts == {"LSDIR": 84991, "FFHQ": 10000, "Flickr2K": 2650, "DIV2K": 800}
    assert config.data.sources["FFHQ"].take == 10000
    with pytest.raises(FileNotFoundError, match=r"datasets/LSDIR/train does not exist"):
        list_training_entries(config.data)


# ---- prepare_data.py ----


@pytest.fixture
def flawed(photographs: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "flawed"
    folder.mkdir()
    coffee = skimage.data.coffee()
    Image.fromarray(coffee).save(folder / "coffee.png")
    # Other bytes, same pixels.
    Image.fromarray(coffee).save(folder / "copy.bmp")
    Image.fromarray(coffee[:40]).save(folder / "small.png")
    (folder / "torn.png").write_bytes((folder / "coffee.png").read_bytes()[:1000])
    (folder / "empty.jpg").touch()
    return folder


def test_check_finds_each_flaw(flawed: Path, photographs: Path) -> None:
    found = {Path(f.name).name: f.kind for f in check_entries(list_entries(flawed), crop=64)}
    assert found == {
        "copy.bmp": "duplicate",
        "empty.jpg": "unreadable",
        "small.png": "too small",
        "torn.png": "unreadable",
    }
    assert check_entries(list_entries(photographs), crop=64) == []


def test_check_finds_pairs_of_wrong_size(pairs: Path, tmp_path: Path) -> None:
    for name in ("astronaut", "coffee"):
        Image.fromarray(np.zeros((64, 81, 3), np.uint8)).save(tmp_path / f"{name}.png")
    findings = check_entries(list_entries(pairs / "hq", lq=tmp_path), crop=64)
    assert [finding.kind for finding in findings] == ["mismatched"] * 2


def run_script(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["prepare_data.py", *arguments])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(ROOT / "scripts" / "prepare_data.py"), run_name="__main__")
    return int(caught.value.code or 0)


def test_check_from_the_command_line(flawed: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    settings = (f"data.root={flawed}", "data.crop=64", "data.split=all")
    assert run_script(monkeypatch, "check", *settings, "--jobs=1", f"--report={tmp_path / 'report.tsv'}") == 1
    printed = capsys.readouterr().out
    assert "5 pictures of split all, 4 findings." in printed and "duplicate" in printed
    assert len((tmp_path / "report.tsv").read_text().splitlines()) == 4
    for name in ("copy.bmp", "small.png", "torn.png", "empty.jpg"):
        (flawed / name).unlink()
    assert run_script(monkeypatch, "check", *settings, "--jobs=1") == 0
    assert run_script(monkeypatch, "check", "data.root=nowhere") == 2
    assert capsys.readouterr().err.startswith("prepare_data: The folder of photographs nowhere does not exist")


def test_shard_from_the_command_line(photographs: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    output = tmp_path / "shards"
    assert run_script(monkeypatch, "shard", f"data.root={photographs}", "-o", str(output), "--shard-mb=1") == 0
    assert f"{len(NAMES)} pictures; train with data.root={output}" in capsys.readouterr().out
    (output / "index.json").unlink()
    assert run_script(monkeypatch, "shard", "-o", str(output), "--index-only") == 0
    config = configuration(f"data.root={output}", "data.split=all")
    assert len(in_split(list_entries(output), "all", "")) == len(list_training_entries(config.data)) == len(NAMES)


def test_a_set_is_packed_into_as_many_bytes_as_it_may_have(photographs: Path, tmp_path: Path, capsys) -> None:
    """The training split alone, every picture whole, as large as fits, and read again by a training."""
    kept = names_of(list_training_entries(configuration(f"data.root={photographs}").data))
    words = ["pack", f"data.root={photographs}", "data.crop=64"]
    for mib, side in ((0.12, 320), (9.0, 1536)):
        small = tmp_path / f"small{mib}"
        assert prepare([*words, "-o", str(small), "--mib", str(mib)]) == 0
        said = capsys.readouterr().out
        assert f"{len(kept)} pictures" in said and f"data.root={small} data.split=all" in said
        files = sorted(small.iterdir())
        assert [f.name for f in files] == [f"{Path(name).stem}.webp" for name in kept]
        assert sum(f.stat().st_size for f in files) <= mib * 2**20
        for name, file in zip(kept, files, strict=True):
            before, after = (Image.open(path) for path in (photographs / name, file))
            assert min(after.size) == min(side, *before.size)
            assert after.width / after.height == pytest.approx(before.width / before.height, rel=0.01)
        stream, _ = build_photographs(configuration(f"data.root={small}", "data.split=all"))
        assert stream[0] is not None


def test_a_side_that_a_sample_took_for_small_enough_gives_way(photographs: Path, tmp_path: Path, monkeypatch) -> None:
    """A sample errs: where the last picture no longer fits, all of them are written anew, smaller."""
    entries = list_entries(photographs)[::-1]
    sizes = {side: [len(encoded(entry, side, 90)) for entry in entries] for side in (320, 256)}
    limit = sum(sizes[320]) - 1
    monkeypatch.setattr("idas_sr.data.pack.SAMPLE", 1)
    monkeypatch.setattr("idas_sr.data.pack.SIDES", (320, 256))
    told: list[int] = []
    assert list(sides(entries, limit, 90)) == [320, 256] and list(sides(entries, sum(sizes[256]) // 2, 90)) == []
    assert pack(entries, tmp_path / "small", limit, on_each=told.append) == (256, sum(sizes[256]))
    assert told == [1, 2, 3, 1, 2, 3, 4] and len(list((tmp_path / "small").iterdir())) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["small"]


def test_what_cannot_be_packed_is_refused(photographs: Path, pairs: Path, tmp_path: Path, capsys) -> None:
    words = ["pack", f"data.root={photographs}", "data.split=all", "-o", str(tmp_path / "small")]
    assert prepare([*words, "--mib", "0.01"]) == 2
    assert "4 pictures do not fit into 10486 bytes at a shorter side of 256" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    assert prepare([*words, "--quality", "0"]) == 2 and "1 to 100, not 0" in capsys.readouterr().err
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "mine.txt").touch()
    assert prepare(words) == 2 and "is not empty" in capsys.readouterr().err
    sources = "data.sources={pairs: {path: hq, lq: lq}}"
    words = ["pack", f"data.root={pairs}", "data.split=all", sources, "-o", str(tmp_path / "other")]
    assert prepare(words) == 2 and "A pair cannot be packed" in capsys.readouterr().err
