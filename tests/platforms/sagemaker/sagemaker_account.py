"""The contract's view of an account of AWS's, by boto3 alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import boto3

from mlctl import backend
from mlctl.backend import Backend, Settings
from mlctl.config import Target
from mlctl.runs import Run
from mlctl.testing import Harness, Native


class Account(Harness):
    """Nothing is broken on purpose: what a fault is, the stand-in shows."""

    patience = 1800.0  # an instance takes minutes

    def __init__(self, target: Target, home: Path) -> None:
        self.settings = Settings(target.name, target.settings, home)
        values = target.settings
        self.samples: Any = {
            "image": {"image": "sklearn==1.4"},
            "python": {"python": "3.11"},
            "outputs.uri": {"outputs": {"model": {"uri": f"s3://{values.get('bucket', 'ml-jobs')}/mlctl-contract"}}},
        }
        self.client = boto3.Session(
            profile_name=values.get("profile"), region_name=values.get("region")
        ).client("sagemaker")  # fmt: skip

    def make(self) -> Backend:
        return backend.load("sagemaker", self.settings)

    def native(self, run: Run) -> Native:
        states = []
        for kind in ("Training", "Processing"):
            for page in self.client.get_paginator(f"list_{kind.lower()}_jobs").paginate(NameContains=run.name):
                found = page[f"{kind}JobSummaries"]
                states += [each[f"{kind}JobStatus"] for each in found if each[f"{kind}JobName"] == run.name]
        return Native(len(states), any(state in ("InProgress", "Stopping") for state in states))
