"""``trainer``, ``trainer train`` and ``python -m trainer``: one training, a sweep, or one that goes on."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from trainer.commands.composing import composed, explained, perform, set_up, single
from trainer.errors import ConfigError
from trainer.runs.config import Settings, options, read_settings
from trainer.runs.interrupts import held
from trainer.runs.outputs import read_record
from trainer.runs.overrides import check_overrides

if TYPE_CHECKING:
    from trainer.runs.training import Result

HELP = """Trains a linear classifier; the output activation, the loss and the gradient strategy are three free choices.

Choices, as choice=option, and choice.key=value for the keys of an option:
{choices}

Plain keys:
  epochs=50            passes over the training data; of a solver (auto, newton, lbfgs, fista) the most iterations
  batch_size=auto      samples a step: 32, and all for a solver; null is all of them at once
  seed=3               data, split and shuffling follow from it; null draws one
  threads=null         null takes every core; the result is the same for any number
  device=cpu           or torch, or torch:cuda:0 for a GPU, by the extra torch
  dtype=float64        or float32: of the features, the parameters and the scores
  test_fraction=0.0    share of the samples held out of everything, and evaluated once, at the end
  valid_fraction=0.2   share of the others held out for validation
  folds=null           5 chooses by cross-validation, without validation rows, among penalty.strength=[1,0.1] or auto
  rule=best            or 1se: the strongest penalty whose mean loss is within a standard error of the best
  standardize=true     features to mean 0 and standard deviation 1 of the training rows
  metrics=[accuracy]   of accuracy, top_k, log_loss, brier, ece, sparsity; quote the brackets
  label_smoothing=0.0  the share of each training target that is spread over the K classes
  class_weight=null    or balanced, or {class: weight}
  reduction=weights    the loss is a mean over the weights, or over the rows
  plots=true           draw curves.png, and boundary.png for two features; in a sweep only where it is written out
  skip_illegal=true    a sweep skips the jobs whose components do not go together; false refuses it for them
  checkpoint=true      keep what resume=... goes on from, once a second at most and at the end
  resume=outputs/...   goes on with the run in this folder, with the configuration that it began with; epochs may grow

data.path is a file, a folder, a pattern as in 'data.path=flowers/*.csv', or a list as in 'data.path=[a.csv,b.csv]';
here, or behind s3://, gs://, https:// or http://.

Examples:
  python -m trainer activation=softmax loss=ce
  python -m trainer data=digits optimizer=adam schedule=cosine epochs=30
  python -m trainer data=file data.path=flowers.csv data.target=species penalty=l2 penalty.strength=0.01
  python -m trainer -m loss=ce,brier gradient=fused,jacobian optimizer.lr=0.01,0.1

Other commands, each with a --help of its own: trainer predict, evaluate, explain, probe, report, sweep, check,
pairs.

--cfg job prints the configuration of a run without running it, -m sweeps over lists with commas;
--hydra-help lists the flags of Hydra, and eval "$(trainer -sc install=bash)" completes all of this by the Tab key."""


def main(words: list[str]) -> None:
    """The command ``trainer``, and ``python -m trainer``."""
    resumed = [word for word in words if word.startswith("resume=")]
    if "sweep=optuna" in words and not {"--help", "-h"} & set(words):
        with explained("config", words):
            from trainer.sweeps.search import search

            flags = ("-m", "--multirun")
            search([word for word in words if word not in flags], composed, partial(single, train, "config"))
    elif resumed and not any(word.startswith("-") for word in words):
        with explained("config", words):
            check_overrides(words, options())
            go_on(resumed, [word for word in words if word not in resumed])
    elif {"--multirun", "-m"} & set(words) and not any(
        word.startswith(("-h", "--h", "hydra/launcher=")) for word in words
    ):
        from trainer.sweeps.pool import warm

        with warm(words):  # the server of the workers imports while Hydra composes
            perform(train, "config", HELP, words, _register)
    else:
        perform(train, "config", HELP, words, _register)


def train(config: DictConfig) -> "Result | None":
    """One run, in the folder that the configuration of Hydra names; it is made once nothing can be refused any more."""
    settings = read_settings(config, Settings)
    with held():
        from trainer.runs.run import run  # after the first checks: a wrong key is refused before numpy is loaded

    unresolved = OmegaConf.to_container(config, resolve=False)  # ${oc.env:SECRET} stays unread in what is kept
    return run(settings, Path(HydraConfig.get().runtime.output_dir), recorded=unresolved)  # type: ignore[arg-type]


def _register(overrides: list[str]) -> list[str]:
    """Makes our sweeper known to Hydra, which checks the jobs of a sweep; returns its overrides as Hydra takes them."""
    from trainer.sweeps.plugins import register, spread

    register()
    return spread(overrides)


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
    with explained("config", [*chosen, *overrides]):
        config = composed("config", [*chosen, *overrides])
    recorded = OmegaConf.create(saved)
    for override in OverridesParser.create().parse_overrides(overrides):
        if not override.key_or_group.startswith("hydra"):
            value = OmegaConf.select(config, override.key_or_group)
            OmegaConf.update(recorded, override.key_or_group, value, merge=False)
    set_up(config, folder)
    settings = read_settings(recorded, Settings)
    with held():
        from trainer.runs.run import resume

    unresolved = OmegaConf.to_container(recorded, resolve=False)
    resume(settings, Path(folder), recorded=unresolved)  # type: ignore[arg-type]
