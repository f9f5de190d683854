"""How to find a good genome: reward, mutator, sampler, fitness, loop, finalists, run and command line."""
