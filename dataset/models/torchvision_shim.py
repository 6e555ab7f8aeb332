"""Lets torchvision, and with it open_clip and timm, be imported beside a torch that its compiled part does not fit.

A PyPI torchvision beside a CPU-only torch cannot load its compiled operators; it only warns of that, but then its
Python part describes the operator `torchvision::nms`, which does not exist, and the import fails. Declaring the two
operators that are described so, `nms` and `qnms`, mends it; nothing here ever calls them.

Import this module before open_clip, timm or torchvision. A torchvision whose compiled part loads is left alone:
declaring first in any case would collide with its own declaration.
"""

import torch

OPERATORS = ("nms", "qnms")
ARGUMENTS = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def declare_missing_operators() -> bool:
    """Make torchvision importable; True if operators had to be declared for it."""
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    else:
        return False
    for operator in OPERATORS:
        torch.library.define(f"torchvision::{operator}", ARGUMENTS)
    import torchvision  # noqa: F401 - so that a failure shows here and not in a stranger's import

    return True


declare_missing_operators()
