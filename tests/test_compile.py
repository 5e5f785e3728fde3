"""Networks that torch has compiled make the same pictures, whole or by tiles."""

import shutil
from pathlib import Path

import pytest
import torch
from conftest import tiny_pipeline
from skimage import data

PICTURE = torch.from_numpy(data.chelsea()[60:108, 120:184].transpose(2, 0, 1).copy())[None].float() / 255


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU")
def test_compiled_networks_restore_the_same_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IDAS_SR_CACHE", str(tmp_path))
    # Set first, so that what is set for good while compiling is taken back after this test.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "none")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    pipe = tiny_pipeline()

    def restore(tile: int) -> torch.Tensor:
        return torch.as_tensor(pipe(PICTURE, realism=0.7, tile=tile, output_type="pt").images[0])

    whole, tiled = restore(0), restore(128)
    pipe.compile_networks()
    assert (restore(0) - whole).abs().max() < 1e-4
    assert any((tmp_path / "compiled").rglob("*.py")), "nothing was compiled, or not kept"
    with torch.compiler.set_stance("fail_on_recompile"):
        restore(0)
    assert torch.equal(restore(128), tiled)
