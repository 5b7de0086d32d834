_base_ = [
    'mmdet::_base_/datasets/coco_detection.py',
    # For tools/test.py --tta, which mmdetection supports only for boxes.
    'mmdet::retinanet/retinanet_tta.py',
]
