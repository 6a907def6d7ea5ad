"""What is found by name: mlctl's own without reading entry points, a stranger's by its own."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlctl import backend, plugins
from mlctl.backends.local import Local


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An installed package that brings a platform, and claims the name of one of mlctl's."""
    made = tmp_path / "acme-1.dist-info"
    made.mkdir()
    (made / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1\n")
    (made / "entry_points.txt").write_text("[mlctl.backends]\nacme = acme:Acme\nlocal = acme:Acme\n")
    (tmp_path / "acme.py").write_text("class Acme: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    plugins._brought.cache_clear()
    yield
    plugins._brought.cache_clear()


def test_a_stranger_is_found(stranger: None) -> None:
    assert plugins.known(plugins.BACKENDS, "acme") and "acme" in backend.names()
    assert plugins.load(plugins.BACKENDS, "acme").__name__ == "Acme"
    assert not backend.wants_root("acme")  # it has no such attribute


def test_a_name_of_our_own_is_our_own(stranger: None) -> None:
    assert plugins.load(plugins.BACKENDS, "local") is Local
    assert "acme" not in plugins.names(plugins.BACKENDS, own=True)


def test_what_nobody_brings_is_not_known() -> None:
    assert not plugins.known(plugins.BACKENDS, "nosuch") and not backend.wants_root("nosuch")


@pytest.mark.parametrize("name", plugins.names(plugins.BACKENDS, own=True))
def test_each_platform_is_where_the_table_says(name: str) -> None:
    found = plugins.load(plugins.BACKENDS, name)
    assert found.name == name and issubclass(found, backend.Base)


@pytest.mark.parametrize("name", plugins.names(plugins.COMMANDS, own=True))
def test_each_group_of_commands_is_where_the_table_says(name: str) -> None:
    assert importlib.util.find_spec(f"mlctl_{name}.command")
