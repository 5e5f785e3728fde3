"""IDaSSRPipeline: pictures in, pictures out, saved and loaded as diffusers does."""

from __future__ import annotations

import gc
import itertools
import json
import logging
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    DiffusionPipeline,
    EulerDiscreteScheduler,
    ModelMixin,
    UNet2DConditionModel,
)
from diffusers.utils import BaseOutput
from omegaconf import OmegaConf
from PIL import Image
from torch import Tensor, nn

from idas_sr.build import BACKBONES, METHODS, build_method, choose, construct
from idas_sr.color import COLOR_FIXES
from idas_sr.conditioning import CONDITIONERS
from idas_sr.config import Component
from idas_sr.consistency import Projector, check_larger
from idas_sr.dial import CALIBRATED, DIALS, BySeverity, Calibration
from idas_sr.finishing import finish
from idas_sr.hub import HubMixin
from idas_sr.images import Picture, to_array, to_pil, to_tensors
from idas_sr.methods.base import Method
from idas_sr.methods.tiles import Tiles
from idas_sr.networks.adapter_file import merge_adapter_file
from idas_sr.networks.backbone import LatentBackbone
from idas_sr.networks.library import base_fingerprint, choose_adapter, find_model
from idas_sr.networks.mine import MINE
from idas_sr.networks.presets import SD_TURBO_SCHEDULER
from idas_sr.networks.prompt import PromptTokens
from idas_sr.networks.sd_turbo import cache_folder, load_sd_turbo
from idas_sr.networks.store import (
    STATISTICS,
    attach_adapters,
    estimator_class,
    load_own,
    load_parts,
    lora_networks,
    put_weights,
)
from idas_sr.planning import Plan, choose_plan, free_memory, is_out_of_memory
from idas_sr.realism import Realism, RealismMap, fit_map, per_picture
from idas_sr.resample import pad_to_multiple, resize, upsample
from idas_sr.schedule import NoiseSchedule
from idas_sr.types import Memory, Restored

SEED = 42
REALISM = 0.5
DIAL = ("realism", "steering", "kappa")
"""What a method with a dial can be told beside its own options."""
MAX_UPSCALE = 16.0
OUTPUT_TYPES = ("pil", "np", "pt")
MAPS_IN_WORK = 18
"""Feature maps of a network's finest level that are held at once, measured with both backbones."""

logger = logging.getLogger(__name__)
T = TypeVar("T")
Level = float | RealismMap | BySeverity
"""What steering is given for one picture."""


@dataclass
class IDaSSROutput(BaseOutput):
    """Result of a call.

    Attributes:
        images: list of PIL pictures; or (B, H, W, 3) array / (B, 3, H, W) tensor in [0, 1], a list of single ones where
            the sizes differ.
        trace: with ``return_trace``, one dict per picture: t_hat (declared timestep), t_r (steered timestep), a_r and
            b_r (weights of inversion and fresh noise); with a dial also realism (its calibrated position) and raw (what
            steering was given); of a picture restored by tiles also tile, overlap (input pixels), at_once and samples
            of its plan; with ``consistent`` also lr_psnr, see ``Projector.decibels``; else None.
    """

    images: list[Image.Image] | np.ndarray | Tensor | list[np.ndarray] | list[Tensor]
    trace: list[dict[str, float]] | None = None


@dataclass(frozen=True)
class _Ask:
    """What a call wants of every picture, checked; as its arguments."""

    seed: int
    upscale: float
    color_fix: str
    tile: int | str | Plan
    memory: Memory | None


