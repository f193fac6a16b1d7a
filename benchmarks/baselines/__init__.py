"""The methods that CoDeQ is compared with, written for any Keras backend.

`masked_model` trains pruned, min-max quantized networks, `pruning` decides
what to prune and when, `optimal_brain` compresses without training.
"""
