"""What all stages share: the loop, the context of a unit of work, processes, metrics and the progress bar.

It imports no stage.
"""
