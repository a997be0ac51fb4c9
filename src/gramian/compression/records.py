"""What happened: one event for each call of the compressor, with one line for each layer it touched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from gramian.layers.reduction import OutputError, Reduction

__all__ = ["Event", "LayerChange"]

Kind = Literal["none", "cut", "skipped", "rolled_back", "noted"]


@dataclass(frozen=True)
class LayerChange:
    """What was proposed for one layer, and whether it was done.

    ``bound``, ``measured``
        Relative to ``norm``, the layer's H-infinity norm before. The bound holds for the layer's linear map in
        exact arithmetic, not for the network's output; the measured error is the largest on a frequency grid.
    ``h2_error``
        Relative to the layer's H2 norm before.
    ``tau``, ``tau_total``
        Fraction of the spectrum's sum given up by this cut, and by all cuts of this layer so far,
        ``1 - prod(1 - tau)``.
    ``output_error``, ``held_out_error``
        Of a layer that is not time-invariant: relative errors of its output on calibration and on held-out data.
        There is no a-priori guarantee.
    ``order``, ``real_poles``, ``condition``, ``max_pole``
        As in `gramian.layers.reduction.Measurement`.
    """

    layer: str
    before: int
    after: int
    asked: int
    accepted: bool
    reason: str = ""
    seconds: float = 0.0
    tau: float | None = None
    tau_total: float | None = None
    norm: float | None = None
    bound: float | None = None
    measured: float | None = None
    h2_error: float | None = None
    order: int | None = None
    real_poles: int | None = None
    condition: float | None = None
    max_pole: float | None = None
    output_error: float | None = None
    held_out_error: float | None = None

    @classmethod
    def from_reduction(cls, layer: str, asked: int, reduction: Reduction, kept_before: float) -> LayerChange:
        """The record of a proposal; `asked` is the rank before rounding, `kept_before` what earlier cuts left."""
        m = reduction.measurement
        common = (layer, reduction.before, reduction.after, asked, reduction.accepted, reduction.reason)
        if m is None:
            return cls(*common, seconds=reduction.seconds)
        if isinstance(m, OutputError):
            return cls(
                *common,
                seconds=reduction.seconds,
                tau=m.discarded,
                tau_total=1 - kept_before * (1 - m.discarded),
                output_error=m.calibration,
                held_out_error=m.held_out,
            )
        return cls(
            *common,
            seconds=reduction.seconds,
            tau=m.discarded,
            tau_total=None if m.discarded is None else 1 - kept_before * (1 - m.discarded),
            norm=m.norm,
            bound=None if m.bound is None else _ratio(m.bound, m.norm),
            measured=_ratio(m.measured, m.norm),
            h2_error=_ratio(m.h2_error, m.h2_norm),
            order=m.order,
            real_poles=m.real_poles,
            condition=m.condition,
            max_pole=m.max_pole,
        )

    def __str__(self) -> str:
        if not self.accepted:
            return f"{self.layer}  stays at {self.before}: {self.reason}"
        if self.output_error is not None:
            held_out = "" if self.held_out_error is None else f", held out {self.held_out_error:.2g}"
            return (
                f"{self.layer}  {self.before} -> {self.after}   output error {self.output_error:.2g}{held_out}, "
                f"no a-priori guarantee   {self.seconds:.2f} s"
            )
        bound = "none" if self.bound is None else f"{self.bound:.2g}"
        measured = "none" if self.measured is None else f"{self.measured:.2g}"
        return (
            f"{self.layer}  {self.before} -> {self.after}   bound {bound}   measured {measured}   {self.seconds:.2f} s"
        )


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0


@dataclass(frozen=True)
class Event:
    """What one call of ``Compressor.step`` did.

    ``kind`` is ``"none"`` (nothing was due), ``"cut"``, ``"skipped"`` (a cut was due and was not made: ``reason``)
    or ``"rolled_back"``; a training loop may add ``"noted"``, something else to be known (``reason``). ``step`` is the
    optimizer step; after a roll-back, training goes on from ``resume_at``.
    """

    step: int
    kind: Kind
    layers: tuple[LayerChange, ...] = ()
    reason: str = ""
    seconds: float = 0.0
    resume_at: int | None = None

    @property
    def changed(self) -> bool:
        """Whether the model is different now."""
        return self.kind in ("cut", "rolled_back")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Event:
        """The event that `to_dict` described."""
        known = {f.name for f in fields(cls)}
        layers = tuple(LayerChange(**layer) for layer in record["layers"])
        return cls(**{k: v for k, v in record.items() if k in known} | {"layers": layers})

    def __str__(self) -> str:
        head = "" if self.kind == "cut" else f"{self.kind.replace('_', ' ')}: {self.reason}"
        return "\n".join(([head] if head else []) + [str(layer) for layer in self.layers])
