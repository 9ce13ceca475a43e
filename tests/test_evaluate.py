"""Evaluation of networks."""

import torch
from torch import nn
from torch.nn import functional as F

from iterand_compress import IteRand
from iterand_compress.compress.config import DataConfig
from iterand_compress.compress.data.loading import load_data
from iterand_compress.compress.mask.layers import masked_layers
from iterand_compress.compress.mask.masking import mask_model
from iterand_compress.compress.training.evaluate import evaluate, network_logits

CPU = torch.device("cpu")


def network() -> nn.Module:
    layers = (nn.Flatten(), nn.Linear(64, 40), nn.BatchNorm1d(40), nn.Dropout(), nn.ReLU(), nn.Linear(40, 10))
    return mask_model(nn.Sequential(*layers), IteRand(0.5, seed=3))


def test_each_masked_weight_is_computed_once_and_the_mode_restored() -> None:
    model, data = network(), load_data(DataConfig(name="digits"))
    calls = {name: 0 for name, _, _ in masked_layers(model)}

    def count(name: str) -> None:
        calls[name] += 1

    for name, masked, _ in masked_layers(model):
        masked.register_forward_hook(lambda *_, name=name: count(name))
    for training in (True, False):
        calls.update(dict.fromkeys(calls, 0))
        model.train(training)
        with network_logits(model, data.input.normalize) as logits:
            score = evaluate(logits, data.test, batch_size=50, device=CPU)
        assert [module.training for module in model.modules()] == [training for _ in model.modules()]
        assert list(calls.values()) == [1, 1]
        model.eval()
        ((pixels, labels),) = data.test.batches(len(data.test), "cpu")
        with torch.no_grad():
            expected = model(data.input.normalize(pixels))
        assert score.correct == int((expected.argmax(1) == labels).sum())
        assert score.images == len(labels)
        assert abs(score.loss - F.cross_entropy(expected, labels).item()) < 1e-5
