"""Several processes train one network as one process would, stop together, and say in one line what went wrong.

Started as a program, this file is one of the processes: it goes through the scenarios below, and writes what it saw.
"""

import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from conftest import fail, succeed
from iterand_compress import IteRand, pack
from iterand_compress.compress.checkpoint import load_checkpoint
from iterand_compress.compress.config import Recipe, TrainConfig
from iterand_compress.compress.errors import DataError, IterandError
from iterand_compress.compress.mask.layers import masked_layers, pruned_layers
from iterand_compress.compress.networks import step_seed
from iterand_compress.compress.pack import network_of_checkpoint
from iterand_compress.compress.training import loop
from iterand_compress.compress.training.distributed import join
from iterand_compress.compress.training.interrupt import StopRequest
from iterand_compress.compress.training.loop import train
from iterand_compress.compress.training.recipe import override
from iterand_compress.compress.training.run_options import RunOptions
from iterand_compress.compress.training.schedule import learning_rate
from iterand_compress.compress.training.sync_batchnorm import synchronise_batchnorm

# 20 steps: with augmentation, trained scales in BatchNorm, and random weights that are redrawn.
WHOLE = override(
    Recipe(subnetwork=IteRand()),
    {
        "model.width": 0.25,
        "model.affine": True,
        "data.crop": "shift",
        "data.pad": 1,
        "subnetwork.resample.every": 4,
        "train.epochs": 1,
        "train.sync_batchnorm": True,
    },
)
# Sums of floats in another order differ in their last bits. That changes a mask where two scores are as good as equal,
# and a gradient where a max-pool finds two equal values, which happens once in some dozens of steps. So the masks of
# digits-cnn must be those of one process for two steps, and those of a network without a max-pool for all twenty.
EXACT = {"whole": 2, "uneven": 2, "smooth": 20}
UNEVEN = override(WHOLE, {"train.batch_size": 63, "train.label_smoothing": 0.1})
SMOOTH = override(UNEVEN, {"model.name": "test_distributed:smooth", "model.width": 1.0, "model.affine": False})
RECIPES = {"whole": WHOLE, "uneven": UNEVEN, "smooth": SMOOTH}
# Two epochs of 5 steps; a run of them is stopped in step 7.
SHORT = override(SMOOTH, {"train.batch_size": 255, "train.epochs": 2})
STOP = 7
# Without statistics over the whole batch, one process can compute the shards of two as micro-batches: max-pools, uneven
# shards and all.
SHARDS = override(UNEVEN, {"train.sync_batchnorm": None})
SHORT_SHARDS = override(SHARDS, {"train.batch_size": 255, "train.epochs": 2})
DROPOUT = override(Recipe(subnetwork=IteRand()), {"model.name": "test_distributed:partly_used", "train.epochs": 1})


class PartlyUsed(nn.Module):
    """A network of the user's with a buffer and dropout; a layer of it gets no gradient."""

    def __init__(self):
        super().__init__()
        self.used, self.unused = nn.Linear(64, 10), nn.Linear(3, 3)
        self.register_buffer("calls", torch.zeros(1))
        self.drop = nn.Dropout(0.5)
        self.dropped = []

    def forward(self, x):
        if self.training:
            self.calls += 1 + int(os.environ.get("RANK", "0"))
        x = self.drop(x.flatten(1))
        self.dropped.append((x == 0).sum(0).tolist())
        return self.used(x)


def partly_used(num_classes):
    return PartlyUsed()


def smooth(num_classes):
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=2),
        nn.BatchNorm2d(16),
        nn.ReLU(inplace=True),
        nn.Conv2d(16, 32, 3, bias=True),
        nn.BatchNorm2d(32, affine=False),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(32, num_classes),
    )


def recorded(recipe, out, **options):
    """Train; returns masks [steps, weights] and running statistics [steps, numbers], and the trained model."""
    masks, statistics, models = [], [], []
    original = loop.training_step

    def step(run, *arguments):
        loss = original(run, *arguments)
        masks.append(torch.cat([masked.mask(scores) for _, masked, scores in masked_layers(run.model)]))
        statistics.append(torch.cat([b.reshape(-1) for n, b in run.model.named_buffers() if ".running_" in n]))
        models[:] = [run.model]
        return loss

    loop.training_step = step
    try:
        train(recipe, RunOptions(out, device="cpu", force=True, **options))
    finally:
        loop.training_step = original
    return torch.stack(masks), torch.stack(statistics), models[0]


