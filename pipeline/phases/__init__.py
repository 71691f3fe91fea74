"""The five phases, each a function of a job and of the phase before it."""
