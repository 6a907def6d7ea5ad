"""Parses a file of DAGs once, as Airflow's DAG processor does: its own function, in a process that has loaded Airflow.

    python parse.py FILE TASKS [MODULE]

What Airflow imports before it forks for a file (what the file imports of `airflow.`) is not in the figure; what the file
imports besides is. With MODULE, which replaces the parse, the figure is that module's import over `airflow.sdk`.
Prints JSON: {"parse_ms", "parse_cpu_ms"} or {"import_ms"}; CPU time says more where others use the machine.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from pathlib import Path


def parse(file: Path, tasks: int) -> dict[str, float]:
    import structlog
    from airflow.dag_processing import processor

    processor._pre_import_airflow_modules(str(file), structlog.get_logger())
    request = processor.DagFileParseRequest(file=str(file), bundle_path=file.parent, bundle_name="bench")
    begin, cpu = time.perf_counter(), time.process_time()
    result = processor._parse_file(request, structlog.get_logger())
    figures = {"parse_ms": (time.perf_counter() - begin) * 1000, "parse_cpu_ms": (time.process_time() - cpu) * 1000}
    found = [len(dag.data["dag"]["tasks"]) for dag in result.serialized_dags] if result else []
    if found != [tasks]:
        raise SystemExit(f"{file}: expected one DAG of {tasks} tasks, got {found}: {result and result.import_errors}")
    return figures


def imported(module: str) -> dict[str, float]:
    # Some of airflow.sdk's names are loaded at their first use; these are what any file of DAGs takes.
    from airflow.sdk import DAG, BaseOperator  # noqa: F401

    begin = time.perf_counter()
    importlib.import_module(module)
    return {"import_ms": (time.perf_counter() - begin) * 1000}


print(json.dumps(imported(sys.argv[3]) if len(sys.argv) > 3 else parse(Path(sys.argv[1]), int(sys.argv[2]))))
