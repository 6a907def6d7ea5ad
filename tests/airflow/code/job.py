"""The job of the tests: does what its params say."""

import json
import os
import sys
import time
from pathlib import Path

params = json.loads(Path(os.environ["MLCTL_PARAMS_FILE"]).read_text())
if "note" in params:  # one line for each start, so that a test can count them
    with Path(params["note"]).open("a") as note:
        note.write(os.environ["MLCTL_RUN"] + "\n")
print("say:", params.get("say", "nothing"), flush=True)
for name in params.get("show", "").split():
    print(name, os.environ.get(name), flush=True)
while "gate" in params and not Path(params["gate"]).exists():
    time.sleep(0.05)
if "model" in params.get("leave", ""):
    Path(os.environ["MLCTL_OUTPUT_MODEL"], "model.txt").write_text(params.get("say", ""))
with Path(os.environ["MLCTL_METRICS_FILE"]).open("a") as metrics:
    metrics.write(json.dumps({"name": "score", "value": 0.5}) + "\n")
if params.get("fails", 0) > int(os.environ["MLCTL_RUN"].rpartition("-")[2]):  # the first so many attempts fail
    sys.exit("this attempt fails")