class IDaSSRPipeline(HubMixin, DiffusionPipeline):
    """One-step super-resolution with a dial from faithful (realism 0) to realistic (realism 1).

    Args:
        vae: autoencoder of the backbone.
        unet: epsilon-predicting UNet, with the method's weights merged in.
        prompt: cached prompt tokens.
        scheduler: only its configuration is used, for the table of noise levels.
        estimator: network of the method's own (MINE for IDaS-SR); None where it has none, and in a saved prior that
            waits for an adapter.
        latents_mean, latents_std: per channel, of the autoencoder's raw latents; None: its scaling factor.
        method: name of the restoration method.
        steering: ``{"name": ..., "args": {...}}``; None: the method's own, which for IDaS-SR is CHARIOT's default.
        conditioner: network that says what the UNet is told, where the method has one; None: ``slots`` says.
        slots: ``{"conditioner": {"name": ..., "args": {...}}, "guider": {...}}``; None, or one that is not named: the
            method's own.
        options: arguments of the method.
        calibration: tables of the dial, see ``Calibration.from_config``; None: the dial is the raw one.
    """

    # The autoencoder last, so that the UNet has left the device when the decoder's large activations come.
    model_cpu_offload_seq = "estimator->conditioner->unet->vae"
    # Its tokens are looked up, not computed by a forward pass that could fetch them.
    _exclude_from_cpu_offload = ["prompt"]  # noqa: RUF012
    _optional_components = ["estimator", "conditioner"]  # noqa: RUF012  (diffusers reads a plain class attribute)

    def __init__(
        self,
        vae: AutoencoderKL | AutoencoderTiny,
        unet: UNet2DConditionModel,
        prompt: PromptTokens,
        scheduler: EulerDiscreteScheduler,
        estimator: ModelMixin | None = None,
        latents_mean: list[float] | None = None,
        latents_std: list[float] | None = None,
        method: str | None = "idas",
        steering: dict[str, Any] | None = None,
        conditioner: ModelMixin | None = None,
        slots: dict[str, Any] | None = None,
        options: dict[str, Any] | None = None,
        calibration: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(vae=vae, unet=unet, prompt=prompt, scheduler=scheduler, estimator=estimator)
        self.register_modules(conditioner=conditioner)
        self.register_to_config(latents_mean=latents_mean, latents_std=latents_std, method=method, steering=steering)
        self.register_to_config(slots=slots, options=options, calibration=calibration)
        self._method: Method | None = None
        self._is_placed, self._device = False, torch.device("cpu")

    # ---- making one ----

    @classmethod
    def from_backbone(
        cls,
        backbone: LatentBackbone,
        estimator: ModelMixin | None,
        method: str | None = "idas",
        steering: dict[str, Any] | None = None,
        **others: Any,
    ) -> IDaSSRPipeline:
        """Wrap networks that exist already; their noise schedule must be SD-Turbo's."""
        return cls(
            backbone.vae,
            backbone.unet,
            backbone.prompt,
            EulerDiscreteScheduler.from_config(SD_TURBO_SCHEDULER),
            estimator,
            backbone.latents_mean.flatten().tolist(),
            backbone.latents_std.flatten().tolist(),
            method,
            steering,
            **others,
        )

    @classmethod
    def from_random(
        cls, name: str, dtype: torch.dtype = torch.float32, seed: int = 0, method: str = "idas"
    ) -> IDaSSRPipeline:
        """A backbone and a method with random weights, for shape, memory and speed work; equal for equal ``seed``.

        Raises:
            ConfigError: no backbone, or no method, of that name.
        """
        preset, before = choose(BACKBONES, "backbone", name), torch.get_default_dtype()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            try:
                # In the final precision from the start: converting full-size networks would need both copies at once.
                torch.set_default_dtype(dtype)
                backbone = preset()
            finally:
                torch.set_default_dtype(before)
            made = build_method(backbone, method=Component(method))
            own: dict[str, Any] = {
                name: part
                for name in ("estimator", "conditioner")
                if isinstance(part := getattr(made, name), nn.Module)
            }
            return cls.from_backbone(backbone, own.pop("estimator", None), method, **own).eval()

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        pretrained_model_name_or_path: str | Path = "compact",
        method: str = "idas",
        sd_path: str | None = None,
        revision: str | None = None,
        adapter: str | Path | None = None,
        **kwargs: Any,
    ) -> IDaSSRPipeline:
        """Load a saved pipeline and merge the adapter of ``method``, if its folder has adapters, and a personal one.

        Args:
            pretrained_model_name_or_path: model of this package (``compact``), folder (also ``model/`` of a finished
                training stage, whose LoRA is merged), or Hub id.
            method: name of the adapter.
            sd_path: folder or Hub id of SD-Turbo's weights, for models that hold an adapter on them only.
            revision: of the model's Hub repository.
            adapter: file of a personal adapter (docs/personal.md) that was trained on this very model.
            kwargs: for diffusers, such as ``torch_dtype`` (default fp32, whatever the files hold).

        Raises:
            ValueError: no such model or method, and the message names what there is; or an adapter that does not fit.
        """
        folder = find_model(str(pretrained_model_name_or_path), revision, sd_path)
        if "torch_dtype" not in kwargs and kwargs.get("dtype") is None:
            kwargs["dtype"] = torch.float32
        if (folder / STATISTICS).is_file():
            pipe = cls._from_stage(folder, method, kwargs.get("torch_dtype") or kwargs["dtype"])
        else:
            pipe = cls._from_saved(folder, method, sd_path, kwargs)
        if adapter is not None:
            networks = lora_networks(pipe._backbone(), pipe.estimator)
            name = str(pipe.config["method"])
            merge_adapter_file(Path(adapter), networks, name, base_fingerprint(folder, name))
        return pipe.eval()

    @classmethod
    def _from_saved(cls, folder: Path, method: str, sd_path: str | None, kwargs: dict[str, Any]) -> IDaSSRPipeline:
        """A saved pipeline, or SD-Turbo, with the adapter of ``method`` merged."""
        adapter = choose_adapter(folder, method)
        if (folder / "model_index.json").is_file():
            pipe = super().from_pretrained(str(folder), **kwargs)
        else:
            dtype = kwargs.get("torch_dtype") or kwargs["dtype"]
            pipe = cls.from_backbone(load_sd_turbo(sd_path, dtype=dtype), None)
        if adapter is not None:
            pipe._merge(adapter)
        return pipe

    @classmethod
    def _from_stage(cls, folder: Path, method: str, dtype: torch.dtype) -> IDaSSRPipeline:
        """The result of a training stage, with the steering that it was trained with."""
        backbone, estimator = load_parts(folder)
        path = folder.parent / "config.yaml"
        trained = OmegaConf.load(path) if path.is_file() else OmegaConf.create({"method": {"name": method}})
        settings = method_settings(trained)
        kind = METHODS.get(settings["method"])
        if kind is None or (estimator is None and kind.estimator_class is not None):
            raise ValueError(f"{folder} is a training stage without an estimator; it restores nothing yet.")
        pipe = cls.from_backbone(backbone, estimator)
        pipe._settle(settings)
        load_own(folder, pipe.conditioner)
        return pipe.to(dtype).eval()

    def _merge(self, folder: Path) -> None:
        """Put an adapter's own networks in place, its tensors over the UNet's, and add its LoRA to what is there."""
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        saved = config.get("estimator")
        self.register_modules(estimator=None if saved is None else estimator_class(saved).from_config(saved))
        self._settle(config)
        parts = {"estimator": self.estimator, "conditioner": self.conditioner, "unet": self.unet}
        put_weights(folder, parts)
        for part in parts.values():
            if part is not None:
                part.to(self.unet.device)
        attach_adapters(folder, lora_networks(self._backbone()))

    def _settle(self, config: dict[str, Any]) -> None:
        """Be the method that ``method_settings`` describes, with a new conditioner where that is a network."""
        slots = {name: config[name] for name in ("conditioner", "guider") if config.get(name) is not None}
        self.register_to_config(method=config["method"], steering=config.get("steering"), slots=slots or None)
        self.register_to_config(options=config.get("args"), calibration=config.get("calibration"))
        conditioner = None
        if "conditioner" in slots:
            conditioner = construct(CONDITIONERS, "conditioner", Component(**slots["conditioner"]), self._backbone())
        self.register_modules(conditioner=conditioner if isinstance(conditioner, ModelMixin) else None)
        self._method = None

    def _backbone(self) -> LatentBackbone:
        schedule = NoiseSchedule.from_config(self.scheduler.config)
        statistics = (self.config["latents_mean"], self.config["latents_std"])
        return LatentBackbone(self.vae, self.unet, self.prompt, schedule, *statistics)

    def _realign(self) -> None:
        """Copy weights out of the mapped file: it does not align them, and CPU kernels then sum in another order."""
        for part in self._networks:
            for parameter in part.parameters():
                parameter.data = parameter.data.clone()

    @property
    def _networks(self) -> list[nn.Module]:
        return [part for part in self.components.values() if isinstance(part, nn.Module)]

    def eval(self) -> IDaSSRPipeline:
        """Put all networks into inference mode."""
        for part in self._networks:
            part.eval().requires_grad_(False)
        return self

    def compile_networks(self) -> None:
        """Let torch compile the networks at the first pictures; results are kept in this package's cache folder.

        For folders of pictures of few sizes. Tiles are restored without it: their networks share statistics that
        change from call to call.
        """
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "compiled"))
        for part in (self.unet, self.vae.encoder, self.vae.decoder, self.estimator):
            if part is not None:
                part.compile()

    def set_steering(self, name: str | None = None, **args: Any) -> None:
        """Steer differently from now on: another entry of STEERINGS, or other arguments of the present one.

        Raises:
            ConfigError: unknown name or argument.
        """
        old = self.steering_settings
        kept = old["args"] if name in (None, old["name"]) else {}
        self.register_to_config(steering={"name": name or old["name"], "args": {**kept, **args}})
        self._method = None
        _ = self.restorer

    def set_options(self, **options: Any) -> None:
        """Restore with other arguments of the method from now on, such as ``steps`` of InvSR.

        Raises:
            ValueError: the method has no such option, or not this value; the message names those it has.
        """
        if not options:
            return
        name = str(self.config["method"])
        has = (*METHODS[name].choices, *(DIAL if self.restorer.steering.dial else ()))
        unknown = [option for option in options if option not in has]
        if unknown:
            raise ValueError(f"The method {name} has no option {unknown[0]!r}; it has {', '.join(has) or 'none'}.")
        old = self.config["options"]
        self.register_to_config(options={**(old or {}), **options})
        self._method = None
        try:
            _ = self.restorer
        except ValueError:
            self.register_to_config(options=old)
            raise

    def set_slots(self, conditioner: dict[str, Any] | None = None, guider: dict[str, Any] | None = None) -> None:
        """Tell the UNet something else, or combine predictions differently, from now on.

        Args:
            conditioner, guider: ``{"name": ..., "args": {...}}`` of CONDITIONERS and GUIDERS; None: as it is.

        Raises:
            ValueError: unknown name or argument, or two that do not go together; nothing changes then.
        """
        given = {"conditioner": conditioner, "guider": guider}
        given = {name: {"args": {}, **slot} for name, slot in given.items() if slot is not None}
        if not given:
            return
        old = self.config["slots"], self.conditioner
        self.register_to_config(slots={**(old[0] or {}), **given})
        if conditioner is not None:
            self.register_modules(conditioner=None)
        self._method = None
        try:
            _ = self.restorer
        except ValueError:
            self.register_to_config(slots=old[0])
            self.register_modules(conditioner=old[1])
            raise

    @property
    def steering_settings(self) -> dict[str, Any]:
        """``{"name": ..., "args": {...}}`` of the steering in use."""
        kind = METHODS.get(str(self.config["method"]), Method)
        usual = kind.slots.get("steering", ("n1", {}))
        return self.config["steering"] or {"name": usual[0], "args": dict(usual[1])}

    @property
    def calibration(self) -> Calibration:
        """What the model knows about its dial; with another steering than the one it was measured with, nothing."""
        return Calibration.from_config(self.config["calibration"], self.steering_settings)

    @property
    def restorer(self) -> Method:
        """The method on this pipeline's networks, on their device.

        Raises:
            ValueError: the pipeline holds a prior without an adapter, or its autoencoder cannot be tiled as it is set.
        """
        if self._is_placed and self._method is not None:
            return self._method
        if getattr(self.vae, "use_tiling", False) and isinstance(self.vae, AutoencoderTiny):
            raise ValueError(
                "diffusers tiles this kind of autoencoder for 3 image and 4 latent channels only, and it has others; "
                "call pipe.vae.disable_tiling()."
            )
        if self._method is None:
            kind = METHODS.get(self.config["method"])
            if kind is None or (self.estimator is None and kind.estimator_class is not None):
                raise ValueError(
                    "This pipeline holds a prior only; load it with IDaSSRPipeline.from_pretrained(..., method='idas')."
                )
            # Here and not on loading: as a custom pipeline this class is loaded by diffusers' own from_pretrained.
            self._realign()
            slots = {name: Component(**slot) for name, slot in (self.config["slots"] or {}).items()}
            if self.conditioner is not None:
                slots["conditioner"] = self.conditioner
            method = Component(self.config["method"], dict(self.config["options"] or {}))
            steering = Component(self.steering_settings["name"], dict(self.steering_settings["args"]))
            self._method = build_method(self._backbone(), self.estimator, method, steering, **slots).eval()
            if self._execution_device.type == "cpu":
                # The layout that oneDNN computes convolutions in.
                self._method.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if isinstance(self.estimator, MINE):
            # In fp16 its trunk's range has not been tried; bf16 has that of fp32.
            self.estimator.set_precision(torch.bfloat16 if self.unet.dtype == torch.bfloat16 else torch.float32)
        elif self.estimator is not None:
            self.estimator.float()
        return self._place(self._method)

    def _place(self, method: Method) -> Method:
        """Move a method to the device it runs on, but for networks that offloading fetches when they are needed."""
        offloaded = {module for part in self._networks if hasattr(part, "_hf_hook") for module in part.modules()}
        if not offloaded:
            return method.to(self._execution_device)
        for module in set(method.modules()) - offloaded:
            module._apply(lambda tensor: tensor.to(self._execution_device), recurse=False)
        return method

    @contextmanager
    def _placed(self) -> Iterator[None]:
        """Look once, not at every step, whether the networks are where and what they have to be: that takes a while."""
        _ = self.restorer
        self._is_placed, self._device = True, self._execution_device
        try:
            yield
        finally:
            self._is_placed = False

    @property
    def _here(self) -> torch.device:
        """The device that restoring happens on."""
        return self._device if self._is_placed else self._execution_device

    # ---- using it ----

    @torch.inference_mode()
    def __call__(
        self,
        image: Picture | Sequence[Picture],
        realism: Realism | None = None,
        upscale: float = 4.0,
        generator: torch.Generator | None = None,
        seed: int | None = None,
        color_fix: str = "none",
        output_type: str = "pil",
        return_dict: bool = True,
        return_trace: bool = False,
        memory: Memory | None = None,
        tile: int | str | Plan = "auto",
        dial: str = CALIBRATED,
        consistent: bool = False,
    ) -> IDaSSROutput | tuple[Any]:
        """Restore pictures.

        Args:
            image: PIL picture, array or tensor in [0, 1], a batch or a list of them; sizes may differ.
            realism: 0 (closest to the input, whatever the seed) to 1 (most detail); one number, a grey map of the
                picture's shape (PIL, array or tensor, white is 1), ``auto``, which lets the picture's severity choose,
                or a list with one of them per picture. A map costs one UNet evaluation per level,
                ``idas_sr.realism.MAX_LEVELS`` at most, and one decoding. Default 0.5; only for methods with a dial.
            upscale: output size over input size. The network works at 4; other factors resample its result.
            generator: one integer is drawn from it as the seed.
            seed: of the fresh noise, the same for every picture, so that a picture's result does not depend on its
                batch. Default 42.
            color_fix: entry of COLOR_FIXES.
            output_type: ``pil``, ``np`` or ``pt``.
            return_dict: False returns the tuple ``(images,)``.
            return_trace: also report the positions, see ``IDaSSROutput``.
            memory: of a single picture, see ``Session``, which takes care that it is the same one.
            tile: upper limit of a tile's sides, in pixels of the x4 result; 0: every picture whole; ``auto``: whole
                where it is small and memory suffices, else tiles that free memory allows; or a plan. Where memory runs
                out nevertheless, the picture is started again with a smaller plan, and a warning says so.
            dial: unit of realism; ``calibrated``: equal moves are equal steps of feature distance, where the model has
                a table for its steering, else the same as ``raw``: what steering takes.
            consistent: the nearest picture that is the input again when it is reduced to the input's size, see
                `idas_sr.consistency`; noise and compression of the input come back with it.

        Raises:
            ValueError: an argument out of its range; no restoration is started then.
            MemoryError: not even the smallest tiles fit.
        """
        pictures = to_tensors(image)
        if memory is not None and len(pictures) > 1:
            raise ValueError("A memory belongs to one picture; restore several without it.")
        _check(upscale, generator, seed, color_fix, output_type)
        if consistent:
            for height, width in (picture.shape[-2:] for picture in pictures):
                check_larger(target_size(height, width, upscale), height, width)
        with self._placed():
            levels = self._levels(realism, pictures, dial)
            _check_tile(tile)
            if generator is not None:
                seed = int(torch.randint(2**63 - 1, (1,), generator=generator, device=generator.device))
            same_size: dict[tuple[int, ...], list[int]] = {}
            for index, picture in enumerate(pictures):
                # A picture with a map goes alone: the levels are its own. Those that choose go among themselves.
                apart = {RealismMap: index, BySeverity: -1}.get(type(levels[index]), -2)
                same_size.setdefault((*picture.shape, apart), []).append(index)
            results: list[Any] = [None] * len(pictures)
            ask = _Ask(SEED if seed is None else seed, upscale, color_fix, tile, memory)
            for indices in same_size.values():
                lq = torch.stack([pictures[i] for i in indices])
                restored = self._restore(lq, [levels[i] for i in indices], ask)
                for index, result in zip(indices, restored, strict=True):
                    results[index] = _made_consistent(*result, pictures[index]) if consistent else result
        self.maybe_free_model_hooks()
        images = _as_output_type([hq for hq, _ in results], output_type)
        if not return_dict:
            return (images,)
        return IDaSSROutput(images=images, trace=[trace for _, trace in results] if return_trace else None)

    def plan(self, height: int, width: int, tile: int | str | Plan = "auto", count: int = 1) -> Plan:
        """How ``count`` pictures of one size would be cut now; ``tile`` as in a call."""
        if isinstance(tile, Plan):
            return tile
        method = self.restorer
        if tile == "auto":
            free = free_memory(self._here)
            return choose_plan(height, width, method.multiple, count * self._pixel_bytes(), free)
        if tile == 0:
            return Plan()
        return Plan.of_tile(int(tile) // method.scale, method.multiple)

    def _pixel_bytes(self) -> float:
        """Bytes that the networks hold per input pixel in work: the finest level of the greediest one decides."""
        method, backbone = self.restorer, self.restorer.backbone
        # The autoencoder's finest level lies at its own pixels, the UNet's at the latent's cells.
        widths = self.vae.config.get("decoder_block_out_channels") or self.vae.config["block_out_channels"]
        decoder = widths[0] * (method.scale / backbone.unshuffle) ** 2
        unet = self.unet.config["block_out_channels"][0] * (method.scale / backbone.downsample) ** 2
        return MAPS_IN_WORK * max(decoder, unet) * self.unet.dtype.itemsize

    def _check_realism(self, realism: Realism | None) -> Realism:
        if realism is None or self.restorer.steering.dial:
            return REALISM if realism is None else realism
        has = self.restorer.choices
        raise ValueError(f"The method {self.config['method']} has no dial; it has {', '.join(has) or 'no options'}.")

    def _levels(self, realism: Realism | None, pictures: Sequence[Tensor], dial: str) -> list[Level]:
        """What steering is given for each picture, a map on its picture's grid."""
        if dial not in DIALS:
            raise ValueError(f"The dial is {' or '.join(DIALS)}, not {dial!r}.")
        calibration, levels = self.calibration, list[Level]()
        table = calibration if dial == CALIBRATED else calibration.without_table
        for given, picture in zip(per_picture(self._check_realism(realism), len(pictures)), pictures, strict=True):
            if isinstance(given, str):
                self.check_auto()
                levels.append(BySeverity(calibration))
            elif isinstance(given, Tensor):
                levels.append(fit_map(table.raw_map(given), *picture.shape[-2:]))
            else:
                levels.append(table.raw_of(given))
        return levels

    def check_auto(self) -> None:
        """Refuse realism ``auto`` where the model has nothing to choose by.

        Raises:
            ValueError: saying so.
        """
        self.calibration.by_severity(torch.zeros(1))

    def _restore(self, lq: Tensor, realism: list[Level], ask: _Ask) -> list[tuple[Tensor, dict[str, float]]]:
        """(B, 3, h, w) in [0, 1] -> B times (3, round(h u), round(w u)) in [0, 1] on the CPU, and its trace.

        Whole pictures go through the networks together, tiled ones one after the other.
        """
        height, width = lq.shape[-2:]
        plan = self.plan(height, width, ask.tile, len(lq))

        def attempt(plan: Plan) -> list[tuple[Tensor, dict[str, float]]]:
            if len(lq) > 1 and plan.tile:
                each = zip(lq.split(1), realism, strict=True)
                return [one for part, r in each for one in self._restore(part, [r], ask)]
            if plan.is_whole(height, width):
                return self._restore_whole(lq, realism, ask)
            tiles = Tiles(self.restorer, lq[0], realism[0], ask.seed, plan, self._here)
            size = target_size(height, width, ask.upscale)
            out, top = torch.empty(3, *size), 0
            for rows in finish(tiles.bands(), lq[0], self.restorer.scale, ask.color_fix, size):
                out[:, top : top + rows.shape[1]] = rows
                top += rows.shape[1]
            return [(out, self._traces(tiles.sample, 1, plan)[0])]

        return self._attempt(attempt, plan, height, width)

    @torch.inference_mode()
    def restore_rows(
        self,
        picture: Tensor,
        write: Callable[[Iterator[Tensor], dict[str, float]], T],
        realism: Realism | None = None,
        size: tuple[int, int] | None = None,
        seed: int = SEED,
        color_fix: str = "none",
        tile: int | str | Plan = "auto",
        dial: str = CALIBRATED,
        consistent: bool = False,
    ) -> tuple[T, dict[str, float]]:
        """Restore one picture of any size without ever holding the result.

        Args:
            picture: (3, h, w), float in [0, 1] or uint8, on the CPU.
            write: gets the finished rows from top to bottom, each (3, rows, width) in [0, 1], and the trace, and must
                take all of them; called again, from the top, where memory ran out and the plan became smaller.
            size: (height, width) of the result; default four times the picture's.
            realism, seed, color_fix, tile, dial, consistent: as in a call.

        Returns:
            what ``write`` returned, and the trace.

        Raises:
            ValueError: an argument out of its range.
            MemoryError: not even the smallest tiles fit.
        """
        height, width = picture.shape[-2:]
        _check(4.0, None, seed, color_fix, "pt")
        _check_tile(tile)
        (level,) = self._levels(realism, [picture], dial)
        scale = self.restorer.scale
        size = size or (height * scale, width * scale)
        if consistent:
            check_larger(size, height, width)

        def attempt(plan: Plan) -> tuple[T, dict[str, float]]:
            tiles = Tiles(self.restorer, picture, level, seed, plan, self._here)
            needs_input = consistent or color_fix != "none"
            unit = picture.float() / 255 if picture.dtype == torch.uint8 and needs_input else picture
            rows = finish(tiles.bands(), unit, scale, color_fix, size)
            trace = self._traces(tiles.sample, 1, plan)[0]
            if not consistent:
                return write(rows, trace), trace
            projector = Projector(unit, size)
            written = write(projector.over(rows), trace)
            return written, trace | {"lr_psnr": projector.decibels()}

        return self._attempt(attempt, self.plan(height, width, tile), height, width)

    @torch.inference_mode()
    def compare_rows(
        self,
        picture: Tensor,
        write: Callable[[Iterator[list[Tensor]]], T],
        realism: Sequence[float | str | Picture],
        seeds: Sequence[Sequence[int]],
        size: tuple[int, int],
        color_fix: str = "none",
        tile: int | str | Plan = "auto",
        dial: str = CALIBRATED,
        consistent: bool = False,
    ) -> T:
        """Restore one picture several times by tiles, all of them side by side, none ever held as a whole.

        Args:
            picture, size, color_fix, tile, dial, consistent: as in ``restore_rows``.
            write: called again as there; gets lists of one part (3, rows, width) per restoration, the same rows of all.
            realism: one value, ``auto`` or map per group.
            seeds: of the restorations of every group, which are encoded and anchored once for the group.

        Raises:
            ValueError: an argument out of its range.
            MemoryError: not even the smallest tiles fit.
        """
        height, width = picture.shape[-2:]
        _check_tile(tile)
        if consistent:
            check_larger(size, height, width)
        levels = self._levels(list(realism), [picture] * len(realism), dial)
        unit = picture.float() / 255 if picture.dtype == torch.uint8 else picture

        def attempt(plan: Plan) -> T:
            streams: list[Iterator[Tensor]] = []
            for level, own in zip(levels, seeds, strict=True):
                tiles = Tiles(self.restorer, picture, level, own[0], plan, self._here)
                if color_fix == "adain":
                    # It reads all bands before it gives any, so one pass for several would hold them all.
                    streams += [tiles.bands([seed]) for seed in own]
                else:
                    streams += _apart(tiles.bands(own), len(own))
            finished = [finish(stream, unit, self.restorer.scale, color_fix, size) for stream in streams]
            if consistent:
                finished = [Projector(unit, size).over(rows) for rows in finished]
            return write(map(list, zip(*finished, strict=True)))

        return self._attempt(attempt, self.plan(height, width, tile), height, width)

    def _attempt(self, attempt: Callable[[Plan], T], plan: Plan, height: int, width: int) -> T:
        """What ``attempt`` returns with this plan, or with the first smaller one that fits into memory."""
        while True:
            words = plan.describe(height, width, self.restorer.scale)
            logger.log(logging.DEBUG if plan.is_whole(height, width) else logging.INFO, "%s", words)
            try:
                return attempt(plan)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            # Outside the handler, whose traceback keeps everything alive that did not fit.
            smaller = plan.smaller(height, width, self.restorer.multiple)
            if smaller is None:
                raise MemoryError(f"{words} does not fit into memory, and there is no smaller plan; free some memory.")
            logger.warning("%s: out of memory, trying a smaller plan", words)
            plan = smaller
            gc.collect()
            if self._here.type == "cuda":
                torch.cuda.empty_cache()

    def _restore_whole(self, lq: Tensor, realism: list[Level], ask: _Ask) -> list[tuple[Tensor, dict[str, float]]]:
        method, device = self.restorer, self._here
        height, width = lq.shape[-2:]
        signed = lq.to(device) * 2 - 1
        padded = pad_to_multiple(signed, method.multiple)
        amount, seeds = _amount(realism, method.multiple, device), [ask.seed] * len(lq)
        result = method.restore_image(padded, amount, seeds, ask.memory)
        assert result.hq is not None
        hq = result.hq[..., : height * method.scale, : width * method.scale]
        if ask.color_fix != "none":
            # Before any resampling, against the picture itself: padding must not leak into its colours.
            hq = COLOR_FIXES[ask.color_fix](hq, upsample(signed, method.scale))
        hq = (hq / 2 + 0.5).clamp(0, 1)
        hq = resize(hq, target_size(height, width, ask.upscale)).clamp(0, 1)
        return list(zip(hq.float().cpu(), self._traces(result, len(hq)), strict=True))

    def _traces(self, result: Restored, count: int, plan: Plan | None = None) -> list[dict[str, float]]:
        """Of ``count`` pictures; the samples of a tiled one, cut by ``plan``, are averaged."""
        steered = result.steered
        columns = {"t_hat": result.anchor.timestep, "t_r": steered.timestep, "a_r": steered.keep, "b_r": steered.fresh}
        if steered.realism is not None:
            columns["raw"] = steered.realism
        rows = torch.stack([column.float() for column in columns.values()], dim=1)
        rows = rows if len(rows) == count else rows.mean(0, keepdim=True)
        traces = [dict(zip(columns, row, strict=True)) for row in rows.tolist()]
        for trace in traces:
            if "raw" in trace:
                # Single precision, which steering works in, has no more digits.
                trace["raw"] = round(trace["raw"], 6)
                trace["realism"] = round(self.calibration.position_of(trace["raw"]), 6)
            if plan is not None:
                trace |= {"tile": plan.tile, "overlap": plan.overlap, "at_once": plan.batch, "samples": plan.samples}
        return traces


def _apart(bands: Iterator[Tensor], count: int) -> list[Iterator[Tensor]]:
    """Bands (3 count, n, W) as ``count`` streams of (3, n, W), to be read side by side."""
    # A band's memory is used again for the next one.
    copies = itertools.tee((band.float().cpu().clone() for band in bands), count)

    def one(copy: Iterator[Tensor], first: int) -> Iterator[Tensor]:
        for band in copy:
            yield band[first : first + 3]

    return [one(copy, 3 * index) for index, copy in enumerate(copies)]


def _made_consistent(image: Tensor, trace: dict[str, float], picture: Tensor) -> tuple[Tensor, dict[str, float]]:
    """A restoration and its trace, after `idas_sr.consistency`."""
    projector = Projector(picture, (image.shape[-2], image.shape[-1]))
    return projector.whole(image), trace | {"lr_psnr": projector.decibels()}


def _check_tile(tile: int | str | Plan) -> None:
    if tile != "auto" and not isinstance(tile, Plan) and (not isinstance(tile, int) or tile < 0):
        raise ValueError(f"tile must be 'auto', 0 (whole pictures) or a number of output pixels, not {tile!r}.")


def method_settings(config: Any) -> dict[str, Any]:
    """What restoring with a trained method needs to know of its training configuration (omegaconf), as JSON values."""
    plain = OmegaConf.to_container(config)
    assert isinstance(plain, dict)
    kind, args = METHODS.get(plain["method"]["name"]), plain["method"].get("args", {})
    kept = () if kind is None else (*kind.choices, *kind.kept)
    settings = {"method": plain["method"]["name"], "args": {name: args[name] for name in kept if name in args}}
    return settings | {name: plain[name] for name in ("steering", "conditioner", "guider") if name in plain}


def target_size(height: int, width: int, upscale: float) -> tuple[int, int]:
    """Exactly round(side x upscale), at least one pixel."""
    return max(1, round(height * upscale)), max(1, round(width * upscale))


def _amount(realism: list[Level], multiple: int, device: torch.device) -> Tensor | RealismMap | BySeverity:
    """Of a batch, or of one picture with a map, on the grid of the padded pictures."""
    if isinstance(realism[0], RealismMap):
        values = pad_to_multiple(realism[0].values.to(device), multiple)
        return replace(realism[0], values=values)
    if isinstance(realism[0], BySeverity):
        return realism[0]
    return torch.tensor(realism, device=device)


def _check(
    upscale: float, generator: torch.Generator | None, seed: int | None, color_fix: str, output_type: str
) -> None:
    """Refuse what cannot be done."""
    if not (math.isfinite(upscale) and 0 < upscale <= MAX_UPSCALE):
        raise ValueError(f"upscale must be above 0 and at most {MAX_UPSCALE:g}, not {upscale}.")
    if generator is not None and seed is not None:
        raise ValueError("Give a generator or a seed, not both.")
    if color_fix not in COLOR_FIXES:
        raise ValueError(f"There is no colour fix called {color_fix!r}; choose one of {', '.join(COLOR_FIXES)}.")
    if output_type not in OUTPUT_TYPES:
        raise ValueError(f"output_type must be one of {', '.join(OUTPUT_TYPES)}, not {output_type!r}.")


def _as_output_type(images: list[Tensor], output_type: str) -> Any:
    if output_type == "pil":
        return [to_pil(image) for image in images]
    alike = len({image.shape for image in images}) == 1
    if output_type == "pt":
        return torch.stack(images) if alike else images
    arrays = [to_array(image) for image in images]
    return np.stack(arrays) if alike else arrays
