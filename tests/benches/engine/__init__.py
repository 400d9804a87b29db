"""The parts of `engine.py`: what it measures of a pipeline engine, one file a theme."""
