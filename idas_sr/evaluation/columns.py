"""The columns of the protocol: what each needs, which file it reads, and how it is computed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch
from huggingface_hub import try_to_load_from_cache
from torch import Tensor

from idas_sr import metrics
from idas_sr.losses import FeatureDistance

Measure = Callable[[Tensor, Tensor | None, Tensor | None], Tensor]
"""(picture, reference, input), each (1, 3, ., .) float64 in [0, 1] or None -> (1,); NaN where it is too small."""

NIQE_MODEL = Path(metrics.__file__).parent / "evaluation" / "niqe_pris_params.npz"
SQUEEZENET_LEAST = 31  # pixels: the first convolution and three poolings leave nothing of fewer
PYIQA = "the package pyiqa is not installed (pip install -e '.[iqa]'; its licence is non-commercial)"


class MissingMetricError(ValueError):
    """A column was asked for whose package or weights are not here; the message says which file and where to put it."""


@dataclass(frozen=True)
class Weights:
    """A file that a column reads: below torch's hub folder, or the weights of a repository in the Hub's cache."""

    name: str
    is_hub_repository: bool = False

    def find(self) -> Path | None:
        """The file, where it is here."""
        if not self.is_hub_repository:
            path = Path(torch.hub.get_dir()) / self.name
            return path if path.is_file() else None
        for file in ("model.safetensors", "pytorch_model.bin"):
            if isinstance(found := try_to_load_from_cache(self.name, file), str):
                return Path(found)
        return None

    def missing(self) -> str:
        """What to do about it, for the middle of a sentence."""
        if self.is_hub_repository:
            return f"the Hub's repository {self.name} is not in the cache (huggingface-cli download {self.name})"
        folder = (Path(torch.hub.get_dir()) / self.name).parent
        return f"put {Path(self.name).name} into {folder}"


@dataclass(frozen=True)
class Column:
    """One column. ``needs`` names what it compares with: reference, input or nothing; ``pyiqa`` its name there."""

    name: str
    needs: str = ""
    weights: tuple[Weights, ...] = ()
    pyiqa: str | None = None
    per_picture: bool = True
    digits: int = 4


def _hub(*names: str) -> tuple[Weights, ...]:
    return tuple(Weights(name) for name in names)


_RESNET50, _VIT = (
    Weights("timm/resnet50.a1_in1k", True),
    Weights("timm/vit_base_patch8_224.augreg2_in21k_ft_in1k", True),
)

COLUMNS = {
    column.name: column
    for column in (
        Column("psnr_y", "reference"),
        Column("ssim_y", "reference"),
        Column("psnr_y_border4", "reference"),
        Column("ssim_y_border4", "reference"),
        Column("lr_psnr", "input"),
        Column("sqdist", "reference"),
        Column("lpips", "reference", _hub("checkpoints/alexnet-owt-7be5be79.pth")),
        Column("dists", "reference", _hub("checkpoints/vgg16-397923af.pth")),
        Column("niqe", digits=3),
        Column("musiq", "", _hub("pyiqa/musiq_koniq_ckpt-e95806b9.pth"), "musiq", digits=2),
        Column("maniqa", "", (_VIT, *_hub("pyiqa/ckpt_koniq10k.pt")), "maniqa"),
        Column("maniqa-pipal", "", (_VIT, *_hub("pyiqa/MANIQA_PIPAL-ae6d356b.pth")), "maniqa-pipal"),
        Column("clipiqa", "", _hub("clip/RN50.pt"), "clipiqa"),
        Column("topiq_nr", "", (_RESNET50, *_hub("pyiqa/cfanet_nr_koniq_res50-9a73138b.pth")), "topiq_nr"),
        Column("hyperiqa", "", (_RESNET50, *_hub("pyiqa/HyperIQA-resnet50-koniq10k-c96c41b1.pth")), "hyperiqa"),
        Column(
            "tres", "", _hub("checkpoints/resnet50-0676ba61.pth", "pyiqa/tres_koniq-f0502926.pth"), "tres", digits=2
        ),
        Column("pi", "", _hub("pyiqa/NRQM_model.mat", "pyiqa/niqe_modelparameters.mat"), "pi"),
        Column("liqe", "", _hub("clip/ViT-B-32.pt", "pyiqa/liqe_koniq.pt"), "liqe"),
        Column("fid", "reference", _hub("pyiqa/pt_inception-2015-12-05-6726825d.pth"), "fid", False, digits=2),
    )
}
"""In the order of the tables. Weights lie below torch's hub folder, where lpips, torchmetrics and pyiqa look."""

