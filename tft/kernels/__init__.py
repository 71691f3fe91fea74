"""The operations that take most of a step's time, each with its autograd function and its reference in torch."""
