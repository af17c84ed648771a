"""Name what weights are exported as. Nothing is imported, so that a command reads its options at once."""

LAYOUT_NAMES = ("basicsr", "esrgan", "old")  # of tensors; layouts.py makes each
TARGET_SUFFIXES = (".safetensors", ".pth", ".onnx", ".pt", ".pt2", ".param", ".xml")  # export.py writes each
