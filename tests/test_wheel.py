"""The wheel holds all that the command needs, and works from a folder that knows nothing of the checkout."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.processes
LIMIT = 60  # seconds; only a command that hangs ever meets it


def python(*arguments, cwd, before=(), **environment):
    return subprocess.run(
        [*before, sys.executable, *arguments],
        cwd=cwd,
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=True,
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from the checkout, which is left as it was."""
    folder = tmp_path_factory.mktemp("wheel")
    before = set(ROOT.iterdir())
    python("-m", "hatchling", "build", "-t", "wheel", "-d", str(folder), cwd=ROOT, PYTHONDONTWRITEBYTECODE="1")
    assert set(ROOT.iterdir()) <= before
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def site(wheel, tmp_path_factory):
    """A folder with the wheel's content, as an installer lays it out."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def test_the_wheel_holds_every_configuration_and_no_test(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert "trainer/conf/config.yaml" in names
    assert names >= {f"trainer/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "conf").rglob("*.yaml")}
    assert names >= {path.relative_to(ROOT).as_posix() for path in (ROOT / "trainer").rglob("*.py")}
    assert not [name for name in names if name.startswith(("tests", "conf", "benchmarks")) or "__pycache__" in name]


def test_the_wheel_names_the_console_script(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (entries,) = [name for name in archive.namelist() if name.endswith(".dist-info/entry_points.txt")]
        assert "trainer = trainer.commands:main" in archive.read(entries).decode()


@pytest.fixture
def read_only(site):
    """What to put before a command for which the site is read-only, also if root calls it."""
    for path in [site, *site.rglob("*")]:
        path.chmod(path.stat().st_mode & ~0o222)
    if os.geteuid():
        yield []
    elif (setpriv := shutil.which("setpriv")) is None:
        pytest.skip("root may write anything, and there is no setpriv to forbid it")
    else:
        yield [setpriv, "--bounding-set=-dac_override", "--inh-caps=-dac_override"]
    for path in [site, *site.rglob("*")]:
        path.chmod(path.stat().st_mode | 0o200)


def test_the_command_runs_from_a_wheel_that_is_read_only_in_another_folder(site, read_only, tmp_path):
    of_the_wheel = {"PYTHONPATH": str(site), "before": read_only}
    code = "import trainer.runs.config as m; print(m.__file__, m.config_folder(), sep='\\n')"
    module, conf = python("-c", code, cwd=tmp_path, **of_the_wheel).stdout.splitlines()
    assert Path(module) == site / "trainer" / "runs" / "config.py"
    assert Path(conf) == site / "trainer" / "conf"
    done = python("-m", "trainer", "loss=brier", "epochs=1", "plots=false", cwd=tmp_path, **of_the_wheel)
    assert "finished after 1 epoch " in done.stdout
    assert len(list(tmp_path.glob("outputs/*/*/run.json"))) == 1
    with pytest.raises(subprocess.CalledProcessError):
        python("-c", f"open({str(site / 'trainer' / 'new')!r}, 'w')", cwd=tmp_path, before=read_only)
    assert not list(site.rglob("*.pyc"))


def test_inside_a_zip_file_the_command_says_what_to_do(wheel, tmp_path):
    with pytest.raises(subprocess.CalledProcessError) as failed:
        python("-m", "trainer", "epochs=1", cwd=tmp_path, PYTHONPATH=str(wheel))
    assert failed.value.returncode == 3
    assert failed.value.stderr.endswith("has no folder conf of its own, as inside a zip file. Install it with pip.\n")
    assert len(failed.value.stderr.splitlines()) == 1
