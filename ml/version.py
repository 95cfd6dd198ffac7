"""The version that device and coordinator name themselves by."""

from importlib.metadata import version

VERSION = version("fai")
