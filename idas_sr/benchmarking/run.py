"""One benchmark: what is timed, in which precision, against what."""

from __future__ import annotations

import functools
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from idas_sr.benchmarking.machine import environment, measured_peak, peak_resident_bytes
from idas_sr.benchmarking.parts import io_of, parts_of
from idas_sr.benchmarking.rivals import NETWORKS, PlainPipeline, agreement, forward, same_weights
from idas_sr.benchmarking.timing import Run, count_flops, fastest, in_turn, ratio, summary
from idas_sr.pipeline import IDaSSRPipeline
from idas_sr.planning import keep_freed_memory

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
OURS = "idas-sr"
COMPILED = "compiled"


@dataclass(frozen=True)
class Options:
    """What to time.

    Attributes:
        model: name, folder or Hub id; with ``random_weights`` the name of an architecture.
        sizes: sides of the square low-quality pictures.
        against: rrdbnet, srvgg, diffusers; compiled: the same networks after ``compile_networks``.
        precision: of the model; auto: the fastest of fp32 and the device's half.
        parts, memory: also time the parts; also measure peak memory, each network in a process of its own.
        tile: as in ``IDaSSRPipeline.__call__``.
        keep_memory: where memory is measured, ``keep_freed_memory`` first, as `infer` does.
    """

    model: str = "compact"
    random_weights: bool = False
    sizes: tuple[int, ...] = (128,)
    against: tuple[str, ...] = ()
    precision: str = "auto"
    device: str = "cpu"
    rounds: int = 10
    warm_up: int = 2
    realism: float = 0.5
    seed: int = 42
    parts: bool = True
    memory: bool = True
    tile: int | str = "auto"
    keep_memory: bool = False

    def __post_init__(self) -> None:
        unknown = set(self.against) - {*NETWORKS, "diffusers", COMPILED}
        if unknown:
            raise ValueError(f"There is nothing called {min(unknown)!r} to time against.")
        if self.precision not in (*DTYPES, "auto"):
            raise ValueError(f"precision must be auto, {', '.join(DTYPES)}, not {self.precision!r}.")
        if self.rounds < 1 or self.warm_up < 0 or min(self.sizes) < 1:
            raise ValueError("Rounds and sizes must be at least 1, warm_up at least 0.")
        if "diffusers" in self.against and not (self.random_weights and "sd-turbo" in self.model):
            raise ValueError("Timing against diffusers needs --model sd-turbo --random-weights.")


def precisions(options: Options) -> tuple[str, ...]:
    """Those that are tried where the fastest is asked for."""
    return ("fp32", "bf16" if options.device == "cpu" else "fp16")


def load(options: Options, precision: str) -> IDaSSRPipeline:
    """The model in ``precision`` on its device."""
    make = IDaSSRPipeline.from_random if options.random_weights else IDaSSRPipeline.from_pretrained
    return make(options.model, dtype=DTYPES[precision]).to(options.device)


def end_to_end(pipe: IDaSSRPipeline, lq: Tensor, options: Options) -> Run:
    """The whole call from a picture in memory to a picture in memory."""
    arguments: dict[str, Any] = {
        "realism": options.realism,
        "seed": options.seed,
        "tile": options.tile,
        "output_type": "pt",
    }
    return functools.partial(pipe, lq, **arguments)


def picture(side: int) -> Tensor:
    """(1, 3, side, side) in [0, 1]: waves of several lengths; speed does not depend on what is seen."""
    wave = torch.arange(side) / side
    rows, columns = wave[:, None] * torch.tensor([3.0, 40.0, 11.0])[:, None, None], wave * 25
    return (0.5 + 0.25 * (6.28 * rows).sin() + 0.25 * (6.28 * columns).cos())[None].contiguous()


