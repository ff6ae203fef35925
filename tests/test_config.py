from dataclasses import asdict, fields
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from trainer.chain.activations import ACTIVATIONS
from trainer.chain.losses import LOSSES
from trainer.chain.strategies import GRADIENTS
from trainer.data.sources import SOURCES
from trainer.errors import OTHER_NAMES, ConfigError
from trainer.objective.device import CHOICES as DEVICES
from trainer.objective.penalties import PENALTIES
from trainer.optimizers import OPTIMIZERS, SCHEDULES
from trainer.optimizers.probing import PROTOCOLS
from trainer.runs.callbacks.registry import CALLBACKS
from trainer.runs.config import Settings, read_settings
from trainer.runs.experiments import EXPERIMENTS
from trainer.runs.parts import assemble
from trainer.runs.schema import build, structured

CONF = Path(__file__).parents[1] / "conf"
REGISTRIES = {
    "activation": ACTIVATIONS,
    "loss": LOSSES,
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "penalty": PENALTIES,
    "data": SOURCES,
    "experiment": EXPERIMENTS,
    "protocol": PROTOCOLS,
}
OPTIONS = [(group, path.stem) for group in REGISTRIES for path in sorted((CONF / group).glob("*.yaml"))]


def composed(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", list(overrides))


def yaml_of(group, option):
    return OmegaConf.to_container(OmegaConf.load(CONF / group / f"{option}.yaml"))


@pytest.mark.parametrize("group", [*REGISTRIES, "gradient"])
def test_every_registered_name_has_a_yaml_and_every_yaml_a_registered_name(group):
    names = GRADIENTS if group == "gradient" else REGISTRIES[group]
    assert {path.stem for path in (CONF / group).glob("*.yaml")} == set(names)
    assert all(yaml_of(group, name)["name"] == name for name in names)


def test_every_callback_has_a_yaml():
    assert {path.stem for path in (CONF / "callbacks").glob("*.yaml")} == {"none", *CALLBACKS}


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_yaml_builds_and_states_the_defaults_of_its_class(group, option):
    node = yaml_of(group, option)
    if "???" in node.values():
        node = {key: "somewhere" if value == "???" else value for key, value in node.items()}
    component = build(group, REGISTRIES[group], node)
    assert {f.name for f in fields(component)} == set(node) - {"name"}
    given = {key: "somewhere" for key in ("path",) if key in node}
    assert component == REGISTRIES[group][option](**given)


def test_the_root_yaml_states_the_defaults_of_the_root_schema():
    settings = read_settings(composed(), Settings)
    groups = {key: value for key, value in asdict(settings).items() if isinstance(value, dict)}
    assert settings == Settings(**groups)


@pytest.mark.parametrize(
    "overrides",
    [
        *[[f"{group}={option}"] for group, option in OPTIONS if group in ("optimizer", "schedule", "experiment")],
        *[[f"penalty={name}", "optimizer=fista"] for name in PENALTIES],
        *[[f"data={name}", *(["data.path=x.csv"] if name == "file" else [])] for name in SOURCES],
        *[[f"gradient={name}"] for name in GRADIENTS],
        ["callbacks=early_stopping", "callbacks.early_stopping.patience=3"],
        ["activation=log_softmax", "loss=nll"],
        ["activation=sigmoid", "loss=bce"],
        ["activation=identity", "loss=squared_error"],
        ["activation.temperature=2", "loss=brier"],
    ],
    ids=" ".join,
)
def test_every_choice_composes_and_assembles(overrides):
    parts = assemble(read_settings(composed(*overrides), Settings))
    assert parts.strategy in GRADIENTS


def test_each_other_name_of_the_field_means_a_word_of_ours():
    words = {*OmegaConf.load(CONF / "config.yaml"), *(path.stem for path in CONF.glob("*/*.yaml"))}
    words.update(key for group, option in OPTIONS for key in yaml_of(group, option))
    words.update(DEVICES)
    for name, meanings in OTHER_NAMES.items():
        assert set(meanings.split()) <= words
        assert name == name.lower().replace("-", "_")


NODE = {"name": "sgd", "lr": 0.1}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"name": "sdg"},
            r"optimizer=sdg is not known; did you mean sgd\? Choices: adam, adamw, auto, fista, lbfgs, newton, sgd\.",
        ),
        ({"name": None}, "optimizer=null is not known"),
        ({"lerning_rate": 1}, r"no key optimizer\.lerning_rate; did you mean lr\? Its keys: lr, momentum, nesterov"),
        ({"lr": "0.1"}, r"optimizer\.lr must be of type float, got '0\.1' of type str"),
        ({"lr": "nan"}, "of type float, got 'nan' of type str"),
        ({"lr": True}, "of type float, got True of type bool"),
        ({"lr": None}, "of type float, got None"),
        ({"lr": [0.1]}, r"of type float, got \[0\.1\] of type list"),
        ({"nesterov": 1}, "of type bool, got 1 of type int"),
        ({"nesterov": "yes"}, "of type bool, got 'yes' of type str"),
        ({"_target_": "os.system"}, "has no key optimizer._target_"),
    ],
)
def test_a_wrong_name_key_or_type_is_a_sentence(change, words):
    with pytest.raises(ConfigError, match=words):
        build("optimizer", OPTIMIZERS, NODE | change)


