"""Make torchvision importable, and with it open_clip and timm, when its compiled part does not fit the installed torch.

A torchvision from PyPI with a CPU-only torch cannot load its compiled operators. It only warns about that, but then its
Python part refers to the missing operator `torchvision::nms`, and the import fails. Declaring the two operators that it
refers to, `nms` and `qnms`, repairs the import; nothing here calls them.

Import this module before open_clip, timm or torchvision. If torchvision's compiled part loads, nothing is declared,
because that would collide with its own declaration.
"""

import torch

OPERATORS = ("nms", "qnms")
ARGUMENTS = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def declare_missing_operators() -> bool:
    """Make torchvision importable; return True if operators had to be declared."""
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    else:
        return False
    for operator in OPERATORS:
        torch.library.define(f"torchvision::{operator}", ARGUMENTS)
    import torchvision  # noqa: F401 - a failure should show here, not in another module's import

    return True


declare_missing_operators()