class Benchmark:
    """All measurements of one set of options; networks are made once."""

    def __init__(self, options: Options) -> None:
        self.options, self.device = options, torch.device(options.device)
        self.plain: PlainPipeline | None = None
        if "diffusers" in options.against:
            self.plain = PlainPipeline(load(options, "fp32"))
        self.pipe, self.precision = self._choose()
        self.rivals = {name: self._fastest_rival(name) for name in options.against if name in NETWORKS}
        self.compiled = load(options, self.precision) if COMPILED in options.against else None
        if self.compiled is not None:
            self.compiled.compile_networks()

    def run(self) -> dict[str, Any]:
        """Everything, as JSON holds it."""
        dtype = DTYPES[self.precision]
        peak = measured_peak(self.device, dtype, seconds=3)
        return {
            "environment": environment(self.device),
            "model": {"name": self.options.model, "random_weights": self.options.random_weights}
            | {"precision": self.precision, "realism": self.options.realism, "tile": self.options.tile}
            | {"keep_memory": self.options.keep_memory},
            "measured_peak_gflops": peak / 1e9,
            "sizes": [self._size(side, peak) for side in self.options.sizes],
        }

    def _choose(self) -> tuple[IDaSSRPipeline, str]:
        options = self.options
        names = precisions(options) if options.precision == "auto" else (options.precision,)
        if self.plain is not None:
            # Half precision is what it is compared for; two copies of its size are enough.
            name = names[-1]
            return same_weights(self.plain.pipe, options.model, DTYPES[name]).to(options.device), name
        pipes = {name: load(options, name) for name in names}
        lq = picture(min(options.sizes))
        best = fastest({name: end_to_end(pipe, lq, options) for name, pipe in pipes.items()}, self.device)
        return pipes[best], best

    def _fastest_rival(self, name: str) -> tuple[Any, str]:
        lq = picture(min(self.options.sizes))
        made = {p: forward(NETWORKS[name](), DTYPES[p], self.device) for p in precisions(self.options)}
        best = fastest({p: functools.partial(run, lq) for p, run in made.items()}, self.device)
        return made[best], best

    def _size(self, side: int, peak: float) -> dict[str, Any]:
        options, lq = self.options, picture(side)
        ours = end_to_end(self.pipe, lq, options)
        runs: dict[str, Run] = {OURS: ours}
        runs |= {name: functools.partial(run, lq) for name, (run, _) in self.rivals.items()}
        if self.plain is not None:
            runs["diffusers"] = functools.partial(self.plain, lq, options.realism, options.seed)
        if self.compiled is not None:
            runs[COMPILED] = end_to_end(self.compiled, lq, options)
        seconds = in_turn(runs, options.rounds, options.warm_up, self.device)
        out: dict[str, Any] = {"lq": side, "hq": 4 * side, "whole": {}}
        for name, values in seconds.items():
            row = summary(values, count_flops(runs[name]), peak if self._precision(name) == self.precision else None)
            compared = {"precision": self._precision(name), "times_ours": ratio(values, seconds[OURS])}
            out["whole"][name] = row | compared
        if options.parts:
            out["parts"] = self._parts(lq, ours, peak)
        if options.memory:
            out["peak_memory_mib"] = {
                name: self._memory(name, side) for name in seconds if name in (OURS, *self.rivals)
            }
        if self.plain is not None:
            reference = self.plain(lq, options.realism, options.seed)
            decibel, cosine = agreement(self.pipe.restorer, lq, reference, options.realism, options.seed)
            out["agreement"] = {"pixels_db": decibel, "latents_cosine": cosine}
        return out

    def _precision(self, name: str) -> str:
        return {OURS: self.precision, COMPILED: self.precision, "diffusers": "fp32"}.get(name) or self.rivals[name][1]

    def _parts(self, lq: Tensor, ours: Run, peak: float) -> dict[str, dict[str, float]]:
        options = self.options
        with torch.inference_mode():
            networks = parts_of(self.pipe.restorer, lq, options.realism, options.seed)
            files = io_of(lq, ours().images)
            seconds = in_turn(networks | files, options.rounds, options.warm_up, self.device)
        flops = {name: count_flops(run) for name, run in networks.items()}
        return {name: summary(values, flops.get(name), peak) for name, values in seconds.items()}

    def _memory(self, name: str, side: int) -> float | None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            end_to_end(self.pipe, picture(side), self.options)() if name == OURS else self.rivals[name][0](
                picture(side)
            )
            return torch.cuda.max_memory_allocated(self.device) / 2**20
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            arguments = (self.options, name, self._precision(name), side, torch.get_num_threads())
            peak = pool.submit(peak_of, *arguments).result()
        return None if peak is None else peak / 2**20


def peak_of(options: Options, name: str, precision: str, side: int, threads: int) -> int | None:
    """Bytes at most in use while a fresh process loads one network and restores one picture."""
    if options.keep_memory:
        keep_freed_memory()
    torch.set_num_threads(threads)
    lq = picture(side)
    if name == OURS:
        end_to_end(load(options, precision), lq, options)()
    else:
        forward(NETWORKS[name](), DTYPES[precision], torch.device(options.device))(lq)
    return peak_resident_bytes()
