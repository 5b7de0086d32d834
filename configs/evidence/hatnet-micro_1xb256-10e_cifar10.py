# HAT-Net with 2.5 M parameters, small enough to train on a CPU.
_base_ = [
    '../_base_/models/hatnet-micro_cls.py',
    '../_base_/datasets/cifar10_32x32.py',
    '../_base_/schedules/cifar10_muon_10e.py',
    '../_base_/mmpretrain_runtime.py',
]
