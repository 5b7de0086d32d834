"""Run exported ONNX files: onnxruntime, NumPy, OpenCV and Pillow are enough.

This folder imports nothing else of mmhatnet, so that it can be copied to the
machine on which a model runs.
"""

from .model import OnnxModel

__all__ = ['OnnxModel']
