"""From a folder of images and labels to a trained model, in one command.

``tools/finetune.py`` is a command over this folder.
"""
