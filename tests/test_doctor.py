"""doctor: every self-test can fail, and says what."""

import hashlib
import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from conftest import fail, invoke, succeed
from iterand_compress.compress.analysis import doctor
from iterand_compress.compress.seed import philox
from iterand_compress.compress.seed.codebooks import CODEBOOKS
from iterand_compress.compress.seedmask import codings
from iterand_compress.compress.seedmask import tensor_recovery as storage_recovery

NAMES = ["random numbers, NumPy", "codings", "golden network", "writing files", "random numbers, torch on cpu"]


def status(stdout: str) -> dict[str, str]:
    return {check["name"]: check["status"] for check in json.loads(stdout)["checks"]}


def test_a_sound_installation():
    report = json.loads(succeed("doctor", "--json"))
    assert report["ok"] is True
    checks = {check["name"]: check for check in report["checks"]}
    assert list(checks)[: len(NAMES)] == NAMES
    assert {check["status"] for check in checks.values()} == {"ok"}
    assert report["versions"]["numpy"] == np.__version__
    assert report["python"] == sys.version.split()[0]
    assert report["cpus"] >= 1
    assert "cpu" in report["devices"]
    assert "60,036 weights equal to NumPy's" in checks["random numbers, torch on cpu"]["detail"]
    text = succeed("doctor")
    assert any(line.split() == ["numpy", np.__version__] for line in text.splitlines())
    assert "Example: iterand-compress doctor" in succeed("doctor", "--help")


def scalar_philox(counter: list[int], seed: int) -> list[int]:
    """Straight from docs/FORMAT.md, §1.1."""
    k = [seed % 2**32, seed >> 32]
    c = counter
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [p1 >> 32 ^ c[1] ^ k[0], p1 % 2**32, p0 >> 32 ^ c[3] ^ k[1], p0 % 2**32]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return c


