"""Drills: a real fault in a copy of the installation, and whether it heals in time, by itself and whole.

A drill is a YAML file of this folder; `drill.py` says what it may hold. `run.py` runs one, in a place of its
own (`world.py`) that has the catalog and the settings of the user, some of their data, and nothing else of
theirs.
"""