def at_step(number, action):
    """Call something just before a step; undone by calling what is returned."""
    original = loop.training_step

    def step(run, pixels, labels):
        if run.position.step == number:
            pixels = action(run, pixels)
        return original(run, pixels, labels)

    loop.training_step = step

    def undo():
        loop.training_step = original

    return undo


# --- What each of the processes does -----------------------------------------------------------------------


def scenarios(folder):
    group = join()
    found = {"rank": group.rank, "size": group.size}

    def caught(name, recipe, undo=lambda: None, **options):
        try:
            train(recipe, RunOptions(folder / f"{name}.ckpt", device="cpu", **options))
            found[name] = None
        except IterandError as error:
            found[name] = [type(error).__name__, error.exit_code, error.silent, str(error)]
        finally:
            undo()

    for name, recipe in {**RECIPES, "halves": SHARDS, "quarters": SHARDS}.items():
        count = 2 if name == "quarters" else 1
        masks, statistics, model = recorded(recipe, folder / f"{name}.ckpt", accumulate=count)
        torch.save({"masks": masks, "statistics": statistics}, folder / f"{name}.{group.rank}.pt")
        pack(model, folder / f"{name}.{group.rank}.seedmask")

    caught("resumed", SHORT, resume=True)  # one process has begun it

    def asked(run, pixels):
        if group.rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)  # a terminal and a launcher may both tell a process
        return pixels

    caught("stopped", SHORT, at_step(STOP - 1, asked))
    caught("stopped_shards", SHORT_SHARDS, at_step(STOP - 1, asked))

    def perturbed(run, pixels):
        if group.rank == 1:
            with torch.no_grad():
                _, _, scores = masked_layers(run.model)[0]
                scores[0] = torch.nextafter(scores[0], torch.tensor(9.0))
        return pixels

    caught("perturbed", WHOLE, at_step(3, perturbed), checkpoint_every=2)
    caught("perturbed_first", WHOLE, at_step(0, perturbed))
    loop.COMPARE_EVERY = 7
    caught("perturbed_later", WHOLE, at_step(3, perturbed))
    caught("not_finite", WHOLE, at_step(5, lambda run, x: x * float("nan") if group.rank == 1 else x))
    caught("batch_of_one", override(WHOLE, {"train.batch_size": 1}))

    tickets = []
    undo = at_step(
        0, lambda run, x: tickets.extend(pruned.mask.clone() for _, pruned, _ in pruned_layers(run.model)) or x
    )
    caught("snip", override(WHOLE, {"subnetwork.method": "snip", "subnetwork.sparsity": 0.8}), undo)
    found["ticket"] = hashlib.sha256(torch.cat(tickets).numpy().tobytes()).hexdigest()

    seen = []
    undo = at_step(4, lambda run, x: seen.append(run.model) or x)
    caught("partly_used", DROPOUT, undo)
    assert seen, found["partly_used"]
    found["dropped"], found["calls"] = seen[0].dropped[6], float(seen[0].calls)

    caught("partly_used_in_micro_batches", DROPOUT, accumulate=2)
    caught(
        "too_many_micro_batches", override(WHOLE, {"train.batch_size": 7, "train.sync_batchnorm": None}), accumulate=4
    )

    found["batchnorm"] = batchnorm(group)
    (folder / f"{group.rank}.json").write_text(json.dumps(found))

    def unreadable(run, pixels):
        if group.rank == 1:
            error = DataError("images/3.png: not a readable image")
            error.exit_code = 7
            raise error
        return pixels

    caught("unreadable", SHORT, at_step(6, unreadable))  # the last one: the connection is lost with it
    (folder / f"{group.rank}.json").write_text(json.dumps(found))


