"""The job of the DAGs that `dag.test()` runs: shows and leaves what its params say."""

import json
import os
from pathlib import Path

params = json.loads(Path(os.environ["MLCTL_PARAMS_FILE"]).read_text())
for name in params["show"].split():
    print(name, os.environ.get(name), flush=True)
if params["leave"]:
    Path(os.environ["MLCTL_OUTPUT_MODEL"], "model.txt").write_text(params["say"])
