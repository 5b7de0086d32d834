"""Explore models on a web page: see tools/demo_app.py."""
