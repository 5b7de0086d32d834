from .coco2semantic import coco_to_semantic
from .demo import CLASSES, make_demo_data

__all__ = ['CLASSES', 'coco_to_semantic', 'make_demo_data']
