"""The command line.  Hydra is imported here and nowhere else; whatever goes wrong ends in a sentence and an exit code.

Exit codes: 0 done, 1 the training diverged, 2 a wrong input, 3 a file or memory that the system does not give,
129 SIGHUP, 130 Ctrl-C, 143 SIGTERM.
"""

import io
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from trainer.interrupts import Terminated, held, importing, signals

LEAST_MEMORY = 768 << 20  # bytes of address space


def _stop(code: int, sentence: str) -> NoReturn:
    sentence = "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in sentence)  # no escape code
    with suppress(BrokenPipeError):
        print(sentence, file=sys.stderr)
    sys.exit(code)


def _check_memory() -> None:
    """Ends the process where OpenBLAS would wait for memory for ever; it does so from an import, deaf to signals."""
    try:
        from resource import RLIMIT_AS, getrlimit
    except ImportError:  # Windows
        return
    limit = getrlimit(RLIMIT_AS)[0]
    if 0 <= limit < LEAST_MEMORY:
        _stop(3, f"The limit of memory is {limit >> 10} KiB, too little to begin. Raise it: ulimit -v {1 << 21}.")


with importing():
    import hydra
    from hydra._internal.utils import get_args_parser
    from hydra.core.hydra_config import HydraConfig
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.utils import configure_log
    from hydra.errors import HydraException, MissingConfigException, OverrideParseException
    from omegaconf import DictConfig, OmegaConf, open_dict
    from omegaconf.errors import OmegaConfBaseException
    from yaml import MarkedYAMLError, YAMLError  # type: ignore[import-untyped]

    from trainer.config import Settings, choose, config_folder, first_line, listed, options, read_settings, suggest
    from trainer.errors import ConfigError, FileError, TrainerError
    from trainer.outputs import read_record
    from trainer.overrides import check_flags, check_folder, check_overrides

Task = Callable[[DictConfig], None]

LAUNCHERS = {"joblib": "joblib", "submitit_local": "submitit", "submitit_slurm": "submitit", "ray": "ray"}  # extras

HELP = """Trains a linear classifier; the output activation, the loss and the gradient strategy are three free choices.

Choices, as choice=option, and choice.key=value for the keys of an option:
{choices}

Plain keys:
  epochs=50            passes over the training data; of a solver (auto, newton, lbfgs, fista) the most iterations
  batch_size=auto      samples a step: 32, and all for a solver; null is all of them at once
  seed=3               data, split and shuffling follow from it; null draws one
  threads=null         null takes every core; the result is the same for any number
  dtype=float64        or float32: of the features, the parameters and the scores
  valid_fraction=0.2   share of the samples held out for validation
  standardize=true     features to mean 0 and standard deviation 1 of the training rows
  metrics=[accuracy]   of accuracy, top_k, log_loss, brier, ece, sparsity; quote the brackets
  label_smoothing=0.0  the share of each training target that is spread over the K classes
  class_weight=null    or balanced, or {class: weight}
  reduction=weights    the loss is a mean over the weights, or over the rows
  plots=true           draw curves.png, and boundary.png for two features; in a sweep only where it is written out
  skip_illegal=true    a sweep skips the jobs whose components do not go together; false refuses it for them
  checkpoint=true      keep what resume=... goes on from, once a second at most and at the end
  resume=outputs/...   goes on with the run in this folder, with the configuration that it began with; epochs may grow

Examples:
  python -m trainer activation=softmax loss=ce
  python -m trainer data=digits optimizer=adam schedule=cosine epochs=30
  python -m trainer data=file data.path=flowers.csv data.target=species penalty=l2 penalty.strength=0.01
  python -m trainer -m loss=ce,brier gradient=fused,jacobian optimizer.lr=0.01,0.1

--cfg job prints the configuration of a run without running it, -m sweeps over lists with commas, and
python -m trainer.sweep --help says how to go on with a sweep that did not end;
--hydra-help lists the flags of Hydra, and eval "$(trainer -sc install=bash)" completes all of this by the Tab key."""


def main() -> None:
    """The command ``trainer``, and ``python -m trainer``."""
    command(train, "config", HELP)


def train(config: DictConfig) -> None:
    """One run, in the folder that the configuration of Hydra names; it is made once nothing can be refused any more."""
    settings = read_settings(config, Settings)
    with held():
        from trainer.run import run  # after the first checks: a wrong key is refused before numpy is loaded

    unresolved = OmegaConf.to_container(config, resolve=False)  # ${oc.env:SECRET} stays unread in what is kept
    run(settings, Path(HydraConfig.get().runtime.output_dir), recorded=unresolved)  # type: ignore[arg-type]


