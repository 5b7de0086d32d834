_base_ = ['./import_mmhatnet.py', 'mmdet::_base_/default_runtime.py']

# Kept in the configs that trainings write, for mmdetection's own launchers.
custom_imports = dict(imports=['mmhatnet'])
default_hooks = dict(checkpoint=dict(max_keep_ckpts=3, save_best='auto'))
