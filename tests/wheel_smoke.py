"""Builds the wheel and uses it as a user would, in an environment that does not see this tree.

Run by ``make wheel-test``. The new environment holds nothing but the wheel; its dependencies come from the
environment that runs this script, through a path entry, because a second copy of torch would take minutes. Path
entries do not process ``.pth`` files, so the editable install of that environment stays invisible.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def run(*command: object, cwd: Path) -> str:
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(str(part) for part in command)}\n{done.stdout}{done.stderr}")
    return done.stdout


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "source"
        ignored = shutil.ignore_patterns(
            ".venv*", ".git", "build", "dist", "*.egg-info", ".*_cache", ".hypothesis", "demo-run"
        )
        shutil.copytree(ROOT, source, ignore=ignored)
        run(sys.executable, "-m", "build", "--wheel", "--outdir", folder / "dist", source, cwd=folder)
        (wheel,) = (folder / "dist").glob("*.whl")
        home = folder / "environment"
        venv.create(home, with_pip=True)
        binaries = home / ("Scripts" if os.name == "nt" else "bin")
        python = binaries / "python"
        run(python, "-m", "pip", "install", "--quiet", "--no-deps", wheel, cwd=folder)
        packages = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip())
        (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
        where = run(python, "-c", "import iterand_compress.compress as c; print(c.__file__)", cwd=folder).strip()
        if not Path(where).is_relative_to(home):
            sys.exit(f"the wheel is not what was imported, but {where}")
        script = binaries / "iterand-compress"
        run(script, "train", "--epochs", 2, "--width", 0.5, "--device", "cpu", "--quiet", cwd=folder)
        run(script, "pack", "model.ckpt", "--out", "model.seedmask", cwd=folder)
        run(script, "verify", "model.seedmask", cwd=folder)
        run(script, "recover", "model.seedmask", "--out", "weights.safetensors", cwd=folder)
        run(script, "export", "--onnx", cwd=folder)
        files = ("model.ckpt", "model.seedmask", "model.onnx")
        answers = {file: json.loads(run(script, "eval", file, "--json", cwd=folder))["correct"] for file in files}
        if len(set(answers.values())) != 1:
            sys.exit(f"the files disagree: {answers}")
        print(f"{wheel.name}: installed, trained, packed, verified, recovered, exported; right answers {answers}")


if __name__ == "__main__":
    main()
