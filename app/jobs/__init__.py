"""The job queue, and the scheduler of periodic jobs."""
