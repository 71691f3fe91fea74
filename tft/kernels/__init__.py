"""The operations a step spends its time on, each with its reference in torch and its autograd function."""
