"""What was not run on anybody's account is said, never passed over."""

from __future__ import annotations

from typing import Any

import account


def pytest_terminal_summary(terminalreporter: Any) -> None:
    for name in account.missing():
        terminalreporter.write_line(
            f"not run on an account of {name}: {account.variable(name)} names no configuration, see docs/{name}.md"
        )
