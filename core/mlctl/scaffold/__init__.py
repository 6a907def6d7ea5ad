"""What `mlctl init` does: a new project that runs at once, or a job file for a script that is there already.

    create(folder, template, schema=...)    a project, from one of templates()
    adopt(script, schema=...)               a job that runs the script unchanged; describe() and job_yaml() are its two steps

A script is read, never run. Nothing is overwritten, and nothing is left half written.
"""

from __future__ import annotations

from .adopt import adopt
from .introspect import Draft, describe
from .jobfile import job_yaml
from .project import create, templates

__all__ = ["Draft", "adopt", "create", "describe", "job_yaml", "templates"]
