"""Packaging lives in pyproject.toml; this file is for tools that still ask for a setup.py."""

from __future__ import annotations

from setuptools import setup

setup()
