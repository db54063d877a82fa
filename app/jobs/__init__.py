"""The job queue and the scheduler."""
