"""What all stages share: the loop, the work context, processes, metrics and the progress bar.

Invariant: nothing here imports a stage.
"""
