"""Weights trained in few bits: the quantisers, their files, and the width that a number of bytes allows."""

from dataclasses import replace

import baselines
import numpy as np
import pytest
import torch
from quantisers import QUANTISERS, Pruned, attach, quantised

from iterand_compress.compress.models.architecture import Architecture
from iterand_compress.compress.models.build import build_model

ARCHITECTURE = Architecture(name="airbench", num_classes=10, in_channels=3, image_size=12, width=0.125, affine=True)


def reference(method: str, rows: np.ndarray) -> np.ndarray:
    """The weights of each row, one after the other."""
    out = np.empty_like(rows)
    for i, row in enumerate(rows):
        size = np.abs(row)
        if method == "binary":
            out[i] = np.where(row >= 0, 1, -1) * size.mean()
        elif method == "ternary":
            kept = size > 0.7 * size.mean()
            out[i] = np.sign(row) * kept * size[kept].mean()
        else:
            step = size.max() / {"int4": 7, "int8": 127}[method]
            out[i] = np.round(row / step) * step
    return out


def network(seed: int = 0) -> torch.nn.Module:
    """A network in which every number of the state is another."""
    model, generator = build_model(ARCHITECTURE, seed=seed), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                value.copy_(torch.randn(value.shape, generator=generator).abs() + 0.1 if value.dim() == 1 else value)
    return model


@pytest.mark.parametrize("method", QUANTISERS)
def test_quantisers_give_the_weights_of_their_formulas_and_pass_gradients_through(method):
    weight = torch.randn(5, 3, 3, 3, generator=torch.Generator().manual_seed(1)).requires_grad_()
    out = quantised(QUANTISERS[method], weight)
    expected = reference(method, weight.detach().double().numpy().reshape(5, -1)).reshape(weight.shape)
    np.testing.assert_allclose(out.detach().numpy(), expected, rtol=1e-5, atol=1e-6)
    upstream = torch.randn(weight.shape, generator=torch.Generator().manual_seed(2))
    out.backward(upstream)
    assert torch.equal(weight.grad, upstream)


def test_pruning_grows_and_keeps_the_largest_magnitudes_and_their_gradients():
    weight = torch.randn(10, 10, generator=torch.Generator().manual_seed(1)).requires_grad_()
    counts = [int((Pruned(0.9, done)(weight) != 0).sum()) for done in (0, 1 / 6, 5 / 12, 2 / 3, 1)]
    assert counts == [100, 100, 100 - round(90 * (1 - 0.5**3)), 10, 10]
    out = Pruned(0.9)(weight)
    kept = np.sort(np.abs(weight.detach().numpy()).ravel())[-10:]
    np.testing.assert_array_equal(np.sort(np.abs(out.detach().numpy()[out.detach().numpy() != 0])), kept)
    out.sum().backward()
    assert torch.equal(weight.grad, (out != 0).float())


@pytest.mark.parametrize("state", ["float32", "float16"])
@pytest.mark.parametrize("method", baselines.METHODS)
def test_a_file_holds_the_very_network(method, state):
    model = network()
    read = baselines.from_bytes(baselines.to_bytes(model, ARCHITECTURE, method, state))
    names = dict(baselines.layers(model))
    for name, value in read.state_dict().items():
        own = model.state_dict()[name]
        if name in names:
            symbols, scales = QUANTISERS[baselines.stored_as(method)](baselines.final_weights(method, own))
            own = (symbols * scales.to(getattr(torch, state)).float()[:, None]).view_as(own)
        elif own.is_floating_point():
            own = own.to(getattr(torch, state)).float()
        assert torch.equal(value, own), name


@pytest.mark.parametrize("method", ["binary", "ternary", "int4"])
def test_the_network_of_the_file_is_the_one_that_was_trained(method):
    model = network()
    read = baselines.from_bytes(baselines.to_bytes(model, ARCHITECTURE, method))
    attach(model, lambda weight: quantised(QUANTISERS[method], weight))
    images = torch.rand(4, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(read.eval()(images), model.eval()(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", ["binary", "int8", "pruned-95"])
def test_the_width_is_the_largest_that_is_within_the_bytes(method):
    width = baselines.width_within(9000, ARCHITECTURE, method)
    sizes = []
    for each in (width, width + 1 / 256):
        architecture = replace(ARCHITECTURE, width=each)
        sizes.append(len(baselines.to_bytes(build_model(architecture, seed=0), architecture, method)))
    assert sizes[0] <= 9000 < sizes[1]
    with pytest.raises(SystemExit, match="--bytes 100: no width of int8"):
        baselines.width_within(100, ARCHITECTURE, "int8")
