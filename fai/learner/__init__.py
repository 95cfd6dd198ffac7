"""The learner's side: each stage of making a language model as one command on one machine.

Each module here is a command: `add_arguments(parser)` and `run(arguments)`, which calls one module of ml.
"""
