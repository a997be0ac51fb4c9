"""Mamba-2 against transformers' own, which computes in plain torch where there is no GPU: same weights, same inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from gramian.kernels import ssd
from gramian.lab.bench.kernel_tables import OURS_ALONE, compare, own_section, rows_against
from gramian.lab.bench.mamba_tables import SETTLED, Timed, conditions, samples_of
from gramian.lab.bench.report import Result, Section, Target, targets_section
from gramian.lab.bench.settings import CannotRun, Settings, Shape
from gramian.lab.bench.stock_allocator import AS_IT_COMES
from gramian.lab.bench.timing import Call, Turns
from gramian.layers.mamba2 import Mamba2
from gramian.layers.residual import residual
from gramian.layers.rms_norm import RMSNorm

__all__ = ["Blocks", "builders", "head_dim", "mamba2_table", "our_recurrence", "ours", "their_recurrence", "theirs"]

SHAPE = Shape(8, 256, 128, 16, blocks=2)
STATES = (16, 64, 128)
DEFAULT_CHUNK, SHORT_CHUNK = 256, 64  # of transformers' configuration, and one that suits a CPU better
BOUND = 5.0


class Blocks(nn.Module):
    """``x + mixer(norm(x))`` as often as the shape says, and a last norm: transformers' ``Mamba2Model``."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width = shape.channels
        self.norms = nn.ModuleList(RMSNorm(width, eps=1e-5) for _ in range(shape.blocks))
        self.mixers = nn.ModuleList(Mamba2(width, shape.states, head_dim=head_dim(shape)) for _ in range(shape.blocks))
        self.last_norm = RMSNorm(width, eps=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, L, channels)`` to the same."""
        for norm, mixer in zip(self.norms, self.mixers, strict=True):
            x = residual(x, norm, mixer)
        out: Tensor = self.last_norm(x)
        return out


def head_dim(shape: Shape) -> int:
    """64, or the inner width of a model that is narrower."""
    return min(64, 2 * shape.channels)


def blocks(shape: Shape) -> Blocks:
    """Always with the same parameters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Blocks(shape)


def ours(shape: Shape) -> Call:
    """Forward and backward of `Blocks`: gradients of all parameters and of the input."""
    network = blocks(shape)
    return _with_gradients(network, list(network.parameters()), shape)


def theirs(shape: Shape, chunk: int) -> Call:
    """The same by transformers, on the same weights."""
    if find_spec("transformers") is None:
        raise CannotRun("transformers is not installed: pip install 'gramian[hf]'")
    from transformers import Mamba2Config, Mamba2Model
    from transformers.utils import logging

    logging.set_verbosity_error()  # that fast kernels are missing is known here
    width, heads = shape.channels, 2 * shape.channels // head_dim(shape)
    model: Any = Mamba2Model(
        Mamba2Config(
            hidden_size=width,
            state_size=shape.states,
            num_heads=heads,
            head_dim=head_dim(shape),
            n_groups=1,
            num_hidden_layers=shape.blocks,
            chunk_size=chunk,
            vocab_size=8,
        )
    )
    source = blocks(shape)
    for layer, norm, mixer in zip(model.layers, source.norms, source.mixers, strict=True):
        layer.norm.load_state_dict(norm.state_dict())
        layer.mixer.load_state_dict(mixer.state_dict())
    model.norm_f.load_state_dict(source.last_norm.state_dict())
    model.train()
    parameters = [p for name, p in model.named_parameters() if "embeddings" not in name]
    return _with_gradients(lambda x: model(inputs_embeds=x, use_cache=False).last_hidden_state, parameters, shape)


def _with_gradients(forward: Callable[[Tensor], Tensor], parameters: list[nn.Parameter], shape: Shape) -> Call:
    g = torch.Generator().manual_seed(0)
    x, grads = torch.randn(2, shape.batch, shape.length, shape.channels, generator=g)
    leaves = [x.requires_grad_(), *parameters]

    def call() -> tuple[Tensor, tuple[Tensor, ...]]:
        y = forward(x)
        return y, torch.autograd.grad(y, leaves, grads)

    return call


