"""Measure and show models; training and inference do not import them."""