def command(task: Task, config_name: str, text: str) -> None:
    """Runs a task with one of the configurations in conf/, and turns errors into exit codes.

    text is what --help prints, {choices} in it standing for the groups; Hydra's own help loads every option to do so.
    Sweeps and the other flags are Hydra's. A single run is composed here: Hydra would compose it twice, and make the
    run's folder before the task could refuse.
    """
    arguments = sys.argv[1:]
    for stream in (sys.stdout, sys.stderr):  # a name that the terminal's encoding lacks is no reason to fail
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises instead of printing, so that the sentence can be ours
    warnings.showwarning = lambda message, *_: print(f"Warning: {message}", file=sys.stderr)
    logging.raiseExceptions = False  # a reader who has left, as head does, must not stop the training or be shouted at
    try:
        with signals():
            _check_working_folder()
            _check_memory()
            if {"--help", "-h"} & set(arguments):
                print(text.replace("{choices}", choices()))
            elif task is train and "sweep=optuna" in arguments:
                from trainer.search import search

                words = [word for word in arguments if word not in ("-m", "--multirun")]
                check_overrides([word for word in words if not word.startswith("-")], options())
                search(words, composed, single)
            elif any(argument.startswith("-") for argument in arguments):
                flags(task, config_name, arguments)
                hydra.main(version_base="1.3", config_path=str(config_folder()), config_name=config_name)(task)()
            else:
                single(task, config_name, arguments)
    except TrainerError as error:
        _stop(error.exit_code, str(error))
    except (HydraException, OmegaConfBaseException) as error:
        _stop(2, explain(error, config_name))
    except (YAMLError, UnicodeDecodeError) as error:
        _stop(2, unreadable(error))
    except BrokenPipeError:
        pass  # whoever read this has read enough
    except OSError as error:
        _stop(3, f"{error.filename or 'A file'} cannot be read or written: {error.strerror or error}.")
    except MemoryError as error:
        short = first_line(error) or "The memory does not suffice"
        _stop(3, f"{short}. Free some, raise its limit (ulimit -v), or take less at once by batch_size.")
    except ImportError as error:
        reason = first_line(error.__cause__ or error)
        _stop(3, f"{reason}. Install anew; if a limit of memory is the cause, raise it (ulimit -v).")
    except Terminated as error:
        _stop(error.code, error.sentence)
    except KeyboardInterrupt:  # in a thread of another program, which hears no signals
        _stop(130, "Interrupted.")
    finally:
        _flush()


def _check_working_folder() -> None:
    try:
        os.getcwd()
    except FileNotFoundError:
        raise FileError("The working folder no longer exists. Change to one that does.") from None


