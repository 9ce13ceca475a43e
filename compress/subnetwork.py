"""A subnetwork in training: one object over a model, whose `step` follows ``optimizer.step()``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from .config import ModelConfig, SubnetworkConfig
from .errors import CheckpointError, ConfigError
from .inputs import AnyInput
from .mask.fused import FusedForward
from .mask.layers import cached_masks, masked_layers
from .mask.masking import mask_model, refresh, require_settings, to_dense, update_kept_counts
from .mask.prune_at_init import Sample, find_masks
from .mask.rates import OptimizerName, score_groups
from .pack import pack

if TYPE_CHECKING:
    from .mask.maskable import LayerFilter
    from .seedmask import PackReport

__all__ = ["Subnetwork", "prune_at_init"]


class Subnetwork:
    """The subnetwork that is searched for in a model, or the pruned network that is trained.

    The model is changed in place: its weights become random numbers of the seed under a mask, its parameters scores
    (or, for methods that prune at initialisation, pruned weights). It is then trained, copied, moved and saved like
    any other module. On a GPU, each forward pass in training computes the weights of all layers together.

    Example:
        >>> import torch, iterand_compress as ic
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        >>> subnet = ic.Subnetwork(model, ic.IteRand(sparsity=0.5, every=2))
        >>> optimizer = torch.optim.SGD(subnet.param_groups(lr=0.1), momentum=0.9)
        >>> for _ in range(4):
        ...     loss = nn.functional.cross_entropy(model(torch.randn(32, 8)), torch.randint(4, (32,)))
        ...     optimizer.zero_grad(); loss.backward(); optimizer.step()
        ...     changed = subnet.step()
        >>> plain = subnet.to_dense()
        >>> int((plain[0].weight == 0).sum())
        64

    Args:
        model: any module; every layer of a maskable type is taken, except weights whose ``requires_grad`` is off: these
            stay as they are, and a file holds them as they are, in its state. All others get new, random values: a
            `DiscardedWeightsWarning` tells if they look trained.
        config: the method, made by `IteRand`, `EdgePopup`, `Snip` and the like.
        filter_fn: called with a layer and its name; return ``False`` to leave a layer as it is.
        steps_per_epoch: training steps of an epoch; needed by methods that count epochs (ramps, soft masks, Weight
            Recycling).
        epochs: of the whole run; likewise. With both, nothing is refreshed after the last step.

    Attributes:
        model: the model.
        config: the method.
        steps: how many training steps are done.

    Raises:
        ConfigError: a layer that cannot be masked, or a method that counts epochs without their number. The model is
            as it was.
        SeedMaskError: an entry of the state dict that no file can hold.
    """

    def __init__(
        self,
        model: nn.Module,
        config: SubnetworkConfig,
        *,
        filter_fn: LayerFilter | None = None,
        steps_per_epoch: int | None = None,
        epochs: int | None = None,
    ) -> None:
        require_settings(config)
        selection = config.selection
        counts_epochs = config.recycle is not None or (selection and (selection.ramp_epochs or selection.softness))
        if counts_epochs and (steps_per_epoch is None or epochs is None):
            raise ConfigError(
                f"{config.method}: ramps, soft masks and Weight Recycling count epochs; give Subnetwork() "
                "steps_per_epoch= and epochs="
            )
        for name, number in (("steps_per_epoch", steps_per_epoch), ("epochs", epochs)):
            if number is not None and number < 1:
                raise ConfigError(f"{name}: expected at least 1, got {number}")
        self.model = mask_model(model, config, filter_fn=filter_fn, warn=2)
        self.config, self.steps = config, 0
        self._steps_per_epoch, self._epochs = steps_per_epoch, epochs
        self._fused = FusedForward.register(model) if masked_layers(model) else None
        self._refresh()

    def step(self) -> bool:
        """Call after each ``optimizer.step()``: do what the method does before the next training step.

        Returns:
            Whether random weights changed.
        """
        self.steps += 1
        per_epoch, epochs = self._steps_per_epoch, self._epochs
        if per_epoch is not None and epochs is not None and self.steps >= epochs * per_epoch:
            layers = masked_layers(self.model)
            update_kept_counts(layers, epochs - 1)  # by the scores that this step left
            for _, masked, _ in layers:
                masked.soften(1.0)
            return False
        return self._refresh()

    def _refresh(self) -> bool:
        layers = masked_layers(self.model)
        return refresh(
            layers,
            self.steps,
            steps_per_epoch=self._steps_per_epoch,
            epochs=self._epochs,
            fused=self._fused.together(layers) if self._fused else None,
        )

    def param_groups(
        self, lr: float, weight_decay: float = 0.0, *, optimizer: OptimizerName = "sgd"
    ) -> list[dict[str, Any]]:
        """What an optimizer takes instead of ``model.parameters()``, to train scores at learning rates of weights.

        ``torch.optim.SGD(subnet.param_groups(lr=0.5, weight_decay=5e-4), momentum=0.9)`` moves the scores of each layer
        as fast, relative to their size, as the same settings would move its weights in dense training. It is meant for
        networks with normalisation layers; without such layers it may be too fast.

        Args:
            lr: learning rate, in units of the weights: 0.2 to 2 with SGD, batches of 256 and normalisation layers.
            weight_decay: likewise.
            optimizer: that the groups are for: ``sgd``, ``adam`` or ``adamw``.

        Returns:
            One group for the scores of each layer, and one for all other parameters.

        Raises:
            ConfigError: another optimizer, or a rate that is not positive.
        """
        return score_groups(self.model, lr, weight_decay, optimizer=optimizer)

    @contextmanager
    def cached_weights(self) -> Iterator[None]:
        """Compute all masks once and reuse them inside the block, where scores must not change.

        For several forward passes in one step, as in gradient accumulation.
        """
        layers = masked_layers(self.model)
        fused = self._fused.together(layers) if self._fused else None
        with fused.cached_weights() if fused else cached_masks(layers):
            yield

    def state_dict(self) -> dict[str, Any]:
        """The position of the search; scores and draws are in the state dict of the model."""
        return {"steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from the position of another run, whose model's state dict is loaded beside it.

        Raises:
            CheckpointError: it is not what `state_dict` gave.
        """
        steps = state.get("steps")
        if set(state) != {"steps"} or type(steps) is not int or steps < 0:
            raise CheckpointError(f"subnetwork state: expected a number of steps, got {state!r:.100}")
        self.steps = steps

    def to_dense(self) -> nn.Module:
        """A copy of the model made of stock layers only, with bit-equal weights.

        Raises:
            ConfigError: the model cannot be copied, or a layer was parametrized by others as well.
        """
        return to_dense(self.model)

    def pack(
        self,
        path: str | Path,
        *,
        input: AnyInput | None = None,  # noqa: A002
        classes: Sequence[str] | None = None,
        architecture: str | ModelConfig | None = None,
        coding: str = "auto",
        state_dtype: str = "exact",
        with_weights: str | None = None,
        form: str = "json",
    ) -> PackReport:
        """Write the subnetwork to a ``.seedmask`` file, which is replaced atomically.

        Args:
            path: the file.
            input: `ImageInput` or `TextInput`: what the network takes, for commands that evaluate or export the file.
            classes: names of the classes, in the order of the outputs.
            architecture: the plain module's name, as ``--model`` takes it (``torchvision:resnet18``), or a
                `ModelConfig`, with which the file is a network without further words; it needs ``input``. See `pack`.
            coding: of masks and logs: ``auto`` (as small as it gets), ``raw`` or ``rans``.
            state_dtype: ``exact``, or ``float16`` to round the unmasked state, which changes outputs a little, or
                ``folded`` to put BatchNorm's statistics into its weight and bias before that, for inference alone.
            with_weights: of a network that was pruned at initialisation: ``float32`` (exact), ``float16`` or ``int8``
                to store the trained weights too, ``initial`` to store the mask alone.
            form: of the file: ``json``, or ``compact``, which is smaller by some kilobytes. See `pack`.

        Raises:
            SeedMaskError: trained weights would be lost, nothing was pruned yet, a value of the state does not fit its
                dtype, or the file cannot be written.
            ConfigError: there is no such coding, dtype or form; something else was put on top of a mask; the model is
                of another architecture.
        """
        return pack(
            self.model,
            path,
            input=input,
            classes=classes,
            architecture=architecture,
            coding=coding,
            state_dtype=state_dtype,
            with_weights=with_weights,
            form=form,
        )


def prune_at_init(subnet: Subnetwork, inputs: Sample | tuple[int, ...] | None = None) -> None:
    """Find the mask of a method that prunes at initialisation. Training and packing refuse a network without it.

    Args:
        subnet: of `Snip`, `Grasp`, `SynFlow`, `MagnitudePruning` or `RandomPruning`.
        inputs: for SNIP and GraSP, a sample with all classes: inputs of the network ``[B, …]`` and labels int64
            ``[B]``; for SynFlow, the shape of one input.

    Raises:
        ConfigError: another method, a layer that the method cannot score, or inputs are missing.
    """
    if not isinstance(subnet, Subnetwork):
        raise ConfigError(f"prune_at_init: expected a Subnetwork, got {type(subnet).__name__}")
    find_masks(subnet.model, subnet.config, inputs)