def test_an_integer_may_stand_for_a_float_and_becomes_one():
    lr = build("optimizer", OPTIMIZERS, NODE | {"lr": 1}).lr
    assert (lr, type(lr)) == (1.0, float)


ROOT = {group: {} for group in ("activation", "loss", "gradient", "optimizer", "schedule", "penalty", "data")}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"epochs": 2.5}, "epochs must be of type int, got 2.5 of type float"),
        ({"epochs": -1}, "epochs must be at least 0, got -1"),
        ({"batch_size": True}, "batch_size must be of type int | str | None, got True of type bool"),
        ({"batch_size": 0}, "batch_size must be at least 1, or null for all samples, or auto, got 0"),
        ({"seed": -1}, "seed must be at least 0, or null to draw one, got -1"),
        ({"seed": 1.0}, "seed must be of type"),
        ({"threads": 0}, "threads must be at least 1"),
        ({"dtype": "float16"}, "dtype=float16 is not known; did you mean float"),
        ({"valid_fraction": 1.0}, "valid_fraction must be at least 0 and less than 1"),
        ({"valid_fraction": float("nan")}, "valid_fraction must be at least 0"),
        ({"label_smoothing": 1.0}, "label_smoothing must be at least 0 and less than 1, got 1.0"),
        ({"label_smoothing": -0.1}, "label_smoothing must be at least 0"),
        ({"reduction": "row"}, "reduction=row is not known; did you mean rows"),
        ({"class_weight": "balance"}, "class_weight must be null, balanced or {class: weight}, got balance"),
        ({"class_weight": {"oak": -1}}, "class_weight.oak must be a finite number of at least 0, got -1"),
        ({"class_weight": {"oak": True}}, "class_weight.oak must be a finite number"),
        ({"class_weight": {0: float("inf")}}, "class_weight.0 must be a finite number"),
        ({"class_weight": 2.0}, r"class_weight must be of type dict\[Any, Any\] .* got 2.0 .* Leave it out for null\."),
        ({"rule": -1}, r"rule must be of type str, got -1 of type int\. Leave it out for best\."),
        ({"metrics": "ece"}, r"metrics must be of type list\[str\], got 'ece' of type str\. Write metrics=\[ece\]\."),
        ({"experiment": "question"}, "experiment must be of type"),
        ({"lerning_rate": 1}, "There is no key lerning_rate"),
    ],
)
def test_the_plain_keys_are_checked(change, words):
    with pytest.raises(ConfigError, match=words):
        structured("", Settings, ROOT | change)


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("metrics=[accuracy,ece]", ["accuracy", "ece"]),
        ("metrics=[]", []),
        ("class_weight=balanced", "balanced"),
        ("class_weight={setosa:2,virginica:0.5}", {"setosa": 2, "virginica": 0.5}),
        ("class_weight={0:2}", {0: 2}),
        ("class_weight=null", None),
        ("label_smoothing=0", 0.0),
    ],
)
def test_lists_and_mappings_are_read_from_the_command_line(override, value):
    assert getattr(read_settings(composed(override), Settings), override.partition("=")[0]) == value


def test_a_missing_key_is_named():
    with pytest.raises(ConfigError, match=r"data\.path is missing; give it as data\.path=\.\.\."):
        build("data", SOURCES, {"name": "file"})
    with pytest.raises(ConfigError, match=r"data\.path cannot be read"):
        read_settings(composed("data=file"), Settings)


@pytest.mark.parametrize("seed", [0, 2**70, None])
def test_any_non_negative_seed_is_accepted(seed):
    assert structured("", Settings, ROOT | {"seed": seed}).seed == seed
