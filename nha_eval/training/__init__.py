"""Training on Transformers' Trainer: what all trainings here share. What is learnt is the caller's: a module that takes a batch
and gives a loss, and the names of what is trained of it.
"""
