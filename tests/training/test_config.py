"""Configurations: every key has a default, nothing unknown or unbuilt passes, and a document loads to itself."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from budjoule.energy.errors import UsageError
from budjoule.training.config.config import load_config, parse_override, presets
from budjoule.training.config.config_keys import KEYS


def test_empty_document_has_a_value_for_every_key() -> None:
    document = load_config({}).document
    assert {section: set(keys) for section, keys in KEYS.items()} == {
        section: set(keys) for section, keys in document.items() if isinstance(keys, dict)
    }


def test_quantities_read_units_and_bare_numbers_alike() -> None:
    spelt = load_config({"budget": {"energy": "2 kJ", "horizon": "1 h"}, "schedule": {"slot": "1 min"}})
    bare = load_config({"budget": {"energy": 2000, "horizon": 3600.0}, "schedule": {"slot": 60}})
    assert (spelt.budget, spelt.schedule, spelt.slots) == (bare.budget, bare.schedule, 60)


def test_none_lifts_a_limit() -> None:
    config = load_config({"budget": {"energy": "none"}, "stop": {"rounds": "none", "target_accuracy_frac": "none"}})
    assert config.budget.energy_j == config.stop.rounds == config.stop.target_accuracy_frac == math.inf


@pytest.mark.parametrize(
    ("document", "nearest"),
    [
        ({"fleet": {"client": 3}}, "fleet.clients"),
        ({"server": {"learning_rat": 1.0}}, "server.learning_rate"),
        ({"flet": {"clients": 3}}, "fleet"),
        ({"clients": 3}, "fleet.clients"),
        ({"sed": 3}, "seed"),
        ({"preset": "fedbuf"}, "fedbuff"),
    ],
)
def test_unknown_key_names_the_nearest(document: dict[str, object], nearest: str) -> None:
    with pytest.raises(UsageError, match=f"did you mean '{nearest}'"):
        load_config(document)


@pytest.mark.parametrize(
    "override",
    [
        "task.data=text:folder",
        "task.model=text",
    ],
)
def test_unbuilt_parts_are_refused_with_the_reason(override: str) -> None:
    with pytest.raises(UsageError, match="is not built yet"):
        load_config({}, overrides=[override])


@pytest.mark.parametrize(
    "override",
    [
        "fleet.clients=0",
        "fleet.clients=true",
        "fleet.clients=2.5",
        "fleet.straggler_frac=1.5",
        "fleet.straggler_slowdown=0.5",
        "fleet.straggler_slowdown=[20, 5]",
        "training.learning_rate_decay=1.5",
        "fleet.dropout_frac=1",
        "fleet.arrival=none",
        "budget.upload=20 mB",
        "conditions.hours=9:75-10",
        "fleet.device={ a = 0.7 }",
        "budget.energy=-1",
        "budget.energy=4 kW",
        "budget.energy=[1]",
        "budget.horizon=none",
        "training.learning_rate=nan",
        "training.optimizer=lion",
        "update.compress=[1]",
        "update.error_feedback=1",
        "server.method=fedprox",
        "stop.rounds=0",
        "stop.target_accuracy_frac=2",
        "seed=-1",
        "seed=true",
    ],
)
def test_values_out_of_range_name_the_key(override: str) -> None:
    with pytest.raises(UsageError, match=override.split("=")[0].replace(".", r"\.")) as error:
        load_config({}, overrides=[override])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("override", ["fleet.clients", "=3", "a.b.c=3", "fleet.=3"])
def test_malformed_overrides_are_refused(override: str) -> None:
    with pytest.raises(UsageError, match="cannot read --set"):
        parse_override(override)


def test_later_layers_win_and_the_preset_loses_to_the_file() -> None:
    document = {"preset": "fedbuff", "schedule": {"policy": "random"}, "fleet": {"clients": 3}}
    config = load_config(document, overrides=["fleet.clients=5", {"fleet": {"clients": 7}}], seed=9)
    assert (config.server.method, config.schedule.policy, config.fleet.clients, config.seed) == (
        "fedbuff",
        "random",
        7,
        9,
    )
    assert config.update.compress == ()


@pytest.mark.parametrize("name", [None, *presets()])
def test_a_document_loads_to_itself(name: str | None) -> None:
    config = load_config({} if name is None else {"preset": name})
    again = load_config(json.loads(json.dumps(dict(config.document))))
    assert again.document == config.document
    assert again == config


def test_staleness_defaults_to_the_methods_own_and_an_explicit_one_wins() -> None:
    assert load_config({"server": {"method": "fedbuff"}}).server.staleness == "polynomial"
    assert load_config({"server": {"method": "fedavg"}}).server.staleness == "constant"
    assert load_config({}).server.staleness == "polynomial"
    assert load_config({"server": {"method": "fedbuff", "staleness": "constant"}}).server.staleness == "constant"
    # what a preset says of its own method is not said of another
    of = {"preset": "budjoule", "server": {"method": "ftte-style"}}
    assert load_config(of).server.staleness == "age-variance"
    assert load_config({"preset": "fedavg"}, overrides=["server.method=fedbuff"]).server.staleness == "polynomial"
    assert load_config({"preset": "ftte-style"}).server.staleness == "age-variance"


@pytest.mark.parametrize("document", [{"preset": ["budjoule"]}, {"server": {"method": ["fedavg"]}}])
def test_a_list_for_a_name_is_refused(document: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        load_config(document)


@pytest.mark.parametrize("content", ["[fleet", "\xff\xfe"])
def test_a_file_that_is_no_toml_is_one_line(tmp_path: Path, content: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(UsageError, match=r"bad\.toml") as error:
        load_config(path)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nope\.toml: No such file"):
        load_config(tmp_path / "nope.toml")


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[2] / "examples").glob("*.toml")), ids=lambda path: path.name
)
def test_examples_load_and_say_the_same_when_written_out(path: Path) -> None:
    config = load_config(path)
    assert load_config(config.document) == replace(config, name="run")
