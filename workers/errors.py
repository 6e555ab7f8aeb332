"""Exceptions that end a worker or a job early. Each message is one sentence that names the remedy."""


class WorkerError(Exception):
    """The root of all errors here; the command prints the message and exits with 1."""


class CannotWork(WorkerError):
    """This worker cannot do such work at all, for example because a model is missing.

    Its jobs are returned without using up an attempt, and the worker ends.
    """


class Stopped(WorkerError):
    """The worker was asked to stop; its jobs are returned without using up an attempt."""
