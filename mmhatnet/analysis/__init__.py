"""Measuring and showing models; training and inference import none of it."""
