"""PSI/J's `local` executor with `job.wait()`.

Imported and used in the main thread, it is woken by SIGCHLD, and not only by its poll of 100 ms; a signal that comes
while it looks is lost to it, so two jobs at a time can take longer than one after the other. The default launcher,
`single`, is the least it has. Only its work folder is set, to stay out of the home folder.
"""

from __future__ import annotations

from pathlib import Path

from common import drive
from psij import Job, JobExecutor, JobExecutorConfig, JobSpec, JobState

EXECUTOR = JobExecutor.get_instance("local", config=JobExecutorConfig(work_directory=Path.cwd() / "psij"))


def submit(command: list[str]) -> Job:
    job = Job(JobSpec(executable=command[0], arguments=command[1:]))
    EXECUTOR.submit(job)
    return job


def wait(job: Job) -> None:
    status = job.wait()
    if status is None or status.state != JobState.COMPLETED:
        raise SystemExit(f"the job ended as {status}")


drive(submit, wait)