def our_recurrence(shape: Shape) -> Call:
    """The recurrence of one layer and its gradients."""

    def run(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
        return ssd(x, A * dt, B, C, dt=dt, D=D)[0]

    return _recurrence(run, shape)


def their_recurrence(shape: Shape, chunk: int) -> Call:
    """The same by transformers."""
    if find_spec("transformers") is None:
        raise CannotRun("transformers is not installed: pip install 'gramian[hf]'")
    from transformers.models.mamba2 import modeling_mamba2

    scan = getattr(modeling_mamba2, "mamba2_chunk_scan", None)
    if scan is None:
        raise CannotRun("this version of transformers has no function for the recurrence alone")

    def run(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
        y: Tensor = scan(x, dt, A, B, C, chunk_size=chunk, D=D)
        return y

    return _recurrence(run, shape)


def _recurrence(run: Callable[..., Tensor], shape: Shape) -> Call:
    g = torch.Generator().manual_seed(0)
    P = head_dim(shape)
    heads, steps = 2 * shape.channels // P, (shape.batch, shape.length)
    x, grads = torch.randn(2, *steps, heads, P, generator=g)
    B, C = torch.randn(2, *steps, 1, shape.states, generator=g)
    dt, A, D = torch.rand(*steps, heads, generator=g) * 0.1, -1 - torch.rand(heads, generator=g), torch.ones(heads)
    leaves = [t.requires_grad_() for t in (x, dt, A, B, C, D)]

    def call() -> tuple[Tensor, tuple[Tensor, ...]]:
        y = run(*leaves)
        return y, torch.autograd.grad(y, leaves, grads)

    return call


def _shapes(settings: Settings) -> list[Shape]:
    states = (4, 8, 12) if settings.small else STATES
    return [replace(settings.fit(SHAPE), states=n) for n in states]


def builders(settings: Settings) -> dict[str, Callable[[], Call]]:
    """Two blocks, and the recurrence alone, by everybody at all sizes."""
    return {name: build for shape in _shapes(settings) for name, build in builders_of(shape, settings).items()}


def builders_of(shape: Shape, settings: Settings) -> dict[str, Callable[[], Call]]:
    """Those of one size."""
    found: dict[str, Callable[[], Call]] = {}
    for part, mine, rival in (("", ours, theirs), (", recurrence", our_recurrence, their_recurrence)):
        end = f"{part}, N {shape.states}"
        found[f"gramian{end}"] = partial(mine, shape)
        for chunk in (DEFAULT_CHUNK, SHORT_CHUNK):
            found[f"transformers, chunks of {chunk}{end}"] = partial(rival, shape, chunk)
    return found


def _timed(shapes: list[Shape], settings: Settings) -> dict[str, Timed]:
    """Contestants of a size take turns by themselves, so that nobody else's memory lies between theirs."""
    found: dict[str, Timed] = {}
    for shape in shapes:
        for condition, (turns, missing) in conditions(partial(builders_of, shape), settings).items():
            before, lacking = found.get(condition, (Turns({}, {}), {}))
            together = Turns({**before.samples, **turns.samples}, {**before.calls, **turns.calls})
            found[condition] = together, {**lacking, **missing}
    return found


def mamba2_table(settings: Settings) -> Result:
    """Two blocks, forward and backward, at three sizes of the state."""
    shapes = _shapes(settings)
    timed = _timed(shapes, settings)
    targets, sections = [], []
    ends = [f"{part}, N {shape.states}" for part in ("", ", recurrence") for shape in shapes]
    for condition, (turns, missing) in timed.items():
        for end in ends:
            rival = f"transformers, chunks of {DEFAULT_CHUNK}{end}"
            if rival in turns:
                ratio = turns.ratio(rival, f"gramian{end}")
                targets.append(Target(f"{rival} / gramian{condition}", ratio, ">=", BOUND))
        sections += [_section(turns, missing, end, condition) for end in ends]
    large, small = (f"gramian, N {shape.states}" for shape in (shapes[-1], shapes[0]))
    own, _ = compare({name: builders(settings)[name] for name in (large, small)}, settings)
    targets.append(Target(f"{large} / N {shapes[0].states}", own.ratio(large, small), ">=", 1.5))
    note = (
        "Each contestant computes the output of two blocks and the gradients of the input and of all parameters, from "
        "the same weights. transformers has no kernels of its own for the CPU; chunks of 256 steps are the default of "
        "its configuration, chunks of 64 are quicker here. The matrix products of the projections in and out are the "
        "same for all contestants. The rows of the recurrence are that part of one layer, alone, with its gradients. "
        "Contestants of one size of the state take turns by themselves."
    )
    data = {"turns": samples_of(timed), "own_turns": own.to_dict()}
    sections = [targets_section(targets), *sections, own_section(own, small)]
    shape = str(replace(shapes[0], states=0)).replace(", N 0", "")
    return Result(sections, (note, OURS_ALONE, SETTLED, AS_IT_COMES), data, shape, "float32")


def _section(turns: Turns, missing: dict[str, str], end: str, condition: str) -> Section:
    """The contestants whose names end so; those of whole blocks have nothing before the states."""

    def chosen(name: str) -> bool:
        return name.endswith(end) and (", recurrence" in name) == (", recurrence" in end)

    part = Turns({k: v for k, v in turns.samples.items() if chosen(k)}, turns.calls)
    reasons = {k: v for k, v in missing.items() if chosen(k)}
    heading = end.removeprefix(", ") + condition
    columns = ("contestant", "forward + backward, ms", f"ratio to gramian{end}")
    return Section(heading, columns, rows_against(part, reasons, f"gramian{end}"))
