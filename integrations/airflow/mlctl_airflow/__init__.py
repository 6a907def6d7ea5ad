"""mlctl in Apache Airflow: an operator for each kind of job, a deferrable wait, a connection type, and `@task.mlctl`.

    from mlctl_airflow import MlctlProcessOperator, MlctlTrainOperator

    data = MlctlProcessOperator(task_id="data", job="jobs/process.yaml")
    train = MlctlTrainOperator(task_id="train", job="jobs/train.yaml", inputs={"data": data.output["data"]})

Airflow reads this module whenever it starts, to learn what the provider brings, so it imports nothing; each name of
operators.py is imported when it is first used.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as type checkers take it; typing itself costs more than the rest of this module
if TYPE_CHECKING:
    from typing import Any


def get_provider_info() -> dict[str, Any]:
    """What Airflow shows of this package, and where it finds its parts: the entry point `apache_airflow_provider`."""
    return {
        "package-name": "mlctl",
        "name": "mlctl",
        "description": "One job file. Any platform. Any orchestrator.",
        "connection-types": [
            {
                "connection-type": "mlctl",
                "hook-name": "mlctl",
                "hook-class-name": "mlctl_airflow.connections.MlctlHook",
                "ui-field-behaviour": {
                    "hidden-fields": ["host", "schema", "port", "login", "password", "extra"],
                    "placeholders": {"config": "/opt/airflow/mlctl.yaml", "profile": "prod", "target": ""},
                },
                "conn-fields": {
                    "config": _text("Configuration", "The platform team's mlctl.yaml, as the workers see it."),
                    "profile": _text("Profile", "Which of its profiles; empty: the one it names itself."),
                    "target": _text("Target", "One target for every job; empty: the profile's rules choose."),
                },
            }
        ],
        "extra-links": ["mlctl_airflow.operators.RunLink"],
        "task-decorators": [{"name": "mlctl", "class-name": "mlctl_airflow.decorators.mlctl_task"}],
        "config": {
            "mlctl": {
                "description": "mlctl's operators.",
                "options": {
                    "deployment": {
                        "description": "A name of this Airflow that no other has; part of every run's key. Set it where "
                        "two Airflows with the same DAGs use one account of a platform.",
                        "type": "string",
                        "version_added": "0.1.0",
                        "example": "staging",
                        "default": "",
                    }
                },
            }
        },
    }


def _text(label: str, description: str) -> dict[str, Any]:
    return {"label": label, "description": description, "schema": {"type": ["string", "null"]}}


def __getattr__(name: str) -> Any:
    if not name.startswith("Mlctl"):
        raise AttributeError(f"module 'mlctl_airflow' has no attribute '{name}'")
    from . import operators

    return getattr(operators, name)