def _flush() -> None:
    """Writes out what was printed; what nobody reads any more is dropped, or Python would complain at its end."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        except (AttributeError, ValueError):  # closed before the program began
            continue


def flags(task: Task, config_name: str, arguments: list[str]) -> None:
    """Refuses a wrong flag in a sentence, and makes our sweeper known to Hydra, which checks the jobs of a sweep."""

    def refuse(message: str) -> NoReturn:
        raise ConfigError(
            f"{message[0].upper()}{message[1:]}. Keys take no dashes, as in epochs=10; see --help and --hydra-help."
        )

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    given = parser.parse_args(arguments)
    check_flags(given)
    if not given.shell_completion:
        check_overrides(given.overrides, options())
    if given.multirun and task is train:
        from trainer.sweep.plugins import register

        register()


def single(task: Task, config_name: str, overrides: list[str]) -> None:
    """Composes the configuration once and calls the task with it."""
    check_overrides(overrides, options())
    resumed = [override for override in overrides if override.startswith("resume=")]
    if task is train and resumed:
        go_on(resumed, [override for override in overrides if override not in resumed])
        return
    config = composed(config_name, overrides)
    folder = str(config.hydra.run.dir)
    check_folder("hydra.run.dir", folder)
    _set_up(config, folder)
    task(config)


def go_on(resumed: list[str], overrides: list[str]) -> None:
    """Goes on with the run in the folder that resume= names, with its own configuration and epochs of the overrides.

    Other overrides are refused, with the difference, where they would change it.
    """
    folder = OverridesParser.create().parse_overrides(resumed)[-1].value()
    if not isinstance(folder, str) or not folder:
        raise ConfigError("resume= needs the folder of a run, as in resume=outputs/2026-01-31/12-00-00-000000.")
    saved = read_record(Path(folder))["config"]
    chosen = []
    for key, known in options().items():  # so that the overrides find the keys of the options that the run has
        node = saved.get(key)
        named = isinstance(node, dict) and "name" in node
        given = [node["name"]] if named else list(node) if isinstance(node, dict) else []
        if given and all(isinstance(name, str) and name in known for name in given):
            chosen.append(f"{key}={given[0]}" if len(given) == 1 else f"{key}=[{','.join(given)}]")
    config = composed("config", [*chosen, *overrides])
    recorded = OmegaConf.create(saved)
    for override in OverridesParser.create().parse_overrides(overrides):
        if not override.key_or_group.startswith("hydra"):
            value = OmegaConf.select(config, override.key_or_group)
            OmegaConf.update(recorded, override.key_or_group, value, merge=False)
    _set_up(config, folder)
    settings = read_settings(recorded, Settings)
    with held():
        from trainer.run import resume

    unresolved = OmegaConf.to_container(recorded, resolve=False)
    resume(settings, Path(folder), recorded=unresolved)  # type: ignore[arg-type]


def _set_up(config: DictConfig, folder: str) -> None:
    """Takes Hydra's share out of a composed configuration: the folder of the run, and its log."""
    with open_dict(config):
        config.hydra.runtime.output_dir = os.path.abspath(folder)
        HydraConfig.instance().set_config(config)
        configure_log(config.hydra.job_logging, config.hydra.verbose)
        del config.hydra


def composed(config_name: str, overrides: list[str]) -> DictConfig:
    """A configuration of conf/ with overrides from the command line, Hydra's own node included."""
    with hydra.initialize_config_dir(str(config_folder()), version_base="1.3"):
        return hydra.compose(config_name, overrides, return_hydra_config=True)


def choices() -> str:
    """The groups of conf/ and their options, a line each."""
    return "\n".join(f"  {group:<12} {', '.join(names)}" for group, names in options().items())


def explain(error: Exception, config_name: str) -> str:
    """Hydra's and OmegaConf's errors in our words: the value, the reason and the way out."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        if group == "hydra/launcher" and name in LAUNCHERS:
            return f"hydra/launcher={name} needs pip install 'softmax-trainer[{LAUNCHERS[name]}]'."
        try:
            choose(group, error.options, name)
        except ConfigError as sentence:
            return str(sentence)
    if isinstance(error, OverrideParseException):
        return (
            f"{error.override!r} cannot be read as key=value. Put a value with other than plain letters in two "
            f"kinds of quotes, as in 'data.path=\"größe.csv\"'; see --help."
        )
    unknown = re.match(r"Could not override '([^']*)'", str(error))
    if unknown:
        key = unknown[1]
        near = _neighbours(key, config_name)
        return f"There is no key {key}{suggest(key, near)} " + (
            f"Its neighbours: {listed(near)}." if near else "See --cfg job."
        )
    cause = error.__cause__
    detail = f" ({first_line(cause)})" if isinstance(cause, OmegaConfBaseException) else ""
    return f"{first_line(error)}{detail}. See --help, or --cfg job for all keys."


def unreadable(error: YAMLError | UnicodeDecodeError) -> str:
    """What is wrong with a file of conf/, with its line."""
    if isinstance(error, MarkedYAMLError) and error.problem_mark is not None:
        return f"{error.problem_mark.name}:{error.problem_mark.line + 1}: {error.problem}. Correct the file."
    for path in sorted(config_folder().rglob("*.yaml")):  # the error does not name it
        try:
            path.read_text(encoding="utf-8")
        except UnicodeDecodeError as wrong:
            line = wrong.object.count(b"\n", 0, wrong.start) + 1
            return f"{path}:{line}: not UTF-8. Save the file as UTF-8."
    return f"{first_line(error)}. Correct the file."


def _neighbours(key: str, config_name: str) -> list[str]:
    """The keys of the default configuration in the same group as a wrong one, in dots."""
    group = key.rpartition(".")[0]
    config = composed(config_name, [])
    node = OmegaConf.select(config, group) if group else config
    names = [str(name) for name in node] if isinstance(node, DictConfig) else []
    return [f"{group}.{name}" if group else name for name in names if name not in ("name", "hydra")]


if __name__ == "__main__":
    main()