def batchnorm(group):
    """Largest differences, in float64, between ours on uneven shards and torch's on the whole batch."""
    generator = torch.Generator().manual_seed(0)
    differences = {}
    for affine, momentum in ((True, 0.1), (False, None)):
        whole = (3 * torch.randn(9, 4, 3, 5, generator=generator, dtype=torch.float64) + 7).requires_grad_(True)
        factor = torch.randn(9, 4, 3, 5, generator=generator, dtype=torch.float64)
        plain, ours = (nn.BatchNorm2d(4, affine=affine, momentum=momentum).double() for _ in range(2))
        for layer in (plain, ours):
            if affine:
                with torch.no_grad():
                    layer.weight.copy_(torch.tensor([1.0, -2.0, 0.5, 3.0]))
                    layer.bias.copy_(torch.tensor([0.0, 1.0, 2.0, -1.0]))
        names = list(ours.state_dict())
        model = nn.Sequential(ours)
        synchronise_batchnorm(model, group, torch.device("cpu"))
        assert list(ours.state_dict()) == names
        own = whole.detach()[group.shard.of(0, 9)].requires_grad_(True)
        for _ in range(2):
            expected, got = plain(whole), model(own)
        (expected * factor).sum().backward()
        (got * factor[group.shard.of(0, 9)]).sum().backward()
        pairs = {
            "output": (got, expected[group.shard.of(0, 9)]),
            "input": (own.grad, whole.grad[group.shard.of(0, 9)]),
            "mean": (ours.running_mean, plain.running_mean),
            "variance": (ours.running_var, plain.running_var),
            "batches": (ours.num_batches_tracked, plain.num_batches_tracked),
            "evaluation": (model.eval()(own), plain.eval()(whole)[group.shard.of(0, 9)]),
        }
        if affine:
            pairs["weight"] = (group.total(ours.weight.grad), plain.weight.grad)
            pairs["bias"] = (group.total(ours.bias.grad), plain.bias.grad)
        differences |= {f"{name} {affine}": float((a - b).detach().abs().max()) for name, (a, b) in pairs.items()}
    return differences


if __name__ == "__main__":
    scenarios(Path(sys.argv[1]))
    sys.exit()


# --- Starting them -----------------------------------------------------------------------------------------


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(*arguments, size=2, of_rank=lambda rank: []):
    """A program in several processes, without a launcher."""
    port = free_port()
    processes = []
    for rank in range(size):
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "RANK": str(rank),
            "WORLD_SIZE": str(size),
            "LOCAL_RANK": str(rank),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        command = [sys.executable, *map(str, arguments), *map(str, of_rank(rank))]
        processes.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
    return processes


