"""Threads, lent cores, the heap and recorded graphs: how a step is run, not what it computes."""
