"""What a user sees of wrong arguments and of Ctrl-C: one line on stderr, no traceback, no work done before."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

import histocell as hc
from histocell.cli import app
from histocell.cli.console import in_options


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a slide, in which the commands run."""
    pixels = np.random.default_rng(0).integers(0, 255, (300, 300, 3), dtype=np.uint8)
    per_cm = {"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", **per_cm)
    (tmp_path / "file").write_text("text")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def complaint(command: str) -> str:
    """The one line that a command ends with; there is none on stdout and nothing was written."""
    result = CliRunner().invoke(app, shlex.split(command))
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    return line


EMBED = "embed a.tif --out out"
NETWORK = f"{EMBED} --encoder timm/test_vit --weights random"


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("demo --section Z9 --train C2", "there is no section Z9; her2st has A1, "),
        ("demo --section C2 --train Z9", "there is no section Z9"),
        ("demo --model nope", "unknown model 'nope'; there are: hist2cell, mean, mlp, ridge, spatial_mlp"),
        ("demo --out file", "--out file: file is a file, not a folder"),
        ("demo --out file/x", "is a file, not a folder"),
        (f"{EMBED} --device foo", "device 'foo' is not known; use cpu, cuda"),
        (f"{NETWORK} --device foo", "device 'foo' is not known; use cpu, cuda"),
        (f"{NETWORK} --device cpu:x", "device 'cpu:x' is not known"),
        (f"{NETWORK} --device cuda:99", "device 'cuda:99' is not on this machine"),
        (f"{EMBED} --encoder nope", "encoder 'nope' is not known"),
        (f"{EMBED} --encoder timm/nope", "timm has no model 'nope'"),
        (f"{EMBED} --encoder timm/test_vit --weights nowhere", "--weights 'nowhere' does not exist"),
        (f"{EMBED} --encoder timm/test_vit --weights file", "file"),
        (f"{NETWORK} --pool nope", "cannot pool by 'nope'"),
        (f"{EMBED} --pool cls", "leave --weights and --pool out"),
        ("embed nowhere.tif --out out", "no such slide: nowhere.tif"),
        ("embed . --out out", ". is a folder, not a slide"),
        ("embed a.tif a.tif --out out", "several slides are called a"),
        ("embed a.tif --out a.tif", "--out a.tif: a.tif is a file, not a folder"),
        (f"{EMBED} --size-um -5", "--size-um must be a positive number, not -5"),
        (f"{EMBED} --size-um nan", "--size-um must be a positive number, not nan"),
        (f"{EMBED} --size-um inf", "--size-um must be a positive number, not inf"),
        (f"{EMBED} --overlap 1", "--overlap must be a number from 0 to below 1, not 1"),
        (f"{EMBED} --overlap nan", "--overlap must be a number"),
        (f"{EMBED} --min-tissue 2", "--min-tissue must be a number from 0 to 1, not 2"),
        (f"{EMBED} --mpp 0", "--mpp gives 0 um per px"),
        (f"{EMBED} --mpp nan", "--mpp gives nan um per px"),
        ("predict a.tif --model nowhere --out out", "no model in nowhere"),
        ("predict a.tif --model file --out out", "no model in file"),
        ("predict nowhere.tif --model nowhere --out out", "no such slide: nowhere.tif"),
        ("predict a.tif --model nowhere --out out --device foo", "device 'foo' is not known"),
        ("encoders nope", "encoder 'nope' is not known"),
    ],
)
def test_one_line(folder, command, says):
    line = complaint(command)
    assert line.startswith("Error: ")
    assert says in line
    assert {path.name for path in folder.iterdir()} <= {"a.tif", "file", "out"}
    assert not list(folder.glob("out/*"))


@pytest.mark.parametrize(
    "command", [f"{EMBED} --batch-size 0", f"{EMBED} --workers 0", f"{EMBED} --precision fp8", "demo --rng -1", "nope"]
)
def test_what_the_parser_refuses(folder, command):
    result = CliRunner().invoke(app, shlex.split(command))
    assert result.exit_code == 2
    assert "Error: " in result.stderr
    assert "Traceback" not in result.stderr


def test_what_the_user_sees(folder, user_sees):
    user_sees.line("Command line", "--device foo", complaint(f"{NETWORK} --device foo"))
    user_sees.line("Command line", "a section that her2st does not have", complaint("demo --section Z9 --train C2"))
    user_sees.line("Command line", "demo --model nope", complaint("demo --model nope"))
    user_sees.line("Command line", "a folder in place of a slide", complaint("embed . --out out"))
    user_sees.line("Command line", "--out that is a file", complaint("embed a.tif --out file"))
    user_sees.line("Command line", "--size-um nan", complaint(f"{EMBED} --size-um nan"))


