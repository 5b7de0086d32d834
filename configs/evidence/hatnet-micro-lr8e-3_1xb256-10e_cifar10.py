# The best learning rate of the search over two epochs.
_base_ = './hatnet-micro_1xb256-10e_cifar10.py'

optim_wrapper = dict(optimizer=dict(lr=8e-3))
