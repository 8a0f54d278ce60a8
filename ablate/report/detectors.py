"""Parameters of the detectors in CoaT's Tables 3 and 4: a built backbone, neck and heads by sum.

ablate trains no detectors; their counts follow from the backbone's widths and the standard parts of
MMDetection: FPN with 256 channels, an RPN of 3 anchors, heads for the 80 classes of COCO.

Source: K. He et al., Mask R-CNN, arXiv 1703.06870; Z. Cai and N. Vasconcelos, Cascade R-CNN,
    arXiv 1712.00726.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

Detector = Literal["mask_rcnn", "cascade_mask_rcnn"]

_CHANNELS = 256
_CLASSES = 80
_ANCHORS = 3
_HIDDEN = 1024
_POOLED = 7 * 7 * _CHANNELS


def detector_params(detector: Detector, classifier: int, head: int, widths: Sequence[int]) -> int:
    """Parameters of a detector on a network that was built as a classifier.

    Args:
        detector: which one.
        classifier: parameters of the whole classifier.
        head: those of its head, which the detector does without.
        widths: of the four stages, whose final norms it does without too.
    """
    backbone = classifier - head - 2 * sum(widths)
    return backbone + _neck(widths) + _proposals() + _HEADS[detector]()


def _conv(inputs: int, outputs: int, kernel: int) -> int:
    return inputs * outputs * kernel**2 + outputs


def _linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


def _neck(widths: Sequence[int]) -> int:
    """FPN: a 1x1 convolution for each stage, and a 3x3 one after each sum."""
    lateral = sum(_conv(width, _CHANNELS, 1) for width in widths)
    return lateral + len(widths) * _conv(_CHANNELS, _CHANNELS, 3)


def _proposals() -> int:
    return (
        _conv(_CHANNELS, _CHANNELS, 3)
        + _conv(_CHANNELS, _ANCHORS, 1)
        + _conv(_CHANNELS, 4 * _ANCHORS, 1)
    )


def _outputs() -> int:
    """Classes with background, and a box for each class."""
    return _linear(_HIDDEN, _CLASSES + 1) + _linear(_HIDDEN, 4 * _CLASSES)


def _mask_head() -> int:
    upsampling = _conv(_CHANNELS, _CHANNELS, 2)
    return 4 * _conv(_CHANNELS, _CHANNELS, 3) + upsampling + _conv(_CHANNELS, _CLASSES, 1)


def _mask_rcnn() -> int:
    """One box head of two linear layers, one mask head."""
    return _linear(_POOLED, _HIDDEN) + _linear(_HIDDEN, _HIDDEN) + _outputs() + _mask_head()


def _cascade_mask_rcnn() -> int:
    """Three box heads of four normed convolutions and a linear layer, three mask heads."""
    normed = 9 * _CHANNELS**2 + 2 * _CHANNELS
    box = 4 * normed + _linear(_POOLED, _HIDDEN) + _outputs()
    return 3 * (box + _mask_head())


_HEADS: Mapping[Detector, Callable[[], int]] = {
    "mask_rcnn": _mask_rcnn,
    "cascade_mask_rcnn": _cascade_mask_rcnn,
}
