"""What ends a worker, or a job, before its time; messages are one sentence that names the remedy."""


class WorkerError(Exception):
    """The root; the command prints the message and exits with 1."""


class CannotWork(WorkerError):
    """This worker cannot do this kind of work at all (a model is missing, the recipe is another's): its jobs go back
    untried, and it ends."""


class Stopped(WorkerError):
    """The worker was asked to stop; what it holds goes back untried."""
