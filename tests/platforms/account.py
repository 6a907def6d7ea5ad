"""An account of yours, for the contract of all platforms: MLCTL_TEST_SAGEMAKER=mlctl.yaml names a configuration whose
target `sagemaker` reaches it; the same for the others.

A platform joins by tests/platforms/NAME/NAME_account.py, whose `Account(target, home)` is the contract's harness.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import standins
from mlctl import config
from mlctl.testing import Harness


def variable(name: str) -> str:
    """The variable that names the configuration for a platform."""
    return f"MLCTL_TEST_{name.upper()}"


GIVEN: Mapping[str, Path] = {
    name: Path(os.environ[variable(name)]).absolute() for name in standins.MANAGED if os.environ.get(variable(name))
}
"""Platform -> configuration; read when this is imported, as no test sees a variable of mlctl's."""


def missing() -> list[str]:
    """The platforms of which no account was given."""
    return [name for name in standins.MANAGED if name not in GIVEN]


def harness(name: str, home: Path) -> Harness:
    """The contract's view of the account. Raises InvalidConfig for a file that can't be read or has no such target."""
    target = config.load(file=GIVEN[name]).target(name)
    folder = Path(__file__).parent / name
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    made: Harness = importlib.import_module(f"{name}_account").Account(target, home)
    return made
