"""From a file back to a plain network that runs anywhere torch does."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .checkpoint import DataInfo, is_checkpoint, load_checkpoint
from .config import ModelConfig, Recipe
from .errors import ConfigError, SeedMaskError
from .inputs import AnyInput, ImageInput
from .mask.masking import to_dense
from .methods.presets import PRESETS, stored_recipe
from .models import AnyArchitecture, resolve
from .models.architecture import TORCHVISION
from .models.build import build_model
from .models.from_shapes import count_classes
from .models.state import load_state, mismatch, require_module, unused_counters, unwrapped
from .networks import resolve_device
from .pack import exact_network
from .rebuild import known_architecture, rebuild
from .seed.codebooks import get_codebook
from .seed.philox_torch import bytes_at, random_weights, weight_table, weights_at
from .seedmask import Network, SeedMask, Trained, read_seedmask
from .seedmask.bits import Row
from .seedmask.manifest import COMPACT
from .seedmask.multiplicity import MAX_MULTIPLICITY
from .seedmask.tensor_recovery import TensorRecovery
from .tensors import recovered_state

__all__ = [
    "LoadedNetwork",
    "PackedTicket",
    "data_info",
    "known_recipe",
    "load",
    "load_network",
    "load_ticket",
    "recover_on_device",
]


_AND_INPUT = " and --input 3x32x32:MEAN:STD, or, to export what takes other tensors, --tensor (see export --help)"
_NO_INPUT = (
    "the file does not say what the network takes: give --input 3x32x32:MEAN:STD (see --help); in Python "
    "pack(…, input=ImageInput(shape, mean, std))"
)


@dataclass(frozen=True)
class LoadedNetwork:
    """A plain network in evaluation mode, and what its file says about it.

    Attributes:
        model: stock layers only, on the CPU.
        data: data set, classes and input; ``None`` if the file does not say what the network takes.
        recipe: settings of the run; ``None`` if the file does not hold a recipe this version knows.
        digest: of the recovered weights (sha256, hex); ``None`` for a checkpoint.
        sparsity: fraction of the masked weights that is pruned; ``None`` for a checkpoint.
        masked: returns seed, masks and logs of the weights: the open ``.seedmask`` file, or the network that a
            checkpoint would be packed as; ``None`` if no weights are masked.
        unfinished: where its run stands, if that is not complete.
        untrained: whether the file is a ticket alone, whose weights are those that training is to begin with.
    """

    model: nn.Module
    data: DataInfo | None
    recipe: Recipe | None
    digest: str | None = None
    sparsity: float | None = None
    masked: Callable[[], SeedMask | Network | None] = lambda: None
    unfinished: str | None = None
    untrained: bool = False

    def known_data(self, path: str | Path) -> DataInfo:
        """``data``, for a command that cannot do without.

        Raises:
            ConfigError: the file does not say what the network takes; ``path`` is for the message.
        """
        if self.data is None:
            raise ConfigError(f"{path}: {_NO_INPUT}")
        return self.data


def recover_on_device(
    seedmask: SeedMask, device: str | torch.device, names: Sequence[str] | None = None
) -> dict[str, Tensor]:
    """Compute the masked weights of a file with torch, on any device, and compare them with their digests on the host.

    Payloads are decoded on the CPU and travel as they are packed, trained values as they are stored; the random numbers
    of weights are made on the device.

    Args:
        seedmask: an open file.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        names: which masked tensors; by default all.

    Returns:
        float32 weights by name, on the device.

    Raises:
        ConfigError: an unknown device, or one that this machine does not have.
        SeedMaskError: the file is damaged, or the device computes other weights than those that were packed.
    """
    where = device if isinstance(device, torch.device) else resolve_device(device)

    digests: dict[str, str] = {}

    def weights(recovery: TensorRecovery) -> tuple[Tensor, str]:
        computed = _weights_on(recovery, where)
        host = np.ascontiguousarray(computed.cpu().numpy(), "<f4")
        digests[recovery.name] = hashlib.sha256(host.data).hexdigest()
        return computed.view(recovery.shape), digests[recovery.name]

    def refuse_device(recovery: TensorRecovery) -> tuple[None, str]:
        digest = recovery.digest()
        got = digests.get(recovery.name, digest)
        if got != digest and digest == (recovery.sha256 or digest):
            raise SeedMaskError(
                f"{seedmask.path}: tensor {recovery.name!r}: {where} computed weights with SHA-256 {got}, expected "
                f"{digest}; the file is whole: recover without --device, and report the device"
            )
        return None, digest

    try:
        return {recovery.name: computed for recovery, computed in seedmask.map(weights, names)}
    except SeedMaskError:
        seedmask.verify()  # raises if the file is damaged
        for _ in seedmask.map(refuse_device, names):
            pass
        raise


@torch.no_grad()
def _weights_on(recovery: TensorRecovery, device: torch.device) -> Tensor:
    """All weights of a tensor, float32 ``[n]``."""
    if recovery.trained is not None:
        return _trained_on(recovery.mask, recovery.trained, device)
    book, log = get_codebook(recovery.codebook), recovery.log
    address = recovery.seed, recovery.index, book, recovery.scale
    weights = random_weights(*address, recovery.mask.count, device)
    mask = _upload(recovery.mask, device)
    if log.kind != "none":
        kept, values = mask.nonzero().squeeze(1), _upload(log.row, device)
        changed = values.nonzero().squeeze(1)
        index = kept[changed]
        if log.kind == "draws":
            weights[index] = weights_at(*address, index, values[changed])
        elif log.kind == "deltas":
            table = weight_table(book, recovery.scale, device)
            own = bytes_at(recovery.seed, recovery.index, index, torch.zeros_like(index))
            weights[index] = table[own ^ values[changed].long()]
        else:
            table = weight_table(book, recovery.scale, device)
            first, second = table[0], table[-1]
            weights[index] = torch.where(weights[index] == first, second, first)
    if recovery.multiplicity is not None:
        # Codes are -1 and 1: a product has the sign of the code and the magnitude of multiplicity times scale, rounded
        # once.
        multiples = np.arange(1, MAX_MULTIPLICITY + 1, dtype=np.float32)
        magnitudes = torch.from_numpy(multiples * recovery.scale).to(device)
        kept = mask.nonzero().squeeze(1)
        weights[kept] = magnitudes[_upload(recovery.multiplicity.row, device).long()].copysign(weights[kept])
    return weights.masked_fill_(mask == 0, 0.0)


def _trained_on(mask: Row, trained: Trained, device: torch.device) -> Tensor:
    """All weights of a tensor whose values were trained, float32 ``[n]``."""
    kept = _upload(mask, device).nonzero().squeeze(1)
    values = torch.from_numpy(np.array(trained.values)).to(device).float()
    if trained.scales is not None:
        rows = kept.div(mask.count // len(trained.scales), rounding_mode="floor")
        values *= torch.from_numpy(np.array(trained.scales)).to(device)[rows]
    weights = torch.zeros(mask.count, dtype=torch.float32, device=device)
    weights[kept] = values
    return weights


def _upload(row: Row, device: torch.device) -> Tensor:
    """Values of a row, uint8 ``[count]``; bits travel packed."""
    symbols = torch.from_numpy(np.array(row.symbols)).to(device)
    if row.width > 1:
        return symbols
    shifts = torch.arange(8, dtype=torch.uint8, device=device)
    return (symbols.unsqueeze(1) >> shifts & 1).reshape(-1)[: row.count]


def load(path: str | Path, model: nn.Module | None = None, *, max_weights: int | None = None) -> nn.Module:
    """Recover a network from a ``.seedmask`` file, bit for bit.

    Args:
        path: the file.
        model: a plain module to load into; by default the built-in architecture that the file names. The file holds its
            state dict: what the module keeps beside that, such as a permutation that its constructor draws, must be as
            it was in training, which is the caller's affair. Its types must hold what the file holds: float32.
        max_weights: refuse files that declare more weights; see ``read_seedmask``.

    Returns:
        ``model``, or the new module, in evaluation mode.

    Raises:
        SeedMaskError: the file is damaged or does not fit the module, or the module would round it.
        ConfigError: the file names no built-in architecture and no module was given, or ``model`` is none.
    """
    return _recovered(read_seedmask(Path(path), max_weights=max_weights), model, None)


def _recovered(
    file: SeedMask,
    model: nn.Module | None,
    name: str | None,
    input: AnyInput | None = None,  # noqa: A002
) -> nn.Module:
    if model is None:
        architecture = _architecture(file, name, input)
        model = build_model(architecture, seed=int(file.manifest.seed, 16), allow_import=name is not None)
        state = recovered_state(file)
    else:
        require_module(model)
        state = recovered_state(file)
        _refuse_rounding(unwrapped(model), state, file)
    if file.manifest.form == COMPACT:  # which leaves them out
        missing = unused_counters(model) - set(state)
        state |= {name: value.new_zeros(()) for name, value in unwrapped(model).state_dict().items() if name in missing}
    try:
        load_state(unwrapped(model), state)
    except RuntimeError as error:
        raise SeedMaskError(f"{file.path}: does not fit the model: {mismatch(error)}") from None
    return model.eval()


def _refuse_rounding(model: nn.Module, state: Mapping[str, Tensor], file: SeedMask) -> None:
    """Refuse a module that would not hold the values of a file bit for bit, as PyTorch rounds without a word."""
    own = model.state_dict()
    for name, value in state.items():
        mine = own.get(name)
        if not isinstance(mine, Tensor) or mine.dtype == value.dtype:
            continue
        if torch.promote_types(mine.dtype, value.dtype) != mine.dtype:
            raise SeedMaskError(
                f"{file.path}: {name}: the file holds {value.dtype}, the module {mine.dtype}, which would round it: "
                f"load it into a module of {value.dtype}, and convert that yourself (model.to({mine.dtype}))"
            )


def _architecture(file: SeedMask, name: str | None, input: AnyInput | None) -> AnyArchitecture:  # noqa: A002
    """What the file says, with a name that the user gave; or all that follows from that name."""
    said = file.manifest.architecture
    if said is not None:
        return known_architecture({**said, **({"name": name} if name else {})}, file.path)
    taken = file.manifest.input or input
    if name is None:
        both = taken is None
        raise ConfigError(
            f"{file.path}: the file does not say which architecture it is{', nor what the network takes' * both}: give "
            f"--model NAME (torchvision:resnet18, package.module:factory){_AND_INPUT * both}; in "
            f"Python load(path, model=module), or pack(…, architecture=NAME{', input=ImageInput(…)' * both})"
        )
    if taken is None and (":" not in name or name.startswith(TORCHVISION)):
        raise ConfigError(f"{file.path}: {_NO_INPUT}")
    taken = taken or ImageInput((1, 1, 1), 0, 1)  # code of the user's is called with the number of classes alone
    shapes = {entry.name: tuple(entry.shape) for entry in file.tensors}
    shapes |= {key: stored.shape for key, stored in file.state().items()}
    model = ModelConfig(name=name)
    if file.manifest.classes is None:
        count = count_classes(model, shapes, input=taken, allow_import=True)
    else:
        count = len(file.manifest.classes)
    return resolve(model, num_classes=1 if count is None else count, input=taken)


def load_network(
    path: str | Path,
    *,
    model: str | None = None,
    input: AnyInput | None = None,  # noqa: A002
    max_weights: int | None = None,
) -> LoadedNetwork:
    """Load a ``.seedmask`` file or a checkpoint as a plain network.

    Args:
        path: the file; a checkpoint is recognised by its content.
        model: name of the model, for files whose architecture is the user's own code, or that name none.
        input: what the network takes, for files that do not say it.
        max_weights: refuse ``.seedmask`` files that declare more weights; see ``read_seedmask``.

    Raises:
        ConfigError: the file lacks something that is not given, or says that the network takes something else;
            ``model`` is no name.
        IterandError: the file is damaged, or its architecture is unknown here.
    """
    path = Path(path)
    if model is not None and not isinstance(model, str):
        raise ConfigError(
            f"model: expected a name (torchvision:resnet18, package.module:factory), got {type(model).__name__}; of a "
            ".seedmask file, load(path, model=module) takes a module"
        )
    if is_checkpoint(path):
        network = _from_checkpoint(path, model)
    else:
        file = read_seedmask(path, max_weights=max_weights)
        plain, recipe = _recovered(file, None, model, input), known_recipe(file)
        ticket = recipe is not None and recipe.subnetwork.prune is not None
        network = LoadedNetwork(
            plain,
            data_info(file, input),
            recipe,
            file.weights_digest,
            file.sparsity,
            lambda: file,
            untrained=ticket and all(entry.values is None for entry in file.tensors),
        )
    if input is not None and network.data is not None and network.data.input != input:
        raise ConfigError(f"{path}: the file says that it takes {network.data.input}; leave out --input (input=)")
    return network


def data_info(file: SeedMask, input: AnyInput | None = None) -> DataInfo | None:  # noqa: A002
    """What a file says about its data; ``None`` if nothing says what an input is.

    Args:
        file: an open file.
        input: what the network takes, if the file does not say it.
    """
    manifest = file.manifest
    taken = manifest.input or input
    if taken is None:
        return None
    section = (manifest.recipe or {}).get("data")
    name = str(section.get("name", "")) if isinstance(section, dict) else ""
    return DataInfo(name, list(manifest.classes or []), taken)


def known_recipe(file: SeedMask) -> Recipe | None:
    """Settings of the run that a file comes from; ``None`` if it holds none that this version knows."""
    if file.manifest.recipe is None:
        return None
    try:
        return stored_recipe(file.manifest.recipe, f"{file.path}: recipe")
    except ConfigError:
        return None  # written by another version; the weights do not depend on it


@dataclass(frozen=True)
class PackedTicket:
    """A mask that was found before training.

    Attributes:
        masks: bool ``[n]`` by the names of weights, as ``RunOptions`` takes them.
        recipe: settings of the run that found it; ``None`` if the file does not hold a recipe this version knows.
    """

    masks: dict[str, NDArray[np.bool_]]
    recipe: Recipe | None


def load_ticket(path: str | Path, *, max_weights: int | None = None) -> PackedTicket:
    """Read a ticket from a ``.seedmask`` file. Trained values, if the file has them, are left aside.

    Args:
        path: the file.
        max_weights: refuse files that declare more weights; see ``read_seedmask``.

    Raises:
        SeedMaskError: the file is damaged.
        ConfigError: its masks were not found before training.
    """
    file = read_seedmask(Path(path), max_weights=max_weights)
    recipe = known_recipe(file)
    if recipe is not None and recipe.subnetwork.prune is None:
        tickets = ", ".join(name for name, preset in PRESETS.items() if preset().prune)
        raise ConfigError(
            f"{path}: its masks belong to untrained weights; they come from {recipe.subnetwork.method}, which finds "
            f"them in training; a ticket comes from one of {tickets}"
        )
    return PackedTicket({entry.name: file.mask(entry.name) for entry in file.tensors}, recipe)


def _from_checkpoint(path: Path, model: str | None) -> LoadedNetwork:
    checkpoint = load_checkpoint(path)
    network = rebuild(checkpoint, path, model)

    plain = to_dense(network).eval()
    return LoadedNetwork(
        plain,
        checkpoint.data,
        checkpoint.recipe,
        masked=lambda: exact_network(checkpoint),
        unfinished=checkpoint.unfinished,
    )