def test_the_golden_digest_is_that_of_the_specification():
    """Byte by byte in plain Python: the digest in the code is not just what the code once gave."""
    seed = 0x0123456789ABCDEF

    def byte(tensor: int, draw: int, purpose: int, i: int, cache: dict[tuple[int, ...], bytes]) -> int:
        key = (i // 16, draw, tensor, purpose)
        if key not in cache:
            cache[key] = b"".join(word.to_bytes(4, "little") for word in scalar_philox(list(key), seed))
        return cache[key][i % 16]

    digests = b""
    for tensor, (book, keep_below) in enumerate(zip(CODEBOOKS.values(), (128, 77, 3), strict=True)):
        cache: dict[tuple[int, ...], bytes] = {}
        codes = []
        for i in range(20_011 + tensor):
            code = 0
            if byte(tensor, 0, 1, i, cache) < keep_below:
                noise = byte(tensor, 1, 1, i, cache)
                draw = noise % 5 if noise < 128 else 0
                code = int(book.entries[byte(tensor, draw, 0, i, cache)])
            codes.append(code)
        weights = np.array(codes, "<f4") * np.float32(0.125)
        digests += hashlib.sha256(weights.tobytes()).digest()
    assert hashlib.sha256(digests).hexdigest() == doctor._GOLDEN_DIGEST


@pytest.mark.slow
def test_wrong_random_numbers(monkeypatch):
    right = philox.round_keys
    monkeypatch.setattr(philox, "round_keys", lambda seed: right(seed)[:9] + right(seed)[:1])
    line = fail(1, "doctor")
    assert line.startswith(
        "error: doctor: self-test failed: random numbers, NumPy: Philox4x32-10 of block 0x0: expected"
    )
    assert "golden network: SHA-256 of the recovered weights" in line
    result = invoke("doctor", "--json")
    found = status(result.stdout)
    assert result.exit_code == 1
    assert found["random numbers, NumPy"] == found["golden network"] == "failed"
    assert found["writing files"] == found["codings"] == "ok"
    assert json.loads(result.stdout)["ok"] is False


def test_wrong_random_numbers_of_torch(monkeypatch):
    from iterand_compress.compress.seed import philox_torch as generator

    right = generator.philox4x32
    monkeypatch.setattr(generator, "philox4x32", lambda *about: tuple(word ^ 1 for word in right(*about)))
    line = fail(1, "doctor")
    assert "self-test failed: random numbers, torch on cpu: Philox4x32-10 of block 0x0" in line
    assert "NumPy:" not in line


def test_a_recovery_of_torch_that_differs(monkeypatch):
    from iterand_compress.compress import recover as recovery

    right = recovery.weights_at
    monkeypatch.setattr(recovery, "weights_at", lambda *about: -right(*about))
    line = fail(1, "doctor")
    assert "failed: random numbers, torch on cpu: SeedMaskError: <memory>: tensor" in line
    assert "cpu computed weights with SHA-256" in line


def test_a_golden_network_that_recovers_to_something_else(monkeypatch):
    """Wrong in the same way when packed and when recovered, so that only the digest in the code tells."""
    right = storage_recovery._scaled
    monkeypatch.setattr(storage_recovery, "_scaled", lambda codes, scale, out: right(codes, np.float32(2) * scale, out))
    assert "golden network: SHA-256 of the recovered weights (coding auto): expected" in fail(1, "doctor")


@pytest.mark.slow
def test_a_coding_that_loses_bits(monkeypatch):
    right = codings._bits_of
    monkeypatch.setattr(codings, "_bits_of", lambda symbols, count: right(symbols, count) & 0xFE)
    assert "codings: rows that came back from coding gaps: expected [True], got [False]" in fail(1, "doctor")


@pytest.mark.slow
def test_a_temporary_folder_that_cannot_be_written(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor.tempfile, "tempdir", str(tmp_path / "absent"))
    assert "writing files: FileNotFoundError" in fail(1, "doctor")


@pytest.mark.slow
def test_content_that_comes_back_changed(monkeypatch):
    from pathlib import Path

    write = Path.write_bytes
    monkeypatch.setattr(Path, "write_bytes", lambda self, data: write(self, data[:-1]))
    assert "writing files: content read back is what was written: expected True, got False" in fail(1, "doctor")


def run_without(module: str, error: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = f"""
        import sys

        class Missing:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] == {module!r}:
                    raise {error}

        sys.meta_path.insert(0, Missing())
        from iterand_compress.cli.app import cli
        cli({list(arguments)!r})
    """
    return subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=False)


@pytest.mark.processes
@pytest.mark.parametrize("error", ["ModuleNotFoundError('No module named torch', name='torch')", "OSError('libcuda')"])
def test_without_torch(error):
    run = run_without("torch", error, "doctor", "--json")
    assert run.returncode == 0, run.stderr
    found = status(run.stdout)
    assert found["random numbers, torch on cpu"] == "skipped"
    assert found["golden network"] == found["random numbers, NumPy"] == "ok"
    text = run_without("torch", error, "doctor").stdout
    assert "torch cannot be used" in text
    assert "inspect, verify, recover and diff work without it" in text


@pytest.mark.processes
def test_without_numpy():
    """Even then a table comes out, and one line."""
    run = run_without("numpy", "ModuleNotFoundError('No module named numpy', name='numpy')", "doctor", "--json")
    assert run.returncode == 1
    assert status(run.stdout)["random numbers, NumPy"] == "failed"
    assert "Traceback" not in run.stderr
    last = run.stderr.splitlines()[-1]  # torch, too, misses it and warns
    assert last.startswith(
        "error: doctor: self-test failed: random numbers, NumPy: ModuleNotFoundError: No module named"
    )


@pytest.mark.slow
def test_distributions_that_are_absent_are_said(monkeypatch):
    monkeypatch.setattr(doctor, "DISTRIBUTIONS", ("numpy", "no-such-distribution"))
    report = json.loads(succeed("doctor", "--json"))
    assert report["versions"] == {"numpy": np.__version__, "no-such-distribution": None}
    assert any(line.split() == ["no-such-distribution", "absent"] for line in succeed("doctor").splitlines())


def test_help_imports_nothing_heavy():
    from test_packaging import modules_after

    assert not {"torch", "numpy"} & modules_after("doctor", "--help")
