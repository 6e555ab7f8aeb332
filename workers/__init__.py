"""The stages of the swarm, one module or folder each. A stage claims a job, does the work, and completes the job."""

import dataset.trio_shim  # noqa: F401 - before trio