def ended(processes):
    """Exit code, standard output and standard error of each."""
    try:
        outputs = [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return [(process.returncode, *output) for process, output in zip(processes, outputs, strict=True)]


COMMAND = ("-m", "iterand_compress.cli", "train", "--device", "cpu", "--width", 0.25)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process makes of the recipes; a run of the short one, and one that was stopped."""
    folder = tmp_path_factory.mktemp("alone")
    found = {name: recorded(recipe, folder / "a.ckpt") for name, recipe in RECIPES.items()}
    train(SHORT, RunOptions(folder / "short.ckpt", device="cpu"))
    undo = at_step(STOP - 1, lambda run, pixels: os.kill(os.getpid(), signal.SIGINT) or pixels)
    with pytest.raises(IterandError, match=f"stopped at step {STOP}"):
        train(SHORT, RunOptions(folder / "cut.ckpt", device="cpu"))
    undo()
    return folder, found


@pytest.fixture(scope="module")
def pair(tmp_path_factory, alone):
    """The folder in which two processes went through the scenarios, and what each of them found."""
    folder = tmp_path_factory.mktemp("pair")
    for ending in ("ckpt", "best.ckpt", "metrics.jsonl"):
        shutil.copy(alone[0] / f"cut.{ending}", folder / f"resumed.{ending}")
    for rank, (code, output, errors) in enumerate(ended(start(__file__, folder))):
        assert (code, output) == (0, ""), (rank, errors)
    return folder, [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.fixture(scope="module")
def in_micro_batches(tmp_path_factory):
    """What one process makes of the recipes if it computes each batch in two halves, with as many threads as two."""
    folder, threads = tmp_path_factory.mktemp("halves"), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield folder, recorded(SHARDS, folder / "halves.ckpt", accumulate=2)
    finally:
        torch.set_num_threads(threads)


def masks_of(checkpoint):
    return [tensor.mask for tensor in network_of_checkpoint(load_checkpoint(checkpoint)).tensors]


def pack_of(checkpoint):
    file = checkpoint.with_suffix(".seedmask")
    succeed("pack", checkpoint, "--out", file)
    return file


def same_masks(one, other):
    return all((a == b).all() for a, b in zip(masks_of(one), masks_of(other), strict=True))


def epochs_of(checkpoint):
    return [json.loads(line) for line in checkpoint.with_suffix(".metrics.jsonl").read_text().splitlines()]


# --- As one process would ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(RECIPES))
def test_both_processes_have_the_same_network(pair, name):
    folder, _ = pair
    first, second = (torch.load(folder / f"{name}.{rank}.pt") for rank in range(2))
    assert torch.equal(first["masks"], second["masks"])
    assert torch.equal(first["statistics"], second["statistics"])
    files = [(folder / f"{name}.{rank}.seedmask").read_bytes() for rank in range(2)]
    assert files[0] == files[1]
    trained = network_of_checkpoint(load_checkpoint(folder / f"{name}.ckpt"))
    last = first["masks"][-1].numpy()
    assert (torch.cat([torch.from_numpy(t.mask.reshape(-1)) for t in trained.tensors]).numpy() == last).all()


def test_one_of_two_processes_keeps_the_best_epoch(pair):
    for name in ("whole", "resumed"):
        found = [line["val_accuracy"] for line in epochs_of(pair[0] / f"{name}.ckpt")[:-1]]
        stored, last = (load_checkpoint(pair[0] / f"{name}{ending}") for ending in (".best.ckpt", ".ckpt"))
        assert stored.best == last.best
        assert (stored.best.epoch, stored.best.accuracy) == (1 + found.index(max(found)), max(found))
        assert stored.position.epoch == stored.best.epoch


@pytest.mark.parametrize("name", list(RECIPES))
def test_two_processes_compute_what_one_computes(pair, alone, name):
    """Batches of 63 have shards of 31 and 32. Measured: statistics differ by 6e-6 of their value at most; of the masks
    0.5 % on an AMD EPYC, 0.84 % on an Intel Xeon, as processors round sums differently."""
    two = torch.load(pair[0] / f"{name}.0.pt")
    masks, statistics, _ = alone[1][name]
    assert len(masks) == 20
    exact = EXACT[name]
    assert torch.equal(two["masks"][:exact], masks[:exact])
    assert not torch.equal(masks[exact - 1], masks[0])  # they did move
    assert (two["masks"] != masks).float().mean() < 0.02
    torch.testing.assert_close(two["statistics"][:exact], statistics[:exact], rtol=2e-5, atol=2e-6)


def test_two_processes_compute_bit_for_bit_what_one_computes_in_two_micro_batches(pair, in_micro_batches):
    folder, (masks, statistics, model) = in_micro_batches
    two = torch.load(pair[0] / "halves.0.pt")
    assert torch.equal(two["masks"], masks)
    assert len(masks.unique(dim=0)) > 15  # they did move
    assert torch.equal(two["statistics"], statistics)
    pack(model, folder / "halves.seedmask")
    assert (folder / "halves.seedmask").read_bytes() == (pair[0] / "halves.0.seedmask").read_bytes()
    one, other = (load_checkpoint(place / "halves.ckpt") for place in (folder, pair[0]))
    tensors = [{k: v for k, v in found.model.items() if isinstance(v, torch.Tensor)} for found in (one, other)]
    assert tensors[0].keys() == tensors[1].keys()
    assert all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])
    assert one.test["correct"] == other.test["correct"]
    losses = [epochs_of(place / "halves.ckpt")[0]["loss"] for place in (folder, pair[0])]
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)


def test_two_processes_with_two_micro_batches_each_compute_what_one_computes_in_four(pair, in_micro_batches):
    masks, statistics, _ = recorded(SHARDS, in_micro_batches[0] / "quarters.ckpt", accumulate=4)
    first, second = (torch.load(pair[0] / f"quarters.{rank}.pt") for rank in range(2))
    assert torch.equal(first["masks"], second["masks"])
    exact = EXACT["uneven"]
    assert torch.equal(first["masks"][:exact], masks[:exact])
    assert not torch.equal(masks[:exact], in_micro_batches[1][0][:exact])  # BatchNorm normalises over fewer examples
    torch.testing.assert_close(first["statistics"][:exact], statistics[:exact], rtol=2e-5, atol=2e-6)


def test_a_run_of_two_processes_goes_on_bit_for_bit_in_two_micro_batches(pair, in_micro_batches):
    folder, _ = in_micro_batches
    cut, whole = pair[0] / "stopped_shards.ckpt", folder / "whole.ckpt"
    assert load_checkpoint(cut).position.step == STOP
    train(SHORT_SHARDS, RunOptions(whole, device="cpu", accumulate=2))
    assert not same_masks(cut, whole)
    succeed("train", "--resume", "--device", "cpu", "--accumulate", 2, "--out", cut)
    assert pack_of(cut).read_bytes() == pack_of(whole).read_bytes()


def test_micro_batches_have_dropout_of_their_own_and_the_buffers_of_the_first(pair, in_micro_batches):
    seen = []
    undo = at_step(4, lambda run, x: seen.append(run.model) or x)
    train(DROPOUT, RunOptions(in_micro_batches[0] / "dropout.ckpt", device="cpu", accumulate=2))
    undo()
    first, second = pair[1]
    # Of every step, and of the look at the network before the first one.
    assert seen[0].dropped[-2:] != seen[0].dropped[-4:-2]
    assert first["dropped"] in seen[0].dropped
    assert second["dropped"] in seen[0].dropped
    assert float(seen[0].calls) == 20


def test_a_run_goes_on_with_another_number_of_processes(pair, alone):
    """One process begins, two go on; two begin, one goes on: the run of one that was never stopped."""
    folder, (first, second) = pair
    whole = alone[0] / "short.ckpt"
    assert first["resumed"] is second["resumed"] is None
    assert load_checkpoint(folder / "resumed.ckpt").complete
    assert same_masks(folder / "resumed.ckpt", whole)
    expected, resumed = (epochs_of(checkpoint)[1] for checkpoint in (whole, folder / "resumed.ckpt"))
    assert resumed["loss"] == pytest.approx(expected["loss"], rel=1e-5)  # also what came before the stop counts once
    assert resumed["accuracy"] == pytest.approx(expected["accuracy"], abs=0.002)
    for found in (first, second):
        kind, code, silent, text = found["stopped"]
        assert (kind, code, silent) == ("RunStoppedError", 130, found["rank"] == 1)
        assert f"stopped at step {STOP}; the run is saved" in text
    cut = folder / "stopped.ckpt"
    position = load_checkpoint(cut).position
    assert (position.epoch, position.batch, position.step) == (1, 2, STOP)
    assert load_checkpoint(cut).meter[2] == 2 * 255  # images of both shards
    assert not same_masks(cut, whole)
    succeed("train", "--resume", "--device", "cpu", "--out", cut)
    assert same_masks(cut, whole)
    assert [line.get("epoch") for line in epochs_of(cut)] == [1, 2, None]
    assert epochs_of(cut)[1]["loss"] == pytest.approx(expected["loss"], rel=1e-5)


def test_masks_found_at_initialisation_are_those_of_the_main_process(pair, alone):
    _, (first, second) = pair
    assert first["snip"] is second["snip"] is None
    assert first["ticket"] == second["ticket"]
    seen = []
    undo = at_step(0, lambda run, x: seen.extend(pruned.mask.clone() for _, pruned, _ in pruned_layers(run.model)) or x)
    recipe = override(WHOLE, {"subnetwork.method": "snip", "subnetwork.sparsity": 0.8})
    train(recipe, RunOptions(alone[0] / "snip.ckpt", device="cpu"))
    undo()
    assert hashlib.sha256(torch.cat(seen).numpy().tobytes()).hexdigest() == first["ticket"]


def test_a_layer_without_gradient_and_a_buffer_of_the_users(pair):
    """Dropout differs between the shards of a batch; the buffer is that of the main process."""
    _, (first, second) = pair
    assert first["partly_used"] is second["partly_used"] is None
    assert first["partly_used_in_micro_batches"] is second["partly_used_in_micro_batches"] is None
    assert first["dropped"] != second["dropped"]
    assert first["calls"] == second["calls"] == 20


def test_seeds_of_steps_depend_on_step_and_process():
    assert len({step_seed(3, step, rank) for step in range(-1, 50) for rank in range(16)}) == 51 * 16
    assert step_seed(3, 6) == (3 + 7 * 0x9E3779B97F4A7C15) % 2**63  # what it was before there were several processes


def test_batchnorm_over_uneven_shards_is_that_of_the_whole_batch(pair):
    for found in pair[1]:
        assert len(found["batchnorm"]) == 14
        assert max(found["batchnorm"].values()) < 1e-12, found["batchnorm"]


def test_learning_rates_are_in_proportion_to_the_batch_if_asked():
    settings = TrainConfig(epochs=4, lr=0.1, batch_size=256, warmup_epochs=1, cooldown_epochs=1, cooldown_lr=0.01)
    scaled = settings.model_copy(update={"lr_batch": 64})
    for epoch in range(4):
        assert learning_rate(scaled, epoch) == 4 * learning_rate(settings, epoch)
    assert learning_rate(settings, 1) == 0.1
    assert learning_rate(settings.model_copy(update={"lr_batch": 1024}), 1) == 0.025


# --- What goes wrong ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "noticed", "saved"), [("perturbed", 4, 2), ("perturbed_first", 1, 0), ("perturbed_later", 7, 0)]
)
def test_a_score_that_differs_is_noticed(pair, name, noticed, saved):
    """The least change of one score in one process: before a checkpoint, after the first step, and every so often."""
    folder, found = pair
    for rank in range(2):
        kind, code, silent, text = found[rank][name]
        assert (kind, code, silent) == ("TrainingError", 1, rank == 1)
        assert f"rank 1 has another network than rank 0 after step {noticed}, though" in text
        assert f"{name}.ckpt still holds the last good state" in text
    assert load_checkpoint(folder / f"{name}.ckpt").position.step == saved


def test_a_loss_that_is_not_finite_in_one_process(pair):
    folder, found = pair
    for rank in range(2):
        kind, _, silent, text = found[rank]["not_finite"]
        assert (kind, silent) == ("TrainingError", rank == 1)
        assert "the loss is not finite at step 5 " in text
    assert load_checkpoint(folder / "not_finite.ckpt").position.step == 0


def test_more_processes_than_images_in_a_batch(pair):
    folder, found = pair
    for rank in range(2):
        kind, code, silent, text = found[rank]["batch_of_one"]
        assert (kind, code, silent) == ("ConfigError", 2, rank == 1)
        assert text.startswith("batch of 1: 2 processes cannot share it; start 1 at most, or raise batch_size")
    assert not (folder / "batch_of_one.ckpt").exists()
    expected = "accumulate: a batch of 7 cannot be computed in 4 micro-batches by each of 2 processes; give 3 at most"
    assert [rank["too_many_micro_batches"][::3] for rank in found] == [["ConfigError", expected]] * 2


def test_a_failure_in_one_process_ends_the_others(pair):
    """The process that failed says why; the other one has the same exit code, and says nothing."""
    folder, found = pair
    assert found[0]["unreadable"][:3] == ["PeerError", 7, True]
    kind, code, silent, text = found[1]["unreadable"]
    assert (kind, code, silent) == ("DataError", 7, False)
    assert text.startswith("rank 1: images/3.png: not a readable image; ")
    assert "unreadable.ckpt holds step 5; go on with: iterand-compress train --resume --out" in text
    assert load_checkpoint(folder / "unreadable.ckpt").position.step == 5


@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_process(tmp_path, killed):
    """Without a launcher, the store that tells who noticed first is gone with rank 0; of two, one is left anyway."""
    out = tmp_path / "model.ckpt"
    processes = start(*COMMAND, "--epochs", 1000, "--out", out, "--set=run.checkpoint_every=1", "-q")
    while not (out.exists() and load_checkpoint(out).position.step) and processes[0].poll() is None:
        time.sleep(0.01)
    processes[killed].kill()
    outcomes = ended(processes)
    assert outcomes[killed][0] == -signal.SIGKILL
    code, output, errors = outcomes[1 - killed]
    assert (code, output) == (1, ""), errors
    begin, _, end = errors.partition("; ")
    assert begin.startswith("error: another process of the run has ended, or cannot be reached (")
    assert ".cc" not in begin
    position = load_checkpoint(out).position
    assert re.fullmatch(rf"{out} holds step \d+; go on with: iterand-compress train --resume --out {out}\n", end), (
        errors
    )
    assert position.step > 0


def test_another_setting_in_one_process(tmp_path):
    out = tmp_path / "model.ckpt"
    learning_rates = (0.1, 0.25)
    found = ended(start(*COMMAND, "--out", out, of_rank=lambda rank: ["--lr", learning_rates[rank]]))
    line = "error: train.lr: 0.1 on rank 0, 0.25 on rank 1; give all processes the same settings\n"
    assert found == [(2, "", line), (2, "", "")]
    assert list(tmp_path.iterdir()) == []


def test_another_version_in_one_process(tmp_path):
    program = (
        "import sys; from importlib import metadata; from iterand_compress.cli import main\n"
        "own = metadata.version; version = sys.argv.pop()\n"
        "metadata.version = lambda name: version if name == 'torch' else own(name)\n"
        "main()\n"
    )
    arguments = ("-c", program, *COMMAND[2:], "--out", tmp_path / "model.ckpt")
    outcomes = ended(start(*arguments, of_rank=lambda rank: [f"2.{rank}"]))
    line = 'error: version of torch: "2.0" on rank 0, "2.1" on rank 1; install the same versions on all machines\n'
    assert outcomes == [(2, "", line), (2, "", "")]
    assert list(tmp_path.iterdir()) == []


def test_torchrun_and_ctrl_c_to_all_of_it(tmp_path):
    """The terminal tells torchrun, which tells its processes: the run is saved, and one of them says so."""
    out = tmp_path / "model.ckpt"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", free_port()]
    process = subprocess.Popen(
        [*map(str, (*launcher, *COMMAND, "--epochs", 1000, "--set=run.checkpoint_every=1", "--out", out))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not (out.exists() and load_checkpoint(out).position.step) and process.poll() is None:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    ((_, output, errors),) = ended([process])
    step = load_checkpoint(out).position.step
    assert process.returncode != 0
    assert step > 0
    assert "epochs of 20 steps on 2 × cpu" in output
    said = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert said == [
        f"error: stopped at step {step}; the run is saved. Go on with: iterand-compress train --resume --out {out}"
    ]


@pytest.mark.parametrize(
    ("environment", "text"),
    [
        ({"WORLD_SIZE": "2"}, "no RANK, WORLD_SIZE=2, no LOCAL_RANK, no MASTER_PORT, no MASTER_ADDR; start it with"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK below WORLD_SIZE; got RANK=2, WORLD_SIZE=2, LOCAL_RANK=0,"),
        ({"RANK": "0", "WORLD_SIZE": "two"}, "got RANK=0, WORLD_SIZE=two, LOCAL_RANK=0,"),
    ],
)
def test_an_environment_that_makes_no_sense(tmp_path, monkeypatch, environment, text):
    if len(environment) > 1:
        environment |= {"LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    line = fail(2, "train", "--out", tmp_path / "model.ckpt")
    assert text in line
    assert line.endswith("start it with torchrun, or unset RANK and WORLD_SIZE")


def test_the_others_do_not_come(tmp_path, monkeypatch):
    port = str(free_port())
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": port}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    line = fail(1, "train", "--out", tmp_path / "model.ckpt", "--set=run.peer_timeout=1")
    assert f"rank 0: the 2 processes of the run did not meet at 127.0.0.1:{port} within 1 s; start all of them" in line


def test_signals_that_come_twice_count_once_while_there_is_patience():
    # A shell starts what runs in the background without it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with StopRequest(patience=60.0) as stop:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        assert stop.requested
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    signal.signal(signal.SIGINT, before)
