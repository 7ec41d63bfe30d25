"""The files that run a deployed job: pure functions from the job to texts."""
