"""One call on a machine with an accelerator: what it can do, how fast every agent trains, and training at full budget.

    python -m benchmarks.accelerator pack                        # at home: data and cells into runs/accelerator/carry
    python -m benchmarks.accelerator --minutes 9 --out FOLDER    # there
    python -m benchmarks.accelerator collect FOLDER              # at home: run directories, and what goes along next
    python -m benchmarks.accelerator score                       # at home: evaluate them, and add rows to the table

There, jax, flax and optax are enough. The parts of a call are time-boxed, and everything is written as it comes:

a  the device, and how fast it multiplies matrices, in float32 and in jax's default precision
b  updates a second of every agent at its paper's size, with 1 seed and with 8
c  what it costs that the number of updates in the training loop is an argument of the compiled program
d  training of the cells of benchmarks/tables/accelerator.toml, in their order, until the time is used

benchmarks/README.md says what to carry and how to go on with a second call.
"""