FID_LEAST = 1000
"""Pictures under which FID is mostly bias (peers.md, section 5c)."""


@dataclass(frozen=True)
class Chosen:
    """What a run measures.

    Attributes:
        measures: column -> how it is computed, per picture.
        is_fid: whether FID over the whole folder is wanted.
        notes: one sentence per reason why a column is left out.
        weights: column -> files that it reads.
    """

    measures: dict[str, Measure]
    is_fid: bool
    notes: list[str]
    weights: dict[str, list[Path]]


def choose_columns(
    has_reference: bool,
    has_input: bool,
    squeezenet: Path | None = None,
    names: Iterable[str] | None = None,
    device: str | torch.device = "cpu",
) -> Chosen:
    """Columns that can be measured here: those of ``names``, or without them all whose files are here.

    Nothing is ever downloaded.

    Args:
        has_reference, has_input: whether there is a folder of references, and of low-quality inputs.
        squeezenet: file of SqueezeNet 1.0 weights, for sqdist.
        device: of the learned columns; the others are computed on the CPU.

    Raises:
        MissingMetricError: a column of ``names`` cannot be measured here.
        ValueError: there is no such column, or ``squeezenet`` is no file.
    """
    if squeezenet is not None and not squeezenet.is_file():
        raise ValueError(f"{squeezenet} is no file; --squeezenet needs the state dict of SqueezeNet 1.0.")
    asked = None if names is None else list(names)
    if unknown := sorted(set(asked or ()) - set(COLUMNS)):
        raise ValueError(f"There is no column {unknown[0]!r}; choose from {', '.join(COLUMNS)}.")
    reasons: dict[str, list[str]] = {}
    present: list[Column] = []
    for column in COLUMNS.values():
        if asked is not None and column.name not in asked:
            continue
        if reason := _why_not(column, has_reference, has_input, squeezenet):
            reasons.setdefault(reason, []).append(column.name)
        else:
            present.append(column)
    if asked is not None and reasons:
        raise MissingMetricError(
            " ".join(f"{', '.join(left)} cannot be measured: {why}." for why, left in reasons.items())
        )
    notes = [f"{', '.join(left)} {'is' if len(left) == 1 else 'are'} left out: {why}." for why, left in reasons.items()]
    measures = {c.name: _build(c, squeezenet, torch.device(device)) for c in present if c.per_picture}
    return Chosen(
        measures, any(c.name == "fid" for c in present), notes, {c.name: _files(c, squeezenet) for c in present}
    )


def _why_not(column: Column, has_reference: bool, has_input: bool, squeezenet: Path | None) -> str | None:
    if column.needs == "reference" and not has_reference:
        return "no reference was given"
    if column.needs == "input" and not has_input:
        return "no folder of inputs was given"
    if column.name == "sqdist" and squeezenet is None:
        return "no file of SqueezeNet 1.0 weights was given (--squeezenet FILE, squeezenet=FILE)"
    if column.pyiqa is not None and find_spec("pyiqa") is None:
        return PYIQA
    missing = [weights.missing() for weights in column.weights if weights.find() is None]
    return f"weights are not here: {' and '.join(missing)}" if missing else None