def test_faults_of_the_program_keep_their_traceback(folder, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        message = "an assumption does not hold"
        raise AssertionError(message)

    monkeypatch.setattr(hc.pp, "embed_cohort", fail, raising=False)
    assert isinstance(CliRunner().invoke(app, shlex.split(EMBED)).exception, AssertionError)


def test_debug_shows_where(folder, monkeypatch):
    monkeypatch.setenv("HISTOCELL_DEBUG", "1")
    assert isinstance(CliRunner().invoke(app, shlex.split("demo --model nope")).exception, ValueError)


# The command tells when it is at the stage that is to be interrupted.
_TELL = """
import signal
import sys

signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs in the background of a shell ignore it
from histocell.cli import main

if not {module!r}:
    print("there", flush=True)
else:
    import importlib

    module = importlib.import_module({module!r})

    def tell(*arguments, work=getattr(module, {function!r}), **options):
        print("there", flush=True)
        return work(*arguments, **options)

    setattr(module, {function!r}, tell)
sys.argv = ["histocell", *{arguments!r}]
main()
"""
_STAGES = {
    "import": ("", "", ["embed", "a.tif", "--out", "out"]),
    "embedding": (
        "histocell.encoders.inference.executor",
        "read_batches",
        shlex.split(
            "embed a.tif --out out --encoder timm/vit_base_patch16_224 --weights random --size-um 20 --min-tissue 0"
        ),
    ),
    "fitting": ("histocell.models.training", "_epoch", ["demo", "--out", "out"]),
}


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize(
    ("stage", "number"), [*((stage, signal.SIGINT) for stage in _STAGES), ("embedding", signal.SIGTERM)]
)
def test_a_signal_ends_a_command_in_two_seconds(folder, user_sees, stage, number):
    module, function, arguments = _STAGES[stage]
    code = _TELL.format(module=module, function=function, arguments=arguments)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "there\n", process.communicate()[1]
    time.sleep(0.3)
    process.send_signal(number)
    start = time.monotonic()
    _, said = process.communicate(timeout=60)
    assert time.monotonic() - start < 2
    assert process.returncode == 128 + number
    lines = [line for line in said.splitlines() if line and not line.startswith("Note: ")]
    assert len(lines) == 1, said
    if (stage, number) == ("embedding", signal.SIGINT):
        user_sees.line("Command line", "Ctrl-C", lines[0])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a copy that you have with weights=<file or folder>", "a copy that you have with --weights <file or folder>"),
        ("give mpp= (um per full-resolution px)", "give --mpp (um per full-resolution px)"),
        (
            "Choose another out=, or overwrite=True to do all anew",
            "Choose another --out, or --overwrite to do all anew",
        ),
        ("batch_size=16 avoids this; mpp=.", "--batch-size 16 avoids this; --mpp."),
        ("hc.io.slide(path, mpp=...) says mpp=", "hc.io.slide(path, mpp=...) says --mpp"),
        ("choose the image with image_key=", "choose the image with image_key="),
        ("x.size_um=3 and my_mpp=2", "x.size_um=3 and my_mpp=2"),
    ],
)
def test_messages_use_the_words_of_the_command(text, said):
    assert in_options(text, ("out", "mpp", "weights", "overwrite", "batch_size", "size_um")) == said


def test_slides_that_do_not_say_their_resolution(folder):
    tifffile.imwrite(folder / "b.tif", np.full((300, 300, 3), 200, dtype=np.uint8), photometric="rgb")
    result = CliRunner().invoke(app, shlex.split("embed b.tif --out out"), env={"COLUMNS": "300"})
    assert result.exit_code == 1
    assert "give --mpp (um" in " ".join(result.stdout.split())
    assert "mpp=" not in result.stdout + result.stderr


_FINALISER = """
import os, signal, time
from histocell.cli.signals import end_at_a_signal

signal.signal(signal.SIGINT, signal.default_int_handler)

class Noisy:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.2)

class Broken:
    def __del__(self):
        raise ValueError("of another kind")

with end_at_a_signal():
    Broken()
    Noisy()
    time.sleep(30)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_signal_in_a_finaliser_ends_a_command_without_a_traceback():
    done = subprocess.run([sys.executable, "-c", _FINALISER], capture_output=True, text=True, check=False, timeout=20)
    assert done.returncode == 128 + signal.SIGINT
    broken, stopped = done.stderr.rsplit("\n\n", 1)
    assert "of another kind" in broken
    assert "KeyboardInterrupt" not in broken
    assert stopped.startswith("Stopped.")
