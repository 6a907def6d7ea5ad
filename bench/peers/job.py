"""The job that notes when it began and ended, as `python -I -S job.py FILE`: Python's shortest start and end."""

import posix
import sys
import time

started = time.monotonic_ns()
with open(sys.argv[1], "w") as file:  # noqa: PTH123  (pathlib is dear to import)
    file.write(f"{started} {time.monotonic_ns()}")
posix._exit(0)
