"""mlctl in Jenkins: what the steps of the shared library run on an agent, and what readies a controller for them.

The Groovy side (vars/, src/, resources/) is thin: each step hands its arguments to `mlctl jenkins step` as JSON, and
gets JSON back.
"""
