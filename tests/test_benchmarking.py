"""The benchmark's figures are what they say."""

import json
import runpy
from pathlib import Path

import pytest
import torch
from conftest import tiny_pipeline

from idas_sr.benchmarking.machine import measured_peak
from idas_sr.benchmarking.parts import parts_of
from idas_sr.benchmarking.report import to_markdown
from idas_sr.benchmarking.rivals import PlainPipeline, agreement, same_weights
from idas_sr.benchmarking.run import Benchmark, Options, picture
from idas_sr.benchmarking.timing import count_flops, in_turn, percentile, ratio, summary
from idas_sr.pipeline import IDaSSRPipeline

SCRIPT = Path(__file__).parents[1] / "scripts" / "benchmark.py"
CPU = torch.device("cpu")


def test_runs_take_turns() -> None:
    order: list[str] = []
    seconds = in_turn({name: lambda name=name: order.append(name) for name in "ab"}, 3, 2, CPU)
    assert order == ["a", "b"] * 5
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3}


def test_statistics() -> None:
    assert percentile([float(i) for i in range(1, 101)], 0.95) == 95
    assert percentile([7.0], 0.95) == 7
    assert ratio([2, 9, 4], [1, 1, 1]) == 4
    row = summary([0.1, 0.2, 0.3], flops=10**9, peak=50e9)
    assert row["median_ms"] == pytest.approx(200) and row["gflops"] == pytest.approx(5)
    assert row["share_of_peak"] == pytest.approx(0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_operations_are_counted_twice_per_multiply_add(dtype: torch.dtype) -> None:
    layer = torch.nn.Conv2d(3, 5, 3, padding=1).to(dtype)
    x = torch.zeros(2, 3, 7, 9, dtype=dtype)
    assert count_flops(lambda: layer(x)) == 2 * 2 * 5 * 3 * 9 * 7 * 9
    assert measured_peak(CPU, dtype, side=64, seconds=0) > 0


def test_parts_are_the_whole() -> None:
    pipe = tiny_pipeline()
    lq = picture(24)
    whole = count_flops(lambda: pipe.restorer.restore(lq * 2 - 1, 0.5, [42]))
    assert sum(count_flops(run) for run in parts_of(pipe.restorer, lq).values()) == whole > 0


def test_the_plain_pipeline_is_the_same_restoration() -> None:
    pipe = IDaSSRPipeline.from_random("tiny-sd-turbo")
    other, half = (same_weights(pipe, "tiny-sd-turbo", dtype) for dtype in (torch.float32, torch.bfloat16))
    lq = picture(32)
    reference = PlainPipeline(pipe)(lq, 0.5, 3)
    decibel, cosine = agreement(other.restorer, lq, reference, 0.5, 3)
    assert decibel > 90 and cosine > 0.9999999
    decibel, cosine = agreement(half.restorer, lq, reference, 0.5, 3)
    assert 35 < decibel < 90 and cosine > 0.999
    assert agreement(other.restorer, lq, reference, 0.5, 4)[0] < 80
    with pytest.raises(ValueError, match="sd-turbo's networks"):
        PlainPipeline(tiny_pipeline())


def test_script_writes_json_and_a_table(tmp_path: Path) -> None:
    main = runpy.run_path(str(SCRIPT), run_name="loaded")["main"]
    arguments = ["--model", "tiny-sd-turbo", "--random-weights", "--against", "diffusers", "--sizes", "16", "--rounds"]
    arguments += ["2", "--warm-up", "0", "--no-memory"]
    assert main([*arguments, "--json", str(tmp_path / "s.json"), "--markdown", str(tmp_path / "s.md")]) == 0
    result = json.loads((tmp_path / "s.json").read_text())
    assert result["environment"]["torch"] == torch.__version__
    assert set(result["sizes"][0]["parts"]) >= {"encode", "MINE", "UNet", "decode", "read PNG", "write PNG"}
    assert to_markdown(result) == (tmp_path / "s.md").read_text()
    assert "| **idas-sr** | bf16 |" in to_markdown(result)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"against": ("esrgan",)}, "nothing called 'esrgan'"),
        ({"against": ("diffusers",)}, "--random-weights"),
        ({"precision": "int8"}, "precision"),
        ({"rounds": 0}, "at least 1"),
    ],
)
def test_mistakes_are_one_sentence(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Options(**options)


@pytest.mark.long
@pytest.mark.slow
def test_rivals_and_memory() -> None:
    pytest.importorskip("spandrel")
    options = Options("tiny", True, (32,), ("srvgg", "rrdbnet"), rounds=1, warm_up=0, parts=False)
    size = Benchmark(options).run()["sizes"][0]
    assert set(size["whole"]) == set(size["peak_memory_mib"]) == {"idas-sr", "srvgg", "rrdbnet"}
    assert size["whole"]["rrdbnet"]["gflop"] > 10 * size["whole"]["srvgg"]["gflop"]