def _files(column: Column, squeezenet: Path | None) -> list[Path]:
    if column.name == "niqe":
        return [NIQE_MODEL]
    if column.name == "sqdist":
        return [squeezenet] if squeezenet else []
    return [path for weights in column.weights if (path := weights.find()) is not None]


def _build(column: Column, squeezenet: Path | None, device: torch.device) -> Measure:
    plain: dict[str, Measure] = {
        "psnr_y": _with_reference(metrics.psnr_y),
        "ssim_y": _with_reference(metrics.ssim_y),
        "psnr_y_border4": _with_reference(partial(metrics.psnr_y, border=4)),
        "ssim_y_border4": _with_reference(partial(metrics.ssim_y, border=4)),
        "lr_psnr": _lr_psnr,
        "niqe": lambda image, reference, lq: metrics.niqe(image),
    }
    if column.name in plain:
        return plain[column.name]
    if column.name == "sqdist":
        return _sqdist(FeatureDistance.yardstick(squeezenet).to(device))
    if column.name == "lpips":
        return _lpips(device)
    if column.name == "dists":
        return _dists(device)
    assert column.pyiqa is not None
    return _from_pyiqa(column.pyiqa, device)


def _with_reference(metric: Callable[[Tensor, Tensor], Tensor]) -> Measure:
    def measure(image: Tensor, reference: Tensor | None, lq: Tensor | None) -> Tensor:
        assert reference is not None
        return metric(image, reference)

    return measure


def _lr_psnr(image: Tensor, reference: Tensor | None, lq: Tensor | None) -> Tensor:
    assert lq is not None
    return metrics.lr_psnr_y(image, lq)


@torch.no_grad()
def _run(network: Callable[..., Tensor], device: torch.device, *images: Tensor) -> Tensor:
    """(1,) on the CPU of a network on float32 pictures, without autocast."""
    with torch.autocast(device.type, enabled=False):
        return network(*(image.float().to(device) for image in images)).reshape(1).double().cpu()


def _sqdist(distance: FeatureDistance) -> Measure:
    def measure(image: Tensor, reference: Tensor | None, lq: Tensor | None) -> Tensor:
        if min(image.shape[-2:]) < SQUEEZENET_LEAST:
            return torch.full((1,), torch.nan)
        assert reference is not None
        return _run(distance, distance.mean.device, image.float() * 2 - 1, reference.float() * 2 - 1)

    return measure


def _lpips(device: torch.device) -> Measure:
    import lpips

    network = lpips.LPIPS(net="alex", verbose=False).eval().to(device)

    def measure(image: Tensor, reference: Tensor | None, lq: Tensor | None) -> Tensor:
        # AlexNet's convolutions and poolings leave nothing of fewer pixels.
        if min(image.shape[-2:]) < 63:
            return torch.full((1,), torch.nan)
        assert reference is not None
        return _run(network, device, image * 2 - 1, reference * 2 - 1)

    return measure


def _dists(device: torch.device) -> Measure:
    from torchmetrics.functional.image.dists import DISTSNetwork

    network = DISTSNetwork().eval().to(device)

    def measure(image: Tensor, reference: Tensor | None, lq: Tensor | None) -> Tensor:
        if min(image.shape[-2:]) < 16:
            return torch.full((1,), torch.nan)
        assert reference is not None
        return _run(network, device, image, reference)

    return measure


def _from_pyiqa(name: str, device: torch.device) -> Measure:
    import pyiqa

    network = pyiqa.create_metric(name, device=device)
    # Some of its networks draw crops from the global generator.
    lock = threading.Lock()

    def measure(image: Tensor, reference: Tensor | None, lq: Tensor | None) -> Tensor:
        with lock, torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return _run(network, device, image)

    return measure


def fid(restored: Path, reference: Path, device: str | torch.device = "cpu") -> float:
    """FID (mode clean) between two folders, by pyiqa."""
    import pyiqa

    return float(pyiqa.create_metric("fid", device=torch.device(device))(str(reference), str(restored)))
