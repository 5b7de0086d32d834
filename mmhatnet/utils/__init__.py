"""Helpers for all other folders; this file imports neither torch nor mm."""
