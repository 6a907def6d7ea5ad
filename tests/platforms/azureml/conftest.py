from __future__ import annotations

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("azure") and find_spec("azure.ai") else ["*.py"]
