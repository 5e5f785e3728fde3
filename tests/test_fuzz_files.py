"""A thousand damaged picture files through ``infer``, in one process: each is restored or named with a reason."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import tiny_pipeline
from odd_files import COLOUR, GREY, LONG_NAME, ODD_FILES, camera_exif
from PIL import Image

REPOSITORY = Path(__file__).parents[1]
FILES = 1000
SECONDS = 900
KILOBYTES = 3 * 2**20
"""Peak of the whole process, networks and libraries included."""

EXTREMES = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]


def sound_files(folder: Path) -> dict[str, bytes]:
    """One file of every kind: the odd ones, and the formats that they leave out."""
    found = {}
    for name, odd in ODD_FILES.items():
        if (name != LONG_NAME and not name.startswith("turned")) or name == "turned 6.jpg":
            odd.make(folder / name)
            found[name] = (folder / name).read_bytes()
    others = {"p.ppm": {}, "b.bmp": {}, "a.avif": {"exif": camera_exif(6)}, "l.tiff": {"compression": "tiff_lzw"}}
    others |= {"w.webp": {"exif": camera_exif(3)}, "i.jpg": {"progressive": True}, "j.tif": {"compression": "jpeg"}}
    others |= {
        "c.png": {"save_all": True, "append_images": [COLOUR.rotate(4)]},
        "d.tiff": {"compression": "tiff_deflate"},
    }
    for name, options in others.items():
        buffer = io.BytesIO()
        picture = GREY if name.startswith("i") else COLOUR
        picture.save(buffer, {".jpg": "JPEG", ".tif": "TIFF"}.get(name[1:], name[2:].upper()), **options)
        found[name] = buffer.getvalue()
    return found


def mutate(content: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """One to three kinds of damage."""
    data = bytearray(content)
    for kind in rng.choice(7, size=rng.integers(1, 4)):
        place, length = int(rng.integers(len(data))), int(rng.integers(1, 2 + len(data) // 4))
        if kind == 0:
            for at in rng.integers(len(data), size=rng.integers(1, 40)):
                data[at] = rng.integers(256)
        elif kind == 1:
            del data[max(place, 1) :]
        elif kind == 2:
            data[place : place + length] = rng.bytes(length)
        elif kind == 3:
            data[place:place] = data[place : place + length]
        elif kind == 4:
            data[place : place + length] = bytes(length)
        elif kind == 5:
            # A length, an offset or a side of the picture, most of which stand near the beginning.
            place = int(rng.integers(min(len(data), 120)))
            value, width = int(rng.choice(EXTREMES)), int(rng.choice([1, 2, 4]))
            data[place : place + width] = (value % 256**width).to_bytes(width, str(rng.choice(["big", "little"])))
        else:
            data[place:] = other[int(rng.integers(len(other))) :]
        data = data or bytearray(b"\0")
    return bytes(data)


@pytest.mark.long
@pytest.mark.slow
def test_a_thousand_damaged_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    for name in ("sound", "in"):
        (tmp_path / name).mkdir()
    sound = sound_files(tmp_path / "sound")
    names = list(sound)
    for index in range(FILES):
        name, other = names[index % len(names)], names[int(rng.integers(len(names)))]
        path = tmp_path / "in" / f"{index:04d}{Path(name).suffix}"
        path.write_bytes(mutate(sound[name], sound[other], rng))
    tiny_pipeline().save_pretrained(tmp_path / "model")
    code = (
        "import resource, sys; from idas_sr.cli import main; code = main(sys.argv[1:]);"
        "print('peak', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss); sys.exit(code)"
    )
    summary = tmp_path / "summary.json"
    options = ["-i", tmp_path / "in", "-o", tmp_path / "out", "--model", tmp_path / "model", "--summary", summary]
    done = subprocess.run(
        [sys.executable, "-c", code, "infer", *map(str, options)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 1, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    assert int(done.stdout.split("peak")[1]) < KILOBYTES
    outcomes = json.loads(summary.read_text())["outcomes"]
    assert sorted(Path(o["input"]).name for o in outcomes) == sorted(p.name for p in (tmp_path / "in").iterdir())
    for outcome in outcomes:
        if outcome["status"] == "restored":
            with Image.open(outcome["output"]) as image:
                image.load()
                assert list(image.size) == list(outcome["size"])
        else:
            assert outcome["status"] == "failed" and Path(outcome["input"]).name in outcome["reason"]
            assert "\n" not in outcome["reason"] and len(outcome["reason"]) < 500
    restored = sum(o["status"] == "restored" for o in outcomes)
    # Damage of every degree: neither all sound nor all hopeless.
    assert FILES // 10 < restored < FILES * 9 // 10
    print(f"{restored} restored, {FILES - restored} refused")
