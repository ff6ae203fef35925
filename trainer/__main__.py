"""The command line.  Hydra is imported here and nowhere else; whatever goes wrong ends in a sentence and an exit code.

Exit codes: 0 done, 1 the training diverged, 2 a wrong input, 3 a file that cannot be read or written, 130 Ctrl-C.
"""

import os
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from trainer.config import Settings, choose, first_line, listed, read_settings, suggest
from trainer.errors import ConfigError, TrainerError


def main() -> None:
    """The command ``trainer``, and ``python -m trainer``."""
    command(train, "config")


def train(config: DictConfig) -> None:
    """One run, in the folder that Hydra has made for it; a run that never began leaves no folder."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    try:
        settings = read_settings(config, Settings)
        from trainer.run import run  # after the first checks: a wrong key is refused before numpy is loaded

        unresolved = OmegaConf.to_container(config, resolve=False)  # ${oc.env:SECRET} stays unread in what is kept
        run(settings, folder, recorded=unresolved)  # type: ignore[arg-type]
    except BaseException:
        _remove_if_empty(folder)
        raise


def command(task: Callable[[DictConfig], None], config_name: str) -> None:
    """Runs a task under Hydra with one of the configurations in conf/, and turns errors into exit codes."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises instead of printing, so that the sentence can be ours
    warnings.showwarning = lambda message, *_: print(f"Warning: {message}", file=sys.stderr)
    folder = str(config_folder())
    try:
        hydra.main(version_base="1.3", config_path=folder, config_name=config_name)(task)()
    except TrainerError as error:
        _stop(error.exit_code, str(error))
    except (HydraException, OmegaConfBaseException) as error:
        _stop(2, explain(error, config_name))
    except OSError as error:
        _stop(3, f"{error.filename or 'A file'} cannot be read or written: {error.strerror or error}.")
    except KeyboardInterrupt:
        _stop(130, "Interrupted.")


def config_folder() -> Path:
    """conf/: inside the package when installed from a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


def explain(error: Exception, config_name: str) -> str:
    """Hydra's and OmegaConf's errors in our words: the value, the reason and the way out."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        try:
            choose(group, error.options, name)
        except ConfigError as sentence:
            return str(sentence)
    unknown = re.match(r"Could not override '([^']*)'", str(error))
    if unknown:
        key = unknown[1]
        known = _keys(config_name)
        return f"There is no key {key}{suggest(key, known)} {_inside(key, known)}"
    cause = error.__cause__
    detail = f" ({first_line(cause)})" if isinstance(cause, OmegaConfBaseException) else ""
    return f"{first_line(error)}{detail}. See --help, or --cfg job for all keys."


def _keys(config_name: str) -> list[str]:
    """The keys of the default configuration, in dots."""
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        composed = compose(config_name)
    keys = []
    for key, node in composed.items_ex(resolve=False):
        keys.append(str(key))
        if isinstance(node, DictConfig) and not node._is_none():
            keys += [f"{key}.{name}" for name in node]
    return keys


def _inside(key: str, known: list[str]) -> str:
    """The keys beside a wrong one."""
    group = key.rpartition(".")[0]
    near = [name for name in known if name.rpartition(".")[0] == group and not name.endswith(".name")]
    return f"The keys {f'of {group}' if group else 'at the root'}: {listed(near)}." if near else "See --cfg job."


def _remove_if_empty(folder: Path) -> None:
    for path in (folder, folder.parent):
        try:
            path.rmdir()
        except OSError:
            return


def _stop(code: int, sentence: str) -> None:
    print(sentence, file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
