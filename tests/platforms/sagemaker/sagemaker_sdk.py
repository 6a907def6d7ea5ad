"""Runs one job in SageMaker's own local mode, as its SDK has it; by the environment that has the SDK (locks/sagemaker-local.txt).

python sagemaker_sdk.py Training|Processing <REQUEST      # CreateTrainingJob's parameters, or CreateProcessingJob's, in JSON
"""

from __future__ import annotations

import json
import sys

from sagemaker.core.local.local_session import LocalSession

QUIET = {"SchemaVersion": "1.0", "SageMaker": {"PythonSDK": {"Modules": {"TelemetryOptOut": True}}}}
"""It would tell AWS of each job."""


def main(kind: str) -> None:
    client = LocalSession(sagemaker_config=QUIET).sagemaker_client
    create = {"Training": client.create_training_job, "Processing": client.create_processing_job}
    create[kind](**json.load(sys.stdin))


if __name__ == "__main__":
    main(sys.argv[1])
