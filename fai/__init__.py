"""The volunteer's side: join a coordinator, train, hand in, earn. Imports neither configuration nor network."""

from importlib.metadata import version

__version__ = version("fai")
