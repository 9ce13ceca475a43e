"""The airbench network: whitening does what its name says, and its shapes are those of the source."""

import numpy as np
import pytest
import torch
from torch import nn

import iterand_compress as ic
from iterand_compress.compress.mask.layers import masked_layers
from iterand_compress.compress.models import Architecture
from iterand_compress.compress.models.airbench import Whitening, fit_whitening
from iterand_compress.compress.models.build import build_model


def built(width: float = 1.0, shape: tuple[int, int] = (3, 32), *, affine: bool = True) -> nn.Module:
    arch = Architecture("airbench", 10, *shape, width=width, activation="gelu", affine=affine)
    return build_model(arch, seed=0)


def smooth_images(count: int = 300) -> torch.Tensor:
    """Neighbouring pixels and channels alike, as in pictures."""
    noise = torch.randn(count, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    smooth = nn.functional.avg_pool2d(noise, 3, stride=1)
    return smooth + 0.5 * smooth.mean(dim=1, keepdim=True)


def test_whitened_patches_are_uncorrelated():
    images, layer = smooth_images(), Whitening(3)
    layer.fit(images)
    out = layer(images)
    assert out.shape == (300, 24, 9, 9)
    torch.testing.assert_close(out[:, 12:], -out[:, :12])
    values = out[:, :12].transpose(0, 1).reshape(12, -1).double().detach().numpy()
    covariance = values @ values.T / values.shape[1]
    off = covariance - np.diag(np.diag(covariance))
    assert np.abs(off).max() < 1e-5
    # A variance v becomes v / (v + 5e-4), as the reference computes it.
    patches = nn.functional.unfold(images.double(), 2).transpose(1, 2).reshape(-1, 12).numpy()
    variances = np.sort(np.linalg.eigvalsh(patches.T @ patches / len(patches)))[::-1]
    np.testing.assert_allclose(np.diag(covariance), variances / (variances + 5e-4), rtol=1e-4)


def test_filters_do_not_depend_on_how_many_images_are_looked_at_together(monkeypatch):
    images, layers = smooth_images(), (Whitening(3), Whitening(3))
    layers[0].fit(images)
    monkeypatch.setattr("iterand_compress.compress.models.airbench._AT_ONCE", 7)
    layers[1].fit(images)
    torch.testing.assert_close(layers[0].weight, layers[1].weight, rtol=1e-4, atol=1e-5)
    largest = layers[0].weight.flatten(1).gather(1, layers[0].weight.flatten(1).abs().argmax(1, keepdim=True))
    assert (largest > 0).all(), "of an eigenvector and its negative, one is chosen by its largest entry"


def test_shapes_are_those_of_the_source():
    model = built()
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert [tuple(layer.weight.shape) for layer in layers] == [
        (64, 24, 3, 3),
        (64, 64, 3, 3),
        (256, 64, 3, 3),
        (256, 256, 3, 3),
        (256, 256, 3, 3),
        (256, 256, 3, 3),
        (10, 256),
    ]
    assert sum(layer.weight.numel() for layer in layers) == 1_970_176
    assert {m.momentum for m in model.modules() if isinstance(m, nn.BatchNorm2d)} == {0.4}
    assert built(0.5)(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    assert built(0.25, (1, 28))(torch.randn(2, 1, 28, 28)).shape == (2, 10)


@pytest.mark.parametrize("side", [9, 28, 32, 64])
def test_the_last_pooling_takes_the_whole_map(side):
    model = built(0.125, (1, side))
    x = torch.randn(2, 1, side, side)
    features = model.features[:-2](model.whitening(x))
    torch.testing.assert_close(model.features(model.whitening(x)), features.amax(dim=(2, 3)))
    torch.testing.assert_close(model(x), model.classifier(features.amax(dim=(2, 3))) * 0.3)


def test_whitening_is_no_part_of_the_mask_and_travels_in_the_state(tmp_path):
    model = built(0.125)
    fit_whitening(model, smooth_images())
    subnet = ic.Subnetwork(model, ic.EdgePopup(0.8))
    assert "whitening.weight" not in [name for name, _, _ in masked_layers(model)]
    before = model.whitening.weight.clone()
    subnet.pack(tmp_path / "m.seedmask")
    plain = ic.load(tmp_path / "m.seedmask", model=built(0.125))
    assert torch.equal(plain.whitening.weight, before)
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(plain.eval()(x), subnet.to_dense().eval()(x))
