"""Published figures: complete, of one family per table, and equal to what the papers print."""

import pytest

from idas_sr.evaluation.published import FAMILIES, comparison_table, published_benchmarks, published_rows

BENCHMARKS = published_benchmarks()
ALL = [row for name in BENCHMARKS for row in published_rows(name)]


def row_of(benchmark: str, method: str):
    (found,) = [row for row in published_rows(benchmark) if row.method == method]
    return found


def test_benchmarks_are_there() -> None:
    assert {"imagenet-test", "realsr-v3", "realset80", "realsr", "drealsr", "div2k-val"} <= set(BENCHMARKS)
    assert {"realphoto60", "reallr200", "imagenet-test-invsr-timesteps"} <= set(BENCHMARKS)


@pytest.mark.parametrize("row", ALL, ids=lambda row: f"{row.benchmark}-{row.method}")
def test_row_is_complete(row) -> None:
    assert row.family in FAMILIES
    assert len(row.source) > 5 and len(row.protocol) > 20 and row.metrics
    assert all(isinstance(value, float) for value in row.metrics.values())
    assert 10 < row.metrics.get("psnr_y", 20) < 40 and 0 < row.metrics.get("ssim_y", 0.5) < 1


@pytest.mark.parametrize("name", BENCHMARKS)
def test_one_family_and_distinct_methods_per_benchmark(name: str) -> None:
    rows = published_rows(name)
    assert len({row.family for row in rows}) == 1 and {row.benchmark for row in rows} == {name}
    assert len({row.method for row in rows}) == len(rows)


def test_same_name_in_two_families_means_two_test_sets() -> None:
    # OSEDiff on "RealSR": 23.89 dB on full pictures, 25.15 dB on crops.
    assert (row_of("realsr-v3", "OSEDiff-1").family, row_of("realsr", "OSEDiff").family) == ("I", "O")
    assert row_of("realsr-v3", "OSEDiff-1").metrics["psnr_y"] == 23.89
    assert row_of("realsr", "OSEDiff").metrics["psnr_y"] == 25.15


@pytest.mark.parametrize(
    ("benchmark", "method", "figures"),
    [
        ("imagenet-test", "InvSR-1", {"psnr_y": 24.14, "ssim_y": 0.6789, "lpips-unstated": 0.2517, "musiq": 72.29}),
        ("imagenet-test", "InvSR-1, measured by DM-SR", {"maniqa": 0.469, "topiq_nr": 0.630}),
        ("imagenet-test-invsr-timesteps", "InvSR {100}", {"psnr_y": 24.66, "niqe": 4.0606, "clipiqa": 0.6912}),
        ("imagenet-test-invsr-losses", "InvSR-1, L2", {"psnr_y": 26.71, "niqe": 9.28}),
        ("realsr-v3", "DiffBIR-50", {"niqe": 3.7366, "pi": 3.3661}),
        ("realset80", "InvSR-1", {"niqe": 4.0284, "clipiqa": 0.7291}),
        (
            "realsr",
            "OSEDiff",
            {"ssim_y": 0.7341, "lpips": 0.2921, "niqe": 5.648, "maniqa-pipal": 0.6326, "fid": 123.49},
        ),
        ("realsr", "RCOD_S Real", {"psnr_y": 24.08, "niqe": 4.900, "clipiqa": 0.7086}),
        ("realsr", "IDaS-SR", {"musiq": 70.49, "clipiqa": 0.734, "topiq_nr": 0.711, "hyperiqa": 0.680}),
        ("realsr", "CODSR (t=100)", {"clipiqa+_vitL14_512": 0.5768}),
        ("drealsr", "TSD-SR (re-run by TADSR)", {"psnr_y": 26.20, "topiq_nr": 0.6251, "clipiqa": 0.7309}),
        ("drealsr", "TSD-SR (re-run by RCOD)", {"psnr_y": 25.67, "fid": 171.36, "niqe": 5.991}),
        ("div2k-val", "RCOD_O Neu", {"psnr_y": 24.02, "dists": 0.2057, "niqe": 4.78, "musiq": 70.21}),
        ("div2k-val", "RCOD_S Real", {"lpips": 0.3078, "musiq": 70.75}),
        ("realphoto60", "SUPIR", {"niqe": 3.16, "musiq": 70.19, "clipiqa+_vitL14_512": 0.5508}),
        ("realphoto60", "IDaS-SR", {"clipiqa": 0.796, "tres": 85.29}),
        ("reallr200", "TADSR", {"clipiqa": 0.7741, "qalign": 4.262}),
    ],
)
def test_figures(benchmark: str, method: str, figures: dict[str, float]) -> None:
    metrics = row_of(benchmark, method).metrics
    assert {name: metrics.get(name) for name in figures} == figures


def test_absent_columns_are_absent() -> None:
    assert "clipiqa" not in row_of("realsr", "CODSR (t=100)").metrics  # another network, another column
    assert "musiq" not in row_of("div2k-val", "RCOD_S Fid").metrics
    assert "topiq_nr" not in row_of("drealsr", "TSD-SR (re-run by RCOD)").metrics


def test_rows_known_to_be_wrong_say_why() -> None:
    wrong = {(row.benchmark, row.method) for row in ALL if row.known_wrong}
    assert wrong == {
        ("drealsr", "InvSR (run by RCOD)"),
        ("imagenet-test-invsr-timesteps", "InvSR {250}"),
        ("imagenet-test-invsr-timesteps", "InvSR {150, 100, 50}"),
    }
    assert "SinSR" in (row_of("drealsr", "InvSR (run by RCOD)").known_wrong or "")


def test_what_a_user_rebuilt_has_no_published_rows() -> None:
    assert published_rows("imagenet-test-rebuilt") == []
    with pytest.raises(ValueError, match="Nothing published is stored for 'nowhere'"):
        published_rows("nowhere")


def test_table_says_what_each_row_is() -> None:
    table = comparison_table(
        {"compact r=0": {"psnr_y": 26.361, "niqe": 6.3594, "sqdist": None}},
        published_rows("drealsr"),
        {"bicubic": {"psnr_y": 27.11, "niqe": 8.99}},
    )
    lines = table.splitlines()
    assert [cell.strip() for cell in lines[0].split("|")[3:-1]] == ["psnr_y", "niqe"]
    assert len({len(line) for line in lines[: 2 + 1 + 23 + 1]}) == 1  # aligned
    kinds = [line.split("|")[1].strip() for line in lines[2:] if line.startswith("|")]
    assert kinds.count("trivial") == 1 and kinds.count("published") == 22
    assert kinds.count("published, WRONG") == 1 and kinds[-1] == "**ours**"
    assert "  26.36 |" in table and " 6.359 |" in table
    assert "family O" in table and "KNOWN TO BE WRONG" in table and "OSEDiff (NeurIPS 2024" in table


def test_table_without_our_rows_shows_published_columns() -> None:
    assert "lpips-unstated" in comparison_table({}, published_rows("realsr-v3"))


def test_families_and_benchmarks_do_not_mix() -> None:
    with pytest.raises(ValueError, match="families I and O"):
        comparison_table({}, [*published_rows("realsr-v3"), *published_rows("realsr")])
    with pytest.raises(ValueError, match="benchmarks drealsr and realsr"):
        comparison_table({}, [*published_rows("drealsr"), *published_rows("realsr")])
