# The 10 classes of CIFAR-10; its weights are in the package.
_base_ = '../evidence/hatnet-micro_1xb256-60e_cifar10.py'
