"""The devices that a file can be made for, one class each."""

from tflite_export.targets.edgetpu import EdgeTpu
from tflite_export.targets.ethos_u.target import ethos_u_targets
from tflite_export.targets.litert import LiteRt
from tflite_export.targets.litert_sparse.target import LiteRtSparse
from tflite_export.targets.target import register_target
from tflite_export.targets.tflm.target import Tflm

for _target in (
    LiteRt(),
    LiteRtSparse(),
    Tflm(),
    EdgeTpu(),
    *ethos_u_targets(),
):
    register_target(_target)
