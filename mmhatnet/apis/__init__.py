"""Models by name and predictions, for Python, timm and the hubs."""

from .inference import get_inferencer, predict
from .zoo import get_model, list_models

__all__ = ['get_inferencer', 'get_model', 'list_models', 'predict']
