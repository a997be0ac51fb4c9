"""Models of transformers whose layers differ in their number of states: written, and read again.

Two layouts. ``"per_layer"`` keeps every layer as it is, and its size in the configuration's own words::

    "state_size": 16, "per_layer_config": {"0": {"state_size": 12}, "3": {"state_size": 5}}

transformers understands that format in configurations, but not yet in models: its ``from_pretrained`` stops, ours
resizes the layers before the weights are read. ``"uniform"`` fills all layers up to the largest size with states that
do nothing; the outputs are the same, and every program that reads the original reads it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from gramian.errors import CheckpointError, ConfigError, GramianError, did_you_mean
from gramian.layers.adapters.delta_rule import DeltaRuleAdapter
from gramian.layers.adapters.layouts import with_states
from gramian.layers.adapters.mixers import MixerAdapter
from gramian.layers.reducible import assign_, reducible_layers

__all__ = ["from_pretrained", "record_sizes_", "save_pretrained"]

LAYOUTS = ("per_layer", "uniform")


def save_pretrained(
    model: nn.Module, folder: str | Path, layout: Literal["per_layer", "uniform"] = "per_layer", **options: Any
) -> None:
    """Write a model of transformers that was cut, with its configuration.

    Parameters
    ----------
    layout
        ``"per_layer"`` for `from_pretrained` below; where all layers have one size, transformers reads it too.
        ``"uniform"`` for any reader: layers are filled up to the largest size with rows of zeros.
    options
        For the model's own ``save_pretrained``.
    """
    if layout not in LAYOUTS:
        raise ConfigError(
            f"layout '{layout}' was given; needed: {' or '.join(LAYOUTS)}.{did_you_mean(layout, LAYOUTS)}"
        )
    net: Any = model
    mixers = _mixers(model)
    sizes = _sizes(mixers)
    if layout == "uniform" and sizes:
        options["state_dict"] = _filled(model, mixers, max(sizes.values()))
        sizes = dict.fromkeys(sizes, max(sizes.values()))
    with _described(_text_config(net.config), _size_key(mixers), sizes):
        net.save_pretrained(folder, **options)


def from_pretrained(folder: str | Path, model_class: Any = None, **options: Any) -> Any:
    """Read a model that `save_pretrained` wrote, or any other of transformers; in evaluation mode.

    Parameters
    ----------
    model_class
        ``AutoModelForCausalLM``, say, or a model's own class; by default the class that was saved.
    options
        For the ``from_pretrained`` of transformers: ``dtype``, ``device_map``, ...

    Raises
    ------
    CheckpointError
        If there is no model in the folder, or weights are missing or of other sizes than the configuration says.
    """
    import transformers

    if not (Path(folder) / "config.json").is_file():
        raise CheckpointError(
            f"'{folder}' holds no model of transformers: there is no config.json in it.",
            cure="Give a folder that save_pretrained wrote.",
        )
    try:
        config = transformers.AutoConfig.from_pretrained(
            folder, trust_remote_code=options.get("trust_remote_code", False)
        )
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"the configuration in '{folder}' cannot be read: {error}") from error
    kind = _class_for(config, model_class, str(folder))
    sizes = _declared(_text_config(config), str(folder))
    plain = copy.deepcopy(config)
    _text_config(plain).per_layer_config = None
    try:
        model, found = _resizing(kind, sizes).from_pretrained(folder, config=plain, output_loading_info=True, **options)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"the model in '{folder}' cannot be loaded: {error}") from error
    lost = sorted(map(str, [*found["missing_keys"], *found["mismatched_keys"]]))
    if lost:
        raise CheckpointError(
            f"the model in '{folder}' is not complete: {', '.join(lost[:3])}{' ...' if len(lost) > 3 else ''}.",
            "These weights are missing or have other sizes than config.json says.",
        )
    model.__class__ = kind
    if sizes:
        for mixer in _mixers(model).values():
            mixer.resized_()
        record_sizes_(model)
    return model


def record_sizes_(model: nn.Module) -> None:
    """Let the configuration say how many states every layer has now.

    With it, the model's own ``save_pretrained`` writes what `from_pretrained` reads. Where layers differ, asking the
    configuration for one size of all is an error from then on.
    """
    net: Any = model
    mixers = _mixers(model)
    _describe_(_text_config(net.config), _size_key(mixers), _sizes(mixers))


def _mixers(model: nn.Module) -> dict[str, MixerAdapter]:
    """Those whose sizes can differ; mixers that cannot be cut are as the configuration says."""
    layers = {n: layer for n, layer in reducible_layers(model).items() if not isinstance(layer, DeltaRuleAdapter)}
    strange = [name for name, layer in layers.items() if not isinstance(layer, MixerAdapter)]
    if strange or not hasattr(model, "config"):
        what = f"layer '{strange[0]}'" if strange else type(model).__name__
        raise GramianError(
            f"{what} is not one of transformers' mixers, whose sizes a configuration of transformers could tell.",
            "The size of each layer has to be written down for whoever reads the weights.",
            "Save model.state_dict() and, to load it, call gramian.resize_like_(model, state_dict) first.",
        )
    return {name: layer for name, layer in layers.items() if isinstance(layer, MixerAdapter)}


def _sizes(mixers: Mapping[str, MixerAdapter]) -> dict[int, int]:
    return {mixer.layer_index: mixer.d_state for mixer in mixers.values()}


def _size_key(mixers: Mapping[str, MixerAdapter]) -> str:
    return next((mixer.size_key for mixer in mixers.values()), "")


def _text_config(config: Any) -> Any:
    """The part of a configuration that describes the layers."""
    return config.get_text_config()


def _describe_(config: Any, key: str, sizes: Mapping[int, int]) -> None:
    if not sizes:
        return
    overrides = {int(layer): dict(values) for layer, values in config.to_dict().get("per_layer_config", {}).items()}
    config.per_layer_config = None
    setattr(config, key, max(sizes.values()))
    for layer, size in sizes.items():
        overrides.setdefault(layer, {})[key] = size
    config.per_layer_config = overrides
    if not config.per_layer_attributes:
        config.per_layer_config = None


@contextmanager
def _described(config: Any, key: str, sizes: Mapping[int, int]) -> Iterator[None]:
    """The sizes in the configuration for as long as it takes to write it."""
    before = dict(vars(config))
    _describe_(config, key, sizes)
    try:
        yield
    finally:
        vars(config).clear()
        vars(config).update(before)


def _filled(model: nn.Module, mixers: Mapping[str, MixerAdapter], size: int) -> dict[str, Tensor]:
    """The state dictionary with `size` states in every layer."""
    filled: dict[int, Tensor] = {}
    for mixer in mixers.values():
        parameters = dict(mixer.module.named_parameters())
        for name, value in with_states(mixer.layout(), parameters, mixer.d_state, size).items():
            filled[id(parameters[name])] = value
    names = {name: filled[id(p)] for name, p in model.named_parameters() if id(p) in filled}
    return {**model.state_dict(), **names}


def _class_for(config: Any, model_class: Any, folder: str) -> Any:
    import transformers

    if model_class is None:
        name = (config.architectures or ["AutoModel"])[0]
        model_class = getattr(transformers, name, None)
        if model_class is None:
            raise CheckpointError(
                f"'{folder}' holds a {name}, which transformers {transformers.__version__} does not know.",
                cure="Give the class: from_pretrained(folder, model_class=...).",
            )
    mapping = getattr(model_class, "_model_mapping", None)
    return model_class if mapping is None else mapping[type(config)]


def _declared(config: Any, folder: str) -> dict[int, dict[str, int]]:
    """What the configuration says of single layers."""
    overrides = config.to_dict().get("per_layer_config", {})
    return {int(layer): values for layer, values in overrides.items()}


def _resizing(kind: Any, sizes: Mapping[int, Mapping[str, int]]) -> Any:
    """`kind`, with layers that take their own sizes as soon as they are made; buffers follow after loading."""
    if not sizes:
        return kind

    def __init__(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:
        kind.__init__(self, config, *args, **kwargs)
        for mixer in _mixers(self).values():
            own = sizes.get(mixer.layer_index, {})
            size = own.get(mixer.size_key, mixer.d_state)
            parameters = dict(mixer.module.named_parameters())
            for name, value in with_states(mixer.layout(), parameters, mixer.d_state, size).items():
                assign_(parameters[name], value)

    return type(kind.__name__, (kind,), {"__init__": __init__, "__module__": kind.__module__})
